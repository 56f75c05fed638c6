"""Adapters at hand: read once, let go in the order of use, never while they are in use."""

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from adapterhub.errors import NotFiniteError, ResidencyError, RuntimeClosedError, SettingError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors, Dense
from adapterhub.runtime.device_copies import DeviceCopier
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.leases import Lease
from adapterhub.runtime.residency import ResidentSet
from adapterhub_registry.errors import TombstoneError
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import random_adapter
from tests.adapterhub.runtime.small_adapters import TARGET, UNIT, adapter, tensor_of, unreadable, value_of

CPU = torch.device("cpu")


def one_tier(units: int) -> ResidentSet:
    return ResidentSet(units * UNIT)


def two_tiers(host_units: int, device_units: int) -> ResidentSet:
    """Two tiers in the same memory, with real copies between them."""
    return ResidentSet(host_units * UNIT, device_units * UNIT, copier=DeviceCopier(CPU))


EITHER = pytest.mark.parametrize(
    "make", [one_tier, lambda units: two_tiers(units, units)], ids=["one", "two"]
)


class Reader:
    """Reads adapters of so many units, and remembers which it read."""

    def __init__(self, **units: int) -> None:
        self.units = units
        self.read: list[str] = []

    def __call__(self, digest: str) -> Callable[[], AdapterTensors]:
        def read() -> AdapterTensors:
            self.read.append(digest)
            return adapter(self.units[digest])

        return read


@dataclass
class Held:
    """An adapter in the model: how many lease it, and when it was used last."""

    units: int
    used: int
    leases: int = 0
    is_forgotten: bool = False


class ModelTier:
    """The rule of one tier, by looking at all of it each time."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.entries: list[tuple[str, Held]] = []
        self.pinned: set[str] = set()
        self.evicted = 0

    def find(self, digest: str) -> Held | None:
        return next((one for name, one in self.entries if name == digest and not one.is_forgotten), None)

    def add(self, digest: str, units: int, used: int) -> Held | None:
        """Let the longest unused go until there is room; None if that is not enough."""
        free = [
            (name, one)
            for name, one in self.entries
            if not one.leases and not one.is_forgotten and name not in self.pinned
        ]
        if self.size - sum(one.units for _, one in free) + units > self.budget:
            return None
        for oldest in sorted(free, key=lambda entry: entry[1].used):
            if self.size + units > self.budget:
                self.entries.remove(oldest)
                self.evicted += 1
        added = Held(units, used)
        self.entries.append((digest, added))
        return added

    def forget(self, digest: str) -> None:
        self.pinned.discard(digest)
        for name, one in self.entries:
            one.is_forgotten |= name == digest
        self.clear()

    def clear(self) -> None:
        self.entries = [(name, one) for name, one in self.entries if one.leases or not one.is_forgotten]

    @property
    def size(self) -> int:
        return sum(one.units for _, one in self.entries)

    @property
    def held(self) -> int:
        return sum(one.units for name, one in self.entries if one.leases or name in self.pinned)


DIGESTS = st.sampled_from("abcdef")


class AgainstTheModel(RuleBasedStateMachine):
    """Sizes are powers of two: the bytes of a tier tell which adapters are in it."""

    has_two_tiers = False

    @initialize(host=st.integers(0, 80), device=st.integers(1, 80))
    def begin(self, host: int, device: int) -> None:
        self.reader = Reader(**{digest: 1 << power for power, digest in enumerate("abcdef")})
        self.resident = two_tiers(host, device) if self.has_two_tiers else one_tier(device)
        self.host = ModelTier(host) if self.has_two_tiers else None
        self.device = ModelTier(device)
        self.leases: list[tuple[Lease, Held]] = []
        self.read: list[str] = []
        self.clock = self.hits = self.misses = self.prefetched = self.failed = 0

    def brought(self, digest: str) -> Held | None:
        units = self.reader.units[digest]
        staged = None if self.host is None else self.host.find(digest)
        if staged is None:
            self.read.append(digest)
            staged = None if self.host is None else self.host.add(digest, units, self.clock)
        if staged is not None:
            staged.used = self.clock
        found = self.device.add(digest, units, self.clock)
        self.failed += found is None
        return found

    @rule(digest=DIGESTS)
    def lease(self, digest: str) -> None:
        self.clock += 1
        expected = self.device.find(digest)
        self.hits += expected is not None
        self.misses += expected is None
        if expected is None:
            expected = self.brought(digest)
        try:
            lease = self.resident.lease(digest, self.reader(digest))
        except ResidencyError as error:
            assert expected is None
            assert (error.digest, error.size_bytes) == (digest, self.reader.units[digest] * UNIT)
            assert error.held_bytes == self.device.held * UNIT
        else:
            assert expected is not None
            expected.leases += 1
            self.leases.append((lease, expected))

    @rule(digest=DIGESTS)
    def fail_to_read(self, digest: str) -> None:
        """Where there is nothing to read, it is found as ever."""
        self.clock += 1
        if self.device.find(digest) is None and (self.host is None or self.host.find(digest) is None):
            self.misses += 1
            self.failed += 1
            with pytest.raises(NotFiniteError):
                self.resident.lease(digest, unreadable)

    @rule(choose=st.randoms(use_true_random=False))
    def release(self, choose: Any) -> None:
        self.clock += 1
        if self.leases:
            lease, expected = self.leases.pop(choose.randrange(len(self.leases)))
            lease.release()
            expected.leases -= 1
            expected.used = self.clock
            self.device.clear()

    @rule(digest=DIGESTS)
    def prefetch(self, digest: str) -> None:
        self.clock += 1
        found = self.device.find(digest)
        done = self.resident.prefetch(digest, self.reader(digest))
        if found is not None:
            found.used = self.clock
            assert done.result() is None
            return
        self.prefetched += 1
        assert (done.exception() is None) == (self.brought(digest) is not None)

    @rule(digest=DIGESTS)
    def pin(self, digest: str) -> None:
        self.resident.pin(digest)
        self.device.pinned.add(digest)

    @rule(digest=DIGESTS)
    def unpin(self, digest: str) -> None:
        self.clock += 1
        self.resident.unpin(digest)
        found = self.device.find(digest)
        if digest in self.device.pinned and found is not None:
            found.used = self.clock
        self.device.pinned.discard(digest)

    @rule(digest=DIGESTS)
    def forget(self, digest: str) -> None:
        self.resident.forget(digest)
        self.device.forget(digest)
        if self.host is not None:
            self.host.forget(digest)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "resident"):
            return
        found = self.resident.metrics
        host = self.device if self.host is None else self.host
        assert found.host_bytes == host.size * UNIT
        assert found.host_bytes <= host.budget * UNIT
        assert found.device_bytes == (0 if self.host is None else self.device.size * UNIT)
        assert found.device_bytes <= self.device.budget * UNIT
        assert found.held_bytes == self.device.held * UNIT
        assert self.resident.size_bytes == found.host_bytes + found.device_bytes
        assert found.evicted == self.device.evicted + (0 if self.host is None else self.host.evicted)
        assert (found.hits, found.misses, found.waited) == (self.hits, self.misses, 0)
        assert (found.prefetched, found.failed) == (self.prefetched, self.failed)
        assert self.reader.read == self.read
        assert found.reads == len(self.read)
        assert all(value_of(lease) == 1.0 for lease, _ in self.leases)

    def teardown(self) -> None:
        if hasattr(self, "resident"):
            self.resident.close()
            for lease, _ in self.leases:
                assert value_of(lease) == 1.0
                lease.release()
            assert self.resident.size_bytes == 0


class TwoTiersAgainstTheModel(AgainstTheModel):
    has_two_tiers = True


@pytest.mark.parametrize("machine", [AgainstTheModel, TwoTiersAgainstTheModel])
@pytest.mark.parametrize("count", [30, pytest.param(600, marks=pytest.mark.long)])
def test_what_stays_is_what_was_used_last_and_what_is_in_use(
    machine: type[AgainstTheModel], count: int
) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=count, stateful_step_count=40, deadline=None)
    )


def test_on_the_cpu_there_is_no_second_copy() -> None:
    tensors = adapter(2)
    resident = one_tier(2)
    with resident.lease("a", lambda: tensors) as lease:
        assert lease.tensors is tensors
        assert (resident.metrics.host_bytes, resident.metrics.device_bytes) == (2 * UNIT, 0)


@EITHER
def test_a_lease_that_does_not_fit_changes_nothing_and_says_what_to_do(
    make: Callable[[int], ResidentSet],
) -> None:
    read = Reader(a=3, b=2, c=1, d=9)
    resident = make(6)
    resident.lease("b", read("b")).release()
    resident.pin("c")
    leases = [resident.lease(digest, read(digest)) for digest in "ac"]
    held = resident.metrics.evicted, resident.metrics.held_bytes
    with pytest.raises(ResidencyError) as caught:
        resident.lease("d", read("d"))
    error = caught.value
    assert (error.digest, error.size_bytes, error.held_bytes, error.budget_bytes) == ("d", 576, 256, 384)
    assert error.code == "residency-exceeded"
    assert "Compose or pin less at once" in str(error)
    assert (resident.metrics.evicted, resident.metrics.held_bytes) == held
    resident.lease("b", read("b")).release()
    assert read.read == [*"bacd"]  # b was there still
    for lease in leases:
        lease.release()
    resident.unpin("c")
    assert resident.metrics.held_bytes == 0


@EITHER
def test_what_is_forgotten_stays_usable_until_it_is_released(make: Callable[[int], ResidentSet]) -> None:
    read = Reader(a=3)
    resident = make(6)
    with resident.lease("a", read("a")) as old:
        resident.forget("a")
        assert resident.metrics.held_bytes == 3 * UNIT
        with pytest.raises(NotFiniteError):
            resident.lease("a", unreadable)
        with resident.lease("a", read("a")) as new:
            assert value_of(old) == value_of(new) == 1.0
            assert resident.metrics.held_bytes == 6 * UNIT
    resident.forget("a")
    assert resident.size_bytes == 0
    assert read.read == [*"aa"]


def test_a_lease_gives_nothing_after_its_release() -> None:
    resident = one_tier(2)
    lease = resident.lease("sha256:1", lambda: adapter(1))
    other = resident.lease("sha256:1", unreadable)
    lease.release()
    lease.release()
    with pytest.raises(RuntimeError, match="the lease of sha256:1 was released"):
        lease.tensors  # noqa: B018
    assert resident.metrics.held_bytes == UNIT  # the other lease
    other.release()
    assert resident.metrics.held_bytes == 0


@EITHER
def test_the_memory_of_what_is_let_go_is_free(make: Callable[[int], ResidentSet]) -> None:
    resident = make(2)
    lease = resident.lease("a", lambda: adapter(2))
    tensor = weakref.ref(tensor_of(lease))
    lease.release()
    assert tensor() is not None
    resident.lease("b", lambda: adapter(1)).release()
    gc.collect()
    assert tensor() is None
    del lease  # a released one keeps nothing


def test_what_the_device_lets_go_comes_back_from_the_host_without_a_read() -> None:
    resident = two_tiers(4, 2)
    for digest in "abab":
        resident.lease(digest, lambda: adapter(2)).release()
    metrics = resident.metrics
    assert (metrics.reads, metrics.misses, metrics.evicted) == (2, 4, 3)
    assert (metrics.host_bytes, metrics.device_bytes) == (4 * UNIT, 2 * UNIT)


def test_what_finds_no_room_on_the_host_goes_from_its_file_to_the_device() -> None:
    resident = two_tiers(1, 4)
    with resident.lease("a", lambda: adapter(4, 7.0)) as lease:
        assert value_of(lease) == 7.0
        assert (resident.metrics.host_bytes, resident.metrics.device_bytes) == (0, 4 * UNIT)


def test_a_pinned_adapter_is_kept_from_its_next_load_on() -> None:
    read = Reader(a=2, b=1, c=1)
    resident = one_tier(3)
    resident.pin("a")
    for digest in "abcba":
        resident.lease(digest, read(digest)).release()
    assert read.read == [*"abcb"]
    resident.unpin("a")
    for digest in "cba":
        resident.lease(digest, read(digest)).release()
    assert read.read == [*"abcbcba"]  # c took the place of b, and b that of a
    resident.unpin("never")


@pytest.mark.parametrize("host", [1 << 60, 0], ids=["on the host", "on the device"])
def test_out_of_memory_leaves_nothing(host: int) -> None:
    huge = AdapterTensors({TARGET: Dense(torch.zeros(1).expand(1 << 50))})
    resident = ResidentSet(host, 1 << 60, copier=DeviceCopier(CPU))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="memory"):
            resident.lease("a", lambda: huge)
        assert resident.size_bytes == resident.metrics.held_bytes == 0
    with resident.lease("a", lambda: adapter(1)) as lease:
        assert value_of(lease) == 1.0
    assert (resident.metrics.failed, resident.metrics.misses) == (2, 3)


@pytest.mark.parametrize("name", ["host_bytes", "device_bytes"])
def test_a_negative_budget_is_refused(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        ResidentSet(**{name: -1})
    assert (caught.value.setting, caught.value.value) == (name, -1)


def test_after_close_there_are_no_more_leases_and_old_ones_last() -> None:
    resident = one_tier(4)
    resident.lease("a", lambda: adapter(1)).release()
    lease = resident.lease("b", lambda: adapter(1))
    resident.close()
    resident.close()
    assert resident.size_bytes == UNIT
    assert value_of(lease) == 1.0
    lease.release()
    assert resident.size_bytes == 0
    for ask in (resident.lease, resident.prefetch):
        with pytest.raises(RuntimeClosedError):
            ask("a", unreadable)


def lines_of(act: Callable[[], object]) -> int:
    """How many lines of the runtime run: a measure of work that is the same each time."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:  # noqa: ARG001
        nonlocal count
        if Path(frame.f_code.co_filename).parent.name != "runtime":
            return None  # the garbage collector calls what it likes
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


@EITHER
def test_nothing_takes_more_work_when_more_is_at_hand(make: Callable[[int], ResidentSet]) -> None:
    work: list[list[int]] = []
    for count in (20, 2000):
        resident = make(count)
        for number in range(count):
            resident.lease(str(number), lambda: adapter(1)).release()
        leases = [resident.lease(str(number), unreadable) for number in range(count // 2)]
        acts: list[Callable[[], object]] = [
            lambda resident=resident: resident.metrics,
            lambda resident=resident: resident.size_bytes,
            lambda resident=resident: resident.lease("0", unreadable).release(),
            lambda resident=resident: resident.lease("new", lambda: adapter(1)).release(),
            lambda resident=resident: (resident.pin("new"), resident.unpin("new")),
            lambda resident=resident: resident.forget("new"),
        ]
        work.append([lines_of(act) for act in acts])
        assert all(value_of(lease) == 1.0 for lease in leases)
    assert work[0] == work[1]


@pytest.fixture
def small(registry: Registry, runtime: Runtime) -> Iterator[Runtime]:
    """A runtime with room for `me/ink` and `me/words`, and not for more."""
    sizes = {
        name: read_adapter(registry.payload(registry.resolve(f"me/{name}"))).size_bytes
        for name in ("ink", "words")
    }
    with Runtime.load("mini", registry=registry, device="cpu", resident_bytes=sum(sizes.values())) as small:
        yield small
    assert runtime.base.identity == small.base.identity


@pytest.mark.usefixtures("base_again")
def test_an_adapter_is_read_once_and_goes_when_there_is_no_room(runtime: Runtime, small: Runtime) -> None:
    before = runtime.residency.misses
    for text in ("me/ink", "me/corgi", "me/ink + me/corgi:0.5", None, "me/corgi"):
        runtime.compose(text)
    assert runtime.residency.misses - before <= 2
    for text in ("me/ink", "me/corgi", "me/ink:0.5", "me/corgi", "me/words", "me/words:0.5", "me/ink"):
        small.compose(text)
    assert (small.residency.misses, small.residency.hits, small.residency.evicted) == (4, 3, 2)


def test_a_composition_without_room_is_an_error_and_the_runtime_goes_on(small: Runtime) -> None:
    small.compose("me/ink")
    with pytest.raises(ResidencyError):
        small.compose("me/ink + me/corgi + me/words")
    assert str(small.composition) == "me/ink:1.0"
    small.compose("me/ink:0.5 + me/corgi")
    assert str(small.composition) == "me/ink:0.5 + me/corgi:1.0"


@pytest.mark.usefixtures("base_again")
def test_what_is_at_hand_is_not_used_once_its_version_is_gone(registry: Registry, runtime: Runtime) -> None:
    path = registry.home / "gone.safetensors"
    path.write_bytes(diffusers_bytes(random_adapter(runtime, 9)))
    registry.add(path, name="me/gone", base="mini")
    runtime.compose("me/gone")
    registry.delete("me/gone@1")
    with pytest.raises(TombstoneError):
        runtime.compose("me/gone@1")
    assert str(runtime.composition) == "me/gone:1.0"


def test_what_cannot_be_used_is_not_kept(registry: Registry, runtime: Runtime) -> None:
    tensors = random_adapter(runtime, 9)
    next(iter(tensors.low_rank().values())).up[0, 0] = float("nan")
    path = registry.home / "nan.safetensors"
    path.write_bytes(diffusers_bytes(tensors))
    registry.add(path, name="me/nan", base="mini")
    for _ in range(2):
        with pytest.raises(NotFiniteError):
            runtime.compose("me/nan")


def test_on_two_tiers_nothing_of_the_file_stays(runtime: Runtime, tmp_path: Path) -> None:
    """The copies are the file's numbers, and the map of the file is let go."""
    path = tmp_path / "words.safetensors"
    path.write_bytes(diffusers_bytes(random_adapter(runtime, 3, with_text=True)))
    maps: list[weakref.ref[Any]] = []

    def read() -> AdapterTensors:
        tensors = read_adapter(path)
        assert tensors.source is not None
        content = tensors.source.files[path.name]
        assert isinstance(content, memoryview)
        maps.append(weakref.ref(content.obj))
        return tensors

    resident = ResidentSet(copier=DeviceCopier(CPU))
    with resident.lease("a", read) as lease:
        gc.collect()
        assert maps[0]() is None
        expected = read_adapter(path)
        assert replace(lease.tensors, layers={}) == replace(expected, layers={}, source=None)
        assert lease.tensors.layers.keys() == expected.layers.keys()
        for target, layer in expected.low_rank().items():
            found = lease.tensors.low_rank()[target]
            assert torch.equal(found.up, layer.up)
            assert torch.equal(found.down, layer.down)
            assert found.scale == layer.scale
