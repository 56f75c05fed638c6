"""The registry core: versions, aliases, what people say of adapters, and what is refused."""

import json
import pickle
import sqlite3
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.errors import (
    AdapterNotFoundError,
    AliasMovedError,
    ArchitectureError,
    DatabaseError,
    FieldError,
    InputError,
    PickleRefusedError,
    PictureError,
    VersionConflictError,
    VersionNotFoundError,
    WeightsError,
)
from adapterhub_registry.publication import Adapter, Details, Publication
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

Weights = Callable[..., Path]


def test_versions_are_numbered_and_resolved(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="Me/Ink", trigger_words=["inkwash "], recommended_weight=0.80)
    second = registry.add(weights(2), name="me/ink", message="darker")
    assert [v.number for v in registry.versions("me/ink")] == [1, 2]
    assert (first.reference, first.architecture, first.trigger_words) == ("me/ink@1", "mini", ("inkwash",))
    assert (first.manifest.recommended_weight, first.manifest.algorithm) == ("0.8", "lora")
    assert second.message == "darker"
    for text, expected in (
        ("me/ink", 2),
        ("me/ink@latest", 2),
        ("ME/ink@v1", 1),
        (f"me/ink@{first.digest[:19]}", 1),
        (f"me/ink@{first.digest}", 1),
    ):
        assert registry.resolve(text).number == expected
    assert registry.show("me/ink").title == "Ink"


def test_the_digest_is_over_the_canonical_manifest_and_leaves_out_what_may_change(
    registry: Registry, weights: Weights
) -> None:
    import hashlib

    version = registry.add(
        weights(1), name="me/ink", trigger_words=["a"], licence="MIT", title="X", tags=["t"]
    )
    table = {
        "format": 1,
        "files": [
            {
                "path": "pytorch_lora_weights.safetensors",
                "size": len(weights_bytes(1)),
                "sha256": hashlib.sha256(weights_bytes(1)).hexdigest(),
            }
        ],
        "architecture": "mini",
        "base_identity": "",
        "algorithm": "lora",
        "trigger_words": ["a"],
        "recommended_weight": "",
        "licence": "MIT",
        "lineage": {"operation": "imported"},
    }
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    assert version.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    other = registry.add(weights(1), name="me/wash", trigger_words=["a"], licence="MIT", kind="style")
    assert other.digest == version.digest


def test_adding_the_same_digest_again_changes_nothing(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="me/ink", tags=["a"])
    registry.add(weights(2), name="me/ink")
    again = registry.add(
        weights(1, name="renamed.bin.safetensors"), name="me/ink", message="again", tags=["b"]
    )
    assert again == first
    assert len(registry.versions("me/ink")) == 2
    assert registry.show("me/ink").tags == ("a",)


def test_a_base_gives_architecture_and_identity(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink", base="mini")
    assert version.base_identity.startswith("sha256:")
    with pytest.raises(ArchitectureError) as caught:
        registry.add(weights(1, text_width=2048), name="me/xl", base="mini")
    assert (caught.value.adapter, caught.value.base) == ("sdxl", "mini")
    with pytest.raises(ArchitectureError, match="name the base"):
        registry.add(weights(1, text_width=123), name="me/odd")
    assert [adapter.name for adapter in registry.list()] == ["me/ink"]


def test_aliases_move_only_from_where_they_are_expected(registry: Registry, weights: Weights) -> None:
    for seed in (1, 2, 3):
        registry.add(weights(seed), name="me/ink")
    registry.set_alias("me/ink", "prod", 1, expected=None)
    registry.set_alias("me/ink", "prod", 2, expected=1)
    for expected in (None, 1, 3):
        with pytest.raises(AliasMovedError) as caught:
            registry.set_alias("me/ink", "prod", 3, expected=expected)
        assert (caught.value.expected, caught.value.found) == (expected, 2)
    assert registry.resolve("me/ink@prod").number == 2
    registry.set_alias("me/ink", "prod", 3)
    assert registry.show("me/ink").aliases == {"prod": 3}
    with pytest.raises(VersionNotFoundError):
        registry.set_alias("me/ink", "prod", 9)


@pytest.mark.parametrize(
    "alias", ["latest", "Main", "head", "v3", "deadbeef", "3d", "", "a b", "-x", "a" * 65]
)
def test_reserved_and_malformed_aliases_are_refused(registry: Registry, weights: Weights, alias: str) -> None:
    registry.add(weights(1), name="me/ink")
    with pytest.raises(FieldError) as caught:
        registry.set_alias("me/ink", alias, 1)
    assert caught.value.field == "alias"


def test_what_is_said_of_an_adapter_can_change(registry: Registry, weights: Weights) -> None:
    version = registry.add(weights(1), name="me/ink", kind="style", tags=["Portrait", "ink"])
    adapter = registry.update("me/ink", Details(title="Ink wash", tags=["ink"]))
    assert (adapter.title, adapter.kind, adapter.tags) == ("Ink wash", "style", ("ink",))
    assert registry.resolve("me/ink").digest == version.digest
    for details, field in ((Details(kind="drawing"), "kind"), (Details(tags=["a b"]), "tag")):
        with pytest.raises(FieldError) as caught:
            registry.update("me/ink", details)
        assert caught.value.field == field


def test_an_unknown_adapter_or_version_is_refused(registry: Registry, weights: Weights) -> None:
    registry.add(weights(1), name="me/ink")
    registry.set_alias("me/ink", "prod", 1)
    with pytest.raises(AdapterNotFoundError) as missing:
        registry.resolve("me/inc")
    assert missing.value.near == ["me/ink"]
    with pytest.raises(VersionNotFoundError) as caught:
        registry.resolve("me/ink@stable")
    assert (caught.value.versions, caught.value.aliases) == ([1], ["prod"])


def test_a_digest_with_which_several_versions_begin_names_none_of_them(
    registry: Registry, weights: Weights, home: Path
) -> None:
    for seed in (1, 2, 3):
        registry.add(weights(seed), name="me/ink")
    with sqlite3.connect(home / "registry.db") as database:
        for number, end in ((1, "a" * 52), (2, "f" * 52), (3, "f" * 51 + "0")):
            digest = f"sha256:{'b' * 12}{end}"
            database.execute("UPDATE version SET digest = ? WHERE number = ?", [digest, number])
    assert registry.resolve(f"me/ink@sha256:{'b' * 12}a").number == 1
    assert registry.resolve(f"me/ink@sha256:{'b' * 12}{'f' * 52}").number == 2
    for selector in ("b" * 12, "b" * 12 + "f", "a" * 12, "b" * 11 + "c"):
        with pytest.raises(VersionNotFoundError) as caught:
            registry.resolve(f"me/ink@sha256:{selector}")
        assert caught.value.versions == [1, 2, 3]


def test_adapters_are_listed_by_name_with_all_that_is_said_of_them(
    registry: Registry, weights: Weights
) -> None:
    expected: list[Adapter] = []
    for name in ("me/wash", "me/ink", "acme/ink"):
        registry.add(weights(1), name=name)
        registry.add(
            weights(2), name=name, title=name.upper(), description="d", kind="style", tags=["b", "a"]
        )
        registry.set_alias(name, "prod", 1)
        registry.set_alias(name, "beta", 2)
        registry.yank(f"{name}@2", "blurred")
        settings = {"steps": "30"}
        registry.update(name, Details(card="# Card", settings=settings))
        created = registry.versions(name)[0].created
        aliases = {"beta": 2, "prod": 1}
        expected.append(
            Adapter(name, name.upper(), "d", "# Card", "style", ("a", "b"), aliases, 1, created, settings)
        )
    assert [registry.show(adapter.name) for adapter in expected] == expected
    assert registry.list() == expected[::-1]
    assert list(registry.search(sort="name")) == expected[::-1]


def test_many_threads_read_while_one_writes(registry: Registry, weights: Weights) -> None:
    registry.add(weights(0), name="me/ink")

    def read(_: int) -> tuple[int, int, int]:
        first = registry.resolve("me/ink").number
        (adapter,) = registry.list()
        return first, adapter.latest or 0, len(registry.versions("me/ink"))

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(read, range(200))
        for seed in range(1, 11):
            registry.add(weights(seed), name="me/ink")
    assert all(sorted(numbers) == list(numbers) for numbers in found)
    assert registry.resolve("me/ink").number == 11


def test_a_file_that_is_no_database_is_explained(home: Path) -> None:
    (home / "registry.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DatabaseError) as caught:
        Registry(home)
    assert caught.value.path == home / "registry.db"
    assert "not a database" in caught.value.reason


def test_a_peft_directory_is_added_with_its_config(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(
        weights_bytes(1).replace(b"unet.", b"base_model.model."[:5])
    )
    (folder / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    with pytest.raises(WeightsError):
        registry.add(folder, name="me/ink", base="mini")
    (folder / "adapter_model.safetensors").write_bytes(weights_bytes(1))
    version = registry.add(folder, name="me/ink", base="mini")
    assert [file.path for file in version.files] == ["adapter_config.json", "adapter_model.safetensors"]
    (folder / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"adapter_config\.json"):
        registry.add(folder, name="me/ink", base="mini")


def test_previews_are_kept_with_what_their_record_says(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    from adapterhub_registry.record import png_with_record
    from tests.registry.test_record import RECORD

    plain, recorded = tmp_path / "plain.png", tmp_path / "recorded.png"
    Image.new("RGB", (8, 8), "red").save(plain)
    recorded.write_bytes(png_with_record(Image.new("RGB", (8, 8), "blue"), RECORD))
    version = registry.add(weights(1), name="me/ink", previews=[plain, recorded])
    first, second = registry.previews(version)
    assert registry.read(first.sha256) == plain.read_bytes()
    assert (first.prompt, first.seed) == ("", None)
    assert (second.prompt, second.seed) == ("a red heart", 7)


def test_what_is_no_picture_or_too_large_is_no_preview(
    registry: Registry, weights: Weights, tmp_path: Path
) -> None:
    text, cut, gif, huge = (tmp_path / f"{name}.png" for name in ("text", "cut", "gif", "huge"))
    text.write_text("no picture")
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    Image.new("1", (9000, 9000)).save(huge)
    for path in (text, cut, gif, huge):
        with pytest.raises(PictureError) as caught:
            registry.add(weights(1), name="me/ink", previews=[path])
        assert caught.value.path == path
    with pytest.raises(InputError):
        registry.add(weights(1), name="me/ink", previews=[tmp_path / "missing.png"])
    assert registry.list() == []


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.png", "x"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_under_any_name(
    registry: Registry, tmp_path: Path, name: str, protocol: int
) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"weights": list(range(100))}, protocol=protocol))
    with pytest.raises(PickleRefusedError):
        registry.add(path, name="me/ink", base="mini")
    assert registry.list() == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 5) + b"{bad}",
        weights_bytes(1)[:-1],
        weights_bytes(1) + b"\0",
        weights_bytes(1).replace(b'"F32"', b'"F16"'),
        weights_bytes(1).replace(b"[0, ", b"[4, "),
        weights_bytes(1).replace(b"lora_", b"none_"),
        pickle.dumps({"old": 1}, protocol=0),
    ],
)
def test_malformed_weights_are_refused(registry: Registry, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        registry.add(path, name="me/ink", base="mini")
    assert caught.value.path == path
    assert registry.list() == []


def test_verify_finds_every_damaged_and_missing_file(registry: Registry, weights: Weights) -> None:
    damaged = registry.add(weights(1), name="me/a")
    missing = registry.add(weights(2), name="me/b", documents={"note.txt": b"x"})
    registry.add(weights(3), name="me/c")
    assert list(registry.verify()) == []
    path = registry.blobs.path(damaged.files[0].sha256)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    registry.blobs.path(registry.documents(missing)[0].sha256).unlink()
    problems = {(item.subject, item.path): item.problem for item in registry.verify()}
    assert set(problems) == {("me/a@1", "pytorch_lora_weights.safetensors"), ("me/b@1", "note.txt")}
    assert damaged.files[0].sha256 in problems["me/a@1", "pytorch_lora_weights.safetensors"]
    assert problems["me/b@1", "note.txt"].startswith("missing")
    assert len(list(registry.verify("me/a@1"))) == 1
    assert list(registry.verify("me/c")) == []


def test_blobs_are_read_only_and_shared(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="me/a")
    second = registry.add(weights(1), name="me/b")
    path = registry.blobs.path(first.files[0].sha256)
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(registry.blobs.digests()) == [first.files[0].sha256]
    file = registry.directory(second) / "pytorch_lora_weights.safetensors"
    assert file.samefile(path)


def test_a_taken_number_is_a_conflict_that_changes_nothing(registry: Registry, weights: Weights) -> None:
    first = registry.add(weights(1), name="me/ink")
    other = registry.add(weights(2), name="me/other")
    with pytest.raises(VersionConflictError) as caught:
        registry.publish(Publication(name="me/ink", manifest=other.manifest, number=1))
    assert (caught.value.ours, caught.value.theirs) == (other.digest, first.digest)
    assert registry.versions("me/ink") == [first]


@pytest.mark.parametrize("size", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(
    registry: Registry, tmp_path: Path, weights: Weights, size: int
) -> None:
    content = weights(1).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].ljust(size)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert registry.add(path, name="me/ink", base="mini").number == 1
