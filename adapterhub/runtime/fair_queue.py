"""A queue that is fair between tenants, by what their entries cost: deficit round robin."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
"""What waits; known by its hash."""


@dataclass
class _Tenant(Generic[Item]):
    """What one tenant has waiting.

    Attributes:
        costs: Entries in the order in which they came, and what each costs.
        balance: What it may spend; below 0 for what it was given ahead of its turn.
        overtaken: How often later entries went before the first one.
    """

    costs: dict[Item, int] = field(default_factory=dict)
    balance: int = 0
    overtaken: int = 0

    @property
    def first(self) -> Item:
        return next(iter(self.costs))


class FairQueue(Generic[Item]):
    """Entries of many tenants, taken in batches by deficit round robin (Shreedhar and Varghese, 1995).

    Tenants have turns, one after another. A turn brings `quantum`, and lasts until the tenant cannot pay for
    its first entry. Of tenants that wait all the time, what they were served differs by at most `quantum` and
    the highest cost; batches of `limit` entries may let those whose entries go together be ahead of others by
    another `limit` times `quantum`. It holds no lock and knows no time.

    Args:
        quantum: What a turn brings.
        patience: How many turns a first entry waits at most, if its tenant owes nothing, whatever it costs;
            and how often later entries of its tenant may go before it in a batch.
        limit: Of entries in all.
        tenant_limit: Of entries of one tenant; None for the limit in all.

    Example:
        >>> queue = FairQueue(quantum=10)
        >>> for item, tenant in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        ...     queue.put(item, tenant=tenant, cost=10)
        >>> [queue.take() for _ in range(4)]
        [['a1'], ['b1'], ['a2'], ['a3']]
    """

    def __init__(
        self, quantum: int, *, patience: int = 8, limit: int = 256, tenant_limit: int | None = None
    ) -> None:
        self.limit = limit
        self.tenant_limit = limit if tenant_limit is None else tenant_limit
        self._quantum = quantum
        self._patience = patience
        self._tenants: dict[str, _Tenant[Item]] = {}
        self._turns: deque[str] = deque()
        self._has_begun = False
        self._tenant_of: dict[Item, str] = {}

    def __len__(self) -> int:
        return len(self._tenant_of)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._tenant_of))

    def waiting(self, tenant: str) -> int:
        """Return how many entries of a tenant wait."""
        return len(self._tenants[tenant].costs) if tenant in self._tenants else 0

    def put(self, item: Item, *, tenant: str, cost: int) -> None:
        """Add an entry behind those of its tenant; there must be room.

        Args:
            item: Not yet in the queue.
            tenant: Whose it is.
            cost: At least 1.

        Raises:
            ValueError: It is there already, or one of the limits is reached.
        """
        if item in self._tenant_of:
            raise ValueError(f"{item} is in the queue already")
        if len(self) >= self.limit or self.waiting(tenant) >= self.tenant_limit:
            raise ValueError(f"there is no room for {item}")
        if tenant not in self._tenants:
            self._tenants[tenant] = _Tenant()
            self._turns.append(tenant)
        self._tenants[tenant].costs[item] = cost
        self._tenant_of[item] = tenant

    def remove(self, item: Item) -> bool:
        """Take an entry out that shall not be served; return whether it was there."""
        if item not in self._tenant_of:
            return False
        self._drop(item)
        self._forget()
        return True

    def take(self, limit: int = 1, compatible: Callable[[Item, Item], bool] | None = None) -> list[Item]:
        """Take the next entry, and others for one batch with it, each charged to its own tenant.

        The others are those of the tenants with the highest balance.

        Args:
            limit: Entries at most.
            compatible: Whether the next entry and another one can be made together; None if none can.

        Returns:
            The entries, the next one first; empty if nothing waits.
        """
        if not self._tenant_of:
            return []
        first = self._next()
        taken = [first]
        self._serve(first)
        fitting = {
            name: deque(item for item in tenant.costs if compatible is not None and compatible(first, item))
            for name, tenant in self._tenants.items()
        }
        while len(taken) < limit:
            name = self._next_to_join(fitting, ahead=limit * self._quantum)
            if name is None:
                break
            taken.append(fitting[name].popleft())
            self._serve(taken[-1])
        self._forget()
        return taken

    def _next(self) -> Item:
        """Return the entry that is due, after as many turns as it takes."""
        self._skip_idle_rounds()
        while True:
            tenant = self._tenants[self._turns[0]]
            if not self._has_begun:
                self._has_begun = True
                tenant.balance += self._quantum
            if tenant.costs and self._shortfall(tenant) <= 0:
                return tenant.first
            self._end_turn()

    def _skip_idle_rounds(self) -> None:
        """Give everybody the turns in which nobody could pay: there may be very many."""
        rounds = min(-(-self._shortfall(tenant) // self._quantum) for tenant in self._with_entries)
        for tenant in self._tenants.values():
            tenant.balance += max(rounds - 1, 0) * self._quantum

    def _shortfall(self, tenant: _Tenant[Item]) -> int:
        """Return what a tenant lacks for its first entry."""
        return min(tenant.costs[tenant.first], self._patience * self._quantum) - tenant.balance

    def _next_to_join(self, fitting: dict[str, deque[Item]], *, ahead: int) -> str | None:
        """Return the tenant whose entry joins a batch next: the one that was served least."""
        able = [
            name
            for name, items in fitting.items()
            if items and (items[0] == self._tenants[name].first or self._may_overtake(name))
        ]
        if not able:
            return None
        name = max(able, key=lambda one: self._tenants[one].balance)
        highest = max(tenant.balance for tenant in self._with_entries)
        return name if self._tenants[name].balance >= highest - ahead else None

    def _may_overtake(self, name: str) -> bool:
        return self._tenants[name].overtaken < self._patience

    @property
    def _with_entries(self) -> list[_Tenant[Item]]:
        return [tenant for tenant in self._tenants.values() if tenant.costs]

    def _serve(self, item: Item) -> None:
        tenant = self._tenants[self._tenant_of[item]]
        tenant.balance -= tenant.costs[item]
        if item != tenant.first:
            tenant.overtaken += 1
        self._drop(item)

    def _drop(self, item: Item) -> None:
        tenant = self._tenants[self._tenant_of.pop(item)]
        if item == tenant.first:
            tenant.overtaken = 0
        del tenant.costs[item]

    def _end_turn(self) -> None:
        self._turns.rotate(-1)
        self._has_begun = False
        self._forget()

    def _forget(self) -> None:
        """Forget tenants that have nothing waiting, once they have paid; what they have left is lost."""
        gone = {
            name
            for name, tenant in self._tenants.items()
            if not tenant.costs and (tenant.balance >= 0 or not self._tenant_of)
        }
        if self._turns and self._turns[0] in gone:
            self._has_begun = False
        for name in gone:
            del self._tenants[name]
            self._turns.remove(name)
