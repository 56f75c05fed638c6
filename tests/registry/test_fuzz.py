"""Whatever is read from outside is taken or refused by name, and never anything else."""

import base64
import dataclasses
import hashlib
import json
import re
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import deserialize

from adapterhub_registry.errors import (
    AdapterHubError,
    DigestMismatchError,
    FieldError,
    LockError,
    ManifestError,
    PickleRefusedError,
    PictureError,
    RecordError,
    ReferenceSyntaxError,
    RemoteError,
    VersionNotFoundError,
    WeightsError,
)
from adapterhub_registry.intake import read_payload, read_preview
from adapterhub_registry.lockfile import make_lock, read_lock
from adapterhub_registry.manifest import Manifest, PayloadFile, decimal_text
from adapterhub_registry.record import png_with_record, read_record
from adapterhub_registry.references import Reference, parse_reference
from adapterhub_registry.remotes import DirectoryRemote
from adapterhub_registry.safetensors_header import read_header
from adapterhub_registry.sidecars import read_sidecars
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.fuzzing import SCALARS, canonical, damaged, fuzz, mutated
from tests.registry.scenarios import SCENARIOS
from tests.registry.test_record import RECORD

COUNTS = pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.long)])

# References.

NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[a-z0-9][a-z0-9._-]{0,95}", re.ASCII)
SELECTOR = re.compile(r"v?[0-9]{1,9}|sha256:[0-9a-f]{12,64}|(?!v[0-9]+$)[a-z][a-z0-9._-]{0,63}", re.ASCII)
PARTS = st.sampled_from(
    [
        *(
            "me",
            "Ink",
            "a--b",
            "a..b",
            "..",
            "-",
            ".",
            "",
            "a/b",
            "v3",
            "V007",
            "3",
            "1234567890",
            "v1234567890",
        ),
        *(
            "sha256:abcdef01234",
            "SHA256:ABCDEF012345",
            "x" * 64,
            "x" * 97,
            "latest",
            "Prod",
            " ",
            "a\n",
            "a\0",
        ),
        *("\u017f", "\u212a", "a\u0130", "\u0131", "\u00e9", "a.git", "a.GIT", "0", "00", "a:b", "a@b"),
    ]
)
names = st.text("abz059._-", min_size=1, max_size=9).filter(NAME.fullmatch)
selectors = names.filter(SELECTOR.fullmatch) | st.integers(0, 10**9 - 1).map("v{:03}".format)
selectors |= st.text("0123456789abcdef", min_size=12, max_size=64).map("sha256:{}".format)


def is_reference(text: str) -> bool:
    """Say what the grammar says: `[remote:]namespace/name[@selector]`, whatever the case."""
    if not text.isascii():
        return False
    place, at, selector = text.strip().lower().partition("@")
    remote, colon, path = place.rpartition(":")
    parts = path.split("/")
    is_named = len(parts) == 2 and all(NAME.fullmatch(part) for part in parts)
    is_remote = not colon or re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,95}", remote) is not None
    return is_named and is_remote and (not at or SELECTOR.fullmatch(selector) is not None)


@COUNTS
def test_a_reference_is_read_if_it_follows_the_grammar(count: int) -> None:
    def check(text: str) -> None:
        try:
            reference = parse_reference(text)
        except ReferenceSyntaxError as exc:
            assert exc.text == text
            assert not is_reference(text)
        else:
            assert is_reference(text)
            assert parse_reference(str(reference)) == reference

    forms = st.sampled_from(
        ["{0}/{1}@{2}", "{3}:{0}/{1}@{2}", "{0}/{1}", "{3}:{0}/{1}", " {0}/{1}@{2}\n", "{0}@{2}"]
    )
    parts = st.tuples(*[names | PARTS] * 2, selectors | PARTS, names | PARTS)
    written = st.builds(lambda form, words: form.format(*words), forms, parts)
    fuzz(check, written | st.text(max_size=20), count=count)


@COUNTS
def test_a_reference_is_what_it_was_made_of(count: int) -> None:
    def check(namespace: str, name: str, selector: str, remote: str) -> None:
        text = f"{remote}:{namespace}/{name}@{selector}"
        number = selector.removeprefix("v")
        expected = str(int(number)) if number.isdigit() else selector
        for written in (text, text.upper()):
            assert parse_reference(written) == Reference(namespace, name, expected, remote)

    fuzz(check, names, names, selectors, names, count=count)


# Manifests.

MANIFESTS = [
    Manifest((PayloadFile("pytorch_lora_weights.safetensors", 2348, "ab" * 32),), "mini"),
    Manifest(
        files=(
            PayloadFile("adapter_config.json", 0, "0" * 64),
            PayloadFile("adapter_model.safetensors", 2**40, "f" * 64),
            PayloadFile("text/encoder.safetensors", 9, "01" * 32),
        ),
        architecture="sdxl",
        base_identity="sha256:" + "cd" * 32,
        algorithm="locon",
        trigger_words=("inkwash", "\u58a8\u7d75"),
        recommended_weight="-0.8",
        licence="CC-BY-4.0",
        lineage={"operation": "merged", "parent.1": "sha256:" + "1" * 64, "parent.1.weight": "0.5"},
    ),
]


def check_manifest(text: str) -> None:
    """Read it; what was read is safe to keep and to write to disk."""
    try:
        manifest = Manifest.from_json(text)
    except ManifestError:
        return
    assert manifest.to_json() == text
    words = [manifest.architecture, manifest.base_identity, manifest.algorithm, manifest.licence]
    words += [*manifest.trigger_words, *manifest.lineage, *manifest.lineage.values()]
    for word in words:
        assert isinstance(word, str)
        word.encode()
    for file in manifest.files:
        assert type(file.size) is int
        assert 0 <= file.size < 2**63
        target = Path("/home/versions") / file.path
        assert target.resolve().relative_to("/home/versions").as_posix() == file.path
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    places = [file.path for file in manifest.files]
    assert not any(other.startswith(f"{place}/") for place in places for other in places)


@COUNTS
def test_a_manifest_is_read_as_it_was_written_whatever_the_order_of_its_keys(count: int) -> None:
    def check(words: list[str], lineage: dict[str, str], weight: int, is_backwards: bool) -> None:
        parts = {
            "trigger_words": tuple(words),
            "recommended_weight": decimal_text(weight / 8),
            "licence": words[0],
        }
        ordered = dict(sorted(lineage.items(), reverse=is_backwards))
        manifest = Manifest(MANIFESTS[1].files, "mini", **parts, lineage=ordered)
        assert Manifest.from_json(manifest.to_json()) == manifest
        text = canonical({"format": 1, **dataclasses.asdict(manifest)})
        assert manifest.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
    listed, tables = st.lists(words, min_size=1, max_size=3), st.dictionaries(words, words, max_size=3)
    fuzz(check, listed, tables, st.integers(-80, 80), st.booleans(), count=count)


@COUNTS
def test_any_other_manifest_is_refused(count: int) -> None:
    tables = [json.loads(manifest.to_json()) for manifest in MANIFESTS]
    changed = damaged([manifest.to_json().encode() for manifest in MANIFESTS])
    texts = changed.map(lambda content: content.decode("utf-8", "replace"))
    fuzz(check_manifest, mutated(tables).map(canonical) | texts, count=count)


@COUNTS
def test_a_decimal_has_one_form(count: int) -> None:
    def check(value: Any) -> None:
        try:
            text = decimal_text(value)
        except ManifestError:
            return
        assert decimal_text(text) == text
        assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text)
        assert len(text) < 500

    fuzz(check, st.floats() | st.text("-+.0019_eE", max_size=9) | SCALARS, count=count)


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
    lock = make_lock([("me/ink", 3, digest, 0.8), ("me/corgi", 1, digest, -1.0)])

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
    fuzz(check, damaged([small, huge]), count=count)


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
            assert remote.details("me/ink") == found.details
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
