"""Training again: what it needs outlives a stop, another directory, and a model of scores that is gone."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub.errors import MissingExtraError, ScoreModelError, TrainingStoppedError
from adapterhub.training.config import TrainConfig
from adapterhub.training.progress import Progress
from adapterhub.training.retrain import plan_retrain, retrain
from adapterhub.training.train import train
from adapterhub_registry.store import Registry
from tests.conftest import MINI

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


def test_a_base_is_found_from_another_directory_and_by_its_identity(
    pictures: Pictures, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(home)
    shutil.copytree(MINI, tmp_path / "copied")
    monkeypatch.chdir(tmp_path)
    train(config(pictures(), base="copied"), registry=registry)
    monkeypatch.chdir(home)
    assert plan_retrain("me/ink", registry=registry).config.base.model == str(tmp_path / "copied")
    shutil.rmtree(tmp_path / "copied")
    found = plan_retrain("me/ink", registry=registry)
    assert (found.config.base.model, found.differences) == ("mini", [])


def test_a_model_of_scores_that_is_gone_is_left_out_and_named(
    pictures: Pictures, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(home)
    train(config(pictures()), registry=registry)
    (file,) = (home / "runs").glob("*/*/settings.json")
    kept = json.loads(file.read_text())
    kept["adapter"]["validation"] |= {"prompts": ["a blob"], "clip": str(tmp_path / "gone")}
    file.write_text(json.dumps(kept))
    found = plan_retrain("me/ink", registry=registry)
    assert found.config.adapters[0].validation.clip is None
    (difference,) = found.differences
    assert "nothing is scored by clip, as it was" in difference
    assert str(tmp_path / "gone") in difference
    with pytest.raises(ScoreModelError, match="other"):
        plan_retrain("me/ink", registry=registry, overrides=[f"validation.clip={tmp_path / 'other'}"])
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingExtraError):
        plan_retrain("me/ink", registry=registry, overrides=['group.trackers=["trackio"]'])
