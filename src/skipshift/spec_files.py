"""Settings as plain values and YAML: written, and read back with the first fault named."""

import dataclasses
import os
from pathlib import Path
from typing import Any, TypeVar

from skipshift.errors import SkipshiftError, unreadable
from skipshift.study_specs import StudySpec

Spec = TypeVar("Spec")


def to_plain(spec: object) -> Any:
    """Convert a spec to the dicts, lists and strings of YAML and JSON."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: to_plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, tuple | list):
        return [to_plain(item) for item in spec]
    return os.fspath(spec) if isinstance(spec, Path) else spec


def from_plain(kind: type[Spec], values: object, source: str) -> Spec:
    """Build a spec from plain values; `SkipshiftError` names ``source`` and the first error."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise SkipshiftError(f"{source}: {where + ': ' if where else ''}{reason}") from None


def read_spec(kind: type[Spec], path: Path) -> Spec:
    """Read a spec from a YAML file; relative paths in it stay as written.

    `SkipshiftError` names the file and the first error in it, or the line of characters that cannot
    be shown, such as an escape.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        for token in yaml.scan(text):
            if isinstance(token, yaml.ScalarToken) and not token.value.isprintable():
                raise SkipshiftError(
                    f"{path}: line {token.start_mark.line + 1}: {token.value!r} has characters "
                    f"that cannot be shown; give another text"
                )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unreadable(path, "YAML", error) from None
    return from_plain(kind, values, str(path))


def read_study(path: Path) -> StudySpec:
    """Read a study file as `read_spec` does; relative paths in it start from its folder."""
    spec = read_spec(StudySpec, path)
    training = spec.training
    if training.encoder_weights not in (None, "imagenet"):
        weights = str((path.parent / training.encoder_weights).absolute())
        training = dataclasses.replace(training, encoder_weights=weights)
    return dataclasses.replace(spec, manifest=path.parent / spec.manifest, training=training)
