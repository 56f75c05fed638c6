"""The registry: adapters, their versions, and what people say of them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub_registry import reading
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database
from adapterhub_registry.describing import Describing, read_card, with_card
from adapterhub_registry.errors import AdapterNotFoundError, BlobMissingError, FieldError
from adapterhub_registry.exchange import Exchange
from adapterhub_registry.files import link_file
from adapterhub_registry.finders import Finders
from adapterhub_registry.keepers import Keepers
from adapterhub_registry.manifest import Manifest, Version, check_manifest, decimal_text
from adapterhub_registry.publication import (
    Adapter,
    Details,
    Publication,
    Published,
    StoredFile,
    check_details,
    check_documents,
)
from adapterhub_registry.references import (
    ALIAS,
    RESERVED_ALIASES,
    Reference,
    adapter_reference,
    parse_reference,
)
from adapterhub_registry.settings import RegistrySettings, ensure_home
from adapterhub_registry.sharing import Sharing

if TYPE_CHECKING:
    from adapterhub_registry.intake import PreviewPicture, Staged


class Anywhere(Enum):
    """The value of `set_alias(expected=...)` that means: wherever it stands."""

    ANYWHERE = "anywhere"


class Registry(Finders, Keepers, Describing, Sharing, Exchange):
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
        path: "Path | str | Staged",
        *,
        name: str,
        base: str | None = None,
        like: Version | None = None,
        trigger_words: Sequence[str] = (),
        recommended_weight: float | str | None = None,
        licence: str = "",
        lineage: Mapping[str, str] | None = None,
        documents: Mapping[str, bytes] | None = None,
        previews: "Sequence[Path | str | PreviewPicture]" = (),
        message: str = "",
        title: str | None = None,
        description: str | None = None,
        kind: str | None = None,
        tags: Sequence[str] | None = None,
        settings: Mapping[str, str] | None = None,
        card: Path | str | None = None,
        link: bool = False,
    ) -> Version:
        """Add a file of weights, or a PEFT directory, as the next version of an adapter.

        If the adapter has a version with the same digest already, nothing changes and that one is returned.

        Args:
            path: A safetensors file, or a PEFT directory (`adapter_config.json` and weights); read once.
            name: `namespace/name`; capitals are folded, and kept as the title of a new adapter.
            base: The base that it was made on (see `adapterhub bases list`); its architecture must fit.
            like: A version whose base is this one's too, in place of `base`.
            trigger_words: What a prompt must say.
            recommended_weight: The strength to start with.
            licence: SPDX identifier, or words.
            lineage: Where it comes from; `operation` is `imported` if left out.
            documents: Files to keep beside the version, by name.
            previews: PNG, JPEG or WebP pictures of it; prompt, seed and settings are read from their records,
                and they are kept as PNG without them.
            message: What to say of this version.
            title: The adapter's name for people.
            description: A sentence.
            kind: One of `KINDS`.
            tags: Labels for search; they replace those there are.
            settings: What to generate with; they replace those there are.
            card: A model card's file, for what is not given here; by default the README.md of the directory.
            link: Keep a hard link to the file, not a copy, where the file system can: it takes no room, and
                who changes the file in place changes the version too. See `VersionFacts.linked`.

        Raises:
            InputError, PickleRefusedError, WeightsError: The weights cannot be read.
            ArchitectureError: They do not fit the base, or nobody said what they fit.
            PictureError, FieldError, CardError, ReferenceSyntaxError: Something else is malformed.
            OutputError: The disk is full. Nothing is listed in any of these cases.
        """
        from adapterhub_registry import intake
        from adapterhub_registry.locks import store_kept

        reference = adapter_reference(name)
        details = Details(title, description, None, kind, tags, settings)
        source = path.payload.path if isinstance(path, intake.Staged) else Path(path)
        said = read_card(source, None if card is None else Path(card))
        if said is not None:
            details = with_card(details, said)
            trigger_words, licence = trigger_words or said.trigger_words, licence or said.licence
            recommended_weight = said.recommended_weight if recommended_weight is None else recommended_weight
        check_details(details)
        payload = path if isinstance(path, intake.Staged) else intake.read_payload(source)
        architecture, identity = intake.describe_base(base, payload, like)
        pictures = [
            picture if isinstance(picture, intake.PreviewPicture) else intake.read_preview(Path(picture))
            for picture in previews
        ]
        words = tuple(word.strip() for word in trigger_words if word.strip())
        weight = "" if recommended_weight in (None, "") else decimal_text(recommended_weight)
        if details.title is None and name.strip() != reference.adapter:
            details = dataclasses.replace(details, title=name.strip().split("/")[-1])

        def store() -> Published:
            files, stored, shown, facts = intake.store_files(
                self.blobs, payload, documents or {}, pictures, link=link
            )
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
            publication = Publication(
                name=reference.adapter,
                manifest=manifest,
                message=message,
                documents=stored,
                previews=shown,
                details=details,
                facts=facts,
            )
            return self.publish(publication)

        return store_kept(self.home, store).version

    def publish(self, publication: Publication) -> Published:
        """Make a version visible, in one transaction; its blobs must be in the store.

        Raises:
            ManifestError, FieldError: Something is malformed; nothing has changed.
            VersionConflictError: The number is taken by another digest; nothing has changed.
            TombstoneError: The digest was deleted here before.
            BlobMissingError: A blob is not in the store; nothing has changed.
        """
        from adapterhub_registry import publishing
        from adapterhub_registry.facts import read_facts

        check_manifest(publication.manifest)
        check_details(publication.details)
        check_documents(publication.documents)
        try:
            facts = publication.facts or read_facts(publication.manifest, self.blobs, publication.documents)
        except FileNotFoundError as exc:
            raise BlobMissingError(Path(exc.filename).name, str(self.home)) from exc
        return publishing.publish(self._database, self.blobs, publication, facts, where=str(self.home))

    def resolve(self, reference: str | Reference) -> Version:
        """Return the version that a reference names; without a selector the highest published one.

        One that names a remote is looked up there, and must be here.

        Raises:
            ReferenceSyntaxError: It does not follow the grammar.
            AdapterNotFoundError: There is no adapter of that name; near names are suggested.
            VersionNotFoundError: The adapter has no such version.
            RemoteError: The remote has it, and this registry has not; or the remote cannot be used.
        """
        if isinstance(reference, str):
            reference = parse_reference(reference)
        if reference.remote:
            from adapterhub_registry.transfer import resolve_here

            return resolve_here(self, reference, self.remote(reference.remote))
        with self._database.snapshot() as read:
            return reading.read_version(read, reference)

    def versions(self, name: str) -> list[Version]:
        """Return all versions of an adapter, oldest first."""
        with self._database.snapshot() as read:
            return reading.list_versions(read, adapter_reference(name))

    def list(self) -> "list[Adapter]":
        """Return all adapters, by name."""
        with self._database.snapshot() as read:
            return reading.list_adapters(read)

    def show(self, name: str) -> Adapter:
        """Return what is said of one adapter."""
        with self._database.snapshot() as read:
            return reading.list_adapters(read, [reading.adapter_key(read, adapter_reference(name))])[0]

    def documents(self, version: Version) -> "list[StoredFile]":
        """Return the files beside a version; read one with `read`."""
        with self._database.snapshot() as read:
            return reading.list_documents(read, reading.version_key(read, parse_reference(version.reference)))

    def previews(self, version: Version) -> "list[StoredFile]":
        """Return the pictures of a version, in the order in which they were added."""
        with self._database.snapshot() as read:
            return reading.list_previews(read, reading.version_key(read, parse_reference(version.reference)))

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
        from adapterhub_registry import states

        states.set_alias(
            self._database,
            dataclasses.replace(adapter_reference(name), selector=str(number)),
            alias,
            is_checked=not isinstance(expected, Anywhere),
            expected=None if isinstance(expected, Anywhere) else expected,
        )

    def yank(self, reference: str, reason: str) -> Version:
        """Hide a version from `latest` and from search; who names its number or digest still gets it.

        Raises:
            FieldError: There is no reason.
        """
        if not reason.strip():
            raise FieldError("reason", reason, "say why, for those who use it")
        from adapterhub_registry import states

        return states.yank(self._database, self._exact(reference), reason.strip())

    def unyank(self, reference: str) -> Version:
        """Bring a yanked version back."""
        from adapterhub_registry import states

        return states.unyank(self._database, self._exact(reference))

    def delete(self, reference: str) -> str:
        """Delete a version; its number and digest stay taken for ever. Return what was deleted.

        Raises:
            VersionInUseError: An alias stands at it.
        """
        from adapterhub_registry import states

        return states.delete_version(self._database, self._exact(reference))

    def known_versions(self, name: str) -> "list[Version]":
        """Return all versions of an adapter, oldest first; none if there is no such adapter."""
        try:
            return self.versions(name)
        except AdapterNotFoundError:
            return []

    def known_digests(self, name: str) -> dict[str, int]:
        """Return digest to number of an adapter's versions, oldest first; none if there is no adapter."""
        with self._database.snapshot() as read:
            return reading.list_digests(read, adapter_reference(name))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _exact(self, reference: str) -> Reference:
        """Return the reference of the very version that is meant, so that no alias moves in between."""
        version = self.resolve(reference)
        return parse_reference(version.reference)
