"""Processes of the command line, forked from one that has imported everything and computed nothing.

A process can be killed, as `kill -9` does, at any step: before a call that changes files or the database, and
before and after each step of an optimizer.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
IMPORTED = (
    "adapterhub.training.train",
    "adapterhub_cli.main",
    "adapterhub_registry.store",
    "alembic.command",
    "alembic.ddl.sqlite",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "peft",
    "sqlalchemy.dialects.sqlite",
    "tests.registry.steps",
    "torch.distributed",
)


class Nursery:
    """Starts processes, inside `with`.

    Args:
        folder: Where what they say is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def __enter__(self) -> "Nursery":
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.adapterhub.training.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()

    def start(
        self, *words: object, home: Path, environment: Mapping[str, str] | None = None, die_at: int = 0
    ) -> "Child":
        """Start `adapterhub` with some words.

        Args:
            words: Of the command line.
            home: Of the registry.
            environment: What else is set.
            die_at: The step, from 1, at which it is killed; 0 for none.
        """
        stem = str(self._folder / f"process-{next(self._numbers)}")
        child = Child(Path(f"{stem}.out"), Path(f"{stem}.err"), Path(f"{stem}.steps"), self._ask)
        order = {
            "words": [str(word) for word in words],
            "environment": {"ADAPTERHUB_HOME": str(home), **(environment or {})},
            "die_at": die_at,
            "files": [str(child.out), str(child.err), str(child.log)],
        }
        child.pid = self._ask(order)
        return child

    def _ask(self, order: Any) -> int:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())


class Child:
    """One process; `out` and `err` are what it printed."""

    def __init__(self, out: Path, err: Path, log: Path, ask: Callable[[Any], int]) -> None:
        self.out, self.err, self.log, self.pid = out, err, log, 0
        self._ask = ask

    def wait(self, code: int | None = 0) -> int:
        """Return how it ended; by default it must have ended well."""
        found = self._ask(self.pid)
        assert code in (None, found), self.err.read_text()
        return found

    @property
    def steps(self) -> list[str]:
        """Its steps; those inside a save of a checkpoint begin with `save `."""
        return self.log.read_text().splitlines()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal; its number is its own until it is waited for."""
        os.kill(self.pid, number)


def main() -> None:
    """Fork a process for each order on stdin, or wait for one; print its number, or how it ended."""
    for name in IMPORTED:
        import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)  # noqa: T201
            continue
        number = os.fork()
        if number == 0:
            os._exit(_work(**order))
        print(number, flush=True)  # noqa: T201


def _work(*, words: Sequence[str], environment: Mapping[str, str], die_at: int, files: Sequence[str]) -> int:
    from adapterhub_cli.main import main as command
    from tests.registry.steps import watched

    os.setpgid(0, 0)
    os.environ.update(environment)
    for descriptor, path in zip((1, 2), files, strict=False):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
    log = os.open(files[2], os.O_CREAT | os.O_WRONLY)
    write, inside, numbers = os.write, [""], itertools.count(1)

    def tick(name: str) -> None:
        write(log, f"{inside[0]}{name}\n".encode())
        if next(numbers) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch_training(inside, tick)
    with watched(lambda _, name: tick(name)):
        code = command(words)
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _watch_training(inside: list[str], tick: Callable[[str], None]) -> None:
    """Make optimizers' steps count, and tell what is inside a save."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from adapterhub.training import run

    save = run.save_checkpoint

    def saved(*words: Any, **named: Any) -> Path:
        inside[0] = "save "
        try:
            return save(*words, **named)
        finally:
            inside[0] = ""

    run.save_checkpoint = saved
    register_optimizer_step_pre_hook(lambda *_: tick("before the optimizer"))
    register_optimizer_step_post_hook(lambda *_: tick("after the optimizer"))


if __name__ == "__main__":
    main()
