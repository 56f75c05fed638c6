"""Resumable training state without pickle: one safetensors file, written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer


def save_state(
    path: Path, step: int, modules: Mapping[str, nn.Module], optimizer: Optimizer, ema: Mapping[str, Tensor]
) -> None:
    """Write modules, AdamW moments and moving averages after `step` steps."""
    tensors = {f"ema/{name}": value for name, value in ema.items()}
    for part, module in modules.items():
        tensors |= {f"module/{part}/{name}": value for name, value in module.state_dict().items()}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{index}/{name}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, draft, {"step": str(step)})
    os.replace(draft, path)


def load_state(
    path: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer, ema: dict[str, Tensor]
) -> int:
    """Restore what `save_state` wrote and return its step; 0 if there is no file."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step = int(file.metadata()["step"])
    ema.update({k.removeprefix("ema/"): v for k, v in tensors.items() if k.startswith("ema/")})
    for part, module in modules.items():
        prefix = f"module/{part}/"
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    for index, parameter in enumerate(_parameters(optimizer)):
        prefix = f"optimizer/{index}/"
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if found:
            optimizer.state[parameter] = found
    return step


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return every parameter of every module under `part/name`."""
    return {f"{part}/{name}": p for part, m in modules.items() for name, p in m.named_parameters()}


def update_ema(ema: dict[str, Tensor], parameters: Mapping[str, Tensor], decay: float) -> None:
    """Move the averages towards the parameters: `ema = decay * ema + (1 - decay) * parameter`."""
    with torch.no_grad():
        for name, value in parameters.items():
            ema[name].lerp_(value, 1 - decay)


def warmup_stable_decay(step: int, *, steps: int, warmup: int, decay: int) -> float:
    """Return the learning-rate factor: linear warmup, constant, then a linear fall to zero."""
    return min(1.0, (step + 1) / max(warmup, 1), max(steps - step, 0) / max(decay, 1))


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
