"""Push and pull: missing files only, every byte verified, visible when whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adapterhub_registry.errors import AliasMovedError, RemoteError, VersionConflictError
from adapterhub_registry.locks import store_kept
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Details, Publication, Published, StoredFile
from adapterhub_registry.references import Reference
from adapterhub_registry.remote_version import RemoteVersion
from adapterhub_registry.remotes import Progress, Remote

if TYPE_CHECKING:
    from adapterhub_registry.ancestry import LineageNode
    from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes:
        name: The adapter, where it went.
        number: The version's number there.
        digest: The version's digest.
        is_new: False if the digest was there already, and nothing changed.
        files_transferred: Files that were missing there.
        bytes_transferred: Their bytes.
        yank_reason: Why the version is yanked where it came from; empty if it is not.
        parents: What was pushed before it.
    """

    name: str
    number: int
    digest: str
    is_new: bool
    files_transferred: int
    bytes_transferred: int
    yank_reason: str = ""
    parents: "tuple[Transfer, ...]" = ()


def push(
    registry: "Registry",
    version: Version,
    remote: Remote,
    *,
    renumber: bool = False,
    aliases: tuple[str, ...] = (),
    with_data: bool = False,
    on_bytes: Progress = lambda _, __: None,
) -> Transfer:
    """Push a version with its previews and what is said of the adapter.

    Files go first and the version last: whatever dies on the way, the remote never lists half a version.

    Args:
        registry: Where the version is.
        version: What to push.
        remote: Where to.
        renumber: If the number is taken there, take the remote's next one.
        aliases: Aliases to point at it there.
        with_data: Push the documents beside it too, which may hold captions and settings of the training.
        on_bytes: Called with (bytes sent, bytes that were missing).

    Raises:
        VersionConflictError: The number is taken by another digest there; nothing has changed.
        AliasMovedError: An alias was moved there meanwhile.
        BlobMissingError, OutputError: A file cannot be read here or written there.
        RemoteError, AccessError: The remote cannot be reached, or does not allow it.
    """
    there = remote.digests(version.name)
    same = next((number for number, digest in there.items() if digest == version.digest), None)
    number, sent = same, (0, 0)
    if number is None:
        if version.number in there and not renumber:
            theirs = there[version.number]
            raise VersionConflictError(
                version.name, version.number, ours=version.digest, theirs=theirs, where=remote.name
            )
        entry = entry_of(registry, version, with_data)
        sent = remote.send(version.name, files_of(entry), registry.blobs, on_bytes)
        number = remote.publish(version.name, entry, renumber=renumber)
    for alias in aliases:
        _set_alias(remote, version.name, alias, number)
    return Transfer(version.name, number, version.digest, same is None, *sent)


def parents_of(node: "LineageNode") -> Iterator[str]:
    """Yield the versions here that one was made of, theirs before them."""
    for parent in node.parents:
        yield from parents_of(parent)
        if parent.is_here and parent.operation != "deleted":
            yield parent.label


def pull(
    registry: "Registry",
    reference: Reference,
    remote: Remote,
    *,
    rename: str | None = None,
    on_bytes: Progress = lambda _, __: None,
) -> Transfer:
    """Pull a version with its documents and previews; it keeps its number and digest.

    Files that arrived before a failure stay, unseen, and are not fetched again the next time.

    Args:
        registry: Where to.
        reference: What to pull; aliases and `latest` are the remote's.
        remote: Where from.
        rename: Another name for it here; the version then takes the next number of that name.
        on_bytes: Called with (bytes fetched, bytes that were missing).

    Raises:
        AdapterNotFoundError, VersionNotFoundError: The remote has no such thing.
        VersionConflictError: The number is taken by another digest here; nothing has changed.
        DigestMismatchError: A file in the remote is damaged; it was not kept.
        RemoteError, AccessError: The remote cannot be reached, or does not allow it.
    """
    name = reference.adapter if rename is None else rename
    here = registry.known_digests(name)
    found = remote.resolve(reference, known=here)
    if isinstance(found, str):
        return Transfer(name, here[found], found, False, 0, 0)
    number = found.number if rename is None else None
    for digest, taken in here.items():
        if taken == number:
            raise VersionConflictError(name, taken, ours=digest, theirs=found.digest, where=remote.name)
    publication = Publication(
        name=name,
        manifest=found.manifest,
        number=number,
        message=found.message,
        author=found.author,
        created=found.created,
        documents=found.documents,
        previews=found.previews,
        details=Details() if here else found.details,
    )
    files = total = 0

    def store() -> Published:
        nonlocal files, total
        sent = remote.fetch(reference.adapter, files_of(found), registry.blobs, on_bytes)
        files, total = files + sent[0], total + sent[1]
        return registry.publish(publication)

    published = store_kept(registry.home, store)
    done = published.version
    return Transfer(done.name, done.number, done.digest, published.is_new, files, total, found.yank_reason)


def resolve_here(registry: "Registry", reference: Reference, remote: Remote) -> Version:
    """Return the version here that a reference names in a remote.

    Raises:
        AdapterNotFoundError, VersionNotFoundError: The remote has no such thing.
        RemoteError: It has, and this registry has not.
    """
    here = registry.known_digests(reference.adapter)
    found = remote.resolve(reference, known=here)
    if isinstance(found, str):
        return registry.resolve(replace(reference, remote="", selector=str(here[found])))
    label = f"{reference.adapter}@{found.number}"
    reason = f"{reference} is {label} there, which is not here; fetch it with: adapterhub pull {reference}"
    raise RemoteError(remote.name, reason)


def entry_of(registry: "Registry", version: Version, with_data: bool) -> RemoteVersion:
    """Return a version as it travels, with its documents if asked."""
    adapter = registry.show(version.name)
    return RemoteVersion(
        number=version.number,
        manifest=version.manifest,
        message=version.message,
        author=version.author,
        created=version.created,
        documents=tuple(registry.documents(version)) if with_data else (),
        previews=tuple(registry.previews(version)),
        details=Details(
            title=adapter.title,
            description=adapter.description,
            card=adapter.card,
            kind=adapter.kind,
            tags=adapter.tags,
            settings=adapter.settings,
        ),
    )


def files_of(entry: RemoteVersion) -> Sequence[StoredFile]:
    """Return all files of a version and beside it, each digest once."""
    payload = [StoredFile(file.path, file.sha256, file.size) for file in entry.manifest.files]
    return list({file.sha256: file for file in (*payload, *entry.documents, *entry.previews)}.values())


def _set_alias(remote: Remote, name: str, alias: str, number: int) -> None:
    before = remote.aliases(name).get(alias)
    if before == number:
        return
    try:
        remote.set_alias(name, alias, number, expected=before)
    except AliasMovedError as exc:
        if exc.found != number:  # an answer that was lost, and asked for again
            raise
