"""Read an adapter file into the canonical form: every key is claimed, or named in an error."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from adapterhub.errors import InputError, PickleRefusedError, UnknownKeysError, WeightsError
from adapterhub.formats.names import (
    kohya_text_encoder_names,
    kohya_unet_names,
    text_encoder_names,
    unet_names,
)
from adapterhub.formats.peft_config import PeftScales, header_scales
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub_registry.probe import Key, is_pickle, read_header, split_key


def read_adapter(path: Path | str) -> AdapterTensors:
    """Read a safetensors file, or a PEFT directory, in kohya's, diffusers' or PEFT's layout.

    The scale of each layer is resolved here, once: from its own alpha (kohya), from the header's
    `lora_adapter_metadata` (diffusers) or from `adapter_config.json` (PEFT); 1 where there is none.

    Args:
        path: The file, or a directory with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        The adapter, its tensors on the CPU in the file's dtype.

    Raises:
        InputError: There is no such file.
        PickleRefusedError: It holds pickled objects.
        UnknownKeysError: Keys belong to no layout or module that is known; all are named in `keys`.
        WeightsError: The file is malformed, or factors do not belong together.
    """
    path = Path(path)
    config: PeftScales | None = None
    if path.is_dir():
        config_file, path = path / "adapter_config.json", path / "adapter_model.safetensors"
        try:
            config = PeftScales.from_config(json.loads(config_file.read_text()))
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise WeightsError(config_file, f"it cannot be read ({exc})") from exc
    try:
        if is_pickle(path):
            raise PickleRefusedError(path)
        header = read_header(path)
    except OSError as exc:
        raise InputError(path, exc.strerror or str(exc)) from exc

    keys = {name: split_key(name) for name in header.tensors}
    targets = {name: target_of(key) for name, key in keys.items() if key is not None}
    unknown = [name for name in keys if targets.get(name) is None]
    if unknown or not keys:
        raise UnknownKeysError(path, unknown)
    parts: dict[Target, dict[str, Tensor]] = {}
    layouts: dict[Target, str] = {}
    with safe_open(path, framework="pt") as file:
        for name, key in keys.items():
            target = targets[name]
            if key is None or target is None:
                continue
            found = parts.setdefault(target, {})
            if key.part in found:
                raise WeightsError(path, f"{target} is there twice, in two spellings")
            found[key.part] = file.get_tensor(name)
            layouts[target] = key.layout
    try:
        scales = header_scales(header.metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise WeightsError(path, f"its lora_adapter_metadata cannot be read ({exc})") from exc
    layers = {
        target: _layer(path, target, found, scales.get(target.component) if config is None else config)
        for target, found in parts.items()
    }
    return AdapterTensors(layers, header.metadata)


def target_of(key: Key) -> Target | None:
    """Return the module that a key belongs to, in canonical names; None if there is no such module."""
    if key.layout == "kohya":
        table = kohya_unet_names() if key.component == "unet" else kohya_text_encoder_names()
        module = table.get(key.module)
        return None if module is None else Target(key.component, module)
    if key.component in ("unet", ""):
        return Target("unet", key.module) if key.module in unet_names() else None
    module = f"text_model.{key.module.removeprefix('text_model.')}"
    return Target(key.component, module) if module in text_encoder_names() else None


def _layer(path: Path, target: Target, parts: dict[str, Tensor], scales: PeftScales | None) -> LowRank:
    if "down" not in parts or "up" not in parts:
        raise WeightsError(path, f"{target} lacks its {'up' if 'down' in parts else 'down'} factor")
    down, up = parts["down"], parts["up"]
    if down.dim() not in (2, 4) or up.dim() not in (2, 4) or down.shape[0] != up.shape[1]:
        raise WeightsError(
            path, f"the factors of {target} do not fit: {tuple(down.shape)} and {tuple(up.shape)}"
        )
    rank = down.shape[0]
    if "alpha" in parts:
        return LowRank(down, up, float(parts["alpha"].float()) / rank, "alpha")
    if scales is not None:
        return LowRank(down, up, scales.scale(target.module, rank), "config")
    return LowRank(down, up, 1.0, "rank")
