"""Import of optional packages, with the extra that installs each."""

import importlib
from typing import Any

from skipshift.errors import SkipshiftError


def load_extra(package: str, extra: str) -> Any:
    """Import an optional package; `SkipshiftError` says how to install it if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise SkipshiftError(
            f"{package} is not installed; run pip install 'skipshift[{extra}]'"
        ) from None
