"""Findings of a check: errors and warnings, as text and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from skipshift.errors import SkipshiftError

SHOWN = 3
"""Number of places that a finding names."""


@dataclass(frozen=True)
class Finding:
    """One fault, or possible fault, of a manifest."""

    severity: Literal["error", "warning"]
    """Errors stop a study, warnings do not."""
    what: str
    """The rule that is broken, in a few words."""
    where: tuple[str, ...]
    """The first `SHOWN` places: files, lines or cases."""
    count: int
    """Number of places."""
    way_out: str
    """What to do about it."""


class CheckError(SkipshiftError):
    """A check ended with errors; ``report`` holds all findings."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


def finding_at(
    severity: Literal["error", "warning"], what: str, where: Iterable[str], way_out: str
) -> list[Finding]:
    """Collect places into a list of one finding; an empty list if there are none."""
    places = list(where)
    if not places:
        return []
    return [Finding(severity, what, tuple(places[:SHOWN]), len(places), way_out)]


def errors_of(findings: Sequence[Finding]) -> list[Finding]:
    """Select the findings that stop a study."""
    return [finding for finding in findings if finding.severity == "error"]


def raise_errors(findings: Sequence[Finding], manifest: Path) -> None:
    """Raise a `SkipshiftError` with the first error, if there is any."""
    errors = errors_of(findings)
    if errors:
        first = errors[0]
        more = f"; {len(errors) - 1} more: skipshift check {manifest}" if errors[1:] else ""
        raise SkipshiftError(f"{manifest}: {first.what}: {first.where[0]}; {first.way_out}{more}")


def summary(findings: Sequence[Finding]) -> str:
    """Count errors and warnings.

    >>> summary([])
    '0 errors, 0 warnings'
    """
    errors = len(errors_of(findings))
    counts = {"error": errors, "warning": len(findings) - errors}
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())


def to_text(findings: Sequence[Finding]) -> str:
    """Format the findings as lines of text, errors first."""
    lines = []
    for finding in sorted(findings, key=lambda finding: finding.severity):
        lines.append(f"{finding.severity}: {finding.what}")
        lines += [f"    {place}" for place in finding.where]
        if finding.count > len(finding.where):
            lines.append(f"    and {finding.count - len(finding.where)} more")
        lines.append(f"    -> {finding.way_out}")
    return "\n".join([*lines, summary(findings)])


def to_json(findings: Sequence[Finding]) -> str:
    """Format the findings as a JSON list of objects with the fields of `Finding`."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)
