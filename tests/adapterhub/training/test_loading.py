"""How the base is held changes no number: checkpointing, layout, compiled blocks, precision, idle parts."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch._dynamo.utils import counters

from adapterhub.bases.compiled import CompiledBlocks
from adapterhub.bases.find import find_base
from adapterhub.errors import ConfigError
from adapterhub.randomness import keyed_normal
from adapterhub.training.bank import LoraBank
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.executor import Events, Executor, Rows, Trainee, Training
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.loading import (
    IdleParts,
    checkpoint_blocks,
    deterministic_kernels,
    idle_parts,
    load_for_training,
)
from adapterhub.training.objective import Objective, ObjectiveTable
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.text import TEXT_ENCODERS

CPU = torch.device("cpu")
SIZE_IDS = [1365.0, 1707.0, 0.0, 171.0, 1024.0, 1024.0]


LARGE = 1e-3
"""What makes the loss of one number of these latents as small as that of one in a large picture."""


def tiny_unet() -> UNet2DConditionModel:
    """One level: each shape of a block is compiled, so there are few."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            transformer_layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=24,
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=40,
        )
    return unet.eval().requires_grad_(requires_grad=False)


def rows(number: int) -> Rows:
    return Rows(
        mean=keyed_normal((2, 4, 8, 8), 0, "mean", number),
        std=torch.full((2, 4, 8, 8), 0.1),
        states=keyed_normal((2, 5, 24), 0, "states", number),
        pooled=keyed_normal((2, 16), 0, "pooled", number),
        size_ids=torch.tensor([SIZE_IDS] * 2),
        is_prior=[True, True],
    )


def train(
    unet: UNet2DConditionModel,
    *,
    steps: int = 3,
    rate: float = 1e-3,
    dtype: torch.dtype = torch.float64,
    on_step: Callable[[Training], None] = lambda _: None,
    dropout: float = 0.0,
    count: int = 2,
    conv_rank: int = 2,
    prior_weight: float = 1.0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train adapters, and return the factors of the first one, at the start and at the end."""
    networks = [NetworkConfig(rank=4, conv_rank=conv_rank, dropout=dropout), NetworkConfig(rank=2)][-count:]
    bank = LoraBank({"unet": unet}, networks, slots=count, device=CPU, dtype=dtype)
    objective = ObjectiveTable(Objective(prior_weight=prior_weight), torch.linspace(0.999, 0.005, 1000))
    optimizer = OptimizerConfig(learning_rate=rate)
    trainees = [
        Trainee(f"me/a{number}", number, network, optimizer, objective, steps, 1, rows)
        for number, network in enumerate(networks)
    ]
    executor = Executor(unet, bank, trainees, slots=count, dtype=dtype)
    ends: dict[str, dict[str, Tensor]] = {}

    def ended(training: Training) -> None:
        assert training.error == ""
        ends[training.trainee.name] = bank.factors_of(training.slot)

    start = LoraBank({"unet": unet}, networks, slots=1, device=CPU, dtype=dtype)
    start.place(0, networks[0], seed=0, key="me/a0")
    with bank:
        executor.run(Events(on_step, lambda _: None, ended, lambda: False))
    return start.factors_of(0), ends["me/a0"]


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize("every", [1, 2])
def test_activations_that_are_computed_again_give_the_same_numbers(every: int) -> None:
    kept = train(tiny_unet().double(), dropout=0.3)[1]
    unet = tiny_unet().double()
    checkpoint_blocks(unet, every=every)
    parts = [part for part in unet.modules() if hasattr(part, "gradient_checkpointing")]
    assert [vars(part)["gradient_checkpointing"] for part in parts][:3] == [True, every == 1, True]
    assert gap(train(unet, dropout=0.3)[1], kept) <= 1e-12


def test_channels_last_gives_the_same_numbers() -> None:
    unet: Any = tiny_unet().double()
    plain = train(unet)[1]
    unet.to(memory_format=torch.channels_last)
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert gap(train(unet)[1], plain) <= 1e-12


@pytest.mark.parametrize("count", [1, 2])
def test_compiled_blocks_give_the_same_numbers_and_are_compiled_once(count: int) -> None:
    unet = tiny_unet()
    plain = train(unet, dtype=torch.float32, conv_rank=0, steps=2, count=count)[1]
    graphs: list[int] = []
    counters.clear()
    with closing(CompiledBlocks(unet, "aot_eager")):
        mine = train(
            unet,
            dtype=torch.float32,
            conv_rank=0,
            steps=2,
            count=count,
            on_step=lambda _: graphs.append(counters["stats"]["unique_graphs"]),
        )[1]
    assert graphs[0] > 0
    assert graphs == [graphs[0]] * 2 * count
    assert gap(mine, plain) <= 1e-6


def test_under_bfloat16_nearly_all_entries_move_and_size_ids_stay_exact() -> None:
    unet = tiny_unet().bfloat16()
    seen: list[Tensor] = []
    unet.add_time_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    start, end = train(unet, steps=100, rate=1e-4, dtype=torch.float32, count=1)
    downs = [key for key in start if key.endswith(".down")]
    moved = sum(int((start[key] != end[key]).sum()) for key in downs)
    assert moved >= 0.99 * sum(start[key].numel() for key in downs)
    assert all(one.dtype == torch.float32 and one.tolist()[:6] == SIZE_IDS for one in seen)


def test_under_float16_the_gradients_keep_their_digits() -> None:
    """Adam's first step moves each entry by the sign of its gradient, however small that is."""
    exact = train(tiny_unet().double(), steps=1, prior_weight=LARGE)[1]
    half = train(tiny_unet().half(), steps=1, prior_weight=LARGE, dtype=torch.float32)[1]
    ups = [key for key in exact if key.endswith(".up")]
    same = sum(int((exact[key].sign() == half[key].sign()).sum()) for key in ups)
    assert same >= 0.97 * sum(exact[key].numel() for key in ups)


def test_deterministic_kernels_are_asked_for_and_given_back() -> None:
    before = torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    with deterministic_kernels(wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
        first = train(tiny_unet(), dtype=torch.float32)[1]
    assert (torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")) == before
    assert gap(train(tiny_unet(), dtype=torch.float32)[1], first) == 0


def test_what_no_pass_reads_leaves_an_accelerator() -> None:
    accelerators = [torch.device("cuda"), torch.device("mps")]
    for device in accelerators:
        assert idle_parts(device, trains_text=False) == ("vae", *TEXT_ENCODERS)
        assert idle_parts(device, trains_text=True) == ("vae",)
    assert idle_parts(CPU, trains_text=False) == ()


class Moves(torch.nn.Module):
    """Records where it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cuda")
        self.sent: list[str] = []

    def to(self, device: torch.device) -> "Moves":
        self.sent.append(device.type)
        return self


def test_idle_parts_come_back_when_they_are_needed() -> None:
    class Pipeline:
        unet, vae, text_encoder = Moves(), Moves(), Moves()

    idle = IdleParts(Pipeline)  # pyright: ignore[reportArgumentType]
    with idle.at_hand():
        pass
    with idle.away(("vae",)), idle.at_hand():
        pass
    assert Pipeline.vae.sent == ["cpu", "cuda", "cpu", "cuda"]
    assert Pipeline.unet.sent == Pipeline.text_encoder.sent == []


def test_a_config_decides_how_the_base_is_loaded() -> None:
    config = BaseConfig("mini", device="cpu", dtype="bfloat16", gradient_checkpointing=1, channels_last=True)
    unet: Any = load_for_training(find_base("mini"), config).unet
    assert unet.dtype == torch.bfloat16
    assert unet.is_gradient_checkpointing
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (NetworkConfig(dropout=0.1), "its dropouts draw other masks in each step"),
        (NetworkConfig("lokr"), "PEFT's layers of lokr take the place of modules in the blocks"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(network: NetworkConfig, reason: str) -> None:
    adapter = AdapterConfig("me/a", (DataConfig(Path("pictures")),), network=network)
    with pytest.raises(ConfigError) as caught:
        TrainConfig(BaseConfig("mini", compile=True), (adapter,))
    assert caught.value.problems == [f"base.compile must be false for me/a: {reason}"]
