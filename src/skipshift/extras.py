"""Packages that only some formats need, and the extra that brings each."""

import importlib
from typing import Any

from skipshift.errors import SkipshiftError


def load_extra(package: str, extra: str) -> Any:
    """Import a package of an extra; `SkipshiftError` says how to install it where it is absent."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise SkipshiftError(
            f"{package} is not installed; add it with pip install 'skipshift[{extra}]'"
        ) from None
