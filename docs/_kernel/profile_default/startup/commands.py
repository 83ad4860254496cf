"""What `!command` does in an executed page: shows the text, and fails the build where it fails."""

import re
import subprocess

_PROGRESS = re.compile(r"^[^:]+: (done|\d+ of [\d?]+)$")


def _system(command: str) -> None:
    """Run a command line; progress is left out, a warning or a failure is an error."""
    command = get_ipython().var_expand(command, depth=1)  # noqa: F821
    done = subprocess.run(["bash", "-c", command], text=True, capture_output=True, check=False)
    said = [line for line in done.stderr.splitlines() if not _PROGRESS.match(line)]
    if done.returncode or any("warning:" in line.lower() for line in said):
        raise RuntimeError("\n".join([f"{command}: exit code {done.returncode}", *said]))
    print("\n".join([*said, done.stdout.rstrip("\n")]).strip("\n"))


get_ipython().system = _system  # noqa: F821
