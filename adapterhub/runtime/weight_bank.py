"""The pristine weights: every composition is computed from them, and the base comes back bit for bit."""

import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from adapterhub.errors import SettingError


@dataclass(frozen=True)
class Delta:
    """What is added to one parameter.

    Attributes:
        key: Equal keys for one parameter mean equal deltas.
        compute: Takes the parameter's pristine value in float32, and returns the sum of all deltas, likewise.
        factors: Of a delta that is a product: returns them in float32, `(rows, k)` and `(k, columns)`; the
            parameter is seen as rows of columns. It may be used in place of `compute`.
    """

    key: Hashable
    compute: Callable[[Tensor], Tensor]
    factors: Callable[[], tuple[Tensor, Tensor]] | None = None


POLICIES = ("gpu", "pinned", "mmap")
"""Where pristine copies lie: beside the parameters, in pinned host memory, or in a file that is mapped."""
SCRATCH = {"cpu": 1 << 19}
"""Numbers that are written at a time: on a CPU what its caches hold, elsewhere whole parameters."""


class WeightBank:
    """Pristine copies of the parameters that a composition has touched, and the writer of fused weights.

    Fused weights depend on the pristine copy and the deltas alone, never on what was fused before. The
    parameter objects and their addresses stay as they are. A copy is made when a parameter is first touched,
    and a parameter whose delta stays the same is not written again, unless somebody else has written to it.

    Args:
        modules: The components to write to, by name; parameters are called `component.path.of.parameter`.
        policy: One of `POLICIES`. `gpu` is the fastest, and takes as much again as the parameters that are
            ever touched; `pinned` saves the device's memory, and `mmap` also the host's, which may write the
            copies to disk, to a file without a name.

    Raises:
        SettingError: There is no such policy.
    """

    def __init__(self, modules: Mapping[str, Module], *, policy: str = "gpu") -> None:
        if policy not in POLICIES:
            raise SettingError(
                "where pristine weights lie", policy, f"it must be one of {', '.join(POLICIES)}"
            )
        self._policy = policy
        self._parameters: dict[str, Parameter] = {
            f"{component}.{name}": parameter
            for component, module in modules.items()
            for name, parameter in module.named_parameters()
        }
        self._pristine: dict[str, Tensor] = {}
        self._scratch = torch.empty(0)
        # What was fused into each parameter that differs from the base, and its version then.
        self._fused: dict[str, tuple[Hashable, int] | None] = {}

    @property
    def fused(self) -> frozenset[str]:
        """Names of the parameters that differ from the base now."""
        return frozenset(self._fused)

    @property
    def size_bytes(self) -> int:
        """Bytes that the pristine copies take."""
        return sum(copy.numel() * copy.element_size() for copy in self._pristine.values())

    def pristine(self, name: str) -> Tensor:
        """Return the base's value of a parameter; not to be written to.

        Raises:
            KeyError: The name is no parameter of the bank.
        """
        present = self._parameters[name].detach()
        return self._pristine.get(name, present) if name in self._fused else present

    def bits(self, name: str) -> int:
        """Return the size of a parameter's numbers."""
        return 8 * self._parameters[name].element_size()

    def fuse(self, deltas: Mapping[str, Delta]) -> None:
        """Make every parameter `round(pristine + delta)`, and those without a delta pristine.

        The sum is taken in float32 and rounded once to the parameter's dtype. If anything fails on the way
        (out of memory, an interrupt), every parameter is the base's again and the error goes on.

        Args:
            deltas: For each parameter to change, the function that returns its delta.

        Raises:
            KeyError: A name is no parameter of the bank; nothing has changed.
        """
        unknown = deltas.keys() - self._parameters.keys()
        if unknown:
            raise KeyError(f"no such parameters: {sorted(unknown)}")
        try:
            with torch.no_grad():
                self._write_pristine([name for name in self._fused if name not in deltas])
                for name, delta in deltas.items():
                    parameter = self._parameters[name]
                    if self._fused.get(name) == (delta.key, parameter._version):
                        continue
                    self._fused[name] = None  # neither the base nor whole
                    if name not in self._pristine:
                        self._pristine[name] = self._copy(parameter.detach())
                    if delta.factors is not None and parameter.is_contiguous():
                        self._write_product(parameter, self._pristine[name], *delta.factors())
                    else:
                        pristine = self._pristine[name].to(parameter.device).float()
                        parameter.copy_(pristine + delta.compute(pristine))
                    self._fused[name] = delta.key, parameter._version
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Give every parameter its pristine bits back."""
        with torch.no_grad():
            self._write_pristine(list(self._fused))

    def _copy(self, value: Tensor) -> Tensor:
        """Copy a parameter to where pristine values lie; strides stay."""
        if self._policy == "gpu":
            return value.clone()
        if self._policy == "pinned":
            copy = value.to("cpu", copy=True)
            return copy.pin_memory() if value.device.type == "cuda" else copy
        with tempfile.NamedTemporaryFile() as file:
            flat = torch.from_file(file.name, shared=True, size=value.numel(), dtype=value.dtype)
        return flat.view(value.shape).copy_(value)

    def _write_product(self, parameter: Parameter, pristine: Tensor, up: Tensor, down: Tensor) -> None:
        """Write `pristine + up @ down`, some rows at a time, in a scratch that is used again and again."""
        target, source = parameter.flatten(1), pristine.flatten(1)
        rows, columns = target.shape
        size = SCRATCH.get(parameter.device.type, target.numel())
        step = max(size // columns, 1)
        needed = min(step, rows) * columns
        if self._scratch.numel() < needed or self._scratch.device != parameter.device:
            self._scratch = torch.empty(needed, device=parameter.device)
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            count = part.stop - start
            scratch = self._scratch[: count * columns].view(count, columns)
            scratch.copy_(source[part])
            scratch.addmm_(up[part], down)
            target[part].copy_(scratch)

    def _write_pristine(self, names: Iterable[str]) -> None:
        for name in names:
            # A parameter whose copy could not be made was not written either.
            if name in self._pristine:
                self._parameters[name].copy_(self._pristine[name])
            del self._fused[name]
