"""What is asked for: one picture with all its settings, a value."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapterhub.errors import InvalidSizeError, SettingError
from adapterhub.runtime.schedule import Plan
from adapterhub.runtime.start import Control, Start
from adapterhub_registry.record import GenerationRecord

SIZE_MULTIPLE = 8  # diffusers' SDXL pipeline refuses other sizes
HIGHEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Request:
    """One picture to make.

    Attributes:
        prompt: What to draw.
        composition: What acts while it is made; None is what `Runtime.compose` made active.
        negative_prompt: What to avoid; None is SDXL's zero embedding.
        seed: Of the starting noise; None draws one.
        steps: Denoising steps.
        guidance_scale: Classifier-free guidance; 1 or less turns it off.
        width: Pixels, a multiple of 8; None for that of the picture that it starts from or that steers it,
            rounded down, else for what the base was trained for. Pictures of other sizes are fitted to it.
        height: Likewise.
        scheduler: One of `adapterhub.runtime.schedulers.SCHEDULERS`; None for the base's own.
        plane: `fused`, `low_rank` or `mixed`; None for the best.
        triggers: Whether the adapters' trigger words are said: `off`, `prepend` or `append`, never twice.
        prompt_syntax: `weighted` reads weights, `BREAK` and `<lora:name:weight>`; `plain` takes all as text.
        start: The picture that it starts from; None for noise.
        control: The picture that steers it through the runtime's ControlNet; None for none.
        refine_from: The part of all steps after which the runtime's refiner goes on; None for never.
    """

    prompt: str
    composition: Plan | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int = 30
    guidance_scale: float = 5.0
    width: int | None = None
    height: int | None = None
    scheduler: str | None = None
    plane: str | None = None
    triggers: str = "off"
    prompt_syntax: str = "weighted"
    start: Start | None = None
    control: Control | None = None
    refine_from: float | None = None

    def completed(self, default_size: int) -> "Request":
        """Return it with a seed and a size.

        Raises:
            InvalidSizeError: A side is not a positive multiple of 8.
            SettingError: Another setting makes no sense.
        """
        if self.steps < 1:
            raise SettingError("the number of steps", self.steps, "it must be at least 1")
        if self.seed is not None and not 0 <= self.seed <= HIGHEST_SEED:
            raise SettingError(
                "the seed", self.seed, "it must be from 0 to 2**32 - 1, with room for all pictures"
            )
        if not 0 <= self.guidance_scale <= 1000:
            raise SettingError("the guidance scale", self.guidance_scale, "it must be from 0 to 1000")
        self._check_start()
        wide, high = self._given_size or (default_size, default_size)
        width = wide if self.width is None else self.width
        height = high if self.height is None else self.height
        if min(width, height) < SIZE_MULTIPLE or width % SIZE_MULTIPLE or height % SIZE_MULTIPLE:
            raise InvalidSizeError(width, height, SIZE_MULTIPLE)
        seed = secrets.randbelow(HIGHEST_SEED + 1) if self.seed is None else self.seed
        return replace(self, seed=seed, width=width, height=height)

    @property
    def shared(self) -> tuple[Any, ...]:
        """What all pictures of one batch have in common."""
        return (
            *(self.steps, self.guidance_scale, self.width, self.height, self.scheduler, self.plane),
            None if self.start is None else self.start.shared,
            None if self.control is None else self.control.shared,
            self.refine_from,
        )

    @property
    def _given_size(self) -> tuple[int, int] | None:
        given = self.start or self.control
        if given is None:
            return None
        width, height = given.image.size
        return (
            width // SIZE_MULTIPLE * SIZE_MULTIPLE or width,
            height // SIZE_MULTIPLE * SIZE_MULTIPLE or height,
        )

    def _check_start(self) -> None:
        start, refine_from = self.start, self.refine_from
        if start is not None and not start.steps(self.steps):
            rule = f"of {self.steps} steps it leaves none to make; give more of either"
            raise SettingError("the strength", start.strength, rule)
        if refine_from is None:
            return
        if not 0 < refine_from < 1:
            raise SettingError("where the refiner goes on", refine_from, "it must be above 0.0 and below 1.0")
        if start is not None and (start.mask is not None or self.control is not None):
            what = (
                "a mask: it would draw outside of it too"
                if start.mask is not None
                else "a start and a control"
            )
            raise SettingError("where the refiner goes on", refine_from, f"no refiner goes with {what}")


@dataclass(frozen=True)
class Batch:
    """Completed requests that are made in one go, and what they share."""

    requests: tuple[Request, ...]

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def seeds(self) -> list[int]:
        """One for each picture."""
        return [request.seed or 0 for request in self.requests]

    @property
    def steps(self) -> int:
        """Denoising steps."""
        return self.requests[0].steps

    @property
    def guidance_scale(self) -> float:
        """Classifier-free guidance."""
        return self.requests[0].guidance_scale

    @property
    def width(self) -> int:
        """Pixels."""
        return self.requests[0].width or 0

    @property
    def height(self) -> int:
        """Pixels."""
        return self.requests[0].height or 0

    @property
    def first(self) -> Request:
        """The first one, for what all share."""
        return self.requests[0]

    @classmethod
    def like(cls, record: GenerationRecord, start: Start | None, control: Control | None) -> "Batch":
        """Make a batch of the recorded shape in which every picture is the recorded one."""
        request = Request(
            prompt=record.prompt,
            negative_prompt=record.negative_prompt,
            seed=record.seed,
            steps=record.steps,
            guidance_scale=record.guidance_scale,
            width=record.width,
            height=record.height,
            prompt_syntax=record.prompt_syntax,
            start=start,
            control=control,
            refine_from=record.refiner.get("refine_from"),
        )
        return cls((request,) * record.batch_size)

    def fields(self, row: int) -> dict[str, Any]:
        """Return what a record says of one picture."""
        request = self.requests[row]
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "prompt_syntax": request.prompt_syntax,
            "seed": request.seed,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "width": self.width,
            "height": self.height,
            "batch_size": len(self.requests),
            "batch_row": row,
        }


def series(
    request: Request, prompts: Sequence[str], plans: Sequence[Plan | None], count: int
) -> list[Request]:
    """Return `count` requests for each prompt with its plan, whose seeds count up from the request's.

    Raises:
        SettingError: The count is below 1, or the seeds leave their range.
    """
    if count < 1:
        raise SettingError("the count", count, "it must be at least 1")
    total = len(prompts) * count
    highest = HIGHEST_SEED + 1 - total
    if request.seed is not None and not 0 <= request.seed <= highest:
        raise SettingError(
            "the seed", request.seed, "it must be from 0 to 2**32 - 1, with room for all pictures"
        )
    first = secrets.randbelow(highest + 1) if request.seed is None else request.seed
    pairs = [pair for pair in zip(prompts, plans, strict=True) for _ in range(count)]
    return [
        replace(request, prompt=prompt, composition=plan, seed=first + number)
        for number, (prompt, plan) in enumerate(pairs)
    ]
