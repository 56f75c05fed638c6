"""What to train: typed, checked as a whole, from TOML or from flags."""

import dataclasses
import json
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from adapterhub.errors import ConfigError, InputError, ReferenceSyntaxError
from adapterhub_registry.publication import KINDS
from adapterhub_registry.references import parse_reference


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter to train.

    Attributes:
        name: `namespace/name` in the registry.
        data: Folder of pictures with captions.
        trigger_words: What a prompt must say; captions should hold it.
        kind: style, subject, concept, slider or other.
        tags: Labels for search.
        title: Name for people.
        description: A sentence.
        licence: SPDX identifier, or words.
        seed: Decides every random choice.
        rank: Inner size of each layer's update.
        alpha: Scaling is alpha / rank; 0 means alpha = rank.
        steps: Optimizer steps.
        batch_size: Pictures a step.
        learning_rate: Of AdamW, at its highest.
        warmup: Part of the steps in which the rate rises, before it falls as a cosine.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to this norm.
        min_snr_gamma: Loss weight min(SNR, gamma) / SNR (Hang et al. 2023); 0 means none.
        caption_dropout: How often a caption is left out.
        resolution: Width and height in pixels; 0 means what the base was trained for.
        save_every: Steps between checkpoints; 0 means none.
        validation_prompts: Prompts of the pictures that are kept as previews.
        validation_seed: Seed of the first of them.
    """

    name: str
    data: Path
    trigger_words: tuple[str, ...] = ()
    kind: str = "other"
    tags: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    licence: str = ""
    seed: int = 0
    rank: int = 16
    alpha: float = 0.0
    steps: int = 500
    batch_size: int = 4
    learning_rate: float = 1e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    min_snr_gamma: float = 5.0
    caption_dropout: float = 0.05
    resolution: int = 0
    save_every: int = 0
    validation_prompts: tuple[str, ...] = ()
    validation_seed: int = 0

    @property
    def digest_table(self) -> dict[str, Any]:
        """Everything that decides the weights, and no path."""
        table = dataclasses.asdict(self)
        for name in ("data", "save_every", "validation_prompts", "validation_seed"):
            del table[name]
        return table


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on which base.

    Attributes:
        base: A name, directory or hub id.
        adapters: Trained one after another on the same resident base.
        device: `cpu`, `cuda` or `mps`; empty means the best there is.
        dtype: Of the base: `float32`, `float16` or `bfloat16`; empty means float32 on the CPU, else bfloat16.
            Adapter weights are always float32.
        threads: CPU threads; 0 means torch's own choice.
    """

    base: str
    adapters: tuple[AdapterConfig, ...]
    device: str = ""
    dtype: str = ""
    threads: int = 0

    @classmethod
    def from_toml(cls, path: Path | str) -> "TrainConfig":
        """Read a config file: `base`, `[defaults]` for all adapters, and one `[[adapters]]` each.

        Paths are relative to the file.

        Raises:
            InputError: The file cannot be read.
            ConfigError: Something in it is wrong; `problems` lists everything.
        """
        path = Path(path)
        try:
            table = tomllib.loads(path.read_text())
        except OSError as exc:
            raise InputError(path, exc.strerror or str(exc)) from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(str(path), [str(exc)]) from exc
        return cls.from_table(table, source=str(path), folder=path.parent)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, source: str, folder: Path) -> "TrainConfig":
        """Check a table in the form of the config file, and return it as a config.

        Raises:
            ConfigError: Something in it is wrong; `problems` lists everything.
        """
        rest = dict(table)
        defaults, entries = rest.pop("defaults", {}), rest.pop("adapters", [])
        problems: list[str] = []
        adapters: list[AdapterConfig] = []
        if not isinstance(defaults, dict) or not isinstance(entries, list) or not entries:
            problems.append("there must be at least one [[adapters]] table; [defaults] is a table for all")
            entries = []
        for number, entry in enumerate(entries, 1):
            where = f"adapters[{number}]"
            values = _typed(AdapterConfig, {**defaults, **entry}, where, problems)
            if "data" in values:
                values["data"] = (folder / values["data"]).resolve()
            if {"name", "data"} <= values.keys():
                adapter = AdapterConfig(**values)
                adapters.append(adapter)
                problems += [f"{where}: {problem}" for problem in _problems(adapter)]
        names = [adapter.name for adapter in adapters]
        problems += [
            f'two adapters are called "{name}"' for name in sorted(set(names)) if names.count(name) > 1
        ]
        top = _typed(TrainConfig, {**rest, "adapters": tuple(adapters)}, "the file", problems)
        if problems:
            raise ConfigError(source, problems)
        return cls(**top)


def config_document(adapter: AdapterConfig, *, base_identity: str) -> bytes:
    """Return the canonical JSON of what decides an adapter's weights; its SHA-256 goes into the lineage."""
    table = {"base": base_identity, **adapter.digest_table}
    return (json.dumps(table, sort_keys=True, indent=1) + "\n").encode()


def _typed(cls: type, table: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Return the fields of `table` in the types of `cls`; what is wrong goes to `problems`."""
    hints = get_type_hints(cls)
    known = {item.name: item for item in fields(cls)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            problems.append(f'{where}: unknown key "{name}"')
            continue
        try:
            values[name] = _convert(value, hints[name])
        except TypeError as exc:
            problems.append(f"{where}: {name} {exc}")
    for name, item in known.items():
        has_default = (
            item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        )
        if name not in table and not has_default:
            problems.append(f'{where}: the key "{name}" is missing')
    return values


def _convert(value: Any, hint: Any) -> Any:
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint in (int, str) and type(value) is hint:
        return value
    if isinstance(hint, types.GenericAlias) and isinstance(value, list | tuple):
        (inner, _) = get_args(hint)
        return tuple(value) if inner is AdapterConfig else tuple(_convert(item, inner) for item in value)
    wanted = {float: "a number", int: "a whole number", str: "text", Path: "a path"}.get(
        hint, "a list of text"
    )
    raise TypeError(f"must be {wanted}, not {value!r}")


def _problems(adapter: AdapterConfig) -> list[str]:
    """Return what is wrong with values that have the right types."""
    problems: list[str] = []
    try:
        parse_reference(adapter.name)
    except ReferenceSyntaxError as exc:
        problems.append(str(exc))
    if adapter.kind not in KINDS:
        problems.append(f'kind must be one of {", ".join(KINDS)}, not "{adapter.kind}"')
    for name in ("rank", "steps", "batch_size"):
        if getattr(adapter, name) < 1:
            problems.append(f"{name} must be at least 1, not {getattr(adapter, name)}")
    for name in ("learning_rate", "max_grad_norm"):
        value = getattr(adapter, name)
        if not (math.isfinite(value) and value > 0):
            problems.append(f"{name} must be above 0, not {value}")
    for name in ("warmup", "caption_dropout"):
        value = getattr(adapter, name)
        if not 0 <= value <= 1:
            problems.append(f"{name} must be from 0 to 1, not {value}")
    for name in ("alpha", "weight_decay", "min_snr_gamma", "save_every", "seed"):
        value = getattr(adapter, name)
        if not (math.isfinite(value) and value >= 0):
            problems.append(f"{name} must not be negative, not {value}")
    if adapter.resolution % 8 or adapter.resolution < 0:
        problems.append(f"resolution must be a multiple of 8, not {adapter.resolution}")
    return problems
