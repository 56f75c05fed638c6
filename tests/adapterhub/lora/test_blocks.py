"""Blocks have the names that users know, and strings of weights mean what they mean elsewhere."""

import pytest

from adapterhub.errors import BlockWeightsError
from adapterhub.formats.names import text_encoder_names, unet_names
from adapterhub.lora.blocks import (
    BLOCKS_12,
    BLOCKS_20,
    block_of,
    lbw_block_of,
    parse_block_weights,
    select_targets,
)
from adapterhub.lora.weights import Target

TEXT = Target("text_encoder", "text_model.encoder.layers.3.mlp.fc1")
UP = Target("unet", "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k")
CONV_OUT = Target("unet", "conv_out")


def lbw_of_sgm(path: str) -> str | None:
    """LBW counts the blocks of the original UNet, whose paths name them."""
    first, _, rest = path.partition(".")
    number = rest.partition(".")[0]
    if first in ("time_embed", "label_emb"):
        return "IN00"
    side = {"input_blocks": "IN", "output_blocks": "OUT"}.get(first)
    return f"{side}{int(number):02}" if side else "M00" if first == "middle_block" else None


def test_every_module_of_the_unet_is_in_the_block_that_its_original_path_names() -> None:
    names = unet_names()
    for path, sgm in names.items():
        assert lbw_block_of(Target("unet", path)) == lbw_of_sgm(sgm), path
    found = {lbw_block_of(Target("unet", path)) for path in names}
    assert found == {*BLOCKS_20[1:], None}
    with_attention = {lbw_block_of(Target("unet", path)) for path in names if "attentions" in path}
    assert with_attention == set(BLOCKS_12[1:])


def test_blocks_by_path() -> None:
    assert {block_of(Target("unet", path)) for path in unet_names()} == {
        *(f"{side}_blocks.{n}" for side in ("down", "up") for n in range(3)),
        *("mid_block", "conv_in", "conv_out", "time_embedding", "add_embedding"),
    }
    assert {block_of(Target("text_encoder_2", path)) for path in text_encoder_names()} == {
        f"text_encoder_2.layers.{n}" for n in range(32)
    }
    assert block_of(Target("text_encoder", "text_model.final_layer_norm")) == "text_encoder.final_layer_norm"
    assert block_of(Target("model", "lm_head")) == "lm_head"
    assert lbw_block_of(Target("model", "model.layers.3.mlp.up_proj")) is None


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("unet", UP),
        ("up_blocks.0", UP),
        ("up_blocks.0.attentions.1", UP),
        ("OUT01", UP),
        ("*.attn2.*", UP),
        ("unet.*.to_k", UP),
        ("text_encoder", TEXT),
        ("text_encoder.layers.3", TEXT),
        ("BASE", TEXT),
        (["nothing", "OUT01"], UP),
        (str(UP), UP),
    ],
)
def test_a_filter_fits_components_blocks_paths_and_globs(pattern: str | list[str], fits: Target) -> None:
    keep = select_targets(pattern)
    others = [target for target in (UP, TEXT, CONV_OUT) if target != fits]
    assert keep(fits)
    assert not any(keep(other) for other in others if pattern != "unet" or other.component != "unet")


def test_a_name_fits_whole_parts_of_a_path_only() -> None:
    keep = select_targets("down_blocks.1.attentions.1")
    assert keep(Target("unet", "down_blocks.1.attentions.1.proj_in"))
    assert not keep(Target("unet", "down_blocks.1.attentions.10.proj_in"))
    assert not select_targets("text_encoder")(Target("text_encoder_2", TEXT.module))
    assert select_targets(lambda target: target == UP)(UP)


@pytest.mark.parametrize("blocks", [BLOCKS_12, BLOCKS_20], ids=len)
@pytest.mark.parametrize("brackets", ["{}", "[{}]", " [ {} ] "])
def test_numbers_are_the_weights_of_the_blocks_in_order(blocks: tuple[str, ...], brackets: str) -> None:
    values = [round(0.1 * place, 1) for place in range(len(blocks))]
    weigh = parse_block_weights(brackets.format(", ".join(map(str, values))))
    by_block = dict(zip(blocks, values, strict=True))
    for path in unet_names():
        target = Target("unet", path)
        assert weigh(target) == by_block.get(lbw_block_of(target) or "", 1.0)
    assert weigh(TEXT) == values[0]
    assert weigh(CONV_OUT) == 1.0


def test_names_are_weighed_by_the_last_that_fits() -> None:
    weigh = parse_block_weights("unet=0.5, OUT01=-2,*.attn1.*=0.25")
    assert weigh(UP) == -2.0
    assert weigh(Target("unet", UP.module.replace("attn2", "attn1"))) == 0.25
    assert weigh(CONV_OUT) == 0.5
    assert weigh(TEXT) == 1.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (",".join("1" * 17), "17 numbers are for the blocks of Stable Diffusion 1"),
        (",".join("1" * 26), "26 numbers are for the blocks of Stable Diffusion 1"),
        ("1,1,1", "it has 3 numbers"),
        ("", '"" is no number'),
        ("1,x,1", '"x" is no number'),
        ("OUT01=strong", '"strong" is no number'),
        ("unet=nan", "nan is not finite"),
        (",".join(["inf"] * 12), "inf is not finite"),
        ("IN4=1", "SDXL has no block IN4"),
        ("OUT09=1", "SDXL has no block OUT09"),
    ],
)
def test_what_is_no_weight_of_sdxls_blocks_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BlockWeightsError) as caught:
        parse_block_weights(text)
    assert caught.value.code == "block-weights-invalid"
    assert caught.value.text == text
    assert caught.value.reason == reason
    assert reason in str(caught.value)
