"""Rules by rows equal PEFT's on full matrices, and random ones depend on their key alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from torch import Tensor

from adapterhub.lora.algebra import Factors
from adapterhub.lora.elementwise import collect, dare, leading, magnitude_cut, magnitude_prune, ties

WEIGHTS = [0.7, -0.5, 1.3, 0.2]


def normal(m: int, n: int, ranks: list[int], seed: int = 0) -> list[Factors]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator))
        for rank in ranks
    ]


def whole(m: int, n: int, ranks: list[int], seed: int = 0) -> list[Factors]:
    """Factors of integers, whose products are exact in whatever order they are summed."""
    generator = torch.Generator().manual_seed(seed)
    low, high = -9, 10
    return [
        (
            torch.randint(low, high, (m, rank), generator=generator).float(),
            torch.randint(low, high, (rank, n), generator=generator).float(),
        )
        for rank in ranks
    ]


def thirds(m: int) -> int:
    """A block that leaves a rest, so that there are several of different sizes."""
    return max(m // 3, 16)


def full(deltas: list[Factors], block: int | None = None) -> list[Tensor]:
    """The float32 matrices, from the same products of rows."""
    return [torch.cat([part @ down for part in up.split(block or up.shape[0])]) for up, down in deltas]


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize(
    ("m", "n", "ranks"),
    [(640, 640, [4, 8]), (640, 2048, [16, 4, 8]), (1280, 320, [32, 32]), (77, 53, [3, 2, 5, 7]), (5, 3, [2])],
)
def test_ties_equals_peft_bit_for_bit(m: int, n: int, ranks: list[int], density: float) -> None:
    deltas, weights = normal(m, n, ranks), WEIGHTS[: len(ranks)]
    found = collect(ties(deltas, weights, density=density, block_rows=thirds(m)), (m, n))
    expected = merge_utils.ties(full(deltas, thirds(m)), torch.tensor(weights), density)
    assert same_bits(found, expected)


@pytest.mark.filterwarnings("ignore:The density 1")
def test_ties_of_all_entries_equals_peft() -> None:
    deltas = normal(64, 48, [4, 4])
    found = collect(ties(deltas, WEIGHTS[:2], density=1.0), (64, 48))
    assert same_bits(found, merge_utils.ties(full(deltas), torch.tensor(WEIGHTS[:2]), 1))


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 60),
    n=st.integers(1, 60),
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    density=st.floats(0.001, 0.999),
    seed=st.integers(0, 50),
)
def test_trimmed_rules_equal_peft_in_any_shape(
    m: int, n: int, ranks: list[int], density: float, seed: int
) -> None:
    deltas, weights = normal(m, n, ranks, seed), WEIGHTS[: len(ranks)]
    for ours, theirs in ((ties, merge_utils.ties), (magnitude_prune, merge_utils.magnitude_prune)):
        found = collect(ours(deltas, weights, density=density), (m, n))
        assert same_bits(found, theirs(full(deltas), torch.tensor(weights), density))


def test_entries_as_large_as_the_smallest_one_kept_are_all_kept() -> None:
    level = (torch.ones(4, 1), torch.tensor([[2.0, -2.0, 2.0]]))
    found = collect(magnitude_prune([level], [1.0], density=0.25), (4, 3))
    torch.testing.assert_close(found, level[0] @ level[1])


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 30), n=st.integers(1, 30), seed=st.integers(0, 99), data=st.data())
def test_the_cut_is_the_magnitude_of_the_kth_largest_entry(
    m: int, n: int, seed: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, m * n))
    for make in (normal, whole):
        (pair,) = make(m, n, [3], seed)
        expected = (pair[0] @ pair[1]).abs().flatten().sort(descending=True).values[keep - 1]
        assert magnitude_cut(*pair, keep) == float(expected)
        if make is whole:
            assert magnitude_cut(*pair, keep, block_rows=4) == float(expected)


def test_nothing_is_kept_of_a_matrix_too_small_for_the_density() -> None:
    (pair,) = normal(3, 3, [1])
    assert magnitude_cut(*pair, 0) == float("inf")
    assert not collect(ties([pair], [1.0], density=0.1), (3, 3)).any()


@pytest.mark.parametrize("elect", [False, True])
def test_a_dare_mask_depends_on_seed_adapter_layer_and_row_alone(elect: bool) -> None:
    m, n = 70, 45
    deltas = whole(m, n, [3, 5])

    def merged(
        places: list[int], *, seed: int = 7, layer: str = "unet.a", block: int | None = None
    ) -> Tensor:
        chosen, names = [deltas[i] for i in places], ["me/ink@1", "me/dog@3"]
        return collect(
            dare(
                chosen,
                [WEIGHTS[i] for i in places],
                drop=0.3,
                seed=seed,
                names=[names[i] for i in places],
                layer=layer,
                elect=elect,
                block_rows=block,
            ),
            (m, n),
        )

    once = merged([0, 1])
    for block in (1, 7, 16, 33, 70, 1000):
        assert same_bits(merged([0, 1], block=block), once)
    assert same_bits(merged([1, 0]), once)
    if not elect:
        torch.testing.assert_close(merged([0]) + merged([1]), once)
    assert not torch.equal(merged([0, 1], seed=8), once)
    assert not torch.equal(merged([0, 1], layer="unet.b"), once)
    alone = collect(
        dare(
            [(deltas[0][0][:20], deltas[0][1])], [1.0], drop=0.3, seed=7, names=["me/ink@1"], layer="unet.a"
        ),
        (20, n),
    )
    torch.testing.assert_close(alone * WEIGHTS[0], merged([0])[:20])


@pytest.mark.parametrize("drop", [0.25, 0.9])
def test_dare_drops_the_asked_part_and_its_mean_is_the_weighted_sum(drop: float) -> None:
    m, n, count = 24, 40, 400
    deltas, weights = normal(m, n, [4, 4]), [0.8, -0.6]
    total = torch.zeros(m, n, dtype=torch.float64)
    kept = 0
    for seed in range(count):
        options = {"drop": drop, "seed": seed, "names": ["a", "b"], "layer": "x"}
        total += collect(dare(deltas, weights, **options), (m, n)).double()
        kept += int(collect(dare(deltas[:1], weights[:1], **options), (m, n)).count_nonzero())
    expected = sum(weight * delta.double() for weight, delta in zip(weights, full(deltas), strict=True))
    # The variance of one entry over seeds is sum_i (w_i D_i)^2 p / (1 - p).
    spread = sum((w * d.double()) ** 2 for w, d in zip(weights, full(deltas), strict=True))
    error = (total / count - expected) / (spread * drop / (1 - drop) / count).sqrt()
    assert error.square().mean().sqrt() == pytest.approx(1.0, abs=0.1)
    assert kept / (m * n * count) == pytest.approx(1 - drop, abs=0.003)


def test_dare_without_dropping_is_the_weighted_sum() -> None:
    deltas, weights = normal(30, 20, [4, 4]), [0.8, -0.6]
    found = collect(dare(deltas, weights, drop=0.0, seed=0, names=["a", "b"], layer="x"), (30, 20))
    assert same_bits(found, merge_utils.task_arithmetic(full(deltas), torch.tensor(weights)))


def test_dare_ties_equals_peft_on_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    deltas, weights, drop = normal(96, 80, [4, 6, 2]), [0.8, -0.6, 1.5], 0.4

    def thinned(place: int) -> Tensor:
        options = {"drop": drop, "seed": 3, "names": [str(place)], "layer": "x"}
        return collect(dare([deltas[place]], [1.0], **options), (96, 80))

    found = collect(
        dare(deltas, weights, drop=drop, seed=3, names=["0", "1", "2"], layer="x", elect=True), (96, 80)
    )
    monkeypatch.setattr(merge_utils, "prune", lambda tensor, *_args, **_kwargs: tensor)
    expected = merge_utils.dare_ties([thinned(i) for i in range(3)], torch.tensor(weights), 1 - drop)
    assert same_bits(found, expected)


@pytest.mark.parametrize("shape", [(400, 300), (300, 500), (90, 80)])
def test_the_leading_part_of_a_full_matrix_is_near_the_best(shape: tuple[int, int]) -> None:
    matrix = collect(ties(normal(*shape, [8, 8]), [1.0, 1.0], density=0.2), shape)
    exact = torch.linalg.svdvals(matrix.double())
    found = leading(matrix, 24)
    best = exact[24:].square().sum().sqrt()
    error = torch.linalg.norm(matrix.double() - (found.u * found.s @ found.v).double())
    assert best * (1 - 1e-6) <= error <= best * 1.002
    assert torch.equal(found.s, leading(matrix, 24).s)
