"""Make the mini base: `python -m adapterhub.bases.mini.recipe --work DIR`."""

import json
import shutil
import time
from pathlib import Path

import click
import torch

from adapterhub.bases.find import BUNDLED
from adapterhub.bases.mini.recipe.autoencoder import train_vae
from adapterhub.bases.mini.recipe.card import write_card
from adapterhub.bases.mini.recipe.config import read_recipe
from adapterhub.bases.mini.recipe.denoiser import train_unet
from adapterhub.bases.mini.recipe.evaluate import evaluate_base
from adapterhub.bases.mini.recipe.export import export_base
from adapterhub.bases.mini.recipe.pictures import prepare_pictures
from adapterhub.bases.mini.recipe.text import train_text_encoders
from adapterhub.bases.mini.recipe.vocabulary import train_tokenizers

STAGES = {
    "pictures": prepare_pictures,
    "tokenizers": train_tokenizers,
    "text": train_text_encoders,
    "vae": train_vae,
    "unet": train_unet,
    "export": export_base,
    "evaluate": evaluate_base,
    "card": write_card,
}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=Path(__file__).with_name("config.toml"))
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/mini"), show_default=True)
@click.option("--stage", "stages", multiple=True, type=click.Choice(list(STAGES)), help="Default: all.")
@click.option("--install", is_flag=True, help="Copy the exported base into the package at the end.")
def main(config: Path, work: Path, stages: tuple[str, ...], install: bool) -> None:
    """Run the recipe's stages in order; each resumes where it stopped."""
    recipe = read_recipe(config)
    torch.set_num_threads(recipe.threads)
    work.mkdir(parents=True, exist_ok=True)
    for name, run in STAGES.items():
        if not stages or name in stages:
            began = time.monotonic()
            run(recipe, work)
            _add_seconds(work / "seconds.json", name, time.monotonic() - began)
    if install:
        shutil.rmtree(BUNDLED["mini"], ignore_errors=True)
        shutil.copytree(work / "weights", BUNDLED["mini"])


def _add_seconds(path: Path, stage: str, seconds: float) -> None:
    """Add to a stage's total, over resumed runs."""
    table: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    table[stage] = round(table.get(stage, 0) + seconds, 1)
    path.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
