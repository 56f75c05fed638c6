"""The queue of jobs: fair between tenants by cost, nothing lost, nobody starved."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.runtime.fair_queue import FairQueue

Entry = tuple[str, int, str]
"""Tenant, number, and the group of entries that go together."""
COSTS = st.lists(st.integers(1, 50), min_size=1, max_size=30)
TENANTS = st.dictionaries(st.sampled_from("abcd"), COSTS, min_size=2)


def together(first: Entry, other: Entry) -> bool:
    return first[2] == other[2]


def spread_while_all_wait(
    tenants: dict[str, list[int]], queue: FairQueue[Entry], *, limit: int, groups: list[str]
) -> int:
    """Take batches while every tenant has something waiting; return how far apart they got at most."""
    cost_of: dict[Entry, int] = {}
    for name, costs in tenants.items():
        for number, cost in enumerate(costs):
            entry = (name, number, groups[(ord(name) + number) % len(groups)])
            cost_of[entry] = cost
            queue.put(entry, tenant=name, cost=cost)
    served, left = Counter(dict.fromkeys(tenants, 0)), Counter({n: len(c) for n, c in tenants.items()})
    spread = 0
    while all(left.values()):
        for entry in queue.take(limit, together):
            served[entry[0]] += cost_of[entry]
            left[entry[0]] -= 1
        if all(left.values()):
            spread = max(spread, max(served.values()) - min(served.values()))
    return spread


@given(TENANTS, st.integers(1, 80), st.integers(1, 9))
@settings(deadline=None)
def test_tenants_that_wait_differ_by_a_turn_and_the_highest_cost_at_most(
    tenants: dict[str, list[int]], quantum: int, patience: int
) -> None:
    queue = FairQueue[Entry](quantum, patience=patience)
    highest = max(max(costs) for costs in tenants.values())
    assert spread_while_all_wait(tenants, queue, limit=1, groups=["all"]) <= quantum + highest


@given(TENANTS, st.integers(1, 80), st.integers(1, 8))
@settings(deadline=None)
def test_batches_of_entries_that_all_go_together_keep_to_the_same_bound(
    tenants: dict[str, list[int]], quantum: int, limit: int
) -> None:
    queue = FairQueue[Entry](quantum)
    highest = max(max(costs) for costs in tenants.values())
    assert spread_while_all_wait(tenants, queue, limit=limit, groups=["all"]) <= quantum + highest


@given(TENANTS, st.integers(1, 80), st.integers(1, 8), st.sampled_from([["x", "y"], ["x", "x", "y"]]))
@settings(deadline=None)
def test_batches_let_tenants_be_ahead_by_a_batch_of_turns_at_most(
    tenants: dict[str, list[int]], quantum: int, limit: int, groups: list[str]
) -> None:
    queue = FairQueue[Entry](quantum)
    highest = max(max(costs) for costs in tenants.values())
    spread = spread_while_all_wait(tenants, queue, limit=limit, groups=groups)
    assert spread <= (1 + limit) * quantum + highest


STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(1, 50)),
    st.tuples(st.just("remove"), st.integers(0, 99), st.none()),
    st.tuples(st.just("take"), st.integers(1, 4), st.none()),
)


@given(st.lists(STEPS, max_size=80), st.integers(1, 60))
@settings(deadline=None)
def test_every_entry_is_taken_or_removed_once_and_the_queue_never_stalls(
    steps: list[tuple[str, int | str, int | None]], quantum: int
) -> None:
    queue = FairQueue[Entry](quantum, patience=2)
    waiting: list[Entry] = []
    for number, (step, what, cost) in enumerate(steps):
        if step == "put":
            waiting.append((str(what), number, "xy"[number % 2]))
            queue.put(waiting[-1], tenant=str(what), cost=cost or 1)
        elif step == "remove":
            entry = waiting.pop(int(what) % len(waiting)) if waiting else ("a", -1, "x")
            assert queue.remove(entry) == (entry[1] >= 0)
            assert not queue.remove(entry)
        else:
            taken = queue.take(int(what), together)
            assert len(taken) >= min(1, len(waiting))
            assert len(taken) <= int(what)
            assert len({entry[2] for entry in taken}) <= 1
            for entry in taken:
                waiting.remove(entry)
        assert sorted(queue) == sorted(waiting)
        assert len(queue) == len(waiting)
    assert sorted(entry for _ in range(len(waiting)) for entry in queue.take()) == sorted(waiting)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=20), st.integers(1, 8))
def test_entries_of_one_tenant_that_go_together_fill_the_batches_in_their_order(
    costs: list[int], limit: int
) -> None:
    queue = FairQueue[int](quantum=1)
    for number, cost in enumerate(costs):
        queue.put(number, tenant="a", cost=cost)
    batches = [queue.take(limit, lambda _, __: True) for _ in range(-(-len(costs) // limit))]
    assert [number for batch in batches for number in batch] == list(range(len(costs)))
    assert all(len(batch) == limit for batch in batches[:-1])


def test_the_dearest_entry_waits_for_the_turns_of_the_patience_only() -> None:
    queue = FairQueue[str](quantum=10, patience=4)
    queue.put("huge", tenant="a", cost=10**12)
    for number in range(20):
        queue.put(f"small {number}", tenant="b", cost=10)
    order = [queue.take()[0] for _ in range(21)]
    assert order.index("huge") <= 4
    queue.put("next", tenant="a", cost=1)
    assert queue.take() == ["next"]  # it owes nobody: none of the others waits


def test_turns_in_which_nobody_can_pay_take_no_time() -> None:
    queue = FairQueue[str](quantum=1, patience=10**15)
    queue.put("a", tenant="a", cost=10**12 + 1)
    queue.put("b", tenant="b", cost=10**12)
    assert [queue.take(), queue.take()] == [["b"], ["a"]]


def test_a_tenant_that_owes_does_not_start_afresh_by_leaving() -> None:
    queue = FairQueue[str](quantum=10, patience=2)
    for number in range(12):
        queue.put(f"small {number}", tenant="b", cost=10)
    queue.put("large", tenant="a", cost=70)
    assert "large" in [queue.take()[0] for _ in range(3)]  # 20 paid, 50 owed
    queue.put("next", tenant="a", cost=10)
    order = [queue.take()[0] for _ in range(7)]
    assert "next" not in order[:5]
    assert "next" in order


def test_a_batch_overtakes_the_first_entry_of_a_tenant_so_often_and_no_more() -> None:
    queue = FairQueue[tuple[str, str]](quantum=10, patience=3)
    queue.put(("a", "wide"), tenant="a", cost=75)
    for number in range(20):
        queue.put((f"a{number}", "square"), tenant="a", cost=10)
        queue.put((f"b{number}", "square"), tenant="b", cost=10)
    before_wide: list[str] = []
    while ("a", "wide") not in (taken := queue.take(2, lambda one, other: one[1] == other[1])):
        before_wide += [name for name, _ in taken if name.startswith("a")]
    assert len(before_wide) == 3


def test_what_is_full_takes_no_more() -> None:
    queue = FairQueue[str](quantum=10, limit=3, tenant_limit=2)
    queue.put("a1", tenant="a", cost=1)
    queue.put("a2", tenant="a", cost=1)
    with pytest.raises(ValueError, match="no room"):
        queue.put("a3", tenant="a", cost=1)
    queue.put("b1", tenant="b", cost=1)
    with pytest.raises(ValueError, match="no room"):
        queue.put("b2", tenant="b", cost=1)
    assert queue.remove("a1")
    with pytest.raises(ValueError, match="already"):
        queue.put("a2", tenant="a", cost=1)
    queue.put("b2", tenant="b", cost=1)
    assert (queue.waiting("a"), queue.waiting("b"), queue.waiting("c")) == (1, 2, 0)
    assert sorted(queue.take()[0] for _ in range(3)) == ["a2", "b1", "b2"]
    assert queue.take() == []
