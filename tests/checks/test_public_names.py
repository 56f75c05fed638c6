"""The public names are there, lazily."""

import subprocess
import sys
from pathlib import Path

import pytest

import adapterhub
from tests.registry.conftest import weights_bytes


def test_every_public_name_is_found() -> None:
    for name in adapterhub.__all__:
        assert getattr(adapterhub, name) is not None
    assert sorted(adapterhub.__all__, key=str.lower) == sorted(set(adapterhub.__all__), key=str.lower)


def test_a_typo_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Runtme"):
        _ = adapterhub.Runtme  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_loads_no_torch() -> None:
    program = "import sys, adapterhub; print([n for n in ('torch', 'sqlmodel', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


SLIM = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'diffusers', 'transformers', 'numpy', 'peft')));"
)


def test_without_the_extra_the_install_command_is_named() -> None:
    program = (
        f"{SLIM} import adapterhub as ah\ntry: ah.Runtime\nexcept ah.AdapterHubError as e: print(e.code, e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("missing-extra ")
    assert 'pip install "adapterhub[sdxl]"' in done.stdout
    program = f"{SLIM} from adapterhub_cli.main import main; sys.exit(main(['generate', '-p', 'x']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith('error: this needs the Python package "')
    assert done.stderr.count("\n") == 1


def test_a_registry_works_without_the_extra(tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(weights_bytes(1))
    program = (
        f"{SLIM} from adapterhub_cli.main import main\n"
        f"sys.exit(main(['add', r'{tmp_path}/ink.safetensors', '--name', 'me/ink', '--base', 'mini', '-q']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "me/ink@1\n", "")
