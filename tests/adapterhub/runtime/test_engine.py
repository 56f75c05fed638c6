"""Generating on one loaded pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapterhub.errors import EmptyPromptError, InvalidSizeError, RuntimeClosedError, SettingError
from adapterhub.runtime.engine import Runtime


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_equal_calls_make_equal_pictures_after_other_traffic(mini_runtime: Runtime) -> None:
    first = mini_runtime.generate("a star", seed=3, steps=3)
    mini_runtime.generate(["a cat", "a dog"], seed=9, steps=2, negative_prompt="blue")
    again = mini_runtime.generate("a star", seed=3, steps=3)
    assert np.array_equal(pixels(first.images[0]), pixels(again.images[0]))
    assert first.record == again.record


def test_seeds_and_prompts_change_the_picture(mini_runtime: Runtime) -> None:
    result = mini_runtime.generate(["a star", "a red heart"], seed=3, count=2, steps=3)
    assert [record.seed for record in result.records] == [3, 4, 5, 6]
    assert [record.prompt for record in result.records] == ["a star", "a star", "a red heart", "a red heart"]
    assert [(record.batch_size, record.batch_row) for record in result.records] == [(4, i) for i in range(4)]
    different = {pixels(image).tobytes() for image in result.images}
    assert len(different) == 4


def test_a_picture_of_a_batch_is_close_to_the_same_picture_alone(mini_runtime: Runtime) -> None:
    batch = mini_runtime.generate(["a star", "a red heart", "a fish"], seed=3, steps=4)
    alone = mini_runtime.generate("a red heart", seed=4, steps=4)
    difference = pixels(batch.images[1]).astype(int) - pixels(alone.images[0]).astype(int)
    assert np.abs(difference).max() <= 1  # one step of 8-bit rounding


def test_the_size_can_be_chosen(mini_runtime: Runtime) -> None:
    result = mini_runtime.generate("a star", seed=3, steps=2, width=96, height=48)
    assert result.images[0].size == (96, 48)
    assert (result.record.width, result.record.height) == (96, 48)


def test_every_step_is_reported(mini_runtime: Runtime) -> None:
    seen: list[tuple[int, int]] = []
    mini_runtime.generate("a star", seed=3, steps=3, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_seed_is_drawn_when_none_is_given(mini_runtime: Runtime) -> None:
    seeds = {mini_runtime.generate("a star", steps=1).record.seed for _ in range(3)}
    assert len(seeds) == 3


def test_the_record_says_what_decides_the_bytes(mini_runtime: Runtime) -> None:
    record = mini_runtime.generate("a star", seed=3, steps=2, guidance_scale=4.0).record
    assert (record.base.name, record.base.architecture) == ("mini", "mini")
    assert record.base.identity == mini_runtime.base.card["identity"]
    assert (record.device, record.dtype, record.threads) == ("cpu", "float32", torch.get_num_threads())
    assert record.scheduler["class"] == "EulerDiscreteScheduler"
    assert record.versions["torch"] == torch.__version__
    assert (record.plane, record.composition) == ("base", [])


def test_generating_leaves_the_weights_alone(mini_runtime: Runtime) -> None:
    before = {name: value.clone() for name, value in mini_runtime.pipeline.unet.state_dict().items()}
    mini_runtime.generate("a star", seed=3, steps=1)
    after = mini_runtime.pipeline.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_empty_list_of_prompts_is_refused(mini_runtime: Runtime) -> None:
    with pytest.raises(EmptyPromptError):
        mini_runtime.generate([])


@pytest.mark.parametrize(("width", "height"), [(60, 64), (64, 0), (-8, 64), (64, 63)])
def test_a_size_that_cannot_be_made_is_refused(mini_runtime: Runtime, width: int, height: int) -> None:
    with pytest.raises(InvalidSizeError) as caught:
        mini_runtime.generate("a star", width=width, height=height)
    assert (caught.value.width, caught.value.height, caught.value.multiple) == (width, height, 8)
    assert "multiples of 8; the nearest is" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "the number of steps"),
        ({"count": 0}, "the count"),
        ({"seed": -1}, "the seed"),
        ({"seed": 2**32, "count": 1}, "the seed"),
        ({"guidance_scale": float("nan")}, "the guidance scale"),
    ],
)
def test_other_settings_are_checked(mini_runtime: Runtime, settings: dict[str, float], named: str) -> None:
    with pytest.raises(SettingError) as caught:
        mini_runtime.generate("a star", **settings)  # pyright: ignore[reportArgumentType]
    assert caught.value.setting == named


def test_a_closed_runtime_says_so(tmp_path: Path) -> None:
    del tmp_path
    runtime = Runtime.load("mini", device="cpu")
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeClosedError):
        runtime.generate("a star")
