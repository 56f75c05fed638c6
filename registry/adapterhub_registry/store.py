"""The registry: adapters, their versions, and what people say of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

from sqlmodel import Session, col, func, select

from adapterhub_registry import known_remotes
from adapterhub_registry.blobs import DirectoryBlobs, digest_of
from adapterhub_registry.database import Database
from adapterhub_registry.errors import (
    AdapterNotFoundError,
    AliasMovedError,
    FieldError,
    RemoteError,
    VersionConflictError,
)
from adapterhub_registry.files import link_file
from adapterhub_registry.intake import (
    PreviewPicture,
    describe_base,
    read_payload,
    read_preview,
    store_files,
)
from adapterhub_registry.manifest import Manifest, Version, decimal_text
from adapterhub_registry.publication import (
    Adapter,
    Details,
    Publication,
    Published,
    StoredFile,
    check_details,
)
from adapterhub_registry.references import ALIAS, RESERVED_ALIASES, Reference, parse_reference
from adapterhub_registry.remotes import Remote, open_remote
from adapterhub_registry.rows import (
    adapter_reference,
    current_user,
    find_adapter,
    flushed_id,
    log_event,
    now,
    require_adapter,
    select_version,
    to_adapter,
    to_version,
    write_details,
)
from adapterhub_registry.settings import RegistrySettings, ensure_home
from adapterhub_registry.tables import AdapterRow, AliasRow, DocumentRow, PreviewRow, VersionRow
from adapterhub_registry.transfer import Transfer, pull, push


class Anywhere(Enum):
    """The value of `set_alias(expected=...)` that means: wherever it stands."""

    ANYWHERE = "anywhere"


class Registry:
    """Adapters and their versions on this machine; safe to use from many processes at once.

    Args:
        home: Directory of all state, created at first use; by default `ADAPTERHUB_HOME`.

    Raises:
        HomeError: The directory cannot be created or written.

    Example:
        >>> import tempfile
        >>> registry = Registry(Path(tempfile.mkdtemp()))
        >>> registry.list()
        []
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = ensure_home(home or RegistrySettings.from_environment().home)
        self.blobs = DirectoryBlobs(self.home)
        self._database = Database(self.home / "registry.db")

    def add(
        self,
        path: Path | str,
        *,
        name: str,
        base: str | None = None,
        like: Version | None = None,
        trigger_words: Sequence[str] = (),
        recommended_weight: float | str | None = None,
        licence: str = "",
        lineage: Mapping[str, str] | None = None,
        documents: Mapping[str, bytes] | None = None,
        previews: Sequence[Path | str | PreviewPicture] = (),
        message: str = "",
        title: str | None = None,
        description: str | None = None,
        kind: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> Version:
        """Add a file of weights, or a PEFT directory, as the next version of an adapter.

        If the adapter has a version with the same digest already, nothing changes and that one is returned.

        Args:
            path: A safetensors file, or a PEFT directory (`adapter_config.json` and weights).
            name: `namespace/name`; capitals are folded, and kept as the title of a new adapter.
            base: The base that it was made on (see `adapterhub bases list`); its architecture must fit.
            like: A version whose base is this one's too, in place of `base`.
            trigger_words: What a prompt must say.
            recommended_weight: The strength to start with.
            licence: SPDX identifier, or words.
            lineage: Where it comes from; `operation` is `imported` if left out.
            documents: Files to keep beside the version, by name.
            previews: PNG pictures of it; prompt and seed are read from their records.
            message: What to say of this version.
            title: The adapter's name for people.
            description: A sentence.
            kind: One of `KINDS`.
            tags: Labels for search; they replace those there are.

        Raises:
            InputError, PickleRefusedError, WeightsError: The weights cannot be read.
            ArchitectureError: They do not fit the base, or nobody said what they fit.
            PictureError, FieldError, ReferenceSyntaxError: Something else is malformed.
            OutputError: The disk is full. Nothing is listed in any of these cases.
        """
        reference = adapter_reference(name)
        details = Details(title=title, description=description, kind=kind, tags=tags)
        check_details(details)
        payload = read_payload(Path(path))
        architecture, identity = describe_base(base, payload, like)
        pictures = [
            picture if isinstance(picture, PreviewPicture) else read_preview(Path(picture))
            for picture in previews
        ]
        words = tuple(word.strip() for word in trigger_words if word.strip())
        weight = "" if recommended_weight is None else decimal_text(recommended_weight)

        files, stored, shown = store_files(self.blobs, payload, documents or {}, pictures)
        manifest = Manifest(
            files=files,
            architecture=architecture,
            base_identity=identity,
            algorithm=payload.algorithm,
            trigger_words=words,
            recommended_weight=weight,
            licence=licence,
            lineage=dict(lineage or {"operation": "imported"}),
        )
        if title is None and name.strip() != reference.adapter:
            details = Details(name.strip().split("/")[-1], description, None, kind, tags)
        publication = Publication(
            name=reference.adapter,
            manifest=manifest,
            message=message,
            documents=stored,
            previews=shown,
            details=details,
        )
        return self.publish(publication).version

    def publish(self, publication: Publication) -> Published:
        """Make a version visible, in one transaction; its blobs must be in the store.

        Raises:
            VersionConflictError: The number is taken by another digest; nothing has changed.
        """
        reference = adapter_reference(publication.name)
        check_details(publication.details)
        digest = publication.manifest.digest
        with self._database.writing() as session:
            adapter = find_adapter(session, reference)
            if adapter is None:
                adapter = AdapterRow(namespace=reference.namespace, name=reference.name, created=now())
                session.add(adapter)
                session.flush()
            adapter_id = flushed_id(adapter.id)
            same = session.exec(
                select(VersionRow).where(VersionRow.adapter_id == adapter_id, VersionRow.digest == digest)
            ).first()
            if same is not None:
                return Published(to_version(adapter, same), is_new=False)
            last = session.exec(
                select(func.max(VersionRow.number)).where(VersionRow.adapter_id == adapter_id)
            ).one()
            number = publication.number or (last or 0) + 1
            taken = session.exec(
                select(VersionRow).where(VersionRow.adapter_id == adapter_id, VersionRow.number == number)
            ).first()
            if taken is not None:
                raise VersionConflictError(
                    reference.adapter, number, ours=digest, theirs=taken.digest, where=str(self.home)
                )
            row = VersionRow(
                adapter_id=adapter_id,
                number=number,
                digest=digest,
                manifest=publication.manifest.to_json(),
                message=publication.message,
                author=publication.author or current_user(),
                created=publication.created or now(),
            )
            session.add(row)
            session.flush()
            version_id = flushed_id(row.id)
            for item in publication.documents:
                session.add(
                    DocumentRow(version_id=version_id, name=item.name, sha256=item.sha256, size=item.size)
                )
            for item in {preview.sha256: preview for preview in publication.previews}.values():
                session.add(
                    PreviewRow(
                        version_id=version_id,
                        sha256=item.sha256,
                        size=item.size,
                        prompt=item.prompt,
                        seed=item.seed,
                    )
                )
            write_details(session, adapter, publication.details)
            version = to_version(adapter, row)
            log_event(session, "publish", version.reference, {"digest": digest})
        return Published(version, is_new=True)

    def resolve(self, reference: str | Reference) -> Version:
        """Return the version that a reference names; without a selector the highest published one.

        Raises:
            ReferenceSyntaxError: It does not follow the grammar.
            AdapterNotFoundError: There is no adapter of that name; near names are suggested.
            VersionNotFoundError: The adapter has no such version.
        """
        if isinstance(reference, str):
            reference = parse_reference(reference)
        with self._database.reading() as session:
            adapter = require_adapter(session, reference)
            return to_version(adapter, select_version(session, adapter, reference))

    def versions(self, name: str) -> list[Version]:
        """Return all versions of an adapter, oldest first."""
        with self._database.reading() as session:
            adapter = require_adapter(session, adapter_reference(name))
            rows = session.exec(
                select(VersionRow).where(VersionRow.adapter_id == adapter.id).order_by(col(VersionRow.number))
            )
            return [to_version(adapter, row) for row in rows]

    def list(self) -> "list[Adapter]":
        """Return all adapters, by name."""
        with self._database.reading() as session:
            rows = session.exec(select(AdapterRow).order_by(col(AdapterRow.namespace), col(AdapterRow.name)))
            return [to_adapter(session, row) for row in rows]

    def show(self, name: str) -> Adapter:
        """Return what is said of one adapter."""
        with self._database.reading() as session:
            return to_adapter(session, require_adapter(session, adapter_reference(name)))

    def documents(self, version: Version) -> "list[StoredFile]":
        """Return the files beside a version; read one with `read`."""
        with self._database.reading() as session:
            rows = session.exec(
                select(DocumentRow)
                .where(DocumentRow.version_id == self._version_id(session, version))
                .order_by(col(DocumentRow.name))
            )
            return [StoredFile(row.name, row.sha256, row.size) for row in rows]

    def previews(self, version: Version) -> "list[StoredFile]":
        """Return the pictures of a version, in the order in which they were added."""
        with self._database.reading() as session:
            rows = session.exec(
                select(PreviewRow)
                .where(PreviewRow.version_id == self._version_id(session, version))
                .order_by(col(PreviewRow.id))
            )
            return [
                StoredFile(f"preview-{number}.png", row.sha256, row.size, row.prompt, row.seed)
                for number, row in enumerate(rows, 1)
            ]

    def read(self, sha256: str) -> bytes:
        """Return a stored file's bytes.

        Raises:
            BlobMissingError: It is not in the store.
        """
        return b"".join(self.blobs.read(sha256))

    def directory(self, version: Version) -> Path:
        """Return a directory that holds the payload under its own names, as links to the read-only blobs.

        `pipeline.load_lora_weights(registry.directory(version))` works on it.

        Raises:
            BlobMissingError: A file of the version is missing in the store.
        """
        target = self.home / "views" / version.name / str(version.number)
        for file in version.files:
            link_file(self.blobs.path(file.sha256), target / file.path)
        return target

    def set_alias(
        self, name: str, alias: str, number: int, *, expected: int | Anywhere | None = Anywhere.ANYWHERE
    ) -> None:
        """Point an alias at a version, if it stands where the caller expects it.

        Args:
            name: `namespace/name`.
            alias: A letter, then letters, digits, `.`, `_`, `-`; not `latest`, `main`, `head`, `v3`.
            number: The version to point at.
            expected: Where it must stand now; None means nowhere yet. Left out, it is moved from anywhere.

        Raises:
            FieldError: The alias is malformed or reserved.
            AliasMovedError: It stands elsewhere; it was not moved.
            VersionNotFoundError: There is no such version.
        """
        alias = alias.strip().lower()
        is_number_or_digest = re.fullmatch(r"v\d+|[0-9a-f]{5,40}", alias) is not None
        if not re.fullmatch(ALIAS, alias) or alias in RESERVED_ALIASES or is_number_or_digest:
            rule = "a letter, then letters, digits, '.', '_' or '-'; not latest, main, head, v3 or a digest"
            raise FieldError("alias", alias, rule)
        with self._database.writing() as session:
            adapter = require_adapter(session, adapter_reference(name))
            target = Reference(adapter.namespace, adapter.name, str(number))
            select_version(session, adapter, target)
            row = session.get(AliasRow, (adapter.id, alias))
            before = row.number if row is not None else None
            if not isinstance(expected, Anywhere) and before != expected:
                raise AliasMovedError(target.adapter, alias, expected, before)
            session.merge(AliasRow(adapter_id=flushed_id(adapter.id), name=alias, number=number))
            log_event(session, "alias", f"{target.adapter}@{alias}", {"before": before, "after": number})

    def update(self, name: str, details: Details) -> Adapter:
        """Change what is said of an adapter; None leaves a field as it is.

        Raises:
            FieldError: A tag or kind is malformed.
        """
        check_details(details)
        with self._database.writing() as session:
            adapter = require_adapter(session, adapter_reference(name))
            write_details(session, adapter, details)
            log_event(session, "update", f"{adapter.namespace}/{adapter.name}", {})
            session.flush()
            return to_adapter(session, adapter)

    def verify(self, reference: str | None = None) -> Iterator[tuple[Version, str, str]]:
        """Hash every file of one version, or of all, and yield (version, path, problem) for what is wrong."""
        if reference is not None:
            chosen = [self.resolve(reference)]
        else:
            chosen = [version for adapter in self.list() for version in self.versions(adapter.name)]
        for version in chosen:
            beside = [*self.documents(version), *self.previews(version)]
            wanted = [(file.path, file.sha256) for file in version.files]
            wanted += [(item.name, item.sha256) for item in beside]
            for path, sha256 in wanted:
                if not self.blobs.has(sha256):
                    yield version, path, f"missing: sha256:{sha256}"
                elif (found := digest_of(self.blobs.read(sha256))) != sha256:
                    yield version, path, f"damaged: expected sha256:{sha256}, found sha256:{found}"

    def known_versions(self, name: str) -> "list[Version]":
        """Return all versions of an adapter, oldest first; none if there is no such adapter."""
        try:
            return self.versions(name)
        except AdapterNotFoundError:
            return []

    def remotes(self) -> dict[str, str]:
        """Return the remotes: name to URL."""
        return known_remotes.list_remotes(self._database)

    def add_remote(self, name: str, url: str) -> None:
        """Remember a remote, after opening it once; a remote of that name is replaced.

        Raises:
            FieldError: The name is malformed.
            RemoteError: The URL cannot be used.
        """
        known_remotes.add_remote(self._database, name, url)

    def remove_remote(self, name: str) -> None:
        """Forget a remote; nothing changes there.

        Raises:
            RemoteError: There is no remote of that name.
        """
        known_remotes.remove_remote(self._database, name)

    def only_remote(self) -> str:
        """Return the name of the one remote there is.

        Raises:
            RemoteError: There is none, or there are several.
        """
        return known_remotes.only_remote(self._database)

    def remote(self, name: str) -> Remote:
        """Open a remote.

        Raises:
            RemoteError: There is no remote of that name, or it cannot be used now.
        """
        return open_remote(name, known_remotes.remote_url(self._database, name))

    def push(
        self,
        reference: str,
        *,
        remote: str,
        renumber: bool = False,
        aliases: Sequence[str] = (),
    ) -> Transfer:
        """Push a version to a remote; see `adapterhub_registry.transfer.push`."""
        return push(
            self, self.resolve(reference), self.remote(remote), renumber=renumber, aliases=tuple(aliases)
        )

    def pull(self, reference: str, *, remote: str | None = None, rename: str | None = None) -> Transfer:
        """Pull a version from a remote; see `adapterhub_registry.transfer.pull`.

        Args:
            reference: May name the remote itself: `team:acme/corgi@prod`.
            remote: The remote's name, if the reference does not name it.
            rename: Another name for the adapter here.
        """
        parsed = parse_reference(reference)
        name = parsed.remote or remote
        if not name:
            raise RemoteError("", "none was named; write team:acme/corgi, or say which")
        adapter = None if rename is None else adapter_reference(rename).adapter
        return pull(self, parsed, self.remote(name), rename=adapter)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _version_id(self, session: Session, version: Version) -> int:
        reference = parse_reference(version.reference)
        return flushed_id(select_version(session, require_adapter(session, reference), reference).id)
