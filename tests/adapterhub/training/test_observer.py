"""Looking at a training: it changes no byte, and what is seen is what is there."""

import io
import json
import re
import signal
import sys
import xml.etree.ElementTree as ET
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image, ImageDraw
from safetensors.torch import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.errors import ConfigError, MissingExtraError, TrackerError, TrainingStoppedError
from adapterhub.randomness import keyed_normal
from adapterhub.training.adapter_config import AdapterConfig, DataConfig, ValidationConfig
from adapterhub.training.cache import EncodingCache
from adapterhub.training.config import BaseConfig, GroupConfig, TrainConfig
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.plan import make_plan
from adapterhub.training.rows import Encoder
from adapterhub.training.run import Progress
from adapterhub.training.runs import find_runs, run_directory
from adapterhub.training.trackers import Trackers, require_trackers
from adapterhub.training.train import train
from adapterhub.training.validation import Validation
from adapterhub_registry.store import Registry

SEEN = ValidationConfig(("inkwash blob",), every=2, held_out=0.34, loss_every=2, keep_best=True)


def config(folder: Path, validation: ValidationConfig, **group: Any) -> TrainConfig:
    adapter = AdapterConfig(
        name="me/ink",
        data=(DataConfig(folder),),
        steps=4,
        batch_size=2,
        accumulation=2,
        seed=3,
        save_every=1,
        network=NetworkConfig(rank=4, dropout=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        validation=validation,
    )
    return TrainConfig(BaseConfig("mini", device="cpu"), (adapter,), GroupConfig(**group))


def make_pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((8, 8 + 4 * number, 40, 56), fill=(60 * number, 20, 90))
        picture.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"inkwash blob {number}")
    return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training that was measured, drawn, tracked, stopped and gone on with."""
    place = tmp_path_factory.mktemp("seen")
    folder, registry = make_pictures(place / "pictures"), Registry(place / "home")
    wanted = config(folder, SEEN, trackers=("tensorboard",))
    told: list[Progress] = []

    def stop(progress: Progress) -> None:
        told.append(progress)
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStoppedError):
        train(wanted, registry=registry, on_progress=stop)
    (stopped,) = find_runs(registry.home)
    (version,) = train(wanted, registry=registry, resume="latest", on_progress=told.append)
    (done,) = find_runs(registry.home)
    return SimpleNamespace(
        place=place,
        folder=folder,
        registry=registry,
        told=told,
        stopped=stopped,
        done=done,
        version=version,
        directory=run_directory(registry.home, done.run),
    )


def documents(registry: Registry, version: Any) -> dict[str, bytes]:
    return {item.name: registry.read(item.sha256) for item in registry.documents(version)}


def test_measuring_drawing_and_stopping_change_no_byte(seen: SimpleNamespace, tmp_path: Path) -> None:
    blind = Registry(tmp_path / "blind")
    state = torch.get_rng_state()
    (version,) = train(config(seen.folder, ValidationConfig(held_out=0.34)), registry=blind)
    assert torch.equal(torch.get_rng_state(), state)
    assert blind.read(version.files[0].sha256) == seen.registry.read(seen.version.files[0].sha256)
    assert version.digest == seen.version.digest
    trained, held = (
        [row["file"] for row in json.loads(documents(blind, version)["data.json"])["pictures"] if rule(row)]
        for rule in (lambda row: "held_out" not in row, lambda row: "held_out" in row)
    )
    assert (len(trained), len(held)) == (2, 1)


def test_a_run_tells_its_state(seen: SimpleNamespace) -> None:
    assert (seen.stopped.state, seen.done.state) == ("stopped", "done")
    assert [one.adapters[0].step for one in (seen.stopped, seen.done)] == [3, 4]
    (adapter,) = seen.done.adapters
    assert (adapter.version, adapter.error, adapter.notes) == (1, "", [])
    assert [step for step, _ in adapter.measured] == [0, 2, 4]
    assert adapter.best_step == min(adapter.measured[1:], key=lambda point: point[1])[0]
    losses = json.loads(documents(seen.registry, seen.version)["run.json"])["losses"]
    assert [loss for _, loss in adapter.curve] == pytest.approx(losses, abs=1e-6)


def test_progress_tells_of_speed_and_memory(seen: SimpleNamespace) -> None:
    assert [progress.step for progress in seen.told] == [1, 2, 3, 4]
    for progress in seen.told:
        assert progress.pictures_per_s == pytest.approx(4 * progress.steps_per_s)  # 2 passes of 2 pictures
        assert progress.memory_bytes > 0
    assert seen.told[-1].seconds_left == 0


def test_the_validation_loss_is_the_error_at_fixed_noise(seen: SimpleNamespace) -> None:
    base = find_base("mini")
    pipeline = load_pipeline(base, device="cpu", dtype="float32")
    encoder = Encoder(pipeline, EncodingCache(seen.registry.home / "cache" / "encodings"))
    (group,) = make_plan(config(seen.folder, SEEN), base, registry=seen.registry)
    (item,) = group.items
    validation = Validation(
        pipeline,
        item.dataset.held_out,
        reading=item.reading,
        encoder=encoder,
        objective=Objective(noise_offset=0.1, weighting="debiased"),
    )
    (example,) = item.dataset.held_out
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    steps = torch.tensor([125, 375, 625, 875])
    states, _, pooled, _ = pipeline.encode_prompt(example.caption, do_classifier_free_guidance=False)
    with torch.no_grad():
        pixels = example.load()[0][None]
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        noise = torch.stack(
            [keyed_normal((4, 16, 16), 0, "validation", example.sha256, int(step)) for step in steps]
        )
        predicted = pipeline.unet(
            scheduler.add_noise(latents.expand(4, -1, -1, -1), noise, steps),  # pyright: ignore[reportArgumentType]
            steps,
            encoder_hidden_states=states.expand(4, -1, -1),
            added_cond_kwargs={
                "text_embeds": pooled.expand(4, -1),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 4),
            },
        ).sample
    expected = torch.nn.functional.mse_loss(predicted, noise).item()
    assert validation.measure() == pytest.approx(expected, rel=1e-5)
    measured = dict(seen.done.adapters[0].measured)
    assert measured[0] == pytest.approx(expected, rel=1e-5)

    # Stock diffusers with the files gives what was measured on the live network.
    files = {4: seen.directory / "me--ink.safetensors"}
    files[seen.done.adapters[0].best_step] = seen.directory / "me--ink" / "best.safetensors"
    for step, file in files.items():
        pipeline.load_lora_weights(file)
        assert validation.measure() == pytest.approx(measured[step], rel=1e-4)
        assert validation.measure() != pytest.approx(measured[0], rel=1e-4)
        pipeline.unload_lora_weights()


def test_samples_are_drawn_over_time_and_put_on_a_sheet(seen: SimpleNamespace) -> None:
    folder = seen.directory / "me--ink"
    names = sorted(path.name for path in (folder / "samples").iterdir())
    assert names == [f"step-0000000{step}-1.png" for step in (0, 2, 4)]
    pictures = [(folder / "samples" / name).read_bytes() for name in names]
    assert len(set(pictures)) == 3
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.height > 3 * 128
    assert seen.done.adapters[0].samples == "me--ink/samples.png"
    (preview,) = seen.registry.previews(seen.version)
    stored = Image.open(io.BytesIO(seen.registry.read(preview.sha256)))
    assert stored.tobytes() == Image.open(io.BytesIO(pictures[-1])).tobytes()


def test_tensorboard_has_the_numbers_and_the_pictures(seen: SimpleNamespace) -> None:
    read = EventAccumulator(str(seen.directory / "tensorboard"), size_guidance={"images": 0})
    read.Reload()
    losses = json.loads(documents(seen.registry, seen.version)["run.json"])["losses"]
    scalars = read.Scalars("loss/me/ink")
    assert [event.step for event in scalars] == [2, 4, 6, 8]  # passes
    assert [event.value for event in scalars] == pytest.approx(losses, abs=1e-5)
    assert [event.value for event in read.Scalars("step/me/ink")] == [1, 2, 3, 4]
    values = [event.value for event in read.Scalars("validation_loss/me/ink")]
    assert values == pytest.approx([loss for _, loss in seen.done.adapters[0].measured])
    shown = read.Images("samples/me/ink")
    assert len(shown) == 3
    last = Image.open(io.BytesIO(shown[-1].encoded_image_string)).convert("RGB")
    with Image.open(seen.directory / "me--ink" / "samples" / "step-00000004-1.png") as drawn:
        assert last.tobytes() == drawn.convert("RGB").tobytes()


class Addresses(HTMLParser):
    """Collects what a page would load, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_the_report_needs_nothing_else_and_lies_beside_the_version(seen: SimpleNamespace) -> None:
    kept = documents(seen.registry, seen.version)
    page = kept["report.html"].decode()
    assert (seen.directory / seen.done.adapters[0].report).read_text() == page
    assert set(seen.version.lineage) == {"operation", "config", "data", "run"}
    addresses = Addresses()
    addresses.feed(page)
    assert len(addresses.found) == 3
    for address in addresses.found:
        kind, content = address.split(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(b64decode(content))).size == (64, 64)
    assert "url(" not in page
    assert "@import" not in page
    (chart,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    shapes = [node.tag for node in ET.fromstring(chart).iter()]  # noqa: S314 - it is our own
    assert (shapes.count("circle"), shapes.count("polyline")) == (3, 3)
    trained = sum(value.numel() for value in load(seen.registry.read(seen.version.files[0].sha256)).values())
    assert f"{trained:,}" in page
    for private in (str(seen.place), "localhost"):
        assert private not in page


def test_what_cannot_be_drawn_or_written_is_noted_and_ends_no_training(
    seen: SimpleNamespace, home: Path
) -> None:
    registry, wanted = Registry(home), config(seen.folder, ValidationConfig(("a blob",), every=1))
    wanted = replace(wanted, adapters=(replace(wanted.adapters[0], steps=1, accumulation=1),))
    (group,) = make_plan(wanted, find_base("mini"), registry=registry)
    run_directory(home, group.run).mkdir(parents=True)
    (run_directory(home, group.run) / "me--ink").write_text("in the way")
    (version,) = train(wanted, registry=registry)
    (status,) = find_runs(home)
    assert (version.number, status.state) == (1, "done")
    assert [note.split(":")[1] for note in status.adapters[0].notes] == [
        " the settings could not be kept for a retraining",
        " the samples could not be drawn",
        " the samples could not be drawn",
        " the report could not be written",
    ]


def test_a_tracker_that_is_not_installed_or_cannot_start_ends_it_before_it_begins(
    seen: SimpleNamespace, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingExtraError, match=r"adapterhub\[trackers\]"):
        train(config(seen.folder, SEEN, trackers=("trackio",)), registry=Registry(home))
    assert not (home / "runs").exists()
    (tmp_path / "no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError):
        require_trackers(["no_package"])
    (tmp_path / "tensorboard").write_text("in the way")
    with (
        pytest.raises(TrackerError, match="the tracker tensorboard cannot be started"),
        Trackers(["tensorboard"], run="me--ink", directory=tmp_path, config={}),
    ):
        pass
    with pytest.raises(ConfigError, match='trackers are any of tensorboard, wandb, trackio, not "comet"'):
        GroupConfig(trackers=("comet",))
    with pytest.raises(ConfigError, match="keep_best compares measurements, but loss_every is 0"):
        ValidationConfig(held_out=0.1, keep_best=True)
