"""Comparisons of adapters, against full deltas in float64."""

import json
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapterhub.errors import SettingError
from adapterhub.lora.compare import compare, cosines_of, norm_of, suggest_weights, truncation_forecast
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target, Update

Q = Target("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q")
K = Target("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k")
CONV = Target("unet", "mid_block.resnets.0.conv1")
SHAPES = {Q: (24, 16), K: (12, 16), CONV: (10, 4, 3, 3)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(target: Target, rank: int = 4, *, seed: int = 0, scale: float = 1.0) -> LowRank:
    out, *rest = SHAPES[target]
    ones = [1] * (len(rest) - 1)
    return LowRank(random(rank, *rest, seed=seed), random(out, rank, *ones, seed=seed + 500), scale, "alpha")


def loha(target: Target, seed: int) -> Native:
    out, width = SHAPES[target]
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    shapes = ((out, 2), (2, width)) * 2
    tensors = {
        name: random(*shape, seed=seed + n) for n, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }
    return Native("loha", tensors, 0.5, "alpha")


def whole(seed: int = 0, rank: int = 4) -> AdapterTensors:
    return AdapterTensors({target: lora(target, rank, seed=seed + n) for n, target in enumerate(SHAPES)})


def flat(adapter: AdapterTensors, targets: Sequence[Target] = tuple(SHAPES)) -> Tensor:
    """All deltas as one vector in float64, 0 where it has none."""
    parts: list[Tensor] = []
    for target in targets:
        layer = adapter.layers.get(target)
        if isinstance(layer, LowRank):
            up, down = layer.up.double().flatten(1), layer.down.double().flatten(1)
            parts.append((up @ down * layer.scale).flatten())
        else:
            shape = SHAPES[target]
            parts.append(
                torch.zeros(shape).double().flatten() if layer is None else layer.delta().double().flatten()
            )
    return torch.cat(parts)


def dense_gram(adapters: Mapping[str, AdapterTensors], targets: Sequence[Target] = tuple(SHAPES)) -> Tensor:
    rows = torch.stack([flat(adapter, targets) for adapter in adapters.values()])
    return rows @ rows.t()


def close(found: Tensor | None, expected: Tensor, size: float = 1.0) -> bool:
    return found is not None and bool(torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * size))


UPDATES = {
    Q: st.one_of(
        st.builds(lora, st.just(Q), st.integers(1, 20), seed=st.integers(0, 99), scale=st.floats(0.1, 2)),
        st.builds(lambda seed: Dense(random(*SHAPES[Q], seed=seed)), st.integers(0, 99)),
        st.builds(loha, st.just(Q), st.integers(0, 99)),
    ),
    K: st.builds(lora, st.just(K), st.integers(1, 9), seed=st.integers(0, 99), scale=st.floats(0.1, 2)),
    CONV: st.builds(lora, st.just(CONV), st.integers(1, 9), seed=st.integers(0, 99)),
}
ADAPTERS = st.lists(
    st.fixed_dictionaries({Q: UPDATES[Q]}, optional={K: UPDATES[K], CONV: UPDATES[CONV]}).map(AdapterTensors),
    min_size=1,
    max_size=4,
).map(lambda found: {f"a{number}": adapter for number, adapter in enumerate(found)})


@settings(max_examples=60, deadline=None)
@given(adapters=ADAPTERS)
def test_inner_products_are_those_of_the_full_deltas(adapters: dict[str, AdapterTensors]) -> None:
    found = compare(adapters, overlaps=False, sign_rows=0)
    expected = dense_gram(adapters)
    size = float(expected.diagonal().max())
    assert found.names == tuple(adapters)
    assert close(found.gram, expected, size)
    assert close(found.norms, expected.diagonal().sqrt(), math.sqrt(size))
    norms = expected.diagonal().sqrt()
    assert close(found.cosines, expected / norms[:, None] / norms, 10)
    assert close(found.blocks["down_blocks.1"], dense_gram(adapters, [Q, K]), size)
    assert close(sum(found.blocks.values(), torch.zeros(1)), expected, size)
    weights = {name: 0.3 + number for number, name in enumerate(adapters)}
    vector = sum((weight * flat(adapters[name]) for name, weight in weights.items()), torch.zeros(1))
    assert found.predicted_norm(weights) == pytest.approx(float(vector.norm()), rel=1e-4)


def test_a_block_that_one_adapter_does_not_change_has_cosine_0() -> None:
    adapters = {"a": whole(), "b": AdapterTensors({Q: lora(Q, seed=7)})}
    found = compare(adapters)
    assert list(found.block_cosines) == ["down_blocks.1", "mid_block"]
    assert found.block_cosines["mid_block"].tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]


def orthonormal(matrix: Tensor) -> Tensor:
    u, s, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, s > 1e-6 * s[0]]


def dense_overlap(one: Tensor, other: Tensor) -> float:
    first, second = orthonormal(one), orthonormal(other)
    return float((first.t() @ second).square().sum()) / min(first.shape[1], second.shape[1])


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=st.integers(0, 99), repeats=st.booleans()
)
def test_overlaps_are_means_over_the_shared_layers(ranks: tuple[int, int], seed: int, repeats: bool) -> None:
    one, other = whole(seed, ranks[0]).low_rank(), whole(seed + 50, ranks[1]).low_rank()
    if repeats:
        one = {
            target: LowRank(torch.cat([la.down, la.down[:1]]), torch.cat([la.up, la.up[:, :1]], 1))
            for target, la in one.items()
        }
    del other[K]
    found = compare({"one": AdapterTensors(one), "other": AdapterTensors(other)}, sign_rows=0)
    shared = [Q, CONV]
    outputs = [dense_overlap(one[t].up.flatten(1), other[t].up.flatten(1)) for t in shared]
    inputs = [dense_overlap(one[t].down.flatten(1).t(), other[t].down.flatten(1).t()) for t in shared]
    assert found.output_overlap is not None
    assert found.input_overlap is not None
    assert float(found.output_overlap[0, 1]) == pytest.approx(sum(outputs) / 2, abs=1e-4)
    assert float(found.input_overlap[0, 1]) == pytest.approx(sum(inputs) / 2, abs=1e-4)
    assert found.output_overlap.diagonal().tolist() == pytest.approx([1.0, 1.0], abs=1e-4)


def test_an_untrained_layer_overlaps_with_nothing() -> None:
    zero = LowRank(random(4, 16), torch.zeros(24, 4))
    found = compare({"a": AdapterTensors({Q: lora(Q)}), "zero": AdapterTensors({Q: zero})})
    assert found.output_overlap is not None
    assert found.output_overlap.tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]
    assert found.cosines.tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]
    assert found.weights == {"a": pytest.approx(1.0), "zero": 0.0}


def test_sign_conflict_of_all_rows_is_the_share_of_opposite_entries() -> None:
    adapters = {"a": whole(1), "b": whole(2), "dense": AdapterTensors({Q: Dense(random(24, 16, seed=9))})}
    found = compare(adapters, overlaps=False, sign_rows=24).sign_conflict
    assert found is not None
    rows = [flat(adapter).sign() for adapter in adapters.values()]
    for i in range(3):
        for j in range(3):
            both = (rows[i] != 0) & (rows[j] != 0)
            expected = float((rows[i] * rows[j] < 0)[both].double().mean())
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-9)


def test_sampled_signs_do_not_depend_on_what_else_is_compared() -> None:
    a, b, opposite = whole(1), whole(2), whole(1)
    opposite = AdapterTensors({t: LowRank(la.down, -la.up) for t, la in opposite.low_rank().items()})
    three = compare({"opposite": opposite, "a": a, "b": b}, overlaps=False, sign_rows=3).sign_conflict
    two = compare({"a": a, "b": b}, overlaps=False, sign_rows=3).sign_conflict
    assert three is not None
    assert two is not None
    assert float(three[0, 1]) == 1.0
    assert float(three[1, 2]) == float(two[0, 1]) == float(two[1, 0]) == 1 - float(three[0, 2])
    assert 0 < float(two[0, 1]) < 1


def test_what_was_not_asked_for_is_not_measured() -> None:
    found = compare({"a": whole()}, overlaps=False, sign_rows=0)
    assert (found.output_overlap, found.input_overlap, found.sign_conflict) == (None, None, None)
    assert found.as_json()["sign_conflict"] is None


def test_duplicates_are_found_whatever_their_strength_and_dtype() -> None:
    a = whole(1)
    half = AdapterTensors(
        {t: LowRank(la.down.half(), la.up.half(), 0.3, "alpha") for t, la in a.low_rank().items()}
    )
    found = compare({"a": a, "b": whole(2), "half": half}, overlaps=False, sign_rows=0)
    assert found.duplicates == (("a", "half"),)


def deltas(count: int, seed: int, common: float) -> Tensor:
    """Rows of norms 1 to 2 with a common part: their cosines are about common^2 / (1 + common^2)."""
    rows = random(count, 4000, seed=seed).double() + common * random(4000, seed=seed + 1).double()
    sizes = 1 + torch.rand(count, generator=torch.Generator().manual_seed(seed)).double()
    return rows / rows.norm(dim=1, keepdim=True) * sizes[:, None]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 999), common=st.floats(0, 3))
def test_suggested_weights_let_every_adapter_be_heard_equally(count: int, seed: int, common: float) -> None:
    rows = deltas(count, seed, common)
    weights = suggest_weights(rows @ rows.t())
    merged = weights @ rows
    mean = float(rows.norm(dim=1).mean())
    assert float(weights.min()) >= 0
    assert float(weights.max()) <= 1
    assert float(merged.norm()) <= mean * (1 + 1e-9)
    if float(weights.max()) < 1:
        assert float(merged.norm()) == pytest.approx(mean)
        cosines = rows @ merged / rows.norm(dim=1) / merged.norm()
        heard = cosines[weights > 0]
        assert float(heard.max() - heard.min()) <= 0.01
        assert bool((cosines >= heard.min() - 1e-9).all())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.integers(1, 7),
    dimensions=st.integers(1, 7),
    sizes=st.lists(st.sampled_from([0.0, 1e-6, 1.0, 1e6]), min_size=7, max_size=7),
)
def test_suggested_weights_stay_in_bounds_for_any_gram(
    seed: int, count: int, dimensions: int, sizes: list[float]
) -> None:
    rows = random(count, dimensions, seed=seed).double() * torch.tensor(sizes[:count]).double()[:, None]
    weights = suggest_weights(rows @ rows.t())
    assert bool(((weights >= 0) & (weights <= 1)).all())
    norms = rows.norm(dim=1)
    assert bool((weights[norms == 0] == 0).all())
    if (norms > 0).any():
        assert float((weights @ rows).norm()) <= float(norms[norms > 0].mean()) * (1 + 1e-6)
        assert float(weights.max()) > 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[2.0, 0.0]], [1.0]),
        ([[1.0, 0.0], [1.0, 0.0]], [0.5, 0.5]),
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [2**-1.5, 2**-1.5, 2**-0.5]),
        ([[1.0, 0.0], [-1.0, 0.0]], [1.0, 1.0]),
        ([[1.0, 0.0], [0.0, 0.2]], [math.sqrt(0.6**2 - 0.2**2), 1.0]),
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], None),
    ],
    ids=["one", "copies", "copies and another", "opposite", "weak", "contained"],
)
def test_suggested_weights_in_known_cases(rows: list[list[float]], expected: list[float] | None) -> None:
    matrix = torch.tensor(rows).double()
    found = suggest_weights(matrix @ matrix.t())
    if expected is None:
        merged = found @ matrix
        assert float(found[2]) == 0.0
        assert float(found[0]) == pytest.approx(float(found[1]))
        assert float(merged.norm()) == pytest.approx((2 + math.sqrt(2)) / 3)
    else:
        assert found.tolist() == pytest.approx(expected, rel=0.01)


def test_norms_and_cosines_of_a_gram() -> None:
    gram = torch.tensor([[4.0, -3.0, 0.0], [-3.0, 9.0, 0.0], [0.0, 0.0, 0.0]]).double()
    assert cosines_of(gram).tolist() == [[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert norm_of(gram, torch.tensor([1.0, 1.0, 5.0]).double()) == pytest.approx(math.sqrt(7))


def test_layers_that_cannot_be_compared_are_named() -> None:
    broken = lora(K)
    broken.up[0, 0] = math.nan
    huge = LowRank(torch.full((1, 16), 1e15), torch.full((24, 1), 1e15))
    ia3 = Native("ia3", {"ia3": random(12), "on_input": torch.tensor(False)}, 1.0, "rank")
    layers: dict[Target, Update] = {Q: lora(Q, seed=3), K: broken, CONV: lora(CONV)}
    adapters = {"a": AdapterTensors(layers), "b": AdapterTensors({Q: huge, K: ia3, CONV: lora(CONV)})}
    found = compare(adapters)
    assert found.skipped == {"a": (K,), "b": (Q, K)}
    assert close(
        found.gram[0, 0], flat(AdapterTensors({Q: lora(Q, seed=3), CONV: lora(CONV)})).square().sum()
    )
    json.dumps(found.as_json(), allow_nan=False)

    weight = random(*SHAPES[K], seed=5)
    shared = {"a": AdapterTensors({K: lora(K)}), "b": AdapterTensors({K: ia3})}
    with_base = compare(shared, base=lambda _: weight)
    expected = float((flat(shared["a"], [K]) * ia3.delta(base=weight).double().flatten()).sum())
    assert with_base.skipped == {"a": (), "b": ()}
    assert float(with_base.gram[0, 1]) == pytest.approx(expected, rel=1e-4)


def test_adapters_of_different_architectures_are_refused() -> None:
    other = LowRank(random(4, 20), random(24, 4))
    with pytest.raises(SettingError) as caught:
        compare({"ink": AdapterTensors({Q: lora(Q)}), "other": AdapterTensors({Q: other})})
    assert caught.value.setting == f"{Q} in other"
    assert caught.value.value == "24x20"
    assert "in ink it is 24x16" in caught.value.rule


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(SettingError) as caught:
        compare({})
    assert caught.value.value == 0


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3), rank=st.integers(1, 9))
def test_the_forecast_is_the_error_of_the_cut_sum(seeds: list[int], rank: int) -> None:
    adapters = {f"{number}": whole(seed, rank) for number, seed in enumerate(seeds)}
    weights = {name: 0.5 + 0.2 * number for number, name in enumerate(adapters)}
    found = truncation_forecast(adapters, weights, ranks=(1, 4, 100))
    lost, total = dict.fromkeys(found, 0.0), 0.0
    for target, shape in SHAPES.items():
        summed = sum((weights[name] * flat(adapters[name], [target]) for name in adapters), torch.zeros(1))
        squares = torch.linalg.svdvals(summed.reshape(shape[0], -1)).square()
        total += float(squares.sum())
        lost = {cut: part + float(squares[cut:].sum()) for cut, part in lost.items()}
    for cut, error in found.items():
        assert error == pytest.approx(math.sqrt(lost[cut] / total), abs=1e-5)
    assert truncation_forecast(adapters, {}, ranks=(1,)) == {1: 0.0}


def test_json_holds_the_figures() -> None:
    found = compare({"a": whole(1), "b": whole(2)})
    read = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert read["names"] == ["a", "b"]
    assert read["gram"] == found.gram.tolist()
    assert read["cosines"] == found.cosines.tolist()
    assert read["blocks"]["mid_block"] == found.block_cosines["mid_block"].tolist()
    assert found.output_overlap is not None
    assert read["output_overlap"] == found.output_overlap.tolist()
    assert read["weights"] == found.weights
    assert read["predicted_norm"] == pytest.approx(float(found.norms.mean()))
