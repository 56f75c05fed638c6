"""Adapters that are trained together: each equals itself alone, whatever the others do."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from adapterhub.randomness import keyed_generator, keyed_normal
from adapterhub.training.bank import LoraBank
from adapterhub.training.checkpoint import (
    Checkpoint,
    Ended,
    load_checkpoint,
    restore,
    save_checkpoint,
    state_of,
)
from adapterhub.training.executor import Events, Executor, Rows, Trainee, Training
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective, ObjectiveTable
from adapterhub.training.optimizers import OptimizerConfig

ALPHAS = torch.linspace(0.999, 0.005, 1000)
KINDS = 8


def rows_of(name: str, count: int, sides: Sequence[int]) -> Callable[[int], Rows]:
    """Passes over random latents; their sides differ from pass to pass, as buckets do."""

    def rows(number: int) -> Rows:
        side = sides[keyed_generator(0, name, "side", number).integers(len(sides))]
        return Rows(
            mean=keyed_normal((count, 4, side, 8), 0, name, "mean", number),
            std=torch.full((count, 4, side, 8), 0.1),
            states=keyed_normal((count, 5, 24), 0, name, "states", number),
            pooled=keyed_normal((count, 16), 0, name, "pooled", number),
            size_ids=torch.full((count, 6), 64.0),
        )

    return rows


def trainee(number: int, *, rate: float = 1e-3, steps: int = 6) -> Trainee:
    """One of eight that differ in everything."""
    name = f"me/a{number}"
    network = NetworkConfig(
        rank=2 + number % 3,
        alpha=1.0 + number,
        conv_rank=2 * (number % 2),
        dropout=0.2 * (number == 3),
        rank_dropout=0.3 * (number == 4),
        module_dropout=0.1 * (number == 5),
        max_norm=0.02 * (number == 6),
    )
    optimizer = OptimizerConfig(
        learning_rate=rate * (1 + number),
        loraplus_ratio=1.0 + number % 2,
        betas=(0.9 - 0.05 * number, 0.99),
        max_grad_norm=0.5,
        schedule=("cosine", "linear", "constant")[number % 3],
    )
    objective = Objective(
        weighting=("min_snr", "none", "debiased")[number % 3], loss=("l2", "huber")[number % 2]
    )
    return Trainee(
        name=name,
        seed=number,
        network=network,
        optimizer=optimizer,
        objective=ObjectiveTable(objective, ALPHAS),
        steps=steps + number % 2,
        accumulation=1 + (number == 2),
        rows=rows_of(name, 1 + number % 2, (8,) if number % 4 else (8, 16)),
    )


@dataclass
class Outcome:
    """What became of each adapter."""

    factors: dict[str, Mapping[str, Tensor]]
    losses: dict[str, list[float]]
    errors: dict[str, str]
    most: int


def run(unet: UNet2DConditionModel, trainees: Sequence[Trainee], slots: int) -> Outcome:
    networks = [one.network for one in trainees]
    bank = LoraBank({"unet": unet}, networks, slots=slots, device=unet.device, dtype=unet.dtype)
    executor = Executor(unet, bank, trainees, slots=slots, dtype=unet.dtype)
    outcome = Outcome({}, {}, {}, 0)

    def ended(training: Training) -> None:
        name = training.trainee.name
        outcome.factors[name] = bank.factors_of(training.slot)
        outcome.losses[name] = training.losses
        outcome.errors[name] = training.error

    def passed(active: Sequence[Training]) -> None:
        outcome.most = max(outcome.most, len(active))

    with bank:
        assert executor.run(Events(lambda _: None, passed, ended, lambda: False))
    return outcome


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.fixture
def alone(small_unet: UNet2DConditionModel) -> Outcome:
    outcomes = [run(small_unet, [trainee(number)], 1) for number in range(KINDS)]
    return Outcome(
        {name: value for one in outcomes for name, value in one.factors.items()},
        {name: value for one in outcomes for name, value in one.losses.items()},
        {},
        1,
    )


@pytest.mark.parametrize("slots", [KINDS, 3])
def test_eight_together_equal_themselves_alone(
    small_unet: UNet2DConditionModel, alone: Outcome, slots: int
) -> None:
    together = run(small_unet, [trainee(number) for number in range(KINDS)], slots)
    assert together.most <= slots
    assert not any(together.errors.values())
    for name, factors in alone.factors.items():
        assert difference(together.factors[name], factors) <= 1e-10
        assert together.losses[name] == pytest.approx(alone.losses[name], abs=1e-10)


def test_one_that_breaks_is_frozen_and_changes_no_other(
    small_unet: UNet2DConditionModel, alone: Outcome
) -> None:
    sound = trainee(1)

    def poisoned(number: int) -> Rows:
        rows = sound.rows(number)
        return replace(rows, mean=rows.mean * float("nan")) if number == 3 else rows

    trainees = [trainee(0), replace(sound, rows=poisoned), trainee(2)]
    outcome = run(small_unet, trainees, 3)
    assert "nan" in outcome.errors["me/a1"]
    assert outcome.losses["me/a1"] == pytest.approx(alone.losses["me/a1"][:3], abs=1e-10)
    assert all(bool(value.isfinite().all()) for value in outcome.factors["me/a1"].values())
    for name in ("me/a0", "me/a2"):
        assert outcome.errors[name] == ""
        assert difference(outcome.factors[name], alone.factors[name]) <= 1e-10


def test_in_float32_the_difference_is_a_small_part_of_the_change(small_unet: UNet2DConditionModel) -> None:
    unet = small_unet.float()
    trainees = [trainee(number, rate=1e-4, steps=10) for number in range(4)]
    together = run(unet, trainees, 4)
    for one in trainees:
        start = LoraBank({"unet": unet}, [one.network], slots=1, device=unet.device)
        start.place(0, one.network, seed=one.seed, key=one.name)
        before, solo = start.factors_of(0), run(unet, [one], 1).factors[one.name]
        mine = together.factors[one.name]
        change = sum(float((solo[key] - before[key]).square().sum()) for key in solo) ** 0.5
        gap = sum(float((solo[key] - mine[key]).square().sum()) for key in solo) ** 0.5
        assert gap <= 1e-3 * change


def test_a_group_goes_on_from_a_checkpoint_to_the_same_bytes(
    small_unet: UNet2DConditionModel, tmp_path: Path
) -> None:
    trainees = [trainee(number) for number in range(4)]  # the third one takes two passes a step

    def group(
        stop_after: int, found: Checkpoint | None
    ) -> tuple[dict[str, Mapping[str, Tensor]], Checkpoint]:
        networks = [one.network for one in trainees]
        bank = LoraBank(
            {"unet": small_unet}, networks, slots=3, device=torch.device("cpu"), dtype=torch.float64
        )
        executor = Executor(small_unet, bank, trainees, slots=3, dtype=torch.float64)
        ended: dict[str, Ended] = {} if found is None else dict(found.ended)
        for name in ended:
            executor.take(name)
        for state in () if found is None else found.active:
            restore(executor, state)
        factors: dict[str, Mapping[str, Tensor]] = {}
        passes = 0 if found is None else found.passes
        first = passes

        def end(training: Training) -> None:
            factors[training.trainee.name] = bank.factors_of(training.slot)
            ended[training.trainee.name] = Ended(training.step)

        def passed(_: Sequence[Training]) -> None:
            nonlocal passes
            passes += 1

        with bank:
            executor.run(Events(lambda _: None, passed, end, lambda: passes - first >= stop_after))
        return factors, Checkpoint(passes, [state_of(one) for one in executor.active], ended, 1)

    whole, _ = group(10**6, None)
    for point in range(1, 14, 3):
        before, checkpoint = group(point, None)
        save_checkpoint(tmp_path, checkpoint, identity={"config": "1"})
        after, _ = group(10**6, load_checkpoint(tmp_path, identity={"config": "1"}))
        assert (before | after).keys() == whole.keys()
        for name, factors in whole.items():
            mine = (before | after)[name]
            assert all(torch.equal(mine[key], factors[key]) for key in factors)
        for old in tmp_path.glob("pass-*"):
            shutil.rmtree(old)
