"""Reports of one adapter, against full deltas and dense SVDs in float64."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapterhub.lora.blocks import block_of
from adapterhub.lora.inspect import AdapterReport, Problem, inspect
from adapterhub.lora.weights import AdapterTensors, Dense, LowRank, Native, Target, Update

MIDDLE = "mid_block.attentions.0.transformer_blocks.0"
TARGETS = [Target("unet", f"{MIDDLE}.attn{a}.to_{part}") for a in (1, 2) for part in ("q", "k", "v", "out.0")]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(rank: int, out: int = 24, width: int = 16, *, scale: float = 1.0, seed: int = 0) -> LowRank:
    return LowRank(random(rank, width, seed=seed), random(out, rank, seed=seed + 1000), scale, "alpha")


def healthy() -> dict[Target, Update]:
    return {target: lora(4, scale=0.5, seed=seed) for seed, target in enumerate(TARGETS)}


def full(update: Update, weight: Tensor | None = None) -> Tensor:
    """The delta in float64, `(out, in)`."""
    if isinstance(update, LowRank):
        return update.up.double().flatten(1) @ update.down.double().flatten(1) * update.scale
    return update.delta(base=weight).double().flatten(1)


def kinds(report: AdapterReport) -> dict[str, Problem]:
    return {problem.kind: problem for problem in report.problems}


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(1, 12),
    out=st.integers(1, 30),
    width=st.integers(1, 12),
    kernel=st.sampled_from([(), (3, 3)]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    scale=st.floats(0.01, 4.0),
    seed=st.integers(0, 99),
)
def test_a_layers_figures_are_those_of_its_full_delta(
    rank: int,
    out: int,
    width: int,
    kernel: tuple[int, ...],
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    down = random(rank, width, *kernel, seed=seed).to(dtype)
    up = random(out, rank, *[1] * len(kernel), seed=seed + 1).to(dtype)
    layer = LowRank(down, up, scale, "alpha")
    (found,) = inspect(AdapterTensors({TARGETS[0]: layer})).layers
    s = torch.linalg.svdvals(full(layer))
    s = s[s > 1e-6 * s[0]]
    share = s / s.sum()
    energy = s.square().cumsum(0) / s.square().sum()

    assert found.shape == (out, width, *kernel)
    assert (found.rank, found.scale) == (rank, scale)
    assert found.norm == pytest.approx(float(full(layer).norm()), rel=1e-5)
    spectrum = found.spectrum
    assert spectrum is not None
    assert spectrum.values[: len(s)] == pytest.approx(s.tolist(), abs=1e-5 * float(s[0]))
    assert spectrum.stable_rank == pytest.approx(float(s.square().sum() / s[0] ** 2), rel=1e-4)
    assert spectrum.entropy_rank == pytest.approx(math.exp(float(-(share * share.log()).sum())), rel=1e-3)
    for part in (0.9, 0.99):
        kept = spectrum.rank_for(part)
        assert energy[kept - 1] >= part - 1e-5
        assert kept == 1 or energy[kept - 2] < part + 1e-5
    for cut in range(1, len(s)):
        assert spectrum.error_at(cut) == pytest.approx(math.sqrt(1 - float(energy[cut - 1])), abs=1e-3)


@pytest.mark.parametrize(
    ("update", "has_spectrum"),
    [
        (Dense(random(6, 9)), True),
        (Dense(random(6, 4, 3, 3)), True),
        (Dense(random(12)), True),
        (
            Native(
                "loha",
                {
                    "hada_w1_a": random(6, 2),
                    "hada_w1_b": random(2, 9, seed=1),
                    "hada_w2_a": random(6, 2, seed=2),
                    "hada_w2_b": random(2, 9, seed=3),
                },
                0.5,
                "alpha",
            ),
            True,
        ),
        (Native("lokr", {"lokr_w1": random(2, 3), "lokr_w2": random(3, 4, seed=1)}, 1.0, "rank"), True),
        (
            Native(
                "dora",
                {"up": random(6, 2), "down": random(2, 9), "magnitude": random(6, 1).abs()},
                1.0,
                "rank",
            ),
            False,
        ),
        (Native("set", {"set": random(6, 9)}, 1.0, "rank"), False),
    ],
    ids=lambda value: getattr(value, "algorithm", None),
)
def test_other_algorithms_are_measured_by_their_own_formula(update: Update, has_spectrum: bool) -> None:
    weight = random(*(update.shape or (6, 9)), seed=7)
    report = inspect(AdapterTensors({TARGETS[0]: update}), base=lambda _: weight)
    (found,) = report.layers
    delta = update.delta(base=weight).double().reshape(weight.shape[0], -1)
    assert found.shape == tuple(weight.shape)
    assert found.norm == pytest.approx(float(delta.norm()), rel=1e-5)
    assert found.relative_norm == pytest.approx(float(delta.norm() / weight.double().norm()), rel=1e-5)
    assert (found.spectrum is not None) == has_spectrum
    if found.spectrum is not None:
        s = torch.linalg.svdvals(delta)
        shown = min(len(s), len(found.spectrum.values))
        assert found.spectrum.values[:shown] == pytest.approx(s[:shown].tolist(), abs=1e-5 * float(s[0]))


def test_a_layer_that_needs_the_base_has_no_norm_without_it() -> None:
    oft = Native("oft", {"oft_blocks": random(2, 3, 3)}, 0.0, "alpha")
    report = inspect(AdapterTensors({TARGETS[0]: oft, TARGETS[1]: lora(4)}))
    assert [layer.norm is None for layer in report.layers] == [True, False]
    assert report.overall.norm == pytest.approx(float(full(lora(4)).norm()), rel=1e-5)
    assert report.problems == ()
    weight = random(6, 5)
    with_base = inspect(AdapterTensors({TARGETS[0]: oft}), base=lambda _: weight)
    assert with_base.layers[0].norm == pytest.approx(float(oft.delta(base=weight).norm()), rel=1e-5)


def test_totals_are_roots_of_sums_of_squares() -> None:
    encoder = Target("text_encoder", "text_model.encoder.layers.1.mlp.fc1")
    layers = {
        Target("unet", "up_blocks.0.resnets.0.conv1"): lora(3, seed=1),
        encoder: lora(3, seed=2),
        Target("unet", "down_blocks.1.attentions.0.proj_in"): lora(3, seed=3),
        Target("unet", "down_blocks.1.attentions.1.proj_in"): lora(3, seed=4),
    }
    weights = {target: random(24, 16, seed=9 + number) for number, target in enumerate(layers)}
    report = inspect(AdapterTensors(layers), base=weights.__getitem__)

    def norm(*numbers: int) -> float:
        return math.sqrt(sum(float(full(list(layers.values())[n]).square().sum()) for n in numbers))

    def base_norm(*numbers: int) -> float:
        return math.sqrt(sum(float(list(weights.values())[n].double().square().sum()) for n in numbers))

    assert list(report.blocks) == ["down_blocks.1", "up_blocks.0", "text_encoder.layers.1"]
    assert list(report.components) == ["unet", "text_encoder"]
    assert report.blocks["down_blocks.1"].layers == 2
    assert report.blocks["down_blocks.1"].norm == pytest.approx(norm(2, 3))
    assert report.components["unet"].norm == pytest.approx(norm(0, 2, 3))
    assert report.overall.norm == pytest.approx(norm(0, 1, 2, 3))
    assert report.overall.relative_norm == pytest.approx(norm(0, 1, 2, 3) / base_norm(0, 1, 2, 3))
    assert report.overall.size_bytes == AdapterTensors(layers).size_bytes
    assert inspect(AdapterTensors(layers)).overall.relative_norm is None

    unknown = inspect(AdapterTensors(layers | {encoder: lora(3, scale=math.nan)}), base=weights.__getitem__)
    assert unknown.overall.relative_norm is None
    assert unknown.components["unet"] == report.components["unet"]


@pytest.mark.parametrize(
    ("target", "block"),
    [
        (Target("unet", "conv_in"), "conv_in"),
        (Target("unet", "time_embedding.linear_1"), "time_embedding"),
        (Target("unet", "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.2"), "down_blocks.2"),
        (Target("unet", "mid_block.resnets.1.conv2"), "mid_block"),
        (Target("text_encoder", "text_model.encoder.layers.11.self_attn.q_proj"), "text_encoder.layers.11"),
        (Target("text_encoder_2", "text_projection"), "text_encoder_2.text_projection"),
        (Target("model", "transformer.h.10.attn.c_attn"), "transformer.h.10"),
        (Target("model", "lm_head"), "lm_head"),
    ],
)
def test_block_of(target: Target, block: str) -> None:
    assert block_of(target) == block


def test_blocks_stand_in_the_order_of_the_unet_and_numbers_count_as_numbers() -> None:
    modules = ["conv_out", "up_blocks.1.x", "mid_block.x", "down_blocks.10.x", "down_blocks.2.x", "conv_in"]
    layers = {Target("unet", module): lora(2) for module in modules}
    layers |= {Target("text_encoder", f"text_model.encoder.layers.{n}.mlp.fc1"): lora(2) for n in (10, 9)}
    assert list(inspect(AdapterTensors(layers)).blocks) == [
        "conv_in",
        "down_blocks.2",
        "down_blocks.10",
        "mid_block",
        "up_blocks.1",
        "conv_out",
        "text_encoder.layers.9",
        "text_encoder.layers.10",
    ]


def test_a_healthy_adapter_has_no_problems() -> None:
    assert inspect(AdapterTensors(healthy(), biases={TARGETS[0]: random(24)})).problems == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_errors_wherever_they_are(value: float) -> None:
    bad = lora(4)
    bad.up[3, 1] = value
    adapter = AdapterTensors(
        healthy() | {TARGETS[1]: bad, TARGETS[2]: dataclasses.replace(lora(4), scale=value)},
        biases={TARGETS[0]: torch.tensor([1.0, value])},
        extras={"bundle_emb.word": torch.tensor([value])},
    )
    report = inspect(adapter)
    problem = report.problems[0]
    assert (problem.kind, problem.severity) == ("not-finite", "error")
    assert set(problem.where) == {
        str(TARGETS[1]),
        str(TARGETS[2]),
        f"{TARGETS[0]} bias",
        "bundle_emb.word",
    }
    assert report.layers[1].norm is None
    assert report.layers[1].spectrum is None
    json.dumps(report.as_json(singular_values=True), allow_nan=False)


def test_a_delta_that_overflows_is_not_finite() -> None:
    huge = LowRank(torch.full((1, 8), 1e30), torch.full((8, 1), 1e30))
    assert kinds(inspect(AdapterTensors({TARGETS[0]: huge})))["not-finite"].where == (str(TARGETS[0]),)


def test_layers_that_were_never_trained_are_a_warning_and_an_error_if_it_is_all() -> None:
    zero = dataclasses.replace(lora(4), up=torch.zeros(24, 4))
    some = kinds(inspect(AdapterTensors(healthy() | {TARGETS[2]: zero})))["untrained"]
    assert (some.severity, some.where) == ("warning", (str(TARGETS[2]),))
    report = inspect(AdapterTensors(dict.fromkeys(TARGETS, zero)))
    assert kinds(report)["untrained"].severity == "error"
    assert len(kinds(report)["untrained"].where) == len(TARGETS)
    assert report.advice is None
    assert report.layers[0].spectrum is None


def test_factors_below_their_rank_are_noted() -> None:
    full_rank = lora(4)
    repeated = dataclasses.replace(full_rank, down=full_rank.down[[0, 1, 2, 2]])
    too_wide = lora(20, out=24, width=16)
    layers = healthy() | {TARGETS[1]: repeated, TARGETS[5]: too_wide}
    assert kinds(inspect(AdapterTensors(layers)))["rank-deficient"].where == (
        str(TARGETS[1]),
        str(TARGETS[5]),
    )


@pytest.mark.parametrize(("factor", "is_reported"), [(5e-5, True), (1.0, False)])
def test_float16_subnormals(factor: float, is_reported: bool) -> None:
    layers = {
        target: LowRank(layer.down.half(), (random(24, 4, seed=5) * factor).half(), layer.scale)
        for target, layer in AdapterTensors(healthy()).low_rank().items()
    }
    report = inspect(AdapterTensors(layers))
    numbers = torch.cat([part.flatten() for layer in layers.values() for part in layer.tensors.values()])
    numbers = numbers[numbers != 0].float()
    share = float((numbers.abs() < 2**-14).double().mean())
    assert report.subnormal_share == pytest.approx(share)
    assert ("subnormal" in kinds(report)) == is_reported == (share > 0.1)
    assert inspect(AdapterTensors(healthy())).subnormal_share is None


def test_scales_far_from_the_others_are_reported() -> None:
    far = {TARGETS[0]: lora(4, scale=8.0), TARGETS[3]: lora(4, scale=0.05), TARGETS[4]: lora(4, scale=1.5)}
    constraint = {Target("unet", "conv_out"): Native("oft", {"oft_blocks": random(2, 3, 3)}, 1e-4, "alpha")}
    found = kinds(inspect(AdapterTensors(healthy() | far | constraint)))["scale-outlier"]
    assert found.where == (str(TARGETS[0]), str(TARGETS[3]))


def test_norms_far_from_the_others_of_their_component_are_reported() -> None:
    loud = dataclasses.replace(lora(4, scale=0.5), up=random(24, 4, seed=3) * 30)
    quiet = {
        Target("text_encoder", f"text_model.encoder.layers.{n}.mlp.fc1"): lora(4, scale=0.01, seed=n)
        for n in range(8)
    }
    found = kinds(inspect(AdapterTensors(healthy() | {TARGETS[6]: loud} | quiet)))
    assert found["norm-outlier"].where == (str(TARGETS[6]),)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), ranks=st.lists(st.integers(1, 14), min_size=1, max_size=4))
def test_the_advice_is_the_smallest_rank_that_keeps_the_energy(seed: int, ranks: list[int]) -> None:
    decay = 0.6 ** torch.arange(14)
    layers: dict[Target, LowRank] = {}
    for number, rank in enumerate(ranks):
        layer = lora(rank, seed=seed + number)
        layers[TARGETS[number]] = dataclasses.replace(layer, up=layer.up * decay[:rank])
    dense = {TARGETS[7]: Dense(random(5, 5))}
    report = inspect(AdapterTensors(layers | dense, extras={"word": random(3)}))

    def energy(rank: int) -> float:
        s = [torch.linalg.svdvals(full(layer)).square() for layer in layers.values()]
        return float(sum(part[:rank].sum() for part in s) / sum(part.sum() for part in s))

    best = next(rank for rank in range(1, 15) if energy(rank) >= 0.99)
    assert report.advice is not None
    assert report.advice.rank == best
    assert report.advice.energy == pytest.approx(energy(best), abs=1e-5)
    cut = {
        target: LowRank(layer.down[:best], layer.up[:, :best], layer.scale)
        for target, layer in layers.items()
    }
    assert report.advice.size_bytes == AdapterTensors(cut | dense, extras={"word": random(3)}).size_bytes
    assert set(report.forecast) == {rank for rank in (1, 2, 4, 8) if rank < max(ranks)}
    for rank, error in report.forecast.items():
        assert error == pytest.approx(math.sqrt(max(1 - energy(rank), 0)), abs=1e-3)


def test_without_spectra_the_norms_are_the_same() -> None:
    adapter = AdapterTensors(healthy())
    report = inspect(adapter, spectra=False)
    assert report.blocks == inspect(adapter).blocks
    assert {layer.spectrum for layer in report.layers} == {None}
    assert (report.advice, report.forecast) == (None, {})


def test_json_holds_the_figures() -> None:
    report = inspect(AdapterTensors(healthy()))
    found = json.loads(json.dumps(report.as_json(), allow_nan=False))
    first = report.layers[0]
    assert first.spectrum is not None
    assert report.advice is not None
    assert found["overall"]["norm"] == report.overall.norm
    assert found["blocks"]["mid_block"]["layers"] == len(TARGETS)
    assert found["resize"]["rank"] == report.advice.rank
    layer = found["layers"][0]
    assert (layer["component"], layer["module"], layer["block"]) == (*TARGETS[0], "mid_block")
    assert layer["stable_rank"] == first.spectrum.stable_rank
    assert layer["forecast"] == {"1": first.spectrum.error_at(1), "2": first.spectrum.error_at(2)}
    assert "singular_values" not in layer
    spectra = report.as_json(singular_values=True)["layers"]
    assert spectra[0]["singular_values"] == list(first.spectrum.values)


def test_an_adapter_without_layers_is_reported_as_empty() -> None:
    report = inspect(AdapterTensors({}))
    assert (report.layers, report.blocks, report.problems, report.overall.norm) == ((), {}, (), 0.0)
