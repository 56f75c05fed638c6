"""Stage `card`: write down what the exported base is, beside it."""

import hashlib
import json
import math
import platform
from pathlib import Path

from adapterhub.bases.find import WEIGHTED, find_base
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import held_out_names
from adapterhub_registry.safetensors_header import read_header

TEMPLATE = Path(__file__).with_name("card_template.md")


def write_card(recipe: Recipe, work: Path) -> None:
    """Write `card.json`, `CARD.md` and the grid into `work/weights/`."""
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
    hardware = f"{recipe.threads} cores of an {_processor()} machine, torch on the CPU"
    card = {
        "name": "mini",
        "edition": recipe.edition,
        "identity": base.identity,
        "licence": "Apache-2.0",
        "parameters": parameters,
        "figures": figures,
        "cost": {"hardware": hardware, "seconds": seconds},
        "files": {
            str(file.relative_to(target)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(target.rglob("*"))
            if file.is_file() and file.parent != target
        },
    }
    (target / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    (target / "grid.png").write_bytes((work / "grid.png").read_bytes())
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
        cost=f"On {hardware}, sharing the machine with other work: {minutes}.",
    )
    (target / "CARD.md").write_text(text)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
