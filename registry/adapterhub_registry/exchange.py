"""The part of the registry that knows other registries: remotes, push and pull."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from adapterhub_registry.database import Database
from adapterhub_registry.errors import FieldError, RemoteError
from adapterhub_registry.references import adapter_reference, parse_reference

if TYPE_CHECKING:
    from adapterhub_registry.remotes import Remote
    from adapterhub_registry.store import Registry
    from adapterhub_registry.transfer import Transfer


class Exchange:
    """Base of `Registry`; holds no state of its own."""

    _database: Database

    def remotes(self) -> dict[str, str]:
        """Return the remotes: name to URL."""
        from adapterhub_registry import known_remotes

        return known_remotes.list_remotes(self._database)

    def add_remote(self, name: str, url: str) -> None:
        """Remember a remote, after opening it once; a remote of that name is replaced.

        Args:
            name: What to call it; `hf` is taken.
            url: `https://host`, `http://host`, or `file:///directory`.

        Raises:
            FieldError: The name is malformed.
            RemoteError: The URL cannot be used.
        """
        from adapterhub_registry import known_remotes

        known_remotes.add_remote(self._database, name, url)

    def remove_remote(self, name: str) -> None:
        """Forget a remote; nothing changes there.

        Raises:
            RemoteError: There is no remote of that name.
        """
        from adapterhub_registry import known_remotes

        known_remotes.remove_remote(self._database, name)

    def only_remote(self) -> str:
        """Return the remote that `ADAPTERHUB_REMOTE` names, or else the one there is.

        Raises:
            RemoteError: There is none, or there are several.
        """
        from adapterhub_registry import known_remotes

        return known_remotes.only_remote(self._database)

    def remote(self, name: str) -> "Remote":
        """Open a remote, by its name or its URL.

        Raises:
            RemoteError: There is no remote of that name, or it cannot be used now.
        """
        from adapterhub_registry.remotes import open_remote

        return open_remote(name, self.remote_url(name))

    def remote_url(self, name: str) -> str:
        """Return the URL of a remote; a URL is its own.

        Raises:
            RemoteError: There is no remote of that name.
        """
        from adapterhub_registry import known_remotes

        return name if "://" in name else known_remotes.remote_url(self._database, name)

    def push(
        self,
        reference: str,
        *,
        remote: str,
        renumber: bool = False,
        aliases: Sequence[str] = (),
        with_parents: bool = False,
        with_data: bool = False,
        on_bytes: Callable[[int, int], None] = lambda _, __: None,
    ) -> "Transfer":
        """Push a version to a remote; see `adapterhub_registry.transfer.push`.

        Args:
            reference: The version.
            remote: The remote's name or URL; `hf` and `hf:owner/name` are the Hugging Face Hub.
            renumber: If the number is taken there, take the next one.
            aliases: Aliases to point at it there.
            with_parents: Push the versions that it was made of before it, as far as they are here.
            with_data: Push the documents beside it too.
            on_bytes: Called with (bytes sent, bytes that were missing there), for each version anew.
        """
        from adapterhub_registry import hub, transfer

        registry = cast("Registry", self)
        version = registry.resolve(reference)
        if hub.is_hub(remote):
            if renumber or with_parents:
                raise FieldError(
                    "option", "renumber, with_parents", "a hub of models has no numbers or lineage"
                )
            return hub.push(registry, version, remote, aliases=aliases, with_data=with_data)
        there = self.remote(remote)
        parents: list[Transfer] = []
        if with_parents:
            for label in dict.fromkeys(transfer.parents_of(registry.lineage(version.reference))):
                parent = registry.resolve(label)
                parents.append(
                    transfer.push(
                        registry, parent, there, renumber=renumber, with_data=with_data, on_bytes=on_bytes
                    )
                )
        done = transfer.push(
            registry,
            version,
            there,
            renumber=renumber,
            aliases=tuple(aliases),
            with_data=with_data,
            on_bytes=on_bytes,
        )
        return replace(done, parents=tuple(parents))

    def pull(
        self,
        reference: str,
        *,
        remote: str | None = None,
        rename: str | None = None,
        file: str | None = None,
        on_bytes: Callable[[int, int], None] = lambda _, __: None,
    ) -> "Transfer":
        """Pull a version from a remote; see `adapterhub_registry.transfer.pull`.

        Args:
            reference: May name the remote itself: `team:acme/corgi@prod`, `hf:owner/name@revision`.
            remote: The remote's name or URL, if the reference does not name it.
            rename: Another name for the adapter here.
            file: Of a repository that AdapterHub did not publish: which file of weights to take.
            on_bytes: Called with (bytes fetched, bytes that were missing here).
        """
        from adapterhub_registry import hub, transfer

        registry = cast("Registry", self)
        adapter = None if rename is None else adapter_reference(rename).adapter
        if hub.is_hub(reference) or (remote is not None and hub.is_hub(remote)):
            return hub.pull(registry, reference, rename=adapter, file=file)
        if file is not None:
            raise FieldError("file", file, "it goes with repositories of a hub, hf:owner/name, alone")
        parsed = parse_reference(reference)
        name = parsed.remote or remote
        if not name:
            raise RemoteError("", "none was named; write team:acme/corgi, or say which")
        return transfer.pull(registry, parsed, self.remote(name), rename=adapter, on_bytes=on_bytes)
