"""What one adapter is trained on, and how; values, checked."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapterhub.errors import ConfigError, ReferenceSyntaxError
from adapterhub.training.captions import CaptionRules
from adapterhub.training.dataset import Source
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.presets import PRESETS
from adapterhub_registry.publication import KINDS
from adapterhub_registry.references import parse_reference

UNDIGESTED = ("preset", "kind", "tags", "title", "description", "licence", "save_every")
"""What decides no weight; the registry keeps the rest of it, and may change it."""


@dataclass(frozen=True)
class DataConfig:
    """One folder of pictures, and how they and their captions are used.

    Attributes:
        path: The folder.
        repeats: How often each picture is shown an epoch.
        flip: Whether a picture may be shown with left and right changed over.
        prior: Whether the pictures keep a class as it is, and do not show what is to be learnt.
        masks: Folder of masks, each called as its picture is but for the suffix; white is learnt.
        alpha_mask: Whether what is transparent is masked.
        ground: What lies under transparent parts: a colour's name or `#rrggbb`.
        missing_captions: What a picture without a caption is: an `error`, `empty`, or called by its
            `filename`.
        template: Text with the fields `{caption}` and `{trigger}`, the adapter's first trigger word.
        shuffle: Put the tags, which commas separate, into another order at each showing.
        keep_tokens: Tags at the start that are neither dropped nor moved.
        tag_dropout: How often each of the other tags is left out.
        caption_dropout: How often the whole caption is left out.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    path: Path
    repeats: int = 1
    flip: bool = False
    prior: bool = False
    masks: Path | None = None
    alpha_mask: bool = False
    ground: str = "white"
    missing_captions: str = "error"
    template: str = "{caption}"
    shuffle: bool = False
    keep_tokens: int = 0
    tag_dropout: float = 0.0
    caption_dropout: float = 0.05

    def __post_init__(self) -> None:
        problems: list[str] = []
        # Whether there is a trigger word is for the adapter to say.
        for make in (lambda: self._rules("trigger"), lambda: self._source(CaptionRules())):
            try:
                make()
            except ConfigError as exc:
                problems += exc.problems
        if problems:
            raise ConfigError(f"the use of {self.path}", problems)

    def source(self, trigger: str = "") -> Source:
        """Return the folder as `read_sources` takes it.

        Args:
            trigger: What `{trigger}` in the template stands for.

        Raises:
            ConfigError: The template names a trigger word, and there is none.
        """
        return self._source(self._rules(trigger))

    def _source(self, rules: CaptionRules) -> Source:
        return Source(
            self.path,
            repeats=self.repeats,
            flip=self.flip,
            is_prior=self.prior,
            masks=self.masks,
            alpha_mask=self.alpha_mask,
            ground=self.ground,
            missing_captions=self.missing_captions,
            rules=rules,
        )

    def _rules(self, trigger: str) -> CaptionRules:
        return CaptionRules(
            template=self.template,
            trigger=trigger,
            shuffle=self.shuffle,
            keep_tokens=self.keep_tokens,
            tag_dropout=self.tag_dropout,
            caption_dropout=self.caption_dropout,
        )


@dataclass(frozen=True)
class ValidationConfig:
    """What is drawn and measured while an adapter is trained; it decides no weight, but for `held_out`.

    Attributes:
        prompts: Of the sample pictures; those of the end are kept as previews.
        seed: Of the first of them; the others follow it.
        every: Steps between sample grids; 0 means at the end alone.
        held_out: Part of the pictures that is never trained on, and whose loss is measured.
        loss_every: Steps between these measurements; 0 means at the end alone.
        keep_best: Keep the weights whose measured loss is the lowest, in the run's directory.
        clip: Directory of a CLIP model that scores the sample pictures.
        dino: Directory of a DINO model, likewise.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    prompts: tuple[str, ...] = ()
    seed: int = 0
    every: int = 0
    held_out: float = 0.0
    loss_every: int = 0
    keep_best: bool = False
    clip: Path | None = None
    dino: Path | None = None

    def __post_init__(self) -> None:
        problems = _negative(self, "seed", "every", "loss_every")
        if not 0 <= self.held_out < 1:
            problems.append(f"held_out must be from 0 to below 1, not {self.held_out}")
        if self.loss_every > 0 and self.held_out == 0:
            problems.append("loss_every measures held-out pictures, but held_out is 0")
        if self.keep_best and self.loss_every == 0:
            problems.append("keep_best compares measurements, but loss_every is 0")
        for name in ("clip", "dino"):
            if getattr(self, name) is not None and not self.prompts:
                problems.append(f"{name} scores sample pictures, but prompts is empty")
        if problems:
            raise ConfigError("the validation", problems)


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter to train.

    Attributes:
        name: `namespace/name` in the registry.
        data: The folders of pictures; at least one that is no prior.
        preset: What a config file's other values were put on top of; alone it changes nothing.
        trigger_words: What a prompt must say; captions should hold it.
        kind: style, subject, concept, slider or other.
        tags: Labels for search.
        title: Name for people.
        description: A sentence.
        licence: SPDX identifier, or words.
        seed: Decides every random choice.
        steps: Optimizer steps.
        batch_size: Pictures a forward pass.
        accumulation: Passes whose gradients make one step.
        resolution: Pictures are trained at about its square in pixels; 0 means what the base was trained for.
        buckets: Train pictures in the aspects that they have; otherwise squares are cut out.
        no_upscale: Train a picture that is too small in a smaller bucket instead of enlarging it.
        max_chunks: Chunks of 75 tokens of a caption that are read; what is beyond is counted as truncated.
        save_every: Steps between checkpoints; 0 means none.
        network: The layers that are trained.
        optimizer: How they are changed.
        objective: What is minimised.
        validation: What is drawn and measured.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    name: str
    data: tuple[DataConfig, ...]
    preset: str = ""
    trigger_words: tuple[str, ...] = ()
    kind: str = "other"
    tags: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    licence: str = ""
    seed: int = 0
    steps: int = 500
    batch_size: int = 4
    accumulation: int = 1
    resolution: int = 0
    buckets: bool = True
    no_upscale: bool = True
    max_chunks: int = 1
    save_every: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: Objective = field(default_factory=Objective)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        problems: list[str] = []
        try:
            reference = parse_reference(self.name)
        except ReferenceSyntaxError as exc:
            problems.append(f"name: {exc}")
        else:
            if self.name.lower() != f"{reference.namespace}/{reference.name}":
                problems.append(f'name must be namespace/name, not "{self.name}"')
        for name, known in (("preset", ("", *PRESETS)), ("kind", KINDS)):
            value = getattr(self, name)
            if value not in known:
                listed = ", ".join(filter(None, known))
                problems.append(f'{name} must be one of {listed}, not "{value}"')
        for name in ("steps", "batch_size", "accumulation", "max_chunks"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, not {getattr(self, name)}")
        problems += _negative(self, "seed", "save_every")
        if self.network.algorithm in ("loha", "lokr") and self.optimizer.loraplus_ratio != 1:
            problems.append(f"optimizer.loraplus_ratio must be 1 for {self.network.algorithm}: it has no B")
        if self.resolution % 8 or self.resolution < 0:
            problems.append(f"resolution must be a multiple of 8, not {self.resolution}")
        if all(item.prior for item in self.data):
            problems.append("data must have at least one folder that is no prior")
        for number, item in enumerate(self.data):
            try:
                item.source(self._trigger)
            except ConfigError as exc:
                problems += [f"data.{number}.{problem}" for problem in exc.problems]
        if problems:
            raise ConfigError(f"the adapter {self.name}", problems)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The folders as `read_sources` takes them."""
        return tuple(item.source(self._trigger) for item in self.data)

    @property
    def _trigger(self) -> str:
        return self.trigger_words[0] if self.trigger_words else ""

    @property
    def digest_table(self) -> dict[str, Any]:
        """Everything that decides the weights, and no path."""
        table = dataclasses.asdict(self)
        for name in UNDIGESTED:
            del table[name]
        for data in table["data"]:
            # The manifest says which files they are.
            del data["path"], data["masks"]
        table["validation"] = {"held_out": self.validation.held_out}
        # Every random choice is keyed by it, and the registry folds capitals.
        table["name"] = self.name.lower()
        return table


def _negative(config: Any, *names: str) -> list[str]:
    """Return a problem for each of these fields that is negative."""
    values = {name: getattr(config, name) for name in names}
    return [
        f"{name} must not be negative, not {value}"
        for name, value in values.items()
        if not (math.isfinite(value) and value >= 0)
    ]
