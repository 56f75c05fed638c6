"""Repair of what `verify` finds: whole copies come from the trash or from a remote, every byte verified."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sqlmodel import col, delete, select

from adapterhub_registry.blobs import DirectoryBlobs, read_pieces
from adapterhub_registry.care import Repair, Use, view_files
from adapterhub_registry.database import Database
from adapterhub_registry.errors import AdapterHubError, AdapterNotFoundError, VersionNotFoundError
from adapterhub_registry.publishing import fill_missing_facts
from adapterhub_registry.references import adapter_reference
from adapterhub_registry.remote_version import RemoteVersion
from adapterhub_registry.remotes import Remote
from adapterhub_registry.rows import log_event
from adapterhub_registry.tables import FileHashRow, VersionRow


class Repairs:
    """Puts right what `verify` finds.

    Args:
        database: The registry's.
        blobs: The registry's.
        home: The registry's.
        remotes: Where whole copies may be, beside the trash.
        closed: Names of remotes that cannot be used now.
    """

    def __init__(
        self,
        database: Database,
        blobs: DirectoryBlobs,
        home: Path,
        remotes: Sequence[Remote],
        closed: Sequence[str],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._home = home
        self._remotes = remotes
        self._nowhere = f"no whole copy in {', '.join(['the trash', *(remote.name for remote in remotes)])}"
        if closed:
            self._nowhere += f"; {', '.join(closed)} cannot be used now"

    def restore_blob(self, sha256: str, uses: Sequence[Use], problem: str) -> Repair:
        """Put a whole copy in the place of a blob."""
        inode, why = _inode(self._blobs.path(sha256)), self._nowhere
        for source, pieces in self._copies(sha256, uses):
            try:
                self._drop_views(inode)
                self._blobs.write(pieces, expected=sha256, source=source, replace=True)
                self._drop_views(inode)  # one may have come meanwhile
            except (AdapterHubError, OSError) as exc:
                why = f"{source}: {exc}"
                continue
            self._log(uses, problem, f"restored from {source}")
            return Repair(f"restored from {source}", True)
        return Repair(why, False)

    def make_private(self, sha256: str, uses: Sequence[Use], problem: str) -> Repair:
        """Make a blob that is linked elsewhere a file of its own, and one that is writable read-only."""
        path = self._blobs.path(sha256)
        inode = _inode(path)
        try:
            if problem.startswith("linked"):
                self._blobs.unlink_outside(sha256)
                self._drop_views(inode)
                repair = "made a file of its own"
            else:
                path.chmod(0o444)
                repair = "made read-only"
        except (AdapterHubError, OSError) as exc:
            return Repair(str(exc), False)
        self._log(uses, problem, repair)
        return Repair(repair, True)

    def restore_manifest(
        self, version_id: int, name: str, number: int, digest: str
    ) -> tuple[Mapping[str, str], Repair]:
        """Find the manifest of a digest in a remote and write it into its row; return its files."""
        why = "no remote has this version"
        for remote in self._remotes:
            try:
                found = remote.resolve(replace(adapter_reference(name), selector=digest))
            except (AdapterNotFoundError, VersionNotFoundError):
                continue
            except (AdapterHubError, OSError) as exc:
                why = f"{remote.name}: {exc}"
                continue
            if isinstance(found, RemoteVersion) and found.digest == digest:
                manifest = found.manifest
                with self._database.writing() as session:
                    row = session.get_one(VersionRow, version_id)
                    if row.state == "deleted":
                        return {}, Repair("it was deleted meanwhile", True)
                    row.manifest = manifest.to_json()
                    session.add(row)
                    detail = {"problem": "manifest", "repair": f"restored from {remote.name}"}
                    log_event(session, "repair", f"{name}@{number}", detail)
                files = {file.path: file.sha256 for file in manifest.files}
                return files, Repair(f"restored from {remote.name}", True)
        return {}, Repair(why, False)

    def restore_hashes(self, use: Use) -> Repair:
        """Read the hashes of a version's files again."""
        with self._database.writing() as session:
            row = session.get_one(VersionRow, use.version_id)
            row.payload_digest = ""
            session.add(row)
            session.exec(delete(FileHashRow).where(col(FileHashRow.version_id) == use.version_id))
            log_event(session, "repair", use.label, {"problem": "hashes", "repair": "read again"})
        fill_missing_facts(self._database, self._blobs)
        with self._database.reading() as session:
            is_done = session.get_one(VersionRow, use.version_id).payload_digest != ""
        return Repair("read again" if is_done else "its files cannot be read", is_done)

    def _copies(self, sha256: str, uses: Sequence[Use]) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Yield where there may be a whole copy of a blob."""
        for path in sorted((self._home / "trash").glob(f"*/{sha256}")):
            yield "the trash", read_pieces(path)
        names = dict.fromkeys(use.label.partition("@")[0] for use in uses)
        for remote in self._remotes:
            for name in names:
                with suppress(AdapterHubError, OSError):
                    yield remote.name, remote.read(name, sha256)

    def _drop_views(self, inode: tuple[int, int] | None) -> None:
        """Remove the files of versions' directories that are links to a blob's old bytes."""
        for path, other in view_files(self._home):
            if other == inode:
                path.unlink(missing_ok=True)

    def _log(self, uses: Sequence[Use], problem: str, repair: str) -> None:
        """Write an event, and that the file is the registry's own now."""
        detail = {
            "file": uses[0].path,
            "versions": len(uses),
            "problem": problem.split(":")[0],
            "repair": repair,
        }
        keys = {use.version_id for use in uses}
        with self._database.writing() as session:
            log_event(session, "repair", uses[0].label, detail)
            for row in session.exec(select(VersionRow).where(VersionRow.linked != "")):
                if row.id in keys:
                    row.linked = ""
                    session.add(row)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
