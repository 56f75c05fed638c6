"""Read an adapter in any dialect into the canonical form: every key is claimed, or named in an error."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapterhub.errors import UnknownKeysError, WeightsError
from adapterhub.formats.mapped import map_file
from adapterhub.formats.names import (
    kohya_text_encoder_names,
    kohya_unet_names,
    sgm_unet_names,
    text_encoder_names,
    text_encoder_norm_names,
    unet_names,
    unet_norm_names,
)
from adapterhub.formats.peft_config import PeftScales, header_scales
from adapterhub.lora.algorithms import delta_of, rank_of, shape_of
from adapterhub.lora.weights import (
    MODEL,
    AdapterTensors,
    Dense,
    LowRank,
    Native,
    SourceFile,
    Target,
    Update,
)
from adapterhub_registry.dialects import EMBEDDING_PREFIX, Key, algorithm_of, split_key
from adapterhub_registry.intake import PEFT_FILES
from adapterhub_registry.probe import TRANSFORMERS, describe, read_peft_config

CONFIG, WEIGHTS = PEFT_FILES
REQUIRED = {
    "lora": ({"down", "up"}, {"alpha"}),
    "locon-tucker": ({"down", "up", "mid"}, {"alpha"}),
    "loha": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, {"alpha", "hada_t1", "hada_t2"}),
    "glora": ({"a1", "a2", "b1", "b2"}, {"alpha", "bm"}),
    "oft": ({"oft_blocks"}, {"alpha", "rescale"}),
    "boft": ({"oft_blocks"}, {"alpha", "rescale"}),
    "ia3": ({"ia3", "on_input"}, set[str]()),
    "set": ({"set"}, set[str]()),
}
"""Algorithm to the parts that it needs, and those that it may have."""


def read_adapter(path: Path | str, *, strict: bool = True) -> AdapterTensors:
    """Read a safetensors file, or a PEFT directory, in any dialect that `adapterhub_registry.dialects` knows.

    The scale of each layer is resolved here, once: from its own alpha, from the header's
    `lora_adapter_metadata` (diffusers) or from `adapter_config.json` (PEFT); 1 where there is none.
    The tensors are memory-mapped: nothing but the header and the alphas is read before it is used.

    Args:
        path: The file, or a directory with `adapter_config.json` and `adapter_model.safetensors`.
        strict: Whether keys that nothing claims are an error; else they are kept in `extras`.

    Returns:
        The adapter, its tensors on the CPU in the file's dtype.

    Raises:
        InputError: There is no such file.
        PickleRefusedError: It holds pickled objects.
        UnknownKeysError: Keys belong to no layout or module that is known; all are named in `keys`.
        WeightsError: The file is malformed, or tensors do not belong together.
    """
    path = Path(path)
    files, config = {path.name: path}, None
    if path.is_dir():
        config = read_peft_config(path / CONFIG)
        files = {CONFIG: path / CONFIG, WEIGHTS: path / WEIGHTS}
        path = path / WEIGHTS
    mapped = map_file(path)
    found = describe(path, mapped.header, config=config)
    is_language = found.architecture.startswith(TRANSFORMERS)

    keys = {name: split_key(name) for name in mapped.header.tensors}
    targets = {name: _target(key, is_language) for name, key in keys.items() if key is not None}
    extras = {name for name in keys if name.startswith(EMBEDDING_PREFIX)}
    unknown = [name for name in keys if name not in extras and targets.get(name) is None]
    if (unknown and strict) or len(unknown) + len(extras) == len(keys):
        raise UnknownKeysError(path, unknown)
    adapters = {key.adapter for key in keys.values() if key is not None}
    if len(adapters) > 1:
        raise WeightsError(path, f"it holds several adapters: {', '.join(sorted(adapters - {''}))}")

    tensors = mapped.tensors()
    parts: dict[Target, dict[str, Tensor]] = {}
    for name, key in keys.items():
        target = targets.get(name)
        if key is None or target is None:
            continue
        belonging = parts.setdefault(target, {})
        if key.part in belonging:
            raise WeightsError(path, f"{target} is there twice, in two spellings")
        belonging[key.part] = tensors[name]
    scales = _scales(path, config, mapped.header.metadata)
    layers: dict[Target, Update] = {}
    biases: dict[Target, Tensor] = {}
    for target, belonging in parts.items():
        if "bias" in belonging:
            biases[target] = belonging.pop("bias")
        if belonging:
            layers[target] = _update(path, target, belonging, scales.get(target.component, scales.get("")))
    return AdapterTensors(
        layers=layers,
        metadata=mapped.header.metadata,
        biases=biases,
        extras={name: tensors[name] for name in sorted({*extras, *unknown})},
        source=SourceFile(
            found.layouts,
            {name: mapped.content if file == path else file.read_bytes() for name, file in files.items()},
        ),
    )


def target_of(key: Key) -> Target | None:
    """Return the SDXL module that a key belongs to, in canonical names; None if there is no such module."""
    component = key.component or ("text_encoder" if key.module.startswith("text_model.") else "unet")
    if key.layout in ("kohya", "kohya-diffusers", "lycoris"):
        table = kohya_unet_names() if component == "unet" else kohya_text_encoder_names()
        module = table.get(key.module)
    elif component == "unet":
        sgm = sgm_unet_names().get(key.module)
        module = sgm if key.layout in ("comfy", "omi") and sgm else _unet_module(key.module)
    else:
        module = Target.at(component, key.module).module
        if module not in text_encoder_names() and module not in text_encoder_norm_names():
            module = None
    return None if module is None else Target(component, module)


def _unet_module(spelled: str) -> str | None:
    return spelled if spelled in unet_names() or spelled in unet_norm_names() else None


def _target(key: Key, is_language: bool) -> Target | None:
    return Target(MODEL, key.module) if is_language else target_of(key)


def _scales(
    path: Path, config: Mapping[str, Any] | None, metadata: Mapping[str, str]
) -> dict[str, PeftScales]:
    """Return the scales of each component; those of a PEFT directory hold for all, under an empty name."""
    try:
        if config is not None:
            return {"": PeftScales.from_config(config)}
        return header_scales(metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        place = CONFIG if config is not None else "lora_adapter_metadata"
        raise WeightsError(path, f"its {place} cannot be read ({exc})") from exc


def _update(path: Path, target: Target, parts: dict[str, Tensor], scales: PeftScales | None) -> Update:
    blocks = parts.get("oft_blocks")
    algorithm = algorithm_of(parts, oft_dimensions=blocks.dim() if blocks is not None else 3)
    if algorithm == "full":
        return _dense(path, target, parts)
    _check_parts(path, target, algorithm, parts)
    if any(0 in part.shape for part in parts.values()):
        raise WeightsError(path, f"{target} has a tensor without numbers; is its rank zero?")
    alpha, tensors = parts.get("alpha"), {name: part for name, part in parts.items() if name != "alpha"}
    rank = _check_shapes(path, target, algorithm, tensors)
    scale, origin = 1.0, "rank"
    if alpha is not None:
        scale, origin = _alpha(path, target, alpha, algorithm), "alpha"
        scale = scale / rank if rank else scale
        if algorithm == "lokr" and not rank:
            scale = 1.0  # both factors are whole: LyCORIS ignores alpha then
    elif algorithm in ("oft", "boft"):
        scale = 0.0
    elif scales is not None and algorithm in ("lora", "dora"):
        scale, origin = scales.scale(target.module, rank), "config"
    if algorithm == "lora":
        return LowRank(tensors["down"], tensors["up"], scale, origin)
    return Native(algorithm, tensors, scale, origin)


def _dense(path: Path, target: Target, parts: Mapping[str, Tensor]) -> Dense:
    rest = parts.keys() - {"alpha", "diff", "w_norm"}
    if rest or ("diff" in parts) == ("w_norm" in parts):
        raise WeightsError(
            path, f"{target} has parts that do not belong together: {', '.join(sorted(parts))}"
        )
    return Dense(parts["diff"] if "diff" in parts else parts["w_norm"])


def _check_parts(path: Path, target: Target, algorithm: str, parts: Mapping[str, Tensor]) -> None:
    """Check that a module has all the tensors of its algorithm and no others."""
    names = set(parts)
    if algorithm == "dora":
        algorithm = algorithm_of(names - {"magnitude"})
        names -= {"magnitude"}
    if algorithm == "lokr":
        needed, allowed = set[str](), {"alpha"}
        for number in "12":
            whole, pair = {f"lokr_w{number}"}, {f"lokr_w{number}_a", f"lokr_w{number}_b"}
            needed |= whole if whole <= names else pair
        allowed |= {"lokr_t2"} if "lokr_w2_a" in names else set()
    elif algorithm in REQUIRED:
        needed, allowed = REQUIRED[algorithm]
    else:
        raise WeightsError(
            path, f"{target} has parts that do not belong together: {', '.join(sorted(parts))}"
        )
    if missing := needed - names:
        raise WeightsError(path, f"{target} lacks its {', '.join(sorted(missing))}")
    if surplus := names - needed - allowed:
        raise WeightsError(path, f"{target} has parts that do not belong to {algorithm}: {sorted(surplus)}")
    if ("hada_t1" in names) != ("hada_t2" in names):
        raise WeightsError(path, f"{target} lacks its hada_t1 or hada_t2")


def _check_shapes(path: Path, target: Target, algorithm: str, tensors: Mapping[str, Tensor]) -> int:
    """Check that a module's tensors fit each other; return the rank that alpha is divided by, 0 for none."""
    shapes = {name: tuple(part.shape) for name, part in tensors.items()}
    does_fit = True
    if algorithm == "lora":
        down, up = tensors["down"], tensors["up"]
        does_fit = down.dim() in (2, 4) and up.dim() in (2, 4) and down.shape[0] == up.shape[1]
        does_fit = does_fit and math.prod(up.shape[2:]) == 1
    elif algorithm in ("oft", "boft"):
        blocks = tensors["oft_blocks"]
        does_fit = blocks.dim() in (3, 4) and blocks.shape[-1] == blocks.shape[-2]
    elif algorithm not in ("ia3", "set"):
        # Shapes alone decide: the formula on tensors without data.
        empty = {name: torch.empty(part.shape, device="meta") for name, part in tensors.items()}
        inner = {name: part for name, part in empty.items() if name != "magnitude"}
        kind = algorithm if algorithm != "dora" else algorithm_of(inner)
        try:
            shape = shape_of(kind, inner)
            if kind != "glora":
                delta_of(kind, inner, 1.0, None)
            else:
                delta_of(kind, inner, 1.0, torch.empty(shape, device="meta"))
        except (RuntimeError, IndexError, ValueError):
            does_fit = False
    if not does_fit:
        raise WeightsError(path, f"the tensors of {target} do not fit each other: {shapes}")
    return rank_of(tensors)


def _alpha(path: Path, target: Target, alpha: Tensor, algorithm: str) -> float:
    if alpha.numel() != 1:
        raise WeightsError(path, f"the alpha of {target} is no single number: {tuple(alpha.shape)}")
    value = float(alpha.float().reshape(()))
    if not math.isfinite(value) or (value == 0 and algorithm not in ("oft", "boft")):
        raise WeightsError(path, f"the alpha of {target} is {value:g}; train it again, or give alpha = rank")
    return value
