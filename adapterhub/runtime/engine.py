"""The runtime: load a base once, compose, generate."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import choose_device, dtype_name, load_pipeline
from adapterhub.bases.prompts import PromptCache
from adapterhub.errors import ArchitectureError, RuntimeClosedError
from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors
from adapterhub.runtime.batch import Batch
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.environment import library_versions, processor_name
from adapterhub.runtime.fused import text_encoder_digest
from adapterhub.runtime.plane import FusedPlane, LoadedAdapter
from adapterhub.runtime.records import plan_fields
from adapterhub.runtime.residency import BUDGET_BYTES, ResidencyMetrics, ResidentSet
from adapterhub.runtime.schedule import Plan, terms_of
from adapterhub.runtime.schedulers import make_scheduler, recorded_scheduler, scheduler_record
from adapterhub_registry.manifest import Version
from adapterhub_registry.record import BaseRecord, GenerationRecord
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

logger = logging.getLogger(__name__)

OnStep = Callable[[int, int], None]


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


class Runtime:
    """One loaded pipeline; make it with `Runtime.load`. It serves one call at a time."""

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        base: Base,
        *,
        registry: Registry | None = None,
        resident_bytes: int = BUDGET_BYTES,
    ) -> None:
        self._pipeline: StableDiffusionXLPipeline | None = pipeline
        self._lock = threading.RLock()
        self._registry = registry
        self._prompts = PromptCache(pipeline)
        self._plane = FusedPlane(pipeline)
        self._resident = ResidentSet(resident_bytes)
        self.base = base

    @classmethod
    def load(
        cls,
        base: str | Path | Base = "mini",
        *,
        registry: Registry | None = None,
        device: str | None = None,
        dtype: str | None = None,
        config: str | Path | None = None,
        offload: str = "none",
        quantize: str | None = None,
        resident_bytes: int = BUDGET_BYTES,
    ) -> "Runtime":
        """Load a base.

        Args:
            base: A name, directory, single file or hub id (see `find_base`), or a `Base`.
            registry: Where `compose` finds adapters; by default the one in `ADAPTERHUB_HOME`.
            device: `cpu`, `cuda` or `mps`; by default the best there is.
            dtype: `float32`, `float16` or `bfloat16`; by default float32 on the CPU, else float16.
            config: The configs that a single file is read with; by default SDXL's.
            offload: `none`, `model` or `sequential` (see `load_pipeline`).
            quantize: How to quantize the UNet, such as `torchao-int8`; None leaves it as it is.
            resident_bytes: Adapters are kept at hand up to this size, those that were used last.

        Raises:
            AdapterHubError: As `find_base`, `choose_device` and `load_pipeline`.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     runtime.generate("a red heart", seed=7, steps=2).images[0].size
            (64, 64)
        """
        device, dtype = choose_device(device, dtype)
        found = base if isinstance(base, Base) else find_base(base, config=config)
        pipeline = load_pipeline(found, device=device, dtype=dtype, offload=offload, quantize=quantize)
        return cls(pipeline, found, registry=registry, resident_bytes=resident_bytes)

    @property
    def pipeline(self) -> "StableDiffusionXLPipeline":
        """The stock diffusers pipeline, with the composition's weights in it."""
        if self._pipeline is None:
            raise RuntimeClosedError
        return self._pipeline

    @property
    def registry(self) -> Registry:
        """Where adapters are found; opened when it is first needed."""
        if self._registry is None:
            self._registry = Registry()
        return self._registry

    @property
    def composition(self) -> Plan:
        """The active composition, empty for the base; or the schedule or `Composite` in place of one."""
        return self._plane.plan

    @property
    def residency(self) -> ResidencyMetrics:
        """How often adapters were at hand."""
        return self._resident.metrics

    @property
    def device(self) -> torch.device:
        """Where the pipeline lies."""
        return self.pipeline.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the UNet."""
        return self.pipeline.unet.dtype

    @property
    def default_size(self) -> int:
        """Width and height in pixels that the base was trained for."""
        pipeline = self.pipeline
        return int(pipeline.unet.config["sample_size"]) * pipeline.vae_scale_factor

    def compose(self, composition: str | Plan | None) -> list[Version]:
        """Make a composition active: fuse it into the pipeline's weights, computed from the pristine ones.

        Versions are resolved and checked first; if anything is wrong the composition stays as it was. If
        writing the weights fails on the way, the base is active. A schedule and a `Composite` act while
        pictures are made; between them the pipeline has the base's weights.

        Args:
            composition: `"me/ink@prod:0.8 + me/corgi"`, a `Composition`, a schedule (`Keyframes`, `Switch`),
                a `Composite`, or None for the base, bit for bit.

        Returns:
            The versions, in the order of the terms.

        Raises:
            CompositionError: The text does not follow the grammar.
            AdapterNotFoundError, VersionNotFoundError: A reference names nothing.
            ArchitectureError: An adapter is for another architecture.
            TargetError: An adapter changes modules that the pipeline does not have.
            NotFiniteError: An adapter holds NaN or infinity.
        """
        plan = Composition.parse(composition) if isinstance(composition, str) else composition or BASE
        terms = list(terms_of(plan))
        with self._lock:
            self.pipeline  # noqa: B018 - it raises if the runtime is closed
            loaded = {
                reference: self._load(self.registry.resolve(reference))
                for reference in dict.fromkeys(term.reference for term in terms)
            }
            self._plane.apply(plan, loaded)
            self._resident.keep({adapter.version.digest for adapter in loaded.values()})
        return [loaded[term.reference].version for term in terms]

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        seed: int | None = None,
        count: int = 1,
        steps: int = 30,
        guidance_scale: float = 5.0,
        width: int | None = None,
        height: int | None = None,
        scheduler: str | None = None,
        on_step: OnStep | None = None,
    ) -> GenerationResult:
        """Make pictures in one batch: `count` of each prompt.

        With one prompt and one picture the pixels are those of the stock pipeline called with
        `generator=torch.Generator("cpu").manual_seed(seed)` and the same settings.

        Args:
            prompt: One prompt, or several.
            negative_prompt: What to avoid, for all; None is SDXL's zero embedding.
            seed: Seed of the first picture, 0 to 2**32 - 1; the others count up. None draws one.
            count: Pictures of each prompt.
            steps: Denoising steps.
            guidance_scale: Classifier-free guidance; 1 or less turns it off.
            width: Pixels, a multiple of 8; by default what the base was trained for.
            height: Likewise.
            scheduler: One of `adapterhub.runtime.schedulers.SCHEDULERS`; by default the base's own.
            on_step: Called after each denoising step with (steps done, steps).

        Raises:
            EmptyPromptError: The list of prompts is empty.
            InvalidSizeError: A side is not a positive multiple of 8.
            SettingError: Another setting makes no sense.
            RuntimeClosedError: The runtime was closed.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     result = runtime.generate(["a red heart", "a star"], seed=7, steps=2)
            ...     [record.seed for record in result.records]
            [7, 8]
        """
        batch = Batch.of(
            [prompt] if isinstance(prompt, str) else list(prompt),
            seed=seed,
            count=count,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            width=self.default_size if width is None else width,
            height=self.default_size if height is None else height,
        )
        with self._lock:
            own = self.pipeline.scheduler
            chosen = own if scheduler is None else make_scheduler(scheduler, own.config)
            images = self._run(batch, chosen, on_step)
            records = [self._record(batch, row, chosen) for row in range(len(images))]
        return GenerationResult(images, records)

    def reproduce(self, record: GenerationRecord, *, on_step: OnStep | None = None) -> GenerationResult:
        """Make the picture of a record again, in a batch of the recorded shape and at the recorded row.

        The other rows of the batch are filled with the same picture: they decide nothing but the shape.
        `adapterhub.replay` also restores the base, the dtype and the threads, and compares.
        """
        batch = Batch.like(record)
        with self._lock:
            scheduler = recorded_scheduler(record.scheduler, self.pipeline.scheduler)
            images = self._run(batch, scheduler, on_step)
            made = self._record(batch, record.batch_row, scheduler)
        return GenerationResult([images[record.batch_row]], [made])

    def close(self) -> None:
        """Put the base's weights back and let go of the pipeline; closing twice is allowed."""
        with self._lock:
            self._plane.restore()
            self._pipeline = None

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, version: Version) -> LoadedAdapter:
        """Read and check one adapter, unless it is at hand."""
        if version.architecture != self.base.architecture:
            raise ArchitectureError(version.architecture, self.base.architecture)
        if version.base_identity and version.base_identity != self.base.identity:
            logger.warning("%s was made on another checkpoint of %s", version.reference, version.architecture)

        def read() -> AdapterTensors:
            tensors = read_adapter(self.registry.payload(version))
            self._plane.check(version.reference, tensors)
            tensors.require_finite(version.reference)
            return tensors

        return LoadedAdapter(version, self._resident.get(version.digest, read))

    def _run(self, batch: Batch, scheduler: Any, on_step: OnStep | None) -> list[Image.Image]:
        pipeline = self.pipeline
        with self._plane.acting(batch.steps) as acting:
            digest = text_encoder_digest(acting.on_text)
            positive = [self._prompts.encode(text, text_encoder_digest=digest) for text in batch.prompts]
            negative = [
                self._prompts.encode_negative(batch.negative_prompt, entry, text_encoder_digest=digest)
                for entry in positive
            ]

            def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                acting.after_step(step)
                if on_step is not None:
                    on_step(step + 1, batch.steps)
                return tensors

            # diffusers annotates the callback and the result with other types than it takes and gives.
            call: Any = pipeline
            own, pipeline.scheduler = pipeline.scheduler, scheduler
            try:
                output = call(
                    prompt_embeds=torch.cat([entry.states for entry in positive]),
                    pooled_prompt_embeds=torch.cat([entry.pooled for entry in positive]),
                    negative_prompt_embeds=torch.cat([entry.states for entry in negative]),
                    negative_pooled_prompt_embeds=torch.cat([entry.pooled for entry in negative]),
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch.seeds],
                    num_inference_steps=batch.steps,
                    guidance_scale=batch.guidance_scale,
                    width=batch.width,
                    height=batch.height,
                    callback_on_step_end=after_step,
                )
            finally:
                pipeline.scheduler = own
        return output.images

    def _record(self, batch: Batch, row: int, scheduler: Any) -> GenerationRecord:
        return GenerationRecord(
            base=BaseRecord(self.base.name, self.base.architecture, self.base.identity),
            scheduler=scheduler_record(scheduler),
            device=self.device.type,
            processor=processor_name(self.device),
            dtype=dtype_name(self.dtype),
            threads=torch.get_num_threads(),
            versions=library_versions(),
            **plan_fields(self._plane.plan, self._plane.loaded),
            **batch.fields(row),
        )
