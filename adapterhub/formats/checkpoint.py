"""Whole checkpoints as files: where each weight lies, in diffusers' directories and in single files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapterhub.errors import InputError, PickleRefusedError, WeightsError
from adapterhub.formats.mapped import DTYPES
from adapterhub.formats.names import sgm_unet_names
from adapterhub.lora.weights import COMPONENTS, Target
from adapterhub_registry.safetensors_header import Header, TensorInfo, is_pickle, read_header

UNET_PREFIX = "model.diffusion_model."
TE1_PREFIX = "conditioner.embedders.0.transformer."
TE2_LAYER = re.compile(r"conditioner\.embedders\.1\.model\.transformer\.resblocks\.(\d+)\.(.+)")
# OpenCLIP's parts of a layer; the three projections of attention lie in one tensor, row after row.
TE2_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
TE2_JOINED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class Slot:
    """Where one module's weight or bias lies.

    Attributes:
        file: A safetensors file of the checkpoint.
        key: The tensor's name in it.
        part: Which third of the rows, for projections that are stored as one; else -1.
    """

    file: Path
    key: str
    part: int = -1


class Checkpoint:
    """A checkpoint on disk; weights are read one at a time.

    Args:
        path: A directory in diffusers' format, or a single safetensors file with SGM's names.

    Raises:
        InputError: It cannot be read.
        PickleRefusedError: It holds pickled objects.
        WeightsError: It is malformed, or no SDXL checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = self._find()
        self.headers: dict[Path, Header] = {}
        self.weights: dict[Target, Slot] = {}
        self.biases: dict[Target, Slot] = {}
        for file, component in self.files.items():
            try:
                if is_pickle(file):
                    raise PickleRefusedError(file)
                self.headers[file] = read_header(file)
            except OSError as exc:
                raise InputError(file, exc.strerror or str(exc)) from exc
            for key in self.headers[file].tensors:
                self._place(file, key, component)
        if not any(target.component == "unet" for target in self.weights):
            raise WeightsError(path, "it is no SDXL checkpoint: it has no UNet")

    def weight(self, target: Target) -> Tensor:
        """Return a module's weight in its stored dtype.

        Raises:
            KeyError: The checkpoint has no such module.
        """
        return self.read(self.weights[target])

    def shape(self, slot: Slot) -> torch.Size:
        """Return the shape of a slot's tensor, from the header."""
        whole = self.headers[slot.file].tensors[slot.key].shape
        return torch.Size(whole if slot.part < 0 else (whole[0] // 3, *whole[1:]))

    def read(self, slot: Slot) -> Tensor:
        """Return the tensor of a slot."""
        header = self.headers[slot.file]
        tensor = read_tensor(slot.file, header, header.tensors[slot.key])
        return tensor if slot.part < 0 else tensor.chunk(3)[slot.part]

    def _find(self) -> Mapping[Path, str]:
        """Return the files that matter, each with its component; empty for a single file."""
        if self.path.is_file():
            return {self.path: ""}
        files = {
            file: component
            for component in COMPONENTS
            for file in sorted((self.path / component).glob("*.safetensors"))
            if ".fp16." not in file.name
        }
        if not files:
            raise InputError(self.path, "it is no safetensors file and no directory in diffusers' format")
        return files

    def _place(self, file: Path, key: str, component: str) -> None:
        stem, _, kind = key.rpartition(".")
        table = {"weight": self.weights, "bias": self.biases}.get(kind)
        if component:
            if table is not None:
                table[Target.at(component, stem)] = Slot(file, key)
        elif key.startswith(UNET_PREFIX):
            module = sgm_unet_names().get(stem.removeprefix(UNET_PREFIX))
            if module is not None and table is not None:
                table[Target("unet", module)] = Slot(file, key)
        elif key.startswith(TE1_PREFIX) and table is not None:
            table[Target("text_encoder", stem.removeprefix(TE1_PREFIX))] = Slot(file, key)
        elif found := TE2_LAYER.fullmatch(key):
            self._place_open_clip(file, key, *found.groups())

    def _place_open_clip(self, file: Path, key: str, layer: str, rest: str) -> None:
        prefix = f"text_model.encoder.layers.{layer}."
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            table = self.weights if rest.endswith("weight") else self.biases
            for part, name in enumerate(TE2_JOINED):
                table[Target("text_encoder_2", prefix + name)] = Slot(file, key, part)
            return
        stem, _, kind = rest.rpartition(".")
        if stem in TE2_PARTS:
            table = self.weights if kind == "weight" else self.biases
            table[Target("text_encoder_2", prefix + TE2_PARTS[stem])] = Slot(file, key)


def read_tensor(file: Path, header: Header, info: TensorInfo) -> Tensor:
    """Read one tensor of a safetensors file, and no more.

    Raises:
        WeightsError: Its dtype is not understood.
    """
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise WeightsError(file, f"it has tensors of the dtype {info.dtype}, which is not understood")
    if info.end == info.start:
        return torch.empty(info.shape, dtype=dtype)
    with file.open("rb") as stream:
        stream.seek(header.data_start + info.start)
        content = bytearray(stream.read(info.end - info.start))
    return torch.frombuffer(content, dtype=dtype).view(info.shape)
