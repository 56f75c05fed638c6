"""Whatever files hold, they are taken or refused by name, and nothing else happens."""

import base64
import dataclasses
import json
import re
import unicodedata
import zlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import deserialize

from adapterhub_registry.errors import (
    AdapterHubError,
    DigestMismatchError,
    FieldError,
    LockError,
    PickleRefusedError,
    PictureError,
    RecordError,
    RemoteError,
    VersionNotFoundError,
    WeightsError,
)
from adapterhub_registry.intake import read_payload, read_preview
from adapterhub_registry.lockfile import make_lock, read_lock
from adapterhub_registry.manifest import decimal_text
from adapterhub_registry.record import picture_with_record, png_with_record, read_record
from adapterhub_registry.references import parse_reference
from adapterhub_registry.remote_version import RemoteVersion
from adapterhub_registry.remotes import DirectoryRemote
from adapterhub_registry.safetensors_header import read_header
from adapterhub_registry.sidecars import read_sidecars
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.fuzzing import COUNTS, damaged, fuzz, mutated
from tests.registry.scenarios import SCENARIOS
from tests.registry.test_record import RECORD

# Files of weights.

TABLES: list[dict[str, Any]] = [
    {},
    {"__metadata__": {"a": "b"}, "x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}},
    {
        "unet.x.lora_A.weight": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
        "unet.x.lora_B.weight": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [12, 16]},
        "empty": {"dtype": "F64", "shape": [0, 7], "data_offsets": [16, 16]},
        "small": {"dtype": "F4", "shape": [2, 4], "data_offsets": [16, 20]},
    },
]


def weights_file(header: bytes, size: int) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(size)


def size_of(table: dict[str, Any]) -> int:
    return max((entry["data_offsets"][1] for entry in table.values() if "dtype" in entry), default=0)


@COUNTS
def test_a_header_is_read_if_the_reference_library_reads_it(count: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    good = [weights_file(json.dumps(table).encode(), size_of(table)) for table in TABLES]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            header = read_header(path)
        except (WeightsError, PickleRefusedError) as exc:
            assert exc.path == path
            assert content not in good
            return
        read = dict(deserialize(content))
        assert {name: list(info.shape) for name, info in header.tensors.items()} == {
            name: entry["shape"] for name, entry in read.items()
        }
        for name, info in header.tensors.items():
            start, end = header.data_start + info.start, header.data_start + info.end
            assert content[start:end] == read[name]["data"]

    changed = st.builds(
        lambda table, size, end, indent: weights_file(json.dumps(table, indent=indent).encode() + end, size),
        mutated(TABLES),
        st.sampled_from([0, 4, 16, 20, 21]),
        st.sampled_from([b"", b"", b" " * 7, b"\n", b"\0", b"x"]),
        st.sampled_from([None, 1]),
    )
    fuzz(check, changed | damaged(good) | st.binary(max_size=40), count=count)


@COUNTS
def test_a_peft_directory_is_read_or_refused(count: int, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "home")
    (tmp_path / "adapter_model.safetensors").write_bytes(weights_bytes(1))
    config = tmp_path / "adapter_config.json"

    def check(content: bytes) -> None:
        config.write_bytes(content)
        try:
            read_payload(tmp_path)
        except AdapterHubError:
            return
        assert isinstance(json.loads(content), dict)

    registry.close()
    good = {
        "peft_type": "LORA",
        "task_type": None,
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["to_k"],
        "rank_pattern": {"to_k": 4},
        "alpha_pattern": {},
    }
    tables = mutated([good]).map(lambda table: json.dumps(table).encode("utf-8", "surrogatepass"))
    fuzz(check, tables | damaged([json.dumps(good).encode()]), count=count)


# What lies beside them.


def check_sidecars(folder: Path, files: dict[str, bytes], metadata: dict[str, str]) -> None:
    for end in ENDINGS:
        (folder / f"x{end}").unlink(missing_ok=True)
    for end, content in files.items():
        (folder / f"x{end}").write_bytes(content)
    found = read_sidecars(folder / "x.safetensors", metadata)
    assert len(found.title) <= 2000
    assert len(found.description) <= 2000
    assert len(found.trigger_words) <= 50
    texts = [found.title, found.description, found.licence, found.weight, *found.trigger_words, *found.tags]
    for text in texts:
        assert not {unicodedata.category(letter) for letter in text} & {"Cc", "Cs"}
    if found.weight:
        assert decimal_text(found.weight) == found.weight


ENDINGS = (".civitai.info", ".json", ".txt")
CIVITAI = {
    "trainedWords": ["inkwash, soft", "grey"],
    "description": "<p>Soft <b>drawings</b></p>",
    "model": {"name": "Ink", "tags": ["Portrait"], "description": "x", "type": "LORA", "nsfw": False},
    "baseModel": "SDXL 1.0",
    "files": [{"name": "ink.safetensors", "hashes": {"AutoV2": "0123456789"}}],
    "images": [{"url": "https://x/y.png", "meta": {"prompt": "a cat"}}],
}
WEBUI = {
    "activation text": "ink",
    "preferred weight": 0.8,
    "description": "x",
    "notes": "y",
    "sd version": "SDXL",
}
METADATA = {
    "ss_output_name": "ink",
    "modelspec.title": "Ink",
    "modelspec.trigger_phrase": "a, b",
    "modelspec.tags": "a,b",
    "ss_tag_frequency": '{"10_ink": {"ink": 3}}',
}


@COUNTS
def test_sidecars_never_stop_anything(count: int, tmp_path: Path) -> None:
    def check(tables: list[Any], rest: bytes, metadata: Any) -> None:
        contents = [json.dumps(table).encode() for table in tables] + [rest]
        named = metadata if isinstance(metadata, dict) else {}
        texts = {key: value for key, value in named.items() if isinstance(value, str)}
        check_sidecars(tmp_path, dict(zip(ENDINGS, contents, strict=False)), texts)

    table = mutated([CIVITAI, WEBUI])
    notes = damaged([b"soft ink", json.dumps(CIVITAI).encode()])
    fuzz(check, st.lists(table, max_size=2), notes, mutated([METADATA]), count=count)


@COUNTS
def test_a_lock_file_is_read_or_refused(count: int, tmp_path: Path) -> None:
    path = tmp_path / "adapterhub.lock"
    digest = "sha256:" + "ab" * 32
    lock = make_lock([("me/ink", 3, digest, 0.8, ""), ("me/corgi", 1, digest, -1.0, "mid_block=0")])

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_lock(path)
        except LockError as exc:
            assert exc.path == path
            return
        for adapter in found.adapters:
            parsed = parse_reference(adapter.reference)
            assert (parsed.adapter, parsed.selector, parsed.remote) == (adapter.name, adapter.digest, "")
            assert type(adapter.number) is int
            assert adapter.number > 0
        path.write_text(found.to_json())
        assert read_lock(path) == found

    tables = mutated([json.loads(lock.to_json())]).map(lambda table: json.dumps(table).encode())
    fuzz(check, tables | damaged([lock.to_json().encode()]), count=count)


# Pictures.


@COUNTS
def test_the_record_of_a_picture_is_read_or_refused(count: int, tmp_path: Path) -> None:
    registry, path = Registry(tmp_path / "home"), tmp_path / "picture.png"

    def check(record: str, parameters: str) -> None:
        info = PngInfo()
        info.add_itxt("adapterhub", record)
        info.add_text("parameters", parameters)
        Image.new("L", (1, 1)).save(path, pnginfo=info)
        try:
            read_record(path)
        except RecordError as exc:
            assert exc.path == path
        try:
            registry.find_image(path)
        except (RecordError, PictureError) as exc:
            assert exc.path == path

    used = {"reference": "me/ink@1", "digest": "sha256:" + "ab" * 32, "weight": "0.8"}
    good = json.loads(dataclasses.replace(RECORD, composition=[used]).to_json())
    records = mutated([good]).map(json.dumps)
    hashes = st.lists(st.text("ab:, 0123456789", max_size=14), max_size=3).map(", ".join)
    fuzz(check, records, hashes.map('a dog\nSteps: 20, Lora hashes: "{}", Size: 1x1'.format), count=count)


@COUNTS
def test_a_damaged_picture_is_read_or_refused(count: int, tmp_path: Path) -> None:
    registry, path = Registry(tmp_path / "home"), tmp_path / "picture.png"
    small = png_with_record(Image.effect_noise((5, 5), 50).convert("RGB"), RECORD)
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    huge = small[:8] + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        for read in (registry.find_image, read_preview):
            try:
                read(path)
            except (RecordError, PictureError) as exc:
                assert exc.path == path

    check(huge)
    others = [picture_with_record(Image.new("RGB", (5, 5)), RECORD, kind) for kind in ("JPEG", "WEBP")]
    fuzz(check, damaged([small, huge, *others]), count=count)


# What others hand over.


@COUNTS
def test_what_a_remote_says_is_read_or_refused(count: int, tmp_path: Path) -> None:
    trial = tmp_path / "root"
    SCENARIOS["push with alias"].prepare(trial)
    folder = trial / "share" / "adapters" / "me" / "ink"
    entry, aliases = folder / "versions" / "1.json", folder / "aliases.json"
    good = entry.read_bytes()

    def check(content: bytes, moved: bytes) -> None:
        entry.write_bytes(content)
        aliases.write_bytes(moved)
        remote = DirectoryRemote("team", trial / "share")
        try:
            found = remote.resolve(parse_reference("me/ink@prod"))
            assert isinstance(found, RemoteVersion)
        except (RemoteError, DigestMismatchError, VersionNotFoundError):
            return
        assert found.manifest.to_json() == json.loads(good)["manifest"]
        said = [found.message, found.author, found.created, found.details.title or ""]
        for item in (*found.documents, *found.previews):
            assert re.fullmatch("[0-9a-f]{64}", item.sha256)
            assert Path("/x", item.name).resolve().parent == Path("/x")
            assert type(item.size) is int
            assert item.seed is None or -(2**63) <= item.seed < 2**63
            said += [item.name, item.prompt, *item.settings.values()]
        assert "".join(said).encode()

    tables = mutated([json.loads(good)]).map(lambda table: json.dumps(table).encode())
    moves = mutated([{"prod": 1}]).map(lambda table: json.dumps(table).encode()) | st.just(b'{"prod": 1}')
    fuzz(check, tables | damaged([good]), moves, count=count)


@COUNTS
def test_the_place_in_a_search_is_read_or_refused(count: int, home: Path, tmp_path: Path) -> None:
    registry = Registry(home)
    for seed in range(3):
        (tmp_path / "x").write_bytes(weights_bytes(seed))
        registry.add(tmp_path / "x", name=f"me/ink-{seed}")
    token = registry.search("ink", sort="name", limit=1).next
    assert token is not None

    def check(after: str) -> None:
        try:
            page = registry.search("ink", sort="name", limit=1, after=after)
        except FieldError as exc:
            assert exc.field == "after"
        else:
            assert len(page.adapters) <= 1

    table = json.loads(base64.urlsafe_b64decode(token))
    tables = mutated([table]).map(lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode())
    fuzz(check, tables | st.text(max_size=20), count=count)
