"""The part of the registry that finds: by words, by file, by picture, by descent.

What imports SQLModel or Pillow is imported where it is used, so that a search starts at once.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub_registry import reading
from adapterhub_registry import search as searching
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Event
from adapterhub_registry.references import adapter_reference, parse_reference
from adapterhub_registry.search import PAGE, Filters, SearchPage

if TYPE_CHECKING:
    from adapterhub_registry.ancestry import LineageNode
    from adapterhub_registry.facts import VersionFacts
    from adapterhub_registry.finding import FoundVersion, UsedAdapter
    from adapterhub_registry.hashes import FileHashes


class Finders:
    """Base of `Registry`; holds no state of its own."""

    blobs: DirectoryBlobs
    _database: Database

    def search(
        self,
        query: str = "",
        *,
        filters: Filters | None = None,
        tags: Sequence[str] = (),
        sort: str | None = None,
        limit: int = PAGE,
        after: str | None = None,
    ) -> SearchPage:
        """Find adapters by words in names, titles, descriptions, triggers, tags, and by what they are.

        Args:
            query: Words; every one must be found, and the beginning of a word is enough. Empty asks for all.
            filters: What the adapter and its newest published version must be.
            tags: All of these, in place of those in `filters`.
            sort: `relevance`, `name`, `updated` or `created`; by default relevance, or name without words.
            limit: Adapters on a page, at most 1000.
            after: The `next` of the page before.

        Raises:
            FieldError: A sort, limit or page token makes no sense.

        Example:
            >>> import tempfile
            >>> from adapterhub_registry.store import Registry
            >>> Registry(Path(tempfile.mkdtemp())).search("ink", tags=["portrait"]).adapters
            ()
        """
        filters = filters or Filters()
        if tags:
            filters = dataclasses.replace(filters, tags=tags)
        with self._database.snapshot() as read:
            return searching.search(read, query, filters, sort=sort, limit=limit, after=after)

    def find_file(self, path: Path | str) -> "list[FoundVersion]":
        """Say which versions a file is, by its bytes, or by its weights alone if its header was changed.

        Raises:
            InputError, WeightsError: It cannot be read.
        """
        from adapterhub_registry import finding

        return self.find_hashes(finding.hash_weights(Path(path)))

    def find_hashes(self, hashes: "FileHashes") -> "list[FoundVersion]":
        """Say which versions hold a file of these hashes, the surest first."""
        from adapterhub_registry import finding
        from adapterhub_registry.publishing import fill_missing_facts

        fill_missing_facts(self._database, self.blobs)
        with self._database.reading() as session:
            return finding.find_hashes(session, hashes)

    def facts(self, version: Version) -> "VersionFacts":
        """Return what the files of a version say, as it was read once and kept."""
        from adapterhub_registry.facts import VersionFacts

        query = (
            "SELECT ranks, alphas, targets, parameters, size, payload_digest, metrics, linked "
            "FROM version WHERE id = ?"
        )
        with self._database.snapshot() as read:
            key = reading.version_key(read, parse_reference(version.reference))
            (row,) = read(query, [key])
            documents = reading.list_documents(read, key)
        if row[2] == "":
            from adapterhub_registry.publishing import fill_header_facts

            fill_header_facts(self._database, key, documents, self.blobs.path)
            with self._database.snapshot() as read:
                (row,) = read(query, [key])
        ranks, alphas, targets, parameters, size, payload_digest, metrics, linked = row
        return VersionFacts(
            ranks, alphas, targets, parameters, size, payload_digest, json.loads(metrics), linked
        )

    def has_adapter(self, name: str) -> bool:
        """Say whether there is an adapter of that name, deleted versions counted."""
        with self._database.snapshot() as read:
            return reading.find_adapter_key(read, adapter_reference(name)) is not None

    def adapters_named(self, name: str) -> list[str]:
        """Return `namespace/name` of the adapters of that name in any namespace, if they have a `latest`."""
        query = (
            "SELECT namespace || '/' || name FROM adapter WHERE name = ? AND head_id IS NOT NULL ORDER BY 1"
        )
        with self._database.snapshot() as read:
            return [found for (found,) in read(query, [name.lower()])]

    def adopted_files(self) -> dict[tuple[str, int, int, int], str]:
        """Return path, inode, size and time of every file that was adopted, to the version that it is."""
        query = (
            "SELECT path, inode, size, mtime_ns, version FROM adopted WHERE version NOT IN "
            "(SELECT namespace || '/' || name || '@' || number FROM version "
            "JOIN adapter ON adapter.id = version.adapter_id WHERE state = 'deleted')"
        )
        with self._database.snapshot() as read:
            return {(path, inode, size, time): version for path, inode, size, time, version in read(query)}

    def adopted_before(self, path: str, inode: int, size: int, mtime_ns: int) -> str:
        """Return the version that a file was adopted as, if it has not changed since; else an empty text."""
        query = "SELECT version FROM adopted WHERE path = ? AND inode = ? AND size = ? AND mtime_ns = ?"
        with self._database.snapshot() as read:
            rows = read(query, [path, inode, size, mtime_ns])
        return rows[0][0] if rows else ""

    def remember_adopted(self, path: str, inode: int, size: int, mtime_ns: int, version: str) -> None:
        """Remember which version a file is."""
        from adapterhub_registry.tables import AdoptedRow

        with self._database.writing() as session:
            session.merge(AdoptedRow(path=path, inode=inode, size=size, mtime_ns=mtime_ns, version=version))

    def find_hash(self, text: str) -> "list[FoundVersion]":
        """Say which versions have a file of a hash: SHA-256, AutoV1, AutoV2, AutoV3 or `sshs_model_hash`.

        Raises:
            FieldError: It is no hash.
        """
        from adapterhub_registry import finding
        from adapterhub_registry.publishing import fill_missing_facts

        fill_missing_facts(self._database, self.blobs)
        with self._database.reading() as session:
            return finding.find_short_hash(session, text)

    def find_image(self, path: Path | str) -> "list[UsedAdapter]":
        """Say which adapters a picture was made with, from our record or the web UI's `Lora hashes`.

        Raises:
            InputError, PictureError: It cannot be read.
            RecordError: It says nothing of how it was made.
        """
        from adapterhub_registry import finding
        from adapterhub_registry.publishing import fill_missing_facts

        fill_missing_facts(self._database, self.blobs)
        with self._database.reading() as session:
            return finding.find_picture(session, Path(path))

    def lineage(self, reference: str) -> "LineageNode":
        """Return what a version was made of, and what was made of it, as a tree."""
        from adapterhub_registry.ancestry import lineage_of
        from adapterhub_registry.rows import require_version

        with self._database.reading() as session:
            return lineage_of(session, *require_version(session, parse_reference(reference)))

    def events(self, *, subject: str = "", limit: int = PAGE) -> list[Event]:
        """Return what changed, newest first; with a subject, what begins with it (`me/ink`)."""
        with self._database.snapshot() as read:
            return reading.list_events(read, subject, limit)
