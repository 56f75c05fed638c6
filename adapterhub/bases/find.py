"""Find a base by name: the bundled `mini`, a directory, or a repository of the Hugging Face Hub."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adapterhub.bases.identity import architecture_of, identity_of
from adapterhub.errors import (
    BaseNotFoundError,
    MissingComponentError,
    NotAPipelineError,
    PickleRefusedError,
    missing_extra,
)
from adapterhub.settings import Settings

BUNDLED = {"mini": Path(__file__).with_name("mini") / "weights"}
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
UNWEIGHTED = ("tokenizer", "tokenizer_2", "scheduler")
PIPELINE_CLASS = "StableDiffusionXLPipeline"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Base:
    """A frozen pipeline on this machine.

    Attributes:
        name: As it was asked for: `mini`, a directory, or a hub id.
        path: Its directory, in diffusers' format.
        weights: The safetensors files of each component.
        home: Where its identity is remembered between processes.
    """

    name: str
    path: Path
    weights: Mapping[str, tuple[Path, ...]]
    home: Path

    @cached_property
    def architecture(self) -> str:
        """What its module names and shapes are: `sdxl`, `mini`, or `custom-` and a digest."""
        return architecture_of(self.path, self.weights)

    @cached_property
    def identity(self) -> str:
        """`sha256:` and the digest of its weights; slow at first for large bases, then remembered."""
        if self.path in BUNDLED.values():
            return self.card["identity"]  # the tests compare it with the weights
        return identity_of(self.weights, cache=self.home / "cache" / "base-identities.json")

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights files."""
        return sum(file.stat().st_size for files in self.weights.values() for file in files)

    @property
    def card(self) -> Mapping[str, Any]:
        """What its `card.json` says; empty for a base without one."""
        file = self.path / "card.json"
        return json.loads(file.read_text()) if file.exists() else {}


def find_base(name: str | Path = "mini", *, settings: Settings | None = None) -> Base:
    """Find a base and check that its files can be loaded; no weights are read.

    Args:
        name: `mini`, a directory in diffusers' format, or a hub id such as
            `stabilityai/stable-diffusion-xl-base-1.0`, taken from the cache where it is there.
        settings: Home and offline mode; by default from the environment.

    Raises:
        BaseNotFoundError: Nothing has this name; near names are suggested.
        NotAPipelineError: A path holds no SDXL pipeline.
        MissingComponentError: A part or its weights are missing.
        PickleRefusedError: A part has only pickled weights.

    Example:
        >>> find_base("mini").architecture
        'mini'
    """
    settings = settings or Settings.from_environment()
    text = str(name)
    if text in BUNDLED:
        return _checked(text, BUNDLED[text], settings)
    path = Path(name).expanduser()
    if path.exists():
        return _checked(text, path, settings)
    if isinstance(name, str) and _looks_like_hub_id(name):
        return _checked(text, _hub_directory(name, settings), settings)
    raise BaseNotFoundError(text, _known_names())


def list_bases(*, settings: Settings | None = None) -> list[Base]:
    """Return the bundled bases and the SDXL pipelines in the Hugging Face cache."""
    settings = settings or Settings.from_environment()
    found = [_checked(name, path, settings) for name, path in BUNDLED.items()]
    for name, path in _cached_pipelines().items():
        try:
            found.append(_checked(name, path, settings))
        except (NotAPipelineError, MissingComponentError, PickleRefusedError):
            continue  # a partial download, or another kind of pipeline: nothing that could be loaded
    return found


def _checked(name: str, path: Path, settings: Settings) -> Base:
    """Return the base at `path` if every file that loading needs is there."""
    if path.is_file():
        if path.suffix in PICKLE_SUFFIXES or _is_pickle(path):
            raise PickleRefusedError(path)
        raise NotAPipelineError(path, "it is a file, not a directory")
    index = path / "model_index.json"
    try:
        table = json.loads(index.read_text())
        class_name = table["_class_name"]
    except FileNotFoundError as exc:
        pickles = [file for file in sorted(path.iterdir()) if file.suffix in PICKLE_SUFFIXES]
        if pickles:
            raise PickleRefusedError(pickles[0]) from exc
        raise NotAPipelineError(path, "it has no model_index.json") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise NotAPipelineError(path, f"its model_index.json cannot be read ({exc})") from exc
    if class_name != PIPELINE_CLASS:
        raise NotAPipelineError(path, f"its class is {class_name}, not {PIPELINE_CLASS}")
    for component in (*WEIGHTED, *UNWEIGHTED):
        if not (path / component).is_dir():
            raise MissingComponentError(path, component, "is not there")
    for component in WEIGHTED:
        if not (path / component / "config.json").is_file():
            raise MissingComponentError(path, component, "has no config.json")
    weights = {component: _weights_files(path, component) for component in WEIGHTED}
    return Base(name=name, path=path.resolve(), weights=weights, home=settings.home)


def _weights_files(path: Path, component: str) -> tuple[Path, ...]:
    """Return the safetensors files that diffusers and transformers would load, shards in order."""
    folder = path / component
    stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return (single,)
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise MissingComponentError(path, component, f"lacks {missing[0]}, which its index names")
        return tuple(folder / name for name in names)
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise PickleRefusedError(pickles[0])
    raise MissingComponentError(path, component, f"has no {stem}.safetensors")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _looks_like_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _hub_directory(name: str, settings: Settings) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    except ModuleNotFoundError as exc:
        raise missing_extra(exc) or exc from exc
    try:
        folder = DiffusionPipeline.download(
            name, use_safetensors=True, local_files_only=settings.is_offline, trust_remote_code=False
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as exc:
        reason = "offline, and not in the cache" if settings.is_offline else str(exc).splitlines()[0]
        raise BaseNotFoundError(name, _known_names(), reason) from exc
    return Path(folder)


def _cached_pipelines() -> dict[str, Path]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return {}
    found: dict[str, Path] = {}
    for repository in sorted(cache.repos, key=lambda repository: repository.repo_id):
        newest = max(repository.revisions, key=lambda revision: revision.last_modified)
        if (newest.snapshot_path / "model_index.json").exists():
            found[repository.repo_id] = newest.snapshot_path
    return found


def _known_names() -> list[str]:
    return [*BUNDLED, *_cached_pipelines()]
