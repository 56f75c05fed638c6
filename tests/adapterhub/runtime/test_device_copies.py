"""Copies of adapters in one buffer."""

from dataclasses import replace

import pytest
import torch

from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target
from adapterhub.runtime.device_copies import DeviceCopier
from adapterhub.runtime.residency import ResidentSet

CPU = torch.device("cpu")


def everything() -> AdapterTensors:
    """An adapter with each kind of update, of tensors whose sizes and dtypes do not line up."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return AdapterTensors(
        layers={
            Target("unet", "conv_in"): LowRank(
                draw(3, 4, 3, 3, dtype=torch.float16), draw(5, 3).t().t(), 0.5
            ),
            Target("unet", "conv_out"): LowRank(draw(7, 3).t(), draw(5, 3, dtype=torch.bfloat16)),
            Target("unet", "conv_norm_out"): Dense(draw(1, dtype=torch.float64)),
            Target("unet", "add_embedding.linear_1"): Native(
                "ia3",
                {"ia3": draw(5, dtype=torch.float8_e4m3fn), "on_input": torch.tensor(True)},
                1.0,
                "rank",
            ),
        },
        metadata={"ss_title": "all"},
        biases={Target("unet", "conv_in"): draw(5)},
        extras={"emb_params": draw(2, 3), "none": torch.empty(0, 4)},
    )


def all_equal(one: AdapterTensors, other: AdapterTensors) -> bool:
    pairs = [*zip(one.all_tensors(), other.all_tensors(), strict=True)]
    return all(
        left.shape == right.shape and left.dtype == right.dtype and torch.equal(left.float(), right.float())
        for left, right in pairs
    )


@pytest.mark.parametrize("is_staged", [True, False])
def test_a_copy_is_equal_and_lies_in_one_buffer(is_staged: bool) -> None:
    source = everything()
    copier = DeviceCopier(CPU)
    staged = copier.stage(source)
    copy = copier.send(staged if is_staged else replace(staged, tensors=source, buffer=None))
    assert all_equal(copy.tensors, source)
    assert copy.tensors.layers.keys() == source.layers.keys()
    assert copy.tensors.metadata == source.metadata
    assert copy.tensors.algorithms == source.algorithms
    assert [layer.scale for layer in copy.tensors.layers.values()] == [0.5, 1.0, 1.0, 1.0]
    assert copy.buffer is not None
    assert copy.buffer.numel() == copier.size_of(source) == copier.staged_size_of(source)
    begin, end = copy.buffer.data_ptr(), copy.buffer.data_ptr() + copy.buffer.numel()
    places = [part for part in copy.tensors.all_tensors() if part.numel() and part.dim()]
    assert all(begin <= part.data_ptr() < end and part.data_ptr() % 16 == 0 for part in places)
    for part in places:
        part.zero_()
    assert all_equal(source, everything())


def test_a_copy_on_a_device_is_all_there_but_for_single_numbers() -> None:
    """The device `meta` keeps no numbers: what is on it did not stay on the host."""
    resident = ResidentSet(device=torch.device("meta"))
    with resident.lease("a", everything) as lease:
        devices = {part.device.type for part in lease.tensors.all_tensors() if part.dim()}
        layer = lease.tensors.layers[Target("unet", "add_embedding.linear_1")]
        assert (devices, bool(layer.tensors["on_input"])) == ({"meta"}, True)
    assert resident.metrics.device_bytes == DeviceCopier(CPU).size_of(everything())


def test_dtypes_that_a_device_does_not_have_become_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "adapterhub.runtime.device_copies.LACKING", {"cpu": {torch.float64, torch.float8_e4m3fn}}
    )
    copier, source = DeviceCopier(CPU), everything()
    found = copier.send(copier.stage(source)).tensors
    for part, before in zip(found.all_tensors(), source.all_tensors(), strict=True):
        assert part.dtype == (
            before.dtype if before.dtype.itemsize in (2, 4) or not before.dim() else torch.float32
        )
        assert torch.equal(part.float(), before.float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_cuda_the_consumer_waits_for_the_transfer_and_memory_is_not_given_away_early() -> None:
    """Transfers, kernels that read them late, and evictions, many times over."""
    device = torch.device("cuda")
    count, size = 8, 1 << 22
    resident = ResidentSet(1 << 30, 2 * size * 4, device=device)

    def adapter(value: float) -> AdapterTensors:
        return AdapterTensors({Target("unet", "conv_in"): Dense(torch.full((size,), value))})

    sums: list[tuple[int, torch.Tensor]] = []
    for step in range(10 * count):
        number = step % count
        with resident.lease(str(number), lambda number=number: adapter(float(number))) as lease:
            part = lease.tensors.layers[Target("unet", "conv_in")].tensors["diff"]
            assert part.is_cuda
            torch.cuda._sleep(1_000_000)  # the kernel below runs after the release
            sums.append((number, torch.stack([part.min(), part.max()])))
        assert resident.metrics.device_bytes <= 2 * size * 4
    assert all(found.tolist() == [number, number] for number, found in sums)
    assert resident.metrics.reads == count
