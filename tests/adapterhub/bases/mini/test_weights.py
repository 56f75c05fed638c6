"""The shipped weights are what the recipe exported, and stock diffusers runs them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from adapterhub.bases.find import WEIGHTED, find_base
from adapterhub.bases.identity import identity_of
from adapterhub.runtime.engine import Runtime

BASE = Path(__file__).parents[4] / "adapterhub" / "bases" / "mini" / "weights"
CARD = json.loads((BASE / "card.json").read_text())


def test_every_file_has_the_digest_that_the_card_records() -> None:
    found = {
        str(file.relative_to(BASE)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in BASE.rglob("*")
        if file.is_file() and file.parent != BASE
    }
    assert found == CARD["files"]


def test_the_card_names_the_identity_and_the_parameters(tmp_path: Path) -> None:
    base = find_base("mini")
    weights = {part: base.weights[part] for part in WEIGHTED}
    assert identity_of(weights, cache=tmp_path / "cache.json") == base.identity == CARD["identity"]
    pipeline = StableDiffusionXLPipeline.from_pretrained(BASE)
    counts = {part: sum(p.numel() for p in getattr(pipeline, part).parameters()) for part in WEIGHTED}
    assert {part: CARD["parameters"][part] for part in WEIGHTED} == counts
    assert sum(counts.values()) <= 12_500_000
    assert base.size_bytes <= 25_000_000


def test_the_card_s_figures_keep_the_bounds() -> None:
    figures = CARD["figures"]
    assert figures["captions"] >= 500
    assert figures["top-1"] >= 0.6
    assert figures["top-5"] >= 0.85
    assert figures["top-5 by edges"] >= 0.6
    assert figures["VAE PSNR dB"] >= 28


def test_the_topology_is_sdxl_s() -> None:
    unet = json.loads((BASE / "unet" / "config.json").read_text())
    assert unet["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert unet["up_block_types"] == ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]
    assert (unet["layers_per_block"], unet["addition_embed_type"]) == (2, "text_time")


def test_stock_diffusers_makes_the_same_pixels_as_generate(mini_runtime: Runtime) -> None:
    stock = StableDiffusionXLPipeline.from_pretrained(BASE)
    stock.set_progress_bar_config(disable=True)
    for prompt, negative in (("a red heart", None), ("cat face", "green"), ("a rocket", "")):
        expected = stock(
            prompt,
            negative_prompt=negative,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(7),
        ).images[0]
        made = mini_runtime.generate(prompt, negative_prompt=negative, seed=7, steps=4).images[0]
        assert np.array_equal(np.asarray(made), np.asarray(expected))
