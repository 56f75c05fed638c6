"""The part of the runtime that makes pictures while its caller waits."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import EllipsisType

from adapterhub.errors import EmptyPromptError, SettingError
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.draw import OnStep
from adapterhub.runtime.painter import Painter, Picture
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Choice
from adapterhub.runtime.plans import Composable, plans_of
from adapterhub.runtime.records import recorded_inputs, recorded_plan
from adapterhub.runtime.request import Batch, Request, series
from adapterhub.runtime.result import GenerationResult
from adapterhub.runtime.start import Control, Inputs, Start
from adapterhub.runtime.submitting import Submitting
from adapterhub.runtime.turns import TurnLock
from adapterhub_registry.record import GenerationRecord

OnCount = Callable[[int, int], None]
"""Called after each denoising step with (steps done, steps)."""


class Generating(Submitting):
    """Base of `Runtime`; holds no state of its own."""

    _lock: TurnLock
    _planes: Planes
    _painter: Painter

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        composition: Composable | Sequence[Composable] | EllipsisType = ...,
        negative_prompt: str | None = None,
        seed: int | None = None,
        count: int = 1,
        steps: int = 30,
        guidance_scale: float = 5.0,
        width: int | None = None,
        height: int | None = None,
        scheduler: str | None = None,
        plane: str | None = None,
        triggers: str = "off",
        prompt_syntax: str = "weighted",
        start: Start | None = None,
        control: Control | None = None,
        refine_from: float | None = None,
        on_step: OnCount | None = None,
    ) -> GenerationResult:
        """Make pictures in one batch: `count` of each prompt.

        With one prompt and one picture the pixels are those of the stock pipeline called with
        `generator=torch.Generator("cpu").manual_seed(seed)` and the same settings.

        Args:
            prompt: One prompt, or several.
            composition: What acts on these pictures alone, or a list with one for each prompt, which are then
                drawn in one batch, each under its own. Left out it is what `compose` made active.
            negative_prompt: What to avoid, for all; None is SDXL's zero embedding.
            seed: Seed of the first picture, 0 to 2**32 - 1; the others count up. None draws one.
            count: Pictures of each prompt.
            steps: Denoising steps.
            guidance_scale: Classifier-free guidance; 1 or less turns it off.
            width: Pixels, a multiple of 8; by default that of the picture of `start` or `control`, rounded
                down, else what the base was trained for.
            height: Likewise.
            scheduler: One of `adapterhub.runtime.schedulers.SCHEDULERS`; by default the base's own.
            plane: `fused`, `low_rank` or `mixed`; by default the best.
            triggers: Whether the adapters' trigger words are said: `off`, `prepend` or `append`, never twice.
            prompt_syntax: `weighted` reads weights, `BREAK` and `<lora:name:weight>`, `plain` none of them.
            start: The picture that all start from, in place of noise alone; fewer steps are made then.
            control: The picture that steers all of them, through the ControlNet of `load`.
            refine_from: The part of all steps, such as 0.8, after which the refiner of `load` goes on.
            on_step: Called after each denoising step with (steps done, steps).

        Raises:
            EmptyPromptError: The list of prompts is empty.
            InvalidSizeError: A side is not a positive multiple of 8.
            SettingError: Another setting makes no sense.
            PromptError: A weight or a tag in a prompt cannot be read.
            RuntimeClosedError: The runtime was closed.
            AdapterHubError: As `compose`.

        Example:
            >>> from adapterhub.runtime.engine import Runtime
            >>> with Runtime.load("mini", device="cpu") as runtime:
            ...     result = runtime.generate(["a red heart", "a star"], seed=7, steps=2)
            ...     [record.seed for record in result.records]
            [7, 8]
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise EmptyPromptError
        asked = Request(
            "",
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            scheduler=scheduler,
            plane=plane,
            triggers=triggers,
            prompt_syntax=prompt_syntax,
            start=start,
            control=control,
            refine_from=refine_from,
        )
        plans = plans_of(composition, len(prompts))
        counted = None if on_step is None else lambda step: on_step(step.done, step.steps)
        return self.run(series(asked, prompts, plans, count), on_step=counted)

    def run(self, requests: Sequence[Request], *, on_step: OnStep | None = None) -> GenerationResult:
        """Make the pictures of requests that have all settings in common but prompts, seeds and compositions.

        They are one batch, unless their compositions have to act apart.

        Args:
            requests: At least one.
            on_step: Called after each step of each batch; an exception that it raises ends the call.

        Raises:
            AdapterHubError: As `generate`.
        """
        with self._lock:
            pipelines = self._opened
            prepared = [self._prepared(request) for request in requests]
            for request in prepared:
                if request.shared != prepared[0].shared:
                    rule = "its requests must share all other settings"
                    raise SettingError("a batch", len(prepared), rule)
            known: list[ActivePlan] = []
            try:
                plans = [self._activate(request, known) for request in prepared]
                schedulers = pipelines.schedulers(prepared[0].scheduler)
                made = self._painter.paint_all(prepared, plans, schedulers, on_step=on_step)
            finally:
                for active in known:
                    active.release()
        return GenerationResult([image for image, _ in made], [record for _, record in made])

    def reproduce(
        self,
        record: GenerationRecord,
        *,
        inputs: Inputs | None = None,
        on_step: OnCount | None = None,
    ) -> GenerationResult:
        """Make the picture of a record again, in a batch of the recorded shape and at the recorded row.

        The other rows of the batch are filled with the same picture: they decide nothing but the shape.
        `adapterhub.replay` also restores the base, the dtype and the threads, and compares.

        Args:
            record: Of the picture.
            inputs: The pictures that it was made from, if it was; the record has their digests alone.
            on_step: Called after each denoising step with (steps done, steps).

        Raises:
            InputPictureError: One of these pictures is missing, or is another one.
            ValueError: The record says nothing that makes sense.
            AdapterHubError: As `compose`.
        """
        plan = recorded_plan(record)
        batch = Batch.like(record, *recorded_inputs(record, inputs))
        counted = None if on_step is None else lambda step: on_step(step.done, step.steps)
        with self._lock, ExitStack() as held:
            self._opened.check(batch.first)
            schedulers = self._opened.recorded_schedulers(record.scheduler, record.refiner)
            active = self._loader.activate(plan)
            held.callback(active.release)
            choice = Choice("fused" if record.plane == "base" else record.plane, record.plane_reason)
            plans = [active] * len(batch)
            made = self._painter.paint(
                batch, plans, choice, schedulers, rank=record.plane_rank, on_step=counted
            )
        image, again = made[record.batch_row]
        return GenerationResult([image], [again])

    def _activate(self, request: Request, known: list[ActivePlan]) -> ActivePlan:
        """Return what acts on a request: one of those that are known, if it is equal, else it joins them."""
        if request.composition is None:
            return self._planes.composed
        found = next((active for active in known if active.plan == request.composition), None)
        if found is None:
            found = self._loader.activate(request.composition)
            known.append(found)
        return found

    def _paint(
        self, requests: Sequence[Request], plans: Sequence[ActivePlan], choice: Choice, on_step: OnStep
    ) -> list[Picture]:
        schedulers = self._opened.schedulers(requests[0].scheduler)
        return self._painter.paint(Batch(tuple(requests)), plans, choice, schedulers, on_step=on_step)
