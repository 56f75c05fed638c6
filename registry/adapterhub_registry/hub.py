"""The Hugging Face Hub, or a hub like it, as a remote: `hf:owner/name`, through `huggingface_hub`.

A version is pushed as a repository that every tool reads, with all that a registry must know of it in one
file beside the weights. What AdapterHub did not publish is imported as the next version here.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub_registry.errors import (
    AdapterHubError,
    FieldError,
    ReferenceSyntaxError,
    RemoteError,
    VersionConflictError,
)
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Details, Publication
from adapterhub_registry.references import name_from
from adapterhub_registry.remote_version import RemoteVersion

if TYPE_CHECKING:
    from adapterhub_registry.store import Registry
    from adapterhub_registry.transfer import Transfer

NAME = "hf"
ENTRY = "adapterhub.json"
MAX_ENTRY_BYTES = 4 << 20
README = "README.md"
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
REPOSITORY = re.compile(
    rf"(?:hf:)?(?P<repository>{PART}/{PART})(?:@(?P<revision>[^\s@]{{1,200}}))?", re.ASCII
)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        name: `owner/name`, in its own spelling.
        commit: 40 hex digits.
        files: Path to the SHA-256 that the hub says; empty for small files, which it knows otherwise.
    """

    name: str
    commit: str
    files: Mapping[str, str]


def is_hub(text: str) -> bool:
    """Say whether the name of a remote, or a reference, means the hub.

    Example:
        >>> is_hub("hf"), is_hub("hf:Owner/Name@main"), is_hub("team:acme/corgi")
        (True, True, False)
    """
    return text == NAME or text.startswith(f"{NAME}:")


def push(
    registry: "Registry", version: Version, target: str, *, aliases: Sequence[str], with_data: bool
) -> "Transfer":
    """Push a version to a repository, in one commit, with its card, its pictures and its manifest.

    Args:
        registry: Where the version is.
        version: What to push.
        target: `hf` for a repository of the adapter's name, or `hf:owner/name`.
        aliases: Tags to set at it.
        with_data: Push the documents beside it too.

    Raises:
        VersionConflictError: The repository has another version of that number; nothing has changed.
        RemoteError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from adapterhub_registry.transfer import Transfer, entry_of

    name, _ = _parse(target if target != NAME else version.name)
    entry = entry_of(registry, version, with_data)
    api = HfApi()
    with _at(name):
        if api.repo_exists(name):
            tags = {item.name for item in api.list_repo_refs(name).tags}
            for revision in dict.fromkeys(("main", f"v{version.number}")):
                if revision != "main" and revision not in tags:
                    continue
                there = _entry(_open(name, revision), revision)
                if there is not None and there.digest == version.digest:
                    _tag(api, name, [*aliases], revision)
                    return Transfer(name, there.number, version.digest, False, 0, 0)
                if there is not None and there.number == version.number:
                    raise VersionConflictError(
                        name, version.number, ours=version.digest, theirs=there.digest, where=NAME
                    )
        else:
            api.create_repo(name, private=True)
        files = {file.path: file.sha256 for file in version.files}
        files |= {item.name: item.sha256 for item in (*entry.documents, *entry.previews)}
        card = registry.card(version.reference).encode()
        texts = {ENTRY: json.dumps(entry.as_json(), indent=1).encode(), README: card}
        operations = [
            CommitOperationAdd(path, registry.blobs.path(sha256)) for path, sha256 in files.items()
        ] + [CommitOperationAdd(path, content) for path, content in texts.items()]
        title = version.message or f"Publish version {version.number}"
        done = api.create_commit(name, operations, commit_message=title.splitlines()[0])
        _tag(api, name, [f"v{version.number}", *aliases], done.oid)
        size = sum(registry.blobs.path(sha256).stat().st_size for sha256 in files.values())
    return Transfer(name, version.number, version.digest, True, len(files), size)


def pull(registry: "Registry", reference: str, *, rename: str | None, file: str | None) -> "Transfer":
    """Pull a version that AdapterHub published, or import a repository as the next version here.

    Args:
        registry: Where to.
        reference: `hf:owner/name[@revision]`.
        rename: The adapter's name here; by default that of the repository.
        file: Which file of weights to take, where there are several.

    Raises:
        FieldError: There are several files of weights, and none was chosen; or not the chosen one.
        VersionConflictError: The number is taken by another digest here; nothing has changed.
        DigestMismatchError: What came is something else than the hub or the manifest says.
        RemoteError: The hub cannot be reached, or has no such repository.
    """
    name, revision = _parse(reference)
    owner, _, short = name.partition("/")
    local = rename or f"{name_from(owner)}/{name_from(short)}"
    with _at(name):
        repository = _open(name, revision)
        entry = None if file is not None else _entry(repository, revision)
        if entry is not None:
            return _publish(registry, repository, entry, local, rename is not None)
        return _import(registry, repository, local, file)


def _publish(
    registry: "Registry", repository: Repository, entry: RemoteVersion, local: str, is_renamed: bool
) -> "Transfer":
    """Take a version as it was published."""
    from adapterhub_registry.locks import store_kept
    from adapterhub_registry.transfer import Transfer, files_of

    here = registry.known_versions(local)
    for version in here:
        if version.digest == entry.digest:
            return Transfer(local, version.number, version.digest, False, 0, 0)
        if version.number == entry.number and not is_renamed:
            raise VersionConflictError(
                local, entry.number, ours=version.digest, theirs=entry.digest, where=NAME
            )
    moved: list[int] = []

    def store() -> Any:
        for item in files_of(entry):
            if not registry.blobs.has(item.sha256):
                path = _download(repository, item.name)
                label = f"{repository.name}: {item.name}"
                with path.open("rb") as opened:
                    pieces = iter(lambda: opened.read(1 << 20), b"")
                    moved.append(registry.blobs.write(pieces, expected=item.sha256, source=label)[1])
        return registry.publish(
            Publication(
                name=local,
                manifest=entry.manifest,
                number=None if is_renamed else entry.number,
                message=entry.message,
                author=entry.author,
                created=entry.created,
                documents=entry.documents,
                previews=entry.previews,
                details=Details() if here else entry.details,
            )
        )

    done = store_kept(registry.home, store)
    return Transfer(local, done.version.number, entry.digest, done.is_new, len(moved), sum(moved))


def _import(registry: "Registry", repository: Repository, local: str, file: str | None) -> "Transfer":
    """Add the weights of a repository that somebody else made."""
    from adapterhub_registry.blobs import digest_of, read_pieces
    from adapterhub_registry.errors import DigestMismatchError
    from adapterhub_registry.transfer import Transfer

    chosen = _weights(repository, file)
    known = {version.digest for version in registry.known_versions(local)}
    with tempfile.TemporaryDirectory(dir=registry.home) as folder:
        for name in chosen:
            path, expected = _download(repository, name), repository.files[name]
            if expected and (found := digest_of(read_pieces(path))) != expected:
                path.resolve().unlink(missing_ok=True)  # so that the next try fetches it again
                raise DigestMismatchError(expected, found, f"{repository.name}: {name}")
            shutil.copyfile(path, Path(folder, Path(name).name))
        card = _download(repository, README) if README in repository.files else None
        is_peft = len(chosen) > 1
        version = registry.add(
            Path(folder) if is_peft else Path(folder, Path(chosen[0]).name),
            name=local,
            lineage={"operation": "imported", "repository": f"{repository.name}@{repository.commit}"},
            message=f"From {repository.name}",
            card=card,
        )
    size = sum(item.size for item in version.files)
    is_new = version.digest not in known
    sent = (len(version.files), size) if is_new else (0, 0)
    return Transfer(version.name, version.number, version.digest, is_new, *sent)


def _weights(repository: Repository, file: str | None) -> list[str]:
    """Return the files that make a version."""
    names = sorted(name for name in repository.files if name.endswith(".safetensors"))
    listed = ", ".join(names) or "none"
    if file is None and len(names) != 1:
        rule = f"{repository.name} has several; name one with --file" if names else "the repository has none"
        raise FieldError("file of weights", listed, rule)
    chosen = names[0] if file is None else file
    if chosen not in names:
        raise FieldError("file", chosen, f"{repository.name} has these files of weights: {listed}")
    folder, _, last = chosen.rpartition("/")
    config = f"{folder}/{PEFT_FILES[0]}" if folder else PEFT_FILES[0]
    return [config, chosen] if last == PEFT_FILES[1] and config in repository.files else [chosen]


def _open(name: str, revision: str) -> Repository:
    from huggingface_hub import HfApi

    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    files = {item.rfilename: item.lfs.sha256 if item.lfs is not None else "" for item in info.siblings or ()}
    return Repository(info.id, info.sha or revision, files)


def _entry(repository: Repository, revision: str) -> RemoteVersion | None:
    """Return the version that a repository is; None if it was not published by us, or changed."""
    if ENTRY not in repository.files:
        return None
    path = _download(repository, ENTRY)
    if path.stat().st_size > MAX_ENTRY_BYTES:
        raise RemoteError(NAME, f"{ENTRY} of {repository.name}@{revision} is too large")
    try:
        table: Any = json.loads(path.read_bytes())
        entry = RemoteVersion.from_json(table, source=f"{repository.name}: {ENTRY}")
    except (ValueError, RecursionError) as exc:
        raise RemoteError(NAME, f"{ENTRY} of {repository.name}@{revision} is damaged ({exc})") from exc
    is_its = all(
        repository.files.get(file.path, file.sha256) in ("", file.sha256) for file in entry.manifest.files
    )
    return entry if is_its else None


def _download(repository: Repository, path: str) -> Path:
    from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]

    found: Any = hf_hub_download(repository.name, path, revision=repository.commit)  # pyright: ignore[reportUnknownVariableType]
    return Path(found)


def _tag(api: Any, name: str, tags: Sequence[str], revision: str) -> None:
    """Set tags; a registry of ours has those of versions already."""
    there = {item.name: item.target_commit for item in api.list_repo_refs(name).tags}
    for tag in tags:
        if tag in there and re.fullmatch(r"v\d+", tag):
            continue
        if tag in there:
            api.delete_tag(name, tag=tag)
        api.create_tag(name, tag=tag, revision=revision)


def _parse(text: str) -> tuple[str, str]:
    match = REPOSITORY.fullmatch(text.strip())
    if match is None:
        raise ReferenceSyntaxError(text, "it is not hf:owner/name[@revision]")
    revision = match["revision"] or "main"
    return match["repository"], f"v{revision}" if revision.isdecimal() else revision


@contextmanager
def _at(name: str) -> Generator[None]:
    """Tell the hub's errors as ours."""
    try:
        yield
    except AdapterHubError:
        raise
    except Exception as exc:
        # Its releases bring different HTTP libraries, with errors of their own.
        reason = " ".join(str(exc).split())[:500] or type(exc).__name__
        raise RemoteError(f"{NAME}:{name}", reason) from exc
