"""Push and pull between homes and a real server: identical, verified, whole, whatever is cut or killed."""

import json
import multiprocessing.process
import os
import random
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_cli.main import main
from adapterhub_registry.credentials import store_token
from adapterhub_registry.errors import (
    AccessError,
    AdapterNotFoundError,
    AliasMovedError,
    DigestMismatchError,
    RemoteError,
    VersionConflictError,
    VersionNotFoundError,
)
from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import blob_path, check_home
from tests.registry.processes import CONTEXT
from tests.registry.server.conftest import Served
from tests.registry.server.test_process import started

Weights = Callable[..., Path]


def home_of(folder: Path, served: Served, by: str, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A home whose user is one of the people."""
    monkeypatch.setenv("ADAPTERHUB_TOKEN", served.tokens[by])
    registry = Registry(folder / by)
    registry.add_remote("team", served.url)
    return registry


def named(adapter: str, mark: str = "") -> str:
    """A name of this test's own that nobody has made yet."""
    return f"{adapter[:60]}-new{mark}"


@pytest.fixture
def alice(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return home_of(tmp_path, served, "alice", monkeypatch)


def test_a_pulled_version_is_identical(
    alice: Registry,
    served: Served,
    adapter: str,
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = named(adapter)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p.png")
    version = alice.add(
        weights(1),
        name=name,
        documents={"config.json": b"{}"},
        previews=[tmp_path / "p.png"],
        tags=["ink"],
        title="Ink wash",
        message="first",
    )
    sent = alice.push(name, remote="team", aliases=["prod"], with_data=True)
    assert (sent.is_new, sent.number, sent.files_transferred) == (True, 1, 3)
    again = alice.push(name, remote="team", aliases=["prod"])
    assert (again.is_new, again.number, again.files_transferred) == (False, 1, 0)
    bob = home_of(tmp_path, served, "bob", monkeypatch)
    with pytest.raises(RemoteError, match="which is not here; fetch it with: adapterhub pull team:"):
        bob.resolve(f"team:{name}@prod")
    got = bob.pull(f"team:{name}@prod")
    assert (got.is_new, got.number, got.digest, got.bytes_transferred) == (
        True,
        1,
        version.digest,
        sent.bytes_transferred,
    )
    pulled = bob.resolve(f"team:{name}@prod")
    assert pulled == version
    assert bob.read(pulled.files[0].sha256) == weights_bytes(1)
    assert (bob.documents(pulled), bob.previews(pulled)) == (
        alice.documents(version),
        alice.previews(version),
    )
    shown = bob.show(name)
    assert (shown.title, shown.tags, shown.aliases) == ("Ink wash", ("ink",), {})
    assert bob.pull(name, remote="team").is_new is False
    assert list(bob.verify()) == []
    assert (bob.home / "partial").is_dir()
    assert not list((bob.home / "partial").iterdir())


def test_documents_stay_here_unless_they_are_asked_for(
    alice: Registry, adapter: str, weights: Weights
) -> None:
    alice.add(weights(1), name=adapter, documents={"captions.json": b"[]"})
    assert alice.push(adapter, remote="team").files_transferred == 1


def test_a_private_namespace_is_for_its_people(
    alice: Registry,
    served: Served,
    adapter: str,
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice.add(weights(1), name=adapter)
    alice.push(adapter, remote="team")
    rita = home_of(tmp_path, served, "rita", monkeypatch)
    assert rita.pull(adapter, remote="team").number == 1
    rita.add(weights(2), name=adapter)
    with pytest.raises(AccessError, match="role of writer in acme"):
        rita.push(f"{adapter}@2", remote="team")
    other = home_of(tmp_path, served, "other", monkeypatch)
    for name in (adapter, "acme/none"):
        with pytest.raises(AdapterNotFoundError, match="you may not see it there: adapterhub whoami team"):
            other.pull(name, remote="team")
    other.add(weights(2), name=adapter)
    with pytest.raises(AccessError):
        other.push(adapter, remote="team")
    monkeypatch.setenv("ADAPTERHUB_TOKEN", "")
    with pytest.raises(AdapterNotFoundError):
        other.pull(adapter, remote="team")
    monkeypatch.setenv("ADAPTERHUB_TOKEN", "ahub_wrong")
    with pytest.raises(AccessError, match="adapterhub login team"):
        other.pull(adapter, remote="team")


def test_a_taken_number_is_a_conflict_on_both_ways(
    alice: Registry,
    served: Served,
    adapter: str,
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = alice.add(weights(1), name=adapter)
    alice.push(adapter, remote="team", aliases=["prod"])
    bob = home_of(tmp_path, served, "bob", monkeypatch)
    other = bob.add(weights(2), name=adapter)
    with pytest.raises(VersionConflictError) as caught:
        bob.push(adapter, remote="team")
    assert (caught.value.ours, caught.value.theirs, caught.value.where) == (
        other.digest,
        first.digest,
        "team",
    )
    with pytest.raises(VersionConflictError):
        bob.pull(adapter, remote="team")
    assert bob.versions(adapter) == [other]
    assert bob.remote("team").digests(adapter) == {1: first.digest}
    assert bob.push(adapter, remote="team", renumber=True).number == 2
    assert bob.pull(f"{adapter}@1", remote="team", rename="us/ink").name == "us/ink"
    with pytest.raises(AliasMovedError) as moved:
        bob.remote("team").set_alias(adapter, "prod", 2, expected=2)
    assert (moved.value.expected, moved.value.found) == (2, 1)
    with pytest.raises(VersionNotFoundError) as missing:
        bob.pull(f"{adapter}@7", remote="team")
    assert (missing.value.versions, missing.value.aliases) == ([1, 2], ["prod"])


def test_parents_go_before_their_children(alice: Registry, adapter: str, weights: Weights) -> None:
    names = [named(adapter, mark) for mark in "abc"]
    root = alice.add(weights(1), name=names[0])
    middle_lineage = {"operation": "resized", "parent.1": root.digest, "parent.1.name": root.reference}
    middle = alice.add(weights(2), name=names[1], lineage=middle_lineage)
    last_lineage = {"operation": "merged", "parent.1": middle.digest, "parent.2": f"sha256:{'0' * 64}"}
    alice.add(weights(3), name=names[2], lineage=last_lineage)
    done = alice.push(names[2], remote="team", with_parents=True)
    assert [parent.name for parent in done.parents] == names[:2]
    assert [alice.remote("team").digests(name) != {} for name in names] == [True] * 3


def test_a_damaged_file_on_the_server_is_refused(
    alice: Registry,
    served: Served,
    adapter: str,
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = alice.add(weights(51), name=adapter)
    alice.push(adapter, remote="team")
    path = blob_path(served.registry.home, version.files[0].sha256)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bob = home_of(tmp_path, served, "bob", monkeypatch)
    with pytest.raises(DigestMismatchError) as caught:
        bob.pull(adapter, remote="team")
    assert caught.value.expected == version.files[0].sha256
    assert bob.list() == []
    assert not list(bob.home.glob("partial/*"))
    path.write_bytes(content)
    assert bob.pull(adapter, remote="team").is_new


def test_a_moved_adapter_is_found_by_its_old_name(
    alice: Registry, served: Served, adapter: str, weights: Weights
) -> None:
    alice.add(weights(1), name=adapter)
    alice.push(adapter, remote="team")
    served.registry.move(adapter, named(adapter))
    assert len(alice.remote("team").digests(adapter)) == 1
    alice.add(weights(61), name=adapter)
    assert alice.push(adapter, remote="team").number == 2


def test_a_yank_is_told(
    alice: Registry,
    served: Served,
    adapter: str,
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice.add(weights(1), name=adapter)
    alice.push(adapter, remote="team")
    served.registry.yank(f"{adapter}@1", "wrong pictures")
    bob = home_of(tmp_path, served, "bob", monkeypatch)
    assert bob.pull(f"{adapter}@1", remote="team").yank_reason == "wrong pictures"


def test_the_commands_log_in_push_and_pull(
    served: Served,
    adapter: str,
    weights: Weights,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def run(*words: str, code: int = 0) -> str:
        assert main(list(words)) == code, capsys.readouterr().err
        return capsys.readouterr().out

    assert main(["remote", "add", "hf", served.url]) == 1
    assert main(["remote", "add", "typo", "http://127.0.0.1:1"]) == 1
    run("remote", "add", "team", served.url)
    (tmp_path / "token.txt").write_text(f"{served.tokens['alice']}\n")
    with (tmp_path / "token.txt").open() as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        run("login", "team")
    assert stat.S_IMODE((home / "credentials.json").stat().st_mode) == 0o600
    assert json.loads(run("whoami", "--json"))["organisations"] == {"acme": "owner"}
    assert run("whoami", "--quiet") == "alice\n"
    run("add", str(weights(1)), "--name", adapter, "--base", "mini")
    assert json.loads(run("push", adapter, "--alias", "prod", "--json"))["version"] == f"{adapter}@1"
    (tmp_path / "lock").mkdir()
    monkeypatch.chdir(tmp_path / "lock")
    run("lock", adapter)
    Registry().delete(f"{adapter}@1")
    run("pull", f"team:{adapter}@prod", "--as", "me/copy")
    assert Registry().resolve("me/copy").number == 1
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "fresh"))
    monkeypatch.setenv("ADAPTERHUB_REMOTE", served.url)
    store_token(served.url, served.tokens["rita"])
    assert run("pull", "--locked", "--quiet") == f"{adapter}@1\n"
    assert run("whoami", "--quiet") == "rita\n"
    run("logout")
    run("whoami", code=1)
    for path in (home / "registry.db", tmp_path / "fresh" / "registry.db"):
        assert served.tokens["alice"].encode() not in path.read_bytes()


class Cutter:
    """A proxy that cuts connections after so many bytes from the server or the client, and counts them."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.bytes_moved = 0
        self._target, self._cuts, self._lock = port, list(cuts), threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._pump, args=(server, client))
            back.start()
            self._pump(client, server)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                with self._lock:
                    self.bytes_moved += len(piece)
                    is_cut = bool(self._cuts) and self.bytes_moved >= self._cuts[0]
                    if is_cut:
                        self._cuts.pop(0)
                if is_cut:
                    break
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(served: Served, size: int, count: int, seed: int) -> Iterator[Cutter]:
    chance = random.Random(seed)
    cutter = Cutter(int(served.url.rpartition(":")[2]), sorted(chance.randrange(size) for _ in range(count)))
    try:
        yield cutter
    finally:
        cutter.close()


@pytest.mark.parametrize(
    ("megabytes", "cuts"), [(12, 3), pytest.param(200, 10, marks=pytest.mark.long)], ids=["small", "large"]
)
def test_what_is_cut_off_goes_on(
    served: Served, adapter: str, megabytes: int, cuts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = megabytes << 20
    path = tmp_path / "large.safetensors"
    path.write_bytes(large_weights(size))
    alice = home_of(tmp_path, served, "alice", monkeypatch)
    version = alice.add(path, name=adapter, base="mini")
    with cutting(served, size, cuts, seed=megabytes) as cutter:
        sent = alice.push(adapter, remote=cutter.url)
        assert sent.bytes_transferred == path.stat().st_size
        assert cutter.bytes_moved <= 1.2 * size
    with served.registry.blobs.open(version.files[0].sha256) as stored:
        assert stored.read() == path.read_bytes()
    bob = home_of(tmp_path, served, "bob", monkeypatch)
    with cutting(served, size, cuts, seed=megabytes + 1) as cutter:
        bob.pull(adapter, remote=cutter.url)
        assert cutter.bytes_moved <= 1.2 * size
    assert list(bob.verify()) == []


def large_weights(size: int) -> bytes:
    """A LoRA of a large rank on one module of the mini base, of about that many bytes."""
    from tests.registry.conftest import MODULE, tensors_file

    rank = size // (4 * (160 + 96))
    chance = random.Random(rank)
    return tensors_file(
        {
            f"{MODULE}.lora_A.weight": ("F32", [rank, 160], chance.randbytes(4 * rank * 160)),
            f"{MODULE}.lora_B.weight": ("F32", [96, rank], chance.randbytes(4 * rank * 96)),
        },
        {},
    )


def push_as_bob(home: Path, name: str, url: str, token: str) -> None:
    """What a process does that may be killed, or lose its server."""
    os.environ["ADAPTERHUB_TOKEN"] = token
    with suppress(RemoteError):
        Registry(home).push(name, remote=url, with_data=True)


def five_files(registry: Registry, count: int) -> list[str]:
    """Adapters of five files each: weights, two documents, two pictures."""
    home, names = registry.home, list[str]()
    for seed in range(count):
        pictures: list[Path] = []
        for number in range(2):
            path = home / f"{seed}-{number}.png"
            Image.effect_noise((64, 64), 50 + seed + number).save(path)
            pictures.append(path)
        path = home / "w.safetensors"
        path.write_bytes(weights_bytes(seed))
        documents = {"a.json": f"[{seed}]".encode(), "b.txt": b"b" * (seed + 1)}
        name = f"acme/a{seed}"
        registry.add(path, name=name, documents=documents, previews=pictures)
        names.append(name)
    return names


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("killed", ["client", "server"])
def test_whoever_is_killed_in_a_push_leaves_nothing_half_done(
    killed: str, kills: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    registry = Registry(hub)
    People(registry.database).add_user("bob")
    People(registry.database).add_organisation("acme", owner="bob")
    token = Tokens(registry.database).add("bob")[0]
    monkeypatch.setenv("ADAPTERHUB_TOKEN", token)
    chance, ours = random.Random(kills), Registry(home)
    names = five_files(ours, kills)
    left = list(names)
    while left:
        with started(hub) as (server, port):
            url = f"http://127.0.0.1:{port}"
            if len(left) < len(names):
                again = names[len(names) - len(left) - 1]
                assert ours.push(again, remote=url, with_data=True).number == 1
            for name in list(left):
                left.remove(name)
                pushing = CONTEXT.Process(target=push_as_bob, args=(home, name, url, token))
                pushing.start()
                wait_for_blobs(hub, chance.randrange(6), pushing)
                (pushing if killed == "client" else server).kill()
                pushing.join()
                pushing.close()
                check_home(hub)
                assert list(registry.verify()) == []
                shown = [adapter.latest for adapter in registry.list() if adapter.name == name]
                assert shown in ([], [1])
                if killed == "client":
                    assert ours.push(name, remote=url, with_data=True).number == 1
                else:
                    server.wait()
                    break
    with started(hub) as (_, port):
        ours.push(names[-1], remote=f"http://127.0.0.1:{port}", with_data=True)
    for name in names:
        (version,) = registry.versions(name)
        assert (len(registry.documents(version)), len(registry.previews(version))) == (2, 2)
    check_home(hub)
    registry.close()


def wait_for_blobs(hub: Path, count: int, pushing: multiprocessing.process.BaseProcess) -> None:
    """Wait until the server has so many more blobs, or the push has ended."""
    before = len(list(hub.glob("blobs/sha256/*/*/*")))
    while pushing.is_alive() and len(list(hub.glob("blobs/sha256/*/*/*"))) < before + count:
        pushing.join(0.001)  # so that the others have a processor
