"""The grammar of adapter keys: every key is a prefix (where), a module, and a suffix (what).

The prefix and the suffix's spelling give the layout, the suffixes of one module give its algorithm. Both are
decided key by key, because files mix them.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

# Suffix to (part, spelling).
_KOHYA = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    **{
        name: name
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
            *("oft_blocks", "rescale", "on_input", "diff", "w_norm"),
        )
    },
    **{f"{name}.weight": name for name in ("a1", "a2", "b1", "b2", "bm")},
    "diff_b": "bias",
    "b_norm": "bias",
    "set_weight": "set",
}
_PEFT = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
_DIFFUSERS = {
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
}
SUFFIXES: dict[str, tuple[str, str]] = {
    **{suffix: (part, "kohya") for suffix, part in _KOHYA.items()},
    **{suffix: (part, "peft") for suffix, part in _PEFT.items()},
    **{suffix: (part, "diffusers") for suffix, part in _DIFFUSERS.items()},
}
KOHYA_SUFFIXES = {part: suffix for suffix, part in reversed(_KOHYA.items())} | {"ia3": "weight"}
"""Part to kohya's suffix, for writers; `bias` is `diff_b` there."""

# Prefix to (family, component), longest first.
PREFIXES = {
    "lora_unet_": ("kohya", "unet"),
    "lora_te1_": ("kohya", "text_encoder"),
    "lora_te2_": ("kohya", "text_encoder_2"),
    "lora_te_": ("kohya", "text_encoder"),
    "lycoris_te1_": ("lycoris", "text_encoder"),
    "lycoris_te2_": ("lycoris", "text_encoder_2"),
    "lycoris_": ("lycoris", "unet"),
    "unet.base_model.model.": ("peft", "unet"),
    "text_encoder.base_model.model.": ("peft", "text_encoder"),
    "text_encoder_2.base_model.model.": ("peft", "text_encoder_2"),
    "base_model.model.": ("peft", ""),
    "unet.": ("dotted", "unet"),
    "text_encoder.": ("dotted", "text_encoder"),
    "text_encoder_2.": ("dotted", "text_encoder_2"),
    "clip_l.": ("omi", "text_encoder"),
    "clip_g.": ("omi", "text_encoder_2"),
    "diffusion_model.": ("comfy", "unet"),
    "": ("bare", ""),
}
EMBEDDING_PREFIX = "bundle_emb."
# Layouts by the prefix's family and the suffix's spelling; families that are not here are layouts themselves.
_LAYOUTS = {
    ("dotted", "kohya"): "omi",
    ("dotted", "peft"): "diffusers",
    ("dotted", "diffusers"): "diffusers-lora",
    ("dotted", "processor"): "diffusers-processor",
    ("bare", "kohya"): "omi",
    ("bare", "peft"): "diffusers",
    ("bare", "diffusers"): "diffusers-lora",
    ("bare", "processor"): "diffusers-processor",
}
_SGM = re.compile(r"(input_blocks|middle_block|output_blocks|time_embed_|label_emb|out_\d)")
_BARE = re.compile(
    r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding|text_model)\b"
)
_PREFIX = re.compile("|".join(re.escape(prefix) for prefix in PREFIXES))
_PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")
_NAMED = re.compile(r"\.lora_(A|B|magnitude_vector)\.(?!weight$)([^.]+)(?:\.weight)?$")
_NAMED_PARTS = {"A": "down", "B": "up", "magnitude_vector": "magnitude"}


class Key(NamedTuple):
    """One key of an adapter, taken apart.

    Attributes:
        layout: `kohya` (SGM names), `kohya-diffusers`, `diffusers-processor`, `diffusers-lora`, `diffusers`,
            `peft`, `peft-named`, `omi`, `comfy` or `lycoris`.
        component: `unet`, `text_encoder`, `text_encoder_2`; empty where the file does not say.
        module: The module as the file spells it.
        part: What of the module's update it is: `down`, `up`, `alpha`, `mid`, `magnitude`, `bias`, ...
        adapter: The adapter's name where the key holds one (`.lora_A.NAME.weight`), else empty.
    """

    layout: str
    component: str
    module: str
    part: str
    adapter: str = ""


def split_key(name: str) -> Key | None:
    """Take a key apart; None if it belongs to no layout that is known.

    Example:
        >>> key = split_key("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
        >>> key.layout, key.module, key.part
        ('kohya-diffusers', 'mid_block_attentions_0_proj_in', 'down')
    """
    stem, part, spelling = _split_suffix(name)
    if part:
        place = _place(stem, spelling)
        return None if place is None else Key(*place, part)
    adapter = ""
    if found := _PROCESSOR.search(name):
        projection, part = found.groups()
        spelling = "processor"
        stem = f"{name[: found.start()]}.to_{projection}{'.0' if projection == 'out' else ''}"
    elif found := _NAMED.search(name):
        part, adapter, spelling = _NAMED_PARTS[found.group(1)], found.group(2), "named"
        stem = name[: found.start()]
    elif name.endswith(".weight"):
        # (IA)^3 in kohya's names; elsewhere it is a checkpoint's own tensor.
        stem, part, spelling = name.removesuffix(".weight"), "ia3", "bare"
    place = _place(stem, spelling) if part else None
    return None if place is None else Key(*place, part, adapter)


@lru_cache(maxsize=4096)  # the keys of one module follow each other
def _place(stem: str, spelling: str) -> tuple[str, str, str] | None:
    """Return (layout, component, module) of what stands before the suffix."""
    prefix = _PREFIX.match(stem)
    start = prefix.group() if prefix else ""
    family, component = PREFIXES[start]
    module = stem[len(start) :]
    if not module or (start == "" and not _BARE.match(module)):
        return None
    if spelling == "bare" and family not in ("kohya", "lycoris"):
        return None
    if spelling == "named":
        family = "peft-named"
    elif family == "kohya" and component == "unet" and not _SGM.match(module):
        family = "kohya-diffusers"
    return _LAYOUTS.get((family, spelling), family), component, module


def _split_suffix(name: str) -> tuple[str, str, str]:
    """Return (what stands before, part, spelling) by the longest suffix that is known; else no part."""
    end = name.rfind(".")
    if not name.endswith(".weight"):
        known = SUFFIXES.get(name[end + 1 :])
        return (name[:end], *known) if known is not None else ("", "", "")
    # No suffix of one word is `weight`, and none has more than three.
    second = name.rfind(".", 0, end)
    third = name.rfind(".", 0, second)
    known = SUFFIXES.get(name[third + 1 :]) if name[second + 1 : end] in ("down", "up") else None
    if known is not None:
        return (name[:third], *known)
    known = SUFFIXES.get(name[second + 1 :])
    return (name[:second], *known) if known is not None else ("", "", "")


# What marks an algorithm, strongest first.
_MARKS = {
    "magnitude": "dora",
    "mid": "locon-tucker",
    "down": "lora",
    "hada_w1_a": "loha",
    "lokr_w1": "lokr",
    "lokr_w1_a": "lokr",
    "a1": "glora",
    "oft_blocks": "oft",
    "on_input": "ia3",
    "diff": "full",
    "w_norm": "full",
    "set": "set",
    "up": "lora",
}


def algorithm_of(parts: Collection[str], *, is_conv: bool = False, oft_dimensions: int = 3) -> str:
    """Return the algorithm of one module by the parts that it has; empty if they do not belong together.

    Args:
        parts: As in `Key`.
        is_conv: Whether its down factor has a kernel larger than 1.
        oft_dimensions: Of `oft_blocks`: 3 for OFT, 4 for BOFT.

    Example:
        >>> algorithm_of({"down", "up", "alpha"}), algorithm_of({"hada_w1_a", "hada_w1_b", "alpha"})
        ('lora', 'loha')
    """
    for mark, algorithm in _MARKS.items():
        if mark in parts:
            if algorithm == "lora" and is_conv:
                return "locon"
            return "boft" if algorithm == "oft" and oft_dimensions == 4 else algorithm
    return "full" if "bias" in parts and "alpha" not in parts else ""
