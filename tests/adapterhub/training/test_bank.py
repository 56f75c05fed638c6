"""Adapters together in one bank: each as PEFT trains it alone."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from adapterhub.randomness import keyed_normal
from adapterhub.training.bank import LoraBank
from adapterhub.training.layers import NetworkConfig, layer_sizes, trainable_layers

CPU = torch.device("cpu")
Inputs = Mapping[str, Any]


def inputs_of(name: str, step: int, count: int) -> Inputs:
    """What one adapter's samples are in one step."""
    drawn = {
        part: keyed_normal(shape, 1, name, part, step).double()
        for part, shape in (
            ("sample", (count, 4, 8, 8)),
            ("encoder_hidden_states", (count, 5, 24)),
            ("text_embeds", (count, 16)),
            ("target", (count, 4, 8, 8)),
        )
    }
    return {**drawn, "timestep": torch.arange(count) * 100 + step}


def predict(unet: UNet2DConditionModel, inputs: Inputs) -> Tensor:
    """The UNet's answer; in the time ids are six numbers a sample."""
    count = len(inputs["sample"])
    added = {"text_embeds": inputs["text_embeds"], "time_ids": torch.ones(count, 6).double()}
    return unet(
        inputs["sample"],
        inputs["timestep"],
        inputs["encoder_hidden_states"],
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def joined(many: Sequence[Inputs]) -> Inputs:
    return {name: torch.cat([inputs[name] for inputs in many]) for name in many[0]}


def train_by_peft(
    unet: UNet2DConditionModel, config: NetworkConfig, start: Mapping[str, Tensor], name: str, count: int
) -> dict[str, Tensor]:
    """Three steps of AdamW on PEFT's layers, with the gradient clipped; returns the factors."""
    unet = copy.deepcopy(unet)
    sizes = layer_sizes(config, trainable_layers({"unet": unet}))
    paths = [target.module for target in sizes]
    ranks = {
        f"^{path}$".replace(".", r"\."): size.rank for path, size in zip(paths, sizes.values(), strict=True)
    }
    alphas = {pattern: size.scale * size.rank for pattern, size in zip(ranks, sizes.values(), strict=True)}
    unet.add_adapter(LoraConfig(r=4, target_modules=paths, rank_pattern=ranks, alpha_pattern=alphas))
    trained: dict[str, nn.Parameter] = {}
    for path in paths:
        layer: Any = unet.get_submodule(path)
        for side, part in (("down", layer.lora_A), ("up", layer.lora_B)):
            weight = part["default"].double().weight
            weight.data.copy_(start[f"unet.{path}.{side}"].view_as(weight))
            trained[f"unet.{path}.{side}"] = weight
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.01)
    for step in range(3):
        inputs = inputs_of(name, step, count)
        (predict(unet, inputs) - inputs["target"]).square().mean().backward()
        nn.utils.clip_grad_norm_(trained.values(), 0.05)
        optimizer.step()
        optimizer.zero_grad()
    return {key: weight.detach().flatten(1) for key, weight in trained.items()}


CONFIGS = {
    "plain": NetworkConfig(rank=4, alpha=2.0),
    "wide": NetworkConfig(rank=7, rank_stabilized=True, targets=("attn",)),
    "conv": NetworkConfig(rank=2, conv_rank=3, rank_pattern={"mid_block": 5, "*.attn2.*": 0}),
}


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 3, 2)])
def test_adapters_trained_together_equal_pefts_alone(
    small_unet: UNet2DConditionModel, counts: tuple[int, ...]
) -> None:
    bank = LoraBank({"unet": small_unet}, list(CONFIGS.values()), slots=3, device=CPU, dtype=torch.float64)
    for slot, (name, config) in enumerate(CONFIGS.items()):
        bank.place(slot, config, seed=slot, key=name)
    starts = [bank.factors_of(slot) for slot in range(3)]
    rows = [nn.Parameter(bank.factors[slot]) for slot in range(3)]
    for slot, row in enumerate(rows):
        row.grad = bank.gradients[slot]
    optimizers = [torch.optim.AdamW([row], lr=1e-2, weight_decay=0.01) for row in rows]
    with bank:
        for step in range(3):
            parts = [inputs_of(name, step, count) for name, count in zip(CONFIGS, counts, strict=True)]
            inputs = joined(parts)
            bank.share(range(3), counts, [step] * 3)
            bank.gradients.zero_()
            errors = (predict(small_unet, inputs) - inputs["target"]).square()
            sum(part.mean() for part in errors.split(counts)).backward()
            for row, optimizer in zip(rows, optimizers, strict=True):
                nn.utils.clip_grad_norm_([row], 0.05)
                optimizer.step()
    for slot, (name, config) in enumerate(CONFIGS.items()):
        alone = train_by_peft(small_unet, config, starts[slot], name, counts[slot])
        together = bank.factors_of(slot)
        assert together.keys() == alone.keys()
        assert max(float((together[key] - alone[key]).abs().max()) for key in alone) <= 1e-10
        assert any(float((together[key] - starts[slot][key]).abs().max()) > 1e-3 for key in alone)
