"""What the stored tensors of each algorithm do to a weight, and the exact low-rank forms.

Equations after Hu et al. 2021 (LoRA), Yeh et al. 2023 (LyCORIS: LoCon, LoHa, LoKr), Chavan et al. 2023
(GLoRA), Liu et al. 2024 (DoRA, BOFT), Qiu et al. 2023 (OFT), Liu et al. 2022 ((IA)^3). Tensors are called as
in `adapterhub_registry.probe`; all arithmetic is in float32.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

NEED_BASE = frozenset({"glora", "dora", "oft", "boft", "ia3", "set"})
"""Algorithms whose delta depends on the weight that it changes."""
EXACT = frozenset({"lora", "locon-tucker", "loha", "lokr", "glora"})
"""Algorithms whose delta is a product of low rank, without rounding."""

Tensors = Mapping[str, Tensor]


def delta_of(algorithm: str, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
    """Return the delta at strength 1 in float32; in the shape of `base` if it is given.

    Args:
        algorithm: As in `Native`.
        tensors: The stored tensors.
        scale: alpha / rank; for OFT and BOFT alpha itself.
        base: The weight W, `(out, in)` or `(out, in, kh, kw)`.
    """
    if algorithm in NEED_BASE and algorithm != "glora":
        if base is None:
            raise ValueError(f"{algorithm} needs the weight that it changes")
        weight = base.float()
        formula = {"dora": _dora, "oft": _oft, "boft": _boft, "ia3": _ia3, "set": _set}[algorithm]
        return formula(tensors, scale, weight)
    if algorithm == "lokr":
        first, second = _kronecker_factors(tensors)
        delta = torch.kron(first, second.flatten(1)) * scale
        delta = delta.reshape(shape_of(algorithm, tensors))
    elif algorithm == "loha":
        halves = [_half(tensors, number) for number in ("1", "2")]
        products = [(up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:]) for up, down in halves]
        delta = products[0] * products[1] * scale
    else:
        up, down = factors_of(algorithm, tensors, scale, base)
        delta = (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
    return delta if base is None else delta.reshape(base.shape)


def factors_of(algorithm: str, tensors: Tensors, scale: float, base: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return `(up, down)` in float32 with `delta = up @ down`, exactly, for an algorithm in `EXACT`.

    The rank is that of LoCon; r^2 for LoHa; the product of the two factors' ranks for LoKr; 2 r for GLoRA.

    Returns:
        `(out, rank)` and `(rank, in)` or `(rank, in, kh, kw)`.
    """
    if algorithm in ("lora", "locon-tucker"):
        up, down = tensors["up"].flatten(1).float() * scale, tensors["down"].float()
        if "mid" in tensors:
            down = torch.einsum("mn...,nj->mj...", tensors["mid"].float(), down.flatten(1))
        return up, down
    if algorithm == "loha":
        (up1, down1), (up2, down2) = (_half(tensors, number) for number in ("1", "2"))
        up = (up1[:, :, None] * up2[:, None, :]).flatten(1)
        return up * scale, (down1[:, None] * down2[None, :]).flatten(0, 1)
    if algorithm == "lokr":
        return _lokr_factors(tensors, scale)
    if algorithm == "glora":
        if base is None:
            raise ValueError("glora needs the weight that it changes")
        return _glora_factors(tensors, scale, base.float())
    raise ValueError(f"{algorithm} has no exact low-rank form")


def shape_of(algorithm: str, tensors: Tensors) -> tuple[int, ...]:
    """Return the shape of the weight that they change; convolutions may be flattened; empty if unknown."""
    if algorithm == "dora":
        inner, rest = _inside_dora(tensors)
        return shape_of(inner, rest)
    if algorithm in ("lora", "locon-tucker"):
        kernel = tensors["mid"].shape[2:] if "mid" in tensors else tensors["down"].shape[2:]
        return (tensors["up"].shape[0], tensors["down"].shape[1], *kernel)
    if algorithm == "loha":
        if "hada_t1" in tensors:
            kernel = tensors["hada_t1"].shape[2:]
            return (tensors["hada_w1_a"].shape[1], tensors["hada_w1_b"].shape[1], *kernel)
        return (tensors["hada_w1_a"].shape[0], tensors["hada_w1_b"].shape[1])
    if algorithm == "lokr":
        first, second = _kronecker_factors(tensors)
        return (
            first.shape[0] * second.shape[0],
            first.shape[1] * second.shape[1],
            *second.shape[2:],
        )
    if algorithm == "glora":
        up, down = _glora_addend(tensors)
        return (up.shape[0], *down.shape[1:])
    return ()


def rank_of(tensors: Tensors) -> int:
    """Return what alpha is divided by, the inner size; 0 where there is none, as for whole LoKr factors."""
    for name in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if name in tensors:
            return tensors[name].shape[0]
    return min(tensors["b1"].shape[0], tensors["b2"].shape[0]) if "b1" in tensors else 0


def _half(tensors: Tensors, number: str) -> tuple[Tensor, Tensor]:
    """One of LoHa's products as `(out, r)` and `(r, in[, kh, kw])`; the Tucker form stores A transposed."""
    up, down = tensors[f"hada_w{number}_a"].float(), tensors[f"hada_w{number}_b"].float()
    middle = tensors.get(f"hada_t{number}")
    if middle is None:
        return up, down
    return up.t(), torch.einsum("ij...,jr->ir...", middle.float(), down)


def _kronecker_factors(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """LoKr's two factors, rebuilt where they are stored as products: `(a, c)` and `(b, d[, kh, kw])`."""
    if "lokr_w1" in tensors:
        first = tensors["lokr_w1"].float()
    else:
        first = tensors["lokr_w1_a"].float() @ tensors["lokr_w1_b"].float()
    if "lokr_w2" in tensors:
        return first, tensors["lokr_w2"].float()
    up, down = tensors["lokr_w2_a"].float(), tensors["lokr_w2_b"].float()
    if "lokr_t2" in tensors:
        return first, torch.einsum("ij...,ip,jr->pr...", tensors["lokr_t2"].float(), up, down)
    return first, (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def _lokr_factors(tensors: Tensors, scale: float) -> tuple[Tensor, Tensor]:
    """Singular vectors of a Kronecker product are the products of its factors' singular vectors."""
    first, second = _kronecker_factors(tensors)
    u1, s1, v1 = torch.linalg.svd(first, full_matrices=False)
    u2, s2, v2 = torch.linalg.svd(second.flatten(1), full_matrices=False)
    products = torch.outer(s1, s2).flatten()
    order = torch.argsort(products, descending=True, stable=True)
    smallest = products[order[0]] * torch.finfo(torch.float32).eps
    order = order[: max(int((products[order] > smallest).sum()), 1)]
    left, right = order // len(s2), order % len(s2)
    root = products[order].sqrt()
    up = torch.einsum("ir,jr->ijr", u1[:, left], u2[:, right]).flatten(0, 1) * (root * scale)
    down = torch.einsum("ri,rj->rij", v1[left], v2[right]).flatten(1) * root[:, None]
    return up, down.reshape(len(order), first.shape[1] * second.shape[1], *second.shape[2:])


def _glora_addend(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """GLoRA's B as `(out, r)` and `(r, in[, kh, kw])`; an older release stored them the other way round."""
    up, down = tensors["b1"].float(), tensors["b2"].float()
    if _is_old_glora(tensors):
        up, down = down, up
    if "bm" in tensors:
        return up.flatten(1), torch.einsum("mn...,nj->mj...", tensors["bm"].float(), down.flatten(1))
    return up.flatten(1), down


def _glora_factors(tensors: Tensors, scale: float, base: Tensor) -> tuple[Tensor, Tensor]:
    outer, inner = tensors["a1"].flatten(1).float(), tensors["a2"].flatten(1).float()
    if _is_old_glora(tensors):
        outer, inner = inner, outer
    up, down = _glora_addend(tensors)
    if base.dim() == 2:
        ups = torch.cat([base @ outer, up], dim=1)
        return ups * scale, torch.cat([inner, down.flatten(1)])
    # W a1 a2 mixes input channels under every tap of the kernel: (out * taps, in) @ a1 @ a2. Its exact
    # low-rank form has the taps in the inner size, one copy of a2 for each.
    taps = base.shape[2:].numel()
    mixed = torch.einsum("oit,ir->otr", base.flatten(2), outer).flatten(1)
    spread = torch.einsum("st,ri->sirt", torch.eye(taps, device=base.device), inner)
    spread = spread.permute(0, 2, 1, 3).reshape(taps * inner.shape[0], inner.shape[1], taps)
    downs = torch.cat([spread.reshape(-1, *base.shape[1:]), down.reshape(-1, *base.shape[1:])])
    return torch.cat([mixed, up], dim=1) * scale, downs


def _is_old_glora(tensors: Tensors) -> bool:
    a1, a2, b1, b2 = (tensors[name].flatten(1).shape for name in ("a1", "a2", "b1", "b2"))
    is_new = b2[0] == b1[1] == a1[1] == a2[0]
    return not is_new and b2[1] == b1[0] == a1[0] == a2[1]


def _inside_dora(tensors: Tensors) -> tuple[str, Tensors]:
    """The algorithm whose delta DoRA rescales, and its tensors."""
    rest = {name: value for name, value in tensors.items() if name != "magnitude"}
    if "hada_w1_a" in rest:
        return "loha", rest
    if "lokr_w1" in rest or "lokr_w1_a" in rest:
        return "lokr", rest
    return "lora", rest


def _dora(tensors: Tensors, scale: float, base: Tensor) -> Tensor:
    """Return m (W + D) / |W + D| - W; the norm is of each output, or of each input for `(1, in, ...)`."""
    inner, rest = _inside_dora(tensors)
    merged = base + delta_of(inner, rest, scale, base)
    magnitude = tensors["magnitude"].float()
    is_by_input = magnitude.dim() > 1 and magnitude.shape[0] == 1 and base.shape[0] != 1
    axes = [axis for axis in range(base.dim()) if axis != (1 if is_by_input else 0)]
    shape = [1] * base.dim()
    shape[1 if is_by_input else 0] = -1
    norm = torch.linalg.vector_norm(merged, dim=axes, keepdim=True)
    return merged * (magnitude.reshape(shape) / norm) - base


def _rotations(blocks: Tensor, constraint: float) -> Tensor:
    """Cayley transform (I + Q)(I - Q)^-1 of Q = B - B^T; a positive constraint bounds the norm of all Q."""
    skew = blocks - blocks.transpose(-1, -2)
    if constraint > 0:
        norm = torch.linalg.vector_norm(skew)
        skew = skew * torch.clamp(constraint / (norm + 1e-8), max=1.0)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    return (identity + skew) @ torch.linalg.inv(identity - skew)


def _oft(tensors: Tensors, scale: float, base: Tensor) -> Tensor:
    blocks = tensors["oft_blocks"].float()
    rotations = _rotations(blocks, scale * base.shape[0])
    rows = base.reshape(blocks.shape[0], blocks.shape[1], -1)
    rotated = torch.einsum("knm,kni->kmi", rotations, rows).reshape(base.shape)
    return _rescaled(tensors, rotated) - base


def _boft(tensors: Tensors, scale: float, base: Tensor) -> Tensor:
    blocks = tensors["oft_blocks"].float()
    size = blocks.shape[-1]
    rotated = base.flatten(1)
    for stage, rotations in enumerate(_rotations(blocks, scale * base.shape[0])):
        stride = 2**stage * (size // 2)
        mixed = rotated.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        mixed = torch.einsum("bij,bjk->bik", rotations, mixed).flatten(0, 1)
        rotated = mixed.unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
    return _rescaled(tensors, rotated.reshape(base.shape)) - base


def _rescaled(tensors: Tensors, weight: Tensor) -> Tensor:
    if "rescale" not in tensors:
        return weight
    return weight * tensors["rescale"].float().reshape(-1, *[1] * (weight.dim() - 1))


def _ia3(tensors: Tensors, scale: float, base: Tensor) -> Tensor:  # noqa: ARG001
    """Return W diag(s) where it was trained on the input, else diag(s) W."""
    vector = tensors["ia3"].float().flatten()
    shape = [1] * base.dim()
    shape[1 if bool(tensors["on_input"]) else 0] = -1
    return base * vector.reshape(shape)


def _set(tensors: Tensors, scale: float, base: Tensor) -> Tensor:  # noqa: ARG001
    """ComfyUI's `set_weight` is the new weight itself."""
    return tensors["set"].float().reshape(base.shape) - base
