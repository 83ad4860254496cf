"""What wheel and sdist hold: the files of the repository that belong in them, and no others.

`python -m tools.dist dist` ends with a message where a file is missing or one too many.
"""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 1_000_000
"""Bytes of a file of the sdist: pictures and data sets are not published with the code."""

SDIST = ("src/", "tests/", "conftest.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md",
         "CITATION.cff", "SECURITY.md", ".gitignore")  # fmt: skip
"""Where a file of the repository lies that belongs in the sdist."""


def tracked() -> set[str]:
    """Files of the repository that git knows."""
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split("\0")) - {""}


def wheel_faults(names: Collection[str], files: Collection[str]) -> list[str]:
    """Compare the members of a wheel with the files of the package, and look for its records."""
    package = {name for name in names if ".dist-info/" not in name}
    records = {name.partition(".dist-info/")[2] for name in names} - {""}
    expected = {f.removeprefix("src/") for f in files if f.startswith("src/")}
    needed = {"METADATA", "entry_points.txt", "licenses/LICENSE"}
    return _compared(package, expected) + _compared(records & needed, needed)


def sdist_faults(names: Collection[str], files: Collection[str]) -> list[str]:
    """Compare the members of an sdist, without its top folder, with the files that belong there."""
    return _compared(names, {f for f in files if f.startswith(SDIST)} | {"PKG-INFO"})


def _compared(found: Collection[str], expected: Collection[str]) -> list[str]:
    lacks = [f"lacks {name}" for name in sorted(set(expected) - set(found))]
    return lacks + [f"must not hold {name}" for name in sorted(set(found) - set(expected))]


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist of a folder; exit with the faults of both."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = tracked()
    with zipfile.ZipFile(wheel) as archive:
        faults = [f"{wheel.name} {fault}" for fault in wheel_faults(archive.namelist(), files)]
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
    names = [member.name.partition("/")[2] for member in members]
    faults += [f"{sdist.name} {fault}" for fault in sdist_faults(names, files)]
    faults += [f"{m.name} has {m.size:,} bytes" for m in members if m.size > LARGEST]
    if faults:
        sys.exit("\n".join(faults))
    print(*(f"{p.name}: {p.stat().st_size / 1e6:.1f} MB" for p in (wheel, sdist)), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
