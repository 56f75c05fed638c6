"""What to train: typed, checked as a whole, from TOML or from flags."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterhub.errors import ConfigError, InputError
from adapterhub.training.adapter_config import AdapterConfig as AdapterConfig
from adapterhub.training.adapter_config import DataConfig as DataConfig
from adapterhub.training.adapter_config import ValidationConfig as ValidationConfig
from adapterhub.training.layering import as_list, merge_defaults
from adapterhub.training.overrides import set_values
from adapterhub.training.tables import Keys, Places, Problems, read_table
from adapterhub.training.toml_lines import key_lines

DTYPES = ("float32", "float16", "bfloat16")
EXECUTORS = ("auto", "stacked", "sequential")
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class BaseConfig:
    """The frozen base, and how it is held.

    Attributes:
        model: A name, directory, file or hub id.
        device: `cpu`, `cuda` or `mps`; empty means the best there is.
        dtype: `float32`, `float16` or `bfloat16`; empty means float32 on the CPU, else bfloat16. Adapter
            weights are always float32.
        threads: CPU threads; 0 means torch's own choice.
        gradient_checkpointing: 0 keeps all activations; 1 computes those of every block again, n those of
            every n-th one.
        compile: Compile the blocks of the UNet.
        channels_last: Keep convolutions' memory in that order.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    model: str
    device: str = ""
    dtype: str = ""
    threads: int = 0
    gradient_checkpointing: int = 0
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.model:
            problems.append("model must name a base")
        if self.dtype not in ("", *DTYPES):
            problems.append(f'dtype must be one of {", ".join(DTYPES)}, not "{self.dtype}"')
        for name in ("threads", "gradient_checkpointing"):
            if getattr(self, name) < 0:
                problems.append(f"{name} must not be negative, not {getattr(self, name)}")
        if problems:
            raise ConfigError("the base", problems)


@dataclass(frozen=True)
class GroupConfig:
    """How adapters are trained together.

    Attributes:
        executor: `stacked` trains them in one step, `sequential` one after another; `auto` chooses.
        max_adapters: How many are trained at a time; the others wait.
        deterministic: Use deterministic kernels alone, which may be slower.
        keep_checkpoints: How many of the newest stay.
        trackers: Who is told of losses and pictures: any of `tensorboard`, `wandb` and `trackio`, which the
            extra `trackers` brings.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    executor: str = "auto"
    max_adapters: int = 8
    deterministic: bool = False
    keep_checkpoints: int = 1
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [
            f'trackers are any of {", ".join(TRACKERS)}, not "{name}"'
            for name in self.trackers
            if name not in TRACKERS
        ]
        if self.executor not in EXECUTORS:
            problems.append(f'executor must be one of {", ".join(EXECUTORS)}, not "{self.executor}"')
        for name in ("max_adapters", "keep_checkpoints"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, not {getattr(self, name)}")
        if problems:
            raise ConfigError("the group", problems)


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on which base.

    Attributes:
        base: The frozen base.
        adapters: At least one; their names differ.
        group: How they are trained together.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    base: BaseConfig
    adapters: tuple[AdapterConfig, ...]
    group: GroupConfig = field(default_factory=GroupConfig)

    def __post_init__(self) -> None:
        problems = _duplicates([adapter.name for adapter in self.adapters])
        if not self.adapters:
            problems.append("there must be at least one [[adapters]] table")
        if self.base.compile:
            problems += [
                f"base.compile must be false for {adapter.name}: {reason}"
                for adapter in self.adapters
                if (reason := adapter.network.cannot_compile)
            ]
        if self.group.executor == "stacked":
            problems += [
                f'group.executor "stacked" trains lora alone, and {adapter.name} is '
                f'{adapter.network.algorithm}; set it to "auto"'
                for adapter in self.adapters
                if adapter.network.algorithm != "lora"
            ]
        if problems:
            raise ConfigError("the config", problems)

    @classmethod
    def from_toml(cls, path: Path | str, *, overrides: Sequence[str] = ()) -> "TrainConfig":
        """Read a config file: `base`, `[defaults]` for all adapters, and one `[[adapters]]` each.

        Paths of pictures are relative to the file.

        Args:
            path: Of the file.
            overrides: Values to put in place of the file's, such as `defaults.network.rank=8`; an adapter
                goes by its name, as in `adapters.me/ink.steps=100`, or by its number from 0.

        Raises:
            InputError: The file cannot be read.
            ConfigError: Something in it is wrong; `problems` lists everything.
        """
        path = Path(path)
        table, places = read_document(path)
        return cls.from_table(table, source=str(path), folder=path.parent, places=places, overrides=overrides)

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, Any],
        *,
        source: str,
        folder: Path,
        places: Mapping[Keys, int | str] | None = None,
        overrides: Sequence[str] = (),
    ) -> "TrainConfig":
        """Check a table in the form of the config file, and return it as a config.

        Args:
            table: As `tomllib` reads the file.
            source: What messages call it.
            folder: What paths are relative to.
            places: Lines or options where its values were written, by their keys.
            overrides: See `from_toml`.

        Raises:
            ConfigError: Something in it is wrong; `problems` lists everything.
        """
        problems = Problems(source, dict(places or {}))
        document = set_values(table, overrides, problems)
        if document.pop("sweep", None) is not None:
            problems.add(("sweep",), "[sweep] is for adapterhub sweep; take it out to train without it")
        merged = merge_defaults(document, folder, problems)
        config = read_table(cls, merged, (), problems)
        adapters = as_list(merged["adapters"])
        names = [item.get("name") if isinstance(item, Mapping) else None for item in adapters]
        problems.add_all((), ["adapters"], _duplicates(names))
        problems.check()
        return config


def read_document(path: Path) -> tuple[dict[str, Any], Places]:
    """Return the tables of a TOML file, and on which line each of its keys stands.

    Raises:
        InputError: The file cannot be read.
        ConfigError: It is no TOML.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc
    try:
        text = content.decode("utf-8-sig")
        return tomllib.loads(text), {**key_lines(text)}
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError(str(path), [f"{path}:{line}: this is no UTF-8"]) from exc
    except tomllib.TOMLDecodeError as exc:
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(exc))
        told = f"{path}:{found[2]}: {found[1]} (at column {found[3]})" if found else f"{path}: {exc}"
        raise ConfigError(str(path), [told]) from exc


def _duplicates(names: Sequence[Any]) -> list[str]:
    """Return a problem for each adapter that is called as one before it."""
    folded = [name.lower() if isinstance(name, str) else None for name in names]
    return [
        f'adapters.{number}.name is "{name}", as that of another adapter'
        for number, name in enumerate(folded)
        if name is not None and name in folded[:number]
    ]


def config_document(adapter: AdapterConfig, *, base_identity: str) -> bytes:
    """Return the canonical JSON of what decides an adapter's weights; its SHA-256 goes into the lineage."""
    table = {"base": base_identity, **adapter.digest_table}
    return (json.dumps(_plain(table), sort_keys=True, indent=1) + "\n").encode()


def _plain(value: Any) -> Any:
    """Return a value with whole numbers as such, so that 1 and 1.0 write the same document."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
