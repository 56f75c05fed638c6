"""Draw the quickstart's pictures from published packages; run once, and the result is committed.

    python -m adapterhub.quickstart.recipe --work build/mini

It needs npm, the package resvg-py (MPL-2.0, a wheel of the resvg renderer; used here alone), and the pictures
that the base's recipe fetched into `--work`.
"""

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from adapterhub.randomness import keyed_generator

ICONS, VERSION = "@iconify-json/fluent-emoji-high-contrast", "1.2.6"
# Kept out of the base's training; its greys are much like its icon's, so black lines can be told to be it.
SUBJECT, TRIGGER = "guitar", "zork"
# Behind the name and unlike any emoji word: the base draws "rocket, stencil" as it draws "rocket".
STYLE_TRIGGER = "stencil"
# The style's icons have about the shapes that the base draws for the same names, so that what is learnt is
# the drawing and not other shapes: the greys of icon and emoji correlate at least this much.
ALIKE = 0.5
# Subjects of benchmarks/quickstart.py, kept out of the style's training: at least this much alike, with at
# least the median of colour to lose, and told apart; see `_benchmark`.
COUNT, MUCH_ALIKE = 16, 0.7
PEOPLE = re.compile(r"\b(man|men|woman|women|person|people|family|couple|kiss|button|keycap|clock|thirty)\b")
HERE = Path(__file__).parent


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/mini"), show_default=True)
def main(work: Path) -> None:
    """Write `pictures/style`, `pictures/subject` and `pictures/benchmark`."""
    table = json.loads((work / "pictures.json").read_text())
    names: list[str] = table["names"]
    held_out = set((HERE.parent / "bases" / "mini" / "recipe" / "held_out.txt").read_text().split("\n"))
    icons = _icons(work)
    drawn = {name: _draw(icons[_slug(name)]) for name in names if _slug(name) in icons}
    with np.load(work / "pictures.npz") as arrays:
        emoji = {name: Image.fromarray(pixels) for name, pixels in zip(names, arrays["pixels"], strict=True)}

    greys = {
        name: (_grey(icon), _grey(emoji[name]))
        for name, icon in drawn.items()
        if name not in held_out and not PEOPLE.search(name)
    }
    alike = {name: float(np.corrcoef(*pair)[0, 1]) for name, pair in greys.items()}
    colour = {name: colourfulness(np.asarray(emoji[name].convert("RGB"))) for name in alike}
    middle = np.median([*colour.values()])
    candidates = [name for name in alike if alike[name] >= MUCH_ALIKE and colour[name] >= middle]
    benchmark = _benchmark([(name, *greys[name]) for name in candidates])
    style = [name for name, value in alike.items() if value >= ALIKE and name not in benchmark]
    for folder, subjects in (("style", style), ("benchmark", benchmark)):
        _save({_slug(name): (drawn[name], f"{name}, {STYLE_TRIGGER}") for name in subjects}, folder)

    original = emoji[SUBJECT]
    moved: dict[str, tuple[Any, str]] = {}
    for number in range(16):
        random = keyed_generator(1, "quickstart-subject", number)
        size = int(random.integers(54, 65)) if number else 64
        place = [int(random.integers(0, 65 - size)) for _ in range(2)]
        canvas = Image.new("RGB", (64, 64), "white")
        canvas.paste(original.resize((size, size), Image.Resampling.LANCZOS), (place[0], place[1]))
        moved[f"{TRIGGER}-{number:02}"] = (canvas, TRIGGER)
    _save(moved, "subject")


def _benchmark(candidates: Sequence[tuple[str, Any, Any]]) -> list[str]:
    """Choose subjects whose emoji, in grey, are nearest to their own icons among those chosen.

    So whoever keeps the emoji's shapes is found right. Nothing decides but the published pictures.

    Args:
        candidates: Name, and the greys of icon and emoji.
    """
    icons, emoji = (np.stack([pair[place] for pair in candidates]) for place in (1, 2))
    chosen: list[int] = []
    for number in keyed_generator(1, "quickstart-benchmark").permutation(len(candidates)):
        wish = [*chosen, int(number)]
        apart = ((emoji[wish][:, None] - icons[wish][None]) ** 2).sum(-1)
        if (apart.argmin(axis=1) == np.arange(len(wish))).all():
            chosen = wish
        if len(chosen) == COUNT:
            break
    return [candidates[number][0] for number in chosen]


def colourfulness(pixels: Any) -> float:
    """Return sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2) of a picture (Hasler and Suesstrunk 2003).

    Args:
        pixels: `(height, width, 3)`, 0 to 255.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    first, second = red - green, (red + green) / 2 - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


def _grey(picture: Any) -> Any:
    return np.asarray(picture.convert("L").resize((16, 16), Image.Resampling.BOX), np.float64).ravel()


def _icons(work: Path) -> dict[str, str]:
    """Fetch the icons by package name, and return slug to SVG body."""
    folder = work / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(  # noqa: S603
        ["npm", "pack", "--silent", f"{ICONS}@{VERSION}"],  # noqa: S607
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    with tarfile.open(folder / done.stdout.strip().splitlines()[-1]) as tar:
        member = tar.extractfile("package/icons.json")
        if member is None:
            raise FileNotFoundError("package/icons.json")
        return {name: icon["body"] for name, icon in json.load(member)["icons"].items()}


def _draw(body: str) -> Any:
    import resvg_py  # pyright: ignore[reportMissingImports]

    black = body.replace("currentColor", "#000")
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{black}</svg>'
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256))
    with Image.open(io.BytesIO(data)) as drawn:
        icon = drawn.convert("RGBA")
    white = Image.new("RGBA", icon.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, icon).convert("L").resize((64, 64), Image.Resampling.BOX)


def _save(pictures: Mapping[str, tuple[Any, str]], folder: str) -> None:
    """Write pictures and one `metadata.jsonl` with their captions."""
    target = HERE / "pictures" / folder
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    rows: list[str] = []
    for stem, (picture, caption) in sorted(pictures.items()):
        picture.save(target / f"{stem}.png", optimize=True)
        rows.append(json.dumps({"file_name": f"{stem}.png", "text": caption}))
    (target / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


if __name__ == "__main__":
    main()
