"""Training again: what it needs outlives a stop, another directory, and a model of scores that is gone."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub.errors import TrainingStoppedError
from adapterhub.training.config import TrainConfig
from adapterhub.training.progress import Progress
from adapterhub.training.retrain import plan_retrain, retrain
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

Pictures = Callable[..., Path]


def config(folder: Path, *, base: str = "mini") -> TrainConfig:
    file = folder.parent / "ink.toml"
    file.write_text(
        f"""base = {{ model = "{base}", device = "cpu", threads = 1 }}
[[adapters]]
name = "me/ink"
data = "{folder}"
steps = 2
batch_size = 1
network.rank = 2
"""
    )
    return TrainConfig.from_toml(file)


def test_a_retraining_that_is_stopped_keeps_what_it_needs(pictures: Pictures, home: Path) -> None:
    registry = Registry(home)
    train(config(pictures()), registry=registry)

    def stop(progress: Progress) -> None:
        if progress.step == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStoppedError):
        retrain("me/ink", registry=registry, on_progress=stop)
    assert plan_retrain("me/ink", registry=registry).differences == []
    assert retrain("me/ink", registry=registry, resume="latest").is_same
