"""Stage `card`: write down what the exported base is, beside it."""

import hashlib
import json
import math
import platform
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from adapterhub.bases.find import WEIGHTED, find_base
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import held_out_names
from adapterhub_registry.safetensors_header import read_header

TEMPLATE = Path(__file__).with_name("card_template.md")


def write_card(recipe: Recipe, work: Path) -> None:
    """Write `card.json`, `CARD.md`, the sheets and the loss curve into `work/weights/`."""
    target = work / "weights"
    base = find_base(target)
    figures = json.loads((work / "figures.json").read_text())
    parameters = {
        part: sum(
            math.prod(info.shape)
            for file in base.weights[part]
            for info in read_header(file).tensors.values()
        )
        for part in WEIGHTED
    }
    parameters["all"] = sum(parameters.values())
    seconds = json.loads((work / "seconds.json").read_text())
    hardware = _hardware(recipe)
    losses = read_losses(work / "unet.log")
    card = {
        "name": "mini",
        "edition": recipe.edition,
        "identity": base.identity,
        "licence": "Apache-2.0",
        "parameters": parameters,
        "figures": figures,
        "cost": {"hardware": hardware, "seconds": seconds},
        "losses": {"unet": {str(step): loss for step, loss in losses.items()}},
        "files": {
            str(file.relative_to(target)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(target.rglob("*"))
            if file.is_file() and file.parent != target
        },
    }
    (target / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    for name in ("grid.png", "two-part.png"):
        (target / name).write_bytes((work / name).read_bytes())
    phases = list(accumulate(phase.steps for phase in recipe.unet.phases))
    draw_losses(losses, phases[:-1]).save(target / "loss.png", optimize=True)
    settings = recipe.pictures
    minutes = ", ".join(f"{stage} {value / 60:.0f} min" for stage, value in seconds.items() if value >= 30)
    text = TEMPLATE.read_text().format(
        edition=recipe.edition,
        guidance=recipe.evaluate.guidance_scale,
        steps=recipe.evaluate.steps,
        package=settings.package,
        version=settings.version,
        annotations=settings.annotations_package,
        annotations_version=settings.annotations_version,
        training=figures["training pictures"],
        held_out=len(held_out_names()),
        parameters="\n".join(f"| {part} | {value:,} |" for part, value in parameters.items()),
        megabytes=base.size_bytes / 1e6,
        identity=base.identity,
        figures="\n".join(f"| {name} | {value} |" for name, value in figures.items()),
        captions=figures["captions"],
        error=math.sqrt(figures["top-1"] * (1 - figures["top-1"]) / figures["captions"]),
        cost=f"On {hardware}, sharing the machine with other work: {minutes}.",
    )
    (target / "CARD.md").write_text(text)


def read_losses(log: Path) -> dict[int, float]:
    """Return step to mean loss of the 100 steps before it; where a run was resumed, the last one."""
    rows = [line.split() for line in log.read_text().splitlines()]
    return {int(step): float(loss) for step, loss, _ in sorted(rows, key=lambda row: int(row[0]))}


def draw_losses(losses: dict[int, float], phases: list[int]) -> Image.Image:
    """Return a chart of the losses over the steps; `phases` are the steps at which a new phase begins."""
    width, height, left, top, bottom = 720, 300, 60, 14, 270
    chart = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(chart)
    font = ImageFont.load_default(12)
    last, low, high = max(losses), math.log(min(losses.values())), math.log(max(losses.values()))

    def place(step: int, loss: float) -> tuple[float, float]:
        part = (math.log(loss) - low) / max(high - low, 1e-9)
        return left + step / last * (width - left - 20), bottom - part * (bottom - top)

    for loss in sorted({min(losses.values()), losses[last], max(losses.values())}):
        y = place(0, loss)[1]
        draw.line((left, y, width - 20, y), 225)
        draw.text((left - 6, y), f"{loss:.3f}", 60, font, anchor="rm")
    for step in (0, *phases, last):
        x = place(step, math.exp(low))[0]
        draw.line((x, top, x, bottom), 225)
        draw.text((x, bottom + 8), f"{step:,}", 60, font, anchor="mt")
    draw.line([place(step, loss) for step, loss in losses.items()], 30, 2)
    return chart


def _hardware(recipe: Recipe) -> str:
    if recipe.device != "cpu":
        return f"one {torch.cuda.get_device_name()}"
    return f"{recipe.threads} cores of an {_processor()} machine, torch on the CPU"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
