"""What a commit on `main` means: a new version, or other words and pictures for the newest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapterhub_registry import intake
from adapterhub_registry.card import ParsedCard, parse_card
from adapterhub_registry.describing import README
from adapterhub_registry.errors import (
    ArchitectureError,
    FieldError,
    InputError,
    PickleRefusedError,
    PictureError,
    WeightsError,
)
from adapterhub_registry.facts import CONFIG, Facts, read_facts
from adapterhub_registry.front_matter import read_front_matter, split_front_matter
from adapterhub_registry.manifest import Manifest, PayloadFile, Version
from adapterhub_registry.probe import BASE_MODELS, Probe, describe, read_peft_config
from adapterhub_registry.publication import Details, StoredFile
from adapterhub_registry.safetensors_header import read_header
from adapterhub_registry.server.history import TreeFile
from adapterhub_registry.server.paths import is_picture, is_text, is_weights
from adapterhub_registry.store import Registry

PEFT_WEIGHTS = "adapter_model.safetensors"
MAX_PICTURES = 64


@dataclass(frozen=True)
class Meaning:
    """What follows from new files.

    Attributes:
        files: The files, with the preview that was made of each picture.
        manifest: Of the version to publish; None if the payload is as it was.
        facts: What the payload says.
        documents: What lies beside the version.
        previews: The pictures of the version; None if they are as they were.
        details: What is said of the adapter now; None if nothing else.
        warnings: What was not followed.
    """

    files: Mapping[str, TreeFile]
    manifest: Manifest | None = None
    facts: Facts | None = None
    documents: Sequence[StoredFile] = ()
    previews: Sequence[StoredFile] | None = None
    details: Details | None = None
    warnings: Sequence[str] = field(default_factory=list[str])


def read_meaning(
    registry: Registry, before: Mapping[str, TreeFile], after: Mapping[str, TreeFile], newest: Version | None
) -> Meaning:
    """Say what it means that an adapter has other files now; nothing is changed but for new previews' blobs.

    Args:
        registry: Where the blobs are.
        before: The files that `main` has.
        after: The files that it is to have.
        newest: The version that `main` shows.

    Raises:
        FieldError: There would be no weights any more, or several files of them.
        WeightsError, PickleRefusedError, ArchitectureError: The weights are no adapter's.
        CardError: The card cannot be read.
        PictureError: A picture cannot be shown.
    """
    payload, was = payload_of(after), payload_of(before)
    card = _card(registry, after)
    files = dict(after)
    pictures = {path: file for path, file in after.items() if is_picture(path)}
    is_payload_new = payload != was
    if is_payload_new and not payload:
        raise FieldError(
            "commit",
            "without weights",
            "main always has those of a version; to hide one, yank it in the registry",
        )
    previews = None
    if is_payload_new or pictures != {path: file for path, file in before.items() if is_picture(path)}:
        previews = _previews(registry, pictures, card[1], files)
    is_card_new = is_payload_new or _digest(after, README) != _digest(before, README)
    details = _details(card[0]) if is_card_new and (README in after or README in before) else None
    if not is_payload_new:
        warnings = [] if newest is None or details is None else _disagreements(card[0], newest)
        return Meaning(files, previews=previews, details=details, warnings=warnings)
    manifest = _manifest(registry, payload, card[0], newest)
    documents = [
        StoredFile(path, file.sha256, file.size)
        for path, file in after.items()
        if path not in payload and path != README and is_text(path) and "/" not in path and path[0] != "."
    ]
    facts = read_facts(manifest, registry.blobs, documents)
    return Meaning(files, manifest, facts, documents, previews, details)


def payload_of(files: Mapping[str, TreeFile]) -> dict[str, TreeFile]:
    """Return the files that make a version: one of weights, and PEFT's config beside it.

    Raises:
        FieldError: There are several files of weights.
    """
    weights = sorted(filter(is_weights, files))
    if len(weights) > 1:
        rule = "a version has one; delete the others in this commit, or push each under a name of its own"
        raise FieldError("commit", f"with several files of weights ({', '.join(weights)})", rule)
    names = [*weights, CONFIG] if weights == [PEFT_WEIGHTS] and CONFIG in files else weights
    return {name: replace(files[name], git_sha1="") for name in sorted(names)}


def _manifest(
    registry: Registry, payload: Mapping[str, TreeFile], card: ParsedCard, newest: Version | None
) -> Manifest:
    probe = _probe(registry, payload)
    architecture = probe.architecture
    if not architecture:
        named = {repository: name for name, repository in BASE_MODELS.items()}.get(card.base_model, "")
        if not named and newest is None:
            raise ArchitectureError("unknown", "unknown")
        architecture = named or (newest.architecture if newest is not None else "")
    return Manifest(
        files=tuple(PayloadFile(path, file.size, file.sha256) for path, file in sorted(payload.items())),
        architecture=architecture,
        algorithm=probe.algorithm,
        trigger_words=card.trigger_words,
        recommended_weight=card.recommended_weight,
        licence=card.licence,
        lineage={"operation": "imported"},
    )


def _probe(registry: Registry, payload: Mapping[str, TreeFile]) -> Probe:
    """Say what weights are; errors name the file as its owner knows it."""
    (name,) = filter(is_weights, payload)
    shown = name
    try:
        config = None
        if CONFIG in payload:
            shown = CONFIG
            config = read_peft_config(registry.blobs.path(payload[CONFIG].sha256))
        shown = name
        path = registry.blobs.path(payload[name].sha256)
        return describe(path, read_header(path), config=config)
    except PickleRefusedError as exc:
        raise PickleRefusedError(Path(shown)) from exc
    except WeightsError as exc:
        raise WeightsError(Path(shown), exc.reason) from exc


def _card(registry: Registry, files: Mapping[str, TreeFile]) -> tuple[ParsedCard, dict[str, str]]:
    """Return what the card says, and the prompts of pictures by their paths."""
    if README not in files:
        return ParsedCard(), {}
    content = registry.read(files[README].sha256)
    card = parse_card(content)
    front, _ = split_front_matter(content.decode("utf-8-sig").replace("\r\n", "\n"))
    widget: Any = read_front_matter(front)[0].get("widget")
    prompts: dict[str, str] = {}
    for entry in widget if isinstance(widget, list) else ():  # pyright: ignore[reportUnknownVariableType]
        output: Any = entry.get("output") if isinstance(entry, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(output, dict):
            url, text = output.get("url"), entry.get("text")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if isinstance(url, str) and isinstance(text, str) and text != "-":
                prompts[url.removeprefix("./")] = text
    return card, prompts


def _details(card: ParsedCard) -> Details:
    """Return what a card says of an adapter: all of it, because a card that lacks a tag takes it away."""
    return Details(
        title=card.title or None,
        description=card.description,
        card=card.body,
        kind=card.kind or None,
        tags=card.tags,
        settings=card.settings or None,
    )


def _previews(
    registry: Registry,
    pictures: Mapping[str, TreeFile],
    prompts: Mapping[str, str],
    files: dict[str, TreeFile],
) -> list[StoredFile]:
    """Make a preview of every picture, and write into `files` which is whose."""
    if len(pictures) > MAX_PICTURES:
        raise FieldError("commit", f"with {len(pictures)} pictures", f"at most {MAX_PICTURES} are kept")
    shown: dict[str, StoredFile] = {}
    for path, file in sorted(pictures.items()):
        try:
            found = intake.read_preview(registry.blobs.path(file.sha256))
            found = replace(found, prompt=found.prompt or prompts.get(path, ""))
            (stored,) = intake.store_previews(registry.blobs, [found])
        except (PictureError, InputError) as exc:
            raise PictureError(Path(path), exc.reason) from exc
        files[path] = replace(file, preview=stored.sha256)
        shown.setdefault(stored.sha256, stored)
    return list(shown.values())


def _disagreements(card: ParsedCard, version: Version) -> list[str]:
    """Say what a card has otherwise than the version, which stays as it is."""
    wanted = {
        "license": (card.licence, version.manifest.licence),
        "instance_prompt": (card.trigger_words, version.trigger_words),
        "base_model": (card.base_model, BASE_MODELS.get(version.architecture, card.base_model)),
    }
    other = [
        name for name, (said, holds) in wanted.items() if said != holds and (said or name != "base_model")
    ]
    if not other:
        return []
    return [
        f"{version.reference} keeps its own {' and '.join(other)}; "
        "the README is kept as text, and its front matter counts for the next version"
    ]


def _digest(files: Mapping[str, TreeFile], path: str) -> str:
    return files[path].sha256 if path in files else ""
