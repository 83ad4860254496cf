"""What the command line and the package load when they start."""

import subprocess
import sys

import pytest

HEAVY = {
    "cv2", "lightning", "matplotlib", "numpy", "pandas", "pyarrow", "pydantic", "scipy",
    "segmentation_models_pytorch", "sklearn", "timm", "torch", "torchvision", "yaml",
}  # fmt: skip

SAY = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"


def loaded(code):
    """Names of the packages that are loaded after some code, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SAY}"], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split()), done.stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["diagnose", "--help"], ["prepare", "mitosis", "--help"]]
)
def test_help_loads_nothing_heavy(words):
    names, out = loaded(
        "import skipshift.cli.main as cli\n"
        f"try: cli.main({words})\n"
        "except SystemExit as done: assert not done.code"
    )
    assert out
    assert "cyclopts" in names
    assert not names & HEAVY


def test_import_of_the_package_loads_nothing_heavy():
    names, _ = loaded("import skipshift")
    assert not names & (HEAVY | {"cyclopts", "rich"})


def test_the_module_is_the_command_line():
    command = [sys.executable, "-m", "skipshift", "prepare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: skipshift prepare ")


@pytest.mark.parametrize(("shell", "folder"), [("bash", ".local"), ("fish", ".config")])
def test_completion_installs_below_the_home_folder(skipshift, tmp_path, monkeypatch, shell, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, *_ = skipshift("--install-completion", "--shell", shell)
    scripts = [p for p in (tmp_path / folder).rglob("skipshift*") if p.is_file()]
    assert code == 0
    assert "diagnose" in scripts[0].read_text(encoding="utf-8")
