"""Optimizers and their rates: by group, from checkpoints, and those of the extra."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.optim import Optimizer

from adapterhub.errors import ConfigError
from adapterhub.randomness import keyed_normal
from adapterhub.training.bank import LoraBank
from adapterhub.training.checkpoint import Checkpoint, load_checkpoint, restore, save_checkpoint, state_of
from adapterhub.training.executor import Events, Executor, Rows, Trainee, Training
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective, ObjectiveTable
from adapterhub.training.optimizers import (
    OptimizerConfig,
    as_state,
    exact,
    group_numbers,
    make_optimizer,
    set_group_numbers,
)

CPU = torch.device("cpu")
NETWORK = NetworkConfig(rank=4, targets=("attn",))


def rows(number: int) -> Rows:
    return Rows(
        mean=keyed_normal((2, 4, 8, 8), 0, "mean", number),
        std=torch.full((2, 4, 8, 8), 0.1),
        states=keyed_normal((2, 5, 24), 0, "states", number),
        pooled=keyed_normal((2, 16), 0, "pooled", number),
        size_ids=torch.full((2, 6), 64.0),
    )


def train(
    unet: UNet2DConditionModel,
    optimizer: OptimizerConfig,
    *,
    until: int = 10**6,
    found: Checkpoint | None = None,
) -> tuple[Mapping[str, Tensor], Checkpoint]:
    """Train for eight steps, or for `until` passes more than were found."""
    objective = ObjectiveTable(Objective(), torch.linspace(0.999, 0.005, 1000))
    trainee = Trainee("me/ink", 1, NETWORK, optimizer, objective, 8, 1, rows)
    bank = LoraBank({"unet": unet}, [NETWORK], slots=1, device=CPU)
    executor = Executor(unet, bank, [trainee], slots=1)
    factors: dict[str, Tensor] = {}
    passes = 0

    def passed(_: Sequence[Training]) -> None:
        nonlocal passes
        passes += 1

    def ended(training: Training) -> None:
        factors.update(bank.factors_of(training.slot))

    with bank:
        for state in () if found is None else found.active:
            restore(executor, state)
        executor.run(Events(lambda _: None, passed, ended, lambda: passes >= until))
    return factors, Checkpoint(passes, [state_of(one) for one in executor.active], {}, 1)


@pytest.mark.parametrize(
    ("name", "package"), [("adamw", "torch"), ("prodigy", "prodigyopt"), ("adamw8bit", "bitsandbytes")]
)
def test_an_optimizer_goes_on_from_a_checkpoint_to_the_same_bytes(
    small_unet: UNet2DConditionModel,
    tmp_path: Path,
    name: str,
    package: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(package)
    unet = small_unet.float()
    config = OptimizerConfig(name, learning_rate=1.0 if name == "prodigy" else 1e-3)
    whole, _ = train(unet, config)
    assert max(float(value.abs().max()) for key, value in whole.items() if key.endswith(".up")) > 0
    _, stopped = train(unet, config, until=4)
    save_checkpoint(tmp_path, stopped, identity={})
    resumed, _ = train(unet, config, found=load_checkpoint(tmp_path, identity={}))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert capsys.readouterr().out == ""


def test_prodigy_keeps_the_rate_that_it_found() -> None:
    inputs, wanted = keyed_normal((16, 8), 0, "inputs"), keyed_normal((16, 8), 0, "wanted")

    def make() -> tuple[Optimizer, list[nn.Parameter]]:
        sides = [nn.Parameter(keyed_normal((4, 8), 0, "down")), nn.Parameter(torch.zeros(8, 4))]
        config = OptimizerConfig("prodigy", learning_rate=1.0)
        optimizer = make_optimizer(config, {("unet", "down"): sides[:1], ("unet", "up"): sides[1:]})
        return optimizer, sides

    def train(optimizer: Optimizer, sides: list[nn.Parameter]) -> None:
        for _ in range(30):
            (inputs @ sides[0].mT @ sides[1].mT - wanted).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, sides = make()
    train(whole, sides)
    numbers = group_numbers(whole)
    assert numbers["0.d"].item() == numbers["1.d"].item() > 2e-6
    other, others = make()
    set_group_numbers(other, numbers)
    for mine, theirs in zip(sides, others, strict=True):
        theirs.data.copy_(mine)
        state = {key: exact(value).clone() for key, value in whole.state[mine].items()}
        other.state[theirs] = {key: as_state(value, CPU) for key, value in state.items()}
    train(whole, sides)
    train(other, others)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(sides, others, strict=True))
    assert group_numbers(whole) == group_numbers(other)


def test_prodigy_has_one_rate_for_all_components_and_sides() -> None:
    config = OptimizerConfig("prodigy", learning_rate=1.0)
    parts = [(component, side) for component in ("unet", "text_encoder") for side in ("down", "up")]
    assert {config.rate(*part) for part in parts} == {1.0}
    with pytest.raises(ConfigError, match="prodigy has one rate alone"):
        OptimizerConfig("prodigy", text_learning_rate=(0.5, 0.5))
    with pytest.raises(ConfigError, match="prodigy has one rate alone"):
        OptimizerConfig("prodigy", loraplus_ratio=16.0)


def test_rates_are_those_of_component_and_side() -> None:
    config = OptimizerConfig(learning_rate=1e-3, text_learning_rate=(2e-5, 0.0), loraplus_ratio=4.0)
    assert math.isclose(config.rate("unet", "up"), 4e-3)
    assert math.isclose(config.rate("text_encoder", "down"), 2e-5)
    assert math.isclose(config.rate("text_encoder_2", "up"), 4e-4)
