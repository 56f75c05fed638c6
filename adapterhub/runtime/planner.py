"""Which plane a batch is made on: what the base allows, what was asked for, and what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapterhub.errors import PlaneError
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.planes import PLANES
from adapterhub.runtime.regions import Regions
from adapterhub.runtime.schedule import Composite, Plan

NEWEST = 0.3
"""How much the newest measurement counts in a mean."""


APART = (Regions, Composite)
"""What cannot share a batch with anything else."""


@dataclass(frozen=True)
class Choice:
    """A plane, and why.

    Attributes:
        plane: One of `PLANES`.
        why: For the record.
        together: Whether pictures with compositions of their own are made in one batch.
    """

    plane: str
    why: str
    together: bool = True


@dataclass
class Planner:
    """Chooses planes, and remembers what steps cost.

    Attributes:
        is_writable: Whether the UNet's weights can be rewritten.
        seconds: Mean seconds of one step, by plane, pictures, and pixels of each.
    """

    is_writable: bool = True
    seconds: dict[tuple[str, int, int], float] = field(default_factory=dict[tuple[str, int, int], float])

    def choose(
        self, plans: Sequence[ActivePlan], *, pictures: int, pixels: int, asked: str | None = None
    ) -> Choice:
        """Choose a plane.

        Args:
            plans: The different plans of a batch.
            pictures: How many pictures it has.
            pixels: Of one picture.
            asked: The plane that was asked for; None for the best.

        Raises:
            PlaneError: There is no such plane.
        """
        check_plane(asked)
        apart = [plan for plan in plans if isinstance(plan.plan, APART)]
        if len(plans) > 1 and apart:
            return Choice("mixed", f"a {type(apart[0].plan).__name__} is made apart", together=False)
        if asked is not None:
            return Choice(asked, "asked for", together=asked == "mixed")
        if apart and isinstance(apart[0].plan, Regions):
            return Choice("low_rank", "regions are added to what modules return")
        if len(plans) == 1:
            if self.is_writable:
                return Choice("fused", "one composition for all pictures, which then costs nothing in a step")
            return Choice("low_rank", "the base's weights cannot be written to")
        if not self.is_writable:
            return Choice("mixed", "the base's weights cannot be written to")
        return self._cheaper(pictures, pixels)

    def observe(self, plane: str, pictures: int, pixels: int, seconds: float) -> None:
        """Remember what a step cost."""
        key = (plane, pictures, pixels)
        self.seconds[key] = (1 - NEWEST) * self.seconds.get(key, seconds) + NEWEST * seconds

    def _cheaper(self, pictures: int, pixels: int) -> Choice:
        mixed = self.seconds.get(("mixed", pictures, pixels))
        single = self.seconds.get(("fused", 1, pixels))
        if mixed is None or single is None:
            return Choice("mixed", "each picture has a composition of its own; not measured yet")
        measured = f"a step costs {mixed * 1e3:.0f} ms together, {single * pictures * 1e3:.0f} ms apart"
        return Choice("mixed", measured, together=mixed <= single * pictures)


def check_plane(asked: str | None) -> None:
    """Check that there is a plane of this name, if one was asked for.

    Raises:
        PlaneError: There is none.
    """
    if asked is not None and asked not in PLANES:
        raise PlaneError(asked, f"there is none of that name; there are {', '.join(PLANES)}")


def can_join(one: Plan | None, other: Plan | None, *, asked: str | None) -> bool:
    """Return whether pictures under two plans may be made in one batch, on the plane that was asked for.

    Example:
        >>> from adapterhub.runtime.composition import Composition
        >>> ink, corgi = Composition.parse("me/ink"), Composition.parse("me/corgi")
        >>> can_join(ink, corgi, asked=None), can_join(ink, Composite(corgi), asked=None)
        (True, False)
    """
    if one == other:
        return True
    return asked in (None, "mixed") and not isinstance(one, APART) and not isinstance(other, APART)
