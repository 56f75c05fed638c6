"""The recipe's settings, read from a TOML file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
class Vae:
    """Shape of the autoencoder and how it is trained."""

    channels: list[int]
    batch_size: int
    steps: int
    learning_rate: float
    kl_weight: float


@dataclass(frozen=True)
class Unet:
    """Shape of the denoiser and how it is trained, together with the text encoders."""

    channels: list[int]
    transformer_layers: list[int]
    heads: list[int]
    time_embedding_size: int
    batch_size: int
    steps: int
    warmup_steps: int
    decay_steps: int
    learning_rate: float
    text_learning_rate: float
    caption_dropout: float
    min_snr_gamma: float
    ema_decay: float


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
        threads=table["threads"],
        pictures=Pictures(**table["pictures"]),
        tokenizers=Tokenizers(**table["tokenizers"]),
        text=Text(**table["text"]),
        vae=Vae(**table["vae"]),
        unet=Unet(**table["unet"]),
        evaluate=Evaluate(**table["evaluate"]),
    )
