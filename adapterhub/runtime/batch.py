"""What is made in one go: pictures with prompts and seeds of their own, and settings that they share."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapterhub.errors import EmptyPromptError, InvalidSizeError, SettingError
from adapterhub_registry.record import GenerationRecord

SIZE_MULTIPLE = 8  # diffusers' SDXL pipeline refuses other sizes


@dataclass(frozen=True)
class Batch:
    """Pictures of one batch.

    Attributes:
        prompts: One for each picture.
        seeds: Likewise.
        negative_prompt: What to avoid; None is SDXL's zero embedding.
        steps: Denoising steps.
        guidance_scale: Classifier-free guidance.
        width: Pixels.
        height: Pixels.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    negative_prompt: str | None
    steps: int
    guidance_scale: float
    width: int
    height: int

    @classmethod
    def of(
        cls,
        prompts: Sequence[str],
        *,
        seed: int | None,
        count: int,
        negative_prompt: str | None,
        steps: int,
        guidance_scale: float,
        width: int,
        height: int,
    ) -> "Batch":
        """Make a batch of `count` pictures of each prompt; see `Runtime.generate`.

        Raises:
            EmptyPromptError: There are no prompts.
            InvalidSizeError: A side is not a positive multiple of 8.
            SettingError: Another setting makes no sense.
        """
        if not prompts:
            raise EmptyPromptError
        if count < 1:
            raise SettingError("the count", count, "it must be at least 1")
        if steps < 1:
            raise SettingError("the number of steps", steps, "it must be at least 1")
        highest = 2**32 - len(prompts) * count
        if seed is not None and not 0 <= seed <= highest:
            raise SettingError("the seed", seed, "it must be from 0 to 2**32 - 1, with room for all pictures")
        if not 0 <= guidance_scale <= 1000:
            raise SettingError("the guidance scale", guidance_scale, "it must be from 0 to 1000")
        if min(width, height) < SIZE_MULTIPLE or width % SIZE_MULTIPLE or height % SIZE_MULTIPLE:
            raise InvalidSizeError(width, height, SIZE_MULTIPLE)
        first = secrets.randbelow(highest) if seed is None else seed
        texts = tuple(text for text in prompts for _ in range(count))
        seeds = tuple(range(first, first + len(texts)))
        return cls(texts, seeds, negative_prompt, steps, guidance_scale, width, height)

    @classmethod
    def like(cls, record: GenerationRecord) -> "Batch":
        """Make a batch of the recorded shape in which every picture is the recorded one."""
        size = record.batch_size
        return cls(
            (record.prompt,) * size,
            (record.seed,) * size,
            record.negative_prompt,
            record.steps,
            record.guidance_scale,
            record.width,
            record.height,
        )

    def fields(self, row: int) -> dict[str, Any]:
        """Return what a record says of one picture."""
        return {
            "prompt": self.prompts[row],
            "negative_prompt": self.negative_prompt,
            "seed": self.seeds[row],
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "width": self.width,
            "height": self.height,
            "batch_size": len(self.prompts),
            "batch_row": row,
        }
