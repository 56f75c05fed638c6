"""Our own protocol over plain HTTP: what it says, what it refuses, and what it keeps to itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import parse_ratelimit_headers  # pyright: ignore[reportPrivateImportUsage]
from PIL import Image

from adapterhub_registry.manifest import Manifest, PayloadFile
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.limits import Limits
from adapterhub_registry.server.people import People
from adapterhub_registry.server.quotas import used_bytes
from adapterhub_registry.server.routes import PROTOCOL
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Answer, Served, serving


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(served: Served, name: str, content: bytes, *, by: str = "bob", **headers: str) -> Answer:
    path = f"/v1/adapters/{name}/blobs/{sha256_of(content)}"
    return served.ask("PUT", path, content, by=by, headers=headers)


def version_of(content: bytes, number: int = 1, **more: Any) -> dict[str, Any]:
    """A version of one file of weights, as a client sends it."""
    file = PayloadFile("pytorch_lora_weights.safetensors", len(content), sha256_of(content))
    manifest = Manifest((file,), "mini", lineage={"operation": "imported"})
    table = {
        "number": number,
        "digest": manifest.digest,
        "manifest": manifest.to_json(),
        "message": "first",
        "author": "bob",
        "created": "2026-01-01T00:00:00Z",
        "documents": [],
        "previews": [],
        "details": {"title": "Ink", "tags": ["soft"], "card": "Soft."},
    }
    return table | more


def publish(served: Served, name: str, content: bytes, number: int = 1, **more: Any) -> Answer:
    assert put(served, name, content).status in (200, 201)
    table = version_of(content, number, **more)
    return served.ask("POST", f"/v1/adapters/{name}/versions", table, by="bob")


def test_a_version_is_published_once_and_says_what_it_is(served: Served, adapter: str) -> None:
    content = weights_bytes(1)
    made = publish(served, adapter, content)
    assert (made.status, made.table["number"], made.table["is_new"]) == (201, 1, True)
    again = publish(served, adapter, content, number=7)
    assert (again.status, again.table["number"], again.table["is_new"]) == (200, 1, False)
    shown = served.ask("GET", f"/v1/adapters/{adapter}/versions/latest", by="rita")
    assert (shown.table["message"], shown.table["author"], shown.table["state"]) == (
        "first",
        "bob",
        "published",
    )
    assert Manifest.from_json(shown.table["manifest"]).digest == made.table["digest"]
    there = served.ask("GET", f"/v1/adapters/{adapter}", by="rita").table
    assert (there["title"], there["tags"], there["card"]) == ("Ink", ["soft"], "Soft.")
    assert [item["digest"] for item in there["versions"]] == [made.table["digest"]]
    seen = served.ask("GET", f"/{adapter}/resolve/v1/pytorch_lora_weights.safetensors", by="rita")
    assert seen.content == content


def test_one_request_says_whether_a_version_is_current(served: Served, adapter: str) -> None:
    path = f"/v1/adapters/{adapter}/versions/latest"
    first = publish(served, adapter, weights_bytes(1)).table["digest"]
    known = served.ask("GET", path, by="rita", headers={"If-None-Match": f'"{"0" * 64}", "{first}"'})
    assert (known.status, known.headers["etag"], known.content) == (304, f'"{first}"', b"")
    second = publish(served, adapter, weights_bytes(2), 2).table["digest"]
    newer = served.ask("GET", path, by="rita", headers={"If-None-Match": f'"{first}"'})
    assert (newer.status, newer.table["digest"]) == (200, second)


def test_a_number_of_another_digest_is_a_conflict_that_changes_nothing(served: Served, adapter: str) -> None:
    first = publish(served, adapter, weights_bytes(1)).table["digest"]
    table = version_of(weights_bytes(2))
    refused = publish(served, adapter, weights_bytes(2))
    assert (refused.status, refused.table["code"]) == (409, "version-conflict")
    assert (refused.table["theirs"], refused.table["ours"]) == (first, table["digest"])
    assert str(served.registry.home) not in refused.table["error"]
    assert len(served.registry.versions(adapter)) == 1
    assert publish(served, adapter, weights_bytes(2), renumber=True).table["number"] == 2


def test_an_upload_goes_on_where_it_ended(served: Served, adapter: str) -> None:
    content, base = weights_bytes(3), f"/v1/adapters/{adapter}"
    size, digest = len(content), sha256_of(content)
    asked = {"blobs": [{"sha256": digest, "size": size}]}

    def send(first: int, last: int, sent: bytes = content) -> Answer:
        headers = {"Content-Range": f"bytes {first}-{last - 1}/{size}"}
        return served.ask("PUT", f"{base}/blobs/{digest}", sent[first:last], by="bob", headers=headers)

    assert served.ask("POST", f"{base}/missing", asked, by="bob").table["missing"] == [
        {"sha256": digest, "offset": 0}
    ]
    assert (send(0, 400).status, send(300, 700).table["offset"]) == (202, 700)
    assert served.ask("POST", f"{base}/missing", asked, by="bob").table["missing"][0]["offset"] == 700
    ahead = send(800, size)
    assert (ahead.status, ahead.table["offset"]) == (409, 700)
    assert send(700, size).status == 201
    assert served.ask("POST", f"{base}/missing", asked, by="bob").table["missing"] == []
    assert served.ask("GET", f"{base}/blobs/{digest}", by="rita").status == 404  # no version has it yet
    served.ask("POST", f"{base}/versions", version_of(content), by="bob")
    part = served.ask("GET", f"{base}/blobs/{digest}", by="rita", headers={"Range": "bytes=100-199"})
    assert (part.status, part.content) == (206, content[100:200])


def test_wrong_digests_are_refused_and_leave_nothing(served: Served, adapter: str) -> None:
    content, base = weights_bytes(4), f"/v1/adapters/{adapter}"
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    refused = served.ask("PUT", f"{base}/blobs/{sha256_of(content)}", wrong, by="bob")
    assert (refused.status, refused.table["code"]) == (400, "digest-mismatch")
    assert (refused.table["expected"], refused.table["found"]) == (sha256_of(content), sha256_of(wrong))
    for digest in (sha256_of(content), sha256_of(wrong)):
        assert not served.registry.blobs.has(digest)
        assert not list((served.registry.home / "partial").glob(f"*{digest}"))
    put(served, adapter, content)
    table = version_of(content, digest=f"sha256:{'0' * 64}")
    assert served.ask("POST", f"{base}/versions", table, by="bob").table["code"] == "digest-mismatch"
    for headers in ({"Content-Range": "bytes 0-9/5"}, {"Content-Range": "all"}):
        assert (
            served.ask("PUT", f"{base}/blobs/{'1' * 64}", b"0123456789", by="bob", headers=headers).status
            == 400
        )
    assert served.ask("PUT", f"{base}/blobs/..", b"x", by="bob").status == 400
    assert served.registry.versions(adapter) == []


def test_to_know_a_digest_gives_no_access(served: Served, adapter: str) -> None:
    secret = weights_bytes(5)
    publish(served, adapter, secret)
    own, digest = served.registry.create("other/copy"), sha256_of(secret)
    asked = {"blobs": [{"sha256": digest, "size": len(secret)}]}
    missing = served.ask("POST", f"/v1/adapters/{own}/missing", asked, by="other").table["missing"]
    assert missing == [{"sha256": digest, "offset": 0}]
    stolen = served.ask("POST", f"/v1/adapters/{own}/versions", version_of(secret), by="other")
    assert (stolen.status, stolen.table["code"]) == (400, "blob-missing")
    assert served.ask("GET", f"/v1/adapters/{own}/blobs/{digest}", by="other").status == 404
    # A manifest of one's own that quotes the digest elsewhere opens nothing either.
    mine = weights_bytes(6)
    table = version_of(mine)
    manifest = json.loads(table["manifest"]) | {"lineage": {"operation": "imported", "sha256": digest}}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    table |= {"manifest": text, "digest": f"sha256:{sha256_of(text.encode())}"}
    put(served, own, mine, by="other")
    assert served.ask("POST", f"/v1/adapters/{own}/versions", table, by="other").status == 201
    assert served.ask("GET", f"/v1/adapters/{own}/blobs/{digest}", by="other").status == 404
    assert served.ask("GET", f"/v1/by-hash/{digest}", by="other").table["versions"] == []
    assert [
        item["name"] for item in served.ask("GET", f"/v1/by-hash/{digest}", by="rita").table["versions"]
    ] == [adapter]


def test_documents_come_only_where_they_are_asked_for(served: Served, adapter: str) -> None:
    note = b"captions"
    put(served, adapter, note)
    documents = [{"name": "data.txt", "sha256": sha256_of(note), "size": len(note)}]
    assert publish(served, adapter, weights_bytes(1), documents=documents).status == 201
    path = f"/v1/adapters/{adapter}/versions/1"
    assert served.ask("GET", path, by="rita").table["documents"] == []
    assert served.ask("GET", f"{path}?documents=1", by="rita").table["documents"][0]["name"] == "data.txt"


def test_what_is_no_adapter_is_refused(served: Served, adapter: str) -> None:
    pickle, picture = b"\x80\x04\x95pickle", b"<svg/>"
    for content in (pickle, picture):
        put(served, adapter, content)
    assert publish(served, adapter, pickle).status == 400
    for beside in ("documents", "previews"):
        content = pickle if beside == "documents" else picture
        entry = {"name": "x.txt", "sha256": sha256_of(content), "size": len(content)}
        refused = publish(served, adapter, weights_bytes(1), **{beside: [entry]})
        assert refused.status == 400, refused
        assert str(served.registry.home) not in refused.table["error"]
    for more in ({"number": 0}, {"number": True}, {"manifest": 3}, {"details": []}, {"previews": [3]}):
        assert publish(served, adapter, weights_bytes(1), **more).status == 400, more
    assert served.registry.versions(adapter) == []


def test_pictures_are_made_anew(served: Served, adapter: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    Image.new("RGB", (8, 8), "red").save(path, comment=b"secret place")
    content = path.read_bytes()
    put(served, adapter, content)
    entry = {"name": "p.png", "sha256": sha256_of(content), "size": len(content), "prompt": "a fox"}
    assert publish(served, adapter, weights_bytes(1), previews=[entry]).status == 201
    shown = served.ask("GET", f"/v1/adapters/{adapter}/versions/1/previews/1", by="rita")
    assert (shown.status, shown.headers["content-type"]) == (200, "image/png")
    assert shown.content.startswith(b"\x89PNG")
    assert b"secret" not in shown.content
    assert served.ask("GET", f"/v1/adapters/{adapter}/versions/1/previews/2", by="rita").status == 404


def test_aliases_move_by_compare_and_set(served: Served, adapter: str) -> None:
    publish(served, adapter, weights_bytes(1))
    publish(served, adapter, weights_bytes(2), 2)
    path = f"/v1/adapters/{adapter}/aliases/prod"

    def move(number: int, **expected: int | None) -> Answer:
        return served.ask("PUT", path, {"number": number, **expected}, by="bob")

    assert move(1).status == 400
    assert move(1, expected=None).status == 200
    stale = move(2, expected=None)
    assert (stale.status, stale.table["code"], stale.table["found"]) == (409, "alias-moved", 1)
    assert move(2, expected=1).status == 200
    assert move(9, expected=2).status == 404
    assert served.ask("GET", f"/v1/adapters/{adapter}/versions/prod", by="rita").table["number"] == 2


def test_a_yanked_version_is_hidden_and_says_why(served: Served, adapter: str) -> None:
    publish(served, adapter, weights_bytes(1))
    publish(served, adapter, weights_bytes(2), 2)
    path = f"/v1/adapters/{adapter}/versions/2"
    assert served.ask("POST", f"{path}/yank", {"reason": ""}, by="bob").status == 400
    assert (
        served.ask("POST", f"{path}/yank", {"reason": "wrong pictures"}, by="bob").table["state"] == "yanked"
    )
    shown = served.ask("GET", path, by="rita")
    assert (shown.table["yank_reason"], "wrong pictures" in shown.headers["x-hf-warning"]) == (
        "wrong pictures",
        True,
    )
    assert served.ask("GET", f"/v1/adapters/{adapter}/versions/latest", by="rita").table["number"] == 1
    assert served.ask("DELETE", f"{path}/yank", by="bob").table["state"] == "published"
    assert served.ask("GET", f"/v1/adapters/{adapter}/versions/latest", by="rita").table["number"] == 2


def test_search_events_and_lineage_tell_nothing_of_others(served: Served) -> None:
    registry = served.registry
    public, private = registry.create("acme/tree", visibility="public"), registry.create("acme/tree-secret")
    parent = publish(served, public, weights_bytes(1)).table["digest"]
    content = weights_bytes(2)
    table = version_of(content)
    lineage = {"operation": "merged", "parent.1": parent, "parent.1.name": "acme/tree@1"}
    manifest = Manifest(Manifest.from_json(table["manifest"]).files, "mini", lineage=lineage)
    put(served, private, content)
    table |= {"manifest": manifest.to_json(), "digest": manifest.digest}
    assert served.ask("POST", f"/v1/adapters/{private}/versions", table, by="bob").status == 201
    path = f"/v1/adapters/{public}/versions/1/lineage"
    assert [node["label"] for node in served.ask("GET", path, by="rita").table["children"]] == [
        f"{private}@1"
    ]
    assert served.ask("GET", path).table["children"] == []
    for by, found in (("", [public]), ("other", [public]), ("rita", [public, private])):
        names = [item["name"] for item in served.ask("GET", "/v1/search?q=tree", by=by).table["adapters"]]
        assert sorted(names) == found
    events = served.ask("GET", f"/v1/adapters/{public}/events").table["events"]
    assert {item["subject"].partition("@")[0] for item in events} == {public}
    older = served.ask("GET", f"/v1/adapters/{public}/events?before={events[0]['id']}").table["events"]
    assert older == events[1:]
    assert served.ask("GET", "/v1/search?sort=odd").status == 400


def test_a_quota_counts_what_is_published_here(served: Served) -> None:
    people, name = People(served.registry.database), served.registry.create("rita/full")
    content, more = weights_bytes(41), weights_bytes(42)
    people.set_quota("rita", 10_000)
    assert put(served, name, content, by="rita").status == 201
    assert served.ask("POST", f"/v1/adapters/{name}/versions", version_of(content), by="rita").status == 201
    people.set_quota("rita", 2 * len(content) - 1)
    asked = {"blobs": [{"sha256": sha256_of(more), "size": len(more)}]}
    for refused in (
        served.ask("POST", f"/v1/adapters/{name}/missing", asked, by="rita"),
        put(served, name, more, by="rita"),
    ):
        assert (refused.status, refused.table["code"]) == (400, "quota-exceeded")
    assert not served.registry.blobs.has(sha256_of(more))


def test_a_quota_counts_what_was_added_beside_the_server(served: Served, tmp_path: Path) -> None:
    people, name = People(served.registry.database), "rita/beside"
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(43))
    served.registry.add(tmp_path / "w.safetensors", name=name, documents={"a.txt": b"note"})
    people.set_quota("rita", None)
    with served.registry.database.snapshot() as read:
        used = used_bytes(read, "rita")
    people.set_quota("rita", used + 9)
    asked = {"blobs": [{"sha256": "0" * 64, "size": 10}]}
    refused = served.ask("POST", f"/v1/adapters/{name}/missing", asked, by="rita")
    assert (refused.status, f"holds {used:,}" in refused.table["error"]) == (400, True)
    people.set_quota("rita", None)
    readme = served.ask("GET", f"/{name}/resolve/main/README.md", by="rita").content  # now it has a commit
    with served.registry.database.snapshot() as read:
        assert used_bytes(read, "rita") == used + len(readme)
    assert used >= len(weights_bytes(43)) + 4


def test_an_adapter_is_seen_once_its_first_version_is_whole(served: Served) -> None:
    name, content = "acme/comes-late", weights_bytes(44)
    made = {"name": "acme/Comes-Late", "visibility": "public"}
    for status in (201, 201):  # sent again, because the answer was lost
        assert served.ask("POST", "/v1/adapters", made, by="bob").status == status
    assert put(served, name, content).status == 201
    asked = {"blobs": [{"sha256": sha256_of(content), "size": len(content)}]}
    for by in ("", "other", "rita", "alice"):
        for path in (f"/v1/adapters/{name}", f"/api/models/{name}", f"/{name}/resolve/main/README.md"):
            assert served.ask("GET", path, by=by).headers["x-error-code"] == "RepoNotFound", (by, path)
        listed = served.ask("GET", "/api/models?search=comes-late", by=by).table
        found = served.ask("GET", "/v1/search?q=comes-late", by=by).table["adapters"]
        assert (listed, found) == ([], []), by
        if by != "alice":
            missing = served.ask("POST", f"/v1/adapters/{name}/missing", asked, by=by)
            assert missing.headers["x-error-code"] == "RepoNotFound"
    assert name not in [adapter.name for adapter in served.registry.list()]
    done = served.ask("POST", f"/v1/adapters/{name}/versions", version_of(content, details={}), by="alice")
    assert (done.status, served.registry.show(name).title) == (201, "Comes-Late")
    assert served.ask("GET", f"/v1/adapters/{name}").table["visibility"] == "public"
    again = served.ask("POST", "/v1/adapters", made, by="bob")
    assert (again.status, again.table["is_new"]) == (200, False)


def test_a_draft_that_nobody_finished_blocks_no_name(served: Served, adapter: str) -> None:
    publish(served, adapter, weights_bytes(45))
    made = {"name": "acme/left"}
    assert served.ask("POST", "/v1/adapters", made, by="bob").status == 201
    assert put(served, "acme/left", weights_bytes(46)).status == 201
    named = {"name": "left", "organization": "acme"}
    for by, status in (("rita", 404), ("bob", 403), ("alice", 200), ("alice", 404)):
        assert served.ask("DELETE", "/api/repos/delete", named, by=by).status == status
    assert served.ask("POST", "/v1/adapters", made, by="bob").status == 201
    assert put(served, "acme/left", weights_bytes(46)).status == 201
    served.registry.move(adapter, "acme/left")
    assert served.ask("GET", f"/v1/adapters/{adapter}", by="rita").status == 307
    assert served.registry.resolve("acme/left").number == 1


def test_another_writer_does_not_show_what_is_about_to_come(served: Served) -> None:
    name = "acme/kept-private"
    for by, visibility in (("bob", "private"), ("alice", "public")):
        made = {"name": name, "visibility": visibility}
        assert served.ask("POST", "/v1/adapters", made, by=by).status == 201
    publish(served, name, weights_bytes(47))
    assert served.ask("GET", f"/v1/adapters/{name}", by="rita").table["visibility"] == "private"


def test_the_document_names_every_route_for_programs(served: Served) -> None:
    table = served.ask("GET", "/openapi.json").table
    listed = {(method.upper(), path) for path, item in table["paths"].items() for method in item}
    assert listed == {(route.method, route.path.replace(":path", "")) for route in PROTOCOL}
    operations = [operation for item in table["paths"].values() for operation in item.values()]
    assert all(operation["summary"] and operation["responses"] for operation in operations)
    identifiers = [operation["operationId"] for operation in operations]
    assert len(set(identifiers)) == len(identifiers)
    page = served.ask("GET", "/v1")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.content.decode()
    assert "https://" not in text
    assert "src=" not in text
    assert text.count("<tr>") == len(PROTOCOL) + 1


def test_a_window_holds_so_many_requests_of_each_caller() -> None:
    seconds = [0.0]
    limits = Limits(2, clock=lambda: seconds[0])
    first = parse_ratelimit_headers(limits.count("alice"))
    assert first is not None
    assert (first.limit, first.remaining, first.reset_in_seconds, first.window_seconds) == (2, 1, 60, 60)
    limits.count("alice")
    limits.count("bob")
    seconds[0] = 20.5
    with pytest.raises(RefusalError) as caught:
        limits.count("alice")
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "40")
    seconds[0] = 60.0
    limits.count("alice")


def test_too_many_requests_are_told_to_wait(tmp_path: Path) -> None:
    with serving(tmp_path / "limited", requests_per_minute=3) as served:
        answers = [served.ask("GET", "/healthz", by="alice") for _ in range(4)]
        assert [found.status for found in answers] == [200, 200, 200, 429]
        assert parse_ratelimit_headers(answers[0].headers) is not None
        waits = parse_ratelimit_headers(answers[3].headers)
        assert waits is not None
        assert waits.remaining == 0
        assert int(answers[3].headers["retry-after"]) == waits.reset_in_seconds
        assert served.ask("GET", "/healthz", by="bob").status == 200
        # Who tries tokens is told apart by the address.
        tried = [served.ask("GET", "/healthz", by="nobody").status for _ in range(4)]
        assert tried == [401, 401, 401, 429]
