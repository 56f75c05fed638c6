"""Find a base by name: the bundled `mini`, a directory, a single file, or a repository of the hub."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adapterhub.bases.directory import (
    PICKLE_SUFFIXES,
    WEIGHTED,
    choose_weights,
    require_configs,
    weights_files,
)
from adapterhub.bases.hub import cached_pipelines, hub_directory, is_hub_id
from adapterhub.bases.identity import architecture_of, identity_of
from adapterhub.bases.single_file import CONFIGS, require_sdxl
from adapterhub.bases.tensors import Shapes, read_shapes
from adapterhub.errors import (
    BaseNotFoundError,
    MissingComponentError,
    NotAPipelineError,
    PickleRefusedError,
    SettingError,
)
from adapterhub.settings import Settings

BUNDLED = {"mini": Path(__file__).with_name("mini") / "weights"}


@dataclass(frozen=True)
class Base:
    """A frozen pipeline on this machine.

    Attributes:
        name: As it was asked for: `mini`, a directory, a file, or a hub id.
        path: Its directory, in diffusers' format, or its single file.
        config: The directory of its configs: `path`, or the one that a single file is read with.
        weights: The safetensors files of each component.
        variant: Of the weights files, such as `fp16`; None for the plain ones.
        home: Where its identity is remembered between processes.
    """

    name: str
    path: Path
    config: Path
    weights: Mapping[str, tuple[Path, ...]]
    variant: str | None
    home: Path

    @property
    def is_single_file(self) -> bool:
        """Whether it is a checkpoint in one file."""
        return self.config != self.path

    @cached_property
    def shapes(self) -> Shapes:
        """The shape of every tensor by component and diffusers' name, from headers alone."""
        return read_shapes(self.weights, self.config if self.is_single_file else None)

    @cached_property
    def architecture(self) -> str:
        """What its module names and shapes are: `sdxl`, `mini`, or `custom-` and a digest."""
        return architecture_of(self.shapes["unet"], self.config)

    @cached_property
    def identity(self) -> str:
        """`sha256:` and the digest of its weights; slow at first for large bases, then remembered."""
        if self.path in BUNDLED.values():
            return self.card["identity"]  # the tests compare it with the weights
        cache = self.home / "cache" / "base-identities.json"
        return identity_of(self.weights, cache=cache, config=self.config if self.is_single_file else None)

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights files."""
        return sum(file.stat().st_size for file in {f for files in self.weights.values() for f in files})

    @property
    def card(self) -> Mapping[str, Any]:
        """What its `card.json` says; empty for a base without one."""
        file = self.config / "card.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def resolution(self) -> int:
        """Width and height in pixels that it was trained for."""
        return int(self.settings("unet")["sample_size"]) * self.latent_factor

    @property
    def size_multiple(self) -> int:
        """Of what sides in pixels are a multiple that the UNet's coarsest level can have: 32 for SDXL."""
        return self.latent_factor * 2 ** (len(self.settings("unet")["down_block_types"]) - 1)

    @property
    def latent_factor(self) -> int:
        """How many pixels in a row are one number of the latents: 8 for SDXL."""
        return 2 ** (len(self.settings("vae")["block_out_channels"]) - 1)

    def settings(self, component: str) -> dict[str, Any]:
        """Return the config of a component."""
        return json.loads((self.config / component / "config.json").read_text())

    def variant_for(self, component: str, dtype: str) -> str | None:
        """Return which files of a component to load: those of `variant`, else `fp16` ones for float16.

        `fp16` files are half as long, and hold what float16 keeps of the plain ones.
        """
        wanted = self.variant or ("fp16" if dtype == "float16" else None)
        has_it = wanted and not self.is_single_file and weights_files(self.path, component, wanted)
        return wanted if has_it else None


def find_base(
    name: str | Path = "mini",
    *,
    config: str | Path | None = None,
    variant: str | None = None,
    settings: Settings | None = None,
) -> Base:
    """Find a base and check that its files can be loaded; no weights are read.

    Args:
        name: `mini`, a directory in diffusers' format, a single-file SDXL checkpoint (safetensors), or a hub
            id such as `stabilityai/stable-diffusion-xl-base-1.0`, with `@` and a revision if it is not the
            newest; offline it is taken from the cache.
        config: A directory with the configs and tokenizers that a single file is read with; by default those
            of SDXL, which come with the package. It decides shapes.
        variant: Which weights files of a directory or repository, such as `fp16`. By default the plain ones;
            `fp16` ones where a part has no others, and when they are there and the base is loaded in float16.
        settings: Home and offline mode; by default from the environment.

    Raises:
        BaseNotFoundError: Nothing has this name; near names are suggested.
        NotAPipelineError: A path holds no SDXL pipeline.
        MissingComponentError: A part or its weights are missing.
        PickleRefusedError: A part has only pickled weights.
        WeightsError: A single file is malformed.
        SettingError: A config or a variant was given for what has none.

    Example:
        >>> find_base("mini").architecture
        'mini'
    """
    settings = settings or Settings.from_environment()
    text = str(name)
    path = BUNDLED.get(text) or Path(name).expanduser()
    if path.is_file():
        if variant is not None:
            raise SettingError("the variant", variant, f"{path} is one file, which has no variants")
        return _single_file(text, path, CONFIGS if config is None else Path(config), settings)
    if config is not None:
        raise SettingError("the config", config, f"it goes with a single-file checkpoint, not with {text}")
    if path.exists():
        return _directory(text, path, variant, settings)
    if isinstance(name, str) and is_hub_id(name):
        return _repository(text, variant, settings)
    raise BaseNotFoundError(text, [*BUNDLED, *cached_pipelines()])


def list_bases(*, settings: Settings | None = None) -> list[Base]:
    """Return the bundled bases and the SDXL pipelines in the Hugging Face cache."""
    settings = settings or Settings.from_environment()
    found = [_directory(name, path, None, settings) for name, path in BUNDLED.items()]
    for name, path in cached_pipelines().items():
        try:
            found.append(_directory(name, path, None, settings))
        except (NotAPipelineError, MissingComponentError, PickleRefusedError):
            continue  # a partial download, or another kind of pipeline: nothing that could be loaded
    return found


def _directory(name: str, path: Path, variant: str | None, settings: Settings) -> Base:
    require_configs(path)
    weights, chosen = choose_weights(path, variant)
    path = path.resolve()
    return Base(name, path, path, weights, chosen, settings.home)


def _single_file(name: str, path: Path, config: Path, settings: Settings) -> Base:
    if path.suffix in PICKLE_SUFFIXES:
        raise PickleRefusedError(path)
    require_sdxl(path)
    require_configs(config)
    path = path.resolve()
    return Base(name, path, config.resolve(), dict.fromkeys(WEIGHTED, (path,)), None, settings.home)


def _repository(name: str, variant: str | None, settings: Settings) -> Base:
    """Return a base of the hub; one that has only `fp16` files is fetched with these."""
    try:
        return _directory(name, hub_directory(name, variant, settings), variant, settings)
    except MissingComponentError:
        if variant is not None or settings.is_offline:
            raise
        return _directory(name, hub_directory(name, "fp16", settings), "fp16", settings)
