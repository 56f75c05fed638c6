"""The UNet's repeated blocks, compiled in place: modules, their names and parameters stay as they are."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from adapterhub.errors import SettingError

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Classes of diffusers that do nearly all of a UNet's work; blocks of equal shapes share what is compiled."""
COMPILERS: dict[str, dict[str, Any]] = {
    "inductor": {},
    "reduce-overhead": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune"},
    "max-autotune-no-cudagraphs": {"mode": "max-autotune-no-cudagraphs"},
    "aot_eager": {"backend": "aot_eager"},
}
"""What `torch.compile` is told, by the name that the record of a picture has."""
SHAPES = 256
"""Forms of a block at most, as many as torch allows: each size of a picture and of a batch is one."""


def compiler_name(how: bool | str) -> str:
    """Return which of `COMPILERS` is meant; True is `inductor`, False is nothing, an empty text.

    Raises:
        SettingError: There is no such one.
    """
    name = how if isinstance(how, str) else "inductor" if how else ""
    if name and name not in COMPILERS:
        rule = f"it must be True, False, or one of {', '.join(COMPILERS)}"
        raise SettingError("how to compile", name, rule)
    return name


class CompiledBlocks:
    """Has a UNet's blocks run compiled, or as they were.

    Shapes are compiled as they come, each for itself: what a picture's bits depend on must not be what was
    drawn before.

    Args:
        unet: Its blocks.
        name: One of `COMPILERS`; empty for none, and then nothing here has an effect.

    Raises:
        SettingError: The layers of a block are moved to the device for each use, or torch is too old.
    """

    def __init__(self, unet: nn.Module, name: str) -> None:
        self.name = name
        self._calls: dict[nn.Module, Callable[..., Any]] = {}
        self._handles: list[RemovableHandle] = []
        if not name:
            return
        if "recompile_limit" not in signature(torch.compile).parameters:
            rule = f"torch {torch.__version__} gives up after eight shapes; install a newer one"
            raise SettingError("how to compile", name, rule)
        blocks = [module for module in unet.modules() if type(module).__name__ in BLOCKS]
        if any(hasattr(layer, "_hf_hook") for block in blocks for layer in block.modules()):
            rule = 'layers are moved for each use; offload="model" moves whole components'
            raise SettingError("how to compile", name, rule)
        calls: dict[object, Callable[..., Any]] = {}
        for block in blocks:
            kind = (type(block), *(parameter.shape for parameter in block.parameters()))
            if kind not in calls:
                settings = {"dynamic": False, "recompile_limit": SHAPES, **COMPILERS[name]}
                calls[kind] = torch.compile(_own_code(_call), **settings)
            self._calls[block] = partial(calls[kind], block)
        self.run(compiled=True)
        self._handles.append(unet.register_forward_pre_hook(_begin_step))

    def run(self, *, compiled: bool) -> None:
        """Have the blocks run compiled, or as they were."""
        for block, call in self._calls.items():
            if compiled:
                vars(block)["_compiled_call_impl"] = call
            else:
                vars(block).pop("_compiled_call_impl", None)

    def close(self) -> None:
        """Give the blocks back as they were; closing twice is allowed."""
        self.run(compiled=False)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()


def _call(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    return block._call_impl(*inputs, **named)


def _own_code(function: FunctionType) -> Callable[..., Any]:
    """Return a function that torch compiles apart from all others.

    torch keeps what it compiled by the code object, and does not look whether modules have the same hooks
    (`torch._dynamo.config.skip_nnmodule_hook_guards`): blocks with reserved buffers would run without them.
    """
    return FunctionType(function.__code__.replace(), function.__globals__)


def _begin_step(*_: object) -> None:
    """Let CUDA graphs use their memory again: the outputs of the last prediction's blocks are done with."""
    torch.compiler.cudagraph_mark_step_begin()
