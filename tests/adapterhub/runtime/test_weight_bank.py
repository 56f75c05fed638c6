"""Fused weights come from pristine ones, and the base comes back bit for bit."""

import random

import pytest
import torch
from torch import Tensor, nn

from adapterhub.errors import SettingError
from adapterhub.runtime.weight_bank import POLICIES, SCRATCH, Delta, WeightBank

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def small_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Conv2d(3, 5, 3), nn.LayerNorm(6)).to(dtype)


def constant(value: Tensor) -> Delta:
    return Delta(id(value), lambda _: value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_base_comes_back_bit_for_bit_after_many_switches(dtype: torch.dtype) -> None:
    model = small_model(dtype)
    pristine = {name: p.detach().clone() for name, p in model.named_parameters()}
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    bank = WeightBank({"unet": model})
    choose = random.Random(1)
    shifts = {name: [torch.randn(p.shape) for _ in range(3)] for name, p in pristine.items()}
    for _ in range(200):
        names = choose.sample(sorted(pristine), choose.randint(0, len(pristine)))
        deltas = {name: choose.choice(shifts[name]) for name in names}
        bank.fuse({f"unet.{name}": constant(delta) for name, delta in deltas.items()})
        for name, parameter in model.named_parameters():
            # The state depends on the pristine weights and this composition alone: one rounding, no history.
            expected = pristine[name]
            if name in deltas:
                expected = (pristine[name].float() + deltas[name]).to(dtype)
            assert torch.equal(parameter, expected)
    bank.restore()
    assert bank.fused == frozenset()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, pristine[name])
        assert parameter.data_ptr() == addresses[name]


def test_a_failure_on_the_way_leaves_the_base() -> None:
    model = small_model(torch.float16)
    pristine = [p.detach().clone() for p in model.parameters()]
    bank = WeightBank({"unet": model})
    bank.fuse({"unet.0.weight": constant(torch.ones(8, 12))})

    def fail(_: Tensor) -> Tensor:
        raise MemoryError("no more")

    with pytest.raises(MemoryError):
        bank.fuse({"unet.1.weight": constant(torch.ones(5, 3, 3, 3)), "unet.0.weight": Delta("fail", fail)})
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), pristine, strict=True))
    assert bank.fused == frozenset()


def test_an_unknown_parameter_is_refused_before_anything_changes() -> None:
    model = small_model(torch.float32)
    bank = WeightBank({"unet": model})
    bank.fuse({"unet.0.weight": constant(torch.ones(8, 12))})
    fused = model[0].weight.detach().clone()
    with pytest.raises(KeyError, match=r"unet\.9\.weight"):
        bank.fuse({"unet.0.bias": constant(torch.ones(8)), "unet.9.weight": constant(torch.ones(1))})
    assert torch.equal(model[0].weight, fused)


def test_only_touched_parameters_are_copied() -> None:
    bank = WeightBank({"unet": small_model(torch.float32)})
    assert bank.size_bytes == 0
    bank.fuse({"unet.0.weight": constant(torch.ones(8, 12))})
    assert bank.size_bytes == 8 * 12 * 4


def test_a_parameter_whose_delta_stays_is_written_again_only_if_somebody_else_wrote_to_it() -> None:
    model = small_model(torch.float32)
    bank = WeightBank({"unet": model})
    one, two = constant(torch.ones(8, 12)), constant(torch.ones(5, 3, 3, 3))
    bank.fuse({"unet.0.weight": one, "unet.1.weight": two})
    expected = [p.detach().clone() for p in model.parameters()]
    versions = [p._version for p in model.parameters()]
    bank.fuse({"unet.1.weight": two, "unet.0.weight": one})
    assert [p._version for p in model.parameters()] == versions
    with torch.no_grad():
        model[0].weight.zero_()
    bank.fuse({"unet.0.weight": one, "unet.1.weight": two})
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))
    bank.fuse({"unet.1.weight": two})
    assert model[1].weight._version == versions[2]
    assert torch.equal(model[0].weight, small_model(torch.float32)[0].weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_product_is_written_in_parts_with_one_rounding(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    conv = nn.Conv2d(110, 1203, 3).to(dtype).to(memory_format=layout)  # more than fits into the scratch
    weight = conv.weight
    assert weight.numel() > 2 * SCRATCH["cpu"]
    pristine = weight.detach().clone()
    up, down = torch.randn(1203, 5), torch.randn(5, 990)
    bank = WeightBank({"unet": conv})
    bank.fuse({"unet.weight": Delta(1, lambda _: (up @ down).reshape(weight.shape), lambda: (up, down))})
    exact = pristine.double() + (up.double() @ down.double()).reshape(weight.shape)
    error = (weight.double() - exact).abs()
    assert (error <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()
    assert weight.is_contiguous(memory_format=layout)
    bank.restore()
    assert torch.equal(weight, pristine)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_wherever_pristine_copies_lie_the_bits_are_the_same(dtype: torch.dtype, policy: str) -> None:
    model, plain = small_model(dtype), small_model(dtype)
    pristine = {name: p.detach().clone() for name, p in model.named_parameters()}
    bank, reference = WeightBank({"unet": model}, policy=policy), WeightBank({"unet": plain})
    up, down = torch.randn(8, 2), torch.randn(2, 12)
    deltas = {
        "unet.0.weight": Delta("a", lambda _: up @ down, lambda: (up, down)),
        "unet.1.weight": constant(torch.randn(5, 3, 3, 3)),
        "unet.2.bias": constant(torch.randn(6)),
    }
    for one in (bank, reference):
        one.fuse(deltas)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    bank.restore()
    assert all(torch.equal(p, pristine[name]) for name, p in model.named_parameters())
    assert bank.size_bytes == reference.size_bytes


def test_an_unknown_place_for_pristine_copies_is_refused() -> None:
    with pytest.raises(SettingError, match="it must be one of gpu, pinned, mmap"):
        WeightBank({"unet": small_model(torch.float32)}, policy="disk")
