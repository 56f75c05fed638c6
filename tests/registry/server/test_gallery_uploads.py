"""Uploading with a browser: forms in any pieces, versions and pictures made of them, refusals in words."""

import io
import resource
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.gallery.forms import MAX_FIELD_BYTES, FormParser
from adapterhub_registry.server.people import People
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Answer, Served, serving
from tests.registry.server.galleries import Page

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
Part = tuple[str, str | None, bytes]


class Disk(NamedTuple):
    """As `shutil.disk_usage` tells it."""

    free: int


def form_bytes(parts: list[Part], boundary: str = BOUNDARY) -> bytes:
    """A form as RFC 7578 has it."""
    content = b""
    for name, filename, body in parts:
        told = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        kind = "\r\nContent-Type: application/octet-stream" if filename is not None else ""
        content += f"--{boundary}\r\nContent-Disposition: {told}{kind}\r\n\r\n".encode() + body + b"\r\n"
    return content + f"--{boundary}--\r\n".encode()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("gallery")) as served:
        yield served


def upload(gallery: Served, *files: Part, by: str = "bob", **fields: str) -> Answer:
    values = {"namespace": "acme", "name": f"a-{uuid.uuid4().hex[:8]}", **fields}
    parts: list[Part] = [(name, None, text.encode()) for name, text in values.items()]
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return gallery.ask("POST", "/upload", form_bytes([*parts, *files]), by=by, headers=headers)


def weights(seed: int) -> Part:
    return ("weights", "ink.safetensors", weights_bytes(seed))


def picture_bytes(size: tuple[int, int] = (40, 30)) -> bytes:
    buffer, info = io.BytesIO(), PngInfo()
    info.add_text("parameters", "a red fox\nSteps: 12, Sampler: Euler, CFG scale: 6, Seed: 44, Size: 40x30")
    info.add_text("Comment", "the secret of the camera")
    Image.new("RGB", size, (200, 60, 20)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1000])
def test_a_form_is_the_same_in_any_pieces(tmp_path: Path, step: int) -> None:
    tricky = b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n--\r\n\r" * 3
    content = form_bytes(
        [
            ("a", None, b""),
            ("f", "x.bin", tricky),
            ("a", None, "ä\r\nb".encode()),
            ("g", "", b""),
            ("e", "e", b""),
        ]
    )
    with ExitStack() as stack:
        parser = FormParser(BOUNDARY.encode(), tmp_path / "staging", stack)
        for start in range(0, len(content), step):
            parser.feed(content[start : start + step])
        form = parser.finish()
        assert form.fields == {"a": ["", "ä\r\nb"]}
        assert {
            name: [(file.name, file.path.read_bytes()) for file in files]
            for name, files in form.files.items()
        } == {
            "f": [("x.bin", tricky)],
            "e": [("e", b"")],
        }
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no form at all",
        form_bytes([("a", None, b"x")])[:-8],
        f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\n".encode() + b"X: " + b"y" * 20_000,
        f"--{BOUNDARY}zz".encode(),
        form_bytes([("a", None, b"x")] * 201),
        form_bytes([("a", None, b"x" * MAX_FIELD_BYTES), ("b", None, b"x")]),
    ],
    ids=["empty", "other", "cut", "nameless", "long header", "odd end", "many", "large"],
)
def test_what_is_no_form_is_refused(tmp_path: Path, content: bytes) -> None:
    def parse() -> None:
        with ExitStack() as stack:
            parser = FormParser(BOUNDARY.encode(), tmp_path / "staging", stack)
            parser.feed(content)
            parser.finish()

    with pytest.raises(RefusalError):
        parse()


def test_an_upload_is_a_version_with_all_that_was_said(gallery: Served) -> None:
    answer = upload(
        gallery,
        weights(1),
        ("pictures", "one.png", picture_bytes()),
        name="Soft-Ink",
        trigger_words="inkwash, soft ink,, inkwash",
        weight="0.80",
        licence="CC-BY-4.0",
        kind="style",
        tags="ink, Portrait",
        title="Soft Ink",
        message="First",
        card="*Soft*",
        visibility="public",
    )
    assert (answer.status, answer.headers["location"]) == (303, "/acme/soft-ink?version=1")
    version, adapter = gallery.registry.resolve("acme/soft-ink"), gallery.registry.show("acme/soft-ink")
    assert (version.author, version.message, version.manifest.licence) == ("bob", "First", "CC-BY-4.0")
    assert (version.trigger_words, version.manifest.recommended_weight) == (("inkwash", "soft ink"), "0.8")
    assert (adapter.title, adapter.tags, adapter.kind, adapter.card) == (
        "Soft Ink",
        ("ink", "portrait"),
        "style",
        "*Soft*",
    )
    (picture,) = gallery.registry.previews(version)
    assert (picture.prompt, picture.seed, picture.settings["steps"]) == ("a red fox", 44, "12")
    kept = gallery.registry.read(picture.sha256)
    assert b"secret" not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert (image.format, image.size, image.getpixel((0, 0)), image.info) == (
            "PNG",
            (40, 30),
            (200, 60, 20),
            {},
        )
    assert gallery.ask("GET", "/acme/soft-ink").status == 200
    assert gallery.ask(
        "GET", "/acme/soft-ink/resolve/main/pytorch_lora_weights.safetensors"
    ).content == weights_bytes(1)
    again = upload(gallery, weights(2), name="soft-ink", message="Second")
    assert again.headers["location"] == "/acme/soft-ink?version=2"
    assert gallery.registry.show("acme/soft-ink").tags == ("ink", "portrait")


def test_a_new_adapter_is_private_unless_it_was_said(gallery: Served) -> None:
    place = upload(gallery, weights(3)).headers["location"]
    assert gallery.ask("GET", place).status == 404
    assert gallery.ask("GET", place, by="rita").status == 200


@pytest.mark.parametrize(
    ("files", "fields", "told"),
    [
        ([], {}, "choose one safetensors file"),
        ([("weights", "ink.safetensors", b"\x80\x04pickle")], {}, "pickle"),
        ([("weights", "ink.safetensors", b"nothing")], {}, "ink.safetensors"),
        ([weights(4), ("pictures", "x.png", b"<svg onload=alert(1)>")], {}, "it is an SVG"),
        ([weights(4), ("pictures", "x.png", picture_bytes()[:60])], {}, "damaged"),
        ([weights(4)] + [("pictures", "x.png", picture_bytes())] * 17, {}, "at most 16"),
        ([weights(4)], {"name": "../x"}, "../x"),
        ([weights(4)], {"weight": "heavy"}, "heavy"),
        ([weights(4)], {"tags": "a/b"}, "a/b"),
        ([weights(4)], {"kind": "animal"}, "animal"),
        ([weights(4)], {"visibility": "secret"}, "secret"),
        ([weights(4)], {"title": "x" * 100_001}, "at most 100,000 letters"),
    ],
)
def test_what_is_wrong_is_said_in_the_form_and_nothing_is_kept(
    gallery: Served, files: list[Part], fields: dict[str, str], told: str
) -> None:
    before = [adapter.name for adapter in gallery.registry.list()]
    answer = upload(gallery, *files, **{"licence": "kept-as-it-was", **fields})
    page = Page(answer)
    assert answer.status == 400
    assert told in page.text
    assert page.fields["licence"] == "kept-as-it-was"
    assert str(gallery.registry.home) not in page.text
    assert [adapter.name for adapter in gallery.registry.list()] == before


def test_one_uploads_where_one_writes(gallery: Served) -> None:
    for by, namespace in (("rita", "acme"), ("other", "acme"), ("alice, reading", "alice"), ("bob", "alice")):
        assert upload(gallery, weights(5), by=by, namespace=namespace).status == 403
    assert upload(gallery, weights(5), by="rita", namespace="rita").status == 303


def test_a_full_namespace_takes_no_more(gallery: Served) -> None:
    people = People(gallery.registry.database)
    people.add_organisation("small", owner="bob", quota=100)
    answer = upload(gallery, weights(6), namespace="small", name="ink")
    assert answer.status == 400
    assert "there is no room" in Page(answer).text
    assert "small/ink" not in {adapter.name for adapter in gallery.registry.list()}


def test_a_quota_counts_what_is_kept(gallery: Served) -> None:
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(picture, "WEBP", quality=1)
    sent: list[Part] = [weights(7), ("pictures", "noise.webp", picture.getvalue())]
    size = sum(len(content) for _, _, content in sent)
    people = People(gallery.registry.database)
    people.add_organisation("exact", owner="bob", quota=size + 400)  # the PNG has thousands more
    assert "there is no room" in Page(upload(gallery, *sent, namespace="exact", name="ink")).text
    assert upload(gallery, weights(7), namespace="exact", name="ink").status == 303
    assert upload(gallery, weights(7), namespace="exact", name="ink").status == 303  # it was there


@pytest.mark.parametrize("quota", [1000, None])
def test_a_form_that_cannot_be_kept_is_refused_before_it_comes(
    gallery: Served, monkeypatch: pytest.MonkeyPatch, quota: int | None
) -> None:
    People(gallery.registry.database).set_quota("other", quota)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 30 if quota else 4 << 20))
    announced = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(16 << 20),
    }
    answer = gallery.ask("POST", "/upload", by="other", headers=announced)  # not a byte of it is sent
    assert answer.status == (413 if quota else 507)


def test_a_disk_that_fills_up_meanwhile_is_told(gallery: Served) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        answer = upload(gallery, ("weights", "ink.safetensors", bytes(3 << 20)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (answer.status, "The server has no room" in Page(answer).text) == (507, True)
    assert list((gallery.registry.home / "staging").iterdir()) == []
