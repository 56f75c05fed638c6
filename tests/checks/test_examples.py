"""Every example in a docstring, and in README, runs."""

import doctest
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.training.dataset import read_dataset

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapterhub", "adapterhub_registry", "adapterhub_cli")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def module_names() -> list[str]:
    found: list[str] = []
    for name in PACKAGES:
        package = import_module(name)
        found += [name, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{name}."))]
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.failed == 0


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the pages take for granted: a file of weights and a folder of pictures."""
    generator = torch.Generator().manual_seed(1)
    target = Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    down, up = (torch.randn(shape, generator=generator) * 0.1 for shape in ((4, 128), (128, 4)))
    adapter = AdapterTensors({target: LowRank(down, up, 1.0, "config")})
    (tmp_path / "ink.safetensors").write_bytes(diffusers_bytes(adapter))
    (tmp_path / "ink").mkdir()
    style = ROOT / "adapterhub" / "quickstart" / "pictures" / "style"
    for example in read_dataset(style).examples[:4]:
        shutil.copy(example.path, tmp_path / "ink")
        (tmp_path / "ink" / example.path.name).with_suffix(".txt").write_text(example.caption)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_examples(page: Path, workplace: Path) -> None:
    """Run console blocks, but for `make`, in a shell, and Python blocks, in the order of the page."""
    del workplace
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
        script = "\n".join(line for line in lines if not line.startswith("make "))
        done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stderr}"
    for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(page):
        example.evaluate()
