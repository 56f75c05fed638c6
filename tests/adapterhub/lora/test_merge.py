"""Merges equal short references on full matrices in float64, or PEFT's own functions."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from torch import Tensor

from adapterhub.errors import (
    AlgebraSettingError,
    BlockWeightsError,
    LayerKindsError,
    NativeLayersError,
    ShapesError,
)
from adapterhub.lora.elementwise import collect, dare
from adapterhub.lora.merge import METHODS, merge
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target

LINEAR = Target("unet", "down_blocks.1.attentions.0.proj_in")
OTHER = Target("unet", "up_blocks.0.attentions.1.proj_in")
CONV = Target("unet", "up_blocks.2.resnets.0.conv1")
TEXT = Target("text_encoder", "text_model.encoder.layers.3.mlp.fc1")
NORM = Target("unet", "mid_block.resnets.0.norm1")
LOSSLESS = 1e-5  # below it the references drop singular values, as the methods do

Reference = Callable[[list[Tensor]], Tensor]


def layer(shape: tuple[int, ...], rank: int, seed: int = 0, alpha: float = 1.0) -> LowRank:
    """A layer whose singular values differ well, so that its singular vectors are stable."""
    generator = torch.Generator().manual_seed(seed)
    tail = [1] * (len(shape) - 2)
    decay = 0.8 ** torch.arange(rank).reshape(1, rank, *tail)
    up = torch.randn(shape[0], rank, *tail, generator=generator) * decay
    return LowRank(torch.randn(rank, *shape[1:], generator=generator), up, scale=alpha / rank, origin="alpha")


def one(shape: tuple[int, ...], rank: int, seed: int = 0, alpha: float = 1.0) -> AdapterTensors:
    return AdapterTensors({LINEAR: layer(shape, rank, seed, alpha)})


def full(found: LowRank) -> Tensor:
    product = found.up.flatten(1).double() @ found.down.flatten(1).double()
    return product.reshape(found.shape) * found.scale


def delta(adapter: AdapterTensors, target: Target = LINEAR) -> Tensor:
    found = adapter.layers[target]
    assert isinstance(found, LowRank)
    return full(found)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    count = int((s > LOSSLESS * s[0]).sum())
    return u[:, :count], s[:count], v[:count]


def error(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


# The methods on full matrices; each D has its weight in it, except for elementwise rules.


def slerp(deltas: Sequence[Tensor], t: float) -> Tensor:
    first, second = deltas
    angle = torch.acos((first * second).sum() / (first.norm() * second.norm()))
    return (torch.sin((1 - t) * angle) * first + torch.sin(t * angle) * second) / torch.sin(angle)


def model_stock(deltas: Sequence[Tensor]) -> Tensor:
    pairs = itertools.combinations(deltas, 2)
    cosine = torch.stack([(a * b).sum() / (a.norm() * b.norm()) for a, b in pairs]).mean()
    count = len(deltas)
    return sum(deltas, torch.zeros(1)) / count * (count * cosine / (1 + (count - 1) * cosine))


def orthogonal(deltas: Sequence[Tensor]) -> Tensor:
    total = deltas[0]
    for found in deltas[1:]:
        u = svd(total)[0]
        total = total + found - u @ u.t() @ found
    return total


def tsv(deltas: Sequence[Tensor]) -> Tensor:
    share = min(deltas[0].shape) // len(deltas)
    parts = [[part[..., :share] if i < 2 else part[:share] for i, part in enumerate(svd(d))] for d in deltas]
    u, s, v = (
        torch.cat(found, dim=dim) for found, dim in zip(zip(*parts, strict=True), (1, 0, 0), strict=True)
    )
    (p, _, q), (x, _, y) = svd(u), svd(v)
    return p @ q @ torch.diag(s) @ x @ y


def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    u, s, v = svd(sum(deltas[1:], deltas[0]))
    return s.mean() * u @ v


def knots(deltas: Sequence[Tensor], rule: Reference) -> Tensor:
    u, s, v = svd(torch.cat(list(deltas), dim=1))
    return u @ rule(list((s[:, None] * v).split(deltas[0].shape[1], dim=1)))


def core(deltas: Sequence[Tensor], rule: Reference) -> Tensor:
    parts = [svd(found) for found in deltas]
    left = svd(torch.cat([u * s.sqrt() for u, s, _ in parts], dim=1))[0]
    right = svd(torch.cat([s.sqrt()[:, None] * v for _, s, v in parts]))[2]
    return left @ rule([left.t() @ found @ right.t() for found in deltas]) @ right


@settings(max_examples=40, deadline=None)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 20), st.integers(1, 10), st.just(3), st.just(3)),
        st.tuples(st.integers(1, 20), st.integers(1, 10), st.just(1), st.just(1)),
    ),
    ranks=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    weights=st.lists(st.floats(-2, 2).filter(lambda w: abs(w) > 0.01), min_size=4, max_size=4),
    alpha=st.floats(0.1, 32),
)
def test_cat_is_the_weighted_sum(
    shape: tuple[int, ...], ranks: list[int], weights: list[float], alpha: float
) -> None:
    adapters = [one(shape, rank, seed, alpha) for seed, rank in enumerate(ranks)]
    merged = merge(adapters, weights[: len(ranks)])
    found = merged.adapter.layers[LINEAR]
    assert isinstance(found, LowRank)
    assert found.shape == shape
    assert (found.rank, found.scale, found.up.dtype) == (sum(ranks), 1.0, torch.float32)
    assert (merged.exact, merged.layers[LINEAR].rank) == (True, sum(ranks))
    deltas = [weight * delta(adapter) for weight, adapter in zip(weights, adapters, strict=False)]
    scale = max(float(part.norm()) for part in deltas)
    assert float((full(found) - sum(deltas[1:], deltas[0])).norm()) <= 1e-6 * scale


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(4, 60),
    n=st.integers(4, 60),
    ranks=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    rank=st.integers(1, 20),
)
def test_svd_has_the_least_error_of_its_rank(m: int, n: int, ranks: list[int], rank: int) -> None:
    adapters, weights = [one((m, n), r, seed) for seed, r in enumerate(ranks)], [0.7, -1.2, 0.4][: len(ranks)]
    merged = merge(adapters, weights, method="svd", rank=rank)
    exact = sum((w * delta(a) for w, a in zip(weights, adapters, strict=True)), torch.zeros(m, n).double())
    s = torch.linalg.svdvals(exact)
    least = float(torch.linalg.norm(s[rank:]) / torch.linalg.norm(s))
    rounding = 1e-6 if least > 1e-4 else 4e-6  # what float32 alone leaves where nothing is cut
    assert error(delta(merged.adapter), exact) == pytest.approx(least, abs=rounding)
    assert merged.layers[LINEAR].error == pytest.approx(least, abs=1e-6)
    assert merged.layers[LINEAR].rank <= rank


def test_svd_by_energy_takes_the_least_rank() -> None:
    adapters = [one((40, 30), 8, 1), one((40, 30), 6, 2)]
    exact = delta(adapters[0]) + delta(adapters[1])
    energy = torch.linalg.svdvals(exact).square().cumsum(0) / exact.square().sum()
    merged = merge(adapters, [1, 1], method="svd", energy=0.9)
    rank = int((energy < 0.9).sum()) + 1
    assert merged.layers[LINEAR].rank == rank
    assert merged.layers[LINEAR].kept_energy == pytest.approx(float(energy[rank - 1]), abs=1e-6)
    assert not merged.exact
    assert merge(adapters, [1, 1], method="svd", energy=0.9, rank=2).layers[LINEAR].rank == 2
    assert merge(adapters, [1, 1], method="svd", rank=14).exact


def alike(count: int, shape: tuple[int, int] = (48, 36)) -> list[AdapterTensors]:
    """Adapters of different ranks that have a part in common, so that their cosines are not small."""
    shared = layer(shape, 3, 99)
    found: list[AdapterTensors] = []
    for seed in range(count):
        own = layer(shape, 3 + seed, seed, alpha=4)
        up = torch.cat([shared.up, own.up * own.scale], dim=1)
        found.append(AdapterTensors({LINEAR: LowRank(torch.cat([shared.down, own.down]), up, 1.0)}))
    return found


@pytest.mark.parametrize(
    ("method", "reference", "count"),
    [
        ("slerp", lambda deltas: slerp(deltas, 0.3), 2),
        ("model_stock", model_stock, 2),
        ("model_stock", model_stock, 4),
        ("orthogonal", orthogonal, 2),
        ("orthogonal", orthogonal, 3),
        ("tsv", tsv, 2),
        ("tsv", tsv, 3),
        ("iso_c", iso_c, 1),
        ("iso_c", iso_c, 3),
    ],
)
@pytest.mark.parametrize("shape", [(48, 36), (30, 200)])
def test_spectral_methods_equal_full_matrices(
    method: str, reference: Reference, count: int, shape: tuple[int, int]
) -> None:
    adapters, weights = alike(count, shape), [0.9, 0.6, 1.2, 0.8][:count]
    expected = reference([weight * delta(adapter) for weight, adapter in zip(weights, adapters, strict=True)])
    merged = merge(adapters, weights, method=method, t=0.3)
    assert error(delta(merged.adapter), expected) < 1e-5
    assert merged.exact
    cut = merge(adapters, weights, method=method, t=0.3, rank=3)
    s = torch.linalg.svdvals(expected)
    least = float(torch.linalg.norm(s[3:]) / torch.linalg.norm(s))
    assert cut.layers[LINEAR].error == pytest.approx(least, abs=1e-5)
    assert error(delta(cut.adapter), expected) == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
@pytest.mark.parametrize("count", [2, 3])
def test_rules_in_a_shared_space_equal_full_matrices(space: str, method: str, count: int) -> None:
    adapters, weights = alike(count), [0.9, -0.6, 1.2][:count]
    peft = {"ties": merge_utils.ties, "magnitude_prune": merge_utils.magnitude_prune}[method]

    def rule(matrices: list[Tensor]) -> Tensor:
        return peft(matrices, torch.tensor(weights, dtype=torch.float64), 0.4)

    expected = {"knots": knots, "core": core}[space]([delta(adapter) for adapter in adapters], rule)
    merged = merge(adapters, weights, method=method, space=space, density=0.4)
    assert error(delta(merged.adapter), expected) < 1e-5
    assert merged.exact
    if (method, space) == ("ties", "knots"):
        named = merge(adapters, weights, method="knots", density=0.4)
        assert torch.equal(delta(named.adapter), delta(merged.adapter))


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("m", [12, 48])
def test_a_shared_space_loses_nothing(space: str, m: int) -> None:
    adapters, weights = alike(3, (m, 36)), [0.9, -0.6, 1.2]
    exact = sum((w * delta(a) for w, a in zip(weights, adapters, strict=True)), torch.zeros(1).double())
    for method, setting in (("magnitude_prune", {"density": 1.0}), ("dare_linear", {"drop": 0.0})):
        merged = merge(adapters, weights, method=method, space=space, **setting)
        assert error(delta(merged.adapter), exact) < 2e-6


def test_core_space_does_not_depend_on_how_a_file_splits_a_product() -> None:
    adapters = alike(2)
    layer_1 = adapters[1].layers[LINEAR]
    assert isinstance(layer_1, LowRank)
    mix = torch.randn(layer_1.rank, layer_1.rank, generator=torch.Generator().manual_seed(5)).double()
    up, down = layer_1.up.double() @ mix, torch.linalg.solve(mix, layer_1.down.double())
    other = AdapterTensors({LINEAR: LowRank(down.float(), up.float(), layer_1.scale)})
    found = [
        delta(merge([adapters[0], second], [1, 1], method="ties", space="core", density=0.4).adapter)
        for second in (adapters[1], other)
    ]
    assert error(*found) < 2e-5


@pytest.mark.parametrize(
    ("method", "peft"), [("ties", merge_utils.ties), ("magnitude_prune", merge_utils.magnitude_prune)]
)
def test_rules_on_full_deltas_are_cut_to_the_asked_rank(method: str, peft: Callable[..., Tensor]) -> None:
    adapters, weights = [one((120, 90), 4, 1, 8), one((120, 90), 6, 2, 8)], [0.9, -0.6]
    deltas = [delta(adapter).float() for adapter in adapters]
    expected = peft(deltas, torch.tensor(weights), 0.3).double()
    s = torch.linalg.svdvals(expected)
    for bounds, rank in (({"rank": 5}, 5), ({}, 10), ({"rank": 500}, 90)):
        merged = merge(adapters, weights, method=method, density=0.3, **bounds)
        cut = merged.layers[LINEAR]
        least = float(torch.linalg.norm(s[rank:]) / torch.linalg.norm(s))
        assert cut.rank == rank
        assert cut.error == pytest.approx(least, rel=2e-3, abs=1e-5)
        assert error(delta(merged.adapter), expected) == pytest.approx(cut.error, rel=1e-4, abs=1e-5)
        assert not merged.exact


def test_dare_is_keyed_by_the_adapters_name_and_the_layer() -> None:
    adapters, weights = [one((40, 30), 4, 1), one((40, 30), 6, 2)], [0.9, -0.6]
    options = {"method": "dare_ties", "drop": 0.3, "rank": 30, "seed": 5}
    named = merge(adapters, weights, names=["me/ink@1", "me/dog@2"], **options)
    turned = merge(adapters[::-1], weights[::-1], names=["me/dog@2", "me/ink@1"], **options)
    torch.testing.assert_close(delta(named.adapter), delta(turned.adapter), rtol=0, atol=1e-5)
    factors = [found.factors() for adapter in adapters for found in adapter.low_rank().values()]
    rows = dare(
        factors, weights, drop=0.3, seed=5, names=["me/ink@1", "me/dog@2"], layer=str(LINEAR), elect=True
    )
    assert error(delta(named.adapter), collect(rows, (40, 30)).double()) < 1e-5
    assert not torch.allclose(delta(merge(adapters, weights, **options).adapter), delta(named.adapter))


def test_subtract_and_negate() -> None:
    first, second = one((20, 10), 3, 1), one((20, 10), 4, 2)
    difference = delta(merge([first, second], [1, -1]).adapter)
    assert error(difference, delta(first) - delta(second)) < 1e-6
    assert error(delta(merge([first], [-1]).adapter), -delta(first)) < 1e-6


def test_the_first_stays_whole_and_the_others_are_orthogonal_to_it() -> None:
    first, second = alike(2)
    rest = delta(merge([first, second], [1, 1], method="orthogonal").adapter) - delta(first)
    assert float((rest * delta(first)).sum().abs() / (rest.norm() * delta(first).norm())) < 1e-6


def test_an_untrained_first_adapter_takes_nothing_from_the_second() -> None:
    untrained = AdapterTensors({LINEAR: LowRank(torch.randn(4, 36), torch.zeros(48, 4))})
    second = one((48, 36), 5, 2)
    for method in ("orthogonal", "tsv", "iso_c", "knots"):
        merged = merge([untrained, second], [1, 1], method=method, density=1.0)
        alone = merge([second], [1], method=method, density=1.0)
        assert error(delta(merged.adapter), delta(alone.adapter)) < 1e-5
    cores = merge([untrained, untrained], [1, 1], method="ties", space="core")
    assert cores.adapter.layers == {}
    assert cores.layers[LINEAR].rank == 0


def test_the_same_adapter_twice_is_itself_in_tsv() -> None:
    adapter = one((48, 36), 5, 2)
    assert (
        error(delta(merge([adapter, adapter], [0.5, 0.5], method="tsv").adapter), delta(adapter) / 2) < 1e-5
    )


def test_colinear_deltas_are_joined_by_a_line() -> None:
    adapter = one((20, 10), 3, 1)
    for weights in ([1, 3], [1, -2]):
        merged = merge([adapter, adapter], weights, method="slerp", t=0.25)
        assert error(delta(merged.adapter), delta(adapter) * (0.75 + 0.25 * weights[1])) < 1e-5


def test_deltas_that_disagree_have_no_model_stock() -> None:
    adapter = one((20, 10), 3, 1)
    merged = merge([adapter, adapter], [1, -1], method="model_stock")
    assert merged.adapter.layers == {}
    assert (merged.layers[LINEAR].rank, merged.exact) == (0, True)


def two_layers() -> list[AdapterTensors]:
    first = {LINEAR: layer((20, 10), 3, 1), TEXT: layer((16, 8), 2, 2), CONV: layer((8, 4, 3, 3), 2, 3)}
    return [
        AdapterTensors(first),
        AdapterTensors({LINEAR: layer((20, 10), 4, 4), OTHER: layer((20, 10), 4, 5)}),
    ]


@pytest.mark.parametrize("method", [*METHODS, "knots"])
def test_a_missing_layer_is_zero(method: str) -> None:
    adapters = two_layers()
    options = {"rank": 20, "density": 1.0, "drop": 0.0, "t": 0.5}
    merged = merge(adapters, [1.0, 0.5], method=method, **options)
    assert set(merged.layers) == {LINEAR, TEXT, CONV, OTHER}
    for target, holder, weight in ((TEXT, 0, 1.0), (CONV, 0, 1.0), (OTHER, 1, 0.5)):
        expected = delta(adapters[holder], target) * weight
        if method == "model_stock":
            assert target not in merged.adapter.layers
            continue
        if method == "slerp":
            expected = expected * math.sin(math.pi / 4)
        if method == "iso_c":
            expected = iso_c([expected.flatten(1)]).reshape(expected.shape)
        assert error(delta(merged.adapter, target), expected) < 1e-5


@pytest.mark.parametrize("method", ["cat", "ties", "tsv"])
def test_weights_by_block_multiply_the_weights(method: str) -> None:
    adapters = two_layers()
    options = {"method": method, "density": 1.0, "rank": 20}
    merged = merge(adapters, [2.0, 1.0], block_weights=["IN04=0.25,text_encoder=0", None], **options)
    plain = merge(adapters, [0.5, 1.0], **options)
    assert error(delta(merged.adapter), delta(plain.adapter)) < 1e-6
    assert TEXT not in merged.adapter.layers
    assert merged.layers[TEXT].rank == 0
    by_layer = merge(
        adapters, [1.0, 1.0], block_weights=[lambda t: 0.5 if t == LINEAR else 0.0, None], **options
    )
    assert error(delta(by_layer.adapter), delta(plain.adapter)) < 1e-6
    assert set(by_layer.adapter.layers) == {LINEAR, OTHER}
    with pytest.raises(BlockWeightsError):
        merge(adapters, [1.0, 1.0], block_weights=["1,1", None])


def test_targets_pick_the_layers() -> None:
    merged = merge(two_layers(), [1.0, 1.0], targets=["text_encoder", "*.conv1"])
    assert set(merged.adapter.layers) == set(merged.layers) == {TEXT, CONV}
    with pytest.raises(AlgebraSettingError, match="at least one layer"):
        merge(two_layers(), [1.0, 1.0], targets="down_blocks.7")


def norm(adapter: AdapterTensors) -> float:
    return math.sqrt(sum(float(full(found).square().sum()) for found in adapter.low_rank().values()))


@pytest.mark.parametrize("method", ["cat", "svd", "slerp", "ties"])
def test_the_norm_of_the_result(method: str) -> None:
    adapters = two_layers()
    norms = [norm(adapter) for adapter in adapters]
    for normalize, expected in (("first", norms[0]), ("mean", sum(norms) / 2), (3.5, 3.5)):
        options = {"method": method, "rank": 3}
        merged = merge(adapters, [2.0, -1.0], normalize=normalize, **options)
        assert norm(merged.adapter) == pytest.approx(expected, rel=1e-6)
        plain = merge(adapters, [2.0, -1.0], **options)
        ratio = expected / norm(plain.adapter)
        assert error(delta(merged.adapter), delta(plain.adapter) * ratio) < 1e-6


def with_whole() -> list[AdapterTensors]:
    return [
        AdapterTensors(
            {LINEAR: layer((20, 10), 3, seed), NORM: Dense(torch.randn(6).half())},
            biases={LINEAR: torch.randn(20)},
            extras={f"emb_{seed}": torch.ones(2)},
        )
        for seed in (1, 2)
    ]


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_whole_differences_and_biases_are_summed(method: str) -> None:
    adapters = with_whole()
    merged = merge(adapters, [2.0, -0.5], method=method, rank=6)
    norms = [adapter.layers[NORM].delta() for adapter in adapters]
    found = merged.adapter.layers[NORM]
    assert isinstance(found, Dense)
    torch.testing.assert_close(found.difference, 2 * norms[0] - 0.5 * norms[1])
    first, second = (adapter.biases[LINEAR] for adapter in adapters)
    torch.testing.assert_close(merged.adapter.biases[LINEAR], 2 * first - 0.5 * second)
    assert set(merged.layers) == {LINEAR}
    assert merged.left_out == ("emb_1", "emb_2")
    assert merged.adapter.extras == {}
    scaled = merge(adapters, [2.0, -0.5], method=method, rank=6, normalize=1.0).adapter
    squares = norm(scaled) ** 2 + float(scaled.layers[NORM].delta().double().square().sum())
    assert squares == pytest.approx(1.0, rel=1e-5)


def test_other_methods_refuse_what_is_stored_whole() -> None:
    with pytest.raises(LayerKindsError) as caught:
        merge(with_whole(), [1.0, 1.0], method="ties")
    assert caught.value.targets == [str(NORM), str(LINEAR)]
    assert "cat or svd" in caught.value.remedy
    assert merge(with_whole(), [1.0, 1.0], method="cat", targets="mid_block").layers == {}


def test_whole_beside_low_rank_is_refused() -> None:
    adapters = [one((20, 10), 3), AdapterTensors({LINEAR: Dense(torch.ones(20, 10))})]
    with pytest.raises(LayerKindsError) as caught:
        merge(adapters, [1.0, 1.0])
    assert caught.value.targets == [str(LINEAR)]
    assert "Convert" in str(caught.value)


def test_layers_of_other_algorithms_are_refused_by_name() -> None:
    oft = Native("oft", {"oft_blocks": torch.zeros(2, 3, 3)}, 1.0, "alpha")
    dora = Native("dora", {"magnitude": torch.ones(20)}, 1.0, "alpha")
    adapters = [one((20, 10), 3), AdapterTensors({LINEAR: dora, OTHER: oft, CONV: layer((8, 4, 3, 3), 2)})]
    with pytest.raises(NativeLayersError) as caught:
        merge(adapters, [1.0, 1.0])
    assert caught.value.code == "layers-native"
    assert caught.value.targets == [str(LINEAR), str(OTHER)]
    assert caught.value.algorithms == ["dora", "oft"]
    assert "Convert the adapter to LoRA first" in str(caught.value)
    assert set(merge(adapters, [1.0, 1.0], targets="up_blocks.2").adapter.layers) == {CONV}


def test_shapes_that_differ_are_refused_by_name() -> None:
    adapters = [one((20, 10), 3), one((20, 12), 3)]
    with pytest.raises(ShapesError) as caught:
        merge(adapters, [1.0, 1.0])
    assert caught.value.code == "layers-shapes-differ"
    assert (caught.value.targets, caught.value.shapes) == ([str(LINEAR)], [(20, 10), (20, 12)])
    assert "20x10 and 20x12" in str(caught.value)
    biases = [AdapterTensors({}, biases={LINEAR: torch.ones(n)}) for n in (3, 4)]
    with pytest.raises(ShapesError):
        merge(biases, [1.0, 1.0])


@pytest.mark.parametrize(
    ("count", "options", "setting"),
    [
        (0, {}, "the number of adapters"),
        (1, {"method": "slerp"}, "the number of adapters"),
        (3, {"method": "slerp"}, "the number of adapters"),
        (1, {"method": "model_stock"}, "the number of adapters"),
        (2, {"method": "linear"}, "method"),
        (2, {"method": "svd"}, "rank"),
        (2, {"method": "svd", "rank": 0}, "rank"),
        (2, {"method": "svd", "energy": 1.5}, "energy"),
        (2, {"method": "ties", "density": 0.0}, "density"),
        (2, {"method": "ties", "space": "null"}, "space"),
        (2, {"method": "cat", "space": "core"}, "space"),
        (2, {"method": "dare_linear", "drop": 1.0}, "drop"),
        (2, {"method": "slerp", "t": 1.5}, "t"),
        (2, {"normalize": "second"}, "normalize"),
        (2, {"normalize": 0.0}, "normalize"),
        (2, {"names": ["a"]}, "the number of names"),
        (2, {"block_weights": ["1"]}, "the number of block_weights"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(
    count: int, options: dict[str, object], setting: str
) -> None:
    with pytest.raises(AlgebraSettingError) as caught:
        merge([one((20, 10), 3)] * count, [1.0] * count, **options)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    ("weights", "setting"), [([1.0], "the number of weights"), ([1.0, math.nan], "a weight")]
)
def test_weights_that_make_no_sense_are_refused(weights: list[float], setting: str) -> None:
    with pytest.raises(AlgebraSettingError) as caught:
        merge([one((20, 10), 3)] * 2, weights)
    assert caught.value.setting == setting
