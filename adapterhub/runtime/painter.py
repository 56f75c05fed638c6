"""Completed requests with what acts on them, into batches, into pictures with their records."""

from collections.abc import Sequence

import torch
from PIL import Image

from adapterhub.bases.find import Base
from adapterhub.bases.load import dtype_name
from adapterhub.bases.prompts import PromptCache, count_tokens
from adapterhub.runtime.active import ActivePlan
from adapterhub.runtime.composition import BASE
from adapterhub.runtime.draw import OnStep, draw
from adapterhub.runtime.environment import library_versions, processor_name
from adapterhub.runtime.pipelines import Pipelines, Schedulers
from adapterhub.runtime.planes import Planes
from adapterhub.runtime.planner import Choice, Planner
from adapterhub.runtime.records import plan_fields
from adapterhub.runtime.request import Batch, Request
from adapterhub.runtime.schedulers import scheduler_record
from adapterhub_registry.record import BaseRecord, GenerationRecord

Picture = tuple[Image.Image, GenerationRecord]


class Painter:
    """Draws on the pipelines of one base.

    Args:
        pipelines: All of them.
        base: What the stock one was loaded from.
        planes: Of the stock one.
        planner: Chooses one of them.
    """

    def __init__(self, pipelines: Pipelines, base: Base, planes: Planes, planner: Planner) -> None:
        self._pipelines = pipelines
        self._base = base
        self._planes = planes
        self._planner = planner
        self._prompts = PromptCache(pipelines.stock, device=pipelines.device)

    def paint_all(
        self,
        requests: Sequence[Request],
        plans: Sequence[ActivePlan],
        schedulers: Schedulers,
        *,
        on_step: OnStep | None = None,
    ) -> list[Picture]:
        """Draw requests that share their settings, in as few batches as their compositions allow.

        Args:
            requests: Completed.
            plans: What acts on each; equal plans are one object.
            schedulers: Used in place of the pipelines' own.
            on_step: Called after each step of each batch.

        Returns:
            In the order of the requests.
        """
        made: dict[int, Picture] = {}
        for rows, choice in self.batches(requests, plans):
            batch = Batch(tuple(requests[row] for row in rows))
            pictures = self.paint(batch, [plans[row] for row in rows], choice, schedulers, on_step=on_step)
            made |= dict(zip(rows, pictures, strict=True))
        return [made[row] for row in sorted(made)]

    def paint(
        self,
        batch: Batch,
        plans: Sequence[ActivePlan],
        choice: Choice,
        schedulers: Schedulers,
        *,
        rank: int = 0,
        on_step: OnStep | None = None,
    ) -> list[Picture]:
        """Draw one batch.

        Args:
            batch: What to draw.
            plans: One for each picture; on other planes than the mixed one all are the same.
            choice: The plane.
            schedulers: Used in place of the pipelines' own.
            rank: To which the mixed plane pads factors, at least.
            on_step: Called after each step.
        """
        drawn = draw(
            self._pipelines,
            batch,
            plans if choice.plane == "mixed" else plans[:1],
            planes=self._planes,
            plane=choice.plane,
            prompts=self._prompts,
            schedulers=schedulers,
            rank=rank,
            on_step=on_step,
        )
        if drawn.step_seconds and batch.first.control is None:  # a ControlNet's time is not a plane's
            self._planner.observe(choice.plane, len(batch), batch.width * batch.height, drawn.step_seconds)
        stock = self._pipelines.stock
        device = self._pipelines.device
        is_base = choice.plane == "fused" and plans[0].plan == BASE
        shared = {
            "base": BaseRecord(self._base.name, self._base.architecture, self._base.identity),
            "scheduler": scheduler_record(schedulers.base),
            "device": device.type,
            "processor": processor_name(device),
            "dtype": dtype_name(stock.unet.dtype),
            "threads": torch.get_num_threads(),
            "plane": "base" if is_base else choice.plane,
            "plane_reason": "" if is_base else choice.why,
            "plane_rank": drawn.rank,
            "reserved_rank": self._planes.reserved_rank,
            "compiled": drawn.compiler,
            "versions": library_versions(),
        }
        own = [self._pipelines.fields(request, schedulers) for request in batch.requests]
        return [
            (image, GenerationRecord(**shared, **plan_fields(plan), **batch.fields(row), **own[row]))
            for row, (image, plan) in enumerate(zip(drawn.images, plans, strict=True))
        ]

    def batches(
        self, requests: Sequence[Request], plans: Sequence[ActivePlan]
    ) -> list[tuple[list[int], Choice]]:
        """Return the rows of each batch that completed requests are made in, and where its plans act.

        Pictures whose prompts have other numbers of chunks are no batch: padding would change them.
        """
        by_length: dict[int, list[int]] = {}
        for row, request in enumerate(requests):
            by_length.setdefault(self._chunks(request), []).append(row)
        return [batch for rows in by_length.values() for batch in self._planned(rows, requests, plans)]

    def _planned(
        self, rows: Sequence[int], requests: Sequence[Request], plans: Sequence[ActivePlan]
    ) -> list[tuple[list[int], Choice]]:
        by_plan: dict[int, list[int]] = {}
        for row in rows:
            by_plan.setdefault(id(plans[row]), []).append(row)
        first = requests[rows[0]]
        size = {"pictures": len(rows), "pixels": (first.width or 0) * (first.height or 0)}
        different = [plans[group[0]] for group in by_plan.values()]
        asked = first.plane
        is_composed = len(different) == 1 and different[0] is self._planes.composed
        if asked is None and is_composed and self._planes.plane != "fused":
            asked = self._planes.plane
        choice = self._planner.choose(different, **size, asked=asked)
        if choice.together:
            return [([*rows], choice)]
        asked = None if asked == "mixed" else asked
        return [
            (group, self._planner.choose([plans[group[0]]], **size, asked=asked))
            for group in by_plan.values()
        ]

    def _chunks(self, request: Request) -> int:
        texts = [request.prompt, request.negative_prompt or ""]
        return max(
            count_tokens(self._pipelines.stock, text, syntax=request.prompt_syntax).chunks for text in texts
        )
