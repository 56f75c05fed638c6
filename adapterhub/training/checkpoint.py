"""Checkpoints: whole or not there, and only ever of the run that asks for them."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor
from torch.optim import Optimizer

from adapterhub.errors import CheckpointError, OutputError
from adapterhub.formats.container import safetensors_bytes

TENSORS, STATE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        step: Steps that were done.
        tensors: Factors, and AdamW's moments.
        losses: The loss of each step that was done.
        threads: CPU threads of the run.
    """

    step: int
    tensors: Mapping[str, Tensor]
    losses: Sequence[float]
    threads: int


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, identity: Mapping[str, str]) -> Path:
    """Write `run/step-00000100/`: to a draft beside it, flushed, named last. Older ones are removed.

    Args:
        run: Directory of the run.
        checkpoint: What to write.
        identity: Digests of config, data and base; `load_checkpoint` refuses others.

    Raises:
        OutputError: The disk is full or cannot be written; older checkpoints are unchanged.
    """
    target = run / f"step-{checkpoint.step:08d}"
    draft = run / f".{target.name}.{uuid.uuid4().hex}"
    data = safetensors_bytes(checkpoint.tensors, {})
    state = {
        "format": 1,
        "step": checkpoint.step,
        "losses": list(checkpoint.losses),
        "threads": checkpoint.threads,
        "identity": dict(identity),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        draft.mkdir(parents=True)
        for name, content in ((TENSORS, data), (STATE, json.dumps(state).encode())):
            with (draft / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(target)
        os.replace(draft, target)
    except OSError as exc:
        shutil.rmtree(draft, ignore_errors=True)
        raise OutputError(target, exc.strerror or str(exc)) from exc
    for old in run.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(run: Path, *, identity: Mapping[str, str]) -> Checkpoint:
    """Read the newest checkpoint of a run.

    Raises:
        CheckpointError: There is none, it is damaged, or config, data or base are others now.
    """
    found = sorted(run.glob("step-*"))
    if not found:
        raise CheckpointError(run, "it holds no checkpoint")
    path = found[-1]
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        data = (path / TENSORS).read_bytes()
        recorded = dict(state["identity"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise CheckpointError(path, f"it cannot be read ({exc})") from exc
    if hashlib.sha256(data).hexdigest() != state["sha256"]:
        raise CheckpointError(path, "its tensors are damaged: the digest differs from the recorded one")
    others = [name for name, value in identity.items() if recorded.get(name) != value]
    if others:
        raise CheckpointError(path, f"it was made with another {' and another '.join(others)}")
    return Checkpoint(state["step"], load(data), state["losses"], state["threads"])


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return AdamW's state by the position of each parameter."""
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{index}.{name}"] = value
    return tensors


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Set AdamW's state to what `optimizer_tensors` returned."""
    for index, parameter in enumerate(_parameters(optimizer)):
        prefix = f"optimizer.{index}."
        optimizer.state[parameter] = {
            name.removeprefix(prefix): value.to(parameter.device) if value.dim() else value.clone()
            for name, value in tensors.items()
            if name.startswith(prefix)
        }


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def factor_tensors(parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return trained parameters by position."""
    return {f"factor.{index}": parameter for index, parameter in enumerate(parameters)}


def restore_factors(parameters: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Set trained parameters to what `factor_tensors` returned."""
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"factor.{index}"])
