"""Adapters at hand, asked for by many threads at once, and loaded in the background."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
import torch

from adapterhub.errors import NotFiniteError, ResidencyError
from adapterhub.lora.weights import AdapterTensors
from adapterhub.runtime.device_copies import AdapterCopy, DeviceCopier
from adapterhub.runtime.leases import Lease
from adapterhub.runtime.residency import ResidentSet
from tests.adapterhub.runtime.small_adapters import UNIT, adapter, unreadable, value_of

CPU = torch.device("cpu")
PATIENCE_S = 60


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Slow:
    """A read that waits to be told what to do."""

    def __init__(self, outcome: Callable[[], AdapterTensors] = lambda: adapter(1)) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.count = 0
        self.outcome = outcome

    def __call__(self) -> AdapterTensors:
        self.count += 1
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return self.outcome()


@pytest.fixture(params=["one tier", "two tiers"])
def resident(request: pytest.FixtureRequest) -> Iterator[ResidentSet]:
    copier = DeviceCopier(CPU) if request.param == "two tiers" else None
    resident = ResidentSet(100 * UNIT, 100 * UNIT, copier=copier)
    yield resident
    resident.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_threads_that_ask_for_the_same_read_once(resident: ResidentSet, threads: ThreadPoolExecutor) -> None:
    read = Slow()
    asked = [threads.submit(resident.lease, "a", read) for _ in range(8)]
    until(lambda: resident.metrics.waited == 7)
    read.may_end.set()
    leases = [one.result(PATIENCE_S) for one in asked]
    assert read.count == 1
    assert len({id(lease.tensors) for lease in leases}) == 1
    for lease in leases:
        assert resident.metrics.held_bytes == UNIT
        lease.release()
    assert resident.metrics.held_bytes == 0
    metrics = resident.metrics
    assert (metrics.hits, metrics.misses, metrics.waited, metrics.reads) == (0, 1, 7, 1)
    assert metrics.load_seconds > 0


def test_a_failed_read_fails_for_all_who_wait_and_leaves_nothing(
    resident: ResidentSet, threads: ThreadPoolExecutor
) -> None:
    read = Slow(unreadable)
    asked = [threads.submit(resident.lease, "a", read) for _ in range(8)]
    until(lambda: resident.metrics.waited == 7)
    read.may_end.set()
    errors = {one.exception(PATIENCE_S) for one in asked}
    assert [type(error) for error in errors] == [NotFiniteError]  # one and the same
    assert (read.count, resident.size_bytes, resident.metrics.failed) == (1, 0, 1)
    with resident.lease("a", lambda: adapter(1)) as lease:
        assert value_of(lease) == 1.0


def test_who_waits_reads_when_the_reader_is_interrupted(
    resident: ResidentSet, threads: ThreadPoolExecutor
) -> None:
    def interrupt() -> AdapterTensors:
        raise KeyboardInterrupt

    read = Slow(interrupt)
    first = threads.submit(resident.lease, "a", read)
    assert read.has_begun.wait(PATIENCE_S)
    second = threads.submit(resident.lease, "a", lambda: adapter(1))
    until(lambda: resident.metrics.waited == 1)
    read.may_end.set()
    assert isinstance(first.exception(PATIENCE_S), KeyboardInterrupt)
    with second.result(PATIENCE_S) as lease:
        assert value_of(lease) == 1.0


def test_a_slow_read_holds_up_nobody_else(resident: ResidentSet) -> None:
    read = Slow()
    done = resident.prefetch("a", read)
    assert read.has_begun.wait(PATIENCE_S)
    with resident.lease("b", lambda: adapter(1)) as lease:
        assert value_of(lease) == 1.0
    assert not done.done()
    read.may_end.set()
    done.result(PATIENCE_S)


def test_what_is_prefetched_is_at_hand(resident: ResidentSet) -> None:
    resident.prefetch("a", lambda: adapter(1, 5.0)).result(PATIENCE_S)
    assert resident.metrics.held_bytes == 0
    with resident.lease("a", unreadable) as lease:
        assert value_of(lease) == 5.0
    resident.prefetch("a", unreadable).result(PATIENCE_S)  # it is at hand
    metrics = resident.metrics
    assert (metrics.prefetched, metrics.hits, metrics.misses, metrics.reads) == (1, 1, 0, 1)


def test_a_lease_joins_the_prefetch_that_has_begun(
    resident: ResidentSet, threads: ThreadPoolExecutor
) -> None:
    read = Slow()
    done = resident.prefetch("a", read)
    assert read.has_begun.wait(PATIENCE_S)
    asked = threads.submit(resident.lease, "a", unreadable)
    until(lambda: resident.metrics.waited == 1)
    read.may_end.set()
    done.result(PATIENCE_S)
    with asked.result(PATIENCE_S) as lease:
        assert value_of(lease) == 1.0


def test_a_prefetch_of_what_another_reads_leaves_it_to_them(
    resident: ResidentSet, threads: ThreadPoolExecutor
) -> None:
    read = Slow()
    asked = threads.submit(resident.lease, "a", read)
    assert read.has_begun.wait(PATIENCE_S)
    resident.prefetch("a", unreadable).result(PATIENCE_S)
    read.may_end.set()
    asked.result(PATIENCE_S).release()
    assert resident.metrics.prefetched == 0


def test_a_failed_prefetch_leaves_nothing_and_a_lease_reads_again(resident: ResidentSet) -> None:
    done = resident.prefetch("a", unreadable)
    assert isinstance(done.exception(PATIENCE_S), NotFiniteError)
    assert resident.size_bytes == 0
    resident.lease("a", lambda: adapter(1)).release()


def test_what_is_forgotten_while_it_is_read_goes_to_those_who_wait_alone(
    resident: ResidentSet, threads: ThreadPoolExecutor
) -> None:
    read = Slow()
    asked = threads.submit(resident.lease, "a", read)
    assert read.has_begun.wait(PATIENCE_S)
    resident.forget("a")
    with resident.lease("a", lambda: adapter(2, 2.0)) as new:
        read.may_end.set()
        with asked.result(PATIENCE_S) as old:
            assert (value_of(old), value_of(new)) == (1.0, 2.0)
            assert resident.metrics.held_bytes == 3 * UNIT
    with resident.lease("a", unreadable) as lease:
        assert value_of(lease) == 2.0
    resident.forget("a")
    assert resident.size_bytes == 0


def test_close_ends_what_is_prefetched(resident: ResidentSet, threads: ThreadPoolExecutor) -> None:
    read = Slow()
    begun, queued = resident.prefetch("a", read), resident.prefetch("b", unreadable)
    assert read.has_begun.wait(PATIENCE_S)
    closing = threads.submit(resident.close)
    until(queued.cancelled)
    read.may_end.set()
    closing.result(PATIENCE_S)
    assert begun.result(PATIENCE_S) is None
    with pytest.raises(CancelledError):
        queued.result()
    assert resident.size_bytes == 0


class HeldUpCopier(DeviceCopier):
    """Begins to copy when it is let."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def send(self, source: AdapterCopy) -> AdapterCopy:
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE_S)
        return super().send(source)


def test_a_lease_waits_for_a_prefetch_in_its_way(threads: ThreadPoolExecutor) -> None:
    """A prefetch that has reserved room is no reason to refuse a lease: it makes room once it is there."""
    copier = HeldUpCopier()
    resident = ResidentSet(0, 10 * UNIT, copier=copier)
    prefetched = resident.prefetch("a", lambda: adapter(6))
    assert copier.has_begun.wait(PATIENCE_S)
    with pytest.raises(ResidencyError):
        resident.lease("c", lambda: adapter(11))  # there will never be room
    asked: Future[Lease] = threads.submit(resident.lease, "b", lambda: adapter(5))
    until(lambda: resident.metrics.reads == 3)
    copier.may_end.set()
    prefetched.result(PATIENCE_S)
    with asked.result(PATIENCE_S) as lease:
        assert value_of(lease) == 1.0
    assert resident.metrics.evicted == 1
    resident.close()


@pytest.fixture
def hasty_switches() -> Iterator[None]:
    """Threads take turns after 10 microseconds, not 5 milliseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_switches")
@pytest.mark.parametrize("has_forgets", [False, True])
@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.long)])
def test_a_crowd_of_threads_finds_what_it_asked_for(
    resident: ResidentSet, threads: ThreadPoolExecutor, has_forgets: bool, count: int
) -> None:
    """Each adapter holds its own number; budgets hold at every moment; nothing is read twice at once."""
    budget = 100 * UNIT
    reading: Counter[int] = Counter()
    lock = threading.Lock()

    def reader(number: int, may_fail: bool) -> Callable[[], AdapterTensors]:
        def read() -> AdapterTensors:
            with lock:
                reading[number] += 1
                assert has_forgets or reading[number] == 1
            try:
                return unreadable() if may_fail else adapter(number % 17 + 1, float(number))
            finally:
                with lock:
                    reading[number] -= 1

        return read

    def work(seed: int) -> Counter[str]:
        choose, done = random.Random(seed), Counter[str]()
        held: list[tuple[int, Lease]] = []
        for _ in range(count):
            number = choose.randrange(40)
            act = choose.choices(["lease", "prefetch", "pin", "unpin", "forget"], [80, 10, 2, 8, 4])[0]
            read = reader(number, may_fail=choose.random() < 0.05)
            if act == "lease":
                done["leases"] += 1
                try:
                    held.append((number, resident.lease(str(number), read)))
                except (NotFiniteError, ResidencyError) as error:
                    done[type(error).__name__] += 1
            elif act == "prefetch":
                resident.prefetch(str(number), read)
            elif act == "pin":
                resident.pin(str(number))
            elif act == "unpin":
                resident.unpin(str(number))
            elif has_forgets:
                resident.forget(str(number))
            for expected, lease in held:
                assert value_of(lease) == expected
            if len(held) > choose.randrange(3):
                held.pop(choose.randrange(len(held)))[1].release()
            metrics = resident.metrics
            assert metrics.host_bytes <= budget
            assert metrics.device_bytes <= budget
            assert metrics.held_bytes <= budget
        for _, lease in held:
            lease.release()
        return done

    done = sum((one.result() for one in [threads.submit(work, seed) for seed in range(8)]), Counter[str]())
    resident.prefetch("last", lambda: adapter(1)).exception(PATIENCE_S)  # the ones before it are done
    for number in range(40):
        resident.unpin(str(number))
    metrics = resident.metrics
    assert metrics.held_bytes == 0
    assert metrics.hits + metrics.misses + metrics.waited == done["leases"]
    assert done["leases"] > 2 * sum(count for name, count in done.items() if name != "leases")
    assert metrics.hits > 0
    assert metrics.evicted > 0
    for number in range(40):
        resident.forget(str(number))
    resident.forget("last")
    assert resident.size_bytes == 0
