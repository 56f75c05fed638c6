"""Pictures that show what an adapter does: a prompt with the base alone, and with it, from the same noise."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from adapterhub.bases.find import Base, find_base, list_bases
from adapterhub.errors import BaseNotFoundError, SettingError
from adapterhub.runtime.engine import Runtime
from adapterhub.sheet import contact_sheet
from adapterhub_registry.files import write_atomically
from adapterhub_registry.manifest import Version
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.record import GenerationRecord, png_with_record
from adapterhub_registry.store import Registry

OnStep = Callable[[int, int], None]
CAPTIONS = 3
"""So many captions of the training set stand in for trigger words."""
CELL = (128, 384)
"""The smallest and the largest side of a picture on the sheet, in pixels."""


@dataclass(frozen=True)
class PreviewPair:
    """One prompt, drawn twice.

    Attributes:
        without: What the base makes of it.
        drawn: What the base with the adapter makes of it, from the same noise.
        record: What decides the bytes of `drawn`.
    """

    without: Image.Image
    drawn: Image.Image
    record: GenerationRecord


@dataclass(frozen=True)
class Previews:
    """What `draw_previews` made.

    Attributes:
        version: Whose previews they are.
        weight: The strength that it was drawn at.
        pairs: In the order of the prompts.
        added: The pictures that the version did not have; all others are there already.
    """

    version: Version
    weight: str
    pairs: Sequence[PreviewPair]
    added: Sequence[StoredFile]

    @property
    def sheet(self) -> Image.Image:
        """The pairs side by side, with their prompts and seeds."""
        widest = max(max(pair.drawn.size) for pair in self.pairs)
        seeds = [f"seed {pair.record.seed}" for pair in self.pairs]
        return contact_sheet(
            [[pair.without, pair.drawn] for pair in self.pairs],
            column_labels=["base", f"{self.version.reference}:{self.weight}"],
            row_labels=[pair.record.prompt for pair in self.pairs],
            captions=[[seed, seed] for seed in seeds],
            cell=min(max(widest, CELL[0]), CELL[1]),
        )


def draw_previews(
    reference: str,
    *,
    registry: Registry | None = None,
    prompts: Sequence[str] = (),
    seed: int = 0,
    weight: float | None = None,
    steps: int | None = None,
    base: str | None = None,
    device: str | None = None,
    on_step: OnStep | None = None,
) -> Previews:
    """Draw prompts with the base alone and with an adapter, and keep the adapter's pictures as previews.

    Guidance, size and negative prompt are those that the adapter recommends; its scheduler and CLIP skip are
    for other tools. The same call makes the same pictures, and adds nothing the second time.

    Args:
        reference: The version.
        registry: Where it is, and where the pictures go.
        prompts: What to draw; by default the trigger words, or else captions that it was trained on.
        seed: Of the first prompt; the others count up.
        weight: The strength; by default the recommended one, or 1.
        steps: Denoising steps; by default the recommended ones, or 30.
        base: The base; by default the one that it was made on, or one of its architecture.
        device: `cpu`, `cuda` or `mps`; by default the best there is.
        on_step: Called after each denoising step with (steps done, steps).

    Raises:
        BaseNotFoundError: No base of its architecture is on this machine.
        SettingError: There is nothing to draw, or a setting makes no sense.
        AdapterHubError: As `Runtime.compose` and `Registry.add_previews`.
    """
    registry = registry or Registry()
    version = registry.resolve(reference)
    settings = registry.show(version.name).settings
    wanted = list(prompts) or _default_prompts(registry, version)
    strength = version.manifest.recommended_weight or "1" if weight is None else f"{weight:g}"
    found = _base_of(version) if base is None else find_base(base)
    size = [int(settings[side]) if side in settings else None for side in ("width", "height")]
    pictures: list[list[Image.Image]] = []
    records: list[GenerationRecord] = []
    done = 0
    with Runtime.load(found, registry=registry, device=device) as runtime:
        for composition in (None, f"{version.reference}:{strength}"):
            runtime.compose(composition)
            pictures.append([])
            for number, prompt in enumerate(wanted):

                def count(_: int, total: int) -> None:
                    nonlocal done
                    done += 1
                    if on_step is not None:
                        on_step(done, 2 * len(wanted) * total)

                result = runtime.generate(
                    prompt,
                    negative_prompt=settings.get("negative_prompt"),
                    seed=seed + number,
                    steps=steps or int(settings.get("steps", 30)),
                    guidance_scale=float(settings.get("guidance_scale", 5.0)),
                    width=size[0],
                    height=size[1],
                    on_step=count,
                )
                pictures[-1] += result.images
                records += [result.record] if composition else []
    pairs = [PreviewPair(*row) for row in zip(*pictures, records, strict=True)]
    return Previews(version, strength, pairs, _keep(registry, version, pairs))


def _default_prompts(registry: Registry, version: Version) -> list[str]:
    if version.trigger_words:
        return [", ".join(version.trigger_words)]
    for document in registry.documents(version):
        if document.name == "data.json":
            rows = json.loads(registry.read(document.sha256))["pictures"]
            return list(dict.fromkeys(row["caption"] for row in rows))[:CAPTIONS]
    raise SettingError("the prompt", "", f"{version.reference} has no trigger words; say what to draw")


def _base_of(version: Version) -> Base:
    """Return the base that a version was made on, or else one of its architecture."""
    if version.architecture == "mini":
        return find_base("mini")
    bases = [base for base in list_bases() if base.architecture == version.architecture]
    if not bases:
        reason = f"nothing of the architecture {version.architecture} is on this machine"
        raise BaseNotFoundError(version.base_identity or version.architecture, [], reason)
    same = [base for base in bases if version.base_identity and base.identity == version.base_identity]
    return (same or bases)[0]


def _keep(registry: Registry, version: Version, pairs: Sequence[PreviewPair]) -> Sequence[StoredFile]:
    """Add the adapter's pictures to the version; their records say what they were made with."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(pairs))]
        for path, pair in zip(paths, pairs, strict=True):
            write_atomically(path, png_with_record(pair.drawn, pair.record))
        return registry.add_previews(version, paths)
