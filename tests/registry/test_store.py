"""The registry core: versions, aliases, what people say of adapters, and what is refused."""

import json
import pickle
import resource
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.errors import (
    AdapterNotFoundError,
    AliasMovedError,
    ArchitectureError,
    FieldError,
    InputError,
    PickleRefusedError,
    PictureError,
    VersionConflictError,
    VersionNotFoundError,
    WeightsError,
)
from adapterhub_registry.publication import Details, Publication
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

Weights = Callable[..., Path]


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home)


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
    text, cut, jpeg, huge = (tmp_path / f"{name}.png" for name in ("text", "cut", "jpeg", "huge"))
    text.write_text("no picture")
    Image.effect_noise((64, 64), 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    Image.new("1", (9000, 9000)).save(huge)
    for path in (text, cut, jpeg, huge):
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
    problems = {(version.name, path): problem for version, path, problem in registry.verify()}
    assert set(problems) == {("me/a", "pytorch_lora_weights.safetensors"), ("me/b", "note.txt")}
    assert damaged.files[0].sha256 in problems["me/a", "pytorch_lora_weights.safetensors"]
    assert problems["me/b", "note.txt"].startswith("missing")
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


@pytest.mark.parametrize(("limit", "error"), [(1_000, "DatabaseError"), (250_000, "OutputError")])
def test_a_full_disk_adds_nothing(home: Path, weights: Weights, limit: int, error: str) -> None:
    Registry(home).close()
    program = (
        "import sys; from pathlib import Path; from adapterhub_registry.store import Registry\n"
        "try: Registry(Path(sys.argv[1])).add(sys.argv[2], name='me/ink')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    path = weights(1, metadata={"comment": "x" * 300_000})
    done = subprocess.run(
        [sys.executable, "-c", program, home, path],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.stdout == f"{error}\n"
    registry = Registry(home)
    assert registry.list() == []
    assert list(registry.blobs.digests()) == []
    assert list(home.glob("staging/*")) == []


@pytest.mark.parametrize(("workers", "each"), [(4, 10), pytest.param(16, 25, marks=pytest.mark.long)])
def test_many_processes_number_versions_without_gap_or_repeat(
    home: Path, tmp_path: Path, workers: int, each: int
) -> None:
    program = (
        "import sys; from pathlib import Path; from adapterhub_registry.store import Registry\n"
        "from tests.registry.conftest import weights_bytes\n"
        "registry = Registry(Path(sys.argv[1])); worker = int(sys.argv[2]); path = Path(sys.argv[3])\n"
        f"for item in range({each}):\n"
        "    path.write_bytes(weights_bytes(item, metadata={'worker': str(worker)}))\n"
        "    registry.add(path, name='me/ink')\n"
    )
    root = Path(__file__).parents[2]

    def work(worker: int) -> None:
        command = [sys.executable, "-c", program, home, str(worker), tmp_path / f"{worker}.safetensors"]
        subprocess.run(command, check=True, cwd=root)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))  # the database is created in the race too
    registry = Registry(home)
    assert [version.number for version in registry.versions("me/ink")] == list(range(1, workers * each + 1))
    assert list(registry.verify()) == []
    with sqlite3.connect(home / "registry.db") as connection:
        (events,) = connection.execute("select count(*) from event where action = 'publish'").fetchone()
    assert events == workers * each


def test_the_tables_are_those_of_the_migrations(home: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine
    from sqlmodel import SQLModel

    Registry(home).close()
    with create_engine(f"sqlite:///{home / 'registry.db'}").connect() as connection:
        # The tables of the full-text index are SQLite's own.
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or not name.startswith("search")},
        )
        assert compare_metadata(context, SQLModel.metadata) == []


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
