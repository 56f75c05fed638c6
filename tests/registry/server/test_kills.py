"""A server that is killed in the middle of pushes leaves nothing half done."""

import contextlib
import http.client
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home
from tests.registry.server.conftest import Served
from tests.registry.server.test_process import started
from tests.registry.server.test_uploads import oid_of
from tests.registry.server.xet_format import Pusher, split


def push(served: Served, seed: int) -> int:
    """Push five files: weights by Git LFS, and then they and four others in one commit."""
    content = weights_bytes(seed, metadata={"push": str(seed)})
    body = {"objects": [{"oid": oid_of(content), "size": len(content)}]}
    (item,) = served.ask("POST", "/acme/ink.git/info/lfs/objects/batch", body, by="bob").table["objects"]
    if "actions" in item:
        assert served.ask("PUT", item["actions"]["upload"]["href"], content).status == 200
    return commit(served, oid_of(content), len(content), seed)


def commit(served: Served, oid: str, size: int, seed: int) -> int:
    """Commit weights that were uploaded, with four other files."""
    value = {"path": "ink.safetensors", "algo": "sha256", "oid": oid, "size": size}
    files = {name: f"{name} {seed}".encode() for name in ("README.md", "a.txt", "b.txt", "c/d.txt")}
    return served.commit("acme/ink", files, by="bob", lines=({"key": "lfsFile", "value": value},)).status


def push_by_xet(served: Served, seed: int) -> int:
    """Push two files of weights, one after the other, that share a xorb."""
    files = [weights_bytes(seed, metadata={"push": f"{seed} {name}" * 100}) for name in ("one", "two")]
    pusher = Pusher(served, "acme/ink")
    chunks = [split(content, 500) for content in files]
    name, found = pusher.send_xorb(chunks[0] + chunks[1])
    assert found.status == 200
    cut = len(chunks[0])
    terms = [(name, len(files[0]), 0, cut), (name, len(files[1]), cut, cut + len(chunks[1]))]
    entries = [(oid_of(content), [term]) for content, term in zip(files, terms, strict=True)]
    assert pusher.send_shard(entries) == {"type": "result"}
    return commit(served, oid_of(files[1]), len(files[1]), seed)


KILLS = [2, pytest.param(40, marks=pytest.mark.long)]


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("push", [push, push_by_xet])
def test_a_server_that_is_killed_leaves_nothing_half_done(
    home: Path, push: Callable[[Served, int], int], kills: int
) -> None:
    registry = Registry(home)
    People(registry.database).add_user("bob")
    tokens = {"bob": Tokens(registry.database).add("bob")[0]}
    People(registry.database).add_organisation("acme", owner="bob")
    registry.create("acme/ink")
    registry.close()
    seed, done = 0, 0
    for delay in (random.Random(kills).uniform(0.01, 0.3) for _ in range(kills)):
        with started(home) as (process, port):
            served = Served(registry, f"http://127.0.0.1:{port}", tokens)
            assert push(served, seed := seed + 1) == 200
            done += 1
            timer = threading.Timer(delay, process.kill)
            timer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    assert push(served, seed := seed + 1) == 200
                    done += 1
            timer.join()
        check_home(home)
        after = Registry(home)
        assert list(after.verify()) == []
        numbers = [version.number for version in after.versions("acme/ink")]
        assert numbers == list(range(1, len(numbers) + 1))
        assert done <= len(numbers) <= seed
        for version in after.versions("acme/ink"):
            assert len(after.documents(version)) == 2
        after.collect()
        assert list((home / "staging").iterdir()) == []
        after.close()
