"""Pictures that are wanted: whether one is there already, by what its record says."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adapterhub.bases.load import dtype_name
from adapterhub.errors import ArchitectureError, RecordError
from adapterhub.runtime.composition import Composition, Term
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.environment import library_versions, processor_name
from adapterhub.runtime.records import recorded_plan
from adapterhub.runtime.schedule import Plan, terms_of
from adapterhub.runtime.schedulers import make_scheduler, scheduler_record
from adapterhub_registry.files import readable_stem
from adapterhub_registry.record import GenerationRecord, read_record
from adapterhub_registry.references import Reference

MACHINE = ("processor", "threads", "versions")
"""What decides bytes without being asked for."""


@dataclass(frozen=True)
class WantedCell:
    """One picture that is wanted.

    Attributes:
        prompt: What to draw.
        seed: Of the starting noise.
        settings: What its record has to say beside these two and the adapters.
        plan: What to compose, every version by its digest.
        folder: Where it lies.
    """

    prompt: str
    seed: int
    settings: Mapping[str, Any]
    plan: Plan
    folder: Path

    @property
    def path(self) -> Path:
        """Where it lies; what was asked for decides the name, and the machine does not."""
        asked = {name: value for name, value in self.settings.items() if name not in MACHINE}
        terms = [[str(term), dict(term.components)] for term in terms_of(self.plan)]
        kind = [type(self.plan).__name__, getattr(self.plan, "every", None)]
        text = json.dumps([asked, self.prompt, self.seed, kind, terms], sort_keys=True)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return self.folder / f"{readable_stem(self.prompt)}-{self.seed}-{digest}.png"

    def is_there(self) -> bool:
        """Say whether the file holds what drawing it now would give."""
        try:
            record = read_record(self.path)
            return self._is_said_by(record) and _is_composed(record, self.plan)
        except (RecordError, ValueError):
            return False

    def _is_said_by(self, record: GenerationRecord) -> bool:
        said = asdict(record) | {"base": record.base.identity}
        wanted = {**self.settings, "prompt": self.prompt, "seed": self.seed}
        return all(said[name] == value for name, value in wanted.items())


def wanted_settings(
    runtime: Runtime,
    *,
    negative_prompt: str | None,
    steps: int,
    guidance_scale: float,
    width: int | None,
    height: int | None,
    scheduler: str | None,
) -> Mapping[str, Any]:
    """Return what the record of a picture would say beside prompt, seed and adapters, made alone here.

    The arguments are those of `Runtime.generate`.

    Raises:
        SettingError: There is no such scheduler.
    """
    own = runtime.pipeline.scheduler
    settings = {
        "base": runtime.base.identity,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "width": runtime.default_size if width is None else width,
        "height": runtime.default_size if height is None else height,
        "scheduler": scheduler_record(own if scheduler is None else make_scheduler(scheduler, own.config)),
        "device": runtime.device.type,
        "processor": processor_name(runtime.device),
        "dtype": dtype_name(runtime.dtype),
        "threads": torch.get_num_threads(),
        "batch_size": 1,
        "batch_row": 0,
        "versions": library_versions(),
    }
    return json.loads(json.dumps(settings))  # as it is read from a record


def pinned(runtime: Runtime, composition: Composition) -> Composition:
    """Return a composition that names every version by its digest.

    Raises:
        AdapterNotFoundError, VersionNotFoundError: A reference names nothing.
        ArchitectureError: An adapter is for another architecture than the runtime's base.
    """
    terms: list[Term] = []
    for term in composition.terms:
        version = runtime.registry.resolve(term.reference)
        if version.architecture != runtime.base.architecture:
            raise ArchitectureError(version.architecture, runtime.base.architecture)
        exact = Reference(term.reference.namespace, term.reference.name, version.digest)
        terms.append(replace(term, reference=exact))
    return Composition(tuple(terms))


def _is_composed(record: GenerationRecord, plan: Plan) -> bool:
    """Say whether a record names the adapters and strengths of a plan."""
    made = recorded_plan(record)
    pairs = list(zip(terms_of(made), terms_of(plan), strict=True))
    return (
        type(made) is type(plan)
        and getattr(made, "every", None) == getattr(plan, "every", None)
        and all(
            one.reference.selector == other.reference.selector
            and one.blocks == other.blocks
            and all(other.strength(component) == value for component, value in one.components.items())
            for one, other in pairs
        )
    )
