"""Adapters as tensors."""

import pytest
import torch

from adapterhub.lora.weights import is_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found(dtype: torch.dtype, bad: float) -> None:
    numbers = torch.linspace(-3, 3, 999)
    assert is_finite(numbers.to(dtype))
    numbers[500] = bad
    spoilt = numbers.to(dtype)
    assert is_finite(spoilt) == bool(spoilt.float().isfinite().all())
    assert is_finite(torch.empty(0, dtype=dtype))
