"""Scores of sample pictures, with small random models: the numbers are those of a straight computation."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from adapterhub.errors import ConfigError, ScoreModelError
from adapterhub.training.adapter_config import AdapterConfig, DataConfig, ValidationConfig
from adapterhub.training.config import BaseConfig, GroupConfig, TrainConfig
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.progress import Progress
from adapterhub.training.runs import find_runs, run_directory
from adapterhub.training.sweep import sweep
from adapterhub.training.sweep_config import SweepConfig
from adapterhub.training.train import plan, train
from adapterhub_cli.main import main
from adapterhub_registry.store import Registry
from tests.conftest import MINI

PROMPTS = ("inkwash blob", "a red star")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A CLIP and a DINO in directories, and in memory."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(MINI / "tokenizer")
    text = {**SMALL, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
        dino = Dinov2Model(
            Dinov2Config(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
            )
        ).eval()
    sizes: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    for name, model, processor in (
        ("clip", clip, CLIPImageProcessorPil(**sizes)),
        ("dino", dino, BitImageProcessorPil(**sizes)),
    ):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "clip")
    return SimpleNamespace(folder=folder, clip=clip, dino=dino, tokenizer=tokenizer, sizes=sizes)


def config(pictures: Path, validation: ValidationConfig) -> TrainConfig:
    adapter = AdapterConfig(
        name="me/ink",
        data=(DataConfig(pictures),),
        steps=2,
        batch_size=1,
        network=NetworkConfig(rank=2),
        validation=validation,
    )
    group = GroupConfig(trackers=("tensorboard",))
    return TrainConfig(BaseConfig("mini", device="cpu"), (adapter,), group)


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The cosine of each pair."""
    return torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=-1)


def expected(models: SimpleNamespace, drawn: list[Path], real: list[Path]) -> dict[str, float]:
    """The scores, from the models as they were made."""

    def pixels(processor: Any, paths: list[Path]) -> torch.Tensor:
        return processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")[
            "pixel_values"
        ]

    clip_reads, dino_reads = CLIPImageProcessorPil(**models.sizes), BitImageProcessorPil(**models.sizes)
    with torch.no_grad():
        tokens = models.tokenizer(list(PROMPTS), padding=True, return_tensors="pt")
        both = models.clip(**tokens, pixel_values=pixels(clip_reads, drawn))
        ours, texts = both.image_embeds, both.text_embeds
        theirs = models.clip(**tokens, pixel_values=pixels(clip_reads, real)).image_embeds
        dino = [models.dino(pixels(dino_reads, paths)).pooler_output for paths in (drawn, real)]
    return {
        "clip_t": float(cosines(ours, texts).diagonal().mean()),
        "clip_i": float(cosines(ours, theirs).mean()),
        "dino": float(cosines(*dino).mean()),
    }


def test_samples_are_scored_and_the_scores_are_shown(
    pictures: Any, models: SimpleNamespace, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, registry = pictures(), Registry(home)
    wanted = ValidationConfig(PROMPTS, every=1, clip=models.folder / "clip", dino=models.folder / "dino")
    told: list[Progress] = []
    (version,) = train(config(folder, wanted), registry=registry, on_progress=told.append)
    (run,) = find_runs(home)
    (adapter,) = run.adapters
    assert adapter.notes == []
    directory = run_directory(home, run.run)
    for step in (0, 1, 2):
        drawn = [directory / "me--ink" / "samples" / f"step-{step:08d}-{number}.png" for number in (1, 2)]
        found = {name: dict(points)[step] for name, points in adapter.scores.items()}
        assert found == pytest.approx(expected(models, drawn, sorted(folder.glob("*.png"))), abs=1e-5)
    assert told[0].scores == {name: points[1][1] for name, points in adapter.scores.items()}

    (page,) = [item for item in registry.documents(version) if item.name == "report.html"]
    for name in ("CLIP-T", "CLIP-I", "DINO", f"{adapter.last_scores['dino']:.4f}"):
        assert name in registry.read(page.sha256).decode()
    assert main(["runs"]) == 0
    assert f"CLIP-T {adapter.last_scores['clip_t']:.3f}" in capsys.readouterr().out
    assert main(["runs", "show", run.run]) == 0
    assert f"{adapter.last_scores['dino']:.4f} at step 2" in capsys.readouterr().out
    tracked = EventAccumulator(str(directory / "tensorboard"))
    tracked.Reload()
    values = [event.value for event in tracked.Scalars("clip_i/me/ink")]
    assert values == pytest.approx([value for _, value in adapter.scores["clip_i"]])


def test_candidates_are_scored_by_the_models_that_the_grid_names(
    pictures: Any, models: SimpleNamespace, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ink.toml"
    file.write_text(
        f"""base = {{ model = "mini", device = "cpu" }}
group.trackers = ["tensorboard"]
[[adapters]]
name = "me/ink"
data = "{pictures()}"
steps = 1
batch_size = 1
validation.held_out = 0.25
validation.prompts = ["inkwash blob"]
[sweep]
halving = false
[sweep.grid]
optimizer.learning_rate = [1e-4, 1e-3]
validation.clip = ["{models.folder / "clip"}"]
"""
    )
    result = sweep(SweepConfig.from_toml(file), registry=Registry(home))
    (run,) = find_runs(home)
    assert [set(one.scores) for one in run.adapters] == [{"clip_t", "clip_i"}] * 2
    tracked = EventAccumulator(str(run_directory(home, result.run) / "tensorboard"))
    tracked.Reload()
    assert {"clip_t/me/ink#1", "clip_t/me/ink#2"} <= set(tracked.Tags()["scalars"])


def test_what_is_no_such_model_is_refused_before_anything_begins(
    pictures: Any, models: SimpleNamespace, home: Path, tmp_path: Path
) -> None:
    folder, registry = pictures(), Registry(home)
    pickled = Path(shutil.copytree(models.folder / "dino", tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    bare = Path(shutil.copytree(models.folder / "dino", tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    for kind, path, reason in (
        ("clip", tmp_path / "nothing", "there is no config.json"),
        ("clip", models.folder / "dino", "it holds a dinov2, not clip"),
        ("dino", pickled, "it holds no safetensors, and pickle is never read"),
        ("dino", bare, "preprocessor_config.json is missing"),
    ):
        wanted = config(folder, replace(ValidationConfig(PROMPTS), **{kind: path}))  # pyright: ignore[reportArgumentType]
        for begin in (plan, train):
            with pytest.raises(ScoreModelError, match=reason) as caught:
                begin(wanted, registry=registry)
            assert (caught.value.kind, caught.value.path) == (kind, path)
    assert not (home / "runs").exists()


def test_half_a_model_is_refused(pictures: Any, models: SimpleNamespace, home: Path, tmp_path: Path) -> None:
    half = Path(shutil.copytree(models.folder / "clip", tmp_path / "half"))
    tensors = load_file(half / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, half / "model.safetensors", {"format": "pt"})
    with pytest.raises(ScoreModelError, match=r"1 weights are missing, such as visual_projection.weight"):
        train(config(pictures(), ValidationConfig(PROMPTS, clip=half)), registry=Registry(home))
    assert not (home / "runs").exists()


def test_scores_need_prompts_and_their_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    text = 'base = "mini"\n[[adapters]]\nname = "me/ink"\ndata = "ink"\nvalidation.clip = "models/clip"\n'
    file.write_text(text)
    with pytest.raises(ConfigError, match="clip scores sample pictures, but prompts is empty"):
        TrainConfig.from_toml(file)
    file.write_text(text + 'validation.prompts = ["a star"]\n')
    (adapter,) = TrainConfig.from_toml(file).adapters
    assert adapter.validation.clip == tmp_path / "models" / "clip"
