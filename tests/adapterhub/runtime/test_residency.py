"""Adapters at hand: read once, let go in the order of use, never while they are in use."""

import random
from collections import OrderedDict

import pytest
import torch

from adapterhub.errors import NotFiniteError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.residency import ResidentSet
from adapterhub_registry.errors import TombstoneError
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import random_adapter

pytestmark = pytest.mark.usefixtures("base_again")


def adapter(size: int) -> AdapterTensors:
    down, up = torch.zeros(1, size), torch.zeros(size, 1)
    return AdapterTensors({Target("unet", "conv_in"): LowRank(down, up, 1.0, "config")})


def test_what_stays_is_what_was_used_last_and_what_is_in_use() -> None:
    resident, choose = ResidentSet(budget_bytes=1000), random.Random(3)
    sizes = {str(number): choose.randint(1, 60) * 8 for number in range(12)}
    expected: OrderedDict[str, int] = OrderedDict()  # a plain model of the rule
    read: list[str] = []
    for _ in range(500):
        in_use = choose.sample(sorted(sizes), choose.randint(0, 3))
        for digest in in_use:

            def load(digest: str = digest) -> AdapterTensors:
                read.append(digest)
                return adapter(sizes[digest] // 8)

            before = len(read)
            assert resident.get(digest, load).size_bytes == sizes[digest]
            assert (len(read) > before) == (digest not in expected)
            expected[digest] = sizes[digest]
            expected.move_to_end(digest)
        resident.keep(in_use)
        while sum(expected.values()) > 1000 and (free := [d for d in expected if d not in in_use]):
            del expected[free[0]]
        assert resident.size_bytes == sum(expected.values())
    assert resident.metrics.misses == len(read)
    assert resident.metrics.evicted == len(read) - len(expected)


def test_an_adapter_is_read_once_and_goes_when_there_is_no_room(registry: Registry, runtime: Runtime) -> None:
    before = runtime.residency.misses
    for text in ("me/ink", "me/corgi", "me/ink + me/corgi:0.5", None, "me/corgi"):
        runtime.compose(text)
    assert runtime.residency.misses - before <= 2
    with Runtime.load("mini", registry=registry, device="cpu", resident_bytes=0) as small:
        for text in ("me/ink + me/corgi", "me/ink", "me/corgi", "me/corgi:0.5"):
            small.compose(text)
        assert (small.residency.misses, small.residency.evicted) == (3, 2)


def test_what_is_at_hand_is_not_used_once_its_version_is_gone(registry: Registry, runtime: Runtime) -> None:
    path = registry.home / "gone.safetensors"
    path.write_bytes(diffusers_bytes(random_adapter(runtime, 9)))
    registry.add(path, name="me/gone", base="mini")
    runtime.compose("me/gone")
    registry.delete("me/gone@1")
    with pytest.raises(TombstoneError):
        runtime.compose("me/gone@1")
    assert str(runtime.composition) == "me/gone:1.0"


def test_what_cannot_be_used_is_not_kept(registry: Registry, runtime: Runtime) -> None:
    tensors = random_adapter(runtime, 9)
    next(iter(tensors.low_rank().values())).up[0, 0] = float("nan")
    path = registry.home / "nan.safetensors"
    path.write_bytes(diffusers_bytes(tensors))
    registry.add(path, name="me/nan", base="mini")
    for _ in range(2):
        with pytest.raises(NotFiniteError):
            runtime.compose("me/nan")
