"""What is kept of a trained adapter beside its weights, and how it waits in a run's directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapterhub.training.report import NAME
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.intake import PreviewPicture

CONFIG, DATA, RUN = "config.json", "data.json", "run.json"
PREVIEWS = "previews.json"


@dataclass(frozen=True)
class Record:
    """What a version is made of.

    Attributes:
        weights: The file.
        documents: What lies beside it, by name.
        previews: Its pictures.
    """

    weights: Path
    documents: Mapping[str, bytes]
    previews: Sequence[PreviewPicture]

    def write(self, folder: Path) -> None:
        """Write documents, and what is known of the pictures, into a folder.

        Raises:
            OutputError: It cannot be written.
        """
        make_directory(folder)
        rows = [{**asdict(one), "path": str(one.path.relative_to(folder))} for one in self.previews]
        content = (json.dumps(rows, indent=1) + "\n").encode()
        for name, data in {**self.documents, PREVIEWS: content}.items():
            write_atomically(folder / name, data)

    @classmethod
    def read(cls, folder: Path, weights: Path) -> "Record":
        """Read what `write` wrote.

        Raises:
            OSError: It is not there.
        """
        # The folder holds more: what no version carries.
        names = [name for name in (CONFIG, DATA, RUN, NAME) if (folder / name).exists()]
        documents = {name: (folder / name).read_bytes() for name in names}
        rows = json.loads((folder / PREVIEWS).read_text())
        pictures = [PreviewPicture(**{**row, "path": folder / row["path"]}) for row in rows]
        return cls(weights, documents, pictures)
