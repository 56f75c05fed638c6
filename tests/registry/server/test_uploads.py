"""Uploads: every digest checked, nothing kept of what is refused, and nothing gained by knowing a digest."""

import base64
import hashlib
import json
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from adapterhub_registry.server.people import People
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import stored_digests
from tests.registry.server.conftest import Answer, Served, serving

PART = 1000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("uploads"), part_bytes=PART) as found:
        yield found


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def batch(served: Served, adapter: str, content: bytes, *, by: str = "bob", **more: Any) -> Answer:
    body = {"operation": "upload", "objects": [{"oid": oid_of(content), "size": len(content)}], **more}
    return served.ask("POST", f"/{adapter}.git/info/lfs/objects/batch", body, by=by)


def address(served: Served, adapter: str, content: bytes) -> str:
    (item,) = batch(served, adapter, content).table["objects"]
    return item["actions"]["upload"]["href"]


def commit_lfs(served: Served, adapter: str, path: str, content: bytes, *, by: str = "bob") -> Answer:
    value = {"path": path, "algo": "sha256", "oid": oid_of(content), "size": len(content)}
    return served.commit(adapter, by=by, lines=({"key": "lfsFile", "value": value},))


def assert_nothing_is_left(served: Served, content: bytes) -> None:
    assert oid_of(content) not in stored_digests(served.registry.home)
    assert [path for path in (served.registry.home / "staging").iterdir() if path.is_file()] == []
    assert list((served.registry.home / "uploads").glob("*")) == []


def test_a_large_file_goes_to_a_signed_address_and_then_into_a_commit(served: Served, adapter: str) -> None:
    content = weights_bytes(1)
    found = batch(served, adapter, content, transfers=["basic"]).table
    assert found["transfer"] == "basic"
    actions = found["objects"][0]["actions"]
    early = commit_lfs(served, adapter, "ink.safetensors", content)
    assert (early.status, "was not uploaded" in early.table["error"]) == (400, True)
    assert served.ask("PUT", actions["upload"]["href"], content).status == 200
    verified = {"oid": oid_of(content), "size": len(content)}
    assert served.ask("POST", actions["verify"]["href"], verified, by="bob").status == 200
    assert "actions" not in batch(served, adapter, content).table["objects"][0]
    assert commit_lfs(served, adapter, "ink.safetensors", content).status == 200
    assert served.registry.resolve(adapter).files[0].sha256 == oid_of(content)
    known = {"files": [{"path": "ink.safetensors", "size": len(content), "sample": ""}]}
    asked = served.ask("POST", f"/api/models/{adapter}/preupload/main", known, by="bob").table["files"]
    assert asked == [
        {"path": "ink.safetensors", "uploadMode": "lfs", "shouldIgnore": False, "oid": oid_of(content)}
    ]


def test_a_large_file_comes_in_parts_in_any_order(served: Served, adapter: str) -> None:
    content = weights_bytes(2)
    found = batch(served, adapter, content, transfers=["basic", "multipart", "xet"]).table
    assert found["transfer"] == "multipart"
    upload = found["objects"][0]["actions"]["upload"]
    parts = {int(name): url for name, url in upload["header"].items() if name.isdigit()}
    assert int(upload["header"]["chunk_size"]) == PART
    assert sorted(parts) == list(range(1, math.ceil(len(content) / PART) + 1))
    short = served.ask("PUT", parts[1], b"x")
    assert (short.status, "has 1 bytes, not 1000" in short.table["error"]) == (400, True)
    done: list[dict[str, Any]] = []
    for number in (3, 1, 2):
        sent = served.ask("PUT", parts[number], content[(number - 1) * PART : number * PART])
        done.append({"partNumber": number, "etag": sent.headers["etag"]})
    finished = served.ask("POST", upload["href"], {"oid": oid_of(content), "parts": done})
    assert finished.status == 200
    assert commit_lfs(served, adapter, "ink.safetensors", content).status == 200
    assert list((served.registry.home / "uploads").iterdir()) == []


def test_wrong_bytes_are_refused_by_every_way_and_leave_nothing(served: Served, adapter: str) -> None:
    content = weights_bytes(3)
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    for sent in (wrong, content[:-1]):
        found = served.ask("PUT", address(served, adapter, content), sent)
        assert (found.status, oid_of(content) in found.table["error"]) == (400, True)
        assert_nothing_is_left(served, content)
        assert_nothing_is_left(served, sent)
    assert served.ask("PUT", address(served, adapter, content), content + b"x").status == 413
    upload = batch(served, adapter, content, transfers=["multipart"]).table["objects"][0]["actions"]["upload"]
    empty = served.ask("POST", upload["href"], {"oid": oid_of(content), "parts": []})
    assert (empty.status, oid_of(content) in empty.table["error"]) == (400, True)
    for number in (1, 2, 3):
        served.ask("PUT", upload["header"][str(number)], wrong[(number - 1) * PART : number * PART])
    found = served.ask("POST", upload["href"], {"oid": oid_of(content), "parts": []})
    assert (found.status, oid_of(wrong) in found.table["error"]) == (400, True)
    assert_nothing_is_left(served, content)
    assert commit_lfs(served, adapter, "ink.safetensors", content).status == 400


def test_an_address_is_good_for_what_was_signed_alone(served: Served, adapter: str) -> None:
    content, other = weights_bytes(4), weights_bytes(5)
    url = address(served, adapter, content)
    parts = urlsplit(url)
    values = dict(parse_qsl(parts.query))
    forged = {"size": "99", "user": "alice", "expires": "9999999999", "signature": "0" * 64, "more": "1"}
    for changed in (
        url.replace(oid_of(content), oid_of(other)),
        url.replace(adapter, "acme/elsewhere"),
        *(f"{parts.path}?{urlencode({**values, name: text})}" for name, text in forged.items()),
        f"{parts.path}?{urlencode({**values, 'expires': '1'})}",
        parts.path,
    ):
        assert served.ask("PUT", changed, content).status == 403, changed
    People(served.registry.database).set_member("acme", "bob", "reader")
    try:
        assert served.ask("PUT", url, content).status == 403
    finally:
        People(served.registry.database).set_member("acme", "bob", "writer")
    assert served.ask("PUT", url, content).status == 200


def test_to_know_a_digest_gives_no_access(served: Served, adapter: str) -> None:
    secret = weights_bytes(6)
    served.commit(adapter, {"secret.safetensors": secret})
    own = served.registry.create("other/mine")
    assert "actions" in batch(served, own, secret, by="other").table["objects"][0]
    taken = commit_lfs(served, own, "stolen.safetensors", secret, by="other")
    assert (taken.status, "was not uploaded" in taken.table["error"]) == (400, True)
    asked = {"oid": oid_of(secret), "size": len(secret)}
    verified = served.ask("POST", "/other/mine.git/info/lfs/objects/verify", asked, by="other")
    assert verified.status == 404


def test_a_quota_holds_at_every_step(served: Served) -> None:
    people, content = People(served.registry.database), weights_bytes(7)
    people.set_quota("other", 3000)
    name = served.registry.create("other/full")
    start = base64.b64encode(content[:512]).decode()
    asked = {"files": [{"path": "w.safetensors", "size": 3001, "sample": start}]}
    early = served.ask("POST", f"/api/models/{name}/preupload/main", asked, by="other")
    assert (early.status, "no room for 3,001 more" in early.table["error"]) == (400, True)
    urls = [address_of(served, name, weights_bytes(seed)) for seed in (7, 8)]
    assert served.ask("PUT", urls[0], content).status == 200
    assert served.ask("PUT", urls[1], weights_bytes(8)).status == 400
    assert batch(served, name, weights_bytes(8), by="other").status == 400
    assert commit_lfs(served, name, "w.safetensors", content, by="other").status == 200
    assert served.commit(name, {"long.txt": b"x" * 1000}, by="other").status == 400
    people.set_quota("other", None)
    assert served.commit(name, {"long.txt": b"x" * 1000}, by="other").status == 200


def address_of(served: Served, adapter: str, content: bytes) -> str:
    return batch(served, adapter, content, by="other").table["objects"][0]["actions"]["upload"]["href"]


def test_an_upload_outlives_the_garbage_collector_for_a_day(served: Served, adapter: str) -> None:
    content = weights_bytes(9)
    served.ask("PUT", address(served, adapter, content), content)
    served.commit(adapter, {"README.md": b"# Kept\n"})
    registry = served.registry
    registry.collect(grace=timedelta(0), keep=timedelta(0))
    assert registry.blobs.has(oid_of(content))
    assert served.ask("GET", f"/{adapter}/resolve/main/README.md", by="bob").content == b"# Kept\n"
    with registry.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE upload SET created = '2020-01-01T00:00:00Z'")
    registry.collect(grace=timedelta(0), keep=timedelta(0))
    assert not registry.blobs.has(oid_of(content))


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("a.bin", b"\x80\x04\x95pickle", "pickled"),
        ("a.safetensors", b"\x80\x04\x95pickle", "pickled"),
        ("a.safetensors", b"PK\x03\x04....archive/data.pkl", "pickled"),
        ("a.txt", b"\x93NUMPY\x01\x00", "pickled"),
        ("a.json", b"PK\x03\x04", "a zip archive"),
        ("a.pt", b"plain", "only these are kept"),
        ("a.py", b"import os", "only these are kept"),
        ("a.html", b"<script>", "only these are kept"),
        ("a.svg", b"<svg/>", "only these are kept"),
        ("a.png", b"<html>", "no PNG"),
        ("a.txt", b"\0\0\0", "no text"),
    ],
)
def test_what_an_adapter_needs_not_is_refused_before_and_at_the_commit(
    served: Served, path: str, content: bytes, reason: str
) -> None:
    name = served.registry.create(f"acme/r{oid_of(path.encode() + content)[:12]}")
    sample = base64.b64encode(content[:512]).decode()
    asked = {"files": [{"path": path, "size": len(content), "sample": sample}]}
    early = served.ask("POST", f"/api/models/{name}/preupload/main", asked, by="bob")
    late = served.commit(name, {path: content}, by="bob")
    large = served.ask("PUT", address(served, name, content), content)
    assert large.status == 200  # nobody said yet what it is to be called
    by_lfs = commit_lfs(served, name, path, content)
    for found in (early, late, by_lfs):
        assert (found.status, reason in found.table["error"]) == (400, True), found
        assert str(served.registry.home) not in found.table["error"]


HOSTILE = [
    *("../x.txt", "a/../../x.txt", "/etc/x.txt", "a//x.txt", "./x.txt", "a/./x.txt", "x.txt/", "..", ""),
    *("a\\..\\x.txt", "C:x.txt", "a\0.txt", "a\n.txt", "CON.txt", "a/nul.txt", ".git/config.txt"),
    *("a/.GIT/x.txt", "\u202egnp.txt", "x. /y.txt", " x.txt", "x.txt ", "y" * 256 + ".txt", "\ud800.txt"),
    *("..%2fx.txt", "%2e%2e/x.txt"),
]


def test_no_path_leads_out_of_its_place(served: Served, adapter: str) -> None:
    before = sorted(path for path in served.registry.home.parent.rglob("*.txt"))
    for path in HOSTILE:
        found = served.commit(adapter, {path: b"x"}, by="bob")
        asked = {"files": [{"path": path, "size": 1, "sample": "eA=="}]}
        early = served.ask("POST", f"/api/models/{adapter}/preupload/main", asked, by="bob")
        is_plain = path.startswith(("..%2f", "%2e"))  # odd, and harmless: nobody decodes it twice
        assert found.status == early.status == (200 if is_plain else 400), (path, found)
    for path in ("%2e%2e/%2e%2e/registry.db", "..%2f..%2fregistry.db", "%00", "a%5c..%5cb", "/etc/passwd"):
        found = served.ask("GET", f"/{adapter}/resolve/main/{path}", by="bob")
        assert (found.status, found.headers["x-error-code"]) == (404, "EntryNotFound"), path
    assert sorted(path for path in served.registry.home.parent.rglob("*.txt")) == before
    clash = served.commit(adapter, {"a.txt": b"x", "a.txt/b.txt": b"x"}, by="bob")
    assert (clash.status, "below another file" in clash.table["error"]) == (400, True)


def test_commits_that_are_no_commits_are_refused_in_bounded_memory(served: Served, adapter: str) -> None:
    def send(body: bytes) -> int:
        return served.ask("POST", f"/api/models/{adapter}/commit/main", body, by="bob").status

    line = {"key": "file", "value": {"path": "a.txt", "content": "eA==", "encoding": "base64"}}
    assert send(b"x" * (9 << 20)) == 413
    assert send(b"[" * 100_000) == 400
    assert send(b"\xff\xfe") == 400
    assert send(b"[]") == 400
    assert send(b'{"key": "file"}') == 400
    assert send(b'{"key": "header", "value": {"summary": 3}}') == 400
    assert send(b'{"key": "header", "value": {"parentCommit": "main"}}') == 400
    assert send(b'{"key": "copyFile", "value": {}}') == 501
    assert send(json.dumps(line).replace("eA==", "e").encode()) == 400
    assert send(b'{"key": "deletedFile", "value": {"path": "a"}}\n' * 10_001) == 400
    deep = b'{"a":' * 100_000
    for path in (f"/api/models/{adapter}/preupload/main", f"/{adapter}.git/info/lfs/objects/batch"):
        assert served.ask("POST", path, deep, by="bob").status == 400
        assert served.ask("POST", path, b" " * (5 << 20), by="bob").status == 413
        assert served.ask("POST", path, {"files": 3, "objects": {"oid": 1}}, by="bob").status in (400, 422)
    assert served.registry.versions(adapter) == []
