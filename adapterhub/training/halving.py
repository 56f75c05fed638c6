"""Successive halving: of candidates that are trained side by side, the worse ones leave at rungs.

Jamieson and Talwalkar 2016 (arXiv 1502.07943). One in `eta` goes on at each rung; Li et al. 2018 (Hyperband,
arXiv 1603.06560) derive e as the best and take 3, the nearest whole number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

STOPPED, NOT_KEPT = "stopped early", "not kept"
"""What becomes of a candidate that is not kept: it left at a rung, or was trained to its end."""


def rung_parts(candidates: int, *, keep: int, eta: int) -> tuple[float, ...]:
    """Return after which parts of their steps candidates are compared, so that `keep` are left at the last.

    Args:
        candidates: How many there are.
        keep: How many are wanted; 0 means all.
        eta: One in so many goes on.

    Example:
        >>> rung_parts(4, keep=1, eta=2)
        (0.25, 0.5)
    """
    left, rungs = candidates, 0
    while left > (keep or candidates):
        left, rungs = stay(left, keep=keep, eta=eta), rungs + 1
    return tuple(eta ** -float(rungs - number) for number in range(rungs))


def stay(candidates: int, *, keep: int, eta: int) -> int:
    """Return how many of so many candidates go on at a rung."""
    return max(math.ceil(candidates / eta), min(keep or candidates, candidates))


@dataclass(frozen=True)
class Verdict:
    """What a rung decided; the lowest loss stands first.

    Attributes:
        stays: Who goes on, or at the end is kept.
        leaves: Who does not.
        is_last: Whether all are trained.
    """

    stays: Sequence[str]
    leaves: Sequence[str]
    is_last: bool


@dataclass
class Bracket:
    """The candidates of one adapter; plain numbers and text, so that a checkpoint can hold it.

    Nothing depends on the order in which candidates arrive: a rung decides when all who are left are there.

    Attributes:
        stops: The steps at which each candidate is compared; its last one is the end.
        keep: How many are kept; 0 means all.
        eta: One in so many goes on at a rung.
        left: Names of those who are in it still.
        losses: Of those who have arrived, by rung.
        rung: The next one, from 0.
    """

    stops: dict[str, list[int]]
    keep: int
    eta: int
    left: list[str]
    losses: list[dict[str, float]] = field(default_factory=lambda: [{}])
    rung: int = 0

    @property
    def arrived(self) -> list[str]:
        """Names of those who have come to the next rung, and of those who were kept at the last one."""
        return [name for name in self.left if name in self.losses[self.rung]]

    def next_stop(self, name: str) -> int:
        """Return the step at which a candidate is compared next."""
        return self.stops[name][self.rung]

    def arrive(self, name: str, loss: float) -> Verdict | None:
        """Note the loss of a candidate at its stop; return what is decided if it was the last to come."""
        self.losses[self.rung][name] = loss
        return self._decide()

    def leave(self, name: str) -> Verdict | None:
        """Take out a candidate that cannot go on; return what is decided if all others have come."""
        self.left.remove(name)
        return self._decide()

    def _decide(self) -> Verdict | None:
        losses = self.losses[self.rung]
        if not self.left or any(name not in losses for name in self.left):
            return None
        rungs = len(self.stops[self.left[0]])
        is_last = self.rung == rungs - 1
        count = self.keep or len(self.left)
        if not is_last:
            count = stay(len(self.left), keep=self.keep, eta=self.eta)
        # Sorting is stable: of equal losses the one that was named first goes on.
        ranked = sorted(self.left, key=lambda name: losses[name])
        verdict = Verdict(ranked[:count], ranked[count:], is_last)
        self.left = [name for name in self.left if name in verdict.stays]
        if not is_last:
            self.rung += 1
            self.losses.append({})
        return verdict
