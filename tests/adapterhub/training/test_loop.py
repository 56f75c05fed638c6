"""The rate and the order of examples."""

import math

import pytest

from adapterhub.training.loop import batch_indices, rate_factor


def test_the_rate_follows_warmup_and_cosine() -> None:
    for step in range(100):
        expected = (step + 1) / 5 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 95))
        assert rate_factor(step, steps=100, warmup=0.05) == pytest.approx(expected)


def test_every_example_is_shown_once_an_epoch_in_changing_order() -> None:
    shown = [i for step in range(10) for i in batch_indices(7, 7, step, seed=1, name="me/ink")]
    epochs = [shown[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5
    odd = [i for step in range(7) for i in batch_indices(7, 4, step, seed=1, name="me/ink")]
    assert odd == shown[:28]
    assert batch_indices(7, 4, 3, seed=1, name="me/corgi") != batch_indices(7, 4, 3, seed=1, name="me/ink")
