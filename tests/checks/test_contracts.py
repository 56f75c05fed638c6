"""The checks catch what they are there to catch: one planted violation of each contract and ban."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

CONTRACTS = [
    ("registry/adapterhub_registry/planted.py", "import adapterhub.errors", "cli -> adapterhub -> registry"),
    ("adapterhub/planted.py", "import adapterhub_cli.output", "cli -> adapterhub -> registry"),
    ("adapterhub/bases/planted.py", "import adapterhub.runtime.engine", "layers inside adapterhub"),
    ("adapterhub/training/planted.py", "import adapterhub.runtime.engine", "layers inside adapterhub"),
    ("adapterhub/lora/planted.py", "import adapterhub.formats.read", "layers inside adapterhub"),
    ("adapterhub/planted.py", "import adapterhub.errors", None),
    (
        "adapterhub/runtime/planted.py",
        "import adapterhub.bases.mini.recipe.config",
        "nothing imports the recipe",
    ),
    (
        "registry/adapterhub_registry/planted.py",
        "def late():\n    import torch",
        "the registry runs without the ML stack",
    ),
    ("adapterhub/planted.py", "import diffusers", "only these modules touch diffusers"),
]
BANS = [
    ("cli/adapterhub_cli/planted.py", "import torch\n\ntorch.zeros(1)", "TID253"),
    ("adapterhub/planted.py", "import registry.adapterhub_registry\n\nregistry", "TID251"),
    ("adapterhub/planted.py", "from .errors import AdapterHubError\n\nAdapterHubError", "TID252"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code without the weights."""
    skip = shutil.ignore_patterns("weights", "__pycache__")
    for part in ("adapterhub", "cli", "registry"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "lint-imports", "--no-cache", "--config", "pyproject.toml"],
        cwd=tree,
        env={"PYTHONPATH": ":".join(str(tree / part) for part in ("", "cli", "registry")), "PATH": str(BIN)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("file", "text", "contract"), CONTRACTS)
def test_import_contracts(tree: Path, file: str, text: str, contract: str | None) -> None:
    (tree / file).write_text(f'"""Planted."""\n\n{text}\n')
    done = lint_imports(tree)
    if contract is None:
        assert done.returncode == 0, done.stdout
        return
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), done.stdout


@pytest.mark.parametrize(("file", "text", "rule"), BANS)
def test_import_bans(tree: Path, file: str, text: str, rule: str) -> None:
    (tree / file).write_text(f'"""Planted."""\n\n{text}\n')
    command = [BIN / "ruff", "check", "--no-cache", "--output-format", "concise", file]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert rule in done.stdout
