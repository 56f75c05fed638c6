"""The recipe's settings, read from a TOML file."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True)
class Pictures:
    """Which published packages the pictures and keywords come from."""

    package: str
    version: str
    annotations_package: str
    annotations_version: str
    caption_mix: list[float]


@dataclass(frozen=True)
class Tokenizers:
    """Size of the byte-pair vocabulary, and tokens in a prompt."""

    vocabulary_size: int
    max_length: int


@dataclass(frozen=True)
class Text:
    """Shapes of the two text encoders, and how they are first trained."""

    hidden_size: list[int]
    layers: list[int]
    heads: list[int]
    projection_size: int
    batch_size: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class VaePhase:
    """One warmup, plateau and fall of the autoencoder's learning rate; `trains` is `all` or `decoder`."""

    trains: str
    batch_size: int
    steps: int
    decay_steps: int
    learning_rate: float


@dataclass(frozen=True)
class Vae:
    """Shape of the autoencoder and how it is trained."""

    channels: list[int]
    kl_weight: float
    phases: list[VaePhase]


@dataclass(frozen=True)
class UnetPhase:
    """One warmup, plateau and fall of the denoiser's learning rate.

    `precision` is the dtype of the passes (the optimizer's weights are float32), `pairs` the part of a batch
    that shows two subjects.
    """

    precision: str
    pairs: float
    batch_size: int
    steps: int
    decay_steps: int
    learning_rate: float
    text_learning_rate: float

    @property
    def paired(self) -> int:
        """Pictures of two subjects in a batch."""
        return round(self.pairs * self.batch_size)

    @property
    def single(self) -> int:
        """Pictures of one subject in a batch."""
        return self.batch_size - self.paired


@dataclass(frozen=True)
class Unet:
    """Shape of the denoiser and how it is trained, together with the text encoders."""

    channels: list[int]
    transformer_layers: list[int]
    heads: list[int]
    time_embedding_size: int
    pair_pool: int
    warmup_steps: int
    caption_dropout: float
    min_snr_gamma: float
    ema_decay: float
    phases: list[UnetPhase]


AnyPhase = TypeVar("AnyPhase", VaePhase, UnetPhase)


@dataclass(frozen=True)
class Evaluate:
    """How many captions are drawn, and with which sampler settings."""

    captions: int
    guidance_scale: float
    steps: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    edition: int
    seed: int
    device: str
    threads: int
    pictures: Pictures
    tokenizers: Tokenizers
    text: Text
    vae: Vae
    unet: Unet
    evaluate: Evaluate


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from TOML; unknown or missing keys raise `TypeError` with their names."""
    table: dict[str, Any] = tomllib.loads(path.read_text())
    return Recipe(
        edition=table["edition"],
        seed=table["seed"],
        device=table["device"],
        threads=table["threads"],
        pictures=Pictures(**table["pictures"]),
        tokenizers=Tokenizers(**table["tokenizers"]),
        text=Text(**table["text"]),
        vae=Vae(**table["vae"] | {"phases": [VaePhase(**row) for row in table["vae"]["phases"]]}),
        unet=Unet(**table["unet"] | {"phases": [UnetPhase(**row) for row in table["unet"]["phases"]]}),
        evaluate=Evaluate(**table["evaluate"]),
    )


def phase_at(phases: Sequence[AnyPhase], step: int) -> tuple[AnyPhase, int]:
    """Return the phase that `step` of the whole training lies in, and the step within it."""
    for phase in phases:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError(f"the phases end {step + 1} steps earlier")
