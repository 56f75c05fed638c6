"""What is read from the files of a version, never typed: ranks, alphas, targets, training, size, hashes."""

import hashlib
import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.errors import WeightsError
from adapterhub_registry.hashes import FileHashes
from adapterhub_registry.manifest import Manifest, PayloadFile
from adapterhub_registry.probe import Probe, describe, read_peft_config
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.safetensors_header import Header, TensorInfo, read_header

WEIGHTS_SUFFIX = ".safetensors"
CONFIG = "adapter_config.json"
RUN = "run.json"
"""The document in which our trainer reports a run."""
MAX_RUN_BYTES = 1 << 20
DIFFUSERS_CONFIG = "lora_adapter_metadata"
METRICS = {
    "ss_steps": "steps",
    "ss_max_train_steps": "max_steps",
    "ss_epoch": "epoch",
    "ss_num_epochs": "epochs",
    "ss_num_train_images": "images",
    "ss_num_reg_images": "regularisation_images",
    "ss_num_batches_per_epoch": "batches_per_epoch",
    "ss_total_batch_size": "batch_size",
    "ss_learning_rate": "learning_rate",
    "ss_unet_lr": "unet_learning_rate",
    "ss_text_encoder_lr": "text_encoder_learning_rate",
    "ss_optimizer": "optimizer",
    "ss_lr_scheduler": "schedule",
    "ss_resolution": "resolution",
    "ss_seed": "seed",
    "modelspec.resolution": "resolution",
}
"""What the headers of kohya's scripts and ModelSpec say of a training, and what it is called here."""
MAX_METRIC = 200
MAX_ALPHAS = 32
_FLOATS = {"F16": "<e", "F32": "<f", "F64": "<d"}


@dataclass(frozen=True)
class Facts:
    """What the files of a version say.

    Attributes:
        ranks: The ranks that occur, for example `8` or `4 8 16`.
        alphas: The alphas that occur, likewise, or the least and the greatest of very many; empty where the
            files name none, and the scaling is 1.
        targets: How many modules of which component are changed: `unet 264, text_encoder 72`.
        parameters: Numbers stored.
        size: Bytes of the payload.
        payload_digest: SHA-256 of the tensors' bytes, without headers: the same for the same weights with new
            metadata. Of several files, over their digests in the order of their paths.
        metrics: What the header says of the training, by the names in `METRICS`; all text.
        hashes: Path to hashes, of the safetensors files.
        linked: The file or directory of another tool that the payload is a hard link to; empty if it is none.
    """

    ranks: str
    alphas: str
    targets: str
    parameters: int
    size: int
    payload_digest: str
    metrics: Mapping[str, str] = field(default_factory=dict[str, str])
    hashes: Mapping[str, FileHashes] = field(default_factory=dict[str, FileHashes])
    linked: str = ""


@dataclass(frozen=True)
class VersionFacts:
    """What is known of the files of a version without reading them; the fields are those of `Facts`.

    Attributes:
        ranks: The ranks that occur.
        alphas: The alphas that occur.
        targets: How many modules of which component.
        parameters: Numbers stored.
        size: Bytes of the payload.
        payload_digest: Of the tensors' bytes.
        metrics: What the files say of the training.
        linked: What the payload is a hard link to, and who changes that changes it; empty if it is none.
    """

    ranks: str
    alphas: str
    targets: str
    parameters: int
    size: int
    payload_digest: str
    metrics: Mapping[str, str]
    linked: str


def read_alphas(path: Path, header: Header, config: Mapping[str, Any] | None = None) -> set[float]:
    """Read the alphas of a file of weights: the tensors of that name, a few bytes each, or else the header.

    Args:
        path: The file.
        header: Its header.
        config: `adapter_config.json`, if it lies in a PEFT directory.

    Raises:
        OSError: The file cannot be read.
    """
    alphas = set(_stored_alphas(path, header))
    if not alphas:
        alphas = {value for table in _configs(header, config or {}) for value in _config_alphas(table)}
    return {value for value in alphas if math.isfinite(value)}


def facts_of(
    files: Iterable[PayloadFile],
    probes: Iterable[tuple[Probe, set[float]]],
    hashes: Mapping[str, FileHashes],
    *,
    run: bytes = b"",
    linked: str = "",
) -> Facts:
    """Put together what the files of a version say.

    Args:
        files: All files.
        probes: What those with weights are, and their alphas.
        hashes: Of those with weights, by path.
        run: The trainer's report, if it lies beside them.
        linked: As in `Facts`.
    """
    known = list(probes)
    metrics = {name: text for probe, _ in known for name, text in _metrics(probe.metadata).items()}
    targets: Counter[str] = Counter()
    for probe, _ in known:
        targets.update(probe.targets)
    ranks = sorted({rank for probe, _ in known for rank in probe.ranks})
    alphas = [f"{alpha:g}" for alpha in sorted({alpha for _, alphas in known for alpha in alphas})]
    if len(alphas) > MAX_ALPHAS:
        alphas = [alphas[0], "...", alphas[-1]]
    digests = [value.data_sha256 for _, value in sorted(hashes.items())]
    joined = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return Facts(
        ranks=" ".join(map(str, ranks)),
        alphas=" ".join(alphas),
        targets=", ".join(f"{name or 'modules'} {count}" for name, count in targets.most_common()),
        parameters=sum(probe.parameters for probe, _ in known),
        size=sum(file.size for file in files),
        payload_digest=joined if digests else "",
        metrics=metrics | _run_metrics(run),
        hashes=dict(hashes),
        linked=linked,
    )


def read_facts(manifest: Manifest, blobs: DirectoryBlobs, documents: Iterable[StoredFile] = ()) -> Facts:
    """Read what the files of a version say; each is read from end to end, unless it came in just now.

    Args:
        manifest: Of the version.
        blobs: Where its files lie.
        documents: What lies beside it.

    Raises:
        WeightsError: One is no safetensors file.
        OSError: One cannot be read.
    """
    hashes = {
        file.path: blobs.hashes(file.sha256) for file in manifest.files if file.path.endswith(WEIGHTS_SUFFIX)
    }
    return facts_of(manifest.files, _probes(manifest, blobs.path), hashes, run=_run(documents, blobs.path))


def read_headers(
    manifest: Manifest, path_of: Callable[[str], Path], documents: Iterable[StoredFile] = ()
) -> Facts:
    """Read what the headers of a version's files say; there are no hashes. As `read_facts` otherwise."""
    return facts_of(manifest.files, _probes(manifest, path_of), {}, run=_run(documents, path_of))


def _probes(manifest: Manifest, path_of: Callable[[str], Path]) -> Iterator[tuple[Probe, set[float]]]:
    paths = {file.path: path_of(file.sha256) for file in manifest.files}
    for name, path in paths.items():
        if not name.endswith(WEIGHTS_SUFFIX):
            continue
        header = read_header(path)
        try:
            config = read_peft_config(paths[CONFIG]) if CONFIG in paths else None
            yield describe(path, header, config=config), read_alphas(path, header, config)
        except WeightsError:
            continue  # a remote may hold what this release does not understand yet


def _run(documents: Iterable[StoredFile], path_of: Callable[[str], Path]) -> bytes:
    """Return the trainer's report, if there is a sensible one."""
    found = (item for item in documents if item.name == RUN and item.size <= MAX_RUN_BYTES)
    return next((path_of(item.sha256).read_bytes() for item in found), b"")


def _stored_alphas(path: Path, header: Header) -> Iterator[float]:
    """Yield the values of the tensors named `....alpha`."""
    with path.open("rb", buffering=0) as file:
        for name, info in header.tensors.items():
            if name.endswith(".alpha") and math.prod(info.shape) == 1:
                file.seek(header.data_start + info.start)
                yield from _number(info, file.read(info.end - info.start))


def _number(info: TensorInfo, content: bytes) -> Iterator[float]:
    if info.dtype == "BF16":
        info, content = info._replace(dtype="F32"), b"\0\0" + content
    if info.dtype in _FLOATS and len(content) == struct.calcsize(_FLOATS[info.dtype]):
        yield struct.unpack(_FLOATS[info.dtype], content)[0]


def _configs(header: Header, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what may name alphas where no tensor does: PEFT's config, diffusers' and kohya's header."""
    yield config
    try:
        table: Any = json.loads(header.metadata.get(DIFFUSERS_CONFIG, "{}"))
    except (ValueError, RecursionError):
        table = {}
    if isinstance(table, dict):
        entries: dict[str, Any] = table  # pyright: ignore[reportUnknownVariableType]
        yield from ({name.rsplit(".", 1)[-1]: value} for name, value in entries.items())
    yield {"lora_alpha": header.metadata.get("ss_network_alpha")}


def _config_alphas(table: Mapping[str, Any]) -> Iterator[float]:
    patterns = table.get("alpha_pattern")
    values: list[Any] = [table.get("lora_alpha")]
    if isinstance(patterns, dict):
        values += patterns.values()  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    for value in values:
        with suppress(TypeError, ValueError, OverflowError):
            yield float(value)


def _metrics(metadata: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, text in metadata.items():
        name = METRICS.get(key) or (key.removeprefix("ss_") if key.endswith("loss") else "")
        if name and text not in ("", "None") and len(text) <= MAX_METRIC and text.isprintable():
            found.setdefault(name, text)
    return found


def _run_metrics(report: bytes) -> dict[str, str]:
    """Return the numbers of a trainer's report that stand for themselves, such as `final_loss`."""
    try:
        table: Any = json.loads(report or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(table, dict):
        return {}
    entries: dict[str, Any] = table  # pyright: ignore[reportUnknownVariableType]
    return {
        name: str(value)
        for name, value in entries.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and len(name) <= MAX_METRIC
    }
