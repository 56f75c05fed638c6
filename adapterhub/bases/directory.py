"""Bases in diffusers' directories: whether all parts are there, and which files hold their weights."""

import json
from collections.abc import Mapping
from pathlib import Path

from adapterhub.errors import MissingComponentError, NotAPipelineError, PickleRefusedError

WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
UNWEIGHTED = ("tokenizer", "tokenizer_2", "scheduler")
PIPELINE_CLASS = "StableDiffusionXLPipeline"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def require_configs(path: Path) -> None:
    """Check that a directory has the configs of an SDXL pipeline.

    Raises:
        NotAPipelineError: It is no pipeline, or another one.
        MissingComponentError: A part or its config is missing.
        PickleRefusedError: It holds a pickled checkpoint and no pipeline.
    """
    if not path.is_dir():
        raise NotAPipelineError(path, "it is no directory")
    index = path / "model_index.json"
    try:
        table = json.loads(index.read_text())
        class_name = table["_class_name"]
    except FileNotFoundError as exc:
        if pickle := _pickle_in(path):
            raise PickleRefusedError(pickle) from exc
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


def choose_weights(path: Path, variant: str | None) -> tuple[Mapping[str, tuple[Path, ...]], str | None]:
    """Return the safetensors files of each component, and the variant that is loaded.

    Args:
        path: From `require_configs`.
        variant: Such as `fp16`, taken where a component has it. None means the plain files; where a component
            has only `fp16` ones, it means `fp16`.

    Raises:
        MissingComponentError: A component has no weights, or none has the variant.
        PickleRefusedError: A component has only pickled weights.
    """
    asked = variant
    if variant is None and any(
        not weights_files(path, component) and weights_files(path, component, "fp16")
        for component in WEIGHTED
    ):
        variant = "fp16"
    of_variant = {component: weights_files(path, component, variant) for component in WEIGHTED}
    if asked and not any(of_variant.values()):
        raise MissingComponentError(path, "unet", f"has no {_stem('unet')}.{asked}.safetensors")
    weights = {component: files or required_files(path, component) for component, files in of_variant.items()}
    return weights, variant


def required_files(path: Path, component: str) -> tuple[Path, ...]:
    """Return the plain files of `weights_files`.

    Raises:
        MissingComponentError: There are none, or an index names a shard that is not there.
        PickleRefusedError: There are only pickled weights.
    """
    files = weights_files(path, component)
    if not files:
        if pickle := _pickle_in(path / component):
            raise PickleRefusedError(pickle)
        raise MissingComponentError(path, component, f"has no {_stem(component)}.safetensors")
    return files


def weights_files(path: Path, component: str, variant: str | None = None) -> tuple[Path, ...]:
    """Return the files that diffusers and transformers would load, shards in order; empty if there are none.

    Raises:
        MissingComponentError: An index names a shard that is not there.
    """
    folder, stem, infix = path / component, _stem(component), f".{variant}" if variant else ""
    single = folder / f"{stem}{infix}.safetensors"
    if single.is_file():
        return (single,)
    index = folder / f"{stem}.safetensors.index{infix}.json"
    if not index.is_file():
        return ()
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MissingComponentError(path, component, f"lacks {missing[0]}, which its index names")
    return tuple(folder / name for name in names)


def _stem(component: str) -> str:
    return "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"


def _pickle_in(folder: Path) -> Path | None:
    return next((file for file in sorted(folder.iterdir()) if file.suffix in PICKLE_SUFFIXES), None)
