"""Looks at adapters while they are trained: measures, draws, tells trackers, and keeps the run's status.

Nothing here decides a byte of the weights, and what goes wrong here never ends a training: it is noted.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from adapterhub.errors import OutputError, TrainingStoppedError
from adapterhub.training.checkpoint import Ended
from adapterhub.training.config import config_document
from adapterhub.training.efficiency import measure_efficiency, size_text
from adapterhub.training.environment import environment
from adapterhub.training.executor import Network, Training
from adapterhub.training.plan import AdapterPlan, GroupPlan
from adapterhub.training.progress import OnProgress, Pace, peak_memory_bytes
from adapterhub.training.report import NAME, Report, report_html
from adapterhub.training.rows import Encoder, batch_order, truncated
from adapterhub.training.samples import draw_samples, sample_files, sample_stem, write_sheet
from adapterhub.training.scores import ScoreModels, Scorer
from adapterhub.training.status import AdapterStatus, RunStatus, thinned
from adapterhub.training.trackers import Trackers
from adapterhub.training.validation import Validation
from adapterhub.training.weights_file import weights_bytes
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.intake import PreviewPicture

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    from adapterhub.bases.find import Base

logger = logging.getLogger(__name__)

STATUS_S = 3.0
"""Between two writings of the status; what happens seldom writes it at once."""
SAMPLES, SHEET, BEST = "samples", "samples.png", "best.safetensors"


@dataclass
class _Watched:
    """One adapter of the run, and what it is looked at with."""

    item: AdapterPlan
    status: AdapterStatus
    folder: Path
    pictures: float
    validation: Validation | None = None
    scorer: Scorer | None = None
    losses: Sequence[float] = ()


class Observer:
    """Looks at the adapters of one run, inside `with`.

    Call `begin` before the network is active on the base; the other methods while it is.

    Args:
        group: The adapters.
        pipeline: Of the base.
        base: The base.
        encoder: Likewise.
        directory: Of the run, held by this process; files of an adapter lie in a folder of its own there.
        trackers: Who is told.
        on_progress: Called after each step of an adapter.
        is_resumed: Whether the run goes on: what is there is kept, and else it is removed.
        passes: Of the run, done.
        drawing: Has the whole pipeline at hand.
        score_models: That sample pictures are scored with, for the adapters that name them.
    """

    def __init__(
        self,
        group: GroupPlan,
        *,
        pipeline: "StableDiffusionXLPipeline",
        base: "Base",
        encoder: Encoder,
        directory: Path,
        trackers: Sequence[str] = (),
        on_progress: OnProgress | None = None,
        is_resumed: bool = False,
        passes: int = 0,
        drawing: Callable[[], AbstractContextManager[None]] = nullcontext,
        score_models: ScoreModels | None = None,
    ) -> None:
        self._drawing = drawing
        self._score_models = score_models or {}
        self._pipeline, self._base, self._encoder = pipeline, base, encoder
        self._directory = directory
        self._are_compared = group.rules is not None and group.rules.keep > 0
        self._on_progress = on_progress
        self._device: Any = pipeline.unet.device
        self._pace = Pace(self._device)
        self._began = time.monotonic()
        before = RunStatus.read(directory) if is_resumed else None
        known = {item.label: item for item in before.adapters} if before else {}
        self._watched = {item.label.lower(): self._watch(item, known.get(item.label)) for item in group.items}
        began = before.began if before else time.time()
        adapters = [one.status for one in self._watched.values()]
        self._status = RunStatus(group.run, "running", began, began, adapters)
        self._written, self._passes = 0.0, passes
        configs = {item.label: item.config.digest_table for item in group.items}
        self._trackers = Trackers(trackers, run=group.run, directory=directory, config=configs, passes=passes)
        self._held = ExitStack()

    def _watch(self, item: AdapterPlan, known: AdapterStatus | None) -> _Watched:
        folder = self._directory / item.stem
        if known is None:
            shutil.rmtree(folder, ignore_errors=True)
        order = batch_order(item.dataset, item.reading)
        shown = sum(example.source.repeats for example in item.dataset.examples)
        status = known or AdapterStatus(item.config.name, item.config.steps)
        if item.candidate is not None:
            status.candidate, status.values = item.candidate.number, dict(item.candidate.values)
        # What ended after the checkpoint is trained again; `end` says what ended before it.
        status.error, status.version, status.outcome = "", 0, ""
        return _Watched(item, status, folder, shown / order.batches_per_epoch)

    def __enter__(self) -> "Observer":
        self._write()
        with ExitStack() as held:
            held.push(self._finish)
            held.enter_context(self._trackers)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write how the run ended."""
        del kind, trace
        if isinstance(error, TrainingStoppedError | KeyboardInterrupt):
            self._status.state = "stopped"
        elif error is not None:
            self._status.state, self._status.error = "failed", str(error) or repr(error)
        else:
            made = {one.name for one in self._status.adapters if one.version}
            frozen = any(one.error and one.name not in made for one in self._status.adapters)
            self._status.state = "failed" if frozen else "done"
        self._write()

    def begin(self) -> None:
        """Measure and draw the base alone, for the adapters that ask for it."""
        for one in self._watched.values():
            if one.status.is_over:
                continue
            with self._noted(one, 0, "the held-out pictures could not be measured"):
                self._prepare(one)
            if one.item.config.validation.every and not one.status.samples:
                with self._noted(one, 0, "the samples could not be drawn"):
                    self._draw(one, 0)
        self.after_pass(self._passes)
        self._pace.free_slot()

    def after_step(self, training: Training, network: Network) -> None:
        """Look at an adapter that has done a step, if it is time to."""
        one, step = self._watched[training.trainee.name], training.step
        wanted, is_last = one.item.config.validation, step == training.trainee.steps
        progress = self._pace.after_step(training, one.item, one.pictures)
        one.status.step, one.status.loss, one.losses = step, progress.loss, training.losses
        one.status.seconds_left = progress.seconds_left
        self._trackers.scalar("loss", one.status.label, training.losses[-1])
        self._trackers.scalar("step", one.status.label, step)
        self._trackers.scalar("learning_rate", one.status.label, training.optimizer.param_groups[0]["lr"])
        if wanted.loss_every and step % wanted.loss_every == 0 and not is_last:
            self._measure(one, training, network)
        if wanted.every and step % wanted.every == 0 and not is_last:
            with self._noted(one, step, "the samples could not be drawn"):
                network.share([training.slot], [1])
                self._draw(one, step)
        if time.monotonic() - self._written >= STATUS_S:
            self._write()
        if self._on_progress is not None:
            self._on_progress(replace(progress, scores=one.status.last_scores))

    def after_pass(self, passes: int) -> None:
        """Hand on to the trackers what the pass brought."""
        try:
            self._trackers.send(passes)
        except Exception as exc:  # noqa: BLE001 - theirs raise what they like
            logger.warning("the trackers are left out from now on: %s", exc)
            note = f"after pass {passes}, a tracker failed and all were left out: {exc}"
            for one in self._status.adapters:
                one.notes.append(note)
            self._trackers = Trackers((), run=self._status.run, directory=self._directory, config={})

    def last_samples(self, training: Training, network: Network) -> list[PreviewPicture]:
        """Draw the pictures of an adapter that is trained; they become previews."""
        one = self._watched[training.trainee.name]
        with self._noted(one, training.step, "the samples could not be drawn"):
            network.share([training.slot], [1])
            return self._draw(one, training.step)
        return []

    def measure_last(self, training: Training, network: Network) -> dict[str, float]:
        """Measure an adapter that is trained; return its loss and the base's, if pictures are held out."""
        one = self._watched[training.trainee.name]
        self._measure(one, training, network)
        measured = dict(one.status.measured)
        names = {"base_validation_loss": 0, "validation_loss": training.step}
        return {name: round(measured[step], 6) for name, step in names.items() if step in measured}

    def last_loss(self, training: Training) -> float:
        """Return what was measured last of an adapter; infinity if it could not be."""
        measured = dict(self._watched[training.trainee.name].status.measured)
        return measured.get(training.step, math.inf)

    def leave_slot(self, name: str) -> None:
        """Note that an adapter waits for others, and gives its slot to the next one."""
        self._pace.free_slot(name)

    def report(self, training: Training, file: Path) -> bytes:
        """Write the report of an adapter that has ended, and return it; empty if it cannot be made.

        Args:
            training: The adapter.
            file: Of its weights.
        """
        one, content = self._watched[training.trainee.name], b""
        one.status.step, one.status.error = training.step, training.error
        one.losses, one.status.seconds_left = training.losses, 0.0
        with self._noted(one, training.step, "the report could not be written"):
            content = report_html(self._report(one, training, file))
            make_directory(one.folder)
            write_atomically(one.folder / NAME, content)
            one.status.report = f"{one.folder.name}/{NAME}"
        self._write()
        return content

    def noted(self, name: str, what: str) -> AbstractContextManager[None]:
        """Have what fails in a block noted in an adapter's status, as `what`; the training goes on."""
        one = self._watched[name]
        return self._noted(one, one.status.step, what)

    def end(self, name: str, ended: Ended) -> None:
        """Note what became of an adapter; the next one takes its slot."""
        status = self._watched[name].status
        status.step, status.error, status.version = ended.step, ended.error, ended.version
        status.outcome, status.seconds_left = ended.outcome, 0.0
        if ended.version:
            status.step = status.steps
        self._pace.free_slot()
        self._write()

    def _prepare(self, one: _Watched) -> None:
        config, dataset = one.item.config, one.item.dataset
        if not dataset.held_out:
            return
        one.validation = Validation(
            self._pipeline,
            dataset.held_out,
            reading=one.item.reading,
            encoder=self._encoder,
            objective=config.objective,
            has_text=config.network.trains_text,
        )
        known = [other.status.measured[0][1] for other in self._watched.values() if self._compare(one, other)]
        if 0 not in dict(one.status.measured):
            self._add_measured(one, 0, known[0] if known else one.validation.measure())

    def _compare(self, one: _Watched, other: _Watched) -> bool:
        """Return whether the base has been measured on the same pictures, for another candidate."""
        is_same = one.item.config.name == other.item.config.name and one is not other
        return is_same and self._are_compared and 0 in dict(other.status.measured)

    def _measure(self, one: _Watched, training: Training, network: Network) -> None:
        step = training.step
        if one.validation is None:
            return
        with self._noted(one, step, "the held-out pictures could not be measured"):
            loss = one.validation.measure(network, training.slot)
            is_best = self._add_measured(one, step, loss)
            if is_best and one.item.config.validation.keep_best:
                make_directory(one.folder)
                write_atomically(one.folder / BEST, weights_bytes(network.tensors(training.slot)))
            self._write()

    def _add_measured(self, one: _Watched, step: int, loss: float) -> bool:
        if not math.isfinite(loss):
            one.status.notes.append(f"step {step}: the loss on held-out pictures is {loss}")
            return False
        self._trackers.scalar("validation_loss", one.status.label, loss)
        return one.status.add_measured(step, loss)

    def _draw(self, one: _Watched, step: int) -> list[PreviewPicture]:
        """Draw what is active on the base now, and put it on the sheet."""
        wanted = one.item.config.validation
        if not wanted.prompts:
            return []
        folder = one.folder / SAMPLES
        make_directory(folder)
        with self._drawing():
            drawn = draw_samples(
                self._pipeline,
                wanted.prompts,
                seed=wanted.seed,
                folder=folder,
                stem=sample_stem(step),
                base=self._base.name,
            )
        write_sheet(folder, wanted.prompts, one.folder / SHEET)
        one.status.samples = f"{one.folder.name}/{SHEET}"
        pictures: list[Image.Image] = []
        for preview in drawn:
            with Image.open(preview.path) as picture:
                pictures.append(picture.convert("RGB"))
        self._trackers.pictures("samples", one.status.label, pictures)
        with self._noted(one, step, "the samples could not be scored"):
            self._score(one, step, pictures)
        self._write()
        return drawn

    def _score(self, one: _Watched, step: int, pictures: Sequence[Image.Image]) -> None:
        item, wanted = one.item, one.item.config.validation
        models = {
            kind: model for (kind, path), model in self._score_models.items() if getattr(wanted, kind) == path
        }
        if not models:
            return
        if one.scorer is None:
            one.scorer = Scorer(models, wanted.prompts, item.dataset, self._device)
        scores = one.scorer.score(pictures)
        one.status.add_scores(step, scores)
        for name, value in scores.items():
            self._trackers.scalar(name, one.status.label, value)

    def _report(self, one: _Watched, training: Training, file: Path) -> Report:
        item, config = one.item, one.item.config
        prompts = config.validation.prompts
        modules: list[Any] = [self._pipeline.unet]
        if config.network.trains_text:
            modules += [self._pipeline.text_encoder, self._pipeline.text_encoder_2]
        cost = measure_efficiency(file, modules, training.optimizer)
        one.status.efficiency = asdict(cost)
        return Report(
            name=item.label,
            base=self._base.name,
            losses=training.losses,
            measured=one.status.measured,
            best_step=one.status.best_step,
            scores=one.status.scores,
            prompts=prompts,
            samples=sample_files(one.folder / SAMPLES, len(prompts)) if prompts else {},
            config=config_document(config, base_identity=self._base.identity),
            dataset=item.dataset,
            truncated=truncated(self._pipeline, item.dataset, config.max_chunks),
            without_trigger=item.without_trigger,
            efficiency=cost,
            measures=self._measures(training, one),
            environment=environment(),
            notes=one.status.notes,
            error=training.error,
        )

    def _measures(self, training: Training, one: _Watched) -> dict[str, str]:
        progress = self._pace.after_step(training, one.item, one.pictures) if training.losses else None
        device = str(self._device)
        if self._device.type == "cuda":
            device = torch.cuda.get_device_name(self._device)
        measures = {
            "device": device,
            "dtype": str(self._pipeline.unet.dtype).removeprefix("torch."),
            "trained together": str(len(self._watched)),
            "peak memory of the process": size_text(peak_memory_bytes(self._device)),
            "seconds, with measuring and drawing": f"{time.monotonic() - self._began:.0f}",
        }
        if progress is not None:
            measures["steps per second"] = f"{progress.steps_per_s:.3g}"
            measures["pictures per second"] = f"{progress.pictures_per_s:.3g}"
        return measures

    def _write(self) -> None:
        self._status.updated = time.time()
        self._written = time.monotonic()
        for one in self._watched.values():
            if one.losses:
                one.status.curve = thinned(one.losses)
        try:
            self._status.write(self._directory)
        except OutputError as exc:
            logger.warning("the run's status is out of date: %s", exc)

    @contextmanager
    def _noted(self, one: _Watched, step: int, what: str) -> Generator[None]:
        try:
            with self._pace.apart():
                yield
        except Exception as exc:  # noqa: BLE001 - looking at a training never ends it
            logger.warning("step %d of %s: %s: %s", step, one.status.label, what, exc)
            one.status.notes.append(f"step {step}: {what}: {exc}")
