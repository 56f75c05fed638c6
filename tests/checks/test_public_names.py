"""The public names are there, lazily."""

import subprocess
import sys

import pytest

import adapterhub


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
