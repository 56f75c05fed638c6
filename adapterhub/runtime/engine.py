"""The runtime: load a base once, compose, generate."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from adapterhub.bases.companions import find_controlnet, find_refiner
from adapterhub.bases.compiled import compiler_name
from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import choose_device, is_writable, load_pipeline
from adapterhub.bases.wrapped import base_of
from adapterhub.errors import ArchitectureError
from adapterhub.runtime.generating import Generating
from adapterhub.runtime.loading import Loader
from adapterhub.runtime.painter import Painter
from adapterhub.runtime.pipelines import Pipelines
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Planner
from adapterhub.runtime.plans import Composable, plan_of
from adapterhub.runtime.residency import BUDGET_BYTES, DEVICE_BYTES, ResidencyMetrics, ResidentSet
from adapterhub.runtime.schedule import Plan, terms_of
from adapterhub.runtime.turns import TurnLock
from adapterhub.runtime.worker import Limits, Studio, Worker
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline


class Runtime(Generating):
    """One loaded pipeline; make it with `Runtime.load`. Calls of many threads are served one at a time."""

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
        limits: Limits | None = None,
    ) -> None:
        self._pipelines = pipelines
        self._lock = TurnLock()
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
        controlnet: str | Path | None = None,
        refiner: str | Path | None = None,
        refiner_swap: bool = False,
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
                which of `adapterhub.bases.compiled.COMPILERS`.
            reserve_rank: The low-rank and the mixed plane are compiled too, and take plain LoRAs up to this
                rank, that of all adapters together on a module.
            controlnet: Directory of a ControlNet, for pictures with a `Control`; see `find_controlnet`.
            refiner: Name of a refiner, for pictures with `refine_from`; see `find_refiner`.
            refiner_swap: Keep only one of base and refiner on the device, and the other on the host.
            max_batch: Pictures of jobs that are made together at most.
            queue_limit: Jobs that may wait.
            tenant_limit: Jobs of one tenant that may wait; None for `queue_limit`.

        Raises:
            SettingError: A limit is below 1.
            AdapterHubError: As `find_base`, `choose_device` and `load_pipeline`.
            ControlNetError, RefinerError: One cannot be loaded, or does not fit the base.

        Example:
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     runtime.generate("a red heart", seed=7, steps=2).images[0].size
            (64, 64)
        """
        limits = Limits(max_batch, queue_limit, tenant_limit)
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
        return self._opened.device

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
            self._opened  # noqa: B018 - it raises if the runtime is closed
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

    def close(self) -> None:
        """Cancel all jobs, put the base's weights back and let go of the pipeline; twice is allowed."""
        self._worker.close()
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
