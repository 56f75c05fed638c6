"""What prompts say of adapters: their trigger words, and the tags of AUTOMATIC1111's web UI."""

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches

from adapterhub.bases.prompt_syntax import escape, letters_of
from adapterhub.errors import AdapterNameError, AdapterTagError, ReferenceSyntaxError, SettingError
from adapterhub.runtime.composition import Composition, Term
from adapterhub_registry.references import Reference, name_from, parse_reference
from adapterhub_registry.store import Registry

TRIGGER_MODES = ("off", "prepend", "append")

_IN_SYNTAX = re.compile(r"\\[()\[\]\\]|:\s*[+-]?[.\d]+\s*\)")
_ESCAPED = re.compile(r"\\.")
_TAG = re.compile(
    r"<(?:lora|lyco):(?P<name>[^:@<>]*(?:@(?:sha256:)?[^:<>]*)?)(?P<weights>[^<>]*)(?P<end>>?)", re.IGNORECASE
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)


def with_triggers(prompt: str, words: Sequence[str], mode: str, *, syntax: str = "weighted") -> str:
    r"""Return a prompt that says trigger words, each of them once.

    A word or phrase counts as said where it stands in any capitals and any brackets, but not inside a longer
    word.

    Args:
        prompt: Without tags; see `extract_adapters`.
        words: In the order of the composition. One with a backslash or a weight is read in the weighted
            syntax; the brackets of any other are letters.
        mode: `prepend`, `append`, or `off`, which returns the prompt as it is.
        syntax: How the prompt is read; see `PromptCache.encode`.

    Raises:
        SettingError: There is no such mode or syntax.
        PromptWeightError: The prompt or a word has a weight that makes no sense.

    Example:
        >>> with_triggers("a (Corgi:1.2) in the rain", ["inkwash", "corgi"], "prepend")
        'inkwash, a (Corgi:1.2) in the rain'
        >>> with_triggers("a portrait", ["saber (fate)"], "append")
        'a portrait, saber \\(fate\\)'
    """
    if mode not in TRIGGER_MODES:
        raise SettingError("the mode of triggers", mode, f"it must be {', '.join(TRIGGER_MODES)}")
    if mode == "off":
        return prompt
    said = letters_of(prompt, syntax)
    missing: list[str] = []
    for word in words:
        written = word.strip() if _is_in_syntax(word) else escape(word.strip())
        letters = letters_of(written)
        if letters.strip() and not _says(said, letters):
            missing.append(written if syntax == "weighted" else letters)
            said += f"\n{letters}"
    if not missing:
        return prompt
    if mode == "prepend":
        rest = prompt.lstrip(", \t\n")
        return ", ".join([*missing, rest] if rest else missing)
    rest = prompt.rstrip(", \t\n")
    return ", ".join([rest, *missing] if rest else missing)


def _is_in_syntax(word: str) -> bool:
    """Say whether a word has an escape or a weight, and closes in itself all brackets that it opens."""
    depth = 0
    for letter in _ESCAPED.sub("", word):
        depth += (letter in "([") - (letter in ")]")
        if depth < 0:
            return False
    return depth == 0 and _IN_SYNTAX.search(word) is not None


def extract_adapters(prompt: str, registry: Registry | None = None) -> tuple[str, Composition]:
    """Take the tags that name adapters out of a prompt.

    `<lora:NAME:WEIGHT>` is one, and `<lyco:...>` means the same. The weights are read as the web UI reads
    them (`extensions-builtin/Lora/extra_networks_lora.py`): `<lora:NAME:TEXT:UNET>` and
    `<lora:NAME:te=TEXT:unet=UNET>` have one for the text encoders and one for the UNet. That of the text
    encoders is 1 where it is left out, and that of the UNet is then that of the text encoders. The web UI's
    third number, a rank, is refused.

    Args:
        prompt: The text, weighted or plain.
        registry: Where bare names are looked up; by default the one in `ADAPTERHUB_HOME`, opened when there
            is a name to look up. A bare name is that of an adapter in any namespace, or of the file that
            `adapterhub adopt` called it by; `namespace/name` is not looked up here.

    Returns:
        The prompt without tags and otherwise unchanged, and the adapters in the order of the tags.

    Raises:
        AdapterTagError: A tag is malformed.
        AdapterNameError: A bare name is that of no adapter, or of several.

    Example:
        >>> prompt, composition = extract_adapters("a corgi <lora:me/ink@prod:0.8>in the rain<lyco:me/wash>")
        >>> prompt, str(composition)
        ('a corgi in the rain', 'me/ink@prod:0.8 + me/wash:1.0')
    """
    terms: list[Term] = []

    def take(found: re.Match[str]) -> str:
        nonlocal registry
        tag = found[0]
        if not found["end"]:
            raise AdapterTagError(tag, 'it does not end in ">"')
        written = found["name"].strip()
        text, unet = _weights(tag, found["weights"].split(":")[1:])
        if "/" in written:
            try:
                reference = parse_reference(written)
            except ReferenceSyntaxError as exc:
                raise AdapterTagError(tag, exc.reason) from exc
        else:
            registry = registry or Registry()
            reference = _look_up(tag, written, registry)
        components = {} if text == unet else {"text_encoder": text, "text_encoder_2": text}
        terms.append(Term(reference, unet, components))
        return ""

    rest = _TAG.sub(take, prompt)
    return rest, Composition(tuple(terms))


def _says(said: str, letters: str) -> bool:
    phrase = letters.casefold()
    before = r"(?<!\w)" if re.match(r"\w", phrase) else ""
    after = r"(?!\w)" if re.search(r"\w$", phrase) else ""
    return re.search(before + re.escape(phrase) + after, said.casefold()) is not None


def _weights(tag: str, parts: Sequence[str]) -> tuple[float, float]:
    """Return the weights of the text encoders and of the UNet; those with a name count for more."""
    places: list[float] = []
    named: dict[str, float] = {}
    for part in parts:
        key, is_named, value = (text.strip() for text in part.rpartition("="))
        if not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
            raise AdapterTagError(tag, f'its weight "{part}" is no finite number')
        if not is_named:
            places.append(float(value))
        elif key not in ("te", "unet") or key in named:
            raise AdapterTagError(tag, f'"{part}" is not one weight for "te" or one for "unet"')
        else:
            named[key] = float(value)
    if len(places) > 2:
        raise AdapterTagError(tag, "it has more than two weights")
    text = named.get("te", places[0] if places else 1.0)
    return text, named.get("unet", places[1] if len(places) > 1 else text)


def _look_up(tag: str, written: str, registry: Registry) -> Reference:
    """Return the reference that a bare name stands for."""
    bare, at, selector = written.partition("@")
    if not bare:
        raise AdapterTagError(tag, "it names no adapter")
    spellings = [name for name in (bare, name_from(bare)) if name.isascii()]
    named = next(filter(None, map(registry.adapters_named, spellings)), [])
    if len(named) == 1:
        try:
            return parse_reference(f"{named[0]}{at}{selector}")
        except ReferenceSyntaxError as exc:
            raise AdapterTagError(tag, exc.reason) from exc
    if named:
        raise AdapterNameError(tag, bare, named, is_found=True)
    known = [adapter.name for adapter in registry.list()]
    near = get_close_matches(name_from(bare), {one.split("/")[1] for one in known}, n=3, cutoff=0.5)
    candidates = [one for one in known if one.split("/")[1] in near]
    raise AdapterNameError(tag, bare, candidates, is_found=False)
