"""Commits: what they mean for the registry, and what becomes of two at once."""

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.publication import Details
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home
from tests.registry.server.conftest import Answer, Served

CARD = "---\nlicense: {}\ninstance_prompt: inkwash\ntags: [lora, {}]\n---\n# Ink\n\nSoft lines.\n"


def card(licence: str = "mit", tag: str = "watery") -> bytes:
    return CARD.format(licence, tag).encode()


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_commit_with_weights_publishes_a_version_with_its_front_matter(
    served: Served, adapter: str
) -> None:
    files = {"ink.safetensors": weights_bytes(1), "README.md": card(), "config.toml": b"a = 1"}
    found = served.commit(adapter, files, by="bob", title="First")
    assert found.status == 200
    version = served.registry.resolve(adapter)
    assert (version.number, version.author, version.message) == (1, "bob", "First")
    assert [file.path for file in version.files] == ["ink.safetensors"]
    assert (version.manifest.licence, version.trigger_words, version.architecture) == (
        "MIT",
        ("inkwash",),
        "mini",
    )
    assert [item.name for item in served.registry.documents(version)] == ["config.toml"]
    shown = served.registry.show(adapter)
    assert (shown.title, shown.description, shown.tags) == ("Ink", "Soft lines.", ("watery",))
    assert found.table["commitUrl"] == f"{served.url}/{adapter}/commit/{found.table['commitOid']}"
    assert served.head(adapter) == served.head(adapter, "v1") == found.table["commitOid"]


def test_a_commit_of_words_and_pictures_changes_no_version(served: Served, adapter: str) -> None:
    served.commit(adapter, {"ink.safetensors": weights_bytes(2), "README.md": card()})
    before = served.registry.resolve(adapter)
    found = served.commit(adapter, {"README.md": card("apache-2.0", "dry"), "a.png": picture((9, 9, 9))})
    assert found.headers["x-hf-warning"].startswith("README; ")
    assert "keeps its own license" in found.headers["x-hf-warning"]
    after = served.registry.resolve(adapter)
    assert (after.number, after.digest) == (before.number, before.digest)
    assert served.registry.show(adapter).tags == ("dry",)
    (preview,) = served.registry.previews(after)
    assert Image.open(io.BytesIO(served.registry.read(preview.sha256))).getpixel((0, 0)) == (9, 9, 9)
    readme = served.ask("GET", f"/{adapter}/resolve/main/README.md", by="rita")
    assert readme.content == card("apache-2.0", "dry")
    served.commit(adapter, lines=({"key": "deletedFile", "value": {"path": "a.png"}},))
    assert served.registry.previews(after) == []
    served.commit(adapter, {"ink.safetensors": weights_bytes(3)})
    assert served.registry.resolve(adapter).manifest.licence == "Apache-2.0"
    assert served.head(adapter, "v1") != served.head(adapter, "v2") == served.head(adapter)


def test_what_changes_without_a_commit_is_seen_on_main(served: Served, adapter: str, tmp_path: Path) -> None:
    registry = served.registry
    shown = {"ink.safetensors": weights_bytes(4), "README.md": card(), "shown/red.png": picture((255, 0, 0))}
    served.commit(adapter, shown)
    first = served.head(adapter)
    registry.update(adapter, Details(tags=["seen"]))
    told = served.ask("GET", f"/{adapter}/resolve/main/README.md", by="rita").content
    assert b"- seen\n" in told
    assert b"url: shown/red.png\n" in told
    (tmp_path / "more.safetensors").write_bytes(weights_bytes(5))
    registry.add(tmp_path / "more.safetensors", name=adapter, trigger_words=["wash"])
    second = served.head(adapter)
    listed = served.ask("GET", f"/api/models/{adapter}/tree/main", by="rita").table
    assert {item["path"] for item in listed} == {"README.md", "pytorch_lora_weights.safetensors"}
    registry.update(adapter, Details(tags=["new"]))
    assert b"- new\n" in served.ask("GET", f"/{adapter}/resolve/main/README.md", by="rita").content
    registry.yank(f"{adapter}@2", "burnt")
    listed = served.ask("GET", f"/api/models/{adapter}/tree/main", by="rita").table
    assert {item["path"] for item in listed} == {"README.md", "ink.safetensors", "shown"}
    yanked = served.ask("HEAD", f"/{adapter}/resolve/v2/README.md", by="rita")
    assert yanked.headers["x-hf-warning"] == f"{adapter}@2; {adapter}@2 was yanked: burnt"
    assert served.head(adapter, second) == second
    registry.delete(f"{adapter}@2")
    gone = served.ask("GET", f"/{adapter}/resolve/{second}/README.md", by="rita")
    assert (gone.status, gone.headers["x-error-code"]) == (404, "RevisionNotFound")
    assert served.head(adapter, first) == first
    names = [
        item["title"] for item in served.ask("GET", f"/api/models/{adapter}/commits/main", by="rita").table
    ]
    assert names[0] == "Follow the registry"
    assert names[-1] == "Start"


def test_a_commit_that_comes_twice_is_made_once(served: Served, adapter: str) -> None:
    start = served.head(adapter)
    files = {"ink.safetensors": weights_bytes(6), "README.md": card()}
    first = served.commit(adapter, files, parent=start).table["commitOid"]
    assert served.commit(adapter, files, parent=start).table["commitOid"] == first
    assert served.commit(adapter, files).table["commitOid"] == first
    assert served.commit(adapter, files, parent=first[:7]).table["commitOid"] == first
    late = served.commit(adapter, {"README.md": card("isc")}, parent=start)
    assert late.status == 412
    assert first in late.table["error"]
    assert len(served.registry.versions(adapter)) == 1


@pytest.mark.parametrize("clients", [4, pytest.param(16, marks=pytest.mark.long)])
def test_of_many_commits_with_one_parent_one_is_made_and_without_one_all(
    served: Served, adapter: str, clients: int
) -> None:
    parent = served.head(adapter)

    def push(seed: int, parent: str | None) -> Answer:
        return served.commit(adapter, {"ink.safetensors": weights_bytes(seed)}, parent=parent)

    with ThreadPoolExecutor(clients) as pool:
        made = list(pool.map(lambda seed: push(seed, parent), range(clients)))
        assert sorted(answer.status for answer in made) == [200, *[412] * (clients - 1)]
        line = list(pool.map(lambda seed: push(seed + 50, None), range(clients)))
    assert {answer.status for answer in line} == {200}
    assert [version.number for version in served.registry.versions(adapter)] == list(range(1, clients + 2))
    shas = [item["id"] for item in served.ask("GET", f"/api/models/{adapter}/commits/main", by="rita").table]
    assert set(shas) >= {answer.table["commitOid"] for answer in line}
    assert len(shas) == clients + 2


def test_main_always_has_the_weights_of_one_version(served: Served, adapter: str) -> None:
    served.commit(adapter, {"ink.safetensors": weights_bytes(7)})
    removed = served.commit(adapter, lines=({"key": "deletedFile", "value": {"path": "ink.safetensors"}},))
    assert (removed.status, "yank it" in removed.table["error"]) == (400, True)
    second = served.commit(adapter, {"other.safetensors": weights_bytes(8)})
    assert (second.status, "several files of weights" in second.table["error"]) == (400, True)
    replaced = served.commit(
        adapter,
        {"other.safetensors": weights_bytes(8)},
        lines=({"key": "deletedFile", "value": {"path": "ink.safetensors"}},),
    )
    assert replaced.status == 200
    back = served.commit(
        adapter,
        {"ink.safetensors": weights_bytes(7)},
        lines=({"key": "deletedFile", "value": {"path": "other.safetensors"}},),
    )
    assert (back.status, "this is version 1 already" in back.table["error"]) == (400, True)
    assert len(served.registry.versions(adapter)) == 2


def test_a_peft_directory_is_one_version(served: Served, adapter: str) -> None:
    config = json.dumps({"peft_type": "LORA", "lora_alpha": 2, "task_type": "CAUSAL_LM"}).encode()
    files = {"adapter_model.safetensors": weights_bytes(9), "adapter_config.json": config}
    assert served.commit(adapter, files).status == 200
    version = served.registry.resolve(adapter)
    assert [file.path for file in version.files] == sorted(files)
    assert {path.name for path in served.registry.payload(version).iterdir()} == set(files)


def test_a_branch_is_a_place_for_drafts(served: Served, adapter: str) -> None:
    served.commit(adapter, {"ink.safetensors": weights_bytes(10)})
    assert served.ask("POST", f"/api/models/{adapter}/branch/dev", {}, by="bob").status == 200
    assert served.ask("POST", f"/api/models/{adapter}/branch/dev", {}, by="bob").status == 409
    assert served.commit(adapter, {"ink.safetensors": weights_bytes(11)}, branch="dev").status == 200
    assert len(served.registry.versions(adapter)) == 1
    served.commit(adapter, {"notes.txt": b"soon"}, branch="dev")
    names = {item["path"] for item in served.ask("GET", f"/api/models/{adapter}/tree/dev", by="rita").table}
    assert names == {"ink.safetensors", "notes.txt"}
    tagged = served.ask("POST", f"/api/models/{adapter}/tag/dev", {"tag": "prod"}, by="bob")
    assert (tagged.status, "no version" in tagged.table["error"]) == (400, True)
    assert served.ask("POST", f"/api/models/{adapter}/tag/v1", {"tag": "prod"}, by="bob").status == 200
    assert served.registry.show(adapter).aliases == {"prod": 1}
    assert served.ask("POST", f"/api/models/{adapter}/tag/v1", {"tag": "prod"}, by="bob").status == 409
    assert served.head(adapter, "prod") == served.head(adapter, "v1")
    for name in ("main", "v1", "prod"):
        gone = served.ask("DELETE", f"/api/models/{adapter}/branch/{name}", by="bob")
        assert gone.status == (400 if name == "main" else 404)
    assert served.ask("DELETE", f"/api/models/{adapter}/tag/v1", by="bob").status == 400
    assert served.ask("DELETE", f"/api/models/{adapter}/tag/prod", by="bob").status == 200
    assert served.commit(adapter, {"x.txt": b""}, branch="v1").headers["x-error-code"] == "RevisionNotFound"
    pulled = served.ask("POST", f"/api/models/{adapter}/commit/main?create_pr=1", b"", by="bob")
    assert (pulled.status, "pull requests" in pulled.table["error"]) == (501, True)


def test_a_removed_repository_never_gives_its_numbers_again(served: Served, adapter: str) -> None:
    served.commit(adapter, {"ink.safetensors": weights_bytes(12)})
    body = {"name": adapter.split("/")[1], "organization": "acme"}
    assert served.ask("DELETE", "/api/repos/delete", body, by="alice").status == 200
    assert served.ask("GET", f"/api/models/{adapter}", by="alice").headers["x-error-code"] == "RepoNotFound"
    assert served.ask("POST", "/api/repos/create", body, by="alice").status == 200
    assert served.ask("GET", f"/api/models/{adapter}", by="alice").table["siblings"] == []
    again = served.commit(adapter, {"ink.safetensors": weights_bytes(12)})
    assert (again.status, "was deleted" in again.table["error"]) == (400, True)
    served.commit(adapter, {"ink.safetensors": weights_bytes(13)})
    assert served.registry.resolve(adapter).number == 2


def test_a_moved_repository_keeps_its_old_name(served: Served, adapter: str) -> None:
    served.commit(adapter, {"ink.safetensors": weights_bytes(14)})
    body = {"fromRepo": adapter, "toRepo": f"alice/{adapter.split('/')[1]}"}
    assert served.ask("POST", "/api/repos/move", body, by="bob").status == 403
    assert served.ask("POST", "/api/repos/move", body, by="alice").status == 200
    sent = served.ask("GET", f"/api/models/{adapter}/refs?include_prs=1", by="alice")
    assert (sent.status, sent.headers["location"]) == (
        307,
        f"/api/models/{body['toRepo']}/refs?include_prs=1",
    )
    assert served.ask("GET", f"/api/models/{adapter}/refs", by="rita").status == 404
    taken = {"name": adapter.split("/")[1], "organization": "acme"}
    assert served.ask("POST", "/api/repos/create", taken, by="alice").status == 409


def test_afterwards_the_home_is_whole(served: Served) -> None:
    assert list(served.registry.verify()) == []
    check_home(served.registry.home)


def test_verify_reads_the_files_of_commits_too(served: Served, adapter: str) -> None:
    served.commit(adapter, {"ink.safetensors": weights_bytes(15), "README.md": b"# Hurt\n"})
    blob = served.registry.blobs.path(hashlib.sha256(b"# Hurt\n").hexdigest())
    blob.chmod(0o644)
    blob.write_bytes(b"# hurt\n")
    problems = list(served.registry.verify(f"{adapter}@1"))
    assert [(item.path, item.problem.split(":")[0]) for item in problems] == [("README.md", "damaged")]
    blob.write_bytes(b"# Hurt\n")
