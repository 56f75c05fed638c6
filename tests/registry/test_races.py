"""Many processes at one registry: numbers without gap or repeat, one winner, and garbage alone collected."""

import hashlib
import random
from contextlib import closing
from datetime import timedelta
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from adapterhub_registry.errors import (
    AliasMovedError,
    BlobMissingError,
    TombstoneError,
    VersionConflictError,
)
from adapterhub_registry.store import Registry
from tests.registry import processes
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home, check_remote, live_digests, stored_digests

PATIENCE_S = 300
CROWDS = [(8, 20), pytest.param((32, 50), marks=pytest.mark.long)]


def write_weights(home: Path, *words: object) -> Path:
    """Write weights that nobody else has."""
    path = home.with_name("-".join(map(str, words)))
    path.write_bytes(weights_bytes(metadata={"words": str(words)}))
    return path


def add_many(home: Path, worker: int, count: int) -> list[int]:
    """Add versions, and return their numbers."""
    with closing(Registry(home)) as registry:
        return [
            registry.add(write_weights(home, worker, item), name="me/ink").number for item in range(count)
        ]


@pytest.mark.parametrize("crowd", CROWDS)
def test_many_processes_number_versions_without_gap_or_repeat(tmp_path: Path, crowd: tuple[int, int]) -> None:
    workers, each = crowd
    home = tmp_path / "home"  # it is created in the race too
    numbers = processes.run_all(add_many, [(home, worker, each) for worker in range(workers)])
    assert all(own == sorted(own) for own in numbers)
    assert sorted(number for own in numbers for number in own) == list(range(1, workers * each + 1))
    with closing(Registry(home)) as registry:
        assert len(registry.versions("me/ink")) == workers * each
        assert registry.resolve("me/ink").number == workers * each
        assert list(registry.verify()) == []
    check_home(home)


def move_alias(home: Path, rounds: int, barrier: Barrier) -> list[int]:
    """Try to move an alias one version on in each round, all at once; return the rounds that were won."""
    won: list[int] = []
    with closing(Registry(home)) as registry:
        for number in range(1, rounds):
            barrier.wait(PATIENCE_S)
            try:
                registry.set_alias("me/ink", "prod", number + 1, expected=number)
                won.append(number)
            except AliasMovedError as exc:
                assert (exc.expected, exc.found) == (number, number + 1)
    return won


@pytest.mark.parametrize("crowd", CROWDS)
def test_every_move_of_an_alias_has_one_winner(tmp_path: Path, crowd: tuple[int, int]) -> None:
    workers, rounds = crowd
    home = tmp_path / "home"
    add_many(home, 0, rounds)
    with closing(Registry(home)) as registry:
        registry.set_alias("me/ink", "prod", 1, expected=None)
        barrier = processes.CONTEXT.Barrier(workers)
        won = processes.run_all(move_alias, [(home, rounds, barrier)] * workers)
        assert sorted(number for own in won for number in own) == list(range(1, rounds))
        events = registry.events(subject="me/ink@prod", limit=1000)[::-1]
        moves = [(event.detail["before"], event.detail["after"]) for event in events]
        assert moves == [(None, 1), *((number, number + 1) for number in range(1, rounds))]
    check_home(home)


def push_many(home: Path, share: Path, worker: int, count: int) -> list[int]:
    """Add versions to a home and push them all under the next numbers there; return these."""
    add_many(home, worker, count)
    with closing(Registry(home)) as registry:
        registry.add_remote("team", share.as_uri())
        numbers: list[int] = []
        for version in registry.versions("me/ink"):
            for _ in range(1000):
                try:
                    numbers.append(registry.push(version.reference, remote="team", renumber=True).number)
                    break
                except VersionConflictError:  # somebody took the number meanwhile
                    continue
        return numbers


@pytest.mark.parametrize(("workers", "each"), [(4, 4), pytest.param(8, 10, marks=pytest.mark.long)])
def test_many_homes_push_to_one_remote(tmp_path: Path, workers: int, each: int) -> None:
    share = tmp_path / "share"
    share.mkdir()
    homes = [tmp_path / str(worker) / "home" for worker in range(workers)]
    for home in homes:
        home.parent.mkdir()
    values = [(home, share, worker, each) for worker, home in enumerate(homes)]
    numbers = processes.run_all(push_many, values)
    assert sorted(number for own in numbers for number in own) == list(range(1, workers * each + 1))
    check_remote(share)
    with closing(Registry(tmp_path / "home")) as registry:
        registry.add_remote("team", share.as_uri())
        for number in range(1, workers * each + 1):
            registry.pull(f"me/ink@{number}", remote="team")
        assert len({version.digest for version in registry.versions("me/ink")}) == workers * each
    check_home(tmp_path / "home")


def live_on(home: Path, worker: int, count: int) -> int:
    """Add, delete, yank, pull and read at random; return how often a file was read."""
    draw, read = random.Random(worker), 0
    with closing(Registry(home)) as registry:
        for item in range(count):
            name = f"me/ink-{draw.randrange(3)}"
            versions = registry.known_versions(name)
            picked = draw.choice(versions).reference if versions else ""
            try:
                match draw.choice(("add", "add", "delete", "yank", "unyank", "pull", "read")):
                    case "add":
                        path = home.with_name(f"weights-{worker}")
                        path.write_bytes(weights_bytes(draw.randrange(8)))
                        note = f"{draw.randrange(4)}".encode()
                        words = [str(draw.randrange(9))]
                        registry.add(path, name=name, trigger_words=words, documents={"note.txt": note})
                    case "pull":
                        registry.pull(f"me/far@{draw.randint(1, 9)}", remote="team", rename=name)
                    case "delete" if picked:
                        registry.delete(picked)
                    case "yank" if picked:
                        registry.yank(picked, f"{item}")
                    case "unyank" if picked:
                        registry.unyank(picked)
                    case "read" if picked:
                        version = registry.resolve(picked)
                        content = registry.read(version.files[0].sha256)
                        assert hashlib.sha256(content).hexdigest() == version.files[0].sha256
                        read += 1
                    case _:
                        pass
            except (TombstoneError, BlobMissingError) as exc:
                # Somebody deleted it meanwhile, or it was deleted before and does not come back.
                if isinstance(exc, BlobMissingError):
                    with pytest.raises(TombstoneError):
                        registry.resolve(picked)
    return read


def collect_until(home: Path, stop: Event) -> int:
    """Collect garbage again and again; return how many files went."""
    gone = 0
    with closing(Registry(home)) as registry:
        while not stop.is_set():
            gone += registry.collect(grace=timedelta(0), keep=timedelta(0)).deleted.files
    return gone


def work_beside_collectors(home: Path, worker: int, count: int, stop: Event, working: Barrier) -> int:
    """Collect if the number is negative, else work; who ends last stops the collectors."""
    if worker < 0:
        return collect_until(home, stop)
    try:
        return live_on(home, worker, count)
    finally:
        if working.wait(PATIENCE_S) == 0:
            stop.set()


@pytest.mark.parametrize("each", [13, pytest.param(125, marks=pytest.mark.long)])
def test_collectors_in_a_loop_take_nothing_that_lives_and_leave_nothing_that_does_not(
    tmp_path: Path, each: int
) -> None:
    home, share, workers = tmp_path / "home", tmp_path / "share", 8
    share.mkdir()
    with closing(Registry(tmp_path / "far")) as far:
        far.add_remote("team", share.as_uri())
        for seed in range(9):
            path = tmp_path / "weights"
            path.write_bytes(weights_bytes(seed))
            far.add(path, name="me/far", documents={"note.txt": b"far"})
            far.push("me/far", remote="team")
    with closing(Registry(home)) as registry:
        registry.add_remote("team", share.as_uri())
        stop, working = processes.CONTEXT.Event(), processes.CONTEXT.Barrier(workers)
        values = [(home, worker, each, stop, working) for worker in (-2, -1, *range(workers))]
        first, second, *read = processes.run_all(work_beside_collectors, values)
        assert first + second > 0
        assert sum(read) > 0
        check_home(home)
        registry.collect(grace=timedelta(0), keep=timedelta(0))
        assert stored_digests(home) == live_digests(home)
        assert list(registry.verify()) == []
    check_home(home)
    assert not [
        path for place in ("trash", "staging") for path in home.glob(f"{place}/**/*") if path.is_file()
    ]
