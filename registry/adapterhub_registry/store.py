"""The registry: adapters, their versions, and what people say of them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

from sqlmodel import Session, col, select

from adapterhub_registry import care, known_remotes, publishing, states
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database
from adapterhub_registry.errors import AdapterNotFoundError, FieldError, RemoteError
from adapterhub_registry.facts import read_facts
from adapterhub_registry.files import link_file
from adapterhub_registry.finders import Finders
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
    flushed_id,
    list_documents,
    list_previews,
    log_event,
    quick_version,
    require_adapter,
    select_version,
    to_adapter,
    to_adapters,
    to_version,
    write_details,
)
from adapterhub_registry.settings import RegistrySettings, ensure_home
from adapterhub_registry.tables import AdapterRow, VersionRow
from adapterhub_registry.transfer import Transfer, pull, push


class Anywhere(Enum):
    """The value of `set_alias(expected=...)` that means: wherever it stands."""

    ANYWHERE = "anywhere"


class Registry(Finders):
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
            TombstoneError: The digest was deleted here before.
        """
        check_details(publication.details)
        facts = read_facts(publication.manifest, self.blobs.path)
        return publishing.publish(self._database, publication, facts, where=str(self.home))

    def resolve(self, reference: str | Reference) -> Version:
        """Return the version that a reference names; without a selector the highest published one.

        Raises:
            ReferenceSyntaxError: It does not follow the grammar.
            AdapterNotFoundError: There is no adapter of that name; near names are suggested.
            VersionNotFoundError: The adapter has no such version.
        """
        if isinstance(reference, str):
            reference = parse_reference(reference)
        found = quick_version(self._database, reference)
        if found is not None:
            return found
        with self._database.reading() as session:
            adapter = require_adapter(session, reference)
            return to_version(adapter, select_version(session, adapter, reference))

    def versions(self, name: str) -> list[Version]:
        """Return all versions of an adapter, oldest first."""
        with self._database.reading() as session:
            adapter = require_adapter(session, adapter_reference(name))
            rows = session.exec(
                select(VersionRow)
                .where(VersionRow.adapter_id == adapter.id, VersionRow.state != "deleted")
                .order_by(col(VersionRow.number))
            )
            return [to_version(adapter, row) for row in rows]

    def list(self) -> "list[Adapter]":
        """Return all adapters, by name."""
        with self._database.reading() as session:
            rows = session.exec(select(AdapterRow).order_by(col(AdapterRow.namespace), col(AdapterRow.name)))
            return to_adapters(session, rows.all())

    def show(self, name: str) -> Adapter:
        """Return what is said of one adapter."""
        with self._database.reading() as session:
            return to_adapter(session, require_adapter(session, adapter_reference(name)))

    def documents(self, version: Version) -> "list[StoredFile]":
        """Return the files beside a version; read one with `read`."""
        with self._database.reading() as session:
            return list_documents(session, self._version_id(session, version))

    def previews(self, version: Version) -> "list[StoredFile]":
        """Return the pictures of a version, in the order in which they were added."""
        with self._database.reading() as session:
            return list_previews(session, self._version_id(session, version))

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

    def payload(self, version: Version) -> Path:
        """Return the file of weights of a version, or its directory if it has several files.

        Raises:
            BlobMissingError: A file of the version is missing in the store.
        """
        directory = self.directory(version)
        return directory / version.files[0].path if len(version.files) == 1 else directory

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
        states.set_alias(
            self._database,
            dataclasses.replace(adapter_reference(name), selector=str(number)),
            alias,
            is_checked=not isinstance(expected, Anywhere),
            expected=None if isinstance(expected, Anywhere) else expected,
        )

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
            publishing.refresh(session, adapter)
            return to_adapter(session, adapter)

    def yank(self, reference: str, reason: str) -> Version:
        """Hide a version from `latest` and from search; who names its number or digest still gets it.

        Raises:
            FieldError: There is no reason.
        """
        if not reason.strip():
            raise FieldError("reason", reason, "say why, for those who use it")
        return states.yank(self._database, self._exact(reference), reason.strip())

    def unyank(self, reference: str) -> Version:
        """Bring a yanked version back."""
        return states.unyank(self._database, self._exact(reference))

    def delete(self, reference: str) -> str:
        """Delete a version; its number and digest stay taken for ever. Return what was deleted.

        Raises:
            VersionInUseError: An alias stands at it.
        """
        return states.delete_version(self._database, self._exact(reference))

    def verify(self, reference: str | None = None) -> Iterator[tuple[Version, str, str]]:
        """Hash every file of one version, or of all, and yield (version, path, problem) for what is wrong."""
        if reference is not None:
            chosen = [self.resolve(reference)]
        else:
            chosen = [version for adapter in self.list() for version in self.versions(adapter.name)]
        return care.verify(self, chosen)

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

    def _exact(self, reference: str) -> Reference:
        """Return the reference of the very version that is meant, so that no alias moves in between."""
        version = self.resolve(reference)
        return parse_reference(version.reference)

    def _version_id(self, session: Session, version: Version) -> int:
        reference = parse_reference(version.reference)
        return flushed_id(select_version(session, require_adapter(session, reference), reference).id)
