"""The whole recipe at a tiny size: every stage, twice, once in one go and once in pieces."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file

from adapterhub.bases.mini.recipe.__main__ import main
from adapterhub.bases.mini.recipe.config import phase_at, read_recipe
from adapterhub.bases.mini.recipe.denoiser import Batches
from adapterhub.bases.mini.recipe.pairs import SIDE, draw_pair, pair_caption
from adapterhub.bases.mini.recipe.pictures import held_out_names
from adapterhub.randomness import keyed_generator

FOLDER = Path(__file__).parents[4] / "adapterhub" / "bases" / "mini" / "recipe"
SHAPES = ("channels", "hidden_size", "layers", "heads", "projection_size", "transformer_layers")
TINY = """
edition = 9
seed = 1
device = "cpu"
threads = 2
[pictures]
package = "none"
version = "0"
annotations_package = "none"
annotations_version = "0"
caption_mix = [0.55, 0.15, 0.2, 0.1]
[tokenizers]
vocabulary_size = 600
max_length = 77
[text]
hidden_size = [16, 32]
layers = [2, 2]
heads = [1, 2]
projection_size = 32
batch_size = 4
steps = 2
learning_rate = 1e-3
[vae]
channels = [8, 8, 8]
kl_weight = 1e-4
[[vae.phases]]
trains = "all"
batch_size = 2
steps = 2
decay_steps = 1
learning_rate = 1e-3
[[vae.phases]]
trains = "decoder"
batch_size = 2
steps = 2
decay_steps = 1
learning_rate = 1e-3
[unet]
channels = [16, 16, 32]
transformer_layers = [1, 1, 1]
heads = [1, 1, 2]
time_embedding_size = 8
pair_pool = 5
warmup_steps = 1
caption_dropout = 0.1
min_snr_gamma = 5.0
ema_decay = 0.9
[[unet.phases]]
precision = "float32"
pairs = 0.0
batch_size = 4
steps = 2
decay_steps = 1
learning_rate = 1e-3
text_learning_rate = 3e-4
[[unet.phases]]
precision = "bfloat16"
pairs = 0.25
batch_size = 4
steps = 3
decay_steps = 2
learning_rate = 1e-3
text_learning_rate = 3e-4
[evaluate]
captions = 4
guidance_scale = 5.0
steps = 2
"""


def write_pictures(work: Path) -> list[str]:
    """Random pictures under the names that are kept out and a few more."""
    names = [*held_out_names(), *("cat face", "rocket", "red heart", "star", "sun", "moon")]
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), 64, 64, 3), dtype=np.uint8)
    work.mkdir()
    np.savez_compressed(work / "pictures.npz", pixels=pixels)
    (work / "pictures.json").write_text(json.dumps({"names": names, "keywords": [[] for _ in names]}))
    return names


def run(config: Path, work: Path, *stages: str) -> None:
    words = ["--config", str(config), "--work", str(work)]
    for stage in stages:
        words += ["--stage", stage]
    before = torch.get_num_threads()
    try:
        done = CliRunner().invoke(main, words, catch_exceptions=False)
    finally:
        torch.set_num_threads(before)  # the recipe sets its own
    assert done.exit_code == 0


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_the_whole_recipe_runs_and_its_base_is_one_that_diffusers_loads(tiny: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    write_pictures(work)
    run(tiny, work)
    StableDiffusionXLPipeline.from_pretrained(work / "weights")
    card = json.loads((work / "weights" / "card.json").read_text())
    assert card["edition"] == 9
    assert list(card["losses"]["unet"]) == ["5"]
    assert {"top-5", "top-5 by edges", "VAE PSNR dB"} <= set(card["figures"])
    for name in ("grid.png", "two-part.png", "loss.png", "CARD.md"):
        assert (work / "weights" / name).is_file()

    # Later phases of the autoencoder leave the encoder as it was: latents stay what they were.
    again, first = tmp_path / "again", tiny.with_name("first.toml")
    write_pictures(again)
    first.write_text(
        TINY.replace(
            'trains = "decoder"\nbatch_size = 2\nsteps = 2', 'trains = "decoder"\nbatch_size = 2\nsteps = 0'
        )
    )
    run(first, again, "vae")
    whole, part = (load_file(folder / "vae.safetensors") for folder in (work, again))
    for name in part:
        if name.startswith("module/vae/"):
            is_encoder = "/encoder." in name or "/quant_conv." in name
            assert torch.equal(part[name], whole[name]) == is_encoder, name

    # A run that was stopped between two phases goes on to the same weights.
    short = tiny.with_name("short.toml")
    short.write_text(TINY.replace("steps = 3\ndecay_steps = 2", "steps = 0\ndecay_steps = 2"))
    run(short, again, "tokenizers", "text")
    (again / "vae.safetensors").unlink()
    run(tiny, again, "vae")
    run(short, again, "unet")
    run(tiny, again, "unet")
    one, two = (load_file(folder / "unet.safetensors") for folder in (work, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_every_epoch_shows_every_picture_once_across_phases(tiny: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    names = write_pictures(work)
    run(tiny, work, "tokenizers", "vae")
    batches = Batches(read_recipe(tiny), work)
    shown = [i for step in range(5) for i in batches._singles(step)]
    count = len(names) - len(held_out_names())
    assert len(shown) == 2 * 4 + 3 * 3
    assert all(
        sorted(shown[i : i + count]) == list(range(count)) for i in range(0, len(shown) - count, count)
    )
    batch = batches.draw(4)
    assert len(batch.captions) == len(batch.latents) == len(batch.timesteps) == 4


def test_a_pair_shows_both_pictures_and_names_both() -> None:
    red, blue = (np.full((64, 64, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    pair = draw_pair(red, blue)
    assert pair[0, 0].tolist() == [255, 0, 0]
    assert pair[-1, -1].tolist() == [0, 0, 255]
    assert pair[32, 32].tolist() == [0, 0, 0]
    assert pair[0, -1].tolist() == pair[-1, 0].tolist() == [255, 255, 255]
    assert (pair == 255).all(axis=2).sum() == 2 * (64 - SIDE) ** 2
    captions = {pair_caption("owl", "star", keyed_generator(seed, "test")) for seed in range(40)}
    assert captions == {"owl and star", "an owl and a star", "owl with star"}


def test_the_phases_of_a_training_follow_each_other() -> None:
    phases = read_recipe(FOLDER / "config.toml").unet.phases
    assert [phase_at(phases, step)[1] for step in (0, phases[0].steps - 1, phases[0].steps)] == [
        *(0, phases[0].steps - 1, 0)
    ]
    with pytest.raises(IndexError):
        phase_at(phases, sum(phase.steps for phase in phases))


def test_the_recipe_for_a_gpu_makes_the_same_shapes() -> None:
    ours, theirs = (read_recipe(FOLDER / name) for name in ("config.toml", "gpu.toml"))
    for part in ("text", "vae", "unet"):
        for name in SHAPES:
            assert getattr(getattr(ours, part), name, 0) == getattr(getattr(theirs, part), name, 0)
    assert (ours.pictures, ours.tokenizers, ours.evaluate) == (
        theirs.pictures,
        theirs.tokenizers,
        theirs.evaluate,
    )
