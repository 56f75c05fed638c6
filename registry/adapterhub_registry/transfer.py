"""Push and pull: missing files only, every byte verified, visible when whole."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub_registry.blobs import BlobStore
from adapterhub_registry.errors import VersionConflictError
from adapterhub_registry.locks import store_kept
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Details, Publication, Published, StoredFile
from adapterhub_registry.references import Reference
from adapterhub_registry.remotes import Remote, RemoteVersion

if TYPE_CHECKING:
    from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes:
        name: The adapter, where it went.
        number: The version's number there.
        digest: The version's digest.
        is_new: False if the digest was there already, and nothing changed.
        files_sent: Files that were missing there.
        bytes_sent: Their bytes.
    """

    name: str
    number: int
    digest: str
    is_new: bool
    files_sent: int
    bytes_sent: int


def push(
    registry: "Registry",
    version: Version,
    remote: Remote,
    *,
    renumber: bool = False,
    aliases: tuple[str, ...] = (),
) -> Transfer:
    """Push a version with its documents, previews and what is said of the adapter.

    Files go first and the version last: whatever dies on the way, the remote never lists half a version.

    Args:
        registry: Where the version is.
        version: What to push.
        remote: Where to.
        renumber: If the number is taken there, take the remote's next one.
        aliases: Aliases to point at it there.

    Raises:
        VersionConflictError: The number is taken by another digest there; nothing has changed.
        AliasMovedError: An alias was moved there meanwhile.
        BlobMissingError, OutputError: A file cannot be read here or written there.
    """
    there = remote.versions(version.name)
    same = next((n for n, v in there.items() if v.manifest.digest == version.digest), None)
    number, sent = same, (0, 0)
    if number is None:
        number = version.number
        if number in there:
            if not renumber:
                theirs = there[number].manifest.digest
                raise VersionConflictError(
                    version.name, number, ours=version.digest, theirs=theirs, where=remote.name
                )
            number = max(there) + 1
        remote.prepare()
        documents, previews = registry.documents(version), registry.previews(version)
        adapter = registry.show(version.name)
        sent = _copy(version, [*documents, *previews], registry.blobs, remote.blobs)
        entry = RemoteVersion(
            number=number,
            manifest=version.manifest,
            message=version.message,
            author=version.author,
            created=version.created,
            documents=tuple(documents),
            previews=tuple(previews),
            details=Details(
                title=adapter.title,
                description=adapter.description,
                card=adapter.card,
                kind=adapter.kind,
                tags=adapter.tags,
                settings=adapter.settings,
            ),
        )
        remote.publish(version.name, entry)
    for alias in aliases:
        remote.set_alias(version.name, alias, number, expected=remote.aliases(version.name).get(alias))
    return Transfer(version.name, number, version.digest, same is None, *sent)


def pull(
    registry: "Registry", reference: Reference, remote: Remote, *, rename: str | None = None
) -> Transfer:
    """Pull a version with its documents and previews; it keeps its number and digest.

    Files that arrived before a failure stay, unseen, and are not fetched again the next time.

    Args:
        registry: Where to.
        reference: What to pull; aliases and `latest` are the remote's.
        remote: Where from.
        rename: Another name for it here; the version then takes the next number of that name.

    Raises:
        AdapterNotFoundError, VersionNotFoundError: The remote has no such thing.
        VersionConflictError: The number is taken by another digest here; nothing has changed.
        DigestMismatchError: A file in the remote is damaged; it was not kept.
    """
    found = remote.resolve(reference)
    name = reference.adapter if rename is None else rename
    here = registry.known_versions(name)
    same = next((v for v in here if v.digest == found.manifest.digest), None)
    if same is not None:
        return Transfer(same.name, same.number, same.digest, False, 0, 0)
    number = found.number if rename is None else None
    taken = next((v for v in here if v.number == number), None)
    if taken is not None:
        raise VersionConflictError(
            name, taken.number, ours=taken.digest, theirs=found.manifest.digest, where=remote.name
        )
    version = Version(name, found.number, found.manifest, "published", "", "", "")
    publication = Publication(
        name=name,
        manifest=found.manifest,
        number=number,
        message=found.message,
        author=found.author,
        created=found.created,
        documents=found.documents,
        previews=found.previews,
        details=remote.details(reference.adapter) if not here else Details(),
    )
    files = total = 0

    def store() -> Published:
        nonlocal files, total
        sent = _copy(version, [*found.documents, *found.previews], remote.blobs, registry.blobs)
        files, total = files + sent[0], total + sent[1]
        return registry.publish(publication)

    published = store_kept(registry.home, store)
    done = published.version
    return Transfer(done.name, done.number, done.digest, published.is_new, files, total)


def _copy(
    version: Version, beside: list[StoredFile], source: BlobStore, target: BlobStore
) -> tuple[int, int]:
    """Copy every file of a version that the target lacks, verified; return (files, bytes)."""
    wanted = {file.sha256: file.path for file in version.files} | {item.sha256: item.name for item in beside}
    files = total = 0
    for sha256, path in wanted.items():
        if not target.has(sha256):
            label = f"{version.name}@{version.number}: {path}"
            _, size = target.write(source.read(sha256), expected=sha256, source=label)
            files += 1
            total += size
    return files, total
