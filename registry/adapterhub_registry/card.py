"""Model cards: what the registry knows of a version as a README.md for the Hugging Face Hub, and back."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterhub_registry.card_text import one_line, written_body
from adapterhub_registry.errors import CardError, FieldError, ManifestError
from adapterhub_registry.front_matter import (
    MAX_BYTES,
    Value,
    join_front_matter,
    read_front_matter,
    split_front_matter,
)
from adapterhub_registry.manifest import Version, decimal_text
from adapterhub_registry.probe import BASE_MODELS
from adapterhub_registry.publication import TAG, Adapter, Details, StoredFile, check_details

MAX_CARD_BYTES = 1 << 20
HUB_TAGS = ("text-to-image", "diffusers", "lora", "template:sd-lora")
GENERIC_TAGS = {
    *HUB_TAGS,
    *("adapter", "diffusers-training", "peft", "safetensors", "sdxl", "stable-diffusion"),
    *("stable-diffusion-xl", "stable-diffusion-xl-diffusers", "text-generation"),
}
"""Tags that say what every adapter is, and nothing of this one."""
SPDX = (
    *("AFL-3.0", "AGPL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-4.0"),
    *("CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "ECL-2.0", "EPL-2.0"),
    *("EUPL-1.2", "GPL-2.0", "GPL-3.0", "ISC", "LGPL-2.1", "LGPL-3.0", "MIT", "MPL-2.0", "MS-PL", "NCSA"),
    *("OFL-1.1", "OSL-3.0", "PDDL", "Unlicense", "WTFPL", "Zlib"),
    *("bigscience-openrail-m", "creativeml-openrail-m", "openrail", "openrail++"),
)
LICENCES = {name.lower(): name for name in SPDX} | {"odbl": "ODbL-1.0"}
"""The Hub's identifier to SPDX's spelling; the Hub calls every other licence `other` and names it beside."""
TEMPLATE_TITLES = ("model card for model id",)
"""Headings of templates that nobody filled in."""
UNFILLED = "[More Information Needed]"
NO_SENTENCE = re.compile(r"[#|`>-]|\* |\d+\. ")
"""What a heading, a table, code, a quotation or a list begins with."""
MARK_START = "<!-- Written by AdapterHub"
MARK = re.compile(rf"{MARK_START}.*? ([0-9a-f]{{12}}) -->\n")


@dataclass(frozen=True)
class ParsedCard:
    """What a model card says.

    Attributes:
        title: The first heading.
        description: The paragraph below it, in one line.
        licence: In SPDX's spelling where it has one.
        tags: Labels in our form, without those that every adapter has.
        trigger_words: What a prompt must say.
        recommended_weight: A decimal, or empty; only our own cards say it.
        kind: As above.
        settings: As above.
        base_model: The base's repository, as it was written.
        prompts: Those of the pictures in the widget.
        body: The author's own text; empty where the registry wrote it.
    """

    title: str = ""
    description: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()
    trigger_words: tuple[str, ...] = ()
    recommended_weight: str = ""
    kind: str = ""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    base_model: str = ""
    prompts: tuple[str, ...] = ()
    body: str = ""


def render_card(
    adapter: Adapter,
    version: Version,
    previews: Sequence[StoredFile] = (),
    *,
    facts: Mapping[str, str] | None = None,
) -> str:
    """Return the README.md of a version; `parse_card` gives its fields back.

    What the Hub's own fields and the text cannot say stands in the field `adapterhub`.

    Args:
        adapter: Its card text is the body; where it has none, the body is written from what is known.
        version: The version.
        previews: Pictures for the widget; their names are their places beside the card.
        facts: More rows for the table of facts, such as ranks and size.
    """
    manifest = version.manifest
    body = tidy(adapter.card)
    given = ParsedCard(
        title=adapter.title,
        description=adapter.description,
        licence=manifest.licence,
        tags=tuple(adapter.tags),
        trigger_words=version.trigger_words,
        recommended_weight=manifest.recommended_weight,
        kind=adapter.kind,
        settings=dict(adapter.settings),
        body=body,
    )
    front = _front(given, version, previews)
    if not body:
        written = written_body(adapter, version, has_pictures=bool(previews), facts=facts or {})
        body = f"{MARK_START}; once changed, it is read as your own text. {_digest(written)} -->\n\n{written}"
    read = _parse(join_front_matter(front, body), is_capped=False)
    own: dict[str, Any] = {"version": version.reference, "digest": version.digest}
    for name, kind in OWN_FIELDS.items():
        value = getattr(given, name)
        if getattr(read, name) != value:
            own[name] = list(value) if kind is tuple else value
    return join_front_matter({**front, "adapterhub": own}, body)


def parse_card(content: str | bytes) -> ParsedCard:
    """Read a model card, ours or anybody's; one without front matter is title, description and text.

    Raises:
        CardError: It is larger than 1 MiB or no text, its front matter is no plain YAML, or a field that is
            read has another form than the Hub gives it.

    Example:
        >>> card = parse_card("---\\nlicense: mit\\ninstance_prompt: inkwash, soft\\n---\\n# Ink\\n\\nSoft.")
        >>> card.title, card.description, card.licence, card.trigger_words
        ('Ink', 'Soft.', 'MIT', ('inkwash', 'soft'))
    """
    data = content.encode(errors="replace") if isinstance(content, str) else content
    if len(data) > MAX_CARD_BYTES:
        raise CardError("", 0, f"it has {len(data)} bytes, over the {MAX_CARD_BYTES}")
    try:
        return _parse(data.decode("utf-8-sig"), is_capped=True)
    except UnicodeDecodeError as exc:
        raise CardError("", 0, "it is no UTF-8 text") from exc


def tidy(text: str) -> str:
    """Return text with plain line ends and no blank lines around it."""
    return re.sub(r"\r\n?", "\n", text).strip()


def hub_licence(licence: str) -> dict[str, str]:
    """Return the fields that say a licence as the Hub writes it.

    Example:
        >>> hub_licence("Apache-2.0"), hub_licence("mine alone")
        ({'license': 'apache-2.0'}, {'license': 'other', 'license_name': 'mine alone'})
    """
    if not licence:
        return {}
    identifier = next((key for key, name in LICENCES.items() if name.lower() == licence.lower()), "other")
    if LICENCES.get(identifier) == licence:
        return {"license": identifier}
    return {"license": identifier, "license_name": licence}


def _front(given: ParsedCard, version: Version, previews: Sequence[StoredFile]) -> dict[str, Any]:
    is_language = version.architecture.startswith("transformers")
    front: dict[str, Any] = {}
    if version.architecture in BASE_MODELS:
        front["base_model"] = BASE_MODELS[version.architecture]
        front["base_model_relation"] = "adapter"
    front["library_name"] = "peft" if is_language else "diffusers"
    if not is_language:
        front["pipeline_tag"] = "text-to-image"
    front |= hub_licence(given.licence)
    if given.trigger_words:
        front["instance_prompt"] = ", ".join(given.trigger_words)
    front["tags"] = list(dict.fromkeys([*(("lora", "peft") if is_language else HUB_TAGS), *given.tags]))
    if previews:
        front["widget"] = [_widget(preview) for preview in previews]
    return front


def _widget(preview: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"text": preview.prompt or "-", "output": {"url": preview.name}}
    if preview.settings.get("negative_prompt"):
        entry["parameters"] = {"negative_prompt": preview.settings["negative_prompt"]}
    return entry


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _parse(text: str, *, is_capped: bool) -> ParsedCard:
    front, body = split_front_matter(re.sub(r"\r\n?", "\n", text))
    if is_capped and len(front.encode()) > MAX_BYTES:
        raise CardError("", 2, f"its front matter has more than {MAX_BYTES} bytes")
    fields = _Fields(*read_front_matter(front))
    body, is_written = _without_mark(body.strip())
    title, description = _heading(body)
    if title.lower() in TEMPLATE_TITLES:
        title, description, body = "", "", "" if UNFILLED in body else body
    named = [name for name in fields.texts("license_name") if name]
    licence = next(iter(named or fields.texts("license")), "")
    found: dict[str, Any] = {
        "title": title,
        "description": description,
        "licence": LICENCES.get(licence.lower(), licence) if not named else licence,
        "tags": tuple(dict.fromkeys(tag for text in fields.texts("tags") if (tag := _tag(text)))),
        "trigger_words": _words(fields.texts("instance_prompt")),
        "body": "" if is_written else body,
    }
    return ParsedCard(
        **{**found, **fields.own()},
        base_model=next(iter(fields.texts("base_model")), ""),
        prompts=_prompts(fields.values.get("widget")),
    )


OWN_FIELDS = {
    **dict.fromkeys(("title", "description", "licence", "recommended_weight", "kind", "body"), str),
    **dict.fromkeys(("tags", "trigger_words"), tuple),
    "settings": dict,
}
"""What the field `adapterhub` may say in place of the rest of the card, and of which type it is."""


@dataclass(frozen=True)
class _Fields:
    """The fields of front matter, read in the forms that the Hub gives them."""

    values: Mapping[str, Value]
    lines: Mapping[str, int]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a field that is one text or a list of them."""
        value = self.values.get(name)
        items = value if isinstance(value, list) else [value]
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != sum(item is not None for item in items):
            raise CardError(name, self.lines.get(name, 0), "it must be text, or a list of texts")
        return texts

    def own(self) -> dict[str, Any]:
        """Return what our own field says."""
        table = self.values.get("adapterhub") or {}
        line = self.lines.get("adapterhub", 0)
        if not isinstance(table, dict):
            raise CardError("adapterhub", line, "it must be fields with values")
        found: dict[str, Any] = {}
        for name, kind in OWN_FIELDS.items():
            if name not in table:
                continue
            value = table[name]
            inner: list[Any] = list(value.values()) if isinstance(value, dict) else []
            inner = value if isinstance(value, list) else inner
            wanted = list if kind is tuple else kind
            if not isinstance(value, wanted) or not all(isinstance(item, str) for item in inner):
                shape = {str: "text", tuple: "a list of texts", dict: "names with texts"}[kind]
                raise CardError(f"adapterhub.{name}", line, f"it must be {shape}")
            found[name] = tuple(inner) if kind is tuple else value
        try:
            check_details(Details(kind=found.get("kind"), settings=found.get("settings")))
            decimal_text(found.get("recommended_weight") or 0)
        except (FieldError, ManifestError) as exc:
            raise CardError("adapterhub", line, str(exc)) from exc
        return found


def _without_mark(body: str) -> tuple[str, bool]:
    """Take our mark off, and say whether the text below it is still the one that was written."""
    mark = MARK.match(body)
    if mark is None:
        return body, False
    text = body[mark.end() :].strip()
    return text, _digest(text) == mark.group(1)


def _heading(body: str) -> tuple[str, str]:
    """Return the first heading, and the sentence below it in one line; pictures between them do not count."""
    is_code, lines = False, body.split("\n")
    for number, line in enumerate(lines):
        is_code ^= line.startswith("```")
        if not is_code and line.startswith("# "):
            paragraphs = [text.strip() for text in "\n".join(lines[number + 1 :]).split("\n\n")]
            first = next((text for text in paragraphs if text and not text.startswith(("<", "!["))), "")
            return one_line(line[2:]), "" if NO_SENTENCE.match(first) else one_line(first)
    return "", ""


def _tag(text: str) -> str:
    """Return a label in our form; empty for one that every adapter has, or that is about something else."""
    tag = re.sub(r"[^a-z0-9._-]+", "-", text.strip().lower()).lstrip("-._")[:64]
    is_about = re.match(r"(base_model|license|dataset|region|arxiv|template|language):", text.strip().lower())
    return "" if is_about or tag in GENERIC_TAGS or not TAG.fullmatch(tag) else tag


def _words(texts: Sequence[str]) -> tuple[str, ...]:
    """Return trigger words, each once; commas divide them."""
    parts = [one_line(part) for text in texts for part in text.split(",")]
    return tuple(dict.fromkeys(filter(None, parts)))


def _prompts(widget: Value) -> tuple[str, ...]:
    """Return the prompts of the widget's pictures; entries of other forms are passed over."""
    entries = widget if isinstance(widget, list) else []
    texts = [entry.get("text") if isinstance(entry, dict) else None for entry in entries]
    return tuple(text for text in texts if isinstance(text, str) and text not in ("", "-"))
