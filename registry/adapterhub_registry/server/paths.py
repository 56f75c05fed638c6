"""The paths of files in a repository, and what a file may be by its name and its first bytes."""

import re
from pathlib import PurePosixPath

from adapterhub_registry.errors import FieldError
from adapterhub_registry.safetensors_header import PICKLE, START_BYTES, foreign_start

WEIGHTS = (".safetensors",)
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
TEXTS = (
    *(".md", ".txt", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".csv", ".tsv", ".jinja", ".cfg", ".ini"),
    *(".log", ".cff", ".bib"),
)
TEXT_NAMES = ("license", "licence", "notice", "readme", "authors", "changelog")
GIT_NAMES = (".gitattributes", ".gitignore")
PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
MAX_PATH_BYTES = 255
WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
RULE = "names of letters and digits with / between them, at most 255 bytes, that lead nowhere else"


def check_path(path: str) -> None:
    """Check the path of a file, which clients will write to their disks.

    Raises:
        FieldError: It leads out of its directory, or is no name on some system.
    """
    parts = path.split("/")
    is_text = path.isprintable() and not set(path) & set('\\:*?"<>|') and _is_unicode(path)
    is_fine = is_text and all(
        part not in ("", ".", "..")
        and part == part.strip()
        and not part.endswith(".")
        and part.lower() != ".git"
        and not WINDOWS.fullmatch(part)
        for part in parts
    )
    if not is_fine or len(path.encode()) > MAX_PATH_BYTES:
        raise FieldError("path", path.encode("ascii", "backslashreplace").decode(), RULE)


def check_kind(path: str, start: bytes, size: int) -> None:
    """Check that a file is of a kind that a registry of adapters keeps, by its name and its first bytes.

    Raises:
        FieldError: It is not, or its bytes say something else than its name.
    """
    name = PurePosixPath(path).name.lower()
    foreign = foreign_start(start[:START_BYTES], size)
    if foreign == PICKLE:
        raise FieldError(
            "file",
            path,
            "it holds pickled Python objects, which can run any program; convert it to safetensors",
        )
    if foreign:
        raise FieldError("file", path, f"it is {foreign}; push what is in it")
    if not (is_weights(name) or is_picture(name) or is_text(name)):
        kinds = ", ".join((*WEIGHTS, *PICTURES, *TEXTS))
        raise FieldError("file", path, f"only these are kept here: {kinds}, licences, .gitattributes")
    if is_picture(name) and size and not start.startswith(PICTURE_STARTS):
        raise FieldError("file", path, "it is no PNG, JPEG or WebP")
    if is_text(name) and b"\0" in start:
        raise FieldError("file", path, "it is no text")


def is_weights(path: str) -> bool:
    """Say whether a name is that of weights."""
    return path.lower().endswith(WEIGHTS)


def is_picture(path: str) -> bool:
    """Say whether a name is that of a picture."""
    return path.lower().endswith(PICTURES)


def is_text(path: str) -> bool:
    """Say whether a name is that of text."""
    name = PurePosixPath(path).name.lower()
    return name.endswith(TEXTS) or name in GIT_NAMES or name in TEXT_NAMES


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
