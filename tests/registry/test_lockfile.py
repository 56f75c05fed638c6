"""Lock files: the very versions, whatever aliases do later."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.runtime.composition import Composition
from adapterhub_registry.errors import LockError
from adapterhub_registry.lockfile import make_lock, read_lock
from adapterhub_registry.store import Registry
from tests.cli.conftest import Run
from tests.registry.conftest import weights_bytes

DIGEST = "sha256:" + "ab" * 32
TABLES = st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    lock = make_lock([("me/ink", 3, DIGEST, 0.8, "mid_block=0"), ("me/corgi", 1, DIGEST, -1.0, "")])
    (tmp_path / "x.lock").write_text(lock.to_json())
    assert read_lock(tmp_path / "x.lock") == lock
    ink, corgi = Composition.parse(lock.composition).terms
    assert (ink.reference.adapter, ink.reference.selector) == ("me/ink", DIGEST)
    assert (ink.weight, ink.blocks) == (0.8, "mid_block=0")
    assert (corgi.reference.adapter, corgi.reference.selector) == ("me/corgi", DIGEST)
    assert (corgi.weight, corgi.blocks) == (-1.0, "")


@given(TABLES | st.text(max_size=30) | st.none())
def test_anything_else_is_no_lock(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.mktemp("lock") / "x.lock"
    for table in (content, {"format": 1, "adapters": [content]}, {"format": 2, "adapters": []}):
        path.write_text(json.dumps(table))
        with pytest.raises(LockError):
            read_lock(path)
    with pytest.raises(LockError):
        read_lock(path.with_name("nowhere"))


def test_a_lock_is_pulled_and_stays_when_aliases_move(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del home
    for seed in (1, 2):
        (tmp_path / "ink.safetensors").write_bytes(weights_bytes(seed))
        run("add", tmp_path / "ink.safetensors", "--name", "me/ink", "--base", "mini")
    run("alias", "me/ink", "prod", 1)
    out = tmp_path / "adapterhub.lock"
    assert run("lock", "me/ink@prod:0.8", "--out", out, "-q") == "me/ink@1\n"
    run("alias", "me/ink", "prod", 2)
    first = Registry().resolve("me/ink@1")
    assert read_lock(out).adapters[0].digest == first.digest

    (tmp_path / "share").mkdir()
    run("remote", "add", "team", (tmp_path / "share").as_uri())
    run("push", "me/ink@1", "--to", "team")
    other = Registry(tmp_path / "other")
    other.add_remote("team", (tmp_path / "share").as_uri())
    for adapter in read_lock(out).adapters:
        assert other.pull(adapter.reference, remote="team").digest == first.digest
    assert run("pull", "--locked", out, "-q") == "me/ink@1\n"
    monkeypatch.chdir(tmp_path)
    assert run("pull", "--locked", "-q") == "me/ink@1\n"
    run("pull", code=2)
    run("pull", "me/ink", "--locked", out, code=2)
