"""Every example in a docstring, and in README, runs."""

import doctest
import math
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from PIL import Image

from adapterhub_cli.main import cli
from tests.checks.conftest import ROOT, docs_script, module_names

ALIKE = 35.0
"""dB; another processor may round otherwise."""
LONG = ("first-adapter",)
"""Pages whose examples take over half a minute."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.failed == 0


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    """`docs/draw.py`."""
    return docs_script("draw")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.long if page.stem in LONG else ()) for page in PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_page_examples(page: Path, draw: ModuleType, tmp_path: Path) -> None:
    """They run, and the pictures that they write are those that the page shows."""
    draw.prepare(tmp_path)
    draw.run(page, tmp_path)
    for shown, found in draw.drawn(page, tmp_path):
        assert signal_to_noise(shown, found) >= ALIKE, shown


def signal_to_noise(one: Path, other: Path) -> float:
    """Return the peak signal to noise ratio of two pictures of one size, in dB."""
    left, right = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (one, other))
    error = float(np.mean((left - right) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_does_not_run_is_read(page: Path) -> None:
    """Blocks of `sh` and `py` need a GPU, SDXL or a server; their commands and options are there."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        subprocess.run(["bash", "-nc", block], check=True)
        for line in block.replace("\\\n", " ").splitlines():
            if "adapterhub" in (words := shlex.split(line, comments=True)):
                check_command(words[words.index("adapterhub") + 1 :])
    for block in re.findall(r"^```py\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        compile(block, str(page), "exec")


def check_command(words: list[str]) -> None:
    """Follow the words to a command, and look its options up."""
    command: click.Command = cli
    for word in words:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options - {"--help"}
    assert not unknown, words
