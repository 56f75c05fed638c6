"""The runtime: load a base once, compose, generate."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import choose_device, is_writable, load_pipeline
from adapterhub.bases.wrapped import base_of
from adapterhub.errors import ArchitectureError, EmptyPromptError, RuntimeClosedError, SettingError
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.compiled import compiler_name
from adapterhub.runtime.draw import OnStep
from adapterhub.runtime.loading import Loader
from adapterhub.runtime.painter import Painter, Picture
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Choice, Planner
from adapterhub.runtime.plans import Composable, plan_of
from adapterhub.runtime.records import recorded_plan
from adapterhub.runtime.request import Batch, Request, series
from adapterhub.runtime.residency import BUDGET_BYTES, DEVICE_BYTES, ResidencyMetrics, ResidentSet
from adapterhub.runtime.result import GenerationResult
from adapterhub.runtime.schedule import Plan, terms_of
from adapterhub.runtime.schedulers import make_scheduler, recorded_scheduler
from adapterhub.runtime.submitting import Submitting
from adapterhub.runtime.turns import TurnLock
from adapterhub.runtime.worker import Limits, Studio, Worker
from adapterhub_registry.manifest import Version
from adapterhub_registry.record import GenerationRecord
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

OnCount = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps)."""


class Runtime(Submitting):
    """One loaded pipeline; make it with `Runtime.load`. Calls of many threads are served one at a time."""

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        base: Base,
        *,
        registry: Registry | None = None,
        resident_bytes: int = BUDGET_BYTES,
        device_bytes: int = DEVICE_BYTES,
        pristine: str = "gpu",
        compile: bool | str = False,  # noqa: A002 - torch's name
        reserve_rank: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._pipeline: StableDiffusionXLPipeline | None = pipeline
        self._lock = TurnLock()
        self._registry = registry
        has_weights = not any(parameter.is_meta for parameter in pipeline.text_encoder.parameters())
        self._planes = Planes(
            pipeline,
            is_writable=is_writable(pipeline),
            writes_text=has_weights,
            policy=pristine,
            compiler=compiler_name(compile),
            reserve_rank=reserve_rank,
        )
        self._planner = Planner(is_writable=self._planes.is_writable)
        self._painter = Painter(pipeline, base, self._planes, self._planner)
        resident = ResidentSet(resident_bytes, device_bytes, device=self.device)
        self._loader = Loader(lambda: self.registry, base, self._planes.check, resident)
        self._composed = self._planes.composed, self._planes.plane
        studio = Studio(self._lock, self._activate, self._painter.batches, self._paint, self.device.type)
        self._worker = Worker(studio, limits or Limits(), size=self.default_size)
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
        device_bytes: int = DEVICE_BYTES,
        pristine: str = "gpu",
        compile: bool | str = False,  # noqa: A002
        reserve_rank: int | None = None,
        max_batch: int = 8,
        queue_limit: int = 256,
        tenant_limit: int | None = None,
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
            device_bytes: Likewise on the device; without effect on the CPU.
            pristine: Where the base's weights are kept while others stand in their place: `gpu`, beside them;
                `pinned`, in the host's memory; `mmap`, in a mapped file.
            compile: Whether the UNet's blocks are compiled, for each size of pictures at its first use; or by
                which of `adapterhub.runtime.compiled.COMPILERS`.
            reserve_rank: The low-rank and the mixed plane are compiled too, and take plain LoRAs up to this
                rank, that of all adapters together on a module.
            max_batch: Pictures of jobs that are made together at most.
            queue_limit: Jobs that may wait.
            tenant_limit: Jobs of one tenant that may wait; None for `queue_limit`.

        Raises:
            SettingError: A limit is below 1.
            AdapterHubError: As `find_base`, `choose_device` and `load_pipeline`.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     runtime.generate("a red heart", seed=7, steps=2).images[0].size
            (64, 64)
        """
        limits = Limits(max_batch, queue_limit, tenant_limit)
        device, dtype = choose_device(device, dtype)
        compiler = compiler_name(compile)
        found = base if isinstance(base, Base) else find_base(base, config=config)
        pipeline = load_pipeline(found, device=device, dtype=dtype, offload=offload, quantize=quantize)
        return cls(
            pipeline,
            found,
            registry=registry,
            resident_bytes=resident_bytes,
            device_bytes=device_bytes,
            pristine=pristine,
            compile=compiler,
            reserve_rank=reserve_rank,
            limits=limits,
        )

    @classmethod
    def wrap(
        cls,
        pipeline: "StableDiffusionXLPipeline",
        *,
        base: str | Path | Base | None = None,
        registry: Registry | None = None,
        resident_bytes: int = BUDGET_BYTES,
        compile: bool | str = False,  # noqa: A002
        reserve_rank: int | None = None,
    ) -> "Runtime":
        """Take a pipeline that was loaded elsewhere, and give it back by `close` as it came.

        Args:
            pipeline: With SDXL's parts, and without layers of PEFT.
            base: What it was loaded from, for records that can be replayed; by default they say `wrapped`.
            registry: See `load`.
            resident_bytes: See `load`.
            compile: See `load`.
            reserve_rank: See `load`.

        Raises:
            PipelineRefusedError: A part is missing, carries layers of PEFT, or is a compiled UNet.

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
        return cls(
            pipeline,
            wrapped,
            registry=registry,
            resident_bytes=resident_bytes,
            compile=compile,
            reserve_rank=reserve_rank,
        )

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
        return self._loader.resident.metrics

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return self.pipeline._execution_device

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
            PlaneError: It cannot act on that plane; `RankError` if its rank exceeds what is reserved.
        """
        plan = plan_of(composition)
        with self._lock:
            self.pipeline  # noqa: B018 - it raises if the runtime is closed
            active, before = self._loader.activate(plan), self._planes.composed
            try:
                choice = self._planner.choose([active], pictures=1, pixels=0, asked=plane)
                self._planes.compose(active, choice.plane)
            finally:
                self._composed = self._planes.composed, self._planes.plane
                for one in {id(one): one for one in (active, before)}.values():
                    if one is not self._planes.composed:
                        one.release()
        return [active.loaded[term.reference].version for term in terms_of(plan)]

    def prefetch(self, composition: Composable) -> None:
        """Begin to read what will be composed, in the background.

        Raises:
            AdapterNotFoundError, VersionNotFoundError: A reference names nothing.
            ArchitectureError: An adapter is for another architecture.
        """
        self._loader.prefetch(plan_of(composition))

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
        triggers: str = "off",
        prompt_syntax: str = "weighted",
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
            triggers: Whether the adapters' trigger words are said: `off`, `prepend` or `append`, never twice.
            prompt_syntax: `weighted` reads weights, `BREAK` and `<lora:name:weight>`, `plain` none of them.
            on_step: Called after each denoising step with (steps done, steps).

        Raises:
            EmptyPromptError: The list of prompts is empty.
            InvalidSizeError: A side is not a positive multiple of 8.
            SettingError: Another setting makes no sense.
            PromptError: A weight or a tag in a prompt cannot be read.
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
            plans = [plan_of(one) for one in composition]
            if len(plans) != len(prompts):
                rule = f"there must be {len(prompts)}, one for each prompt"
                raise SettingError("the number of compositions", len(plans), rule)
        else:
            plans = [plan_of(composition)] * len(prompts)
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
            triggers=triggers,
            prompt_syntax=prompt_syntax,
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
        with self._lock:
            self.pipeline  # noqa: B018 - it raises if the runtime is closed
            prepared = [self._prepared(request) for request in requests]
            for request in prepared:
                if request.shared != prepared[0].shared:
                    rule = "its requests must share all other settings"
                    raise SettingError("a batch", len(prepared), rule)
            known: list[ActivePlan] = []
            try:
                plans = [self._activate(request, known) for request in prepared]
                scheduler = self._scheduler(prepared[0])
                made = self._painter.paint_all(prepared, plans, scheduler, on_step=on_step)
            finally:
                for active in known:
                    active.release()
        return GenerationResult([image for image, _ in made], [record for _, record in made])

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
        with self._lock, ExitStack() as held:
            scheduler = recorded_scheduler(record.scheduler, self.pipeline.scheduler)
            active = self._loader.activate(plan)
            held.callback(active.release)
            choice = Choice("fused" if record.plane == "base" else record.plane, record.plane_reason)
            plans = [active] * len(batch)
            made = self._painter.paint(
                batch, plans, choice, scheduler, rank=record.plane_rank, on_step=counted
            )
        image, again = made[record.batch_row]
        return GenerationResult([image], [again])

    def close(self) -> None:
        """Cancel all jobs, put the base's weights back and let go of the pipeline; twice is allowed."""
        self._worker.close()
        with self._lock:
            composed = self._planes.composed
            self._planes.close()
            composed.release()
            self._loader.resident.close()
            self._pipeline = None

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _activate(self, request: Request, known: list[ActivePlan]) -> ActivePlan:
        """Return what acts on a request: one of those that are known, if it is equal, else it joins them."""
        if request.composition is None:
            return self._planes.composed
        found = next((active for active in known if active.plan == request.composition), None)
        if found is None:
            found = self._loader.activate(request.composition)
            known.append(found)
        return found

    def _paint(
        self, requests: Sequence[Request], plans: Sequence[ActivePlan], choice: Choice, on_step: OnStep
    ) -> list[Picture]:
        batch = Batch(tuple(requests))
        return self._painter.paint(batch, plans, choice, self._scheduler(requests[0]), on_step=on_step)

    def _scheduler(self, request: Request) -> Any:
        own = self.pipeline.scheduler
        return own if request.scheduler is None else make_scheduler(request.scheduler, own.config)
