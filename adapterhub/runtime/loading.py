"""Plans with their adapters: resolved in the registry, read, checked, and held while they act."""

import logging
from collections.abc import Callable
from functools import partial

from adapterhub.bases.find import Base
from adapterhub.errors import ArchitectureError
from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors
from adapterhub.runtime.active import ActivePlan, LoadedAdapter
from adapterhub.runtime.leases import Lease
from adapterhub.runtime.residency import ResidentSet
from adapterhub.runtime.schedule import Plan, terms_of
from adapterhub_registry.manifest import Version
from adapterhub_registry.references import Reference
from adapterhub_registry.store import Registry

logger = logging.getLogger(__name__)


class Loader:
    """Makes plans active.

    Args:
        registry: Returns where adapters are found.
        base: What they must fit.
        check: Raises if one changes what the pipeline does not have.
        resident: Keeps them at hand.
    """

    def __init__(
        self,
        registry: Callable[[], Registry],
        base: Base,
        check: Callable[[str, AdapterTensors], None],
        resident: ResidentSet,
    ) -> None:
        self._registry = registry
        self._base = base
        self._check = check
        self.resident = resident
        self._warned: set[str] = set()

    def activate(self, plan: Plan) -> ActivePlan:
        """Return a plan with its adapters; `ActivePlan.release` lets them go.

        Raises:
            AdapterHubError: As `Runtime.compose`; nothing is held then.
        """
        loaded: dict[Reference, LoadedAdapter] = {}
        leases: list[Lease] = []
        try:
            for reference in dict.fromkeys(term.reference for term in terms_of(plan)):
                version = self.resolve(reference)
                leases.append(
                    self.resident.lease(version.digest, lambda version=version: self._read(version))
                )
                loaded[reference] = LoadedAdapter(version, leases[-1].tensors)
            return ActivePlan(plan, loaded, tuple(leases))
        except BaseException:
            for lease in leases:
                lease.release()
            raise

    def prefetch(self, plan: Plan) -> None:
        """Begin to read a plan's adapters in the background; errors come when it is made active."""
        for reference in dict.fromkeys(term.reference for term in terms_of(plan)):
            version = self.resolve(reference)
            self.resident.prefetch(version.digest, partial(self._read, version))

    def resolve(self, reference: Reference) -> Version:
        """Return the version that is meant, whose adapter fits the base's architecture.

        Raises:
            AdapterNotFoundError, VersionNotFoundError: The reference names nothing.
            ArchitectureError: It is for another architecture.
        """
        version = self._registry().resolve(reference)
        if version.architecture != self._base.architecture:
            raise ArchitectureError(version.architecture, self._base.architecture)
        is_other = version.base_identity and self._base.identity != version.base_identity
        if is_other and self._base.identity and version.digest not in self._warned:
            self._warned.add(version.digest)
            logger.warning("%s was made on another checkpoint of %s", version.reference, version.architecture)
        return version

    def _read(self, version: Version) -> AdapterTensors:
        tensors = read_adapter(self._registry().payload(version))
        self._check(version.reference, tensors)
        tensors.require_finite(version.reference)
        return tensors
