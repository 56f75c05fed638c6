"""Checkpoints of a run: whole or not there, and only ever of the run that asks for them."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from adapterhub.errors import CheckpointError, OutputError
from adapterhub.formats.container import safetensors_bytes
from adapterhub.training.executor import Executor, Training
from adapterhub.training.optimizers import as_state, exact, group_numbers, set_group_numbers
from adapterhub_registry.blobs import sync_directory

STATE = "state.json"
FORMAT = 3


@dataclass(frozen=True)
class AdapterState:
    """One adapter in training, between two passes.

    Attributes:
        name: Which.
        slot: Its place in the network.
        passes: Done.
        waited: Passes of others since its last one.
        losses: Of each step.
        loss_sum: Of the passes of a step that is not done.
        tensors: Factors, gradients of a step that is not done, and the optimizer's state.
    """

    name: str
    slot: int
    passes: int
    waited: int
    losses: Sequence[float]
    loss_sum: float
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Ended:
    """What became of an adapter.

    Attributes:
        step: Its last one.
        error: Why it was frozen; empty if it was trained.
        version: The version that it became; 0 for none.
        outcome: Why a candidate of a sweep became none: a word of `adapterhub.training.halving`.
    """

    step: int
    error: str = ""
    version: int = 0
    outcome: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        passes: Of the run, done.
        active: Who is in training.
        ended: Who is trained, or frozen.
        threads: CPU threads of the run.
        aside: Who is in training and has no slot at the moment.
        waiting: Names of those in the line, in order.
        brackets: How far a sweep is.
    """

    passes: int
    active: Sequence[AdapterState]
    ended: Mapping[str, Ended]
    threads: int
    aside: Sequence[AdapterState] = ()
    waiting: Sequence[str] = ()
    brackets: Sequence[Mapping[str, Any]] = ()


def state_of(training: Training) -> AdapterState:
    """Return copies of everything that decides how an adapter's training goes on."""
    tensors: dict[str, Tensor] = {}
    is_within_step = training.passes % training.trainee.accumulation != 0
    for number, parameter in enumerate(training.parameters):
        tensors[f"factor.{number}"] = parameter.detach()
        if is_within_step and parameter.grad is not None:
            tensors[f"gradient.{number}"] = parameter.grad
        for key, value in training.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{number}.{key}"] = exact(value)
    for key, value in group_numbers(training.optimizer).items():
        tensors[f"group.{key}"] = value
    return AdapterState(
        name=training.trainee.name,
        slot=training.slot,
        passes=training.passes,
        waited=training.waited,
        losses=list(training.losses),
        loss_sum=training.loss_sum,
        tensors={name: value.detach().cpu().clone() for name, value in tensors.items()},
    )


def restore(executor: Executor, state: AdapterState) -> None:
    """Put an adapter into its slot, as it was."""
    restore_training(executor.resume(state.name, state.slot), state)


def restore_training(training: Training, state: AdapterState) -> None:
    """Set an adapter that is in a slot, whichever, to what it was."""
    training.passes, training.waited = state.passes, state.waited
    training.losses, training.loss_sum = list(state.losses), state.loss_sum
    with torch.no_grad():
        for number, parameter in enumerate(training.parameters):
            parameter.copy_(state.tensors[f"factor.{number}"])
            if parameter.grad is not None and f"gradient.{number}" in state.tensors:
                parameter.grad.copy_(state.tensors[f"gradient.{number}"])
            prefix = f"optimizer.{number}."
            kept = {
                name.removeprefix(prefix): value
                for name, value in state.tensors.items()
                if name.startswith(prefix)
            }
            if kept:
                training.optimizer.state[parameter] = {
                    key: as_state(value, parameter.device) for key, value in kept.items()
                }
    groups = {name: value for name, value in state.tensors.items() if name.startswith("group.")}
    set_group_numbers(
        training.optimizer, {name.removeprefix("group."): value for name, value in groups.items()}
    )


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, identity: Mapping[str, str], keep: int = 1) -> Path:
    """Write `run/pass-00000100/`: to a draft beside it, flushed, named last. All but the last ones go.

    Args:
        run: Directory of the run.
        checkpoint: What to write.
        identity: Digests of config, data and base; `load_checkpoint` refuses others.
        keep: How many stay.

    Raises:
        OutputError: The disk is full or cannot be written; older checkpoints are unchanged.
    """
    target = run / f"pass-{checkpoint.passes:08d}"
    draft = run / f".{target.name}.{uuid.uuid4().hex}"
    files = {
        f"{kind}-{number}.safetensors": safetensors_bytes(one.tensors, {})
        for kind, states in (("adapter", checkpoint.active), ("aside", checkpoint.aside))
        for number, one in enumerate(states)
    }
    state = {
        "format": FORMAT,
        "passes": checkpoint.passes,
        "active": [_row(one) for one in checkpoint.active],
        "aside": [_row(one) for one in checkpoint.aside],
        "waiting": list(checkpoint.waiting),
        "brackets": list(checkpoint.brackets),
        "ended": {name: asdict(one) for name, one in checkpoint.ended.items()},
        "threads": checkpoint.threads,
        "identity": dict(identity),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    try:
        draft.mkdir(parents=True)
        for name, content in {**files, STATE: json.dumps(state).encode()}.items():
            with (draft / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_directory(draft)
        if target.exists():
            shutil.rmtree(target)
        os.replace(draft, target)
        sync_directory(run)
    except OSError as exc:
        shutil.rmtree(draft, ignore_errors=True)
        raise OutputError(target, exc.strerror or str(exc)) from exc
    for old in {*sorted(run.glob("pass-*"))[:-keep]} - {target}:
        # Half of a checkpoint must not look like one.
        with suppress(OSError):
            os.replace(old, run / f".{old.name}.{uuid.uuid4().hex}")
    for old in run.glob(".pass-*"):
        shutil.rmtree(old, ignore_errors=True)
    return target


def has_checkpoint(run: Path) -> bool:
    """Say whether a run has any checkpoint."""
    return any(run.glob("pass-*"))


def load_checkpoint(run: Path, *, identity: Mapping[str, str]) -> Checkpoint:
    """Read the newest checkpoint of a run.

    Raises:
        CheckpointError: There is none, it is damaged or of another release's format, or config, data or base
        are others now.
    """
    found = sorted(run.glob("pass-*"))
    if not found:
        raise CheckpointError(run, "it holds no checkpoint")
    path = found[-1]
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        if state["format"] != FORMAT:
            reason = (
                f"its format is {state['format']}, and this release reads {FORMAT}; train without --resume"
            )
            raise CheckpointError(path, reason)
        data = {name: (path / name).read_bytes() for name in state["sha256"]}
        recorded = dict(state["identity"])
        damaged = [
            name
            for name, digest in state["sha256"].items()
            if hashlib.sha256(data[name]).hexdigest() != digest
        ]
        active, aside = ([dict(one) for one in state[kind]] for kind in ("active", "aside"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CheckpointError(path, f"it cannot be read ({exc})") from exc
    if damaged:
        raise CheckpointError(path, f"{damaged[0]} is damaged: its digest differs from the recorded one")
    others = [name for name in {**identity, **recorded} if recorded.get(name) != identity.get(name)]
    if others:
        raise CheckpointError(path, f"it was made with another {' and another '.join(others)}")
    return Checkpoint(
        passes=state["passes"],
        active=[
            AdapterState(**one, tensors=load(data[f"adapter-{number}.safetensors"]))
            for number, one in enumerate(active)
        ],
        ended={name: Ended(**one) for name, one in state["ended"].items()},
        threads=state["threads"],
        aside=[
            AdapterState(**one, tensors=load(data[f"aside-{number}.safetensors"]))
            for number, one in enumerate(aside)
        ],
        waiting=state["waiting"],
        brackets=state["brackets"],
    )


def _row(state: AdapterState) -> dict[str, Any]:
    """Return all of a state but its tensors."""
    row = {**vars(state), "losses": list(state.losses)}
    del row["tensors"]
    return row
