"""Fixtures of all tests: a home of their own, no network, one torch thread."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# huggingface_hub reads this once, when the first test module imports it, and the user's cache is no test's.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="adapterhub-hf-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

MINI = Path(__file__).parents[1] / "adapterhub" / "bases" / "mini" / "weights"


def pytest_report_header() -> list[str]:
    import sqlite3
    from importlib.metadata import version

    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "diffusers", "peft", "transformers")
    )
    return [f"{libraries}, SQLite {sqlite3.sqlite_version}"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh ADAPTERHUB_HOME and an empty Hugging Face cache."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ADAPTERHUB_HOME", str(path))
    monkeypatch.setenv("HF_HOME", str(path / "hf"))
    return path


@pytest.fixture(scope="session")
def mini_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator["object"]:
    """The mini base, loaded once for all tests that leave it as it was."""
    os.environ["ADAPTERHUB_HOME"] = str(tmp_path_factory.mktemp("session-home"))
    from adapterhub.runtime.engine import Runtime

    with Runtime.load("mini", device="cpu") as runtime:
        yield runtime


@pytest.fixture
def mini_copy(tmp_path: Path) -> Callable[[], Path]:
    """A function that makes a copy of the mini base to break."""

    def copy() -> Path:
        return Path(shutil.copytree(MINI, tmp_path / "base"))

    return copy
