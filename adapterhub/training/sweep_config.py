"""What a sweep tries: values of any fields of a config's adapters, each combination a candidate."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from adapterhub.errors import ConfigError
from adapterhub.training.config import AdapterConfig, TrainConfig, config_document, read_document
from adapterhub.training.halving import rung_parts
from adapterhub.training.layering import as_list, expand_short_forms, merge_defaults
from adapterhub.training.overrides import set_values
from adapterhub.training.tables import Keys, Places, Problems, read_table

MOST = 64
"""Candidates of a sweep. Those that wait for a slot are in the computer's memory, with their optimizer."""


@dataclass(frozen=True)
class SweepRules:
    """How candidates are compared, by their loss on held-out pictures.

    Attributes:
        keep: So many of each adapter's candidates are registered; 0 means all of them.
        halving: Whether the worse ones leave at rungs; otherwise all are trained to their end.
        eta: One in so many goes on at each rung.
        rungs: Parts of the steps after which candidates are compared; empty means as many as it takes until
            `keep` are left, the last one at 1 / eta of the steps, and each an eta-th of the next.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    keep: int = 1
    halving: bool = True
    eta: int = 3
    rungs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.keep < 0:
            problems.append(f"keep must not be negative, not {self.keep}")
        if self.eta < 2:
            problems.append(f"eta must be at least 2, not {self.eta}")
        if any(low >= high for low, high in pairwise((0.0, *self.rungs, 1.0))):
            shown = ", ".join(f"{part:g}" for part in self.rungs)
            problems.append(f"rungs must rise between 0 and 1, not {shown}")
        if self.rungs and not self.halving:
            problems.append("rungs compare candidates, but halving is false")
        if problems:
            raise ConfigError("the sweep", problems)

    def parts(self, candidates: int) -> tuple[float, ...]:
        """Return after which parts of their steps so many candidates are compared, without the end."""
        if not self.halving:
            return ()
        return self.rungs or rung_parts(candidates, keep=self.keep, eta=self.eta)


@dataclass(frozen=True)
class Candidate:
    """One combination of values for one adapter.

    Attributes:
        number: Among those of its adapter, from 1.
        values: What is tried, by the keys of the grid.
        config: The adapter with these values.
    """

    number: int
    values: Mapping[str, Any]
    config: AdapterConfig

    @property
    def label(self) -> str:
        """What it is called: the adapter's name and its number."""
        return f"{self.config.name}#{self.number}"

    def stops(self, parts: Sequence[float]) -> list[int]:
        """Return the steps at which it is compared; the last one is its end."""
        return [*(max(math.ceil(part * self.config.steps - 1e-9), 1) for part in parts), self.config.steps]


@dataclass(frozen=True)
class SweepConfig:
    """A config with a table `[sweep]`.

    Attributes:
        train: The config without the sweep.
        rules: How candidates are compared.
        grid: The values of each key, in the order of the file.
        candidates: Every combination for every adapter.
    """

    train: TrainConfig
    rules: SweepRules
    grid: Mapping[str, Sequence[Any]]
    candidates: tuple[Candidate, ...]

    @classmethod
    def from_toml(cls, path: Path | str, *, overrides: Sequence[str] = ()) -> "SweepConfig":
        """Read a config file with a table `[sweep]`, whose `grid` has a list of values for each key.

        Args:
            path: Of the file.
            overrides: As those of `TrainConfig.from_toml`, `sweep.grid.network.rank=[4, 8]` among them.

        Raises:
            InputError: The file cannot be read.
            ConfigError: Something in it is wrong; `problems` lists everything.
        """
        path = Path(path)
        table, places = read_document(path)
        problems = Problems(str(path), dict(places))
        document = set_values(table, overrides, problems)
        rules, grid = _read_sweep(document.pop("sweep", None), problems)
        train = _read_config(document, path.parent, problems)
        adapters = as_list(document.get("adapters"))
        candidates: list[Candidate] = []
        if _is_few(grid, len(adapters), problems):
            for adapter in range(len(adapters)):
                candidates += _candidates(document, adapter, grid, path.parent, problems)
        problems.check()
        _check_candidates(candidates, rules, problems)
        problems.check()
        return cls(
            train, rules, {".".join(map(str, keys)): own for keys, own in grid.items()}, (*candidates,)
        )

    def of(self, name: str) -> list[Candidate]:
        """Return the candidates of an adapter."""
        return [one for one in self.candidates if one.config.name == name]

    @property
    def steps(self) -> tuple[int, int]:
        """The most steps that are done in all, and those that all candidates would have without halving."""
        wanted, most = 0, 0
        for adapter in self.train.adapters:
            own = self.of(adapter.name)
            parts = self.rules.parts(len(own))
            left, done = len(own), [0] * len(own)
            for rung in range(len(parts) + 1):
                # Whoever leaves, those with the most steps may stay.
                ordered = sorted((one.stops(parts)[rung] for one in own), reverse=True)
                done[:left] = ordered[:left]
                left = max(math.ceil(left / self.rules.eta), min(self.rules.keep or left, left))
            wanted, most = wanted + sum(done), most + sum(one.config.steps for one in own)
        return wanted, most


def _read_sweep(table: Any, problems: Problems) -> tuple[SweepRules, dict[Keys, Sequence[Any]]]:
    """Return the rules, and the values of each key; what is wrong is left out."""
    if not isinstance(table, Mapping):
        problems.add(("sweep",), "there must be a table [sweep.grid] that says what is tried")
        return SweepRules(), {}
    rest = {key: value for key, value in table.items() if key != "grid"}
    for key in [key for key in rest if key in {item.name for item in fields(AdapterConfig)}]:
        problems.add(("sweep", key), f"sweep.{key} stands in the wrong place; write sweep.grid.{key}")
        del rest[key]
    rules = read_table(SweepRules, rest, ("sweep",), problems)
    grid: dict[Keys, Sequence[Any]] = {}
    for keys, value in _leaves(table.get("grid", {})):
        at, name = ("sweep", "grid", *keys), ".".join(map(str, ("sweep", "grid", *keys)))
        if not isinstance(value, list):
            problems.add(at, f"{name} must be a list of values to try, not {json.dumps(value, default=str)}")
        elif not value:
            problems.add(at, f"{name} must have at least one value")
        elif keys == ("name",):
            problems.add(at, f"{name}: candidates are versions of one adapter, so its name cannot be tried")
        else:
            grid[keys] = value
    if not grid and not problems.found:
        problems.add(("sweep",), "sweep.grid must have at least one key, such as network.rank = [4, 8]")
    return (SweepRules() if rules is MISSING else rules), grid


def _leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if not isinstance(value, Mapping):
        yield keys, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, (*keys, key))


def _is_few(grid: Mapping[Keys, Sequence[Any]], adapters: int, problems: Problems) -> bool:
    counts = [len(values) for values in grid.values()]
    count = math.prod(counts) * adapters
    if count > MOST:
        shown = " x ".join(map(str, [*counts, *([adapters] if adapters > 1 else [])]))
        of = " (the last number is that of the adapters)" if adapters > 1 else ""
        text = f"sweep.grid makes {shown} = {count} candidates{of}; a sweep has at most {MOST}"
        problems.add(("sweep", "grid"), text)
    return 0 < count <= MOST


def _read_config(document: Mapping[str, Any], folder: Path, problems: Problems) -> Any:
    return read_table(TrainConfig, merge_defaults(document, folder, problems), (), problems)


def _candidates(
    document: Mapping[str, Any],
    adapter: int,
    grid: Mapping[Keys, Sequence[Any]],
    folder: Path,
    problems: Problems,
) -> Iterator[Candidate]:
    """Yield the candidates of an adapter; what is wrong with a value is told where the value stands."""
    for number, chosen in enumerate(product(*(range(len(values)) for values in grid.values())), 1):
        copy = expand_short_forms(document)
        own = as_list(copy["adapters"])[adapter]
        places = dict(problems.places)
        values: dict[str, Any] = {}
        for (keys, tried), place in zip(grid.items(), chosen, strict=True):
            values[".".join(map(str, keys))] = tried[place]
            at = ("sweep", "grid", *keys)
            line = problems.place((*at, place)) or 0
            for inner in _put(own, keys, tried[place]):
                _move(places, ("adapters", adapter, *inner), line)
        apart = Problems(problems.source, places, problems.found)
        config = _read_config(copy, folder, apart)
        if config is not MISSING:
            yield Candidate(number, values, config.adapters[adapter])


def _put(own: Any, keys: Keys, value: Any) -> list[Keys]:
    """Set a value in an adapter's table, or in each of its folders; return where."""
    if not isinstance(own, dict):
        return []
    if keys[0] == "data" and len(keys) > 1:
        folders = own.setdefault("data", [{}])
        found = enumerate(as_list(folders))
        return [("data", n, *inner) for n, item in found for inner in _put(item, keys[1:], value)]
    *above, last = list(keys)
    inner = own
    for key in above:
        below = inner.get(key)
        inner[key] = dict(below) if isinstance(below, Mapping) else {}
        inner = inner[key]
    inner[last] = value
    if keys == ("data",):
        own["data"] = expand_short_forms({"adapters": [{"data": value}]})["adapters"][0]["data"]
    return [keys]


def _move(places: Places, at: Keys, line: int | str) -> None:
    """Say that a value stands elsewhere, and so what is in it, and the tables that it alone makes."""
    for inner in [place for place in places if place[: len(at)] == at]:
        del places[inner]
    places[at] = line
    for length in range(3, len(at)):
        places.setdefault(at[:length], line)


def _check_candidates(
    candidates: Sequence[Candidate],
    rules: SweepRules,
    problems: Problems,
) -> None:
    """Add what is wrong with candidates that are right each by itself."""
    at: Keys = ("sweep", "grid")
    by_name: dict[str, list[Candidate]] = {}
    for one in candidates:
        by_name.setdefault(one.config.name, []).append(one)
    algorithms = {one.config.network.algorithm for one in candidates}
    if len(algorithms) > 1 and "lora" in algorithms:
        text = "all candidates must be lora, or none: others are not trained together with them"
        problems.add((*at, "network", "algorithm"), f"{', '.join(sorted(algorithms))}: {text}")
    for own in by_name.values():
        seen: dict[bytes, Candidate] = {}
        for one in own:
            data = [item.path for item in one.config.data]
            same = seen.setdefault(config_document(one.config, base_identity=str(data)), one)
            if same is not one:
                text = f"candidates {same.number} and {one.number} are the same training"
                reason = "a value stands twice, or decides no weights"
                problems.add(at, f"{text}: {reason}")
                break
        if rules.keep:
            _check_comparison(own, rules, problems)


def _check_comparison(own: Sequence[Candidate], rules: SweepRules, problems: Problems) -> None:
    apart = "or set sweep.keep = 0, which keeps all of them"
    if any(one.config.validation.held_out == 0 for one in own):
        text = "candidates are compared by their loss on held-out pictures, and none are held out"
        problems.add(("sweep",), f"{text}; set defaults.validation.held_out = 0.2, say, {apart}")
    measured = [_measured_by(one.config) for one in own]
    for name in measured[0]:
        if any(other[name] != measured[0][name] for other in measured):
            text = f"{name} changes what the loss on held-out pictures measures, so that of its values none"
            problems.add(("sweep", "grid"), f"{text} compare; take it out of the grid, {apart}")
    parts = rules.parts(len(own))
    for one in own:
        stops = one.stops(parts)
        if any(low >= high for low, high in pairwise(stops)):
            shown = ", ".join(f"{part:.3g}" for part in parts)
            text = f"{one.config.steps} steps are too few to compare candidates after {shown} of them"
            problems.add(("sweep",), f"{text}; set more steps, or other sweep.rungs")


def _measured_by(config: AdapterConfig) -> dict[str, Any]:
    """Return what decides which pictures are held out, and what is measured on them."""
    data = [asdict(item) for item in config.data]
    for item in data:
        for name in ("repeats", "flip", "shuffle", "keep_tokens", "tag_dropout", "caption_dropout"):
            del item[name]
    objective = config.objective
    names = ("trigger_words", "resolution", "buckets", "no_upscale", "max_chunks")
    return {
        "data": data,
        **{name: getattr(config, name) for name in names},
        "validation.held_out": config.validation.held_out,
        "objective.prediction_type": objective.prediction_type,
        "objective.zero_terminal_snr": objective.zero_terminal_snr,
        "objective.unmasked_weight": objective.unmasked_weight,
    }
