"""The errors of bases and runtime; those of the registry are re-exported, so one import serves.

AdapterHubError
├── BaseNotFoundError        no base of that name
├── NotAPipelineError        a directory or file is no SDXL pipeline
├── MissingComponentError    a pipeline lacks one of its parts
├── BaseLoadError            the weights cannot be loaded
├── PipelineRefusedError     a loaded pipeline cannot be wrapped
├── ControlNetError          a directory holds no ControlNet, or one that does not fit the base
├── RefinerError             a directory holds no refiner, or one that does not fit the base
├── SettingError             a setting of a generation makes no sense
│   ├── EmptyPromptError
│   ├── InvalidSizeError
│   ├── MaskSizeError        a mask has another size than the picture
│   ├── AlgebraSettingError  a setting of a merge or of a resize makes no sense
│   ├── InputPictureError    a picture to replay from is missing, or another one
│   └── DeviceError          a device or dtype that is not there
│       └── MemorySizeError  a device is too small for a base
├── CompositionError         a composition in text cannot be read
├── PlaneError               what is composed cannot act in the way that was asked for
│   └── RankError            its rank exceeds the buffers that were reserved
├── PromptError              a prompt cannot be read
│   ├── PromptWeightError    a weight in it is no number, or out of range
│   └── AdapterTagError      a tag `<lora:name:weight>` in it cannot be read
│       └── AdapterNameError its name is that of no adapter, or of several
├── ReplayError              a picture cannot be made again as it was
├── ResidencyError           adapters in use leave no room for another
├── JobCancelledError        a job was cancelled
├── DeadlineError            a job was not done in time
├── QueueFullError           there is no room for another job
├── PictureMemoryError       a picture does not fit in the device's memory
├── RuntimeClosedError       a runtime was used after close
├── TargetError              an adapter changes modules that the pipeline does not have
├── NotFiniteError           an adapter holds NaN or infinity
├── ConfigError              a training config is wrong
├── DatasetError             a folder of pictures cannot be trained on
├── TrainingPictureError     a picture or mask cannot be trained on
├── CaptionError             a file of captions cannot be read
├── CheckpointError          a checkpoint is missing, damaged, or of another run
├── TrainingError            training went wrong
├── RetrainError             a version cannot be trained again as it was
├── TrainingStoppedError     a training was asked to stop, and can go on
├── OtherProcessError        another process of a training failed, stopped or died
├── TrackerError             a tracker of trainings cannot be started
├── ScoreModelError          a directory holds no model that scores sample pictures
├── RunNotFoundError         there is no run of that name
├── RunBusyError             a run goes on in another process
├── QuickstartError          the quickstart's directory cannot be used
├── FormatError              a file format cannot hold what an adapter has
├── ExportBlockedError       files are in the way of an export
├── BlockWeightsError        weights by block cannot be read
├── LayersError              layers of adapters cannot be merged or scaled as they are
│   ├── NativeLayersError    they are of an algorithm that has no sum
│   ├── ShapesError          they have different shapes
│   └── LayerKindsError      they are stored whole, or are biases
└── ConversionError          layers cannot be made plain LoRA
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten

from adapterhub_registry.errors import AdapterHubError as AdapterHubError
from adapterhub_registry.errors import AdapterNotFoundError as AdapterNotFoundError
from adapterhub_registry.errors import AliasMovedError as AliasMovedError
from adapterhub_registry.errors import ArchitectureError as ArchitectureError
from adapterhub_registry.errors import BlobMissingError as BlobMissingError
from adapterhub_registry.errors import CardError as CardError
from adapterhub_registry.errors import DatabaseError as DatabaseError
from adapterhub_registry.errors import DigestMismatchError as DigestMismatchError
from adapterhub_registry.errors import FieldError as FieldError
from adapterhub_registry.errors import HomeError as HomeError
from adapterhub_registry.errors import InputError as InputError
from adapterhub_registry.errors import ManifestError as ManifestError
from adapterhub_registry.errors import MissingExtraError as MissingExtraError
from adapterhub_registry.errors import OutputError as OutputError
from adapterhub_registry.errors import PickleRefusedError as PickleRefusedError
from adapterhub_registry.errors import PictureError as PictureError
from adapterhub_registry.errors import PictureFormatError as PictureFormatError
from adapterhub_registry.errors import RecordError as RecordError
from adapterhub_registry.errors import ReferenceSyntaxError as ReferenceSyntaxError
from adapterhub_registry.errors import RemoteError as RemoteError
from adapterhub_registry.errors import UnknownKeysError as UnknownKeysError
from adapterhub_registry.errors import VersionConflictError as VersionConflictError
from adapterhub_registry.errors import VersionNotFoundError as VersionNotFoundError
from adapterhub_registry.errors import WeightsError as WeightsError
from adapterhub_registry.errors import missing_extra as missing_extra


class BaseNotFoundError(AdapterHubError):
    """No bundled base, directory or cached hub repository has this name."""

    code = "base-not-found"

    def __init__(self, name: str, known: Sequence[str], reason: str = "") -> None:
        self.name = name
        self.known = list(known)
        self.near = get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(self.near)}?" if self.near else ""
        super().__init__(
            f'there is no base "{name}"{f" ({reason})" if reason else ""}.{hint} '
            "Name one from `adapterhub bases list`, a directory in diffusers' format, a single-file SDXL "
            "checkpoint, or a hub id"
        )


class NotAPipelineError(AdapterHubError):
    """A path holds no SDXL pipeline, neither in diffusers' format nor as one file."""

    code = "not-a-pipeline"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path} is no SDXL pipeline: {reason}. A base is a single-file SDXL checkpoint, or a directory "
            "that holds model_index.json and the folders unet, vae, text_encoder, text_encoder_2, tokenizer, "
            "tokenizer_2 and scheduler"
        )


class MissingComponentError(AdapterHubError):
    """A pipeline directory lacks a part, or a part lacks its weights."""

    code = "component-missing"

    def __init__(self, path: Path, component: str, reason: str) -> None:
        self.path = path
        self.component = component
        self.reason = reason
        super().__init__(f"{path} cannot be loaded: {component} {reason}. Download or export the base again")


class BaseLoadError(AdapterHubError):
    """diffusers could not load a pipeline whose files all seem to be there."""

    code = "base-load-failed"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot load {path}: {reason}. Download or export the base again")


class PipelineRefusedError(AdapterHubError):
    """A pipeline that somebody else loaded cannot be used."""

    code = "pipeline-refused"

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(f"this {kind} cannot be wrapped: {reason}")


class ControlNetError(AdapterHubError):
    """A directory holds no ControlNet, or one that does not fit the base."""

    code = "controlnet-unfit"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path} cannot be used as a ControlNet: {reason}. Name a directory in diffusers' format that "
            "holds a ControlNetModel for this base"
        )


class RefinerError(AdapterHubError):
    """A directory holds no refiner, or one that does not fit the base."""

    code = "refiner-unfit"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path} cannot be used as a refiner: {reason}. Name a directory in diffusers' format, or a "
            "hub id such as stabilityai/stable-diffusion-xl-refiner-1.0"
        )


class SettingError(AdapterHubError):
    """A setting of a generation makes no sense."""

    code = "setting-invalid"

    def __init__(self, setting: str, value: object, rule: str) -> None:
        self.setting = setting
        self.value = value
        self.rule = rule
        super().__init__(f"{setting} is {value}, but {rule}")


class EmptyPromptError(SettingError):
    """There is no prompt to draw."""

    code = "prompt-empty"

    def __init__(self) -> None:
        super().__init__("the list of prompts", "empty", "at least one prompt is needed")


class InvalidSizeError(SettingError):
    """The VAE and the UNet cannot make a picture of this size."""

    code = "size-invalid"

    def __init__(self, width: int, height: int, multiple: int) -> None:
        self.width = width
        self.height = height
        self.multiple = multiple
        near = [max(round(side / multiple), 1) * multiple for side in (width, height)]
        super().__init__(
            "the size",
            f"{width}x{height}",
            f"width and height must be positive multiples of {multiple}; the nearest is {near[0]}x{near[1]}",
        )


class DeviceError(SettingError):
    """A device or a dtype is not available here."""

    code = "device-unavailable"


class MaskSizeError(SettingError):
    """A mask has another size than the picture that it is for."""

    code = "mask-size-differs"

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        self.size = size
        self.wanted = wanted
        super().__init__(
            "the size of a mask",
            f"{size[0]}x{size[1]}",
            f"the picture's is {wanted[0]}x{wanted[1]}; resize it",
        )


class MemorySizeError(DeviceError):
    """The weights of a base are more than a device has room for."""

    code = "memory-too-small"

    def __init__(self, device: str, needed_bytes: int, free_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        super().__init__(
            "the device",
            device,
            f"the base's weights need {needed_bytes / 1e9:.1f} GB there, and {free_bytes / 1e9:.1f} GB are "
            "free: choose float16, an offload policy, or a quantized UNet",
        )


class InputPictureError(SettingError):
    """A picture that a recorded one was made from is missing, or another one, or there was none.

    Attributes:
        role: `image`, `mask` or `control`.
        recorded: Its `sha256`, `width` and `height` in the record; None for none.
        given: Those of the picture that was given; None for none.
    """

    code = "input-picture-differs"

    def __init__(
        self, role: str, recorded: Mapping[str, object] | None, given: Mapping[str, object] | None
    ) -> None:
        self.role = role
        self.recorded = recorded
        self.given = given
        if given is None:
            rule = f"none was given; records do not carry such pictures: name the file with --{role}"
        elif recorded is None:
            rule = f"one was given; leave --{role} out"
        else:
            rule = f"another one was given, {_digest(given)}"
        super().__init__(f"the {role} of the record", "none" if recorded is None else _digest(recorded), rule)


def _digest(entry: Mapping[str, object]) -> str:
    return f"{entry['width']}x{entry['height']} pixels with the digest {str(entry['sha256'])[:12]}"


class CompositionError(AdapterHubError):
    """A composition in text cannot be read."""

    code = "composition-invalid"

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(
            f'cannot read the composition "{text}": {reason}. '
            'Write it as "me/ink@prod:0.8 + me/corgi", a weight that is left out is 1.0'
        )


class PlaneError(AdapterHubError):
    """What is composed cannot act on the plane that was asked for, or that the base allows.

    Attributes:
        plane: `fused`, `low_rank` or `mixed`.
        reason: Why.
    """

    code = "plane-unfit"

    def __init__(self, plane: str, reason: str) -> None:
        self.plane = plane
        self.reason = reason
        super().__init__(f"the {plane.replace('_', '-')} plane cannot do this: {reason}")


class RankError(PlaneError):
    """A stack of adapters has a higher rank on a module than the reserved buffers.

    Attributes:
        rank: The stack's.
        limit: The buffers'.
        target: The module.
    """

    code = "rank-exceeded"

    def __init__(self, plane: str, rank: int, limit: int, target: str) -> None:
        self.rank = rank
        self.limit = limit
        self.target = target
        super().__init__(
            plane,
            f"the adapters together have rank {rank} on {target}, and rank {limit} is reserved; compose "
            f'fewer, resize them, load with reserve_rank={rank}, or compose on plane="fused"',
        )


class PromptError(AdapterHubError):
    """A prompt cannot be read."""

    code = "prompt-unreadable"

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        # A lone surrogate cannot be printed.
        shown = shorten(text.encode(errors="replace").decode(), 80, placeholder=" ...")
        super().__init__(f'cannot read "{shown}" in a prompt: {reason}')


class PromptWeightError(PromptError):
    """A weight in a prompt is no number, or out of range."""

    code = "prompt-weight-invalid"

    def __init__(self, weight: str, text: str, fault: str) -> None:
        self.weight = weight
        super().__init__(
            text,
            f'its weight {weight} is {fault}. Write weights as in "(word:1.3)", and brackets that are '
            'letters as in "\\(word\\)"',
        )


class AdapterTagError(PromptError):
    """A tag that names an adapter in a prompt cannot be read."""

    code = "adapter-tag-invalid"

    def __init__(self, tag: str, reason: str) -> None:
        self.tag = tag
        super().__init__(tag, f"{reason}. Write <lora:name:weight>, or <lora:namespace/name@selector:weight>")


class AdapterNameError(AdapterTagError):
    """The name in a tag is that of no adapter, or of several.

    Attributes:
        tag: The tag.
        name: The name in it.
        candidates: The adapters of that name; if there are none, those of a similar name.
    """

    code = "adapter-name-ambiguous"

    def __init__(self, tag: str, name: str, candidates: Sequence[str], *, is_found: bool) -> None:
        self.name = name
        self.candidates = list(candidates)
        listed = ", ".join(self.candidates)
        if is_found:
            reason = f'{len(self.candidates)} adapters are called "{name}": {listed}'
        elif self.candidates:
            reason = f'no adapter is called "{name}", but there is {listed}'
        else:
            reason = f'no adapter is called "{name}" (see them with: adapterhub list)'
        super().__init__(tag, reason)


class ReplayError(AdapterHubError):
    """A picture cannot be made again as it was.

    Attributes:
        differences: What differs from the record: name to (recorded, here).
    """

    code = "replay-differs"

    def __init__(self, path: Path, reason: str, differences: dict[str, tuple[object, object]]) -> None:
        self.path = path
        self.reason = reason
        self.differences = differences
        listed = "; ".join(f"{name}: {was} then, {now} now" for name, (was, now) in differences.items())
        super().__init__(f"{path} {reason}. {f'What differs: {listed}' if listed else 'No setting differs'}")


class RuntimeClosedError(AdapterHubError):
    """A runtime was used after it was closed."""

    code = "runtime-closed"

    def __init__(self) -> None:
        super().__init__("this runtime is closed; load a new one with Runtime.load")


class ResidencyError(AdapterHubError):
    """An adapter has no room beside those that are in use, which are never let go."""

    code = "residency-exceeded"

    def __init__(
        self, digest: str, size_bytes: int, *, tier: str, held_bytes: int, budget_bytes: int
    ) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.tier = tier
        self.held_bytes = held_bytes
        self.budget_bytes = budget_bytes
        size, held, budget = (f"{count / 1e6:,.1f} MB" for count in (size_bytes, held_bytes, budget_bytes))
        super().__init__(
            f"the adapter {digest[:19]} takes {size}, but of the {budget} for adapters on the {tier}, {held} "
            "are composed or pinned. Compose or pin less at once, or load the runtime with room for more"
        )


class JobCancelledError(AdapterHubError):
    """A job was cancelled before its picture was made."""

    code = "job-cancelled"

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(f"the job was cancelled{f': {reason}' if reason else ''}")


class DeadlineError(AdapterHubError):
    """The deadline of a job passed before its picture was made.

    Attributes:
        deadline_s: Seconds from when it was submitted.
        done: Steps made by then.
        steps: All of them.
    """

    code = "deadline-passed"

    def __init__(self, deadline_s: float, done: int, steps: int) -> None:
        self.deadline_s = deadline_s
        self.done = done
        self.steps = steps
        where = f"after {done} of {steps} steps" if done else "before its first step was made"
        super().__init__(
            f"the job's deadline of {deadline_s:g} s passed {where}. "
            "Submit it with a later one, or when the queue is shorter"
        )


class QueueFullError(AdapterHubError):
    """There is no room for another job.

    Attributes:
        limit: Of jobs that wait.
        retry_after_s: When there may be room.
        tenant: Whose limit it is; None for that of all together.
    """

    code = "queue-full"

    def __init__(self, limit: int, retry_after_s: float, tenant: str | None = None) -> None:
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.tenant = tenant
        whose = "" if tenant is None else f' of tenant "{tenant}"'
        super().__init__(
            f"{limit} jobs{whose} are waiting, which is the limit; try again in {retry_after_s:.0f} s"
        )


class PictureMemoryError(AdapterHubError):
    """A picture does not fit in the device's memory, not even alone.

    Attributes:
        width: Pixels.
        height: Pixels.
        device: Where it was to be made.
    """

    code = "picture-memory-full"

    def __init__(self, width: int, height: int, device: str) -> None:
        self.width = width
        self.height = height
        self.device = device
        super().__init__(
            f"a picture of {width}x{height} does not fit in the memory of {device}, not even alone; "
            "make a smaller one"
        )


class ExportBlockedError(AdapterHubError):
    """Files are in the way of an export: no export wrote them, or they were changed since."""

    code = "export-blocked"

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        shown = ", ".join(map(str, self.paths[:3]))
        more = f" and {len(self.paths) - 3} more" if len(self.paths) > 3 else ""
        super().__init__(
            f"nothing was written, because these files are not ours or were changed since: {shown}{more}. "
            "Move them away, or name another folder"
        )


class TargetError(AdapterHubError):
    """An adapter changes modules that the pipeline does not have, or of other shapes."""

    code = "targets-unmatched"

    def __init__(self, reference: str, targets: Sequence[str], reason: str) -> None:
        self.reference = reference
        self.targets = list(targets)
        self.reason = reason
        shown = ", ".join(self.targets[:3])
        more = f" and {len(self.targets) - 3} more" if len(self.targets) > 3 else ""
        super().__init__(f"{reference} does not fit this pipeline: {reason}: {shown}{more}")


class ConfigError(AdapterHubError):
    """A training config is wrong; all its problems are listed."""

    code = "config-invalid"

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = list(problems)
        shown = (
            self.problems[0] if len(self.problems) == 1 else "".join(f"\n  {text}" for text in self.problems)
        )
        super().__init__(f"{source} is not valid:{'' if len(self.problems) > 1 else ' '}{shown}")


class DatasetError(AdapterHubError):
    """A folder of pictures cannot be trained on; all its problems are listed."""

    code = "dataset-invalid"

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        self.folder = folder
        self.problems = list(problems)
        shown = "; ".join(self.problems[:5])
        more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        super().__init__(f"{folder} cannot be trained on: {shown}{more}")


class TrainingPictureError(AdapterHubError):
    """A picture or a mask cannot be trained on."""

    code = "training-picture-refused"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} {reason}")


class CaptionError(AdapterHubError):
    """A file of captions cannot be read."""

    code = "caption-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} {reason}")


class CheckpointError(AdapterHubError):
    """A checkpoint is missing, damaged, or of another run."""

    code = "checkpoint-unusable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot go on from {path}: {reason}")


class TrainingError(AdapterHubError):
    """Training went wrong: the loss is no number any more."""

    code = "training-failed"

    def __init__(self, name: str, step: int, reason: str) -> None:
        self.name = name
        self.step = step
        self.reason = reason
        super().__init__(f"training {name} failed at step {step}: {reason}")


class RetrainError(AdapterHubError):
    """A version cannot be trained again as it was; all reasons are listed."""

    code = "retrain-refused"

    def __init__(self, reference: str, reasons: Sequence[str]) -> None:
        self.reference = reference
        self.reasons = list(reasons)
        shown = "; ".join(self.reasons[:5])
        more = f"; and {len(self.reasons) - 5} more" if len(self.reasons) > 5 else ""
        super().__init__(f"{reference} cannot be trained again: {shown}{more}")


class TrainingStoppedError(AdapterHubError):
    """A training was asked to stop; everything that is done is kept."""

    code = "training-stopped"

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(f"the run {run} was stopped; go on with --resume {run}, or with --resume latest")


class OtherProcessError(AdapterHubError):
    """What this process of a training had to do is done, and another one failed, was stopped or died.

    Attributes:
        process: Its number, from 0; -1 if it died without a word.
        reason: What it said.
    """

    code = "process-failed"

    def __init__(self, process: int, reason: str) -> None:
        self.process = process
        self.reason = reason
        who = f"process {process}" if process >= 0 else "a process"
        super().__init__(f"{who} of this training did not end well: {reason}")


class TrackerError(AdapterHubError):
    """A tracker of trainings cannot be started."""

    code = "tracker-failed"

    def __init__(self, tracker: str, reason: str) -> None:
        self.tracker = tracker
        self.reason = reason
        super().__init__(
            f"the tracker {tracker} cannot be started: {reason}. Set it up, or leave it out of group.trackers"
        )


class ScoreModelError(AdapterHubError):
    """A directory holds no model that sample pictures can be scored with.

    Attributes:
        path: The directory.
        kind: `clip` or `dino`: the key of `validation` that names it.
        reason: What is wrong.
    """

    code = "score-model-unfit"

    def __init__(self, path: Path, kind: str, reason: str) -> None:
        self.path = path
        self.kind = kind
        self.reason = reason
        super().__init__(
            f"validation.{kind} cannot be {path}: {reason}. Name a directory in transformers' format, with "
            "safetensors, or leave it out"
        )


class RunNotFoundError(AdapterHubError):
    """There is no run of that name."""

    code = "run-not-found"

    def __init__(self, run: str, known: Sequence[str]) -> None:
        self.run = run
        self.known = list(known)
        self.near = get_close_matches(run, self.known, n=3, cutoff=0.4)
        hint = f". Did you mean {', '.join(self.near)}?" if self.near else ""
        super().__init__(f'there is no run "{run}"{hint or ". List them with: adapterhub runs"}')


class RunBusyError(AdapterHubError):
    """A run goes on in another process, which holds its directory."""

    code = "run-busy"

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(
            f"the run {run} goes on in another process; wait until it ends, or stop it with Ctrl-C"
        )


class QuickstartError(AdapterHubError):
    """The quickstart's directory cannot be used."""

    code = "quickstart-refused"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot run the quickstart in {path}: {reason}")


class FormatError(AdapterHubError):
    """A file format cannot hold what an adapter has."""

    code = "format-mismatch"

    def __init__(self, format_name: str, targets: Sequence[str], reason: str) -> None:
        self.format_name = format_name
        self.targets = list(targets)
        self.reason = reason
        shown = ", ".join(self.targets[:3])
        more = f" and {len(self.targets) - 3} more" if len(self.targets) > 3 else ""
        super().__init__(f'the format "{format_name}" cannot hold {shown}{more}: {reason}')


class BlockWeightsError(AdapterHubError):
    """Weights by block cannot be read, or are not of SDXL's blocks."""

    code = "block-weights-invalid"

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(
            f'cannot read the block weights "{text}": {reason}. Write 12 or 20 numbers, '
            'or names and numbers as in "IN07=0.5,mid_block=0,text_encoder=0.3"'
        )


class AlgebraSettingError(SettingError):
    """A setting of a merge or of a resize makes no sense."""

    code = "algebra-setting-invalid"


class LayersError(AdapterHubError):
    """Layers of adapters cannot be merged or scaled as they are.

    Attributes:
        targets: All of them, as text.
        reason: What is the matter with them.
        remedy: What to do next.
    """

    code = "layers-unfit"

    def __init__(self, targets: Sequence[str], reason: str, remedy: str) -> None:
        self.targets = list(targets)
        self.reason = reason
        self.remedy = remedy
        shown = ", ".join(self.targets[:3])
        more = f" and {len(self.targets) - 3} more" if len(self.targets) > 3 else ""
        super().__init__(f"{reason}: {shown}{more}. {remedy}")


class NativeLayersError(LayersError):
    """Layers of an algorithm that has no sum, such as DoRA, OFT or LoHa."""

    code = "layers-native"

    def __init__(self, targets: Sequence[str], algorithms: Sequence[str]) -> None:
        self.algorithms = list(algorithms)
        super().__init__(
            targets,
            f"layers of {', '.join(self.algorithms)} are no plain LoRA",
            "Convert the adapter to LoRA first, or leave them out with targets",
        )


class ShapesError(LayersError):
    """Adapters change the same modules in different shapes."""

    code = "layers-shapes-differ"

    def __init__(self, targets: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        self.shapes = list(shapes)
        listed = " and ".join("x".join(map(str, shape)) for shape in self.shapes)
        super().__init__(
            targets,
            f"the adapters have different shapes ({listed} at the first)",
            "They are of different bases; merge only adapters of one architecture",
        )


class LayerKindsError(LayersError):
    """Layers that are stored whole, or biases, which only a weighted sum can merge."""

    code = "layers-kinds-differ"


class ConversionError(AdapterHubError):
    """Layers cannot be made plain LoRA."""

    code = "conversion-impossible"

    def __init__(self, targets: Sequence[str], reason: str) -> None:
        self.targets = list(targets)
        self.reason = reason
        more = f" and {len(self.targets) - 3} more" if len(self.targets) > 3 else ""
        super().__init__(f"{', '.join(self.targets[:3])}{more} cannot be made plain LoRA: {reason}")


class NotFiniteError(AdapterHubError):
    """An adapter holds NaN or infinity, which would spoil every picture that it is composed into."""

    code = "weights-not-finite"

    def __init__(self, label: str, targets: Sequence[str]) -> None:
        self.label = label
        self.targets = list(targets)
        more = f" and {len(self.targets) - 3} more" if len(self.targets) > 3 else ""
        super().__init__(
            f"{label} holds numbers that are not finite, at {', '.join(self.targets[:3])}{more}; "
            "look at it with: adapterhub inspect"
        )
