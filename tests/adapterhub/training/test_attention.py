"""Which kernels compute attention."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapterhub.training.attention import CUDNN_FIRST, attention_kernels, attention_order


@pytest.mark.parametrize("capability", [None, (7, 5), (8, 0), (8, 9), (10, 0), (12, 0)])
def test_torch_chooses_wherever_cudnn_is_not_the_faster_one(capability: tuple[int, int] | None) -> None:
    assert attention_order(capability, deterministic=False) == ()


def test_hopper_tries_cudnn_first_unless_kernels_must_be_deterministic() -> None:
    order = attention_order((9, 0), deterministic=False)
    assert order[0] == SDPBackend.CUDNN_ATTENTION
    assert set(order) >= {SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH}
    assert attention_order((9, 0), deterministic=True) == ()


def settings() -> tuple[object, ...]:
    """What torch has been told of its kernels."""
    cuda = torch.backends.cuda
    return (
        cuda.cudnn_sdp_enabled(),
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        torch._C._get_sdp_priority_order(),
    )


def test_the_cpu_is_left_alone_and_the_order_goes_when_it_is_not_needed() -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, 2, 16, 8, generator=generator) for _ in range(3))
    before = settings()
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    with attention_kernels(torch.device("cpu"), deterministic=False):
        assert settings() == before
        within = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.equal(within, plain)
    with sdpa_kernel(list(CUDNN_FIRST), set_priority=True):
        assert settings()[-1] != before[-1]
    assert settings() == before


@pytest.mark.gpu
def test_a_device_computes_the_same_with_its_own_order() -> None:
    device = torch.device("cuda")
    query, key, value = torch.randn(3, 2, 10, 256, 64, device=device, dtype=torch.bfloat16)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    with attention_kernels(device, deterministic=False):
        within = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert (within - plain).abs().max() < 2e-2
