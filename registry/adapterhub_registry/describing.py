"""The part of the registry that describes: what people say of an adapter, aliases, pictures, model cards."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub_registry import reading
from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.database import Database
from adapterhub_registry.errors import AdapterHubError, InputError
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import Adapter, AliasMove, Details, StoredFile
from adapterhub_registry.references import adapter_reference, parse_reference

if TYPE_CHECKING:
    from adapterhub_registry.card import ParsedCard
    from adapterhub_registry.facts import VersionFacts
    from adapterhub_registry.intake import PreviewPicture

logger = logging.getLogger(__name__)

README = "README.md"


class Describing:
    """Base of `Registry`; holds no state of its own."""

    home: Path
    blobs: DirectoryBlobs
    _database: Database

    if TYPE_CHECKING:

        def facts(self, version: Version) -> VersionFacts:
            """See `Finders`."""
            ...

    def update(self, name: str, details: Details | Callable[[Adapter], Details]) -> Adapter:
        """Change what is said of an adapter, as one event; nothing happens if all of it is said already.

        Args:
            name: `namespace/name`.
            details: What to set; None leaves a field as it is. A function is given the adapter as it stands,
                while nobody else can change it.

        Raises:
            FieldError: A tag, kind or setting is malformed.
        """
        from adapterhub_registry import states

        def change(adapter: Adapter) -> Details:
            return details(adapter) if callable(details) else details

        return states.update(self._database, adapter_reference(name), change)

    def alias_moves(self, name: str, alias: str | None = None) -> list[AliasMove]:
        """Return every move of an adapter's aliases, or of one of them, oldest first.

        Raises:
            AdapterNotFoundError: There is no adapter of that name.
        """
        with self._database.snapshot() as read:
            return reading.list_alias_moves(read, adapter_reference(name), alias)

    def remove_alias(self, name: str, alias: str, *, expected: int | None = None) -> None:
        """Take an alias away; its moves stay in the history.

        Args:
            name: `namespace/name`.
            alias: The alias.
            expected: The version at which it must stand now; None asks for nothing.

        Raises:
            FieldError: There is no such alias.
            AliasMovedError: It stands elsewhere; it is still there.
        """
        from adapterhub_registry import states

        states.remove_alias(self._database, adapter_reference(name), alias.strip().lower(), expected)

    def add_previews(
        self, version: Version, pictures: "Sequence[Path | str | PreviewPicture]"
    ) -> list[StoredFile]:
        """Add pictures to a version, in one transaction, and return those that it did not have.

        Args:
            version: The version; its digest does not change.
            pictures: Files; prompt, seed and settings are read from their records, unless they are given.

        Raises:
            InputError, PictureError: A file is no picture that can be a preview; none was added.
            OutputError: The disk is full; none was added.
        """
        from adapterhub_registry import intake, states
        from adapterhub_registry.locks import store_kept

        checked = [
            picture if isinstance(picture, intake.PreviewPicture) else intake.read_preview(Path(picture))
            for picture in pictures
        ]

        def store() -> list[StoredFile]:
            shown = intake.store_previews(self.blobs, checked)
            return states.add_previews(self._database, self.blobs, parse_reference(version.reference), shown)

        return store_kept(self.home, store)

    def remove_preview(self, version: Version, number: int) -> None:
        """Take a picture away from a version; those behind it move up.

        Args:
            version: The version.
            number: The picture's place, from 1, as in `preview-1.png`.

        Raises:
            FieldError: There is no such picture.
        """
        from adapterhub_registry import states

        states.remove_preview(self._database, parse_reference(version.reference), number)

    def card(self, reference: str, *, places: Mapping[str, str] | None = None) -> str:
        """Return the model card of a version: a README.md for the Hugging Face Hub; see `render_card`.

        Args:
            reference: The version.
            places: SHA-256 of a preview to where it lies beside the card; by default `preview-1.png`, ...
        """
        from adapterhub_registry.card import render_card

        with self._database.snapshot() as read:
            version = reading.read_version(read, parse_reference(reference))
            exact = parse_reference(version.reference)
            (adapter,) = reading.list_adapters(read, [reading.adapter_key(read, exact)])
            previews = reading.list_previews(read, reading.version_key(read, exact))
        if places:
            previews = [replace(item, name=places.get(item.sha256, item.name)) for item in previews]
        found = self.facts(version)
        facts = {
            "rank": found.ranks,
            "alpha": found.alphas,
            "targets": found.targets,
            "parameters": f"{found.parameters:,}" if found.parameters else "",
            "size": f"{found.size:,} bytes",
            "weights": f"sha256:{found.payload_digest}" if found.payload_digest else "",
            **{f"training: {name}": value for name, value in found.metrics.items()},
        }
        return render_card(adapter, version, previews, facts=facts)


def read_card(path: Path, card: Path | None) -> "ParsedCard | None":
    """Return the model card of weights that come in; None if there is none.

    Args:
        path: The weights. The card lies in the directory, or beside a file that has the name which diffusers
            gives it in a repository; one that cannot be read is passed over, with a warning.
        card: The card's file, if it was named.

    Raises:
        InputError: The named file cannot be read.
        CardError: It is no model card.
    """
    from adapterhub_registry.intake import SINGLE_FILE

    if card is None:
        folder = path if path.is_dir() else path.parent
        if not (path.is_dir() or path.name == SINGLE_FILE) or not (folder / README).is_file():
            return None
        try:
            return _read_card(folder / README)
        except AdapterHubError as exc:
            logger.warning("%s is passed over: %s", folder / README, exc)
            return None
    return _read_card(card)


def _read_card(path: Path) -> "ParsedCard":
    from adapterhub_registry.card import MAX_CARD_BYTES, parse_card

    try:
        with path.open("rb") as file:
            content = file.read(MAX_CARD_BYTES + 1)
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc
    return parse_card(content)


def card_text(path: Path) -> str:
    """Return the author's own text of a model card's file; empty where the registry wrote it all.

    Raises:
        InputError: The file cannot be read.
        CardError: It is no model card.
    """
    return _read_card(path).body


def with_card(details: Details, card: "ParsedCard") -> Details:
    """Return details in which a model card says what they leave open."""
    said = Details(
        title=card.title or None,
        description=card.description or None,
        card=card.body or None,
        kind=card.kind or None,
        tags=card.tags or None,
        settings=card.settings or None,
    )
    return Details(
        **{name: getattr(said, name) if value is None else value for name, value in vars(details).items()}
    )
