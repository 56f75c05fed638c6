"""The names of SDXL's modules: diffusers' paths, SGM's paths, and kohya's underscore spelling of either."""

from collections.abc import Iterator
from functools import cache

MAX_DEPTH = 10  # SDXL's deepest transformer; shallower ones have a part of these names
MAX_ENCODER_LAYERS = 32
RESNET_PARTS = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
SINGLE_MODULES = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


@cache
def unet_names() -> dict[str, str]:
    """Return diffusers' path to SGM's path, for every linear and convolution of an SDXL UNet."""
    names = dict(SINGLE_MODULES)
    for block in range(3):
        for layer in range(2):
            sgm = f"input_blocks.{3 * block + 1 + layer}"
            _add_layer(names, f"down_blocks.{block}", layer, sgm, has_attention=block > 0)
        for layer in range(3):
            sgm = f"output_blocks.{3 * block + layer}"
            _add_layer(names, f"up_blocks.{block}", layer, sgm, has_attention=block < 2)
        if block < 2:
            names[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{3 * block + 3}.0.op"
            names[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{3 * block + 2}.2.conv"
    for layer, place in ((0, 0), (1, 2)):
        for part, sgm_part in RESNET_PARTS.items():
            names[f"mid_block.resnets.{layer}.{part}"] = f"middle_block.{place}.{sgm_part}"
    for part in _transformer_parts():
        names[f"mid_block.attentions.0.{part}"] = f"middle_block.1.{part}"
    return names


@cache
def unet_norm_names() -> dict[str, str]:
    """Return diffusers' path to SGM's path, for every norm of an SDXL UNet."""
    names = {"conv_norm_out": "out.0"}
    for path, sgm in unet_names().items():
        if path.endswith(".conv1"):
            names[path.removesuffix("conv1") + "norm1"] = sgm.removesuffix("in_layers.2") + "in_layers.0"
            names[path.removesuffix("conv1") + "norm2"] = sgm.removesuffix("in_layers.2") + "out_layers.0"
        elif path.endswith(".proj_in"):
            names[path.removesuffix("proj_in") + "norm"] = sgm.removesuffix("proj_in") + "norm"
        elif path.endswith(".attn1.to_q"):
            for number in "123":
                end = f"norm{number}"
                names[path.removesuffix("attn1.to_q") + end] = sgm.removesuffix("attn1.to_q") + end
    return names


@cache
def kohya_unet_names() -> dict[str, str]:
    """Return kohya's underscore name, of either spelling, to diffusers' path.

    The two spellings have no name in common, and no two paths share one.
    """
    names = unet_names() | unet_norm_names()
    return {spelled.replace(".", "_"): path for path, sgm in names.items() for spelled in (path, sgm)}


@cache
def kohya_text_encoder_names() -> dict[str, str]:
    """Return kohya's underscore name, with or without `text_model_`, to the path with `text_model.`."""
    names: dict[str, str] = {}
    for path in text_encoder_names() | text_encoder_norm_names():
        spelled = path.replace(".", "_")
        names[spelled] = path
        names[spelled.removeprefix("text_model_")] = path
    return names


@cache
def text_encoder_names() -> frozenset[str]:
    """Return the paths of every linear in a CLIP text encoder's layers, with `text_model.`."""
    parts = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]
    return frozenset(
        f"text_model.encoder.layers.{layer}.{part}" for layer in range(MAX_ENCODER_LAYERS) for part in parts
    )


@cache
def text_encoder_norm_names() -> frozenset[str]:
    """Return the paths of every norm in a CLIP text encoder, with `text_model.`."""
    return frozenset(
        f"text_model.encoder.layers.{layer}.layer_norm{number}"
        for layer in range(MAX_ENCODER_LAYERS)
        for number in "12"
    ) | {"text_model.final_layer_norm"}


@cache
def sgm_unet_names() -> dict[str, str]:
    """Return SGM's dotted path to diffusers' path."""
    return {sgm: path for path, sgm in (unet_names() | unet_norm_names()).items()}


def _add_layer(names: dict[str, str], block: str, layer: int, sgm: str, *, has_attention: bool) -> None:
    for part, sgm_part in RESNET_PARTS.items():
        names[f"{block}.resnets.{layer}.{part}"] = f"{sgm}.0.{sgm_part}"
    if has_attention:
        for part in _transformer_parts():
            names[f"{block}.attentions.{layer}.{part}"] = f"{sgm}.1.{part}"


def _transformer_parts() -> Iterator[str]:
    yield from ("proj_in", "proj_out")
    for depth in range(MAX_DEPTH):
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"transformer_blocks.{depth}.{attention}.{part}"
        yield f"transformer_blocks.{depth}.ff.net.0.proj"
        yield f"transformer_blocks.{depth}.ff.net.2"
