"""The QR core gives what full matrices give, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapterhub.lora.algebra import (
    Factors,
    balanced,
    decompose,
    from_factors,
    gram,
    rank_for_energy,
    stack,
    truncation_error,
)

SIZES = st.integers(1, 40)


def factors(m: int, n: int, rank: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator)


def full(pair: Factors) -> Tensor:
    return pair[0].double() @ pair[1].double()


@settings(max_examples=60, deadline=None)
@given(m=SIZES, n=SIZES, rank=st.integers(1, 50), seed=st.integers(0, 99))
def test_the_small_svd_is_the_svd_of_the_product(m: int, n: int, rank: int, seed: int) -> None:
    pair = factors(m, n, rank, seed)
    found, delta = decompose(*pair), full(pair)
    expected = torch.linalg.svdvals(delta)
    assert min(m, n, rank) <= len(found.s) <= min(m, n)
    tolerance = float(2e-6 * expected[0])
    torch.testing.assert_close(found.s.double(), expected[: len(found.s)], rtol=0, atol=tolerance)
    back = (found.u * found.s @ found.v).double()
    assert torch.linalg.norm(back - delta) <= 4e-6 * torch.linalg.norm(delta)
    identity = torch.eye(len(found.s))
    for square in (found.u.t() @ found.u, found.v @ found.v.t()):
        torch.testing.assert_close(square, identity, rtol=0, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(m=SIZES, n=SIZES, ranks=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_gram_and_stack_equal_the_full_matrices(m: int, n: int, ranks: list[int], seed: int) -> None:
    pairs = [factors(m, n, rank, seed + i) for i, rank in enumerate(ranks)]
    flat = torch.stack([full(pair).flatten() for pair in pairs])
    expected = flat @ flat.t()
    tolerance = float(2e-6 * expected.diagonal().max())
    torch.testing.assert_close(gram(pairs), expected, rtol=0, atol=tolerance)
    assert gram(pairs).dtype == torch.float64
    torch.testing.assert_close(full(stack(pairs)), flat.sum(dim=0).reshape(m, n))


def test_the_least_rank_that_keeps_an_energy() -> None:
    s = torch.tensor([3.0, 2.0, 1.0, 1.0])  # squares 9, 4, 1, 1 of 15
    assert [rank_for_energy(s, part) for part in (0.1, 0.6, 0.61, 13 / 15, 0.9, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert rank_for_energy(torch.zeros(3), 0.9) == 1


def test_the_error_of_a_cut_is_the_norm_of_the_rest() -> None:
    s = torch.tensor([3.0, 2.0, 1.0])
    assert truncation_error(s, 1) == pytest.approx(math.sqrt(5 / 14))
    assert truncation_error(s, 3) == 0.0
    assert truncation_error(torch.zeros(2), 1) == 0.0


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1, 1), (6, 2, 2, 2)])
def test_layers_have_the_shape_of_the_weight_and_scale_one(shape: tuple[int, ...]) -> None:
    pair = factors(6, 8, 3, 0)
    for layer in (from_factors(*pair, shape), balanced(decompose(*pair), shape)):
        assert layer.shape == shape
        assert (layer.rank, layer.scale) == (3, 1.0)
        torch.testing.assert_close(layer.delta().double(), full(pair).reshape(shape), rtol=0, atol=1e-5)
    layer = balanced(decompose(*pair), shape, dtype=torch.float16)
    assert (layer.up.dtype, layer.down.dtype) == (torch.float16, torch.float16)
    up, down = layer.factors()
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), rtol=1e-2, atol=0)
