"""Adapters of one tensor, whose size and number are chosen."""

import torch

from adapterhub.errors import NotFiniteError
from adapterhub.lora.weights import AdapterTensors, Dense, Target
from adapterhub.runtime.leases import Lease

TARGET = Target("unet", "conv_in")
UNIT = 64


def adapter(units: int, value: float = 1.0) -> AdapterTensors:
    """An adapter of `units` x 64 bytes that holds one number again and again."""
    return AdapterTensors({TARGET: Dense(torch.full((units * UNIT // 4,), value))})


def tensor_of(lease: Lease) -> torch.Tensor:
    return lease.tensors.layers[TARGET].tensors["diff"]


def value_of(lease: Lease) -> float:
    low, high = tensor_of(lease).aminmax()
    assert low == high
    return float(low)


def unreadable() -> AdapterTensors:
    raise NotFiniteError("me/nan", ["unet.conv_in"])
