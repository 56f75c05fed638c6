"""Sweeps end to end: candidates equal adapters alone, losers leave, and a resume changes nothing."""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load

from adapterhub.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    ScoreModelError,
    TrainingError,
    TrainingStoppedError,
)
from adapterhub.training.config import TrainConfig
from adapterhub.training.outlook import look_ahead
from adapterhub.training.progress import Progress
from adapterhub.training.runs import find_run, run_directory
from adapterhub.training.sweep import SweepResult, plan_sweep, sweep
from adapterhub.training.sweep_config import SweepConfig
from adapterhub.training.train import plan, train
from adapterhub_registry.store import Registry

Pictures = Callable[..., Path]
SWEEP = """
[sweep]
eta = 2
[sweep.grid]
network.rank = [2, 4]
optimizer.learning_rate = [1e-4, 2e-3]
"""


def config_file(folder: Path, extra: str = SWEEP, *, steps: int = 8) -> Path:
    file = folder.parent / "ink.toml"
    file.write_text(
        f"""base = {{ model = "mini", device = "cpu", threads = 1 }}
group.max_adapters = 3
[[adapters]]
name = "me/ink"
data = "{folder}"
steps = {steps}
batch_size = 1
seed = 3
validation.held_out = 0.25
validation.prompts = ["inkwash blob"]
{extra}"""
    )
    return file


def told(result: SweepResult) -> list[tuple[object, ...]]:
    return [(one.label, one.state, one.step, one.loss) for one in result.outcomes]


def test_the_best_candidate_is_registered_and_equals_its_adapter_alone(
    pictures: Pictures, home: Path, tmp_path: Path
) -> None:
    file = config_file(pictures())
    config = SweepConfig.from_toml(file)
    registry = Registry(home)
    result = sweep(config, registry=registry)
    best, second, *others = result.outcomes
    assert [one.state for one in result.outcomes] == [
        "kept",
        "stopped early",
        "stopped early",
        "stopped early",
    ]
    assert [one.step for one in result.outcomes] == [8, 4, 2, 2]
    assert best.version is not None
    assert [item.number for item in registry.versions("me/ink")] == [1]
    assert best.loss is not None
    assert others[0].loss is not None
    assert others[0].loss <= (others[1].loss or 0)

    values = [f"adapters.0.{key}={json.dumps(value)}" for key, value in best.values.items()]
    alone = Registry(tmp_path / "alone")
    plain = file.with_name("plain.toml")
    plain.write_text(file.read_text().partition("[sweep]")[0])
    values.append("adapters.0.validation.prompts=[]")
    (version,) = train(TrainConfig.from_toml(plain, overrides=values), registry=alone)
    documents = [
        {item.name: one.read(item.sha256) for item in one.documents(own)}
        for one, own in ((alone, version), (registry, best.version))
    ]
    assert documents[0]["config.json"] == documents[1]["config.json"]
    solo, ours = (
        load(one.read(own.files[0].sha256)) for one, own in ((alone, version), (registry, best.version))
    )
    ups = [name for name in solo if "lora_B" in name]  # zero at the start
    change = sum(float(solo[name].square().sum()) for name in ups) ** 0.5
    gap = sum(float((solo[name] - ours[name]).square().sum()) for name in ups) ** 0.5
    assert gap + change > 0
    assert gap <= 1e-3 * change

    directory = run_directory(home, result.run)
    for status in find_run(home, result.run).adapters:
        record = directory / f"me--ink--{status.candidate}"
        assert json.loads((record / "run.json").read_text())["sweep"]["values"] == status.values
        assert (directory / f"{record.name}.safetensors").is_file()
    assert result.sheet is not None
    with Image.open(result.sheet) as sheet:
        assert sheet.height > 4 * 128
    page = result.report.read_text()
    assert page.count("data:image/jpeg") == 4
    assert "kept as me/ink@1" in page
    assert second.label in page


def test_a_sweep_that_was_stopped_goes_on_to_the_same_bytes(pictures: Pictures, tmp_path: Path) -> None:
    config = SweepConfig.from_toml(config_file(pictures()), overrides=["adapters.0.validation.prompts=[]"])
    stops = 3, 7, 9  # at the start, at a rung where some wait, and between two
    whole = Registry(tmp_path / "whole")
    wanted = sweep(config, registry=whole)
    registry = Registry(tmp_path / "stopped")
    seen = 0

    def stop(_: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen in stops:
            signal.raise_signal(signal.SIGINT)

    for number in range(len(stops)):
        with pytest.raises(TrainingStoppedError):
            sweep(config, registry=registry, resume="latest" if number else None, on_progress=stop)
    result = sweep(config, registry=registry, resume="latest", on_progress=stop)
    assert told(result) == told(wanted)
    assert [one.digest for one in result.versions] == [one.digest for one in wanted.versions]


def test_candidates_that_are_trained_and_wait_for_the_others_are_not_trained_again(
    pictures: Pictures, home: Path
) -> None:
    grid = "[sweep]\nhalving = false\n[sweep.grid]\noptimizer.learning_rate = [1e-4, 1e-3, 2e-3]\n"
    file = config_file(pictures(), grid, steps=2)
    config = SweepConfig.from_toml(
        file, overrides=["group.max_adapters=2", "adapters.0.validation.prompts=[]"]
    )
    registry = Registry(home)
    seen: list[tuple[str, int]] = []

    def stop(progress: Progress) -> None:
        seen.append((progress.name, progress.step))
        if seen[-1] == ("me/ink#3", 1):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStoppedError):
        sweep(config, registry=registry, on_progress=stop)
    result = sweep(config, registry=registry, resume="latest", on_progress=stop)
    assert sorted(seen) == [(f"me/ink#{number}", step) for number in (1, 2, 3) for step in (1, 2)]
    assert sorted((one.state, one.step) for one in result.outcomes) == [
        ("kept", 2),
        ("not kept", 2),
        ("not kept", 2),
    ]
    assert [item.number for item in registry.versions("me/ink")] == [1]


@pytest.mark.parametrize("override", ["adapters.0.network.algorithm=dora", "group.executor=sequential"])
def test_candidates_are_trained_one_after_another_if_they_must_or_are_asked_to(
    pictures: Pictures, home: Path, override: str
) -> None:
    grid = "[sweep]\nhalving = false\n[sweep.grid]\noptimizer.learning_rate = [1e-4, 1e-3]\n"
    file = config_file(pictures(), grid, steps=2)
    overrides = [override, "adapters.0.validation.prompts=[]", "adapters.0.network.rank=2"]
    config = SweepConfig.from_toml(file, overrides=overrides)
    seen: list[str] = []
    registry = Registry(home)
    result = sweep(config, registry=registry, on_progress=lambda progress: seen.append(progress.name))
    assert seen == ["me/ink#1", "me/ink#1", "me/ink#2", "me/ink#2"]
    assert {one.state for one in result.outcomes} == {"kept", "not kept"}


def test_fewer_slots_than_a_sweep_was_begun_with_are_refused(pictures: Pictures, home: Path) -> None:
    grid = "[sweep.grid]\noptimizer.learning_rate = [1e-4, 1e-3, 2e-3]\n"
    file = config_file(pictures(), grid, steps=4)
    plain = "adapters.0.validation.prompts=[]"
    registry = Registry(home)

    def stop(progress: Progress) -> None:
        if progress.name == "me/ink#1":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStoppedError):
        sweep(SweepConfig.from_toml(file, overrides=[plain]), registry=registry, on_progress=stop)
    fewer = SweepConfig.from_toml(file, overrides=[plain, "group.max_adapters=2"])
    for begin in (plan_sweep, sweep):
        with pytest.raises(CheckpointError, match=r"begun with 3 adapters .*max_adapters to at least 3"):
            begin(fewer, registry=registry, resume="latest")


def test_a_candidate_that_diverges_is_no_failure_of_the_sweep(pictures: Pictures, home: Path) -> None:
    extra = "sweep.halving = false\nsweep.grid.optimizer.learning_rate = [1e30, 1e-3]\n"
    folder = pictures()
    text = config_file(folder, "", steps=4).read_text()
    file = folder.parent / "wild.toml"
    file.write_text(extra + text)
    registry = Registry(home)
    overrides = ["adapters.0.validation.prompts=[]"]
    result = sweep(SweepConfig.from_toml(file, overrides=overrides), registry=registry)
    assert [(one.label, one.state) for one in result.outcomes] == [
        ("me/ink#2", "kept"),
        ("me/ink#1", "failed"),
    ]
    assert "learning_rate" in result.outcomes[1].error
    assert find_run(home, result.run).state == "done"
    wild = SweepConfig.from_toml(
        file, overrides=[*overrides, "sweep.grid.optimizer.learning_rate=[1e30, 1e31]"]
    )
    with pytest.raises(TrainingError, match="me/ink#"):
        sweep(wild, registry=registry)


def test_a_plan_says_where_candidates_are_compared(pictures: Pictures, home: Path) -> None:
    config = SweepConfig.from_toml(config_file(pictures()))
    group = plan_sweep(config, registry=Registry(home))
    assert [item.label for item in group.items] == [f"me/ink#{number}" for number in range(1, 5)]
    assert [one.stops(config.rules.parts(4)) for one in config.candidates] == [[2, 4, 8]] * 4
    assert config.steps == (8 + 4 + 2 + 2, 4 * 8)
    assert len({id(item.dataset) for item in group.items}) == 1
    assert not (home / "runs").exists()


def test_every_plan_asks_for_the_models_and_trackers_that_are_named(
    pictures: Pictures, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, file = Registry(home), config_file(pictures())
    gone = json.dumps([str(tmp_path / "gone")])
    with pytest.raises(ScoreModelError, match="gone"):
        plan_sweep(
            SweepConfig.from_toml(file, overrides=[f"sweep.grid.validation.clip={gone}"]), registry=registry
        )
    monkeypatch.setitem(sys.modules, "trackio", None)
    asked = ['group.trackers=["trackio"]']
    with pytest.raises(MissingExtraError):
        plan_sweep(SweepConfig.from_toml(file, overrides=asked), registry=registry)
    file.write_text(file.read_text().partition("[sweep]")[0])
    config = TrainConfig.from_toml(file, overrides=asked)
    for make in (plan, look_ahead):
        with pytest.raises(MissingExtraError):
            make(config, registry=registry)


def problems_of(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        SweepConfig.from_toml(file, overrides=overrides)
    return [text.removeprefix(f"{file}:") for text in caught.value.problems]


def test_everything_wrong_with_a_sweep_is_told_where_it_stands(pictures: Pictures) -> None:
    grid = """[sweep]
eta = 1
[sweep.grid]
network.rank = [4, 0,
  "x"]
data.caption_dropout = [0.0, 2.0]
netwrk.alpha = [1.0]
seed = []
steps = 5
name = ["me/a", "me/b"]
"""
    assert problems_of(config_file(pictures(), grid)) == [
        "12: sweep.eta must be at least 2, not 1",
        "14: network.rank must be at least 1, not 0",
        '15: network.rank must be a whole number, not "x"',
        "16: data.caption_dropout must be from 0 to 1, not 2.0",
        '17: unknown key "netwrk"; did you mean "network"?',
        "18: sweep.grid.seed must have at least one value",
        "19: sweep.grid.steps must be a list of values to try, not 5",
        "20: sweep.grid.name: candidates are versions of one adapter, so its name cannot be tried",
    ]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["adapters.0.validation.held_out=0"], "none are held out; set defaults.validation.held_out = 0.2"),
        (
            ["sweep.grid.seed=[0, 1, 2, 3]", "sweep.grid.steps=[4, 5, 6, 7, 8]"],
            "2 x 2 x 4 x 5 = 80 candidates",
        ),
        (["sweep.grid.title=['a', 'b']"], "candidates 1 and 2 are the same training"),
        (["adapters.0.steps=2"], "2 steps are too few to compare candidates after 0.25, 0.5 of them"),
        (
            ["sweep.grid.resolution=[32, 64]"],
            "resolution changes what the loss on held-out pictures measures",
        ),
        (
            ["sweep.grid.network.algorithm=['lora', 'dora']"],
            "dora, lora: all candidates must be lora, or none",
        ),
        (["sweep.rungs=[0.5, 0.2]"], "sweep.rungs must rise between 0 and 1, not 0.5, 0.2"),
    ],
)
def test_candidates_that_cannot_be_compared_are_refused(
    pictures: Pictures, overrides: Sequence[str], wanted: str
) -> None:
    assert any(wanted in text for text in problems_of(config_file(pictures()), *overrides))


def test_train_refuses_a_config_with_a_sweep(pictures: Pictures) -> None:
    with pytest.raises(ConfigError, match=r"\[sweep\] is for adapterhub sweep"):
        TrainConfig.from_toml(config_file(pictures()))
