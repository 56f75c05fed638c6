"""The gallery's pages over plain HTTP: what is found, what is shown, and to whom."""

import http.client
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from adapterhub_registry.database import Read
from adapterhub_registry.intake import PreviewPicture
from adapterhub_registry.publication import Details
from adapterhub_registry.search import Filters
from adapterhub_registry.server.gallery.cards import read_cards
from adapterhub_registry.server.gallery.index import Index
from adapterhub_registry.server.routes import ROUTES
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Served, serving
from tests.registry.server.galleries import Browser, Page, fill

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
PAGES = ("/", "/?q=ink", "/acme/ink", "/compare?first=acme/ink&second=acme/corgi", "/login", "/acme/nothing")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gallery")) as served:
        fill(served.registry, tmp_path_factory.mktemp("files"))
        yield served


@pytest.fixture
def visitor(gallery: Served) -> Browser:
    return Browser(gallery)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sort=name", ["acme/corgi", "acme/ink", "acme/paper"]),
        ("q=ink", ["acme/ink"]),
        ("q=corgiword", ["acme/corgi"]),
        ("q=nothing+at+all", []),
        ("kind=style&sort=name", ["acme/ink", "acme/paper"]),
        ("kind=style&licence=CC0-1.0", ["acme/paper"]),
        ("tag=soft&tag=portrait", ["acme/ink"]),
        ("rank=2&sort=name", ["acme/corgi", "acme/ink", "acme/paper"]),
        ("rank=3", []),
        ("rank=%22&page=0&q=&sort=name", ["acme/corgi", "acme/ink", "acme/paper"]),
        ("namespace=acme&architecture=mini&kind=subject", ["acme/corgi"]),
    ],
)
def test_search_and_facets_narrow_the_grid(visitor: Browser, query: str, expected: list[str]) -> None:
    assert Page(visitor.get(f"/?{query}")).adapters() == expected


def test_facets_count_what_one_may_see_and_another_choice_would_find(gallery: Served) -> None:
    def counts(query: str, by: str = "") -> dict[str, int]:
        text = Page(gallery.ask("GET", f"/?{query}", by=by)).text.split()
        return {
            word: int(text[place + 1]) for place, word in enumerate(text[:-1]) if text[place + 1].isdigit()
        }

    assert {"style": 2, "subject": 1}.items() <= counts("").items()
    assert "concept" not in counts("")
    assert counts("", by="rita")["concept"] == 1
    chosen = counts("kind=style")
    assert (chosen["style"], chosen["subject"], chosen["CC0-1.0"]) == (2, 1, 1)


def test_the_grid_follows_every_change(gallery: Served, visitor: Browser, tmp_path: Path) -> None:
    registry, path = gallery.registry, tmp_path / "new.safetensors"
    path.write_bytes(weights_bytes(500))

    def shown(query: str) -> list[str]:
        return Page(visitor.get(f"/?{query}")).adapters()

    registry.add(path, name="other/new", tags=["fresh"], kind="other")
    assert shown("tag=fresh") == []
    registry.set_visibility("other/new", "public")
    assert shown("tag=fresh") == shown("q=new") == ["other/new"]
    registry.update("other/new", Details(tags=["stale"], kind="slider"))
    assert (shown("tag=fresh"), shown("tag=stale&kind=slider")) == ([], ["other/new"])
    registry.move("other/new", "other/newer")
    assert (shown("tag=stale"), shown("namespace=other")) == (["other/newer"], ["other/newer"])
    registry.yank("other/newer@1", "bad")
    assert shown("tag=stale") == []
    registry.unyank("other/newer@1")
    assert shown("tag=stale") == ["other/newer"]
    registry.remove("other/newer")
    assert shown("tag=stale") == shown("q=newer") == []


def test_a_reader_with_an_older_snapshot_is_served_too(tmp_path: Path) -> None:
    registry, path, index = Registry(tmp_path / "home"), tmp_path / "w.safetensors", Index()
    filters = Filters(readable=("me",))

    def found(read: Read) -> list[str]:
        keys = index.find(read, "", filters, sort="name", start=0, count=9).keys
        return [card.adapter.name for card in read_cards(read, keys)]

    path.write_bytes(weights_bytes(1))
    registry.add(path, name="me/first")
    with registry.database.snapshot() as older:
        assert found(older) == ["me/first"]
        registry.add(path, name="me/second")
        with registry.database.snapshot() as newer:
            assert found(newer) == ["me/first", "me/second"]
        assert found(older) == ["me/first"]
    registry.close()


def test_a_new_server_says_what_to_do(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as served:
        page = Page(served.ask("GET", "/"))
        assert "adapterhub admin visibility" in page.text
        assert "/login" in page.links
        assert "adapterhub push" in Page(served.ask("GET", "/", by="rita")).text


def test_pages_follow_each_other_and_leave_none_out(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as served:
        names = [f"acme/a{number:02}" for number in range(30)]
        for number, name in enumerate(names):
            (tmp_path / "w.safetensors").write_bytes(weights_bytes(number))
            served.registry.add(tmp_path / "w.safetensors", name=name, kind="style")
            served.registry.set_visibility(name, "public")
        first = Page(served.ask("GET", "/?sort=name&kind=style"))
        (following,) = [link for link in first.links if "page=2" in link]
        second = Page(served.ask("GET", following))
        assert first.adapters() + second.adapters() == names
        assert not [link for link in second.links if "page=3" in link]


def test_an_adapter_is_shown_with_all_that_is_known_of_it(visitor: Browser) -> None:
    answer = visitor.get("/acme/ink")
    page, text = Page(answer), answer.content.decode()
    for told in (
        "Soft Ink",
        "Washes of ink.",
        "inkword",
        "wash",
        "MIT",
        "portrait",
        "prod",
        "Wetter",
        "soft",
    ):
        assert told in page.text
    assert "<em>soft</em> ink" in text
    assert "CC-BY-4.0" in page.text  # the licence before, in the diff of the second version
    assert [found["data-copy"] for _, found in page.elements if "data-copy" in found][:2] == [
        "inkword",
        "wash",
    ]
    for told in (
        "adapterhub pull team:acme/ink@2",
        "load_lora_weights",
        "ComfyUI/models/loras",
        "hf download",
    ):
        assert told in page.text
    old = Page(visitor.get("/acme/ink?version=prod"))
    assert "This is version 1." in old.text
    assert any("/pictures/" in found.get("src", "") for _, found in old.elements)


def test_lineage_is_drawn_and_hides_what_is_private(
    gallery: Served, visitor: Browser, tmp_path: Path
) -> None:
    registry, path = gallery.registry, tmp_path / "child.safetensors"
    path.write_bytes(weights_bytes(900))
    lineage = {"operation": "merged"}
    for place, parent in enumerate(("acme/ink@2", "acme/glow@1"), 1):
        lineage |= {f"parent.{place}": registry.resolve(parent).digest, f"parent.{place}.name": parent}
    lineage["parent.1.weight"] = "0.25"
    registry.add(path, name="acme/child", lineage=lineage)
    registry.set_visibility("acme/child", "public")
    drawn = visitor.get("/acme/child").content.decode()
    assert 'href="/acme/ink?version=2"' in drawn
    assert ">0.25<" in drawn
    assert "glow" not in drawn
    assert "acme/glow@1" in gallery.ask("GET", "/acme/child", by="rita").content.decode()
    assert "/acme/child?version=1" in Page(visitor.get("/acme/ink?version=2")).links


def test_two_versions_are_compared(visitor: Browser) -> None:
    answer = visitor.get("/compare?first=acme/ink@1&second=acme/ink@2")
    text = answer.content.decode()
    differing = [row.partition("<span")[0] for row in text.split('<tr class="differs"><th scope="row">')[1:]]
    assert differing == ["trigger words", "weight to start with", "licence", "weights"]
    hidden = visitor.get("/compare?first=acme/ink&second=acme/glow")
    missing = visitor.get("/compare?first=acme/ink&second=acme/none")
    assert hidden.status == missing.status == 404
    assert hidden.content.replace(b"glow", b"none") == missing.content
    assert visitor.get("/compare?first=%40%40").status == 400


def test_a_file_is_sent_to_be_kept(visitor: Browser) -> None:
    (link,) = [link for link in Page(visitor.get("/acme/corgi")).links if "/files/" in link]
    found = visitor.get(link)
    assert found.content == weights_bytes(1)
    assert found.headers["content-disposition"].startswith("attachment")
    assert visitor.get("/acme/corgi/files/1/other.txt").status == 404


def test_pictures_are_ours_in_two_sizes_and_of_this_adapter_alone(gallery: Served, visitor: Browser) -> None:
    (picture,) = gallery.registry.previews(gallery.registry.resolve("acme/ink@1"))
    found = visitor.get(f"/acme/ink/pictures/{picture.sha256}?size=card")
    assert (found.headers["content-type"], found.headers["x-content-type-options"]) == (
        "image/webp",
        "nosniff",
    )
    with Image.open(io.BytesIO(found.content)) as image:
        assert (image.size, image.convert("RGB").getpixel((5, 5))) == ((640, 480), (30, 30, 60))
    known = visitor.get(
        f"/acme/ink/pictures/{picture.sha256}?size=card", **{"If-None-Match": found.headers["etag"]}
    )
    assert known.status == 304
    for path in (f"/acme/corgi/pictures/{picture.sha256}", f"/acme/ink/pictures/{picture.sha256}?size=huge"):
        assert visitor.get(path).status == 404


def test_a_version_that_was_yanked_says_why(gallery: Served, visitor: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(weights_bytes(901))
    gallery.registry.add(path, name="acme/bad")
    gallery.registry.set_visibility("acme/bad", "public")
    gallery.registry.yank("acme/bad@1", "it draws hands")
    assert "it draws hands" in Page(visitor.get("/acme/bad")).text


@pytest.mark.parametrize("path", PAGES)
def test_every_page_keeps_scripts_frames_and_foreign_hosts_out(visitor: Browser, path: str) -> None:
    answer = visitor.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "no-store" in answer.headers["cache-control"]
    for tag, found in Page(answer).elements:
        assert "style" not in found
        assert not [name for name in found if name.startswith("on")], (tag, found)
        for name in ("src", "href", "action"):
            assert name not in found or found[name].startswith(("/", "#")), (tag, found)


def test_nothing_that_people_wrote_becomes_markup(gallery: Served, visitor: Browser, tmp_path: Path) -> None:
    path, picture = tmp_path / "evil.safetensors", tmp_path / "evil.png"
    path.write_bytes(weights_bytes(902, metadata={"ss_optimizer": EVIL, "ss_seed": "javascript:1"}))
    Image.new("RGB", (8, 8)).save(picture)
    card = f"# {EVIL}\n\n{EVIL}\n\n![p](https://foreign.example/x.png) ![q](data:image/png;base64,AA)\n"
    card += "[a](javascript:alert(1)) [b](data:text/html,x) <https://foreign.example/y>\n\n<Gallery />\n"
    version = gallery.registry.add(
        path,
        name="acme/evil",
        trigger_words=[EVIL],
        licence=EVIL,
        message=EVIL,
        title=EVIL,
        description=EVIL,
        tags=["a.b"],
        lineage={"operation": EVIL, "parent.1": EVIL, "parent.1.name": EVIL, "parent.1.weight": EVIL},
        previews=[PreviewPicture(picture, EVIL, 1, {"steps": EVIL, "weight": EVIL})],
        settings={"negative_prompt": EVIL},
    )
    gallery.registry.update("acme/evil", Details(card=card))
    gallery.registry.set_visibility("acme/evil", "public")
    gallery.registry.yank(version.reference, EVIL)
    gallery.registry.unyank(version.reference)
    for address in (
        "/acme/evil",
        "/?q=evil",
        "/?q=%3Cscript%3Ealert(1)&kind=%3Cscript%3E&tag=%22%3E&licence=%27&sort=%3C",
        "/compare?first=acme/evil&second=acme/ink",
        "/login?next=%22%3E%3Cscript%3E",
    ):
        answer = visitor.get(address)
        assert answer.status == 200
        elements = Page(answer).elements
        assert [found["src"][:8] for tag, found in elements if tag == "script"] == ["/static/"]
        for tag, found in elements:
            assert not [name for name in found if name.startswith("on")], (tag, found)
            source = found.get("src") or found.get("href") or ""
            assert source.startswith(("/", "#", "https://foreign.example/")) or not source, (tag, found)
            assert tag == "a" or "foreign" not in source
            assert "foreign" not in source or "noopener" in found["rel"]


def test_no_page_says_a_header_twice(gallery: Served) -> None:
    (picture,) = gallery.registry.previews(gallery.registry.resolve("acme/ink@1"))
    parts = urlsplit(gallery.url)
    for path in ("/", "/static/icon.svg", f"/acme/ink/pictures/{picture.sha256}", "/acme/none"):
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        connection.request("GET", path)
        names = [name.lower() for name, _ in connection.getresponse().getheaders()]
        connection.close()
        assert "x-content-type-options" in names, path
        assert len(names) == len(set(names)), path


def test_what_is_loaded_into_diffusers_has_a_name_that_peft_takes(gallery: Served, tmp_path: Path) -> None:
    path = tmp_path / "dotted.safetensors"
    path.write_bytes(weights_bytes(904))
    gallery.registry.add(path, name="other/ink.v1.5")
    text = Page(gallery.ask("GET", "/other/ink.v1.5", by="other")).text
    assert 'load_lora_weights("other/ink.v1.5", revision="v1", adapter_name="ink_v1_5")' in text
    assert 'set_adapters("ink_v1_5", 1)' in text


def test_who_has_a_browser_gets_pages_for_errors_too(visitor: Browser) -> None:
    for path in ("/nowhere", "/api/nothing", "/acme/none"):
        answer = visitor.get(path, Accept="text/html")
        assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


def test_a_moved_adapter_is_found_by_its_old_name(gallery: Served, visitor: Browser, tmp_path: Path) -> None:
    path = tmp_path / "moved.safetensors"
    path.write_bytes(weights_bytes(903))
    gallery.registry.add(path, name="acme/was")
    gallery.registry.set_visibility("acme/was", "public")
    gallery.registry.move("acme/was", "acme/is")
    answer = visitor.get("/acme/was?version=1")
    assert (answer.status, answer.headers["location"]) == (307, "/acme/is?version=1")


def test_the_pages_of_people_are_not_told_to_programs(gallery: Served) -> None:
    paths = gallery.ask("GET", "/openapi.json").table["paths"]
    assert not {route.path for route in ROUTES if route.is_page} & paths.keys()
