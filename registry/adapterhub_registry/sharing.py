"""The part of the registry that shares: adapters as a whole, for the server and who runs it."""

from adapterhub_registry.database import Database
from adapterhub_registry.references import adapter_reference


class Sharing:
    """Base of `Registry`; holds no state of its own."""

    _database: Database

    @property
    def database(self) -> Database:
        """Where the rows are, for the server, which keeps some of its own."""
        return self._database

    def create(self, name: str, *, visibility: str = "private") -> str:
        """Make an adapter without versions, and return its name.

        Args:
            name: `namespace/name`; capitals are folded, and kept as the title.
            visibility: `private` or `public`.

        Raises:
            ReferenceSyntaxError: It is no name.
            AdapterExistsError: There is one of that name, or one had it before it was moved.
        """
        from adapterhub_registry import adapters

        reference = adapter_reference(name)
        title = name.strip().split("/")[-1]
        adapters.create(
            self._database,
            reference,
            visibility=visibility,
            title="" if title == reference.name else title,
        )
        return reference.adapter

    def set_visibility(self, name: str, visibility: str) -> None:
        """Let all who reach a server read an adapter (`public`), or its namespace alone (`private`).

        Raises:
            AdapterNotFoundError: There is no adapter of that name.
            FieldError: It is neither of the two.
        """
        from adapterhub_registry import adapters

        adapters.set_visibility(self._database, adapter_reference(name), visibility)

    def move(self, name: str, target: str) -> None:
        """Give an adapter another name; no other adapter gets the old one.

        Raises:
            AdapterNotFoundError: There is no adapter of that name.
            AdapterExistsError: The other name is taken.
        """
        from adapterhub_registry import adapters

        adapters.move(self._database, adapter_reference(name), adapter_reference(target))

    def remove(self, name: str) -> None:
        """Delete every version of an adapter, and what is said of it; the numbers stay taken for ever.

        Raises:
            AdapterNotFoundError: There is no adapter of that name.
        """
        from adapterhub_registry import adapters

        adapters.remove(self._database, adapter_reference(name))
