"""What differs between two pictures: settings by name, and pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapterhub_registry.differences import compare_pictures, compare_pixels, differing_settings
from adapterhub_registry.errors import RecordError
from adapterhub_registry.record import picture_with_record
from tests.registry.test_record import NOISE, RECORD


def used(reference: str, weight: float, digits: str = "ab", **more: object) -> dict[str, object]:
    strengths = {"unet": weight, "text_encoder": weight}
    return {"reference": reference, "digest": f"sha256:{digits * 32}", "strengths": strengths, **more}


def test_every_setting_that_differs_is_named_with_both_values() -> None:
    other = replace(
        RECORD,
        seed=8,
        negative_prompt="blue",
        scheduler={"class": "DDIMScheduler", "beta_start": 0.00085, "eta": 0},
        versions={"torch": "2.14.0"},
        schedule={"kind": "switch", "every": 5},
    )
    assert differing_settings(RECORD, other) == {
        "negative_prompt": (None, "blue"),
        "schedule.every": (None, 5),
        "schedule.kind": (None, "switch"),
        "scheduler.class": ("EulerDiscreteScheduler", "DDIMScheduler"),
        "scheduler.eta": (None, 0),
        "seed": (7, 8),
        "versions.torch": ("2.13.0", "2.14.0"),
    }
    assert differing_settings(other, other) == {}


def test_adapters_are_matched_by_name() -> None:
    first = [used("me/ink@1", 0.8), used("me/corgi@2", 1.0), used("me/ink@1", -0.1), used("me/old@1", 1.0)]
    second = [used("me/corgi@2", 0.5), used("me/ink@3", 0.8, "cd"), used("me/ink@1", -0.1, blocks="mid=0")]
    found = differing_settings(replace(RECORD, composition=first), replace(RECORD, composition=second))
    assert found == {
        "composition.me/corgi.strengths.text_encoder": (1.0, 0.5),
        "composition.me/corgi.strengths.unet": (1.0, 0.5),
        "composition.me/ink (2).blocks": (None, "mid=0"),
        "composition.me/ink.digest": ("sha256:" + "ab" * 32, "sha256:" + "cd" * 32),
        "composition.me/ink.version": ("1", "3"),
        "composition.me/old": ({"version": "1", **{k: first[3][k] for k in ("digest", "strengths")}}, None),
        "composition.order": (["me/ink", "me/corgi", "me/ink (2)"], ["me/corgi", "me/ink", "me/ink (2)"]),
    }


def test_pixels_are_measured_as_numpy_measures_them() -> None:
    noise = Image.effect_noise(NOISE.size, 20).convert("RGB")
    one, other = (np.asarray(picture, dtype=np.float64) for picture in (NOISE, noise))
    found = compare_pixels(NOISE, noise)
    assert found.largest == np.abs(one - other).max()
    assert found.mean == pytest.approx(np.abs(one - other).mean())
    assert found.psnr == pytest.approx(10 * np.log10(255**2 / ((one - other) ** 2).mean()))
    assert not found.is_equal
    same = compare_pixels(NOISE, NOISE.copy())
    assert (same.is_equal, same.largest, same.mean, same.psnr) == (True, 0, 0, None)


def test_pictures_of_other_sizes_are_not_equal() -> None:
    found = compare_pixels(NOISE, NOISE.crop((0, 0, 8, 8)))
    assert (found.is_equal, found.first_size, found.second_size) == (False, (24, 16), (8, 8))
    assert (found.largest, found.mean, found.psnr) == (None, None, None)


def test_how_files_were_written_differs_too(tmp_path: Path) -> None:
    for name, quality in (("PNG", None), ("JPEG", 50), ("WEBP", None)):
        (tmp_path / name).write_bytes(picture_with_record(NOISE, RECORD, name, quality=quality))
    found = compare_pictures(tmp_path / "PNG", tmp_path / "JPEG")
    assert found.settings["encoding.format"] == ("PNG", "JPEG")
    assert found.settings["encoding.quality"] == (None, 50)
    assert not found.pixels.is_equal
    found = compare_pictures(tmp_path / "PNG", tmp_path / "WEBP")
    assert found.settings == {"encoding.format": ("PNG", "WEBP")}
    assert found.pixels.is_equal


def test_a_picture_without_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(picture_with_record(NOISE, RECORD))
    NOISE.save(tmp_path / "y.png")
    with pytest.raises(RecordError) as caught:
        compare_pictures(tmp_path / "x.png", tmp_path / "y.png")
    assert caught.value.path == tmp_path / "y.png"
