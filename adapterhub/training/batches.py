"""Which pictures each step shows: an order that seed, adapter and step alone decide."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from adapterhub.randomness import keyed_generator

Item = TypeVar("Item")


@dataclass(frozen=True)
class Showing:
    """One picture in one epoch.

    Attributes:
        epoch: Counted from 0.
        sample: Its place in the data set.
        repeat: Which of its showings in this epoch.
    """

    epoch: int
    sample: int
    repeat: int

    @property
    def key(self) -> tuple[int, int, int]:
        """What its random choices are keyed by, besides seed, adapter and purpose."""
        return self.epoch, self.sample, self.repeat


def is_flipped(showing: Showing, *, seed: int, name: str) -> bool:
    """Say whether a picture that may be flipped is flipped in this showing: every other time, by chance."""
    return bool(keyed_generator(seed, name, "flip", *showing.key).random() < 0.5)


class BatchOrder:
    """The batches of one adapter, by step.

    A batch holds pictures of one bucket. In every epoch each picture is shown as often as it is repeated; the
    last batch of a bucket may be short, and nothing is dropped. Any step can be asked for at once, so that
    neither a resume nor the number of workers changes the order.

    Args:
        buckets: The bucket of each picture.
        repeats: How often each is shown an epoch.
        batch_size: Pictures a batch, at most.
        seed: The adapter's.
        name: The adapter.

    Example:
        >>> order = BatchOrder(["wide", "tall", "wide"], [1, 1, 1], batch_size=2, seed=0, name="me/ink")
        >>> order.batches_per_epoch
        2
    """

    def __init__(
        self, buckets: Sequence[Hashable], repeats: Sequence[int], *, batch_size: int, seed: int, name: str
    ) -> None:
        groups: dict[Hashable, list[tuple[int, int]]] = {}
        for sample, (bucket, count) in enumerate(zip(buckets, repeats, strict=True)):
            groups.setdefault(bucket, []).extend((sample, repeat) for repeat in range(count))
        self._groups = list(groups.values())
        self._batch_size = batch_size
        self._seed = seed
        self._name = name
        self._epoch = -1
        self._batches: list[list[tuple[int, int]]] = []
        self.batches_per_epoch = sum(-(-len(group) // batch_size) for group in self._groups)

    def batch(self, step: int) -> tuple[Showing, ...]:
        """Return the pictures of one step, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._epoch_batches(epoch), epoch
        return tuple(Showing(epoch, sample, repeat) for sample, repeat in self._batches[place])

    def _epoch_batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        random = keyed_generator(self._seed, self._name, "order", epoch)

        def shuffled(items: Sequence[Item]) -> list[Item]:
            return [items[place] for place in random.permutation(len(items))]

        batches: list[list[tuple[int, int]]] = []
        for group in self._groups:
            mixed = shuffled(group)
            batches += [mixed[i : i + self._batch_size] for i in range(0, len(mixed), self._batch_size)]
        return shuffled(batches)
