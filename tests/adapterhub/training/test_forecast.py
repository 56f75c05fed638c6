"""What a plan foretells, beside counts of torch and PEFT and what a training really takes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.profiler import ProfilerActivity, profile

from adapterhub.bases.find import Base, find_base
from adapterhub.bases.single_file import CONFIGS
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.forecast import make_forecasts
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.plan import make_plan
from adapterhub.training.rehearsal import PassShape, Rehearsal
from adapterhub.training.train import train
from adapterhub.training.workload import measure_workload
from adapterhub_registry.store import Registry
from tests.sdxl_configs import SDXL_UNET

Pictures = Callable[..., Path]
LINEARS = r".*attentions.*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)"


def counted_by_peft(unet: nn.Module, rank: int) -> tuple[int, int]:
    """Return the numbers that PEFT trains, and those of the UNet."""
    frozen = sum(value.numel() for value in unet.parameters())
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=LINEARS), unet)
    return sum(value.numel() for name, value in unet.named_parameters() if "lora_" in name), frozen


def test_trained_numbers_are_those_that_peft_counts(tmp_path: Path) -> None:
    sdxl = Base("sdxl", CONFIGS, CONFIGS, {}, None, tmp_path)
    for base, config in ((find_base("mini"), find_base("mini").settings("unet")), (sdxl, SDXL_UNET)):
        rehearsal = Rehearsal(base, BaseConfig("any"), dtype="bfloat16")
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
        frozen = sum(value.numel() for value in rehearsal.modules(trains_text=False)["unet"].parameters())
        assert (rehearsal.trained_numbers(NetworkConfig(rank=16)), frozen) == counted_by_peft(unet, 16)


def test_work_is_counted_in_floating_point_operations_and_in_bytes_held() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 30, bias=False))
        inputs, image, kernel = torch.empty(5, 10), torch.empty(1, 2, 8, 8), torch.empty(3, 2, 3, 3)
    with torch.no_grad():
        work = measure_workload(lambda: layers(inputs))
    assert (work.linear, work.operations) == (2 * 5 * 10 * 20 + 2 * 5 * 20 * 30, 2)
    assert work.peak_bytes == 4 * 5 * (20 + 30)
    assert work.written_bytes == 4 * 5 * (20 + 30)
    work = measure_workload(lambda: nn.functional.conv2d(image, kernel, padding=1))
    assert work.convolution == 2 * (3 * 8 * 8) * (2 * 3 * 3)
    query = torch.empty(1, 2, 7, 4, device="meta")
    attend = nn.functional.scaled_dot_product_attention
    work = measure_workload(lambda: attend(query, query, query))
    assert work.attention == 2 * (2 * 7 * 7 * 4) * 2


def test_checkpointed_blocks_hold_less_and_compute_a_forward_again() -> None:
    network, shape = NetworkConfig(rank=4), PassShape((1,), (64, 64))
    plain, checkpointed = (
        Rehearsal(find_base("mini"), BaseConfig("mini", gradient_checkpointing=every), dtype="float32").train(
            [network], shape, slots=1
        )
        for every in (0, 1)
    )
    assert checkpointed.peak_bytes < plain.peak_bytes / 3
    # Forward and backward of frozen weights are two forwards, and a third one is between a half and all.
    assert 1.25 * plain.flops < checkpointed.flops < 1.5 * plain.flops


def test_foretold_memory_is_what_the_allocator_gives_out(pictures: Pictures, home: Path) -> None:
    folder = pictures(4)
    adapters = tuple(
        AdapterConfig(
            name=f"me/{name}",
            data=(DataConfig(folder),),
            steps=3,
            batch_size=2,
            network=NetworkConfig(rank=rank),
        )
        for name, rank in (("ink", 4), ("wash", 16))
    )
    config = TrainConfig(BaseConfig("mini", device="cpu"), adapters)
    registry = Registry(home)
    base = find_base("mini")
    (forecast,) = make_forecasts(make_plan(config, base, registry=registry), config, base)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        train(config, registry=registry)
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert forecast.phase == "training"
    assert forecast.peak_bytes == pytest.approx(peak, rel=0.1)
    assert forecast.seconds > 0
    ink, wash = forecast.efficiency["me/ink"], forecast.efficiency["me/wash"]
    assert wash.trainable == 4 * ink.trainable
    for name, cost in (("me/ink", ink), ("me/wash", wash)):
        file = registry.resolve(name).files[0]
        assert cost.adapter_bytes == pytest.approx(file.size, rel=0.1)  # that of the header is left out
        assert cost.optimizer_bytes == cost.trainable * 8
