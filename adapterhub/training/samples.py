"""Pictures of what is trained, drawn while it is active on the base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from adapterhub.errors import OutputError
from adapterhub.sheet import contact_sheet, save_picture
from adapterhub_registry.intake import PreviewPicture

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

STEPS = 20
GUIDANCE = 5.0
ROWS = 16
"""Of steps that a sheet shows at most; they are spread evenly, and the first and the last are among them."""
CELL = (128, 256)
"""The smallest and the largest side of a picture on a sheet, in pixels."""


def draw_samples(
    pipeline: "StableDiffusionXLPipeline",
    prompts: Sequence[str],
    *,
    seed: int,
    folder: Path,
    stem: str,
    base: str,
) -> list[PreviewPicture]:
    """Draw a picture of each prompt, one by one, and write it.

    Args:
        pipeline: With the adapter active.
        prompts: One a picture.
        seed: Of the first one; the others count up.
        folder: Where they are written.
        stem: How their names begin.
        base: Its name, for the settings.

    Raises:
        OutputError: One cannot be written.
    """
    previews: list[PreviewPicture] = []
    call: Any = pipeline
    for number, prompt in enumerate(prompts):
        generator = torch.Generator("cpu").manual_seed(seed + number)
        with torch.no_grad():
            picture = call(
                prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator
            ).images[0]
        path = folder / f"{stem}-{number + 1}.png"
        try:
            picture.save(path)
        except OSError as exc:
            raise OutputError(path, exc.strerror or str(exc)) from exc
        settings = {
            "steps": str(STEPS),
            "guidance_scale": f"{GUIDANCE:g}",
            "width": str(picture.width),
            "height": str(picture.height),
            "scheduler": type(pipeline.scheduler).__name__,
            "weight": "1",
            "base": base,
        }
        previews.append(PreviewPicture(path, prompt, seed + number, settings))
    return previews


def sample_stem(step: int) -> str:
    """Return how the names of a step's sample pictures begin."""
    return f"step-{step:08d}"


def sample_files(folder: Path, count: int, *, most: int = ROWS) -> dict[int, list[Path]]:
    """Return the sample pictures of a folder by step, where all of a step are there.

    Args:
        folder: Where `draw_samples` wrote them, with `sample_stem`.
        count: Pictures a step.
        most: Steps at most.
    """
    steps = sorted(int(path.name[5:13]) for path in folder.glob("step-????????-1.png"))
    rows = {step: [folder / f"{sample_stem(step)}-{n + 1}.png" for n in range(count)] for step in steps}
    whole = [step for step, paths in rows.items() if all(path.is_file() for path in paths)]
    last = len(whole) - 1
    chosen = whole if last < most else [whole[number * last // (most - 1)] for number in range(most)]
    return {step: rows[step] for step in chosen}


def write_sheet(folder: Path, prompts: Sequence[str], path: Path) -> None:
    """Write a sheet of the sample pictures of a folder: a row for each step, a column for each prompt.

    Raises:
        OutputError: It cannot be written.
    """
    files = sample_files(folder, len(prompts))
    rows: list[list[Image.Image]] = []
    for paths in files.values():
        rows.append([])
        for file in paths:
            with Image.open(file) as picture:
                rows[-1].append(picture.convert("RGB"))
    widest = max((max(picture.size) for row in rows for picture in row), default=0)
    labels = [f"step {step}" if step else "the base alone" for step in files]
    cell = min(max(widest, CELL[0]), CELL[1])
    save_picture(contact_sheet(rows, column_labels=list(prompts), row_labels=labels, cell=cell), path)
