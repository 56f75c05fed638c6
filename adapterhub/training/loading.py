"""The base as it is held while adapters are trained on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.find import Base
from adapterhub.bases.load import load_pipeline
from adapterhub.training.config import BaseConfig
from adapterhub.training.plan import placement
from adapterhub.training.text import TEXT_ENCODERS

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def load_for_training(base: Base, config: BaseConfig) -> "StableDiffusionXLPipeline":
    """Load a base as a config says: by default in bfloat16 on an accelerator, and in float32 on the CPU.

    Raises:
        AdapterHubError: As `load_pipeline`.
    """
    device, dtype = placement(config)
    pipeline = load_pipeline(base, device=device, dtype=dtype)
    if config.gradient_checkpointing:
        checkpoint_blocks(pipeline.unet, every=config.gradient_checkpointing)
    if config.channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return pipeline


def checkpoint_blocks(unet: Any, *, every: int) -> None:
    """Keep no activations inside every n-th block of a UNet: they are computed again for the gradient."""
    blocks = [part for part in unet.modules() if hasattr(part, "gradient_checkpointing")]
    unet.enable_gradient_checkpointing()
    for number, block in enumerate(blocks):
        vars(block)["gradient_checkpointing"] = number % every == 0


def idle_parts(device: torch.device, *, trains_text: bool) -> tuple[str, ...]:
    """Return the parts of a pipeline that need not be on the device while adapters are trained.

    Pictures and captions are encoded before, and text encoders that are trained are needed in each pass. On
    the CPU there is no other place to wait.
    """
    if device.type == "cpu":
        return ()
    return ("vae",) if trains_text else ("vae", *TEXT_ENCODERS)


class IdleParts:
    """Moves parts of a pipeline to the host's memory, and back to the device when they are needed.

    Args:
        pipeline: All of it is on one device.
    """

    def __init__(self, pipeline: "StableDiffusionXLPipeline") -> None:
        self._pipeline = pipeline
        self._device = pipeline.unet.device
        self._away: tuple[str, ...] = ()

    @contextmanager
    def away(self, names: tuple[str, ...]) -> Iterator[None]:
        """Have these parts off the device; see `idle_parts`."""
        self._away = names
        self._move(torch.device("cpu"))
        try:
            yield
        finally:
            self._move(self._device)
            self._away = ()

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Have all parts on the device for a while."""
        self._move(self._device)
        try:
            yield
        finally:
            self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        for name in self._away:
            getattr(self._pipeline, name).to(device)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Have torch use so many threads of the CPU; afterwards it uses as many as before.

    Args:
        count: 0 leaves torch its own choice. What is done inside may choose otherwise.
    """
    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_kernels(*, wanted: bool) -> Iterator[None]:
    """Have torch use deterministic kernels alone, and fail where there is none.

    Args:
        wanted: Otherwise nothing is changed.
    """
    if not wanted:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    tools: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled()
    held = cudnn.benchmark, tools.fill_uninitialized_memory, os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, ":4096:8")  # cuBLAS is deterministic with a fixed workspace alone
    torch.use_deterministic_algorithms(mode=True)
    cudnn.benchmark, tools.fill_uninitialized_memory = False, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before)
        cudnn.benchmark, tools.fill_uninitialized_memory = held[:2]
        if held[2] is None:
            del os.environ[CUBLAS]
