"""Noise: what each kind does, and that a sample's depends on itself alone."""

import math

import pytest
import torch

from adapterhub.training.noise import draw_noise, multires_noise, multires_sizes, offset_noise


def test_offset_noise_shifts_whole_channels() -> None:
    noise = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    drawn = torch.randn(2, 3, dtype=torch.float64)
    shifted = offset_noise(noise, drawn, torch.tensor([0.1, 0.0], dtype=torch.float64))
    for channel in range(3):
        expected = noise[0, channel] + 0.1 * drawn[0, channel].item()
        assert torch.allclose(shifted[0, channel], expected)
    assert torch.equal(shifted[1], noise[1])


def test_multires_noise_is_the_sum_over_its_own_deviation() -> None:
    noise, coarse = torch.randn(1, 2, 2, dtype=torch.float64), torch.tensor([[[3.0]]], dtype=torch.float64)
    values = [value + 0.3 * 3.0 for value in noise.flatten().tolist()]
    fine = torch.zeros_like(noise)
    mean = sum(values) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
    expected = [value / deviation for value in values]
    assert multires_noise(noise, [fine, coarse], 0.3).flatten().tolist() == pytest.approx(expected)


def test_levels_shrink_by_powers_until_a_side_is_one() -> None:
    assert multires_sizes(128, 96, [3.0, 2.0, 2.5]) == [(128, 96), (64, 48), (20, 15)]
    assert multires_sizes(16, 16, [2.0, 4.0, 4.0, 2.0])[-1] == (1, 1)


def test_drawn_noise_depends_on_its_key_alone() -> None:
    def draw(**changes: object) -> torch.Tensor:
        where = {"seed": 7, "name": "me/ink", "step": 3, "sample": 1, **changes}
        return draw_noise((4, 8, 8), **where, offset=0.1, multires_levels=4)  # pyright: ignore[reportArgumentType]

    assert torch.equal(draw(), draw())
    for change in ({"seed": 8}, {"name": "me/corgi"}, {"step": 4}, {"sample": 0}):
        assert not torch.equal(draw(), draw(**change))


def test_drawn_noise_has_the_spread_and_the_offset_that_were_asked_for() -> None:
    plain = torch.stack([draw_noise((4, 32, 32), 1, "me/ink", 0, n) for n in range(64)])
    assert plain.std().item() == pytest.approx(1, abs=0.01)
    rough = torch.stack([draw_noise((4, 32, 32), 1, "me/ink", 0, n, multires_levels=6) for n in range(8)])
    assert rough.flatten(1).std(dim=1).tolist() == pytest.approx([1.0] * 8, abs=1e-5)
    shifted = torch.stack([draw_noise((4, 32, 32), 1, "me/ink", 0, n, offset=0.5) for n in range(64)])
    assert (shifted - plain).std(dim=(2, 3)).max() < 1e-5
    assert (shifted - plain).mean(dim=(2, 3)).std().item() == pytest.approx(0.5, rel=0.15)
