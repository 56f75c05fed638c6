"""DoRA, LoHa and LoKr: trained as PEFT trains them, taken off again, read and composed as they were."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig
from torch import Tensor, nn

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.errors import ConfigError
from adapterhub.formats.container import safetensors_bytes
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.formats.kohya import kohya_tensors
from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import Native
from adapterhub.randomness import keyed_normal
from adapterhub.runtime.engine import Runtime
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, GroupConfig, TrainConfig
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.optimizers import OptimizerConfig, make_optimizer
from adapterhub.training.peft_network import PeftNetwork
from adapterhub.training.runs import find_runs
from adapterhub.training.text import TEXT_ENCODERS
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

CPU = torch.device("cpu")
RANK, CONV_RANK = 3, 2
PEFT = {
    "dora": lambda **settings: LoraConfig(use_dora=True, lora_alpha=4.5, **settings),
    "loha": lambda **settings: LoHaConfig(alpha=4.5, **settings),
    "lokr": lambda **settings: LoKrConfig(alpha=4.5, **settings),
}
ALGORITHMS = sorted(PEFT)


def network(algorithm: str, **changes: Any) -> NetworkConfig:
    """Scaled by 1.5."""
    config = NetworkConfig(algorithm=algorithm, rank=RANK, alpha=4.5, conv_rank=CONV_RANK, conv_alpha=3.0)
    return replace(config, **changes)


def loss_of(unet: UNet2DConditionModel, step: int) -> Tensor:
    def drawn(part: str, *shape: int) -> Tensor:
        return keyed_normal(shape, 1, part, step).double()

    added = {"text_embeds": drawn("pooled", 2, 16), "time_ids": torch.ones(2, 6).double()}
    predicted = unet(
        drawn("sample", 2, 4, 8, 8),
        torch.tensor([100, 700]),
        drawn("states", 2, 5, 24),
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return (predicted - drawn("target", 2, 4, 8, 8)).square().mean()


def parameters_of(made: PeftNetwork) -> dict[str, Tensor]:
    return {
        f"{target.module}.{name}": value.detach().clone()
        for target in made._sizes
        for name, value in made._parts(target).items()
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps_equal_pefts_by_hand_and_the_base_comes_back(
    small_unet: UNet2DConditionModel, algorithm: str
) -> None:
    by_hand = copy.deepcopy(small_unet)
    tree = {name: id(part) for name, part in small_unet.named_modules()}
    attributes = set(vars(small_unet))
    parameters = {name: (id(part), part.clone()) for name, part in small_unet.named_parameters()}
    with torch.no_grad():
        base = loss_of(small_unet, 0)
    optimizer_config = OptimizerConfig(learning_rate=1e-2)
    made = PeftNetwork({"unet": small_unet}, device=CPU, dtype=torch.float64)
    state = torch.random.get_rng_state()
    with made:
        made.place(0, network(algorithm), seed=1, key="me/ink")
        assert torch.equal(torch.random.get_rng_state(), state)
        starts = parameters_of(made)
        assert loss_of(small_unet, 0).item() == pytest.approx(base.item(), abs=1e-12)
        groups = made.parameters(0)
        optimizer = make_optimizer(optimizer_config, groups)
        for step in range(2):
            loss_of(small_unet, step).backward()
            optimizer.step()
            optimizer.zero_grad()
        made.share((), ())
        assert loss_of(small_unet, 0).item() == base.item()
        mine = parameters_of(made)
    assert {name: id(part) for name, part in small_unet.named_modules()} == tree
    assert set(vars(small_unet)) == attributes
    for name, part in small_unet.named_parameters():
        assert (id(part), part.requires_grad) == (parameters[name][0], False)
        assert torch.equal(part, parameters[name][1])

    paths = list(dict.fromkeys(key.rpartition(".")[0] for key in starts))
    convs = [path for path in paths if isinstance(by_hand.get_submodule(path), nn.Conv2d)]
    patterns = {f"^{path}": CONV_RANK for path in convs}
    alphas = {f"^{path}": 3.0 for path in convs}
    by_hand.add_adapter(
        PEFT[algorithm](r=RANK, target_modules=paths, rank_pattern=patterns, alpha_pattern=alphas)
    )
    trained: dict[str, nn.Parameter] = {}
    for path in paths:
        for name, value in by_hand.get_submodule(path).double().named_parameters():
            if "base_layer" not in name:
                part = {"lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude"}
                key = f"{path}.{part.get(name.split('.')[0], name.split('.')[0])}"
                value.data.copy_(starts[key])
                trained[key] = value.requires_grad_()
    assert trained.keys() == mine.keys()
    theirs = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.01)
    for step in range(2):
        loss_of(by_hand, step).backward()
        theirs.step()
        theirs.zero_grad()
    assert max(float((mine[key] - trained[key]).detach().abs().max()) for key in mine) <= 1e-10
    assert max(float((mine[key] - starts[key]).abs().max()) for key in mine) > 1e-3


def test_the_same_seed_and_name_draw_the_same_layers(small_unet: UNet2DConditionModel) -> None:
    drawn: list[dict[str, Tensor]] = []
    for seed, key in ((1, "me/ink"), (1, "me/ink"), (2, "me/ink"), (1, "me/wash")):
        with PeftNetwork({"unet": small_unet}, device=CPU) as made:
            made.place(0, network("loha", conv_rank=0), seed=seed, key=key)
            drawn.append(parameters_of(made))
    first, *others = ([part.sum().item() for part in one.values()] for one in drawn)
    assert [one == first for one in others] == [True, False, False]


@pytest.fixture(scope="module")
def mini() -> Any:
    return load_pipeline(find_base("mini"), device="cpu", dtype="float32")


@pytest.mark.parametrize(("algorithm", "rank"), [("dora", 2), ("loha", 2), ("lokr", 2), ("lokr", 64)])
def test_its_file_composes_to_the_same_prediction(
    mini: Any, home: Path, tmp_path: Path, algorithm: str, rank: int
) -> None:
    """At rank 64 both factors of a LoKr are whole."""
    inputs: dict[str, Any] = {
        "sample": keyed_normal((2, 4, 16, 16), 1, "sample"),
        "timestep": 500,
        "encoder_hidden_states": keyed_normal((2, 77, mini.unet.config.cross_attention_dim), 1, "states"),
        "added_cond_kwargs": {
            "text_embeds": keyed_normal((2, mini.text_encoder_2.config.projection_dim), 1, "pooled"),
            "time_ids": torch.full((2, 6), 64.0),
        },
        "return_dict": False,
    }
    components = {name: getattr(mini, name) for name in ("unet", *TEXT_ENCODERS)}
    config = network(algorithm, rank=rank, text_rank=2)
    with torch.no_grad(), PeftNetwork(components, device=CPU) as made:
        base = mini.unet(**inputs)[0]
        made.place(0, config, seed=1, key="me/ink")
        for number, values in enumerate(made.parameters(0).values()):
            for place, value in enumerate(values):
                value += 0.03 * keyed_normal(tuple(value.shape), 2, number, place)
        trained = mini.unet(**inputs)[0]
        words = mini.encode_prompt("a red apple", num_images_per_prompt=1)[0]
        tensors = made.tensors(0)
    assert {layer.algorithm for layer in tensors.layers.values()} == {algorithm}
    assert all(isinstance(layer, Native) for layer in tensors.layers.values())
    file = tmp_path / "ink.safetensors"
    as_peft = algorithm == "dora"
    file.write_bytes(diffusers_bytes(tensors) if as_peft else safetensors_bytes(kohya_tensors(tensors), {}))
    registry = Registry(home)
    registry.add(file, name="me/ink", base="mini")
    with Runtime.wrap(mini, registry=registry) as runtime, torch.no_grad():
        runtime.compose("me/ink")
        composed = runtime.pipeline.unet(**inputs)[0]
        theirs = runtime.pipeline.encode_prompt("a red apple", num_images_per_prompt=1)[0]
    assert (trained - base).abs().max() > 1e-3 * base.abs().max()
    assert (composed - trained).abs().max() <= 1e-5 * trained.abs().max()
    assert (theirs - words).abs().max() <= 1e-5 * words.abs().max()


def test_a_config_with_several_algorithms_trains_each_and_goes_on_from_its_checkpoint(
    pictures: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    folder = pictures()

    def adapter(algorithm: str) -> AdapterConfig:
        return AdapterConfig(
            name=f"me/{algorithm}",
            data=(DataConfig(folder),),
            steps=2,
            batch_size=1,
            accumulation=2,
            save_every=1,
            network=NetworkConfig(
                algorithm=algorithm, rank=2, targets=("attn",), text_rank=2 * (algorithm == "loha")
            ),
        )

    def config(*algorithms: str) -> TrainConfig:
        return TrainConfig(
            BaseConfig("mini", device="cpu"), tuple(adapter(algorithm) for algorithm in algorithms)
        )

    registry = Registry(home)
    algorithms = ("dora", "loha")
    versions = train(config(*algorithms), registry=registry)
    found = [read_adapter(registry.directory(version) / version.files[0].path) for version in versions]
    assert [one.algorithms for one in found] == [("dora",), ("loha",)]
    assert [one.components for one in found] == [("unet",), ("text_encoder", "text_encoder_2", "unet")]
    run = json.loads(registry.read(registry.documents(versions[0])[-1].sha256))
    assert (run["steps"], run["group"]) == (2, ["me/dora"])
    base: Any = load_pipeline(find_base("mini"), device="cpu", dtype="float32")
    modules = [(base.unet,), (base.unet, base.text_encoder, base.text_encoder_2)]
    weights = [sum(value.numel() for part in own for value in part.parameters()) for own in modules]
    statuses = {one.name: one for status in find_runs(home) for one in status.adapters}
    assert [statuses[f"me/{name}"].efficiency["frozen"] for name in algorithms] == weights

    # The last checkpoint was written after the first of two steps.
    again = Registry(tmp_path / "again")
    runs = [path.name for path in (home / "runs").iterdir() if path.name.startswith("me--dora")]
    (again.home / "runs").mkdir(parents=True)
    (home / "runs" / runs[0]).rename(again.home / "runs" / runs[0])
    (version,) = train(config("dora"), registry=again, resume="latest")
    assert version.digest == versions[0].digest


def test_what_only_lora_can_is_refused_for_the_others() -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkConfig(algorithm="loha", dropout=0.1, max_norm=1.0)
    assert caught.value.problems == [
        "dropout is for lora alone, not for loha",
        "max_norm is for lora alone, not for loha",
    ]
    data = (DataConfig(Path("pictures")),)
    with pytest.raises(ConfigError, match="loraplus_ratio must be 1 for lokr"):
        AdapterConfig(
            "me/a", data, network=NetworkConfig("lokr"), optimizer=OptimizerConfig(loraplus_ratio=4.0)
        )
    with pytest.raises(ConfigError, match='"stacked" trains lora alone, and me/a is dora'):
        TrainConfig(
            BaseConfig("mini"),
            (AdapterConfig("me/a", data, network=NetworkConfig("dora")),),
            GroupConfig(executor="stacked"),
        )
