"""Files are there whole or not at all."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from adapterhub_registry.errors import HomeError, OutputError
from adapterhub_registry.files import write_atomically
from adapterhub_registry.settings import RegistrySettings, ensure_home


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_umask_is_kept(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_an_interrupt_at_the_last_moment_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    class Interrupting(type(tmp_path)):
        """A path that interrupts when the operating system is given its name, which the renaming does."""

        def __fspath__(self) -> str:
            if self.name == "file":
                raise KeyboardInterrupt
            return super().__fspath__()

    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(Interrupting(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = (
        "import sys; from pathlib import Path; from adapterhub_registry.files import write_atomically\n"
        "try: write_atomically(Path(sys.argv[1]), bytes(100_000))\n"
        "except Exception as error: print(type(error).__name__, error.path, error.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.stdout == f"OutputError {path} File too large\n"
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_directory_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path / "nowhere" / "file", b"x")
    assert caught.value.path == tmp_path / "nowhere" / "file"


def test_the_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "a" / "b"))
    home = ensure_home(RegistrySettings.from_environment().home)
    assert home == tmp_path / "a" / "b"
    assert home.is_dir()
    monkeypatch.delenv("ADAPTERHUB_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert RegistrySettings.from_environment().home.name == "adapterhub"


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError) as caught:
        ensure_home(tmp_path / "file" / "home")
    assert caught.value.path == tmp_path / "file" / "home"
    assert "ADAPTERHUB_HOME" in str(caught.value)
