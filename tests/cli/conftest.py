import pytest

from skipshift.cli.main import main


@pytest.fixture
def skipshift(capsys):
    """Run the command line in this process; gives exit code, standard output and error."""

    def run(*words):
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        return done.value.code or 0, *capsys.readouterr()

    return run
