"""diffusers' pipelines for one base: all share its weights, and a refiner goes on from their latents."""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.companions import Companion, load_controlnet, load_refiner, modules_of
from adapterhub.bases.load import dtype_name, quiet_libraries
from adapterhub.bases.prompts import PromptCache
from adapterhub.errors import SettingError
from adapterhub.runtime.request import Batch, Request
from adapterhub.runtime.schedulers import make_scheduler, recorded_scheduler, scheduler_record

if TYPE_CHECKING:
    from diffusers.models.controlnets.controlnet import ControlNetModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
        StableDiffusionXLImg2ImgPipeline,
    )


@dataclass(frozen=True)
class ControlNet:
    """A loaded ControlNet."""

    companion: Companion
    model: "ControlNetModel"


@dataclass(frozen=True)
class Refiner:
    """A loaded refiner.

    Attributes:
        companion: Where it comes from.
        pipeline: diffusers' own.
        prompts: Encodes for it.
        is_swapped: Whether it is on the device only while the base is not.
    """

    companion: Companion
    pipeline: "StableDiffusionXLImg2ImgPipeline"
    prompts: PromptCache
    is_swapped: bool


@dataclass(frozen=True)
class Schedulers:
    """The scheduler of the base, and that of the refiner."""

    base: Any
    refiner: Any = None


@dataclass(frozen=True)
class Passes:
    """How many steps the base makes, and then the refiner."""

    base: int
    refiner: int = 0

    @property
    def steps(self) -> int:
        """All of them."""
        return self.base + self.refiner


class Pipelines:
    """The stock pipeline of a base, and those that share its components; they are made for each batch.

    Args:
        stock: The text-to-image pipeline.
        controlnet: Steers pictures that ask for it.
        refiner: Makes the last steps of pictures that ask for it.
        is_swapped: Whether base and refiner take turns on the device.

    Attributes:
        stock: See above.
        device: Where it computes; diffusers finds that by a walk over all modules.

    Raises:
        ControlNetError, RefinerError: One does not fit the base.
        SettingError: The base is offloaded, and cannot be swapped.
    """

    def __init__(
        self,
        stock: "StableDiffusionXLPipeline",
        *,
        controlnet: Companion | None = None,
        refiner: Companion | None = None,
        is_swapped: bool = False,
    ) -> None:
        self.stock = stock
        self.device = stock._execution_device
        dtype = dtype_name(stock.unet.dtype)
        self._controlnet: ControlNet | None = None
        self._refiner: Refiner | None = None
        if controlnet is not None:
            model = load_controlnet(controlnet, stock, device=str(self.device), dtype=dtype)
            self._controlnet = ControlNet(controlnet, model)
        if refiner is not None:
            if is_swapped and any(hasattr(part, "_hf_hook") for part in modules_of(stock)):
                rule = "an offload policy moves the base already; leave one of both out"
                raise SettingError("the swapping of base and refiner", "on", rule)
            place = "cpu" if is_swapped else str(self.device)
            pipeline = load_refiner(refiner, stock, device=place, dtype=dtype)
            self._refiner = Refiner(refiner, pipeline, PromptCache(pipeline), is_swapped)  # pyright: ignore[reportArgumentType]

    def check(self, request: Request) -> None:
        """Check that what a request asks for is loaded.

        Raises:
            SettingError: It is not.
        """
        if request.control is not None and self._controlnet is None:
            raise SettingError(
                "the ControlNet",
                "missing",
                "a control needs one: give Runtime.load(controlnet=...) its directory",
            )
        if request.refine_from is not None and self._refiner is None:
            raise SettingError(
                "the refiner", "missing", "refine_from needs one: give Runtime.load(refiner=...) its name"
            )

    def schedulers(self, name: str | None) -> Schedulers:
        """Return new schedulers by name, with the settings of base and refiner; None for their own.

        Raises:
            SettingError: There is none of that name.
        """
        own = self._own
        if name is None:
            return own
        refiner = None if own.refiner is None else make_scheduler(name, own.refiner.config)
        return Schedulers(make_scheduler(name, own.base.config), refiner)

    def recorded_schedulers(self, base: Mapping[str, Any], refiner: Mapping[str, Any]) -> Schedulers:
        """Return the schedulers of a record, from its fields `scheduler` and `refiner`.

        Raises:
            SettingError: One is of a class that is not known.
        """
        own = self._own
        first = recorded_scheduler(base, own.base)
        return Schedulers(first, recorded_scheduler(refiner["scheduler"], own.refiner) if refiner else None)

    def passes(self, batch: Batch, schedulers: Schedulers) -> Passes:
        """Return how many steps are really made.

        Raises:
            SettingError: Base or refiner would make none, or a control would act in none.
        """
        made = batch.steps if batch.first.start is None else batch.first.start.steps(batch.steps)
        passes = self._passes(batch, schedulers, made)
        control = batch.first.control
        if control is not None and not any(control.acts(step, made) for step in range(passes.base)):
            rule = f"that is in none of the {passes.base} steps that the base makes"
            raise SettingError("when a control acts", f"{control.start} to {control.end}", rule)
        return passes

    def _passes(self, batch: Batch, schedulers: Schedulers, made: int) -> Passes:
        part = batch.first.refine_from
        if part is None:
            return Passes(made)
        # As diffusers counts: by the time of training at which one ends and the other starts.
        times = _times(schedulers.base, batch.steps)
        before = int((times[len(times) - made :] >= _cutoff(schedulers.base, part)).sum())
        after = int((_times(schedulers.refiner, batch.steps) < _cutoff(schedulers.refiner, part)).sum())
        if not (before and after):
            who = "refiner" if before else "base"
            rule = f"of {batch.steps} steps it leaves the {who} none to make"
            raise SettingError("where the refiner goes on", part, rule)
        return Passes(before, after)

    def first(self, batch: Batch, scheduler: Any) -> tuple[Any, dict[str, Any]]:
        """Return the pipeline that makes a batch, up to the refiner, and what it is called with.

        Args:
            batch: All of its pictures start from pictures, or none; the same holds for masks and controls.
            scheduler: For a pipeline that is made; the stock one keeps its own.
        """
        first = batch.first
        size = {"width": batch.width, "height": batch.height}
        given: dict[str, Any] = {"num_inference_steps": batch.steps, "guidance_scale": batch.guidance_scale}
        if first.refine_from is not None:
            given |= {"denoising_end": first.refine_from, "output_type": "latent"}
        if first.control is not None:
            images = [request.control.image.fitted(**size) for request in batch.requests if request.control]
            given |= {
                "image" if first.start is None else "control_image": images,
                "controlnet_conditioning_scale": first.control.scale,
                "control_guidance_start": first.control.start,
                "control_guidance_end": first.control.end,
            }
        if first.start is None:
            given |= size
        else:
            starts = [request.start for request in batch.requests if request.start]
            given["image"] = [start.image.fitted(**size) for start in starts]
            given["strength"] = first.start.strength
            if first.start.mask is not None:
                given |= size
                given["mask_image"] = [start.mask.fitted(**size) for start in starts if start.mask]
        return self._made(first, scheduler), given

    @contextmanager
    def refining(self) -> Generator[Refiner]:
        """Have the refiner on the device; a swapped one is there in the place of the base."""
        refiner: Any = self._refiner
        if not refiner.is_swapped:
            yield refiner
            return
        own = [*modules_of(self.stock), *([] if self._controlnet is None else [self._controlnet.model])]
        others = modules_of(refiner.pipeline)
        try:
            _move(own, "cpu")
            _move(others, self.device)
            yield refiner
        finally:
            _move(others, "cpu")
            _move(own, self.device)

    def fields(self, request: Request, schedulers: Schedulers) -> dict[str, Any]:
        """Return the fields of a record that say what a picture started from and what else made it."""
        fields: dict[str, Any] = {}
        if request.start is not None:
            fields["start"] = request.start.record()
        if request.control is not None and self._controlnet is not None:
            fields["control"] = request.control.record() | {"controlnet": _named(self._controlnet.companion)}
        if request.refine_from is not None and self._refiner is not None:
            fields["refiner"] = {
                "refine_from": request.refine_from,
                **_named(self._refiner.companion),
                "scheduler": scheduler_record(schedulers.refiner),
            }
        return fields

    @property
    def _own(self) -> Schedulers:
        return Schedulers(
            self.stock.scheduler, None if self._refiner is None else self._refiner.pipeline.scheduler
        )

    def _made(self, request: Request, scheduler: Any) -> Any:
        if request.start is None and request.control is None:
            return self.stock
        with quiet_libraries():
            kind = _kind(request)
        parts: dict[str, Any] = {**self.stock.components, "scheduler": scheduler}
        if request.control is not None and self._controlnet is not None:
            parts["controlnet"] = self._controlnet.model
        zeros = self.stock.config["force_zeros_for_empty_prompt"]
        pipeline = kind(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@contextmanager
def calling(pipeline: Any, scheduler: Any) -> Generator[None]:
    """Have a pipeline use a scheduler while it is called, and keep its talk of the VAE's dtype to itself.

    Before it encodes a picture it asks the VAE for float32, if that is its dtype or not, and is then warned.
    """
    models = logging.getLogger("diffusers.models.modeling_utils")
    own, pipeline.scheduler = pipeline.scheduler, scheduler
    models.addFilter(_is_no_talk)
    try:
        yield
    finally:
        models.removeFilter(_is_no_talk)
        pipeline.scheduler = own


def _is_no_talk(record: logging.LogRecord) -> bool:
    return "should be kept in float32" not in record.getMessage()


def _kind(request: Request) -> Any:
    """Return the class of diffusers' pipeline."""
    import diffusers

    net = "" if request.control is None else "ControlNet"
    if request.start is None:
        return getattr(diffusers, f"StableDiffusionXL{net}Pipeline")
    how = "Img2Img" if request.start.mask is None else "Inpaint"
    return getattr(diffusers, f"StableDiffusionXL{net}{how}Pipeline")


def _times(scheduler: Any, steps: int) -> torch.Tensor:
    """Return the times of training of all steps; the scheduler is left as it is."""
    copy = type(scheduler).from_config(scheduler.config)
    copy.set_timesteps(steps)
    return copy.timesteps


def _cutoff(scheduler: Any, part: float) -> int:
    times = scheduler.config["num_train_timesteps"]
    return round(times - part * times)


def _named(companion: Companion) -> dict[str, str]:
    return {"name": companion.name, "identity": companion.identity}


def _move(modules: list[torch.nn.Module], device: torch.device | str) -> None:
    for module in modules:
        module.to(device)
