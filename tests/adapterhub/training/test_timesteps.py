"""Timesteps: probabilities against their densities, draws against probabilities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.training.timesteps import DISTRIBUTIONS, timestep_at, timestep_probabilities


def test_uniform_draws_are_the_share_of_the_range() -> None:
    probabilities = timestep_probabilities(1000, first=200, last=299)
    assert probabilities[200:300].tolist() == pytest.approx([0.01] * 100)
    assert probabilities.sum() == probabilities[200:300].sum()
    assert [timestep_at(probabilities, u) for u in (0.0, 0.505, 0.999999999999)] == [200, 250, 299]


@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (-0.7, 0.5)])
def test_logit_normal_mass_is_the_integral_of_its_density(location: float, scale: float) -> None:
    def density(u: float) -> float:
        z = (math.log(u / (1 - u)) - location) / scale
        return math.exp(-z * z / 2) / (scale * math.sqrt(2 * math.pi) * u * (1 - u))

    probabilities = timestep_probabilities(1000, "logit_normal", location=location, scale=scale)
    for t in (100, 250, 500, 900):  # so narrow that the middle stands for the bin
        assert probabilities[t].item() == pytest.approx(density((t + 0.5) / 1000) / 1000, rel=1e-3)


def test_cosmap_mass_is_the_integral_of_its_density() -> None:
    probabilities = timestep_probabilities(1000, "cosmap")
    for t in (0, 250, 500, 999):
        u = (t + 0.5) / 1000
        density = 2 / (math.pi - 2 * math.pi * u + 2 * math.pi * u * u)
        assert probabilities[t].item() == pytest.approx(density / 1000, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(DISTRIBUTIONS),
    st.integers(0, 999),
    st.integers(0, 999),
    st.floats(-3, 3),
    st.floats(0.05, 4),
    st.floats(0, 1, exclude_max=True),
)
def test_draws_stay_in_the_range(
    distribution: str, one: int, other: int, location: float, scale: float, uniform: float
) -> None:
    first, last = sorted((one, other))
    probabilities = timestep_probabilities(
        1000, distribution, first=first, last=last, location=location, scale=scale
    )
    assert probabilities.sum().item() == pytest.approx(1)
    assert (probabilities >= 0).all()
    assert first <= timestep_at(probabilities, uniform) <= last


def test_draws_are_as_frequent_as_the_table_says() -> None:
    probabilities = timestep_probabilities(10, "logit_normal", location=0.5, scale=0.8)
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    drawn = torch.tensor([timestep_at(probabilities, u) for u in uniforms.tolist()])
    frequencies = torch.bincount(drawn, minlength=10) / 2000
    assert torch.allclose(frequencies.double(), probabilities, atol=1e-3)
