"""The runtime: load a base once, compose, generate."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image

from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import choose_device, dtype_name, load_pipeline
from adapterhub.bases.prompts import PromptCache
from adapterhub.bases.wrapped import base_of
from adapterhub.errors import ArchitectureError, EmptyPromptError, RuntimeClosedError, SettingError
from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors
from adapterhub.runtime.active import ActivePlan, LoadedAdapter
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.draw import OnStep, draw
from adapterhub.runtime.environment import library_versions, processor_name
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Choice, Planner
from adapterhub.runtime.records import plan_fields, recorded_plan
from adapterhub.runtime.regions import Regions
from adapterhub.runtime.request import Batch, Request, series
from adapterhub.runtime.residency import BUDGET_BYTES, ResidencyMetrics, ResidentSet
from adapterhub.runtime.schedule import Plan, terms_of
from adapterhub.runtime.schedulers import make_scheduler, recorded_scheduler, scheduler_record
from adapterhub_registry.manifest import Version
from adapterhub_registry.record import BaseRecord, GenerationRecord
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

logger = logging.getLogger(__name__)

OnCount = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps)."""
Composable: TypeAlias = str | Plan | None
"""A composition as text, a plan, or None for the base."""


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
        self._planes = Planes(pipeline)
        self._planner = Planner()
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
        resident_bytes: int = BUDGET_BYTES,
    ) -> "Runtime":
        """Load a base.

        Args:
            base: A name, directory or hub id (see `find_base`), or a `Base`.
            registry: Where `compose` finds adapters; by default the one in `ADAPTERHUB_HOME`.
            device: `cpu`, `cuda` or `mps`; by default the best there is.
            dtype: `float32`, `float16` or `bfloat16`; by default float32 on the CPU, else float16.
            resident_bytes: Adapters are kept at hand up to this size, those that were used last.

        Raises:
            AdapterHubError: As `find_base`, `choose_device` and `load_pipeline`.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     runtime.generate("a red heart", seed=7, steps=2).images[0].size
            (64, 64)
        """
        device, dtype = choose_device(device, dtype)
        found = base if isinstance(base, Base) else find_base(base)
        pipeline = load_pipeline(found, device=device, dtype=dtype)
        return cls(pipeline, found, registry=registry, resident_bytes=resident_bytes)

    @classmethod
    def wrap(
        cls,
        pipeline: "StableDiffusionXLPipeline",
        *,
        base: str | Path | Base | None = None,
        registry: Registry | None = None,
        resident_bytes: int = BUDGET_BYTES,
    ) -> "Runtime":
        """Take a pipeline that was loaded elsewhere, and give it back by `close` as it came.

        Args:
            pipeline: With SDXL's parts, and without layers of PEFT.
            base: What it was loaded from, for records that can be replayed; by default they say `wrapped`.
            registry: See `load`.
            resident_bytes: See `load`.

        Raises:
            PipelineRefusedError: A part is missing, or carries layers of PEFT.

        Example:
            >>> from adapterhub.bases.load import load_pipeline
            >>> mine = load_pipeline(find_base("mini"), device="cpu", dtype="float32")
            >>> with Runtime.wrap(mine) as runtime:
            ...     runtime.base.architecture, runtime.pipeline is mine
            ('mini', True)
        """
        wrapped = base_of(pipeline)
        if base is not None:
            found = base if isinstance(base, Base) else find_base(base)
            if found.architecture != wrapped.architecture:
                raise ArchitectureError(found.architecture, wrapped.architecture)
            wrapped = found
        return cls(pipeline, wrapped, registry=registry, resident_bytes=resident_bytes)

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
        return self._planes.composed.plan

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

    def compose(self, composition: Composable, *, plane: str | None = None) -> list[Version]:
        """Make a composition active, until the next call: on the fused plane in the pipeline's weights.

        Versions are resolved and checked first; if anything is wrong the composition stays as it was. If
        writing the weights fails on the way, the base is active. A schedule, a `Composite` and `Regions` act
        while pictures are made; between them the pipeline has the base's weights.

        Args:
            composition: `"me/ink@prod:0.8 + me/corgi"`, a `Composition`, a schedule (`Keyframes`, `Switch`,
                `KLora`), a `Composite`, `Regions`, `Merged`, or None for the base, bit for bit.
            plane: `fused`, or `low_rank`, which leaves the weights alone and changes strengths faster, while
                each step takes longer; None for the best.

        Returns:
            The versions, in the order of the terms.

        Raises:
            CompositionError: The text does not follow the grammar.
            AdapterNotFoundError, VersionNotFoundError: A reference names nothing.
            ArchitectureError: An adapter is for another architecture.
            TargetError: An adapter changes modules that the pipeline does not have.
            NotFiniteError: An adapter holds NaN or infinity.
            PlaneError: It cannot act on that plane.
        """
        plan = _plan(composition)
        with self._lock:
            self.pipeline  # noqa: B018 - it raises if the runtime is closed
            active = self._activate(plan)
            choice = self._planner.choose([active], pictures=1, pixels=0, asked=plane)
            self._planes.compose(active, choice.plane)
            self._resident.keep(self._in_use())
        return [active.loaded[term.reference].version for term in terms_of(plan)]

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        composition: Composable | Sequence[Composable] | EllipsisType = ...,
        negative_prompt: str | None = None,
        seed: int | None = None,
        count: int = 1,
        steps: int = 30,
        guidance_scale: float = 5.0,
        width: int | None = None,
        height: int | None = None,
        scheduler: str | None = None,
        plane: str | None = None,
        on_step: OnCount | None = None,
    ) -> GenerationResult:
        """Make pictures in one batch: `count` of each prompt.

        With one prompt and one picture the pixels are those of the stock pipeline called with
        `generator=torch.Generator("cpu").manual_seed(seed)` and the same settings.

        Args:
            prompt: One prompt, or several.
            composition: What acts on these pictures alone, or a list with one for each prompt, which are then
                drawn in one batch, each under its own. Left out it is what `compose` made active.
            negative_prompt: What to avoid, for all; None is SDXL's zero embedding.
            seed: Seed of the first picture, 0 to 2**32 - 1; the others count up. None draws one.
            count: Pictures of each prompt.
            steps: Denoising steps.
            guidance_scale: Classifier-free guidance; 1 or less turns it off.
            width: Pixels, a multiple of 8; by default what the base was trained for.
            height: Likewise.
            scheduler: One of `adapterhub.runtime.schedulers.SCHEDULERS`; by default the base's own.
            plane: `fused`, `low_rank` or `mixed`; by default the best.
            on_step: Called after each denoising step with (steps done, steps).

        Raises:
            EmptyPromptError: The list of prompts is empty.
            InvalidSizeError: A side is not a positive multiple of 8.
            SettingError: Another setting makes no sense.
            RuntimeClosedError: The runtime was closed.
            AdapterHubError: As `compose`.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     result = runtime.generate(["a red heart", "a star"], seed=7, steps=2)
            ...     [record.seed for record in result.records]
            [7, 8]
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise EmptyPromptError
        plans: list[Plan | None]
        if isinstance(composition, EllipsisType):
            plans = [None] * len(prompts)
        elif isinstance(composition, Sequence) and not isinstance(composition, str):
            plans = [_plan(one) for one in composition]
            if len(plans) != len(prompts):
                rule = f"there must be {len(prompts)}, one for each prompt"
                raise SettingError("the number of compositions", len(plans), rule)
        else:
            plans = [_plan(composition)] * len(prompts)
        asked = Request(
            "",
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            scheduler=scheduler,
            plane=plane,
        )
        counted = None if on_step is None else lambda step: on_step(step.done, step.steps)
        return self.run(series(asked, prompts, plans, count), on_step=counted)

    def run(self, requests: Sequence[Request], *, on_step: OnStep | None = None) -> GenerationResult:
        """Make the pictures of requests that have all settings in common but prompts, seeds and compositions.

        They are one batch, unless their compositions have to act apart.

        Args:
            requests: At least one.
            on_step: Called after each step of each batch; an exception that it raises ends the call.

        Raises:
            AdapterHubError: As `generate`.
        """
        completed = [request.completed(self.default_size) for request in requests]
        for request in completed:
            if isinstance(request.composition, Regions):
                request.composition.check_size(request.width or 0, request.height or 0)
            if request.shared != completed[0].shared:
                raise SettingError("a batch", len(completed), "its requests must share all other settings")
        with self._lock:
            own = self.pipeline.scheduler
            name = completed[0].scheduler
            scheduler = own if name is None else make_scheduler(name, own.config)
            plans = self._plans_of(completed)
            made: dict[int, tuple[Image.Image, GenerationRecord]] = {}
            for rows, choice in self._batches(completed, plans):
                batch = Batch(tuple(completed[row] for row in rows))
                chosen = [plans[row] for row in rows]
                pictures = self._draw(batch, chosen, choice, scheduler, on_step=on_step)
                made |= dict(zip(rows, pictures, strict=True))
                self._resident.keep(self._in_use())
        return GenerationResult(
            [made[row][0] for row in sorted(made)], [made[row][1] for row in sorted(made)]
        )

    def reproduce(self, record: GenerationRecord, *, on_step: OnCount | None = None) -> GenerationResult:
        """Make the picture of a record again, in a batch of the recorded shape and at the recorded row.

        The other rows of the batch are filled with the same picture: they decide nothing but the shape.
        `adapterhub.replay` also restores the base, the dtype and the threads, and compares.

        Raises:
            ValueError: The record says nothing that makes sense of what was composed.
            AdapterHubError: As `compose`.
        """
        batch = Batch.like(record)
        plan = recorded_plan(record)
        counted = None if on_step is None else lambda step: on_step(step.done, step.steps)
        with self._lock:
            scheduler = recorded_scheduler(record.scheduler, self.pipeline.scheduler)
            plans = [self._activate(plan)] * len(batch)
            choice = Choice("fused" if record.plane == "base" else record.plane, record.plane_reason)
            made = self._draw(batch, plans, choice, scheduler, rank=record.plane_rank, on_step=counted)
        image, again = made[record.batch_row]
        return GenerationResult([image], [again])

    def close(self) -> None:
        """Put the base's weights back and let go of the pipeline; closing twice is allowed."""
        with self._lock:
            self._planes.restore()
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
            self._planes.check(version.reference, tensors)
            tensors.require_finite(version.reference)
            return tensors

        return LoadedAdapter(version, self._resident.get(version.digest, read))

    def _activate(self, plan: Plan) -> ActivePlan:
        """Resolve a plan's versions, and read and check its adapters."""
        references = dict.fromkeys(term.reference for term in terms_of(plan))
        return ActivePlan(
            plan, {reference: self._load(self.registry.resolve(reference)) for reference in references}
        )

    def _plans_of(self, requests: Sequence[Request]) -> list[ActivePlan]:
        """Return what acts on each request; equal plans are one object."""
        found: list[tuple[Plan, ActivePlan]] = []
        plans: list[ActivePlan] = []
        for request in requests:
            if request.composition is None:
                plans.append(self._planes.composed)
                continue
            known = next((active for plan, active in found if plan == request.composition), None)
            if known is None:
                known = self._activate(request.composition)
                found.append((request.composition, known))
            plans.append(known)
        return plans

    def _batches(
        self, requests: Sequence[Request], plans: Sequence[ActivePlan]
    ) -> list[tuple[list[int], Choice]]:
        """Return the rows of each batch, and where its plans act."""
        rows: dict[int, list[int]] = {}
        for row, plan in enumerate(plans):
            rows.setdefault(id(plan), []).append(row)
        first = requests[0]
        size = {"pictures": len(requests), "pixels": (first.width or 0) * (first.height or 0)}
        different = [plans[group[0]] for group in rows.values()]
        asked = first.plane
        if asked is None and different == [self._planes.composed] and self._planes.plane != "fused":
            asked = self._planes.plane
        choice = self._planner.choose(different, **size, asked=asked)
        if choice.together:
            return [([*range(len(requests))], choice)]
        asked = None if asked == "mixed" else asked
        return [
            (group, self._planner.choose([plans[group[0]]], **size, asked=asked)) for group in rows.values()
        ]

    def _draw(
        self,
        batch: Batch,
        plans: Sequence[ActivePlan],
        choice: Choice,
        scheduler: Any,
        *,
        rank: int = 0,
        on_step: OnStep | None,
    ) -> list[tuple[Image.Image, GenerationRecord]]:
        drawn = draw(
            self.pipeline,
            batch,
            plans if choice.plane == "mixed" else plans[:1],
            planes=self._planes,
            plane=choice.plane,
            prompts=self._prompts,
            scheduler=scheduler,
            rank=rank,
            on_step=on_step,
        )
        self._planner.observe(choice.plane, len(batch), batch.width * batch.height, drawn.step_seconds)
        is_base = choice.plane == "fused" and plans[0].plan == BASE
        shared = {
            "base": BaseRecord(self.base.name, self.base.architecture, self.base.identity),
            "scheduler": scheduler_record(scheduler),
            "device": self.device.type,
            "processor": processor_name(self.device),
            "dtype": dtype_name(self.dtype),
            "threads": torch.get_num_threads(),
            "plane": "base" if is_base else choice.plane,
            "plane_reason": "" if is_base else choice.why,
            "plane_rank": drawn.rank,
            "versions": library_versions(),
        }
        return [
            (image, GenerationRecord(**shared, **plan_fields(plans[row]), **batch.fields(row)))
            for row, image in enumerate(drawn.images)
        ]

    def _in_use(self) -> set[str]:
        return {adapter.version.digest for adapter in self._planes.composed.loaded.values()}


def _plan(composition: Composable) -> Plan:
    return Composition.parse(composition) if isinstance(composition, str) else composition or BASE
