"""What generating gives back."""

from dataclasses import dataclass

from PIL import Image

from adapterhub_registry.record import GenerationRecord


@dataclass(frozen=True)
class GenerationResult:
    """What `Runtime.generate` made.

    Attributes:
        images: The pictures, RGB.
        records: What decides the bytes of each.
    """

    images: list[Image.Image]
    records: list[GenerationRecord]

    @property
    def record(self) -> GenerationRecord:
        """The record of the first picture."""
        return self.records[0]
