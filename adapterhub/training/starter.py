"""A config to begin with: written for one folder of pictures, with what can be guessed from them."""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapterhub.bases.find import find_base
from adapterhub.errors import OutputError
from adapterhub.training.config import AdapterConfig, TrainConfig
from adapterhub.training.dataset import Source, read_sources
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.presets import PRESETS
from adapterhub_registry.files import readable_stem, write_atomically

SHOWINGS = 100
"""How often each picture is shown, within the limits of the steps."""
LEAST_STEPS, MOST_STEPS = 200, 3000
BATCH_SIZE = 4
KIND_PRESETS = {"style": "style", "subject": "character"}
COMMON_WORDS = re.compile(
    r"an?|the|of|in|on|at|with|and|or|to|by|for|from|is|are|as|its?|this|that|photo|photograph|picture|image|"
    r"drawing|painting|illustration|style|\d+"
)


@dataclass(frozen=True)
class Starter:
    """A config that was written.

    Attributes:
        path: The file.
        adapter: What it says.
        pictures: How many there are.
        without_caption: How many of them have none.
        is_guessed: Whether the trigger word is.
    """

    path: Path
    adapter: AdapterConfig
    pictures: int
    without_caption: int
    is_guessed: bool


def starter_path(folder: Path) -> Path:
    """Return where the config of a folder is written if nothing else is said: the working directory."""
    return Path(f"{readable_stem(folder.resolve().name)}.toml")


def write_starter(
    folder: Path,
    path: Path,
    *,
    base: str = "mini",
    name: str | None = None,
    trigger_words: Sequence[str] = (),
    kind: str = "style",
) -> Starter:
    """Write a commented config for a folder of pictures, all of which are read.

    Args:
        folder: Of the pictures.
        path: Of the file; it must not be there yet.
        base: What is trained on.
        name: Of the adapter; None means `me/` and the folder's name.
        trigger_words: None mean a word that all captions share, or else the folder's name.
        kind: Of the adapter; a style or a subject gets its preset.

    Raises:
        OutputError: The file is there already, or cannot be written.
        DatasetError: The pictures cannot be trained on.
        BaseNotFoundError: There is no such base.
        ConfigError: The name, or another value, is not valid.
    """
    if path.exists():
        raise OutputError(path, "it is there already; name another file before --init")
    find_base(base)
    captions = [item.caption for item in read_sources([Source(folder, missing_captions="empty")]).examples]
    text = _starter_text(folder, path, captions, base, name, trigger_words, kind)
    config = TrainConfig.from_table(tomllib.loads(text), source="the new config", folder=path.parent)
    write_atomically(path, text.encode())
    return Starter(path, config.adapters[0], len(captions), captions.count(""), not trigger_words)


def guess_trigger(captions: Sequence[str]) -> str:
    """Return the first word of the captions that all of them hold, or nothing.

    Example:
        >>> guess_trigger(["a photo of zork, snow", "zork, on a red sofa"])
        'zork'
    """
    words = [re.findall(r"[\w-]+", caption.lower()) for caption in captions if caption]
    shared = [word for word in (words[0] if words else []) if all(word in others for others in words)]
    return next((word for word in shared if not COMMON_WORDS.fullmatch(word)), "")


def _starter_text(
    folder: Path,
    path: Path,
    captions: Sequence[str],
    base: str,
    name: str | None,
    trigger_words: Sequence[str],
    kind: str,
) -> str:
    stem, count = readable_stem(folder.resolve().name), len(captions)
    triggers = list(trigger_words) or [guess_trigger(captions) or stem]
    is_said = all(triggers[0].lower() in caption.lower() for caption in captions)
    preset = KIND_PRESETS.get(kind, "")
    rank = PRESETS.get(preset, {}).get("network", {}).get("rank", NetworkConfig().rank)
    batch_size = min(BATCH_SIZE, count)
    steps = min(max(count * SHOWINGS // batch_size, LEAST_STEPS), MOST_STEPS)
    prompts = [triggers[0], *[caption for caption in captions[:1] if caption.isprintable() and caption]]
    if not is_said:
        prompts[1:] = [f"{triggers[0]}, {prompt}" for prompt in prompts[1:]]
    data = [f"path = {_toml(_relative(folder, path.parent))}"]
    if "" in captions:
        data += [
            f"# {captions.count('')} of the {count} pictures have no caption.",
            'missing_captions = "empty"  # or "filename", or "error"',
        ]
    if not is_said:
        data += [
            "# Not all captions hold the trigger word, so it is put before each.",
            'template = "{trigger}, {caption}"',
        ]
    return f"""\
# Written for the {count} pictures in {_shown(folder)}. Look it over, and then:
#
#   adapterhub train {_shown(path)} --plan     says what would happen, and trains nothing
#   adapterhub train {_shown(path)}            trains, and registers the adapter
#
# A line that begins with "# " and a key shows what holds without it.

base = {_toml(base)}  # one of `adapterhub bases list`, a directory, a file, or a hub id

[[adapters]]
name = {_toml(name or f"me/{stem}")}  # namespace/name in the registry
preset = {_toml(preset)}  # one of {", ".join(PRESETS)}, or none
kind = {_toml(kind)}  # style, subject, concept, slider or other
# What a prompt must say; best a word that means nothing to the base.
trigger_words = [{", ".join(map(_toml, triggers))}]{"" if trigger_words else "  # a guess"}
# title = ""
# licence = ""

steps = {steps}  # {round(steps * batch_size / count)} showings of each picture
batch_size = {batch_size}
save_every = {max(steps // 5, 1)}  # checkpoints, from which --resume latest goes on
seed = 1  # the same seed, config and pictures give the same adapter

[[adapters.data]]  # one for each folder of pictures
{chr(10).join(data)}
# repeats = 1
# shuffle = false  # of the tags in a caption, which commas separate
# caption_dropout = 0.05

[adapters.network]
# rank = {rank}  # more learns finer things, and makes a larger file

[adapters.optimizer]
# learning_rate = 1e-4  # lower if pictures burn, higher if nothing is learnt

[adapters.validation]
prompts = [{", ".join(map(_toml, prompts))}]  # drawn at the end, and kept as previews
"""


def _relative(folder: Path, start: Path) -> str:
    """Return a folder as the config names it: relative to its own if it lies below that."""
    folder, start = folder.resolve(), start.resolve()
    return (folder.relative_to(start) if folder.is_relative_to(start) else folder).as_posix()


def _shown(path: Path) -> str:
    """Return a path as a comment may hold it."""
    return str(path) if str(path).isprintable() else _toml(str(path))


def _toml(text: str) -> str:
    """Return text as a string of TOML, which is as in JSON but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
