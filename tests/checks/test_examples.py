"""Every example in a docstring, and in README, runs."""

import doctest
import pkgutil
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run Python blocks, and the `adapterhub` lines of console blocks, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ adapterhub "):
                words = shlex.split(line, comments=True)[2:]
                command = [sys.executable, "-m", "adapterhub_cli", *words]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{line}\n{done.stderr}"
    for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(page):
        example.evaluate()
