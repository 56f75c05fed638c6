"""Names of the blocks of a model: for weights by block, for filters of targets, and to split an adapter.

A block has a name from its path (`down_blocks.1`, `text_encoder.layers.3`); those of SDXL also have the one
that LoRA Block Weight (LBW) strings use, counted as in the original UNet (`IN04`, `M00`, `OUT02`, `BASE`).
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from adapterhub.errors import BlockWeightsError
from adapterhub.lora.weights import COMPONENTS, Target

BLOCKS_12 = ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *(f"OUT{n:02}" for n in range(6)))
"""The blocks of SDXL that have attention, which is where an ordinary LoRA has layers."""
BLOCKS_20 = ("BASE", *(f"IN{n:02}" for n in range(9)), "M00", *(f"OUT{n:02}" for n in range(9)))
"""All blocks of SDXL, for a LoRA with convolutions (LoCon)."""
FORMS = {len(blocks): blocks for blocks in (BLOCKS_12, BLOCKS_20)}

Pattern = str | Sequence[str] | Callable[[Target], bool]
"""What picks targets: see `select_targets`."""

_LBW_BLOCK = re.compile(r"(IN|M|MID|OUT)\d*")
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")


def block_of(target: Target) -> str:
    """Return the name of the block that a module is in.

    In the UNet `down_blocks.1`, `mid_block`, `conv_in`; in text encoders `text_encoder_2.layers.3`; in other
    architectures the path up to its first number.

    Example:
        >>> block_of(Target("unet", "up_blocks.0.attentions.1.proj_in"))
        'up_blocks.0'
        >>> block_of(Target("text_encoder", "text_model.encoder.layers.3.mlp.fc1"))
        'text_encoder.layers.3'
        >>> block_of(Target("model", "model.layers.11.self_attn.q_proj"))
        'model.layers.11'
    """
    is_text = target.component in COMPONENTS[1:]
    path = target.module.removeprefix("text_model.").removeprefix("encoder.") if is_text else target.module
    parts = path.split(".")
    last = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    block = parts[0] if parts[0] == "mid_block" else ".".join(parts[: last + 1])
    return f"{target.component}.{block}" if is_text else block


def lbw_block_of(target: Target) -> str | None:
    """Return the name that LBW strings have for the block, or None where they have none.

    `BASE` is both text encoders. `IN00` is conv_in and, as kohya's `svd_merge_lora` counts, the embeddings of
    time and size. conv_out and other architectures are in no block.

    Example:
        >>> lbw_block_of(Target("unet", "down_blocks.1.attentions.0.proj_in"))
        'IN04'
    """
    component, module = target
    if component in COMPONENTS[1:]:
        return "BASE"
    if component != "unet":
        return None
    if module.startswith(("conv_in", "time_embedding", "add_embedding")):
        return "IN00"
    if module.startswith("mid_block."):
        return "M00"
    found = _UNET_BLOCK.match(module)
    if found is None:
        return None
    side, block, part, layer = found[1], int(found[2]), found[3], int(found[4])
    if side == "down":
        return f"IN{3 * block + (3 if part == 'downsamplers' else 1 + layer):02}"
    return f"OUT{3 * block + (2 if part == 'upsamplers' else layer):02}"


def select_targets(pattern: Pattern) -> Callable[[Target], bool]:
    """Return a filter of targets.

    Args:
        pattern: One or several names, of which one has to fit: a component (`unet`), a block in either
            spelling (`down_blocks.1`, `text_encoder.layers.3`, `IN04`, `M00`, `BASE`), a path or the first
            parts of one (`up_blocks.0.attentions.1`), or a glob over the path with or without its component
            (`*.attn2.*`). A function is returned as it is.

    Example:
        >>> keep = select_targets(["mid_block", "*.attn2.*"])
        >>> keep(Target("unet", "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k"))
        True
        >>> keep(Target("text_encoder", "text_model.encoder.layers.3.mlp.fc1"))
        False
    """
    if callable(pattern):
        return pattern
    names = [pattern] if isinstance(pattern, str) else list(pattern)
    return lambda target: any(_fits(target, name) for name in names)


def parse_block_weights(text: str) -> Callable[[Target], float]:
    """Return the weight of each target from a text, in one of two forms.

    Numbers, with commas between and in brackets or not, as LBW strings and kohya's `--lbws` have them:

    - 12: `BASE, IN04, IN05, IN07, IN08, M00, OUT00 ... OUT05`, an SDXL LoRA;
    - 20: `BASE, IN00 ... IN08, M00, OUT00 ... OUT08`, an SDXL LoRA with convolutions.

    The forms of 17 and 26 numbers are of Stable Diffusion 1, whose UNet has 12 blocks on each side where SDXL
    has 9, and are refused. As in kohya, a block that the form does not name keeps the weight 1.

    Or names: `IN07=0.5,mid_block=0,*.attn2.*=0.3`, each as in `select_targets`; of several that fit, the last
    one counts; what none of them fits keeps the weight 1.

    Raises:
        BlockWeightsError: Neither of these, a block that SDXL lacks, or a number that is not finite.

    Example:
        >>> weigh = parse_block_weights("1,0,0,0,0,0,1,0.5,1,0,0,0")
        >>> weigh(Target("unet", "up_blocks.0.attentions.1.proj_in"))
        0.5
    """
    words = [word.strip() for word in text.strip().strip("[]").split(",")]
    if all("=" in word for word in words):
        pairs = [word.rpartition("=") for word in words]
        named = [(name.strip(), _number(text, value)) for name, _, value in pairs]
        for name, _ in named:
            if _LBW_BLOCK.fullmatch(name) and name not in BLOCKS_20:
                raise BlockWeightsError(text, f"SDXL has no block {name}")
        return lambda target: next((value for name, value in reversed(named) if _fits(target, name)), 1.0)
    values = [_number(text, word) for word in words]
    if len(values) in (17, 26):
        raise BlockWeightsError(text, f"{len(values)} numbers are for the blocks of Stable Diffusion 1")
    if len(values) not in FORMS:
        raise BlockWeightsError(text, f"it has {len(values)} numbers")
    by_block = dict(zip(FORMS[len(values)], values, strict=True))
    return lambda target: by_block.get(lbw_block_of(target) or "", 1.0)


def _fits(target: Target, name: str) -> bool:
    if name in (block_of(target), lbw_block_of(target)):
        return True
    paths = (str(target), target.module)
    return any(f"{path}.".startswith(f"{name}.") or fnmatchcase(path, name) for path in paths)


def _number(text: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise BlockWeightsError(text, f'"{word}" is no number') from None
    if value - value != 0:
        raise BlockWeightsError(text, f"{word} is not finite")
    return value
