"""Train a style and a subject, register, push and pull them, compose them, and draw one contact sheet."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from adapterhub.errors import QuickstartError
from adapterhub.runtime.engine import Runtime
from adapterhub.sheet import contact_sheet
from adapterhub.training.config import TrainConfig
from adapterhub.training.run import Progress
from adapterhub.training.train import train
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.manifest import Version
from adapterhub_registry.record import png_with_record
from adapterhub_registry.store import Registry

CONFIG = Path(__file__).with_name("config.toml")
MARKER = "quickstart.json"
STYLE, SUBJECT = "quickstart/stencil", "quickstart/zork"
COLUMNS = {
    "base": None,
    "style": f"{STYLE}@demo",
    "subject": f"{SUBJECT}@demo",
    "style + subject": f"{STYLE}@demo:0.85 + {SUBJECT}@demo",
}
ROWS = ("blue heart, stencil", "shinto shrine, stencil", "chocolate bar, stencil", "zork, stencil", "zork")
SEED = 7
STEPS = 25

OnTraining = Callable[[Progress], None]
OnStage = Callable[[str], None]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Trained:
    """One line of the closing table.

    Attributes:
        version: As the second registry has it.
        kind: `style` or `subject`.
        seconds: What its training took.
    """

    version: Version
    kind: str
    seconds: float


@dataclass(frozen=True)
class QuickstartResult:
    """What was made.

    Attributes:
        trained: The two adapters.
        sheet: The contact sheet.
        home: The registry that pulled them; `ADAPTERHUB_HOME` for going on.
        seconds: What all of it took.
    """

    trained: Sequence[Trained]
    sheet: Path
    home: Path
    seconds: float


def run_quickstart(
    out: Path,
    *,
    again: bool = False,
    config: TrainConfig | None = None,
    on_stage: OnStage | None = None,
    on_training: OnTraining | None = None,
    on_step: OnStep | None = None,
) -> QuickstartResult:
    """Run the whole loop below `out`; nothing outside of it is touched.

    Args:
        out: Directory for everything: two registries, the remote between them, the pictures.
        again: Replace what an earlier run left there.
        config: What to train; by default the shipped one.
        on_stage: Called with a sentence before each stage.
        on_training: Called after each training step.
        on_step: Called after each denoising step of a column with (steps done, steps).

    Raises:
        QuickstartError: `out` holds something, and `again` was not given or it is not from a quickstart.
    """
    began = time.monotonic()
    out = out.absolute()
    _clear(out, again=again)
    say = on_stage or (lambda _: None)
    first, second, share = out / "home", out / "second-home", out / "share"
    make_directory(share)
    write_atomically(out / MARKER, json.dumps({"format": 1}).encode())

    registry = Registry(first)
    config = config or TrainConfig.from_toml(CONFIG)
    seconds: dict[str, float] = {}
    for adapter in config.adapters:
        say(f"training {adapter.name}: {adapter.description}")
        started = time.monotonic()
        (version,) = train(replace(config, adapters=(adapter,)), registry=registry, on_progress=on_training)
        registry.set_alias(version.name, "demo", version.number, expected=None)
        seconds[version.name] = time.monotonic() - started

    say("pushing both to a directory, and pulling them into a second, empty registry")
    registry.add_remote("share", share.as_uri())
    other = Registry(second)
    other.add_remote("share", share.as_uri())
    trained: list[Trained] = []
    for name in (STYLE, SUBJECT):
        registry.push(f"{name}@demo", remote="share", aliases=["demo"])
        number = other.pull(f"{name}@demo", remote="share").number
        other.set_alias(name, "demo", number, expected=None)
        trained.append(Trained(other.resolve(f"{name}@demo"), other.show(name).kind, seconds[name]))

    say("composing: base, style, subject, style + subject")
    columns: list[list[Image.Image]] = []
    with Runtime.load("mini", registry=other, device="cpu") as runtime:
        for label, composition in COLUMNS.items():
            runtime.compose(composition)
            result = runtime.generate(ROWS, seed=SEED, steps=STEPS, on_step=on_step)
            columns.append(result.images)
            folder = out / "pictures" / label.replace(" ", "")
            make_directory(folder)
            for prompt, picture, record in zip(ROWS, result.images, result.records, strict=True):
                name = prompt.replace(",", "").replace(" ", "-")
                write_atomically(folder / f"{name}.png", png_with_record(picture, record))
    sheet = contact_sheet(
        [list(row) for row in zip(*columns, strict=True)], column_labels=list(COLUMNS), row_labels=ROWS
    )
    target = out / "contact-sheet.png"
    sheet.save(target)
    return QuickstartResult(trained, target, second, time.monotonic() - began)


def _clear(out: Path, *, again: bool) -> None:
    """Make room; only what a quickstart made is ever removed."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MARKER).is_file():
        raise QuickstartError(out, "it holds other things; name an empty directory with --out")
    if not again:
        raise QuickstartError(out, "an earlier run is there; replace it with --again")
    shutil.rmtree(out)
