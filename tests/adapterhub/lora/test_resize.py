"""Resizing is the optimal cut, and scaling and splitting lose nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapterhub.errors import AlgebraSettingError, NativeLayersError, SettingError
from adapterhub.lora.resize import Bounds, compress_matrix, resize, scale, split
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target

LINEAR = Target("unet", "down_blocks.1.attentions.0.proj_in")
CONV = Target("unet", "up_blocks.2.resnets.0.conv1")
TEXT = Target("text_encoder", "text_model.encoder.layers.3.mlp.fc1")
NORM = Target("unet", "mid_block.resnets.0.norm1")


def layer(shape: tuple[int, ...], rank: int, seed: int = 0, alpha: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    tail = [1] * (len(shape) - 2)
    down = torch.randn(rank, *shape[1:], generator=generator)
    decay = 0.7 ** torch.arange(rank).reshape(1, rank, *tail)
    up = torch.randn(shape[0], rank, *tail, generator=generator) * decay
    return LowRank(down, up, scale=alpha / rank, origin="alpha")


def mixed() -> AdapterTensors:
    return AdapterTensors(
        {
            LINEAR: layer((40, 30), 8, 1, alpha=4),
            CONV: layer((20, 6, 3, 3), 8, 2),
            TEXT: layer((24, 12), 3, 3),
            NORM: Dense(torch.arange(6.0)),
        },
        metadata={"title": "ink"},
        biases={LINEAR: torch.ones(40)},
    )


def full(one: LowRank | Dense) -> Tensor:
    if isinstance(one, Dense):
        return one.difference.double()
    return (one.up.flatten(1).double() @ one.down.flatten(1).double()).reshape(one.shape) * one.scale


def spectrum(one: LowRank) -> Tensor:
    return torch.linalg.svdvals(full(one).flatten(1))


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(2, 40),
    n=st.integers(2, 40),
    old=st.integers(1, 24),
    new=st.integers(1, 24),
    seed=st.integers(0, 50),
)
def test_a_fixed_rank_has_the_least_possible_error(m: int, n: int, old: int, new: int, seed: int) -> None:
    one = layer((m, n), old, seed, alpha=3)
    done = resize(AdapterTensors({LINEAR: one}), rank=new)
    found, cut = done.adapter.layers[LINEAR], done.layers[LINEAR]
    s = spectrum(one)
    assert found.rank == cut.rank == (min(new, old, m, n) if new < old else old)
    error = torch.linalg.norm(full(found) - full(one)) / torch.linalg.norm(s)
    least = torch.linalg.norm(s[new:]) / torch.linalg.norm(s)
    assert error == pytest.approx(float(least), abs=2e-6)
    assert cut.error == pytest.approx(float(least), abs=2e-6)
    assert cut.kept_energy == pytest.approx(1 - float(least) ** 2, abs=2e-6)


def test_each_bound_decides_by_the_spectrum() -> None:
    one = layer((40, 30), 8)
    s = spectrum(one)[:8]
    energy = s.square().cumsum(0) / s.square().sum()

    def rank(**bounds: float) -> int:
        return resize(AdapterTensors({LINEAR: one}), **bounds).layers[LINEAR].rank

    for limit in (1.5, 3.0, 8.0):
        assert rank(ratio=limit) == int((s > s[0] / limit).sum())
    for part in (0.5, 0.9, 0.99):
        assert rank(energy=part) == int((energy < part).sum()) + 1
        assert rank(frobenius=part) == int((energy.sqrt() < part).sum()) + 1
    assert rank(energy=0.99, rank=2) == 2
    assert rank(energy=0.5, rank=7) == rank(energy=0.5)


def test_a_convolution_keeps_its_shape() -> None:
    done = resize(mixed(), rank=2)
    found = done.adapter.layers[CONV]
    assert isinstance(found, LowRank)
    assert found.down.shape == (2, 6, 3, 3)
    assert found.up.shape == (20, 2, 1, 1)


def test_what_does_not_shrink_stays_as_it_is() -> None:
    adapter = mixed()
    done = resize(adapter, rank=4)
    for target in (TEXT, NORM):
        assert done.adapter.layers[target] is adapter.layers[target]
    assert done.layers[TEXT].rank == 3
    assert set(done.layers) == {LINEAR, CONV, TEXT}
    assert done.adapter.metadata == adapter.metadata
    assert done.adapter.biases is adapter.biases
    assert resize(adapter, energy=1.0).adapter.layers[TEXT] is adapter.layers[TEXT]


def test_a_layer_of_zeros_gets_rank_one() -> None:
    one = LowRank(torch.ones(4, 6), torch.zeros(5, 4))
    for bounds in ({"ratio": 2.0}, {"energy": 0.9}, {"rank": 1}):
        done = resize(AdapterTensors({LINEAR: one}), **bounds)
        assert (done.layers[LINEAR].rank, done.layers[LINEAR].error) == (1, 0.0)
        assert not full(done.adapter.layers[LINEAR]).any()


@pytest.mark.parametrize(
    ("bounds", "setting"),
    [
        ({}, "the bound"),
        ({"rank": 0}, "rank"),
        ({"ratio": 0.5}, "ratio"),
        ({"ratio": math.nan}, "ratio"),
        ({"frobenius": 0.0}, "frobenius"),
        ({"energy": 1.1}, "energy"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(bounds: dict[str, float], setting: str) -> None:
    with pytest.raises(AlgebraSettingError) as caught:
        resize(mixed(), **bounds)
    assert caught.value.setting == setting
    assert caught.value.code == "algebra-setting-invalid"
    assert isinstance(caught.value, SettingError)


@pytest.mark.parametrize("bounds", [Bounds(rank=3), Bounds(energy=0.6), Bounds(rank=3, energy=0.999)])
def test_the_cut_of_a_full_matrix_is_reported_as_it_is(bounds: Bounds) -> None:
    matrix = torch.randn(60, 50, generator=torch.Generator().manual_seed(1))
    found, cut = compress_matrix(matrix, (60, 50), bounds)
    s = torch.linalg.svdvals(matrix.double())
    error = torch.linalg.norm(full(found) - matrix.double()) / torch.linalg.norm(s)
    assert cut.rank == found.rank
    assert cut.error == pytest.approx(float(error), rel=1e-5)
    assert cut.error == pytest.approx(
        float(torch.linalg.norm(s[cut.rank :]) / torch.linalg.norm(s)), rel=2e-3
    )
    if bounds.energy and not bounds.rank:
        assert cut.kept_energy >= 0.6 > float(s[: cut.rank - 1].square().sum() / s.square().sum())


def test_scaling_multiplies_every_delta_and_rounds_nothing() -> None:
    adapter = mixed()
    scaled = scale(adapter, -0.3)
    for target, one in adapter.layers.items():
        assert isinstance(one, LowRank | Dense)
        found = scaled.layers[target]
        assert isinstance(found, LowRank | Dense)
        torch.testing.assert_close(full(found), full(one) * -0.3, rtol=1e-6, atol=1e-7)
        if isinstance(one, LowRank) and isinstance(found, LowRank):
            assert found.up is one.up
            assert found.down is one.down
    assert torch.equal(scaled.biases[LINEAR], adapter.biases[LINEAR] * -0.3)


def test_scaling_of_other_algorithms() -> None:
    hada = {
        f"hada_w{i}_{side}": torch.randn(3, 2) if side == "a" else torch.randn(2, 4)
        for i in "12"
        for side in "ab"
    }
    loha = Native("loha", hada, 0.5, "alpha")
    scaled = scale(AdapterTensors({LINEAR: loha}), 3.0).layers[LINEAR]
    torch.testing.assert_close(scaled.delta(), loha.delta() * 3.0)
    oft = Native("oft", {"oft_blocks": torch.zeros(2, 3, 3)}, 1.0, "alpha")
    with pytest.raises(NativeLayersError) as caught:
        scale(AdapterTensors({LINEAR: loha, CONV: oft}), 3.0)
    assert caught.value.targets == [str(CONV)]
    assert caught.value.algorithms == ["oft"]
    with pytest.raises(AlgebraSettingError):
        scale(mixed(), math.inf)


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("component", ["unet", "text_encoder"]),
        ("block", ["down_blocks.1", "up_blocks.2", "text_encoder.layers.3", "mid_block"]),
    ],
)
def test_parts_add_up_to_the_whole(by: str, names: list[str]) -> None:
    adapter = mixed()
    parts = split(adapter, by=by)
    assert list(parts) == names
    together = [item for part in parts.values() for item in part.layers.items()]
    assert len(together) == len(adapter.layers)
    assert all(adapter.layers[target] is one for target, one in together)
    assert sum(len(part.biases) for part in parts.values()) == 1
    assert all(part.metadata == adapter.metadata for part in parts.values())
    with pytest.raises(AlgebraSettingError):
        split(adapter, by="layer")
