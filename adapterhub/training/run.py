"""One run: adapters that are trained together, with checkpoints, and registered one by one."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.compiled import CompiledBlocks, compiler_name
from adapterhub.bases.find import Base
from adapterhub.errors import TrainingError, TrainingStoppedError
from adapterhub.training.bank import LoraBank
from adapterhub.training.candidates import Candidates
from adapterhub.training.checkpoint import (
    Checkpoint,
    Ended,
    load_checkpoint,
    restore,
    save_checkpoint,
    state_of,
)
from adapterhub.training.config import TrainConfig, config_document
from adapterhub.training.environment import environment
from adapterhub.training.executor import Events, Executor, Network, Trainee, Training
from adapterhub.training.halving import NOT_KEPT, STOPPED, Verdict
from adapterhub.training.loading import IdleParts, idle_parts
from adapterhub.training.objective import ObjectiveTable
from adapterhub.training.observer import Observer
from adapterhub.training.peft_network import PeftNetwork
from adapterhub.training.plan import GroupPlan
from adapterhub.training.progress import OnProgress as OnProgress
from adapterhub.training.progress import Progress as Progress
from adapterhub.training.record import CONFIG, DATA, RUN, Record
from adapterhub.training.report import NAME
from adapterhub.training.rows import AdapterRows, Encoder
from adapterhub.training.runs import held_run, run_directory
from adapterhub.training.scores import ScoreModels
from adapterhub.training.settings_file import write_settings
from adapterhub.training.spread import Spread
from adapterhub.training.stopping import Stop
from adapterhub.training.text import TEXT_ENCODERS, CaptionEncoder
from adapterhub.training.weights_file import weights_bytes
from adapterhub_registry.files import write_atomically
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline


@dataclass(frozen=True)
class Site:
    """What all runs of a training share.

    Attributes:
        base: What is trained on.
        config: What is trained.
        pipeline: Of the base.
        idle: Likewise.
        encoder: Likewise.
        registry: Where versions go; runs lie in its home.
        score_models: That sample pictures are scored with.
    """

    base: Base
    config: TrainConfig
    pipeline: "StableDiffusionXLPipeline"
    idle: IdleParts
    encoder: Encoder
    registry: Registry
    score_models: ScoreModels


class Run:
    """Adapters that are trained together.

    Args:
        group: Which.
        site: Where.
        on_progress: Called after each step of an adapter.
        again: The version whose training is repeated: equal bytes become no other version.
        spread: The part of this process, if several train the only adapter.

    Attributes:
        versions: Of those that are trained, by name; of a sweep's candidates with their numbers.
        failed: Why others are not.
    """

    def __init__(
        self,
        group: GroupPlan,
        site: Site,
        on_progress: OnProgress | None,
        *,
        again: Version | None = None,
        spread: Spread | None = None,
    ) -> None:
        self._again = again
        self._spread = spread
        self._group = group
        self._site = site
        self._items = {item.label.lower(): item for item in group.items}
        self._on_progress = on_progress
        self._directory = run_directory(site.registry.home, group.run)
        self._ended: dict[str, Ended] = {}
        self._candidates = Candidates(self._items, group.rules) if group.rules else None
        self._trainees: dict[str, Trainee] = {}
        self._passes = 0
        self._is_due = False
        self._blocks: CompiledBlocks | None = None
        self.versions: dict[str, Version] = {}
        self.failed: list[TrainingError] = []

    def train(self, stop: Stop, *, is_resumed: bool) -> None:
        """Train all adapters of the group.

        Raises:
            TrainingStoppedError: It was asked to stop; a checkpoint is there.
        """
        with held_run(self._directory):
            identity = self._group.identity
            found = load_checkpoint(self._directory, identity=identity) if is_resumed else None
            observer = Observer(
                self._group,
                pipeline=self._site.pipeline,
                base=self._site.base,
                encoder=self._site.encoder,
                directory=self._directory,
                trackers=self._site.config.group.trackers,
                on_progress=self._on_progress,
                is_resumed=is_resumed,
                passes=found.passes if found else 0,
                drawing=self._drawing,
                score_models=self._site.score_models,
            )
            with observer:
                self._keep_settings(observer)
                self._train(stop, found, observer)

    def follow(self, spread: Spread, *, is_resumed: bool) -> None:
        """Train along with the process that keeps the run; nothing is kept, measured or drawn here.

        Raises:
            TrainingStoppedError: They were asked to stop; a checkpoint is there.
        """
        found = load_checkpoint(self._directory, identity=self._group.identity) if is_resumed else None
        executor, network = self._executor(found)
        if found is not None:
            torch.set_num_threads(found.threads)
            for name in found.ended:
                executor.take(name)
        quiet = Events(*[lambda *_: None] * 3, should_stop=lambda: spread.is_stopped)
        if not self._execute(executor, network, found, quiet):
            raise TrainingStoppedError(self._group.run)

    def _keep_settings(self, observer: Observer) -> None:
        """Write what a retraining needs, at once: a run that is repeated removes what was there before."""
        base, found = self._site.config.base, self._site.base
        if Path(base.model).expanduser().resolve() == found.path:
            base = replace(base, model=str(found.path))
        for name, item in self._items.items():
            documents = {
                CONFIG: config_document(item.config, base_identity=found.identity),
                DATA: item.dataset.manifest(),
            }
            digests = {key: hashlib.sha256(content).hexdigest() for key, content in documents.items()}
            with observer.noted(name, "the settings could not be kept for a retraining"):
                write_settings(self._directory / item.stem, item.config, base, digests=digests)

    def _train(self, stop: Stop, found: Checkpoint | None, observer: Observer) -> None:
        executor, network = self._executor(found)
        if found is not None:
            self._restore_ended(executor, found, observer)
        observer.begin()
        events = Events(
            on_step=lambda training: self._after_step(training, network, observer),
            on_pass=lambda _: self._after_pass(executor, observer),
            on_end=lambda training: self._end(training, executor, network, observer),
            should_stop=lambda: stop.is_asked if self._spread is None else self._spread.is_stopped,
            on_place=self._place,
        )
        if not self._execute(executor, network, found, events):
            self._save(executor)
            raise TrainingStoppedError(self._group.run)

    def _executor(self, found: Checkpoint | None) -> tuple[Executor, Any]:
        """Make what trains, and the network that is trained."""
        self._trainees = {name: self._trainee(name) for name in self._order(found)}
        pipeline, slots = self._site.pipeline, self._group.slots
        network = self._network(slots)
        executor = Executor(
            pipeline.unet,
            network,
            [*self._trainees.values()],
            slots=slots,
            encode_captions=CaptionEncoder([pipeline.text_encoder, pipeline.text_encoder_2]),
            spread=self._spread,
        )
        return executor, network

    def _execute(self, executor: Executor, network: Any, found: Checkpoint | None, events: Events) -> bool:
        """Train, from the checkpoint if there is one; return False if it was stopped."""
        site = self._site
        idle = idle_parts(site.pipeline.unet.device, trains_text=self._trains_text)
        name = compiler_name(site.config.base.compile)
        with site.idle.away(idle), network, closing(CompiledBlocks(site.pipeline.unet, name)) as blocks:
            self._blocks = blocks
            if found is not None:
                for state in found.active:
                    restore(executor, state)
                for training in executor.active:
                    self._place(training)
            return executor.run(events)

    def _order(self, found: Checkpoint | None) -> list[str]:
        """Return all names as they get slots: those in line in its order, whoever else is there."""
        first = list(found.waiting) if found else []
        return [*first, *(name for name in self._items if name not in first)]

    def _place(self, training: Training) -> None:
        if self._candidates is not None:
            self._candidates.place(training)

    def _trainee(self, name: str) -> Trainee:
        item = self._items[name]
        config = item.config
        rows = AdapterRows(item.dataset, item.reading, self._site.encoder)
        for _ in rows.encode_all(config.steps * config.accumulation):
            pass
        alphas: Any = self._site.pipeline.scheduler.alphas_cumprod
        return Trainee(
            name=name,
            drawn_as=item.reading.name,
            seed=config.seed,
            network=config.network,
            optimizer=config.optimizer,
            objective=ObjectiveTable(config.objective, alphas),
            steps=config.steps,
            accumulation=config.accumulation,
            rows=rows,
        )

    @property
    def _trains_text(self) -> bool:
        return any(item.config.network.trains_text for item in self._items.values())

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Have the whole pipeline at hand, and nothing compiled for the few pictures of a run."""
        if self._blocks is not None:
            self._blocks.run(compiled=False)
        with self._site.idle.at_hand():
            yield
        if self._blocks is not None:
            self._blocks.run(compiled=True)

    def _network(self, slots: int) -> Any:
        pipeline = self._site.pipeline
        configs = [item.config.network for item in self._items.values()]
        text = TEXT_ENCODERS if self._trains_text else ()
        components = {name: getattr(pipeline, name) for name in ("unet", *text)}
        if configs[0].algorithm != "lora":
            return PeftNetwork(components, device=pipeline.unet.device)
        return LoraBank(components, configs, slots=slots, device=pipeline.unet.device)

    def _restore_ended(self, executor: Executor, found: Checkpoint, observer: Observer) -> None:
        torch.set_num_threads(found.threads)
        self._passes = found.passes
        for name, ended in found.ended.items():
            executor.take(name)
            self._ended[name] = ended
            observer.end(name, ended)
            config = self._items[name].config
            if ended.error:
                self.failed.append(TrainingError(self._items[name].label, ended.step, ended.error))
            elif ended.version:
                reference = f"{config.name}@{ended.version}"
                self._note_version(name, self._site.registry.resolve(reference))
        if self._candidates is not None:
            for name in self._candidates.restore(found):
                executor.take(name)

    def _after_step(self, training: Training, network: Network, observer: Observer) -> None:
        config, step = self._items[training.trainee.name].config, training.step
        if config.save_every and step % config.save_every == 0 and step < config.steps:
            self._is_due = True
        observer.after_step(training, network)

    def _after_pass(self, executor: Executor, observer: Observer) -> None:
        self._passes += 1
        observer.after_pass(self._passes)
        if self._is_due:
            self._save(executor)
            self._is_due = False

    def _save(self, executor: Executor) -> None:
        candidates = self._candidates
        checkpoint = Checkpoint(
            self._passes,
            [state_of(one) for one in executor.active],
            self._ended,
            torch.get_num_threads(),
            aside=list(candidates.aside.values()) if candidates else (),
            waiting=executor.waiting,
            brackets=candidates.state if candidates else (),
        )
        keep = self._site.config.group.keep_checkpoints
        save_checkpoint(self._directory, checkpoint, identity=self._group.identity, keep=keep)

    def _end(self, training: Training, executor: Executor, network: Network, observer: Observer) -> None:
        """Register an adapter that is trained; one that was frozen is kept as a file of the run.

        A candidate's record is written each time that it is compared, and the best are registered from it.
        """
        name = training.trainee.name
        item = self._items[name]
        config = item.config
        path = self._directory / f"{item.stem}.safetensors"
        write_atomically(path, weights_bytes(network.tensors(training.slot)))
        if training.error:
            self.failed.append(TrainingError(item.label, training.step + 1, training.error))
            observer.report(training, path)
            self._finish(name, Ended(training.step, training.error), observer)
            if self._candidates is not None:
                self._judge(self._candidates.leave(name), executor, observer)
            return
        measured = observer.measure_last(training, network)
        previews = observer.last_samples(training, network)
        last = training.losses[-max(len(training.losses) // 10, 1) :]
        report = {
            "steps": len(training.losses),
            "final_loss": round(sum(last) / len(last), 6),
            **measured,
            "losses": [round(value, 6) for value in training.losses],
            "group": [other.label for other in self._group.items],
            "environment": environment(self._group.processes),
        }
        if item.candidate is not None:
            report["sweep"] = {"candidate": item.candidate.number, "values": dict(item.candidate.values)}
        documents = {
            CONFIG: config_document(config, base_identity=self._site.base.identity),
            DATA: item.dataset.manifest(),
            RUN: (json.dumps(report, sort_keys=True, indent=1) + "\n").encode(),
        }
        documents[NAME] = observer.report(training, path)
        record = Record(path, {name: content for name, content in documents.items() if content}, previews)
        if self._candidates is None:
            self._register(name, record, observer)
            return
        record.write(self._directory / item.stem)
        observer.leave_slot(name)
        loss = observer.last_loss(training)
        self._judge(self._candidates.arrive(training, loss), executor, observer)

    def _judge(self, verdict: Verdict | None, executor: Executor, observer: Observer) -> None:
        """Let candidates go on, register those that are kept, and take the leave of the others."""
        if verdict is None or self._candidates is None:
            return
        for name in verdict.leaves:
            step = self._candidates.step(name)
            self._candidates.aside.pop(name, None)
            outcome = NOT_KEPT if verdict.is_last else STOPPED
            self._finish(name, Ended(step, outcome=outcome), observer)
        if not verdict.is_last:
            for name in verdict.stays:
                executor.enqueue(self._trainees[name])
            return
        for name in reversed(verdict.stays):  # the best becomes the latest version
            stem = self._items[name].stem
            record = Record.read(self._directory / stem, self._directory / f"{stem}.safetensors")
            self._register(name, record, observer)

    def _register(self, name: str, record: Record, observer: Observer) -> None:
        item = self._items[name]
        config = item.config
        lineage = {"operation": "trained"}
        again = self._again
        if again is not None:
            named = {"parent.1": again.digest, "parent.1.name": again.reference}
            lineage = {"operation": "retrained", **named}
        # The report tells of speed and memory, so it is no part of the lineage.
        for document in (CONFIG, DATA, RUN):
            digest = hashlib.sha256(record.documents[document]).hexdigest()
            lineage[document.removesuffix(".json")] = f"sha256:{digest}"
        weights = hashlib.sha256(record.weights.read_bytes()).hexdigest()
        if again is not None and again.files[0].sha256 == weights:
            self._note_version(name, again)
            self._finish(name, Ended(config.steps, version=again.number), observer)
            return
        version = self._site.registry.add(
            record.weights,
            name=config.name,
            base=self._site.base.name,
            trigger_words=config.trigger_words,
            licence=config.licence,
            lineage=lineage,
            documents=record.documents,
            previews=record.previews,
            message=f"trained for {config.steps} steps on {len(item.dataset.examples)} pictures",
            title=config.title or None,
            description=config.description or None,
            kind=config.kind,
            tags=config.tags or None,
        )
        self._note_version(name, version)
        self._finish(name, Ended(config.steps, version=version.number), observer)

    def _note_version(self, name: str, version: Version) -> None:
        self.versions[self._items[name].label] = version

    def _finish(self, name: str, ended: Ended, observer: Observer) -> None:
        self._ended[name] = ended
        observer.end(name, ended)
