"""Exit codes, help, and the one place where errors become messages."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch

from adapterhub_cli.main import cli, main
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

Capture = pytest.CaptureFixture[str]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "sqlmodel", "sqlalchemy", "numpy", "PIL")


def run(*words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adapterhub_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)  # pyright: ignore[reportCallIssue]


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from adapterhub_cli.main import main; code = main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    for name in cli.commands:
        assert name in done.stdout


@pytest.mark.parametrize(
    "words",
    [["list"], ["show", "me/ink@prod"], ["versions", "me/ink"], ["search", "ink"], ["events"]],
    ids=" ".join,
)
def test_a_command_that_only_reads_loads_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(weights_bytes(1))
    registry = Registry()
    registry.add(tmp_path / "ink.safetensors", name="me/ink")
    registry.set_alias("me/ink", "prod", 1)
    heavy = (*HEAVY, "alembic", "pydantic", "huggingface_hub", "filelock")
    program = (
        f"import sys; from adapterhub_cli.main import main; code = main({words!r}); "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "me/ink" in done.stdout


def all_commands() -> list[list[str]]:
    found: list[list[str]] = []
    for name, command in cli.commands.items():
        found.append([name])
        if isinstance(command, click.Group):
            found += [[name, inner] for inner in command.commands]
    return found


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_s_help_has_examples(words: list[str], capsys: Capture) -> None:
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: adapterhub {' '.join(words)}")
    if words not in (["bases"], ["remote"]):
        assert f"adapterhub {' '.join(words)}" in text.split("Examples:")[1]


@pytest.mark.parametrize(
    "words",
    [["no-such-command"], ["generate"], ["generate", "-p", "x", "--steps", "many"], ["bases", "show"]],
)
def test_wrong_usage_exits_with_2(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage:" in captured.err


def failing(words: list[str], capsys: Capture) -> str:
    """Run a command that must fail and return its message: one line, no traceback, nothing on stdout."""
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_an_unknown_base_suggests_a_near_one(capsys: Capture) -> None:
    assert "Did you mean mini?" in failing(["bases", "show", "minni"], capsys)


def test_a_directory_that_is_no_pipeline_is_explained(capsys: Capture, tmp_path: Path) -> None:
    message = failing(["generate", "-p", "x", "--base", str(tmp_path)], capsys)
    assert f"{tmp_path} is no SDXL pipeline" in message


def test_a_pickle_checkpoint_is_refused(capsys: Capture, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "model.ckpt")
    message = failing(["generate", "-p", "x", "--base", str(tmp_path / "model.ckpt")], capsys)
    assert "holds pickled Python objects" in message


def test_a_missing_component_is_named(capsys: Capture, mini_copy: Callable[[], Path]) -> None:
    path = mini_copy()
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    message = failing(["generate", "-p", "x", "--base", str(path)], capsys)
    assert "vae has no diffusion_pytorch_model.safetensors" in message


def test_a_size_that_the_vae_cannot_make_is_explained(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    message = failing(["generate", "-p", "x", "--width", "60", "--out", str(out)], capsys)
    assert "the nearest is" in message
    assert not out.exists()


def test_a_home_below_a_regular_file_is_explained(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "file" / "home"))
    assert "Set ADAPTERHUB_HOME" in failing(["generate", "-p", "x", "--out", str(tmp_path / "o.png")], capsys)


def test_a_full_disk_leaves_no_picture(tmp_path: Path) -> None:
    done = run(
        *("generate", "-p", "a star", "--seed", "1", "--steps", "1", "--out", str(tmp_path / "o.png")),
        env=os.environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"error: cannot write {tmp_path / 'o.png'}: File too large. Nothing was changed there.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_that_is_a_file_is_explained(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "o.png"
    assert f"cannot write {out.parent}" in failing(
        ["generate", "-p", "x", "--steps", "1", "--out", str(out)], capsys
    )


def test_a_traceback_is_shown_when_asked_for_before_or_after_the_command(capsys: Capture) -> None:
    for words in (["-v", "bases", "show", "minni"], ["bases", "show", "minni", "--verbose"]):
        assert main(words) == 1
        assert "Traceback" in capsys.readouterr().err
