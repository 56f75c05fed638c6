"""Stage `export`: write the trained parts as the diffusers directory that is shipped, in float16."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from adapterhub.bases.mini.recipe.autoencoder import build_vae, load_vae
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.denoiser import build_scheduler, build_unet
from adapterhub.bases.mini.recipe.text import build_text_encoders, load_tokenizers


def export_base(recipe: Recipe, work: Path) -> None:
    """Write `work/weights/`: the moving averages, rounded to float16, in diffusers' layout."""
    target = work / "weights"
    if target.exists():
        shutil.rmtree(target)
    tokenizers = load_tokenizers(work)
    first, second = build_text_encoders(recipe, tokenizers)
    modules: dict[str, Any] = {"unet": build_unet(recipe), "text_encoder": first, "text_encoder_2": second}
    state = load_file(work / "unet.safetensors")
    for part, module in modules.items():
        prefix = f"ema/{part}/"
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}, strict=False
        )
    scale = json.loads((work / "latents.json").read_text())["scaling_factor"]
    vae = build_vae(recipe, scaling_factor=scale)
    vae.load_state_dict(load_vae(recipe, work).state_dict())
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
        **modules,
    )
    pipeline.to(torch.float16)
    pipeline.save_pretrained(target, safe_serialization=True)
    for folder in ("text_encoder", "text_encoder_2"):
        _ask_for_float32(target / folder / "config.json")
    for folder, tokenizer in zip(("tokenizer", "tokenizer_2"), tokenizers, strict=True):
        _write_clip_files(target / folder, tokenizer)


def _ask_for_float32(config: Path) -> None:
    """Make float32 the default, as for diffusers' parts; transformers would take the stored float16."""
    table = json.loads(config.read_text())
    config.write_text(json.dumps({**table, "dtype": "float32"}, indent=2) + "\n")


def _write_clip_files(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """Add `vocab.json` and `merges.txt`, which tools older than `tokenizer.json` read."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    special = {
        name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
