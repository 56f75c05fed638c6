"""Pushes by Xet: files are made of what their own user sent, and count only with the right SHA-256."""

import json
import os
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest

from adapterhub_registry.server.people import People
from adapterhub_registry.server.signing import Signer
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home, stored_digests
from tests.registry.server.conftest import Served
from tests.registry.server.test_uploads import commit_lfs
from tests.registry.server.xet_format import Pusher, sha256_of, split, xorb_bytes

MISSING = "the server has not what the file is made of"


def left(pusher: Pusher) -> list[Path]:
    """What staging and the place of a pusher's xorbs hold of bytes."""
    home, generation = pusher.served.registry.home, pusher.url.rpartition("/")[2]
    return [*(home / "staging").iterdir(), *(home / "xet").glob(f"*/*/{generation}/*.raw")]


@pytest.mark.parametrize("version", [1, 2])
def test_files_are_made_of_chunks_and_then_committed(served: Served, adapter: str, version: int) -> None:
    content, other = weights_bytes(version), weights_bytes(version, metadata={"note": "x" * 3000})
    pusher = Pusher(served, adapter)
    chunks = [split(part, 700) for part in (content, other)]
    one, first = pusher.send_xorb(chunks[0] + chunks[1][:2], scheme=2)
    two, second = pusher.send_xorb(chunks[1][2:], scheme=0)
    assert first.table == second.table == {"was_inserted": True}
    assert pusher.send_xorb(chunks[1][2:], scheme=0)[1].table == {"was_inserted": False}
    assert commit_lfs(served, adapter, "ink.safetensors", content).status == 400
    cut = len(chunks[0])
    files = [
        (sha256_of(content), [(one, 1400, 0, 2), (one, len(content) - 1400, 2, cut)]),
        (
            sha256_of(other),
            [(one, 1400, cut, cut + 2), (two, len(other) - 1400, 0, len(chunks[1]) - 2)],
        ),
    ]
    found = pusher.send_shard(files, version=version)
    assert (found == {"type": "result"}) if version == 2 else (found.table == {"result": 1})
    assert left(pusher) == []
    # What is in blobs by now is taken from there.
    again = weights_bytes(version) + content[1400:2100]
    place = (one, 700, 2, 3)
    whole = [(sha256_of(again), [(one, len(content), 0, cut), place])]
    assert pusher.send_shard(whole) == {"type": "result"}
    assert served.registry.blobs.path(sha256_of(again)).read_bytes() == again
    for path, part in (("ink.safetensors", content), ("ink.safetensors", other)):
        assert commit_lfs(served, adapter, path, part).status == 200
        assert served.registry.resolve(adapter).files[0].sha256 == sha256_of(part)
    check_home(served.registry.home)


def test_what_is_something_else_than_it_says_leaves_nothing(served: Served, adapter: str) -> None:
    content = weights_bytes(11)
    pusher = Pusher(served, adapter)
    chunks = split(content)
    name, _ = pusher.send_xorb(chunks)
    size, wrong = len(content), sha256_of(b"something else")
    for terms, sha256, reason in (
        ([(name, size, 0, len(chunks) + 1)], sha256_of(content), "are others"),
        ([(name, size - 1, 0, len(chunks))], sha256_of(content), "are others"),
        ([(name, size, 0, 2**32 - 1)], sha256_of(content), "are others"),
        ([("0" * 64, size, 0, 1)], sha256_of(content), MISSING),
        ([(name, size, 0, len(chunks))], wrong, wrong),
        ([(name, 1000, 0, 1)] * 5, wrong, wrong),
        ([], wrong, wrong),
    ):
        found = pusher.send_shard([(sha256, terms)])
        assert (found["type"], found["retryable"], reason in found["message"]) == ("error", False, True), (
            found
        )
        refused = pusher.send_shard([(sha256, terms)], version=1)
        assert (refused.status, reason in refused.table["error"]) == (400, True), refused
    for body in (b"", b"no shard", bytes(4800)):
        assert pusher.ask("POST", "/v1/shards", body).status == 400
        found = pusher.ask("POST", "/v2/shards", body)
        assert json.loads(found.content)["type"] == "error"
    for body in (b"", b"no xorb", xorb_bytes([b"ink"])[:-1]):
        found = pusher.ask("POST", f"/v1/xorbs/default/{'1' * 64}", body)
        assert (found.status, "the xorb cannot be read" in found.table["error"]) == (400, True)
    assert pusher.ask("POST", "/v1/xorbs/default/..%2f..", b"x").status in (400, 501)
    assert pusher.ask("POST", "/v1/xorbs/default/short", b"x").status == 400
    assert pusher.ask("POST", f"/v1/xorbs/default/{'2' * 64}", bytes(66 << 20)).status == 413
    stored = stored_digests(served.registry.home)
    assert not {wrong, sha256_of(content), sha256_of(b"")} & set(stored)
    assert [path.stem for path in left(pusher)] == [name]
    assert commit_lfs(served, adapter, "ink.safetensors", content).status == 400


def test_what_clients_remember_wrongly_they_forget_by_another_address(served: Served, adapter: str) -> None:
    content = weights_bytes(12)
    pusher = Pusher(served, adapter)
    assert pusher.push(content) == {"type": "result"}
    assert Pusher(served, adapter).url == pusher.url
    assert pusher.send_shard([(sha256_of(b"?"), [("0" * 64, 1, 0, 1)])])["type"] == "error"
    after = Pusher(served, adapter)
    assert after.url != pusher.url
    assert after.push(weights_bytes(13)) == {"type": "result"}
    # Blobs that were collected are not referred to, and a generation ends with its time.
    served.registry.collect(grace=timedelta(0), keep=timedelta(0))
    assert Pusher(served, adapter).url == after.url
    with served.registry.database.writing() as session:
        session.connection().exec_driver_sql("DELETE FROM upload")
    served.registry.collect(grace=timedelta(0), keep=timedelta(0))
    newest = Pusher(served, adapter)
    assert newest.url not in (pusher.url, after.url)
    # What a push left that broke off hours ago is swept, once nobody may write there.
    newest.send_xorb([b"left"])
    (raw,) = left(newest)
    for path in (raw, raw.parent):
        os.utime(path, (1, 1))
    assert Pusher(served, adapter).url != newest.url
    assert not raw.parent.exists()


def test_to_know_the_name_of_a_xorb_gives_no_access(served: Served, adapter: str) -> None:
    secret = weights_bytes(14)
    name, _ = Pusher(served, adapter, by="alice").send_xorb(split(secret))
    files = [(sha256_of(secret), [(name, len(secret), 0, len(split(secret)))])]
    own = served.registry.create("other/thief")
    thieves = [Pusher(served, own, by="other"), Pusher(served, adapter, by="bob")]
    generation = Pusher(served, adapter, by="alice").url.rpartition("/")[2]
    for thief in thieves:
        assert MISSING in thief.send_shard(files)["message"]
        elsewhere = thief.url.rpartition("/")[0] + f"/{generation}/v1/shards"
        headers = {"Authorization": f"Bearer {thief.grant}"}
        assert served.ask("POST", elsewhere, b"", headers=headers).status == 401
        assert thief.ask("GET", f"/v1/chunks/default-merkledb/{name}").status == 404
        # Other bytes under the same name are the thief's own.
        thief.ask("POST", f"/v1/xorbs/default/{name}", xorb_bytes([b"poison"]))
    assert Pusher(served, adapter, by="alice").send_shard(files) == {"type": "result"}


def test_a_grant_is_good_for_what_was_signed_alone(served: Served, adapter: str) -> None:
    pusher = Pusher(served, adapter)
    values = dict(parse_qsl(pusher.grant))
    path = pusher.url.removeprefix(served.url)
    old = {**values, "expires": "1"}
    del old["signature"]
    sign = Signer(served.registry.home)._signature  # pyright: ignore[reportPrivateUsage]
    expired = urlencode({**old, "signature": sign(path, old)})
    forged = {
        "user": "alice",
        "adapter": "acme/other",
        "expires": "9999999999",
        "signature": "0" * 64,
        "x": "1",
    }
    changed = [urlencode({**values, name: text}) for name, text in forged.items()]
    for grant in (*changed, expired, "", "x", served.tokens["bob"], served.tokens["alice"]):
        for method, place in (("POST", "/v1/shards"), ("POST", "/v1/xorbs/default/" + "0" * 64)):
            found = pusher.ask(method, place, b"", grant=grant)
            assert (found.status, "grant" in found.table["error"]) == (401, True), grant
    assert (
        served.ask(
            "GET", f"/api/models/{adapter}", headers={"Authorization": f"Bearer {pusher.grant}"}
        ).status
        == 401
    )
    people = People(served.registry.database)
    people.set_member("acme", "bob", "reader")
    try:
        assert pusher.ask("POST", "/v1/shards", b"").status == 403
    finally:
        people.set_member("acme", "bob", "writer")
    assert pusher.push(weights_bytes(15)) == {"type": "result"}
    for by in ("rita", "alice, reading"):
        assert served.ask("GET", f"/api/models/{adapter}/xet-write-token/main", by=by).status == 403


def test_a_quota_bounds_what_is_sent_and_what_is_made_of_it(served: Served) -> None:
    own, people = served.registry.create("other/full"), People(served.registry.database)
    content = weights_bytes(16)
    pusher = Pusher(served, own, by="other")
    people.set_quota("other", len(content) + 100)
    try:
        name, found = pusher.send_xorb([bytes(1000), *split(content)])
        assert (found.status, "other may hold" in found.table["error"]) == (400, True)
        assert left(pusher) == []
        name, found = pusher.send_xorb([bytes(1000)])
        assert found.status == 200
        # A few bytes can stand for many.
        many = [(sha256_of(bytes(9_000_000)), [(name, 1000, 0, 1)] * 9000)]
        assert "other may hold" in pusher.send_shard(many)["message"]
        huge = [(sha256_of(b"huge"), [(name, 2**32 - 1, 0, 1)] * 20_000)]
        assert "other may hold" in pusher.send_shard(huge)["message"]
        people.set_quota("other", None)
        assert "no room" in pusher.send_shard(huge)["message"]
        people.set_quota("other", len(content) + 1100)
        assert pusher.push(content) == {"type": "result"}
        _, found = pusher.send_xorb(split(weights_bytes(17)))
        assert (found.status, "other may hold" in found.table["error"]) == (400, True)
    finally:
        people.set_quota("other", None)
