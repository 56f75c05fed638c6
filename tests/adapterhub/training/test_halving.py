"""Successive halving: who goes on at each rung."""

import json
from dataclasses import asdict
from itertools import permutations

from adapterhub.training.halving import Bracket, Verdict, rung_parts


def bracket(keep: int = 1, eta: int = 2) -> Bracket:
    names = ["a", "b", "c", "d"]
    return Bracket({name: [2, 4, 8] for name in names}, keep, eta, names)


def test_rungs_are_an_eta_th_of_the_next_one_and_leave_as_many_as_are_kept() -> None:
    assert rung_parts(9, keep=1, eta=3) == (1 / 9, 1 / 3)
    assert rung_parts(4, keep=2, eta=2) == (0.5,)
    assert rung_parts(4, keep=4, eta=2) == rung_parts(4, keep=0, eta=2) == rung_parts(1, keep=1, eta=3) == ()


def test_a_rung_decides_when_all_have_come_in_whatever_order() -> None:
    losses = {"a": 0.4, "b": 0.1, "c": 0.3, "d": 0.2}
    for order in permutations(losses):
        one = bracket()
        *first, last = (one.arrive(name, losses[name]) for name in order)
        assert first == [None, None, None]
        assert last == Verdict(["b", "d"], ["c", "a"], is_last=False)
        assert [one.next_stop(name) for name in one.left] == [4, 4]


def test_at_the_end_the_best_are_kept() -> None:
    one = bracket(keep=2)
    for name in "abcd":
        one.arrive(name, {"a": 0.2, "b": 0.1, "c": 0.3, "d": float("inf")}[name])
    for _ in range(2):
        one.arrive("a", 0.05)
        verdict = one.arrive("b", 0.09)
    assert verdict == Verdict(["a", "b"], [], is_last=True)


def test_one_that_cannot_go_on_is_not_waited_for() -> None:
    one = bracket()
    for name in "abc":
        assert one.arrive(name, 0.1) is None
    verdict = one.leave("d")
    assert verdict is not None
    assert verdict.stays == ["a", "b"]  # of equal losses the first go on
    assert one.leave("a") is None
    assert one.leave("b") is None


def test_a_bracket_goes_through_json_as_it_is() -> None:
    one = bracket()
    one.arrive("a", 0.1)
    one.arrive("b", float("inf"))
    assert Bracket(**json.loads(json.dumps(asdict(one)))) == one
