"""The part of the runtime that takes jobs."""

import math
from dataclasses import replace
from types import EllipsisType
from typing import TYPE_CHECKING, TypedDict, Unpack

from adapterhub.errors import RuntimeClosedError, SettingError
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.jobs import Job
from adapterhub.runtime.loading import Loader
from adapterhub.runtime.pipelines import Pipelines
from adapterhub.runtime.planner import check_plane
from adapterhub.runtime.plans import Composable, pinned, plan_of
from adapterhub.runtime.prompting import extract_adapters, with_triggers
from adapterhub.runtime.regions import Regions
from adapterhub.runtime.request import Request
from adapterhub.runtime.schedule import terms_of, with_terms
from adapterhub.runtime.schedulers import check_scheduler
from adapterhub.runtime.start import Control, Start
from adapterhub.runtime.worker import Worker
from adapterhub_registry.manifest import Version
from adapterhub_registry.references import Reference
from adapterhub_registry.store import Registry


class Settings(TypedDict, total=False):
    """What `Runtime.generate` takes for one picture; see there."""

    negative_prompt: str | None
    seed: int | None
    steps: int
    guidance_scale: float
    width: int | None
    height: int | None
    scheduler: str | None
    plane: str | None
    triggers: str
    prompt_syntax: str
    start: Start | None
    control: Control | None
    refine_from: float | None


class Submitting:
    """Base of `Runtime`; holds no state of its own."""

    _pipelines: Pipelines | None
    _worker: Worker
    _composed: tuple[ActivePlan, str]
    _loader: Loader
    _registry: Registry | None

    if TYPE_CHECKING:

        @property
        def default_size(self) -> int:
            """See `Runtime`."""
            ...

    def submit(
        self,
        prompt: str | Request,
        *,
        composition: Composable | EllipsisType = ...,
        tenant: str = "",
        deadline_s: float | None = None,
        preview_every: int = 0,
        **settings: Unpack[Settings],
    ) -> Job:
        """Ask for one picture, and go on; from any thread or task.

        A worker thread makes the pictures of all jobs, those together that can be. It is fair between tenants
        by what their pictures cost (steps by pixels). `generate` and `compose` have their turn between
        batches. Everything that can be checked without reading weights is checked now, and versions are
        resolved now: an alias that moves later changes nothing.

        Args:
            prompt: What to draw, or a request with its settings.
            composition: What acts on the picture; left out, it is what is composed now, or the request's.
            tenant: For whom.
            deadline_s: After how many seconds it is too late, in the queue or between steps; None for never.
            preview_every: Make a preview every so many steps; 0 for none.
            **settings: As `generate` takes them; they go before the request's own.

        Returns:
            The job: `await` it or call its `result`, watch its `progress()`, or `cancel` it.

        Raises:
            QueueFullError: Too many jobs wait, of all or of this tenant.
            SettingError: A setting makes no sense.
            RuntimeClosedError: The runtime was closed.
            AdapterHubError: As `compose`.

        Example:
            >>> from adapterhub.runtime.engine import Runtime
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     jobs = [runtime.submit(name, seed=7, steps=2) for name in ("a star", "a red heart")]
            ...     [job.result().images[0].size for job in jobs]
            [(64, 64), (64, 64)]
        """
        request = replace(prompt if isinstance(prompt, Request) else Request(prompt), **settings)
        if not isinstance(composition, EllipsisType):
            request = replace(request, composition=plan_of(composition))
        request = self._prepared(request)
        if deadline_s is not None and not (deadline_s > 0 and math.isfinite(deadline_s)):
            raise SettingError("the deadline", deadline_s, "it must be a number of seconds above 0")
        if preview_every < 0:
            raise SettingError("the steps between previews", preview_every, "it must be at least 0")
        job = Job(
            self._pinned(request),
            tenant=tenant,
            deadline_s=deadline_s,
            preview_every=preview_every,
            on_cancel=self._worker.withdraw,
        )
        self._worker.submit(job)
        return job

    @property
    def _opened(self) -> Pipelines:
        if self._pipelines is None:
            raise RuntimeClosedError
        return self._pipelines

    def _prepared(self, request: Request) -> Request:
        """Return a request with a seed, a size, and a prompt without tags and with trigger words.

        All that needs no weights is checked. A composition that is left out stays so, for what is composed.
        """
        request = request.completed(self.default_size)
        self._opened.check(request)
        check_plane(request.plane)
        if request.scheduler is not None:
            check_scheduler(request.scheduler)
        plan = request.composition
        prompt = request.prompt
        if request.prompt_syntax == "weighted":
            prompt, named = extract_adapters(prompt, self._registry)
            if named.terms:
                plan = with_terms(self._composed[0].plan if plan is None else plan, named)
        if isinstance(plan, Regions):
            plan.check_size(request.width or 0, request.height or 0)
        if request.triggers != "off":
            active = self._composed[0]
            terms = terms_of(active.plan if plan is None else plan)
            versions = {one: self._version(one, active) for one in (term.reference for term in terms)}
            words = [word for version in versions.values() for word in version.trigger_words]
            prompt = with_triggers(prompt, words, request.triggers, syntax=request.prompt_syntax)
        return replace(request, prompt=prompt, composition=plan, triggers="off")

    def _pinned(self, request: Request) -> Request:
        """Return a prepared request that names what acts on it, each version by its digest."""
        if request.composition is not None:
            plan = pinned(request.composition, lambda reference: self._loader.resolve(reference).digest)
            return replace(request, composition=plan)
        active, plane = self._composed
        plan = pinned(active.plan, lambda reference: active.loaded[reference].version.digest)
        return replace(
            request, composition=plan, plane=request.plane or (None if plane == "fused" else plane)
        )

    def _version(self, reference: Reference, active: ActivePlan) -> Version:
        known = active.loaded.get(reference)
        return self._loader.resolve(reference) if known is None else known.version
