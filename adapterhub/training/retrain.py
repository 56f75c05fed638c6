"""Train a version again from what is recorded of it."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub.bases.find import Base, find_base, list_bases
from adapterhub.errors import BaseNotFoundError, ConfigError, RetrainError, ScoreModelError
from adapterhub.settings import Launch
from adapterhub.training.config import TrainConfig, config_document
from adapterhub.training.environment import environment
from adapterhub.training.overrides import set_values
from adapterhub.training.plan import GroupPlan, make_plan
from adapterhub.training.processes import Processes
from adapterhub.training.record import CONFIG, DATA, RUN
from adapterhub.training.run import OnProgress, Run
from adapterhub.training.scores import KINDS, require_score_model
from adapterhub.training.settings_file import read_settings
from adapterhub.training.stopping import Stop
from adapterhub.training.tables import Problems
from adapterhub.training.train import open_site
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrainPlan:
    """What would be trained again.

    Attributes:
        version: The version that it is from.
        config: Its config, with what was changed.
        group: What would happen.
        differences: What is not as it was recorded, a sentence each; if nothing is, the bytes come
            out equal.
    """

    version: Version
    config: TrainConfig
    group: GroupPlan
    differences: Sequence[str]


@dataclass(frozen=True)
class Retrained:
    """What came of it.

    Attributes:
        version: The new one, or that which was there if its bytes came out again.
        is_same: Whether they did.
        differences: As those of the plan.
    """

    version: Version
    is_same: bool
    differences: Sequence[str]


def plan_retrain(
    reference: str,
    *,
    registry: Registry,
    overrides: Sequence[str] = (),
    data: Sequence[Path] = (),
    resume: str | None = None,
) -> RetrainPlan:
    """Read what is recorded of a version, and check base and data against it; nothing is trained.

    Args:
        reference: Of a version that `train`, `sweep` or `retrain` made.
        registry: Where it is, and the new one would be.
        overrides: Values to put in place of the recorded ones, such as `steps=200`, `network.rank=8` or
            `base.device=cpu`.
        data: Folders of its pictures, one for each that it had, if they are elsewhere now.
        resume: A run's name, or `latest`.

    Raises:
        RetrainError: It was not trained here, its record does not say enough, or base or data differ.
        ConfigError: An override is wrong.
        AdapterHubError: As `plan`.
    """
    version = registry.resolve(reference)
    documents = {item.name: registry.read(item.sha256) for item in registry.documents(version)}
    missing = [name for name in (CONFIG, DATA, RUN) if name not in documents]
    if missing:
        why = f"no {' and no '.join(missing)} lies beside it; push and pull carry them with --with-data alone"
        raise RetrainError(version.reference, [why])
    table, is_known = _table(version, documents, registry, data)
    left_out = _leave_out_models(table)
    base = _base(version, table)
    source = f"the record of {version.reference}"
    recorded = TrainConfig.from_table(table, source=source, folder=Path())
    problems = Problems(source, {})
    changed = set_values(table, overrides, problems, within=("adapters", 0), above=("base", "group"))
    problems.check()
    config = TrainConfig.from_table(changed, source=source, folder=Path(), places=problems.places)
    if config.adapters[0].name.lower() != version.name:
        raise ConfigError(source, [f"name must stay {version.name}: it becomes the next version of that"])
    if config.base.model != recorded.base.model:
        base = find_base(config.base.model)
    (group,) = make_plan(config, base, registry=registry, resume=resume)
    wrong, differences = _differences(version, documents, recorded, config, group, base)
    if wrong:
        raise RetrainError(version.reference, wrong)
    chosen = config.adapters[0].validation
    differences += [why for kind, why in left_out.items() if getattr(chosen, kind) is None]
    if not is_known:
        differences.append("prompts and the like come from its previews: they are not recorded beside it")
    return RetrainPlan(version, config, group, differences)


def retrain(
    reference: str,
    *,
    registry: Registry,
    overrides: Sequence[str] = (),
    data: Sequence[Path] = (),
    resume: str | None = None,
    on_progress: OnProgress | None = None,
) -> Retrained:
    """Train a version again; it becomes the next one, `retrained` from it, unless its bytes come out equal.

    Args:
        reference: See `plan_retrain`, and of the other arguments too.
        registry: Where versions go.
        overrides: Values to change.
        data: Folders of its pictures.
        resume: A run's name, or `latest`.
        on_progress: Called after each step.

    Raises:
        AdapterHubError: As `plan_retrain` and `train`.
    """
    plan = plan_retrain(reference, registry=registry, overrides=overrides, data=data, resume=resume)
    base = find_base(plan.config.base.model)
    with open_site(plan.config, base, registry=registry) as site, Stop(Processes(Launch())) as stop:
        run = Run(plan.group, site, on_progress, again=plan.version)
        run.train(stop, is_resumed=plan.group.is_resumed)
    if run.failed:
        raise run.failed[0]
    (made,) = run.versions.values()
    return Retrained(made, made.files == plan.version.files, plan.differences)


def _table(
    version: Version, documents: Mapping[str, bytes], registry: Registry, data: Sequence[Path]
) -> tuple[dict[str, Any], bool]:
    """Return the config as a config file has it, and whether all of it was recorded on this machine.

    What decides the weights lies beside the version; where the pictures were, what was drawn and on which
    device is known to the run's directory alone.
    """
    recorded: dict[str, Any] = json.loads(documents[CONFIG])
    del recorded["base"]
    run = json.loads(documents[RUN])
    known = read_settings(registry.home, _digests(documents))
    adapter = registry.show(version.name)
    if known is not None:
        base, own = dict(known["base"]), known["adapter"]
    else:
        shown = registry.previews(version)
        drawn = {"prompts": [item.prompt for item in shown], "seed": shown[0].seed or 0} if shown else {}
        base, own = {}, {"validation": drawn, "data": [{} for _ in recorded["data"]]}
    if data and len(data) != len(recorded["data"]):
        why = f"it has {len(recorded['data'])} folders of pictures, and {len(data)} are given with --data"
        raise RetrainError(version.reference, [why])
    folders = [{**said, **there} for said, there in zip(recorded.pop("data"), own["data"], strict=True)]
    for folder, path in zip(folders, data, strict=False):
        folder["path"] = str(path.resolve())
    if any("path" not in folder for folder in folders):
        why = "where its pictures are is not known here; say it with --data DIR"
        raise RetrainError(version.reference, [why])
    recorded["validation"] = {**own["validation"], **recorded["validation"]}
    recorded |= {"data": folders, "kind": adapter.kind, "licence": version.manifest.licence}
    base["threads"] = int(run["environment"]["threads"])
    return {"base": base, "adapters": [recorded]}, known is not None


def _leave_out_models(table: dict[str, Any]) -> dict[str, str]:
    """Take models that are not there any more out of a config, and say so by kind: they decide no weight."""
    validation, told = table["adapters"][0]["validation"], dict[str, str]()
    for kind in KINDS:
        path = validation.get(kind)
        if path is None:
            continue
        try:
            require_score_model(Path(path), kind)
        except ScoreModelError as exc:
            del validation[kind]
            told[kind] = f"nothing is scored by {kind}, as it was: {exc}"
    return told


def _base(version: Version, table: dict[str, Any]) -> Base:
    """Return the base, and put its name into the config.

    Raises:
        RetrainError: None of those that are there is the one.
    """
    if "model" in table["base"]:
        with suppress(BaseNotFoundError):  # it may lie elsewhere now
            return find_base(table["base"]["model"])
    for base in list_bases():
        if base.identity == version.base_identity:
            table["base"]["model"] = base.name
            return base
    why = f"no base here has the identity {version.base_identity[:19]}; adapterhub bases list shows them"
    raise RetrainError(version.reference, [why])


def _digests(documents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(documents[name]).hexdigest() for name in (CONFIG, DATA)}


def _differences(
    version: Version,
    documents: Mapping[str, bytes],
    recorded: TrainConfig,
    config: TrainConfig,
    group: GroupPlan,
    base: Base,
) -> tuple[list[str], list[str]]:
    """Return what differs without being asked for, which is wrong, and what else makes other bytes."""
    wrong: list[str] = []
    differences: list[str] = []
    is_other_base = config.base.model != recorded.base.model
    if base.identity != version.base_identity:
        said = f"the base {base.name} is {base.identity[:19]}, and was {version.base_identity[:19]}"
        (differences if is_other_base else wrong).append(said)
    (item,) = group.items
    before, after = (
        (own.sources, own.validation.held_out, own.resolution, own.buckets, own.no_upscale)
        for own in (recorded.adapters[0], config.adapters[0])
    )
    asked = before != after or is_other_base
    changed = _data_changes(documents[DATA], item.dataset.manifest())
    (differences if asked else wrong).extend(changed)
    now, then = (
        json.loads(config_document(one.adapters[0], base_identity=version.base_identity))
        for one in (config, recorded)
    )
    differences += [f"{key} is {now[key]}, and was {then[key]}" for key in then if now[key] != then[key]]
    run = json.loads(documents[RUN])
    libraries = {**environment(), "threads": str(config.base.threads), "processes": "1"}
    differences += [
        f"{name} is {libraries[name]}, and was {value}"
        for name, value in run["environment"].items()
        if libraries.get(name, value) != value
    ]
    if len(run["group"]) > 1:
        differences.append(
            f"it was trained together with {len(run['group']) - 1} others, and alone now: it rounds otherwise"
        )
    return wrong, differences


def _data_changes(then: bytes, now: bytes) -> list[str]:
    """Return how a data set differs from its manifest, a sentence for each picture."""
    if then == now:
        return []
    before, after = ({row["file"]: row for row in json.loads(one)["pictures"]} for one in (then, now))
    told = [f"{name} is gone" for name in before if name not in after]
    told += [f"{name} is new" for name in after if name not in before]
    for name in before.keys() & after.keys():
        keys = sorted(before[name].keys() | after[name].keys())
        other = [key for key in keys if before[name].get(key) != after[name].get(key)]
        what = "picture" if other == ["sha256"] else ", ".join(other)
        told += [f"{name} has another {what}"] if other else []
    return sorted(told) or ["the pictures stand in another order"]
