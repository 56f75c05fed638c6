"""The runtime: load a base once, compose, generate."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING

import torch

from adapterhub.bases.companions import find_controlnet, find_refiner
from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import choose_device, is_writable, load_pipeline
from adapterhub.bases.wrapped import base_of
from adapterhub.errors import ArchitectureError, EmptyPromptError, RuntimeClosedError, SettingError
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.compiled import compiler_name
from adapterhub.runtime.draw import OnStep
from adapterhub.runtime.loading import Loader
from adapterhub.runtime.painter import Painter
from adapterhub.runtime.pipelines import Pipelines
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Choice, Planner
from adapterhub.runtime.plans import Composable, plan_of, plans_of
from adapterhub.runtime.prompting import extract_adapters, with_triggers
from adapterhub.runtime.records import recorded_inputs, recorded_plan
from adapterhub.runtime.regions import Regions
from adapterhub.runtime.request import Batch, Request, series
from adapterhub.runtime.residency import BUDGET_BYTES, DEVICE_BYTES, ResidencyMetrics, ResidentSet
from adapterhub.runtime.result import GenerationResult
from adapterhub.runtime.schedule import Plan, terms_of, with_terms
from adapterhub.runtime.start import Control, Inputs, Start
from adapterhub_registry.manifest import Version
from adapterhub_registry.record import GenerationRecord
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

OnCount = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps)."""


class Runtime:
    """One loaded pipeline; make it with `Runtime.load`. It serves one call at a time."""

    def __init__(
        self,
        pipelines: Pipelines,
        base: Base,
        *,
        registry: Registry | None = None,
        resident_bytes: int = BUDGET_BYTES,
        device_bytes: int = DEVICE_BYTES,
        pristine: str = "gpu",
        compile: bool | str = False,  # noqa: A002 - torch's name
        reserve_rank: int | None = None,
    ) -> None:
        self._pipelines: Pipelines | None = pipelines
        self._lock = threading.RLock()
        self._registry = registry
        pipeline = pipelines.stock
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
        self._painter = Painter(pipelines, base, self._planes, self._planner)
        resident = ResidentSet(resident_bytes, device_bytes, device=self.device)
        self._loader = Loader(lambda: self.registry, base, self._planes.check, resident)
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
        controlnet: str | Path | None = None,
        refiner: str | Path | None = None,
        refiner_swap: bool = False,
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
            controlnet: Directory of a ControlNet, for pictures with a `Control`; see `find_controlnet`.
            refiner: Name of a refiner, for pictures with `refine_from`; see `find_refiner`.
            refiner_swap: Keep only one of base and refiner on the device, and the other on the host.

        Raises:
            AdapterHubError: As `find_base`, `choose_device` and `load_pipeline`.
            ControlNetError, RefinerError: One cannot be loaded, or does not fit the base.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     runtime.generate("a red heart", seed=7, steps=2).images[0].size
            (64, 64)
        """
        device, dtype = choose_device(device, dtype)
        compiler = compiler_name(compile)
        found = base if isinstance(base, Base) else find_base(base, config=config)
        steering = None if controlnet is None else find_controlnet(controlnet)
        refining = None if refiner is None else find_refiner(refiner)
        pipeline = load_pipeline(found, device=device, dtype=dtype, offload=offload, quantize=quantize)
        pipelines = Pipelines(pipeline, controlnet=steering, refiner=refining, is_swapped=refiner_swap)
        return cls(
            pipelines,
            found,
            registry=registry,
            resident_bytes=resident_bytes,
            device_bytes=device_bytes,
            pristine=pristine,
            compile=compiler,
            reserve_rank=reserve_rank,
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
            Pipelines(pipeline),
            wrapped,
            registry=registry,
            resident_bytes=resident_bytes,
            compile=compile,
            reserve_rank=reserve_rank,
        )

    @property
    def pipeline(self) -> "StableDiffusionXLPipeline":
        """The stock diffusers pipeline, with the composition's weights in it."""
        return self._opened.stock

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
        start: Start | None = None,
        control: Control | None = None,
        refine_from: float | None = None,
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
            width: Pixels, a multiple of 8; by default that of the picture of `start` or `control`, rounded
                down, else what the base was trained for.
            height: Likewise.
            scheduler: One of `adapterhub.runtime.schedulers.SCHEDULERS`; by default the base's own.
            plane: `fused`, `low_rank` or `mixed`; by default the best.
            triggers: Whether the adapters' trigger words are said: `off`, `prepend` or `append`, never twice.
            prompt_syntax: `weighted` reads weights, `BREAK` and `<lora:name:weight>`, `plain` none of them.
            start: The picture that all start from, in place of noise alone; fewer steps are made then.
            control: The picture that steers all of them, through the ControlNet of `load`.
            refine_from: The part of all steps, such as 0.8, after which the refiner of `load` goes on.
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
            start=start,
            control=control,
            refine_from=refine_from,
        )
        plans = plans_of(composition, len(prompts))
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
            if request.shared != completed[0].shared:
                raise SettingError("a batch", len(completed), "its requests must share all other settings")
        with self._lock, ExitStack() as held:
            self._opened.check(completed[0])
            schedulers = self._opened.schedulers(completed[0].scheduler)
            prepared: list[tuple[Request, ActivePlan]] = []
            for request in completed:
                one, active = self._prepared(request, held)
                same = (other for known, other in prepared if known.composition == one.composition)
                prepared.append((one, next(same, active)))
            made = self._painter.paint_all(
                [request for request, _ in prepared],
                [active for _, active in prepared],
                schedulers,
                on_step=on_step,
            )
        return GenerationResult([image for image, _ in made], [record for _, record in made])

    def reproduce(
        self,
        record: GenerationRecord,
        *,
        inputs: Inputs | None = None,
        on_step: OnCount | None = None,
    ) -> GenerationResult:
        """Make the picture of a record again, in a batch of the recorded shape and at the recorded row.

        The other rows of the batch are filled with the same picture: they decide nothing but the shape.
        `adapterhub.replay` also restores the base, the dtype and the threads, and compares.

        Args:
            record: Of the picture.
            inputs: The pictures that it was made from, if it was; the record has their digests alone.
            on_step: Called after each denoising step with (steps done, steps).

        Raises:
            InputPictureError: One of these pictures is missing, or is another one.
            ValueError: The record says nothing that makes sense.
            AdapterHubError: As `compose`.
        """
        plan = recorded_plan(record)
        batch = Batch.like(record, *recorded_inputs(record, inputs))
        counted = None if on_step is None else lambda step: on_step(step.done, step.steps)
        with self._lock, ExitStack() as held:
            self._opened.check(batch.first)
            schedulers = self._opened.recorded_schedulers(record.scheduler, record.refiner)
            active = self._loader.activate(plan)
            held.callback(active.release)
            choice = Choice("fused" if record.plane == "base" else record.plane, record.plane_reason)
            plans = [active] * len(batch)
            made = self._painter.paint(
                batch, plans, choice, schedulers, rank=record.plane_rank, on_step=counted
            )
        image, again = made[record.batch_row]
        return GenerationResult([image], [again])

    def close(self) -> None:
        """Put the base's weights back and let go of the pipeline; closing twice is allowed."""
        with self._lock:
            composed = self._planes.composed
            self._planes.close()
            composed.release()
            self._loader.resident.close()
            self._pipelines = None

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _opened(self) -> Pipelines:
        if self._pipelines is None:
            raise RuntimeClosedError
        return self._pipelines

    def _prepared(self, request: Request, held: ExitStack) -> tuple[Request, ActivePlan]:
        """Return a completed request without tags and with trigger words, and what acts on it."""
        plan = request.composition
        if request.prompt_syntax == "weighted":
            text, named = extract_adapters(request.prompt, self._registry)
            if named.terms:
                plan = with_terms(self.composition if plan is None else plan, named)
                request = replace(request, prompt=text)
        if plan is None:
            active = self._planes.composed
        else:
            if isinstance(plan, Regions):
                plan.check_size(request.width or 0, request.height or 0)
            active = self._loader.activate(plan)
            held.callback(active.release)
        prompt = with_triggers(
            request.prompt, active.trigger_words, request.triggers, syntax=request.prompt_syntax
        )
        return replace(request, prompt=prompt, composition=plan), active
