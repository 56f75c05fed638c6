"""Encoded pictures and captions: made anew exactly where something changed, and deleted without harm."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.training.buckets import Buckets
from adapterhub.training.cache import EncodingCache, encoding_cache
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.dataset import Source, read_sources
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.rows import Encoder
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

Pictures = Callable[..., Path]


def test_exactly_what_changed_is_encoded_again(pictures: Pictures, tmp_path: Path) -> None:
    folder, cache = pictures(3), EncodingCache(tmp_path / "encodings")
    pipeline = load_pipeline(find_base("mini"), device="cpu", dtype="float32")

    def encode(resolution: int = 64) -> tuple[int, int]:
        """Return how many pictures and captions were encoded, and not read."""
        made: list[int] = []
        dataset = read_sources([Source(folder)], buckets=Buckets.square(resolution))
        encoder = Encoder(pipeline, cache)
        before = cache.misses
        for item in dataset.examples:
            encoder.picture(item, flipped=False, floor=0.0)
        made.append(cache.misses - before)
        for item in dataset.examples:
            encoder.caption(item.caption, chunks=1)
        return made[0], cache.misses - before - made[0]

    assert encode() == (3, 3)
    assert encode() == (0, 0)
    with Image.open(folder / "1.png") as opened:
        picture = opened.convert("RGB")
    picture.putpixel((5, 5), (1, 2, 3))
    picture.save(folder / "1.png")
    assert encode() == (1, 0)
    (folder / "2.txt").write_text("inkwash blob Z")
    assert encode() == (0, 1)
    assert encode(48) == (3, 0)
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.bias[0] += 1e-3
    assert encode() == (3, 0)
    with torch.no_grad():
        pipeline.text_encoder_2.text_projection.weight[0, 0] += 1e-3
    assert encode() == (0, 3)
    assert encode() == (0, 0)


def test_what_was_not_used_for_longest_is_deleted_first(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path)
    for number in range(4):
        cache.get([number], lambda: {"mean": torch.zeros(100)})
    paths = sorted(tmp_path.glob("??/*.safetensors"))
    for age, path in enumerate(paths):
        os.utime(path, (1e9 - age, 1e9 - age))
    size = paths[0].stat().st_size
    assert cache.collect(max_bytes=3 * size).entries == 1
    assert [path.exists() for path in paths] == [True, True, True, False]
    assert cache.collect(older_than_s=1e12).entries == 0
    for number in range(4):  # it is used now, but for the one that is gone
        cache.get([number], lambda: {"mean": torch.zeros(100)})
    assert (cache.hits, cache.misses) == (3, 5)
    assert cache.collect(older_than_s=3600).entries == 0
    assert cache.collect(older_than_s=0).entries == 4
    assert cache.size().entries == 0


DELETER = """
import sys
from pathlib import Path
from adapterhub.training.cache import EncodingCache
cache = EncodingCache(Path(sys.argv[1]))
deleted = 0
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    deleted += cache.collect(older_than_s=0).entries
print(deleted)
"""


def test_deleting_while_a_training_goes_on_changes_no_byte(
    pictures: Pictures, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (DataConfig(pictures(4)),)
    adapter = AdapterConfig(name="me/ink", data=data, steps=6, batch_size=2, network=NetworkConfig(rank=4))
    config = TrainConfig(BaseConfig("mini", device="cpu"), (adapter,))
    calm, disturbed = Registry(tmp_path / "calm"), Registry(home)
    (expected,) = train(config, registry=calm)
    monkeypatch.setattr("adapterhub.training.rows.REMEMBERED_BYTES", 0)  # so that files are read in each pass
    end = tmp_path / "end"
    words = [sys.executable, "-c", DELETER, encoding_cache(home).directory, end]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as deleter:
        assert deleter.stdout is not None
        assert deleter.stdout.readline() == "ready\n"
        (version,) = train(config, registry=disturbed)
        end.touch()
        assert int(deleter.stdout.readline()) > 8  # more than there are pictures and captions
    assert version.digest == expected.digest


def test_a_cold_and_a_warm_cache_give_the_same_file(pictures: Pictures, home: Path, tmp_path: Path) -> None:
    data = (DataConfig(pictures(4), flip=True, caption_dropout=0.2),)
    adapter = AdapterConfig(name="me/ink", data=data, steps=6, batch_size=2, network=NetworkConfig(rank=4))
    config = TrainConfig(BaseConfig("mini", device="cpu"), (adapter,))
    cold, warm = Registry(home), Registry(tmp_path / "warm")
    (expected,) = train(config, registry=cold)
    shutil.copytree(encoding_cache(home).directory, encoding_cache(warm.home).directory)
    (version,) = train(config, registry=warm)
    assert encoding_cache(warm.home).size() == encoding_cache(home).size()
    assert cold.payload(expected).read_bytes() == warm.payload(version).read_bytes()


def test_pictures_that_change_once_they_are_encoded_change_nothing(
    pictures: Pictures, home: Path, tmp_path: Path
) -> None:
    folder = pictures(4)
    adapter = AdapterConfig(name="me/ink", data=(DataConfig(folder),), steps=3, network=NetworkConfig(rank=4))
    config = TrainConfig(BaseConfig("mini", device="cpu"), (adapter,))
    calm, disturbed = Registry(tmp_path / "calm"), Registry(home)
    (expected,) = train(config, registry=calm)
    (version,) = train(
        config, registry=disturbed, on_progress=lambda _: (folder / "0.png").write_bytes(b"gone")
    )
    assert version.digest == expected.digest
