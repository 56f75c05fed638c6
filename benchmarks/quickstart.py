"""Is the quickstart's effect real? Measures its two adapters on prompts whose pictures neither saw.

Run after `adapterhub quickstart`, with the pictures that the base's recipe fetches:

    python benchmarks/quickstart.py --home quickstart/second-home --work build/mini --out FILE.json

Blank or constant pictures fail every measure. Colourfulness is Hasler and Suesstrunk's (2003), on white.
"""

import json
import platform
from pathlib import Path

import click
import numpy as np
from PIL import Image

from adapterhub.bases.mini.recipe.config import read_recipe
from adapterhub.bases.mini.recipe.evaluate import feature
from adapterhub.bases.mini.recipe.pictures import load_pictures, prepare_pictures, split_pictures
from adapterhub.quickstart.loop import COLUMNS, STYLE, SUBJECT
from adapterhub.quickstart.recipe import STYLE_TRIGGER, TRIGGER, colourfulness
from adapterhub.quickstart.recipe import SUBJECT as SUBJECT_NAME
from adapterhub.runtime.engine import Runtime
from adapterhub_registry.store import Registry

RECIPE = Path(__file__).parents[1] / "adapterhub" / "bases" / "mini" / "recipe" / "config.toml"
ICONS = Path(__file__).parents[1] / "adapterhub" / "quickstart" / "pictures" / "benchmark"
STEPS = 30
BOUNDS = {
    "style: colourfulness, part of the base's": (0.25, "at most"),
    "style: nearest of 16 icons is the prompted one": (0.7, "at least"),
    "subject: nearest picture is the subject": (0.85, "at least"),
    "subject: top-5 of other prompts as with the base": (0.85, "at least"),
    "both: colourfulness, part of the subject's": (0.4, "at most"),
    "both: nearest in greyscale is the subject": (0.7, "at least"),
}


def colour(pixels: np.ndarray) -> float:
    """Return the mean over pictures."""
    return sum(map(colourfulness, pixels)) / len(pixels)


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the greyscale feature, `(count, 256)`."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return feature(pixels).reshape(len(pixels), 256, 3) @ weights


def order(made: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return, for each feature, the known ones from near to far (L2)."""
    return np.argsort(((made[:, None] - known[None]) ** 2).sum(-1), axis=1, kind="stable")


def as_array(images: list[Image.Image]) -> np.ndarray:
    """Return `(count, 64, 64, 3)` uint8."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


@click.command()
@click.option(
    "--home", type=click.Path(path_type=Path), default=Path("quickstart/second-home"), show_default=True
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/mini"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(home: Path, work: Path, out: Path | None) -> None:
    """Measure and print; exit 1 if a bound is missed."""
    work.mkdir(parents=True, exist_ok=True)
    prepare_pictures(read_recipe(RECIPE), work)
    everything = load_pictures(work)
    base_pictures, _ = split_pictures(everything)
    subject = everything.select([everything.names.index(SUBJECT_NAME)]).pixels
    known = np.concatenate([base_pictures.pixels, subject])
    rows = [json.loads(line) for line in (ICONS / "metadata.jsonl").read_text().splitlines()]
    icons = as_array([Image.open(ICONS / row["file_name"]) for row in rows])
    styled = [row["text"] for row in rows]
    names = [text.removesuffix(f", {STYLE_TRIGGER}") for text in styled]
    own = [base_pictures.names.index(name) for name in names]

    pictures: dict[str, np.ndarray] = {}
    with Runtime.load("mini", registry=Registry(home), device="cpu") as runtime:

        def draw(label: str, composition: str | None, prompts: list[str], seed: int) -> None:
            runtime.compose(composition)
            pictures[label] = as_array(runtime.generate(prompts, seed=seed, steps=STEPS).images)

        trigger = [f"{TRIGGER}, {STYLE_TRIGGER}"] * 16
        draw("style, base", None, styled, 100)
        draw("style", STYLE, styled, 100)
        draw("others, base", None, names, 200)
        draw("others, subject", SUBJECT, names, 200)
        draw("subject", SUBJECT, trigger, 300)
        draw("both", COLUMNS["style + subject"], trigger, 300)

    def in_top_5(label: str) -> np.ndarray:
        found = order(feature(pictures[label]), feature(base_pictures.pixels))[:, :5]
        return np.array([own[row] in found[row] for row in range(16)])

    nearest_icon = order(grey(pictures["style"]), grey(icons))[:, 0]
    nearest = order(feature(pictures["subject"]), feature(known))[:, 0]
    nearest_grey = order(grey(pictures["both"]), grey(known))[:, 0]
    values = {
        "style: colourfulness, part of the base's": colour(pictures["style"])
        / colour(pictures["style, base"]),
        "style: nearest of 16 icons is the prompted one": float((nearest_icon == np.arange(16)).mean()),
        "subject: nearest picture is the subject": float((nearest == len(known) - 1).mean()),
        "subject: top-5 of other prompts as with the base": float(
            (in_top_5("others, subject") == in_top_5("others, base")).mean()
        ),
        "both: colourfulness, part of the subject's": colour(pictures["both"]) / colour(pictures["subject"]),
        "both: nearest in greyscale is the subject": float((nearest_grey == len(known) - 1).mean()),
    }
    blank = {label: int((made.std(axis=(1, 2, 3)) < 5).sum()) for label, made in pictures.items()}
    is_blank = any(blank.values())
    measures = []
    for name, value in values.items():
        bound, side = BOUNDS[name]
        is_kept = (value <= bound if side == "at most" else value >= bound) and not is_blank
        measures.append(
            {"measure": name, "value": round(value, 3), "bound": f"{side} {bound}", "kept": is_kept}
        )
        print(f"{name:50} {value:6.3f}   {side} {bound}   {'kept' if is_kept else 'MISSED'}")
    if is_blank:
        print(f"blank pictures: {blank}")
    if out is not None:
        result = {"machine": platform.machine(), "measures": measures, "blank": blank}
        out.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(0 if all(row["kept"] for row in measures) else 1)


if __name__ == "__main__":
    main()
