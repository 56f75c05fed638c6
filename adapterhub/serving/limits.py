"""How much one request may ask for."""

from dataclasses import asdict, dataclass

from adapterhub.errors import SettingError
from adapterhub.runtime.request import Request

TIMES_OWN_SIZE = 4
"""Pixels of a picture, by those that the base was trained for."""


@dataclass(frozen=True)
class RequestLimits:
    """How much one request may ask for.

    Attributes:
        body_bytes: Of its body.
        pixels: Of one picture; None for four times what the base was trained for.
        given_pixels: Of a picture that it brings; it is held in memory until it is used.
        steps: Of one picture.
        count: Pictures.
        letters: Of each text.

    Raises:
        SettingError: One of them is below 1.
    """

    body_bytes: int = 32 << 20
    pixels: int | None = None
    given_pixels: int = 1 << 24
    steps: int = 150
    count: int = 16
    letters: int = 10_000

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise SettingError(f"the limit of {name}", value, "it must be at least 1")

    def most_pixels(self, own_size: int) -> int:
        """Return the limit of a picture's pixels, on a base that was trained for a side of so many."""
        return TIMES_OWN_SIZE * own_size**2 if self.pixels is None else self.pixels

    def check(self, request: Request, count: int, *, own_size: int) -> None:
        """Check a request that is asked for so many times.

        Raises:
            SettingError: It asks for more, or a setting makes no sense.
        """
        complete = request.completed(own_size)
        for name, value, limit in (("steps", request.steps, self.steps), ("count", count, self.count)):
            if value > limit:
                raise SettingError(name, value, f"here it may be {limit} at most")
        width, height, most = complete.width or 0, complete.height or 0, self.most_pixels(own_size)
        if width * height > most:
            rule = f"here a picture may have {most} pixels at most, such as {own_size}x{own_size}"
            raise SettingError("the size", f"{width}x{height}", rule)
