"""What other tools wrote beside a LoRA file: Civitai's info, A1111's JSON, notes, pictures."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterhub_registry.errors import FieldError
from adapterhub_registry.manifest import decimal_text
from adapterhub_registry.publication import KINDS, Details, check_details

MAX_BYTES = 4 << 20
PICTURES = (
    ".preview.png",
    ".png",
    ".preview.jpg",
    ".jpg",
    ".preview.jpeg",
    ".jpeg",
    ".preview.webp",
    ".webp",
)
SIDECARS = (".civitai.info", ".cm-info.json", ".json", ".txt", *PICTURES)
MAX_WORDS = 50


@dataclass(frozen=True)
class Sidecars:
    """What is known of a file from beside it and from its header.

    Attributes:
        title: For people.
        description: Plain text, one paragraph.
        trigger_words: What a prompt must say.
        tags: Labels, as they were written.
        licence: As it was written.
        weight: A decimal, or empty.
        kind: One of `KINDS`, or empty; only our own exports say it.
        settings: What to generate with, by the names in `SETTINGS`.
        picture: A preview; None if there is none.
        problems: What could not be read, and why.
    """

    title: str = ""
    description: str = ""
    trigger_words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    licence: str = ""
    weight: str = ""
    kind: str = ""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    picture: Path | None = None
    problems: Sequence[str] = field(default_factory=tuple)


def read_sidecars(path: Path, metadata: Mapping[str, str]) -> Sidecars:
    """Read what lies beside a file of weights; what cannot be read is named, and never stops the rest.

    Civitai's `.civitai.info` counts for more than Stability Matrix's `.cm-info.json`, that for more than
    A1111's `.json`, and all for more than the header.

    Args:
        path: The file of weights.
        metadata: The text in its header.
    """
    problems: list[str] = []
    civitai = _read_json(path.with_suffix(".civitai.info"), problems)
    matrix = _read_json(path.with_suffix(".cm-info.json"), problems)
    webui = _read_json(path.with_suffix(".json"), problems)
    model = _table(civitai.get("model"))
    own = _table(webui.get("adapterhub"))  # written by `adapterhub export --all`, as `.txt` is then
    note = "" if own else _read_text(path.with_suffix(".txt"), problems)
    words = (
        _words(civitai.get("trainedWords"))
        or _words(matrix.get("TrainedWords"))
        or _words(webui.get("activation text"))
        or _words(metadata.get("modelspec.trigger_phrase"))
    )
    texts = (civitai.get("description"), model.get("description"), matrix.get("ModelDescription"))
    texts += (webui.get("description"), note, metadata.get("modelspec.description"))
    titles = (
        own.get("title"),
        model.get("name"),
        matrix.get("ModelName"),
        metadata.get("modelspec.title"),
        metadata.get("ss_output_name"),
    )
    return Sidecars(
        title=next((_line(text) for text in titles if _line(text)), ""),
        description=next((_line(text) for text in texts if _line(text)), "")[:2000],
        trigger_words=words,
        tags=_words(own.get("tags")) or _words(model.get("tags")) or _words(matrix.get("Tags")),
        licence=_line(own.get("licence")) or _line(metadata.get("modelspec.license")),
        weight=_weight(webui.get("preferred weight")),
        kind=kind if (kind := _line(own.get("kind"))) in KINDS else "",
        settings=_settings({"negative_prompt": webui.get("negative text"), **_table(own.get("settings"))}),
        picture=next((found for end in PICTURES if (found := path.with_suffix(end)).is_file()), None),
        problems=tuple(problems),
    )


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    text = _read_text(path, problems)
    if not text:
        return {}
    try:
        table: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        problems.append(f"{path.name} is no JSON ({exc})")
        return {}
    if not isinstance(table, dict):
        problems.append(f"{path.name} is no JSON object")
    return _table(table)


def _table(value: Any) -> dict[str, Any]:
    """Return a JSON object; empty for anything else."""
    return dict(value) if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownArgumentType]


def _read_text(path: Path, problems: list[str]) -> str:
    try:
        if not path.is_file():
            return ""
        if path.stat().st_size > MAX_BYTES:
            problems.append(f"{path.name} has more than 4 MiB")
            return ""
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(f"{path.name} cannot be read ({exc})")
        return ""


def _line(value: Any) -> str:
    """Return text without markup and control characters, in one line; empty for anything else."""
    if not isinstance(value, str):
        return ""
    plain = re.sub(r"<[^<>]{0,1000}>", " ", value)
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+", " ", plain).strip()


def _words(value: Any) -> tuple[str, ...]:
    """Return words from a list or from text with commas, each once."""
    texts: list[Any] = list(value) if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownArgumentType]
    parts = [part for text in texts if isinstance(text, str) for part in text.split(",")]
    words = [_line(part) for part in parts]
    return tuple(dict.fromkeys(word for word in words if word))[:MAX_WORDS]


def _settings(table: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that follow their rules."""
    found: dict[str, str] = {}
    for name, value in table.items():
        with suppress(FieldError):
            check_details(Details(settings={name: _line(value)}))
            found[name] = _line(value)
    return found


def _weight(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < abs(value) < 100:
        return ""
    return decimal_text(value)
