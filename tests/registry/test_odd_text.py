"""Bytes that are no UTF-8, in names and arguments: refused before anything is kept, or spelled otherwise."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapterhub_registry.adoption import adopt
from adapterhub_registry.errors import FieldError, ManifestError
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home

ODD = "\udcff"
"""A byte of a name or an argument that is no UTF-8, as Python hands it over."""


@pytest.mark.parametrize(
    "said",
    [
        {"title": ODD},
        {"description": ODD},
        {"message": ODD},
        {"licence": ODD},
        {"trigger_words": [ODD]},
        {"tags": [ODD]},
        {"documents": {ODD: b""}},
        {"lineage": {"operation": ODD}},
    ],
    ids=lambda said: next(iter(said)),
)
def test_bytes_that_are_no_text_are_refused_before_anything_is_kept(
    home: Path, weights: Callable[..., Path], said: dict[str, Any]
) -> None:
    with closing(Registry(home)) as registry:
        with pytest.raises((FieldError, ManifestError)):
            registry.add(weights(1), name="me/ink", **said)
        assert registry.list() == []
    check_home(home)


def test_a_file_whose_name_is_no_text_is_adopted(home: Path, tmp_path: Path) -> None:
    (tmp_path / f"ink{ODD}.safetensors").write_bytes(weights_bytes(1))
    with closing(Registry(home)) as registry:
        for outcome in ("added", "known"):
            (found,) = adopt(registry, tmp_path, namespace="me")
            assert (found.outcome, found.version) == (outcome, "me/ink@1")
    check_home(home)
