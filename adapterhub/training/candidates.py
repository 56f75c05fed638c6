"""The candidates of a sweep while they are trained: where each is compared, and who waits without a slot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from adapterhub.training.checkpoint import AdapterState, Checkpoint, restore_training, state_of
from adapterhub.training.executor import Training
from adapterhub.training.halving import Bracket, Verdict
from adapterhub.training.plan import AdapterPlan
from adapterhub.training.sweep_config import SweepRules


class Candidates:
    """Those of one run, with a bracket for each adapter.

    Args:
        items: All of them, by name.
        rules: How they are compared.

    Attributes:
        aside: Who is in training without a slot, by name.
    """

    def __init__(self, items: Mapping[str, AdapterPlan], rules: SweepRules) -> None:
        self._adapters = {name: item.config.name for name, item in items.items()}
        self._brackets: dict[str, Bracket] = {}
        self.aside: dict[str, AdapterState] = {}
        for adapter in dict.fromkeys(self._adapters.values()):
            own = {name: item.candidate for name, item in items.items() if item.config.name == adapter}
            parts = rules.parts(len(own))
            stops = {name: candidate.stops(parts) for name, candidate in own.items() if candidate}
            self._brackets[adapter] = Bracket(stops, rules.keep, rules.eta, list(stops))

    @property
    def state(self) -> list[dict[str, Any]]:
        """How far they are, for a checkpoint that holds those who are aside too."""
        return [asdict(bracket) for bracket in self._brackets.values()]

    def restore(self, found: Checkpoint) -> Sequence[str]:
        """Take up what a checkpoint holds, and return who waits for others to come as far."""
        brackets = (Bracket(**row) for row in found.brackets)
        self._brackets = dict(zip(self._brackets, brackets, strict=True))
        self.aside = {state.name: state for state in found.aside}
        arrived = [name for bracket in self._brackets.values() for name in bracket.arrived]
        names = dict.fromkeys([*self.aside, *arrived])
        return [name for name in names if name not in found.waiting and name not in found.ended]

    def place(self, training: Training) -> None:
        """Let a candidate that has got a slot go on from where it was, as far as it is compared next."""
        name = training.trainee.name
        training.until = self._bracket(name).next_stop(name)
        if name in self.aside:
            restore_training(training, self.aside.pop(name))

    def arrive(self, training: Training, loss: float) -> Verdict | None:
        """Note the loss of a candidate at its stop, and put it aside; see `Bracket.arrive`."""
        name = training.trainee.name
        if training.step < training.trainee.steps:
            self.aside[name] = state_of(training)
        return self._bracket(name).arrive(name, loss)

    def leave(self, name: str) -> Verdict | None:
        """Take out a candidate that cannot go on; see `Bracket.leave`."""
        return self._bracket(name).leave(name)

    def step(self, name: str) -> int:
        """Return the step at which a candidate was compared last."""
        bracket = self._bracket(name)
        rung = max(number for number, losses in enumerate(bracket.losses) if name in losses)
        return bracket.stops[name][rung]

    def _bracket(self, name: str) -> Bracket:
        return self._brackets[self._adapters[name]]
