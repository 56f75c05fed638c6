"""Pictures that are never trained on, so that they can tell how well the others were learnt."""

from dataclasses import replace

from adapterhub.errors import DatasetError
from adapterhub.randomness import keyed_generator
from adapterhub.training.dataset import Dataset

SHOWN = 5
"""So many names of held-out pictures are told."""


def hold_out(dataset: Dataset, part: float) -> Dataset:
    """Return a data set whose `held_out` has a part of its pictures, and `examples` the others.

    What decides is each picture's digest alone: adapters and runs on the same pictures hold out the same
    ones, so that their losses compare, and a new picture moves at most one other. Copies of a picture go
    together; pictures that keep a class stay.

    Args:
        dataset: With nothing held out.
        part: From 0 to below 1; of a part above 0 at least one picture is held out.

    Raises:
        DatasetError: Nothing would be left to train on.
    """
    if part == 0:
        return dataset
    priors = {item.sha256 for item in dataset.examples if item.source.is_prior}
    found = {item.sha256 for item in dataset.examples} - priors
    count = max(round(part * len(found)), 1)
    if count >= len(found):
        reason = f"held_out {part:g} would hold out {count} of {len(found)} different pictures"
        raise DatasetError(dataset.folder, [reason])
    drawn = sorted(found, key=lambda sha256: (keyed_generator(0, "held-out", sha256).random(), sha256))
    chosen = set(drawn[:count])
    held = tuple(item for item in dataset.examples if item.sha256 in chosen)
    names = ", ".join(item.name for item in held[:SHOWN])
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    note = f"held out for validation, and never trained on: {names}{more}"
    return replace(
        dataset,
        examples=tuple(item for item in dataset.examples if item.sha256 not in chosen),
        notes=(*dataset.notes, note),
        held_out=held,
    )
