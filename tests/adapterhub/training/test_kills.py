"""A training that is killed at any moment goes on to the bytes of one that was not."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapterhub.training.runs import find_runs
from adapterhub_registry.store import Registry
from tests.adapterhub.training.nursery import Nursery

NAMES = ("me/ink", "me/wash")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture
def config(pictures: Callable[..., Path], tmp_path: Path) -> Path:
    """Two adapters together, whose last checkpoints hold a step of which half is done."""
    file = tmp_path / "config.toml"
    file.write_text(
        f'base.model = "mini"\nbase.device = "cpu"\n[defaults]\ndata = "{pictures()}"\nbatch_size = 1\n'
        "network.rank = 2\nsave_every = 1\n[[adapters]]\nname = 'me/ink'\nsteps = 4\n"
        "[[adapters]]\nname = 'me/wash'\nsteps = 2\naccumulation = 3\noptimizer.betas = [0.8, 0.9]\n"
    )
    return file


def told(home: Path) -> dict[str, bytes | str]:
    """Return the bytes of what was registered, with its losses, and of the last checkpoint."""
    registry = Registry(home)
    found: dict[str, bytes | str] = {}
    for name in NAMES:
        version = registry.resolve(f"{name}@1")
        found |= {name: version.digest, f"weights of {name}": registry.read(version.files[0].sha256)}
        found |= {f"{item.name} of {name}": item.sha256 for item in registry.documents(version)}
        del found[f"report.html of {name}"]  # it tells of speed
        assert [known.number for known in registry.known_versions(name)] == [1]
    files = sorted(home.glob("runs/*/pass-*/*"))
    return found | {str(path.relative_to(home)): path.read_bytes() for path in files}


def go_on(nursery: Nursery, config: Path, home: Path) -> dict[str, bytes | str]:
    """Train to the end, from the last checkpoint if there is one."""
    assert {run.state for run in find_runs(home)} <= {"stopped", "done"}
    resume = ["--resume", "latest"] if list(home.glob("runs/*/pass-*")) else []
    nursery.start("train", config, *resume, home=home).wait()
    return told(home)


def points(steps: list[str], count: int) -> list[int]:
    """Return steps to die at: a third inside saves, a third after optimizers' steps, the others anywhere."""
    drawn, third = random.Random(count), max(count // 3, 1)
    saving = [number for number, name in enumerate(steps, 1) if name.startswith("save ")]
    changed = [number for number, name in enumerate(steps, 1) if name == "after the optimizer"]
    chosen = [*drawn.sample(saving, third), *drawn.sample(changed, third)]
    return chosen + drawn.sample(range(1, len(steps) + 1), count - len(chosen))


@pytest.mark.parametrize(("count", "moments"), [(2, 0), pytest.param(15, 5, marks=pytest.mark.long)])
def test_what_is_killed_goes_on_to_the_same_bytes(
    nursery: Nursery, config: Path, tmp_path: Path, count: int, moments: int
) -> None:
    began = time.monotonic()
    whole = nursery.start("train", config, home=tmp_path / "whole")
    whole.wait()
    seconds = time.monotonic() - began
    expected = told(tmp_path / "whole")
    assert any(name.endswith("adapter-1.safetensors") for name in expected)

    died: list[str] = []
    for step in points(whole.steps, count):
        home = tmp_path / f"step-{step}"
        child = nursery.start("train", config, home=home, die_at=step)
        child.wait(-signal.SIGKILL)
        died.append(child.steps[-1])
        assert go_on(nursery, config, home) == expected, f"killed at step {step}, {died[-1]}"
    assert {name.split()[0] for name in died} >= {"save", "after"}
    for number in range(moments):
        home = tmp_path / f"moment-{number}"
        child = nursery.start("train", config, home=home)
        time.sleep(seconds * (number + random.Random(number).random()) / moments)
        child.kill()
        child.wait(None)
        assert go_on(nursery, config, home) == expected, f"killed at moment {number}"
