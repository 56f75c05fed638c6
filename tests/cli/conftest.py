"""Commands, run as a user runs them, in this process."""

from dataclasses import dataclass

import pytest

from adapterhub_cli.main import main


@dataclass
class Run:
    """Runs a command, checks its exit code, and returns stdout; `talk` is what stderr said."""

    capsys: pytest.CaptureFixture[str]
    talk: str = ""

    def __call__(self, *words: object, code: int = 0) -> str:
        assert main([str(word) for word in words]) == code
        captured = self.capsys.readouterr()
        self.talk = captured.err
        return captured.out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)
