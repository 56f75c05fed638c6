"""Make new versions out of old ones, and files for other tools: references and files in, one version out."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from adapterhub.bases.find import find_base
from adapterhub.errors import ArchitectureError, CompositionError, InputError
from adapterhub.formats import bake as baking
from adapterhub.formats import interop
from adapterhub.formats.checkpoint import Checkpoint
from adapterhub.formats.headers import described
from adapterhub.formats.misread import warnings_for
from adapterhub.formats.subjects import Subject, open_sound, open_subject, split_weight
from adapterhub.formats.write import adapter_files, source_config, write_adapter
from adapterhub.lora import compare as comparing
from adapterhub.lora import convert as converting
from adapterhub.lora import extract as extracting
from adapterhub.lora import inspect as inspecting
from adapterhub.lora import merge as merging
from adapterhub.lora import resize as resizing
from adapterhub.lora.weights import MODEL, AdapterTensors, Target
from adapterhub_registry.manifest import Version
from adapterhub_registry.probe import TRANSFORMERS
from adapterhub_registry.store import Registry


def merge(
    adapters: Sequence[str],
    *,
    name: str,
    method: str = "cat",
    registry: Registry | None = None,
    base: str | None = None,
    message: str = "",
    **settings: Any,
) -> Version:
    """Merge adapters into a new version; `adapterhub.lora.merge.merge` has the methods and their settings.

    Args:
        adapters: `REF:WEIGHT` or `FILE:WEIGHT`, at least one; a weight that is left out is 1.
        name: `namespace/name` of the result.
        method: See `adapterhub.lora.merge.merge`.
        registry: Where references are looked up and the version goes.
        base: The base, where neither parent nor weights tell.
        message: What to say of the version.
        **settings: `rank`, `energy`, `density` and so on.

    Returns:
        The version; its lineage holds the parents' digests and weights, the method and its settings.

    Raises:
        ArchitectureError: The adapters are of different architectures.
        AdapterHubError: As `open_subject` and `adapterhub.lora.merge.merge`.
    """
    registry = registry or Registry()
    terms = [split_weight(text) for text in adapters]
    subjects = [open_sound(subject, registry=registry) for subject, _ in terms]
    if not subjects:
        raise CompositionError("", "there is no adapter to merge")
    _same_architecture(subjects)
    weights = [weight for _, weight in terms]
    labels = [subject.label for subject in subjects]
    result = merging.merge(
        [subject.tensors for subject in subjects], weights, method=method, names=labels, **settings
    )
    lineage = {
        "operation": "merged",
        "method": method,
        "energy_kept": f"{resizing.energy_kept(result.adapter, result.layers):.6f}",
        **_parents(subjects, weights),
        **_words(settings),
    }
    text = " + ".join(f"{label}:{weight:g}" for label, weight in zip(labels, weights, strict=True))
    return register(
        result.adapter,
        parents=subjects,
        name=name,
        registry=registry,
        base=base,
        lineage=lineage,
        message=message or f"{method}: {text}",
    )


def resize(
    subject: str,
    *,
    name: str,
    registry: Registry | None = None,
    base: str | None = None,
    message: str = "",
    **settings: Any,
) -> Version:
    """Make a version of lower rank; `adapterhub.lora.resize.resize` has the settings.

    Args:
        subject: A reference or a file.
        name: `namespace/name` of the result.
        registry: Where references are looked up and the version goes.
        base: The base, where neither parent nor weights tell.
        message: What to say of the version.
        **settings: One or more of `rank`, `ratio`, `frobenius`, `energy`.
    """
    registry = registry or Registry()
    found = open_sound(subject, registry=registry)
    result = resizing.resize(found.tensors, **settings)
    lineage = {
        "operation": "resized",
        "energy_kept": f"{resizing.energy_kept(result.adapter, result.layers):.6f}",
        **_parents([found]),
        **_words(settings),
    }
    return register(
        result.adapter,
        parents=[found],
        name=name,
        registry=registry,
        base=base,
        lineage=lineage,
        message=message or f"resized from {found.label}",
    )


def convert(
    subject: str,
    *,
    name: str,
    registry: Registry | None = None,
    rank: int | None = None,
    energy: float | None = None,
    base: str | None = None,
    message: str = "",
) -> tuple[Version, converting.Converted]:
    """Make a version that is plain LoRA; see `adapterhub.lora.convert.to_lora`.

    Args:
        subject: A reference or a file.
        name: `namespace/name` of the result.
        registry: Where references are looked up and the version goes.
        rank: Largest rank of a converted layer.
        energy: What a converted layer keeps.
        base: The base whose weights DoRA, OFT and others depend on.
        message: What to say of the version.

    Returns:
        The version, and what became of each layer.
    """
    registry = registry or Registry()
    found = open_sound(subject, registry=registry)
    done = converting.to_lora(found.tensors, rank=rank, energy=energy, base=base_weights(base))
    lineage = {"operation": "converted", **_parents([found]), **_words({"rank": rank, "energy": energy})}
    version = register(
        done.adapter,
        parents=[found],
        name=name,
        registry=registry,
        base=base,
        lineage=lineage,
        message=message or f"plain LoRA of {found.label}",
    )
    return version, done


def convert_file(
    subject: str,
    out: Path,
    *,
    format: str = "kohya",  # noqa: A002
    registry: Registry | None = None,
    rank: int | None = None,
    energy: float | None = None,
    base: str | None = None,
) -> converting.Converted:
    """Write a plain LoRA file of an adapter; as `convert`, and registers nothing."""
    found = open_sound(subject, registry=registry)
    done = converting.to_lora(found.tensors, rank=rank, energy=energy, base=base_weights(base))
    write_adapter(done.adapter, out, format=format, **_header_words(found))
    return done


def extract(
    base: str,
    tuned: str | Path,
    *,
    name: str,
    rank: int,
    registry: Registry | None = None,
    message: str = "",
    **settings: Any,
) -> tuple[Version, extracting.Extracted]:
    """Make a version of what a tuned checkpoint has learnt; see `adapterhub.lora.extract.extract`.

    Args:
        base: The base: a name, directory or hub id; or a single-file checkpoint.
        tuned: A directory or a single file.
        name: `namespace/name` of the result.
        rank: Largest rank of a layer.
        registry: Where the version goes.
        message: What to say of the version.
        **settings: `energy`, `exact`, `norms`, `dtype`, `seed`.
    """
    registry = registry or Registry()
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    shared = [target for target in before.weights if target in after.weights]
    are_alike = all(before.shape(before.weights[t]) == after.shape(after.weights[t]) for t in shared)
    if not shared or not are_alike:
        raise ArchitectureError(str(tuned), str(base))
    pairs = ((target, before.weight(target), after.weight(target)) for target in shared)
    found = extracting.extract(pairs, rank=rank, **settings)
    if not found.adapter.layers:
        raise InputError(Path(tuned), "its weights are those of the base: there is nothing to extract")
    lineage = {"operation": "extracted", "checkpoint": Path(tuned).name, **_words({"rank": rank, **settings})}
    is_file = Path(base).is_file()
    version = register(
        found.adapter,
        parents=[],
        name=name,
        registry=registry,
        base=None if is_file else base,
        lineage=lineage,
        message=message or f"extracted from {Path(tuned).name}",
    )
    return version, found


def export(
    subject: str,
    out: Path,
    *,
    format: str = "kohya",  # noqa: A002
    registry: Registry | None = None,
    dtype: str | None = None,
    fold_alpha: bool = False,
    strip: str | None = None,
) -> list[str]:
    """Write an adapter for another tool; see `adapterhub.formats.write.write_adapter`.

    The header says what the registry knows: title, trigger words, licence. Where the file is this format
    already and no option changes it, it is copied bit for bit.

    Args:
        subject: A reference or a file.
        out: The file, or for `peft` the directory.
        format: `kohya`, `diffusers`, `peft`, `comfy` or `a1111`.
        registry: Where references are looked up.
        dtype: Of the factors; None keeps it.
        fold_alpha: Multiply the scale into B.
        strip: `training` takes out what tells of the training.

    Returns:
        What other tools will not read as it is meant, as sentences.
    """
    found = open_sound(subject, registry=registry)
    write_adapter(
        found.tensors,
        out,
        format=format,
        dtype=dtype,
        fold_alpha=fold_alpha,
        strip=strip,
        **_header_words(found),
    )
    return warnings_for(found.tensors, format)


def bake(
    base: str | Path,
    adapters: Sequence[str],
    out: Path,
    *,
    registry: Registry | None = None,
    on_tensor: Callable[[int, int], None] | None = None,
) -> int:
    """Write a checkpoint with adapters in its weights; see `adapterhub.formats.bake.bake`.

    Args:
        base: A base's name, a directory or a single-file checkpoint.
        adapters: `REF:WEIGHT` or `FILE:WEIGHT`.
        out: A file, or a directory where the base is one.
        registry: Where references are looked up.
        on_tensor: Called after each tensor with (tensors done, tensors).

    Returns:
        How many tensors were changed.
    """
    checkpoint = open_checkpoint(base)
    terms = [split_weight(text) for text in adapters]
    pairs = [(open_sound(subject, registry=registry).tensors, weight) for subject, weight in terms]
    return baking.bake(checkpoint, pairs, out, on_tensor=on_tensor)


def compare(*adapters: str, registry: Registry | None = None, **settings: Any) -> comparing.Comparison:
    """Compare adapters; see `adapterhub.lora.compare.compare`.

    Args:
        *adapters: References or files, at least two.
        registry: Where references are looked up.
        **settings: See `adapterhub.lora.compare.compare`.
    """
    subjects = [open_sound(adapter, registry=registry) for adapter in adapters]
    _same_architecture(subjects)
    named: dict[str, AdapterTensors] = {}
    for number, subject in enumerate(subjects, 1):
        label = subject.label if subject.label not in named else f"{subject.label} ({number})"
        named[label] = subject.tensors
    return comparing.compare(named, **settings)


def inspect(
    subject: str, *, base: str | None = None, registry: Registry | None = None
) -> inspecting.AdapterReport:
    """Measure an adapter layer by layer; see `adapterhub.lora.inspect.inspect`.

    Args:
        subject: A reference or a file.
        base: The base, for relative norms and for algorithms that depend on its weights.
        registry: Where references are looked up.
    """
    return inspecting.inspect(open_subject(subject, registry=registry).tensors, base=base_weights(base))


def load_into(
    pipeline: Any,
    subject: "str | Path | AdapterTensors",
    *,
    registry: Registry | None = None,
    adapter_name: str = "default",
    weight: float = 1.0,
    rank: int | None = None,
    energy: float | None = None,
) -> int:
    """Load an adapter into a stock diffusers pipeline; see `adapterhub.formats.interop.load_into`.

    Args:
        pipeline: A `StableDiffusionXLPipeline`.
        subject: A reference, a file, or tensors.
        registry: Where references are looked up.
        adapter_name: PEFT's name for it in the pipeline.
        weight: Its strength.
        rank: Largest rank of layers that are no plain LoRA.
        energy: What these layers keep.

    Returns:
        How many modules it changes.
    """
    if not isinstance(subject, AdapterTensors):
        found = open_sound(subject, registry=registry)
        if found.architecture.startswith(TRANSFORMERS):
            raise ArchitectureError(found.architecture, "sdxl")
        subject = found.tensors
    return interop.load_into(
        pipeline, subject, adapter_name=adapter_name, weight=weight, rank=rank, energy=energy
    )


def open_checkpoint(base: str | Path) -> Checkpoint:
    """Open a base's name, a directory in diffusers' format, or a single-file checkpoint."""
    path = Path(base)
    return Checkpoint(path if path.exists() else find_base(str(base)).path)


def base_weights(base: str | None) -> Callable[[Target], Tensor] | None:
    """Return what reads a base's weights one at a time; None for no base."""
    return None if base is None else open_checkpoint(base).weight


def register(
    adapter: AdapterTensors,
    *,
    parents: Sequence[Subject],
    name: str,
    registry: Registry,
    lineage: Mapping[str, str],
    message: str,
    base: str | None = None,
) -> Version:
    """Write tensors that were computed, and add them as a version that knows its parents.

    Plain LoRA is stored in diffusers' layout, others in kohya's, language models' as a PEFT directory.
    """
    versions = [parent.version for parent in parents if parent.version is not None]
    like = versions[0] if versions and base is None else None
    words = dict.fromkeys(word for version in versions for word in version.trigger_words)
    licences = {version.manifest.licence for version in versions}
    format_name = "diffusers" if adapter.algorithms in ((), ("lora",)) and not adapter.biases else "kohya"
    if adapter.components == (MODEL,):
        format_name = "peft"
    config = source_config(parents[0].tensors) if parents else {}
    files = adapter_files(adapter, format_name, metadata=described(adapter), peft_config=config)
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        path = Path(folder) if format_name == "peft" else Path(folder) / next(iter(files))
        return registry.add(
            path,
            name=name,
            base=base,
            like=like,
            trigger_words=tuple(words),
            licence=licences.pop() if len(licences) == 1 else "",
            lineage=lineage,
            message=message,
        )


def _same_architecture(subjects: Sequence[Subject]) -> None:
    known = [subject for subject in subjects if subject.architecture]
    for subject in known[1:]:
        if subject.architecture != known[0].architecture:
            raise ArchitectureError(subject.architecture, known[0].architecture)


def _parents(subjects: Sequence[Subject], weights: Sequence[float] | None = None) -> dict[str, str]:
    """Return lineage fields: digests and weights in their order; digests outlive names."""
    fields: dict[str, str] = {}
    for number, subject in enumerate(subjects, 1):
        fields[f"parent.{number}"] = subject.digest
        fields[f"parent.{number}.name"] = subject.label
        if weights is not None:
            fields[f"parent.{number}.weight"] = repr(weights[number - 1])
    return fields


def _words(settings: Mapping[str, Any]) -> dict[str, str]:
    return {f"setting.{name}": str(value) for name, value in sorted(settings.items()) if value is not None}


def _header_words(subject: Subject) -> dict[str, Any]:
    """Return what the header of an exported file says; nothing for a file that came from elsewhere."""
    if subject.version is None:
        return {}
    version = subject.version
    return {
        "architecture": version.architecture,
        "title": version.name.split("/")[-1],
        "trigger_words": version.trigger_words,
        "licence": version.manifest.licence,
    }
