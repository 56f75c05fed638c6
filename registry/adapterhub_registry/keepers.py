"""The part of the registry that cares for what is stored."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database
from adapterhub_registry.errors import OutputError, RemoteError
from adapterhub_registry.references import parse_reference

if TYPE_CHECKING:
    from adapterhub_registry.backup import BackedUp
    from adapterhub_registry.care import Problem
    from adapterhub_registry.collection import Collected, Tally
    from adapterhub_registry.remotes import Remote
    from adapterhub_registry.repair import Repairs


class Keepers:
    """Base of `Registry`; holds no state of its own."""

    home: Path
    blobs: DirectoryBlobs
    _database: Database

    def verify(
        self,
        reference: str | None = None,
        *,
        repair: bool = False,
        remote: str | None = None,
        on_blob: Callable[[int, int], None] = lambda _, __: None,
    ) -> "Iterator[Problem]":
        """Hash every file of one version, or of all, compare rows and files, and yield what is wrong.

        Args:
            reference: The version; None means everything.
            repair: Put right what can be: with whole copies from the trash or a remote, by reading hashes
                again, and by making a file that others can change the registry's own.
            remote: The only remote to ask; None means all.
            on_blob: Called after each blob with (blobs done, blobs).

        Raises:
            AdapterNotFoundError, VersionNotFoundError: There is no such version.
            RemoteError: There is no such remote, or it cannot be used now.
        """
        from adapterhub_registry import care

        parsed = None if reference is None else parse_reference(reference)
        repairer = self._repairer(remote) if repair else None
        return care.verify(self._database, self.blobs, self.home, parsed, repairer=repairer, on_blob=on_blob)

    def linked_versions(self) -> list[str]:
        """Return the versions that were adopted as links to files of another tool, which may change them."""
        query = (
            "SELECT namespace || '/' || name || '@' || number FROM version "
            "JOIN adapter ON adapter.id = version.adapter_id "
            "WHERE linked <> '' AND state <> 'deleted' ORDER BY version.id"
        )
        with self._database.snapshot() as read:
            return [label for (label,) in read(query)]

    def backup(
        self, directory: Path, *, on_file: Callable[[int, int], None] = lambda _, __: None
    ) -> "BackedUp":
        """Copy the whole home while it is in use; a backup that is there already gets what it lacks.

        It holds the state of one moment: the database as it was, every file that its versions need, verified
        while it is copied, and the other files of the home, without what can be made again. `collect` waits
        meanwhile. Make a home of it with `adapterhub_registry.backup.restore`.

        Args:
            directory: Empty, new, or a backup; not inside the home.
            on_file: Called after each file with (files done, files).

        Raises:
            FieldError: The directory holds other files, or lies in the home.
            BackupError: Files are missing or damaged; the backup that was there before is still whole.
            OutputError, DatabaseError, InputError: Something cannot be read or written; likewise.
        """
        from adapterhub_registry.backup import back_up

        return back_up(self.home, Path(directory), on_file)

    def unneeded(self) -> "Tally":
        """Return how many files no version needs; `collect` removes them."""
        from adapterhub_registry.collection import unneeded

        return unneeded(self._database, self.blobs)

    def collect(
        self,
        *,
        grace: timedelta = timedelta(days=1),
        keep: timedelta = timedelta(days=7),
        dry_run: bool = False,
        on_wait: Callable[[], None] = lambda: None,
    ) -> "Collected":
        """Remove what no version needs, while others add, push and pull.

        A blob that no version needs is condemned; one that was condemned for the grace time moves to the
        trash, and leaves it after the keeping time. What dead writers left and the directories of deleted
        versions go at once.

        Args:
            grace: How long a blob stays after it was first found unneeded.
            keep: How long it lies in the trash then.
            dry_run: Only say what would happen.
            on_wait: Called if a backup or another collection runs, before its end is waited for.

        Raises:
            OutputError: Something cannot be moved or removed; nothing that is needed was touched.
        """
        from adapterhub_registry.collection import LOCK, collect
        from adapterhub_registry.locks import locked

        alone = nullcontext() if dry_run else locked(self.home / LOCK, on_wait=on_wait)
        try:
            with alone:
                return collect(
                    self._database,
                    self.blobs,
                    self.home,
                    grace=grace,
                    keep=keep,
                    dry_run=dry_run,
                    on_wait=on_wait,
                )
        except OSError as exc:
            raise OutputError(Path(exc.filename or self.home), exc.strerror or str(exc)) from exc

    def _repairer(self, remote: str | None) -> "Repairs":
        """Return what repairs with the help of a remote, or of all that can be used now."""
        from adapterhub_registry import known_remotes
        from adapterhub_registry.remotes import open_remote
        from adapterhub_registry.repair import Repairs

        found: list[Remote] = []
        closed: list[str] = []
        known = known_remotes.list_remotes(self._database)
        if remote is not None:
            known = {remote: known_remotes.remote_url(self._database, remote)}
        for name, url in known.items():
            try:
                found.append(open_remote(name, url))
            except RemoteError:
                if remote is not None:
                    raise
                closed.append(name)
        return Repairs(self._database, self.blobs, self.home, found, closed)
