"""A folder of pictures on disk: its files, and which caption belongs to which; every problem is collected."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from adapterhub.errors import CaptionError
from adapterhub.training.captions import read_text
from adapterhub.training.pictures import SUFFIXES, UNREAD_SUFFIXES

METADATA = ("metadata.jsonl", "metadata.csv")
"""Of the Hub's image folders; `file_name` is relative to the folder of the file that says it."""
CAPTION_SUFFIXES = (".txt", ".caption")
TABLES = (".parquet", ".arrow")
SPLITS = ("test", "validation", "valid", "val", "dev")
MISSING_CAPTIONS = ("error", "empty", "filename")


@dataclass(frozen=True)
class Captioned:
    """A picture in a folder, not opened yet.

    Attributes:
        name: Its path relative to the folder, with slashes.
        path: The file.
        caption: What it shows; None if that is a problem, which is among the findings.
    """

    name: str
    path: Path
    caption: str | None


@dataclass(frozen=True)
class Findings:
    """What was found out about a data set; it is added to.

    Attributes:
        problems: Why it cannot be trained on, each with the file's name.
        notes: What was done to files that a person should know.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_captioned(
    folder: Path, findings: Findings, *, missing_captions: str = "error", skip: Path | None = None
) -> list[Captioned]:
    """Return the pictures of a folder and of those below it, in the order of their names.

    Captions stand in a `metadata.jsonl` or `metadata.csv` of the folder or of one above it, else in a `.txt`
    or `.caption` beside each picture. What begins with a dot is passed over.

    Args:
        folder: Where to look.
        findings: What is wrong is added to it.
        missing_captions: What a picture without a caption is: an `error`, `empty`, or called by its
            `filename`.
        skip: A folder that is passed over, such as one of masks.
    """
    files = _files(folder, findings, skip)
    if not files:
        return []
    by_metadata, folders = _metadata(files, findings)
    known = {name.lower(): name for name in files}
    found: list[Captioned] = []
    for name in filter(_is_picture, files):
        picture = PurePosixPath(name)
        if folders.isdisjoint(picture.parents):
            caption, wanted = _beside(picture, files, known, findings), f"{picture.stem}.txt"
        else:
            caption, wanted = by_metadata.pop(name, ("", ""))[0], f"an entry in {METADATA[0]}"
        if caption == "" and missing_captions == "error":
            findings.problems.append(f"{name} has no caption: it needs {wanted}")
            caption = None
        elif caption == "" and missing_captions == "filename":
            caption = picture.stem.replace("_", " ").strip()
        found.append(Captioned(name, files[name], caption))
    findings.problems.extend(
        f"{where} names {name}, which is not there" for name, (_, where) in by_metadata.items()
    )
    return found


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _files(folder: Path, findings: Findings, skip: Path | None) -> dict[str, Path]:
    """Return the files of a folder by name; none if there are no pictures to train on among them."""
    if not folder.is_dir():
        findings.problems.append("there is no such folder")
        return {}
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    if splits and (folder / "train").is_dir():
        listed = ", ".join(["train", *splits])
        findings.problems.append(
            f"it holds the splits {listed}: name one of them, such as {folder / 'train'}"
        )
        return {}
    files: dict[str, Path] = {}
    for path in sorted(_walk(folder, folder, skip, frozenset(), findings)):
        name = path.relative_to(folder).as_posix()
        if name.isprintable():
            files[name] = path
        else:
            findings.problems.append(f"{name!r} is a name that cannot be printed; rename it")
    tables = [name for name in files if name.lower().endswith(TABLES)]
    for name in tables[:1]:
        remedy = f"write its pictures out as files, with a {METADATA[0]}"
        findings.problems.append(f"{name} is a table, which is not read; {remedy}")
    unread = [name for name in files if name.lower().endswith(UNREAD_SUFFIXES)]
    findings.problems.extend(f"{name} is of a kind that is not read; save it as a PNG" for name in unread)
    if not any(map(_is_picture, files)):
        if not tables and not unread:
            findings.problems.append(f"it holds no pictures ({', '.join(SUFFIXES)})")
        return {}
    return files


def _walk(
    root: Path, folder: Path, skip: Path | None, above: frozenset[tuple[int, int]], findings: Findings
) -> Iterator[Path]:
    """Yield the files below a folder, through links, but not round a loop of them."""
    name = folder.relative_to(root).as_posix()
    try:
        found = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as exc:
        findings.problems.append(f"{name} cannot be opened ({exc.strerror or exc})")
        return
    place = (found.st_dev, found.st_ino)
    if place in above:
        findings.problems.append(f"{name} is a link to a folder that it lies in; take it away")
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or path == skip:
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False  # a link to itself: if it is called as pictures are, opening it says so
        if is_folder:
            yield from _walk(root, path, skip, above | {place}, findings)
        else:
            yield path


def _metadata(
    files: Mapping[str, Path], findings: Findings
) -> tuple[dict[str, tuple[str, str]], set[PurePosixPath]]:
    """Return captions, each with the file that says it, and the folders that such files speak for."""
    captions: dict[str, tuple[str, str]] = {}
    folders: set[PurePosixPath] = set()
    for name, path in files.items():
        if path.name not in METADATA:
            continue
        folder = PurePosixPath(name).parent
        folders.add(folder)
        try:
            text, encoding = read_text(path)
        except CaptionError as exc:
            findings.problems.append(f"{name} {exc.reason}")
            continue
        if encoding != "utf-8":
            findings.notes.append(f"{name} is {encoding.upper()}, and was read as such")
        rows = _json_rows(text) if path.suffix == ".jsonl" else _csv_rows(text)
        for number, row in rows:
            file_name, caption = row.get("file_name"), row.get("text")
            if not isinstance(file_name, str) or not isinstance(caption, str):
                findings.problems.append(f'{name}, line {number}: it needs "file_name" and "text"')
                continue
            picture = (folder / file_name).as_posix()
            if picture in captions:
                findings.problems.append(f"{name}, line {number}: it names {picture} again")
            captions[picture] = (caption.strip(), name)
    return captions, folders


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not splitlines: it also splits at characters that a JSON string may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else {}


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error:
        yield reader.line_num, {}


def _beside(
    picture: PurePosixPath, files: Mapping[str, Path], known: Mapping[str, str], findings: Findings
) -> str | None:
    """Return the caption in the file beside a picture, empty if there is none; None if it cannot be read."""
    captions: dict[str, str] = {}
    for suffix in CAPTION_SUFFIXES:
        name = known.get(str(picture.with_suffix(suffix)).lower())
        if name is None:
            continue
        try:
            text, encoding = read_text(files[name])
        except CaptionError as exc:
            findings.problems.append(f"{name} {exc.reason}")
            return None
        if encoding != "utf-8":
            findings.notes.append(f"{name} is {encoding.upper()}, and was read as such")
        captions[name] = text.strip()
    if len(set(captions.values())) > 1:
        findings.problems.append(f"{picture} has two captions, in {' and '.join(captions)}; keep one")
        return None
    return next(iter(captions.values()), "")
