"""Buckets: which sizes there are, and how a picture comes into one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapterhub.errors import ConfigError
from adapterhub.training.buckets import Buckets, Placement

SDXL = Buckets.scaled(1024, multiple=32)
SIDES = st.integers(8, 16_384)


def test_the_sizes_are_sdxl_s() -> None:
    expected = set()
    for width in range(512, 2049, 64):
        height = min(2048, 1024 * 1024 // width // 64 * 64)
        if height >= 512:
            expected |= {(width, height), (height, width)}
    assert set(SDXL.sizes) == expected
    assert {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640), (512, 2048)} <= expected


def test_the_mini_base_has_the_same_shapes_in_small() -> None:
    mini = Buckets.scaled(64, multiple=16)
    assert (mini.step, mini.min_side, mini.max_side) == (16, 32, 128)
    assert {(64, 64), (80, 48), (32, 128)} <= set(mini.sizes)
    assert mini.place(72, 72).bucket == (64, 64)
    assert Buckets.square(64).place(200, 50).bucket == (64, 64)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.booleans())
def test_every_picture_has_a_bucket_that_it_covers(width: int, height: int, no_upscale: bool) -> None:
    buckets = Buckets.scaled(1024, multiple=32, no_upscale=no_upscale)
    placement = buckets.place(width, height)
    to_width, to_height = placement.bucket
    assert to_width % 64 == to_height % 64 == 0
    assert min(placement.bucket) >= 64
    assert max(placement.bucket) <= 2048
    assert to_width * to_height <= 1024 * 1024
    left, top = placement.crop
    assert 0 <= left <= width * placement.scale - to_width + 1
    assert 0 <= top <= height * placement.scale - to_height + 1
    assert min(left, top) == 0
    assert 0 < placement.kept <= 1 + 1e-9
    if no_upscale and min(width, height) >= 64:
        assert placement.scale <= 1
    turned = buckets.place(height, width).bucket
    assert turned == (to_height, to_width) or width == height


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES)
def test_no_other_bucket_is_nearer_in_aspect(width: int, height: int) -> None:
    buckets = Buckets.scaled(1024, multiple=32, no_upscale=False)

    def error(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(width / height))

    assert error(buckets.place(width, height).bucket) <= min(map(error, buckets.sizes)) + 1e-9


def test_a_small_picture_gets_a_smaller_bucket_unless_it_may_be_enlarged() -> None:
    assert SDXL.place(700, 500).bucket == (640, 448)
    assert Buckets.scaled(1024, multiple=32, no_upscale=False).place(700, 500).bucket == (1216, 832)
    assert SDXL.place(40, 700).bucket == (64, 640)  # less than a step cannot be


def test_size_ids_say_what_was_done() -> None:
    placement = Placement((3000, 2000), (1152, 896))
    # Scaled by 896 / 2000 to 1344 x 896, of which 96 columns fall away on each side.
    assert placement.size_ids == (2000, 3000, 0, 96, 896, 1152)
    assert placement.kept == pytest.approx(1152 / 1344)


def test_the_crop_is_the_one_that_is_recorded() -> None:
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (64, 1))  # column x has the value 2 x
    placement = Placement((120, 64), (64, 64))
    cut = np.array(placement.apply(Image.fromarray(np.stack([ramp] * 3, axis=2))))
    left, _ = placement.crop
    assert left == 28
    assert cut[0, :, 0].tolist() == [2 * (left + x) for x in range(64)]
    flipped = np.array(placement.apply(Image.fromarray(ramp), is_flipped=True))
    assert flipped[0].tolist() == cut[0, ::-1, 0].tolist()


def test_a_mask_keeps_its_edge() -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    small = np.array(Placement((128, 128), (64, 64)).apply(Image.fromarray(mask)))
    assert small[:, :31].max() == 0
    assert small[:, 33:].min() == 255


def test_numbers_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        Buckets(resolution=3000, step=64, min_side=500, max_side=2048)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["min_side", "resolution"]
