"""The part of the registry that finds: by words, by file, by picture, by descent."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from adapterhub_registry import finding
from adapterhub_registry import search as searching
from adapterhub_registry.ancestry import LineageNode, lineage_of
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database
from adapterhub_registry.finding import FoundVersion, UsedAdapter
from adapterhub_registry.publication import Event
from adapterhub_registry.publishing import fill_missing_facts
from adapterhub_registry.references import parse_reference
from adapterhub_registry.rows import (
    adapter_reference,
    find_adapter,
    list_events,
    require_adapter,
    select_version,
)
from adapterhub_registry.search import PAGE, Filters, SearchPage
from adapterhub_registry.tables import AdoptedRow


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
        with self._database.reading() as session:
            return searching.search(session, query, filters, sort=sort, limit=limit, after=after)

    def find_file(self, path: Path | str) -> list[FoundVersion]:
        """Say which versions a file is, by its bytes, or by its weights alone if its header was changed.

        Raises:
            InputError, WeightsError: It cannot be read.
        """
        hashes = finding.hash_weights(Path(path))
        fill_missing_facts(self._database, self.blobs.path)
        with self._database.reading() as session:
            return finding.find_hashes(session, hashes)

    def has_adapter(self, name: str) -> bool:
        """Say whether there is an adapter of that name, deleted versions counted."""
        with self._database.reading() as session:
            return find_adapter(session, adapter_reference(name)) is not None

    def adopted_before(self, path: str, inode: int, size: int, mtime_ns: int) -> str:
        """Return the version that a file was adopted as, if it has not changed since; else an empty text."""
        with self._database.reading() as session:
            row = session.get(AdoptedRow, path)
            is_same = row is not None and (row.inode, row.size, row.mtime_ns) == (inode, size, mtime_ns)
            return row.version if row is not None and is_same else ""

    def remember_adopted(self, path: str, inode: int, size: int, mtime_ns: int, version: str) -> None:
        """Remember which version a file is."""
        with self._database.writing() as session:
            session.merge(AdoptedRow(path=path, inode=inode, size=size, mtime_ns=mtime_ns, version=version))

    def find_hash(self, text: str) -> list[FoundVersion]:
        """Say which versions have a file of a hash: SHA-256, AutoV1, AutoV2, AutoV3 or `sshs_model_hash`.

        Raises:
            FieldError: It is no hash.
        """
        fill_missing_facts(self._database, self.blobs.path)
        with self._database.reading() as session:
            return finding.find_short_hash(session, text)

    def find_image(self, path: Path | str) -> list[UsedAdapter]:
        """Say which adapters a picture was made with, from our record or the web UI's `Lora hashes`.

        Raises:
            InputError, PictureError: It cannot be read.
            RecordError: It says nothing of how it was made.
        """
        fill_missing_facts(self._database, self.blobs.path)
        with self._database.reading() as session:
            return finding.find_picture(session, Path(path))

    def lineage(self, reference: str) -> LineageNode:
        """Return what a version was made of, and what was made of it, as a tree."""
        parsed = parse_reference(reference)
        with self._database.reading() as session:
            adapter = require_adapter(session, parsed)
            return lineage_of(session, adapter, select_version(session, adapter, parsed))

    def events(self, *, subject: str = "", limit: int = PAGE) -> list[Event]:
        """Return what changed, newest first; with a subject, what begins with it (`me/ink`)."""
        with self._database.reading() as session:
            return list_events(session, subject, limit)
