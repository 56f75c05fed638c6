"""A pipeline that somebody else loaded, as a base."""

from pathlib import Path
from typing import Any

from adapterhub.bases.find import WEIGHTED, Base
from adapterhub.bases.identity import ARCHITECTURES, TEXT_ENCODER_SHAPE, shapes_digest
from adapterhub.errors import PipelineRefusedError
from adapterhub.settings import Settings

CLASS_OF_LAYERS = "BaseTunerLayer"
"""Of which PEFT's layers are."""
COMPILED_MODULE = "OptimizedModule"
"""What `torch.compile` makes of a module."""


def base_of(pipeline: Any, *, name: str = "wrapped") -> Base:
    """Return what a loaded pipeline is: its architecture, read from its modules.

    Its identity stays empty: it would be that of numbers in memory, which files need not have.

    Args:
        pipeline: With SDXL's parts.
        name: For records.

    Raises:
        PipelineRefusedError: A part is missing, or carries layers of PEFT, or the UNet is compiled.
    """
    missing = [part for part in WEIGHTED if getattr(pipeline, part, None) is None]
    if missing:
        raise PipelineRefusedError(type(pipeline).__name__, f"it has no {missing[0]}")
    for part in WEIGHTED:
        for path, module in getattr(pipeline, part).named_modules():
            if any(kind.__name__ == CLASS_OF_LAYERS for kind in type(module).__mro__):
                where = f"{part}.{path} is a layer of PEFT, which would act on top of what is composed"
                raise PipelineRefusedError(type(pipeline).__name__, f"{where}; call unload_lora_weights()")
    for module in pipeline.unet.modules():
        if type(module).__name__ == COMPILED_MODULE or module._compiled_call_impl is not None:
            raise PipelineRefusedError(
                type(pipeline).__name__,
                "its unet is compiled, and compiled code does not notice the hooks that adapters may need; "
                "wrap it uncompiled, with Runtime.wrap(pipeline, compile=True)",
            )
    shapes = {key: tuple(value.shape) for key, value in pipeline.unet.state_dict().items()}
    encoders = [
        {key: getattr(encoder.config, key) for key in TEXT_ENCODER_SHAPE}
        for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)
    ]
    digest = shapes_digest(shapes, encoders)
    home = Settings.from_environment().home
    base = Base(name=name, path=Path(), weights={}, home=home, config=Path(), variant=None)
    vars(base).update(architecture=ARCHITECTURES.get(digest, f"custom-{digest[:12]}"), identity="")
    return base
