"""Several processes share the adapters of one config, or the work on one, and all hear of all."""

import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from adapterhub.settings import Launch
from adapterhub.training.config import TrainConfig
from adapterhub.training.plan import shares
from adapterhub.training.runs import find_runs
from adapterhub_registry.store import Registry
from tests.adapterhub.training.nursery import Child, Nursery

TABLE = """
base.model = "mini"
base.device = "cpu"
[defaults]
data = "{folder}"
batch_size = 1
network.rank = 2
save_every = {save_every}
[[adapters]]
name = "me/ink"
steps = {steps}
[[adapters]]
name = "me/wash"
steps = {steps}
optimizer.learning_rate = {rate}
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture
def config(pictures: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    folder = pictures()

    def write(steps: int = 3, rate: float = 1e-3, save_every: int = 1) -> Path:
        file = tmp_path / "config.toml"
        file.write_text(TABLE.format(folder=folder, steps=steps, rate=rate, save_every=save_every))
        return file

    return write


def launch(nursery: Nursery, *words: object, home: Path, count: int = 2) -> list[Child]:
    """Start processes as a launcher does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        nursery.start(*words, home=home, environment={**told, "RANK": str(number), "LOCAL_RANK": str(number)})
        for number in range(count)
    ]


def weights(home: Path, name: str) -> bytes:
    registry = Registry(home)
    return registry.read(registry.resolve(name).files[0].sha256)


def wait_for(found: Callable[[], object], children: list[Child]) -> None:
    deadline = time.monotonic() + 120
    while not found() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found(), [child.err.read_text() for child in children]


def test_two_processes_train_what_each_adapter_becomes_alone(
    nursery: Nursery, config: Callable[..., Path], tmp_path: Path
) -> None:
    home = tmp_path / "both"
    children = launch(nursery, "train", config(), home=home)
    assert [child.wait() for child in children] == [0, 0]
    assert [child.out.read_text().count("@1") for child in children] == [2, 0]
    assert sorted(run.run.rsplit("-", 1)[0] for run in find_runs(home)) == ["me--ink", "me--wash"]
    alone = tmp_path / "alone"
    nursery.start("train", config(), "--set", "group.executor=sequential", home=alone).wait()
    for name in ("me/ink", "me/wash"):
        assert weights(home, name) == weights(alone, name)


def test_all_hear_of_one_that_fails_and_end_their_parts(
    nursery: Nursery, config: Callable[..., Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    children = launch(nursery, "train", config(steps=6, rate=1e30), home=home)
    assert [child.wait(1) for child in children] == [1, 1]
    main, other = (child.err.read_text() for child in children)
    assert "error: process 1 of this training did not end well: training me/wash failed at step" in main
    assert other.startswith("error: training me/wash failed at step")
    assert [found.name for found in Registry(home).list()] == ["me/ink"]


def test_one_signal_stops_all_and_as_many_go_on(
    nursery: Nursery, config: Callable[..., Path], tmp_path: Path
) -> None:
    home, wanted = tmp_path / "home", config(steps=30, save_every=5)
    longer = ("--set", "adapters.me/ink.steps=120")  # not done before it hears of the other's stop
    children = launch(nursery, "train", wanted, *longer, home=home)
    wait_for(lambda: len({path.parent for path in home.glob("runs/*/pass-*")}) == 2, children)
    for _ in range(2):  # launchers pass on what everybody has heard
        children[1].kill(signal.SIGINT)
    assert [child.wait(1) for child in children] == [1, 1]
    for child in children:
        assert "go on with --resume" in child.err.read_text()
    assert [run.state for run in find_runs(home)] == ["stopped", "stopped"]

    alone = nursery.start("train", wanted, *longer, "--resume", "latest", home=home)
    alone.wait(1)
    assert "it was begun by 2 processes, and not by 1; start as many" in alone.err.read_text()
    assert Registry(home).list() == []

    children = launch(nursery, "train", wanted, *longer, "--resume", "latest", home=home)
    assert [child.wait() for child in children] == [0, 0]
    whole, shorter = tmp_path / "whole", ("--set", "adapters.me/ink.steps=1")
    nursery.start("train", wanted, *shorter, "--set", "group.executor=sequential", home=whole).wait()
    assert weights(home, "me/wash") == weights(whole, "me/wash")


def test_a_process_that_dies_is_told_by_the_others(
    nursery: Nursery, config: Callable[..., Path], tmp_path: Path
) -> None:
    children = launch(nursery, "train", config(), home=tmp_path / "home")
    wait_for(lambda: list((tmp_path / "home").glob("runs/me--wash*")), children)
    children[1].kill()
    children[1].wait(-signal.SIGKILL)
    children[0].wait(1)
    assert "a process of this training did not end well: it died" in children[0].err.read_text()


def test_adapters_are_shared_by_how_much_there_is_to_do(config: Callable[..., Path]) -> None:
    wanted = TrainConfig.from_toml(config(), overrides=["adapters.me/wash.steps=4"])
    assert shares(wanted, 1) == [[0, 1]]
    assert shares(wanted, 2) == [[1], [0]]
    assert shares(wanted, 3) == [[1], [0], []]


def test_a_launch_is_read_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert Launch.from_environment() == Launch()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert Launch.from_environment() == Launch(2, 4, 1)
    assert not Launch.from_environment().is_main


ONE = """
base.model = "mini"
base.device = "cpu"
[[adapters]]
name = "me/ink"
data = "{folder}"
batch_size = {batch_size}
accumulation = 2
steps = {steps}
save_every = 2
network.rank = 2
network.rank_dropout = 0.2
network.dropout = 0.1
network.text_rank = 2
optimizer.learning_rate = {rate}
max_chunks = 2
"""


@pytest.fixture
def one(pictures: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    folder = pictures()

    def write(steps: int = 4, rate: float = 1e-3, batch_size: int = 3) -> Path:
        file = tmp_path / "one.toml"
        file.write_text(ONE.format(folder=folder, steps=steps, rate=rate, batch_size=batch_size))
        return file

    return write


def test_two_processes_make_of_one_adapter_what_one_makes(
    nursery: Nursery, one: Callable[..., Path], tmp_path: Path
) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    children = launch(nursery, "train", one(), home=both)
    assert [child.wait() for child in children] == [0, 0]
    assert [child.out.read_text().count("@1") for child in children] == [1, 0]
    nursery.start("train", one(), home=alone).wait()
    theirs, ours = load(weights(both, "me/ink")), load(weights(alone, "me/ink"))
    assert theirs.keys() == ours.keys()
    differences = torch.stack([(theirs[name] - ours[name]).norm() for name in ours])
    changes = torch.stack([ours[name].norm() for name in ours if "lora_B" in name])  # B begins at 0
    assert differences.norm() <= 1e-4 * changes.norm()
    reports = [report_of(home) for home in (both, alone)]
    assert reports[0]["losses"] == pytest.approx(reports[1]["losses"], abs=2e-6)
    assert [report["environment"].get("processes") for report in reports] == ["2", None]


def test_they_stop_together_and_as_many_go_on_to_the_same_bytes(
    nursery: Nursery, one: Callable[..., Path], tmp_path: Path
) -> None:
    home, wanted = tmp_path / "home", one(steps=20)
    children = launch(nursery, "train", wanted, home=home)
    wait_for(lambda: list(home.glob("runs/*/pass-*")), children)
    children[1].kill(signal.SIGINT)
    assert [child.wait(1) for child in children] == [1, 1]
    for child in children:
        assert "go on with --resume" in child.err.read_text()
    alone = nursery.start("train", wanted, "--resume", "latest", home=home)
    alone.wait(1)
    assert "it was made with another number of processes" in alone.err.read_text()
    children = launch(nursery, "train", wanted, "--resume", "latest", home=home)
    assert [child.wait() for child in children] == [0, 0]
    whole = tmp_path / "whole"
    assert [child.wait() for child in launch(nursery, "train", wanted, home=whole)] == [0, 0]
    assert weights(home, "me/ink") == weights(whole, "me/ink")


def test_who_waits_for_one_that_died_or_failed_hears_of_it(
    nursery: Nursery, one: Callable[..., Path], tmp_path: Path
) -> None:
    children = launch(nursery, "train", one(steps=400), home=tmp_path / "home")
    wait_for(lambda: list((tmp_path / "home").glob("runs/*/pass-*")), children)
    children[0].kill()  # the one that the others talk through
    children[0].wait(-signal.SIGKILL)
    children[1].wait(1)
    assert "of this training did not end well: " in children[1].err.read_text()
    home = tmp_path / "other"
    children = launch(nursery, "train", one(steps=400, batch_size=4), home=home, count=4)
    wait_for(lambda: list(home.glob("runs/*/pass-*")), children)
    (run,) = home.glob("runs/*")
    for number in itertools.count():  # until no checkpoint can be written there
        with suppress(OSError):
            run.rename(tmp_path / f"taken-{number}")
            run.touch()
        if run.is_file():
            break
    assert [child.wait(1) for child in children] == [1] * 4
    for child in children[1:]:
        assert "process 0 of this training did not end well: cannot write" in child.err.read_text()


def test_no_more_processes_than_pictures_of_a_pass_are_taken(
    nursery: Nursery, one: Callable[..., Path], tmp_path: Path
) -> None:
    children = launch(nursery, "train", one(batch_size=1), home=tmp_path / "home")
    assert [child.wait(1) for child in children] == [1, 1]
    said = children[0].err.read_text()
    assert "the number of processes is 2, but they share the 1 pictures of each pass" in said


def report_of(home: Path) -> dict[str, Any]:
    registry = Registry(home)
    (report,) = (item for item in registry.documents(registry.resolve("me/ink")) if item.name == "run.json")
    return json.loads(registry.read(report.sha256))
