"""Training end to end: lineage, stock loading, resume to the byte."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load

from adapterhub.errors import CheckpointError, TrainingError
from adapterhub.runtime.engine import Runtime
from adapterhub.training.checkpoint import FORMAT
from adapterhub.training.config import (
    AdapterConfig,
    BaseConfig,
    DataConfig,
    GroupConfig,
    TrainConfig,
    ValidationConfig,
)
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.run import Progress
from adapterhub.training.runs import find_runs
from adapterhub.training.train import plan, train
from adapterhub_registry.store import Registry

Pictures = Callable[..., Path]
MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"


def config(folder: Path, **changes: object) -> TrainConfig:
    adapter = AdapterConfig(
        name="me/ink",
        data=(DataConfig(folder),),
        trigger_words=("inkwash",),
        kind="style",
        tags=("test",),
        steps=6,
        batch_size=2,
        seed=3,
        network=NetworkConfig(rank=4),
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )
    return TrainConfig(BaseConfig("mini", device="cpu"), adapters=(replace(adapter, **changes),))  # pyright: ignore[reportArgumentType]


def weights_of(registry: Registry, name: str = "me/ink") -> bytes:
    return registry.read(registry.resolve(name).files[0].sha256)


def test_a_trained_version_carries_its_lineage(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    folder = pictures()
    seen: list[Progress] = []
    prompts = ("inkwash blob 1", "a star")
    (version,) = train(
        config(folder, validation=ValidationConfig(prompts)), registry=registry, on_progress=seen.append
    )
    assert (version.reference, version.architecture, version.trigger_words) == (
        "me/ink@1",
        "mini",
        ("inkwash",),
    )
    assert version.base_identity == json.loads((MINI / "card.json").read_text())["identity"]
    assert version.lineage["operation"] == "trained"
    documents = {item.name: registry.read(item.sha256) for item in registry.documents(version)}
    for name in ("config", "data", "run"):
        digest = hashlib.sha256(documents[f"{name}.json"]).hexdigest()
        assert version.lineage[name] == f"sha256:{digest}"
    assert json.loads(documents["config.json"])["network"]["rank"] == 4
    assert len(json.loads(documents["run.json"])["losses"]) == 6
    assert [item["file"] for item in json.loads(documents["data.json"])["pictures"]][:2] == ["0.png", "1.png"]
    adapter = registry.show("me/ink")
    assert (adapter.kind, adapter.tags) == ("style", ("test",))
    assert [(item.prompt, item.seed) for item in registry.previews(version)] == [
        (prompts[0], 0),
        (prompts[1], 1),
    ]
    made_with = registry.previews(version)[0].settings
    assert (made_with["steps"], made_with["guidance_scale"], made_with["width"]) == ("20", "5", "64")
    assert (made_with["weight"], made_with["base"]) == ("1", "mini")
    assert [(item.step, item.steps) for item in seen] == [(n, 6) for n in range(1, 7)]
    for private in (str(folder), str(home), "localhost"):
        assert private.encode() not in weights_of(registry) + b"".join(documents.values())


def test_the_same_training_again_gives_the_same_bytes_and_no_new_version(
    pictures: Pictures, home: Path
) -> None:
    registry = Registry(home)
    folder = pictures()
    train(config(folder), registry=registry)
    first = weights_of(registry)
    (version,) = train(config(folder), registry=registry)
    assert (version.number, weights_of(registry)) == (1, first)
    (version,) = train(config(folder, seed=4), registry=registry)
    assert version.number == 2
    assert weights_of(registry) != first


def test_adapters_do_not_depend_on_their_neighbours(pictures: Pictures, home: Path, tmp_path: Path) -> None:
    folder = pictures()
    (ink,) = config(folder, steps=20).adapters
    corgi = replace(ink, name="me/corgi", steps=12, batch_size=1, network=NetworkConfig(rank=8))
    together = Registry(home)
    versions = train(TrainConfig(BaseConfig("mini", device="cpu"), (corgi, ink)), registry=together)
    assert [version.name for version in versions] == ["me/corgi", "me/ink"]
    alone = Registry(tmp_path / "alone")
    train(config(folder, steps=20), registry=alone)
    ours, solo = (load(weights_of(registry)) for registry in (together, alone))
    assert ours.keys() == solo.keys()
    ups = [name for name in solo if "lora_B" in name]  # zero at the start
    change = sum(float(solo[name].square().sum()) for name in ups) ** 0.5
    gap = sum(float((solo[name] - ours[name]).square().sum()) for name in ups) ** 0.5
    assert change > 0
    assert gap <= 1e-3 * change
    kept = TrainConfig(BaseConfig("mini", device="cpu"), (corgi, ink), GroupConfig(executor="sequential"))
    apart = Registry(tmp_path / "apart")
    train(kept, registry=apart)
    assert weights_of(apart) == weights_of(alone)


def test_trained_files_load_in_stock_diffusers_and_compose_the_same(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    (version,) = train(
        config(
            pictures(),
            steps=10,
            optimizer=OptimizerConfig(learning_rate=5e-3),
            network=NetworkConfig(rank=4, alpha=8.0),
        ),
        registry=registry,
    )
    stock = StableDiffusionXLPipeline.from_pretrained(MINI)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(registry.directory(version))

    def draw(pipeline: StableDiffusionXLPipeline) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(1)
        output = pipeline("inkwash blob", num_inference_steps=4, generator=generator, output_type="pt")
        return output.images[0]

    with Runtime.load("mini", registry=registry, device="cpu") as runtime:
        base = draw(runtime.pipeline)
        runtime.compose("me/ink")
        composed = draw(runtime.pipeline)
    assert (composed - draw(stock)).abs().max() <= 1e-4
    assert (composed - base).abs().max() > 0.01


def test_a_checkpoint_of_another_config_or_a_damaged_one_is_refused(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    folder = pictures()
    train(config(folder, save_every=3), registry=registry)
    (item,) = plan(config(folder, save_every=3), registry=registry)
    with pytest.raises(CheckpointError, match="the run is me--ink-"):
        plan(config(folder, seed=9), registry=registry, resume=item.run)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        plan(config(folder, seed=9), registry=registry, resume="latest")
    coarser = replace(config(folder), base=BaseConfig("mini", device="cpu", dtype="bfloat16"))
    with pytest.raises(CheckpointError, match="another dtype"):
        plan(coarser, registry=registry, resume="latest")
    (path,) = (home / "runs" / item.run).glob("pass-*/adapter-0.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        plan(config(folder), registry=registry, resume="latest")
    state = path.with_name("state.json")
    state.write_text(state.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(CheckpointError, match=f"its format is 99, and this release reads {FORMAT}"):
        plan(config(folder), registry=registry, resume="latest")


def test_a_loss_that_is_no_number_stops_the_run_and_registers_nothing(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    with pytest.raises(TrainingError) as caught:
        train(config(pictures(), optimizer=OptimizerConfig(learning_rate=1e30), steps=20), registry=registry)
    assert caught.value.name == "me/ink"
    assert registry.list() == []
    (status,) = find_runs(home)
    assert (status.state, status.adapters[0].error) == ("failed", caught.value.reason)
    assert (home / "runs" / status.run / status.adapters[0].report).is_file()


def test_a_plan_says_what_would_happen_and_writes_nothing(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    folder = pictures(4)
    (folder / "3.txt").write_text("no trigger here")
    (item,) = plan(config(folder, steps=10), registry=registry)
    assert (item.epochs, item.without_trigger, item.next_number, item.resumes_at) == (5.0, 1, 1, 0)
    assert not (home / "runs").exists()


def test_a_damaged_cache_is_made_again(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    folder = pictures()
    train(config(folder), registry=registry)
    first = weights_of(registry)
    for file in (home / "cache" / "encodings").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    (version,) = train(config(folder), registry=registry)
    assert (version.number, weights_of(registry)) == (1, first)


def test_a_changed_picture_is_not_taken_from_the_cache(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    folder = pictures()
    train(config(folder), registry=registry)
    Image.new("RGB", (64, 64), "green").save(folder / "0.png")
    (version,) = train(config(folder), registry=registry)
    assert version.number == 2


def test_the_newest_checkpoints_are_gone_on_from_and_other_groups_begin(
    pictures: Pictures, home: Path, tmp_path: Path
) -> None:
    folder = pictures()
    (ink,) = config(folder, save_every=4).adapters
    base, apart = BaseConfig("mini", device="cpu"), GroupConfig(executor="sequential")
    both = TrainConfig(base, (ink, replace(ink, name="me/corgi")), apart)
    whole = Registry(tmp_path / "whole")
    train(both, registry=whole)
    registry = Registry(home)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        plan(both, registry=registry, resume="latest")
    train(replace(both, adapters=(ink,)), registry=registry)  # and then the process died, say
    assert [item.resumes_at for item in plan(both, registry=registry, resume="latest")] == [4, 0]
    versions = train(both, registry=registry, resume="latest")
    assert [one.digest for one in versions] == [whole.resolve(one.name).digest for one in versions]
