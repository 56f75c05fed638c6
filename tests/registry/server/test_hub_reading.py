"""Reading as Hugging Face clients do: headers, ranges, pages, and what is not there."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Served, serving

CARD = b"---\nlicense: mit\ninstance_prompt: inkwash\ntags: [watery]\n---\n# Ink\n"
WEIGHTS = weights_bytes(1)
INK = "/acme/ink/resolve/main/ink.safetensors"


@pytest.fixture(scope="module")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with acme/ink, and six others."""
    with serving(tmp_path_factory.mktemp("ink")) as served:
        served.registry.create("acme/Ink", visibility="public")
        files = {"ink.safetensors": WEIGHTS, "README.md": CARD, "a/b/deep.txt": b"deep", "a/c.txt": b"c"}
        assert served.commit("acme/ink", files).status == 200
        for number in range(6):
            name = served.registry.create(f"bob/n{number}", visibility="public" if number % 2 else "private")
            assert served.commit(name, {"w.safetensors": weights_bytes(number + 5)}, by="bob").status == 200
        yield served


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324


def test_a_file_comes_with_the_headers_that_clients_need(ink: Served) -> None:
    head, whole = ink.ask("HEAD", INK), ink.ask("GET", INK)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    for found in (head, whole):
        assert found.status == 200
        assert found.headers["etag"] == found.headers["x-linked-etag"] == f'"{sha256}"'
        assert found.headers["x-linked-size"] == found.headers["content-length"] == str(len(WEIGHTS))
        assert found.headers["accept-ranges"] == "bytes"
        assert re.fullmatch("[0-9a-f]{40}", found.headers["x-repo-commit"])
        assert "x-xet-hash" not in found.headers
    assert (head.content, whole.content) == (b"", WEIGHTS)
    small = ink.ask("GET", "/acme/ink/resolve/main/README.md")
    assert small.headers["etag"] == f'"{git_name(CARD)}"'
    assert small.content == CARD


@pytest.mark.parametrize(
    ("asked", "status", "content", "said"),
    [
        ("bytes=10-19", 206, WEIGHTS[10:20], f"bytes 10-19/{len(WEIGHTS)}"),
        ("bytes=2000-", 206, WEIGHTS[2000:], f"bytes 2000-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"),
        ("bytes=-5", 206, WEIGHTS[-5:], f"bytes {len(WEIGHTS) - 5}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"),
        ("bytes=9999-", 416, b"", f"bytes */{len(WEIGHTS)}"),
    ],
)
def test_a_part_of_a_file(ink: Served, asked: str, status: int, content: bytes, said: str) -> None:
    found = ink.ask("GET", INK, headers={"Range": asked})
    assert (found.status, found.headers["content-range"]) == (status, said)
    assert status == 416 or found.content == content


def test_a_file_that_a_client_has_is_not_sent_again(ink: Served) -> None:
    etag = ink.ask("HEAD", INK).headers["etag"]
    assert ink.ask("GET", INK, headers={"If-None-Match": etag}).status == 304
    assert ink.ask("GET", INK, headers={"If-None-Match": f'W/"x", {etag}'}).status == 304
    assert ink.ask("GET", INK, headers={"If-None-Match": '"x"'}).status == 200
    resumed = {"Range": "bytes=5-9", "If-Range": etag}
    assert ink.ask("GET", INK, headers=resumed).content == WEIGHTS[5:10]
    changed = {"Range": "bytes=5-9", "If-Range": '"x"'}
    assert ink.ask("GET", INK, headers=changed).content == WEIGHTS


def test_what_is_not_there_says_so_in_the_header_that_clients_read(ink: Served) -> None:
    for path, code in (
        ("/acme/ink/resolve/main/none.txt", "EntryNotFound"),
        ("/acme/ink/resolve/v9/README.md", "RevisionNotFound"),
        ("/acme/ink/resolve/refs%2Fpr%2F1/README.md", "RevisionNotFound"),
        ("/acme/none/resolve/main/README.md", "RepoNotFound"),
        ("/bob/n0/resolve/main/w.safetensors", "RepoNotFound"),
        ("/gpt2/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/gpt2", "RepoNotFound"),
        ("/api/models/acme/ink/tree/main/none", "EntryNotFound"),
    ):
        found = ink.ask("GET", path)
        assert (found.status, found.headers["x-error-code"]) == (404, code), path
        assert found.headers["x-error-message"]
    assert "x-repo-commit" in ink.ask("HEAD", "/acme/ink/resolve/main/none.txt").headers


def test_the_tree_is_listed_flat_and_deep_and_in_pages(ink: Served) -> None:
    def tree(path: str) -> list[dict[str, Any]]:
        return ink.ask("GET", f"/api/models/acme/ink/tree/main{path}").table

    flat = {item["path"]: item for item in tree("")}
    assert {path: item["type"] for path, item in flat.items()} == {
        "README.md": "file",
        "a": "directory",
        "ink.safetensors": "file",
    }
    assert flat["README.md"]["oid"] == git_name(CARD)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(WEIGHTS)}\n".encode()
    )
    assert flat["ink.safetensors"]["oid"] == git_name(pointer)
    assert flat["ink.safetensors"]["lfs"] == {
        "oid": sha256,
        "size": len(WEIGHTS),
        "pointerSize": len(pointer),
    }
    assert [item["path"] for item in tree("/a")] == ["a/b", "a/c.txt"]
    seen, address = list[str](), "/api/models/acme/ink/tree/main?recursive=true&limit=2"
    while address:
        found = ink.ask("GET", address)
        seen += [item["path"] for item in found.table]
        link = re.fullmatch(r'<(.+)>; rel="next"', found.headers.get("link", ""))
        address = link[1] if link else ""
        assert not address or address.startswith(f"{ink.url}/api/models/acme/ink/tree/main?recursive=true")
    assert seen == ["README.md", "a", "a/b", "a/b/deep.txt", "a/c.txt", "ink.safetensors"]
    asked = b"paths=a&paths=README.md&paths=none&expand=True"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    found = ink.ask("POST", "/api/models/acme/ink/paths-info/main", asked, headers=form).table
    assert [(item["path"], "lastCommit" in item) for item in found] == [("a", True), ("README.md", True)]


def test_repositories_are_listed_by_what_they_are_and_who_asks(ink: Served) -> None:
    def names(query: str, by: str = "") -> set[str]:
        seen, address = set[str](), f"/api/models?limit=2&{query}"
        while address:
            found = ink.ask("GET", address, by=by)
            assert found.status == 200
            assert len(found.table) <= 2
            seen |= {item["id"] for item in found.table}
            link = re.fullmatch(r'<(.+)>; rel="next"', found.headers.get("link", ""))
            address = link[1] if link else ""
        return seen

    public = {"acme/ink", "bob/n1", "bob/n3", "bob/n5"}
    assert names("") == names("", "other") == public
    assert names("", "bob") == public | {"bob/n0", "bob/n2", "bob/n4"}
    assert names("author=bob") == public - {"acme/ink"}
    assert names("filter=watery") == names("search=ink") == names("filter=license:mit") == {"acme/ink"}
    assert names("filter=lora&filter=diffusers&pipeline_tag=text-to-image") == public
    assert names("filter=base_model:stabilityai/stable-diffusion-xl-base-1.0") == set()
    assert names("filter=base_model:unknown/thing") == names("gated=true") == set()
    for sort in ("createdAt", "lastModified", "downloads", "likes", "trendingScore"):
        assert names(f"sort={sort}") == public
    assert ink.ask("GET", "/api/models?cursor=nonsense").status == 400


def test_commits_come_in_pages(ink: Served) -> None:
    found = ink.ask("GET", "/api/models/acme/ink/commits/main?limit=1")
    link = re.fullmatch(r'<(.+)>; rel="next"', found.headers["link"])
    assert link is not None
    second = ink.ask("GET", link[1])
    assert [item["title"] for item in (*found.table, *second.table)] == ["Change", "Start"]
    assert found.table[0]["authors"] == [{"user": "alice"}]


def test_what_is_known_of_a_repository(ink: Served) -> None:
    info = ink.ask("GET", "/api/models/Acme/INK?blobs=True").table
    assert (info["id"], info["private"], info["library_name"]) == ("acme/ink", False, "diffusers")
    assert {"lora", "watery", "license:mit", "text-to-image"} <= set(info["tags"])
    assert info["cardData"] == {"license": "mit", "instance_prompt": "inkwash", "tags": ["watery"]}
    sizes = {item["rfilename"]: item["size"] for item in info["siblings"]}
    assert sizes == {"README.md": len(CARD), "a/b/deep.txt": 4, "a/c.txt": 1, "ink.safetensors": len(WEIGHTS)}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", info["createdAt"])


def test_whoami_and_the_check_of_cards(ink: Served) -> None:
    me = ink.ask("GET", "/api/whoami-v2", by="rita").table
    assert (me["type"], me["name"], [item["name"] for item in me["orgs"]]) == ("user", "rita", ["acme"])
    assert me["auth"]["accessToken"]["role"] == "write"
    good = ink.ask("POST", "/api/validate-yaml", {"content": CARD.decode(), "repoType": "model"})
    assert (good.status, good.table) == (200, {"errors": [], "warnings": []})
    bad = ink.ask("POST", "/api/validate-yaml", {"content": "---\na: &x [*x]\n---\n", "repoType": "model"})
    assert bad.status == 400
    assert "anchors" in bad.table["errors"][0]["message"]


def test_numbers_and_ids_for_who_runs_it(ink: Served) -> None:
    found = ink.ask("GET", "/healthz", headers={"X-Request-Id": "mine-1"})
    assert (found.status, found.headers["x-request-id"]) == (200, "mine-1")
    strange = ink.ask("GET", "/healthz", headers={"X-Request-Id": "a b<>"}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", strange)
    text = ink.ask("GET", "/metrics").content.decode()
    assert 'adapterhub_requests_total{route="GET /healthz",method="GET",status="200"} 2' in text
    assert "adapterhub_requests_in_flight 1" in text


def test_private_adapters_are_those_that_were_there_before(ink: Served, tmp_path: Any) -> None:
    (tmp_path / "w.safetensors").write_bytes(weights_bytes(99))
    registry: Registry = ink.registry
    registry.add(tmp_path / "w.safetensors", name="acme/local")
    assert ink.ask("GET", "/api/models/acme/local").status == 404
    assert ink.ask("GET", "/api/models/acme/local", by="rita").table["private"] is True
    registry.set_visibility("acme/local", "public")
    assert ink.ask("GET", "/api/models/acme/local").table["private"] is False
