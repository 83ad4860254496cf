"""The studies that come with the project, and the commands in their first lines."""

import shlex
from pathlib import Path

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))


def commands(study):
    """The two commands in a study's first lines, as words: what prepares its set, what runs it."""
    lines = [line.removeprefix("#     ") for line in study.read_text().splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("skipshift ")]
