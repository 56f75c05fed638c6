"""The way back from diffusers' names to those of single-file SDXL checkpoints, by regular expressions."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Parts = Mapping[str, Mapping[str, Tensor]]
"""Component to state dict."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE_OF_BLOCKS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
}
VAE = {
    r"down_blocks\.(\d)\.resnets": r"down.\1.block",
    r"up_blocks\.(\d)\.resnets": r"up.\1.block",
    r"(down|up)_blocks\.(\d)\.(down|up)samplers\.0": r"\1.\2.\3sample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    r"to_([qkv])\.": r"\1.",
    r"to_out\.0": "proj_out",
}


def ldm_tensors(parts: Parts) -> dict[str, Tensor]:
    """Return the tensors of a single-file checkpoint, with those that only such files have."""
    made = {f"model.diffusion_model.{_unet(name)}": tensor for name, tensor in parts["unet"].items()}
    for name, tensor in parts["vae"].items():
        ldm = _vae(name, levels=sum(part.endswith("resnets.0.conv1.bias") for part in parts["vae"]) // 2 - 1)
        is_square = "attn_1" in ldm and tensor.ndim == 2
        made[f"first_stage_model.{ldm}"] = tensor[:, :, None, None] if is_square else tensor
    for name, tensor in parts["text_encoder"].items():
        path = f"text_model.{name.removeprefix('text_model.')}"
        made[f"conditioner.embedders.0.transformer.{path}"] = tensor
    made["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    for name, tensor in _open_clip(parts["text_encoder_2"]).items():
        made[f"conditioner.embedders.1.model.{name}"] = tensor
    return {name: tensor.contiguous() for name, tensor in made.items()}


def _unet(name: str) -> str:
    for path, ldm in OUTSIDE_OF_BLOCKS.items():
        if name.startswith(path):
            return ldm + name.removeprefix(path)
    found = re.match(
        r"(down|mid|up)_blocks?\.(?:(\d)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name
    )
    assert found, name
    side, block, kind, layer, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if kind == "resnets":
        part, _, end = rest.rpartition(".")
        rest = f"{RESNET[part]}.{end}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":  # all blocks with one have attentions
        return f"output_blocks.{3 * block + 2}.2.{rest}"
    blocks = (
        f"input_blocks.{3 * block + layer + 1}" if side == "down" else f"output_blocks.{3 * block + layer}"
    )
    return f"{blocks}.{int(kind == 'attentions')}.{rest}"


def _vae(name: str, *, levels: int) -> str:
    for pattern, ldm in VAE.items():
        name = re.sub(pattern, ldm, name)
    return re.sub(r"\bup\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)


def _open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = {"logit_scale": torch.tensor(4.6)}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            made["text_projection"] = tensor.T
        elif "q_proj" in name:
            rows = torch.cat([state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
            layer, end = name.split(".self_attn.q_proj.")
            made[f"{_replaced(layer)}.attn.in_proj_{end}"] = rows
        elif not re.search("[kv]_proj", name):
            made[_replaced(name)] = tensor
    return made


def _replaced(name: str) -> str:
    for path, ldm in OPEN_CLIP.items():
        name = name.replace(path, ldm)
    return name
