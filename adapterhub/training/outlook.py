"""What a training would be, for a person to look at before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass

from adapterhub.bases.find import find_base
from adapterhub.settings import Launch
from adapterhub.training.caption_lengths import CaptionLength, CaptionRuler
from adapterhub.training.config import TrainConfig
from adapterhub.training.efficiency import size_text
from adapterhub.training.forecast import Forecast, make_forecasts
from adapterhub.training.loading import cpu_threads
from adapterhub.training.plan import AdapterPlan, make_plan
from adapterhub_registry.store import Registry

FEW_PICTURES = 5
MANY_EPOCHS = 200
LEAST_KEPT = 0.7
"""Of a picture's area; if more is cut off, that is said."""
LONG_S = 600
"""A training that takes longer should write checkpoints."""


@dataclass(frozen=True)
class Outlook:
    """What the training of one adapter would be.

    Attributes:
        plan: What would be trained.
        lengths: Of the captions.
        forecast: What its run would need, with those that are trained together.
        warnings: What a person should look at; each says what was found.
    """

    plan: AdapterPlan
    lengths: Sequence[CaptionLength]
    forecast: Forecast
    warnings: Sequence[str]

    @property
    def truncated(self) -> list[CaptionLength]:
        """The captions that are longer than what is read of them."""
        return [one for one in self.lengths if one.chunks > self.plan.config.max_chunks]


def look_ahead(config: TrainConfig, *, registry: Registry, resume: str | None = None) -> list[Outlook]:
    """Read everything but the weights of the base, train nothing, and say what would happen.

    Args:
        config: What to train.
        registry: Where it would be registered; nothing is written there.
        resume: As `train` takes it.

    Returns:
        One an adapter, in the order of the config.

    Raises:
        AdapterHubError: As `make_plan` and `make_forecasts`.
    """
    base, processes = find_base(config.base.model), Launch.from_environment().count
    groups = make_plan(config, base, registry=registry, resume=resume, processes=processes)
    ruler = CaptionRuler(base)
    with cpu_threads(config.base.threads):
        forecasts = make_forecasts(groups, config, base)
    found: dict[str, Outlook] = {}
    for group, forecast in zip(groups, forecasts, strict=True):
        for item in group.items:
            lengths = ruler.lengths(item.dataset.examples)
            found[item.config.name] = Outlook(item, lengths, forecast, _warnings(item, lengths, forecast))
    return [found[adapter.name] for adapter in config.adapters]


def _warnings(item: AdapterPlan, lengths: Sequence[CaptionLength], forecast: Forecast) -> list[str]:
    config, examples = item.config, item.dataset.examples
    learnt = [example for example in examples if not example.source.is_prior]
    found: list[str] = []
    if len(learnt) < FEW_PICTURES:
        found.append(f"only {_count(len(learnt), 'picture')} to learn from")
    if item.epochs > MANY_EPOCHS:
        found.append(f"each picture is shown {item.epochs:.0f} times: fewer steps may do")
    if item.without_trigger:
        found.append(f"{_count(item.without_trigger, 'caption')} without a trigger word")
    cut = [one for one in lengths if one.chunks > config.max_chunks]
    if cut:
        wanted = max(one.chunks for one in cut)
        names = ", ".join(f"{one.picture} ({one.tokens} tokens)" for one in cut)
        said = f"{_count(len(cut), 'caption')} too long for max_chunks = {config.max_chunks}, and cut"
        found.append(f"{said}; {wanted} would read all: {names}")
    fullest = max(item.dataset.shown.values())
    if config.batch_size > fullest:
        found.append(
            f"batch_size is {config.batch_size}, and the fullest bucket shows {_count(fullest, 'picture')}: "
            "no pass is full"
        )
    placed = [(example.name, example.placement) for example in examples if example.placement]
    enlarged = [name for name, placement in placed if placement.scale > 1]
    if enlarged:
        found.append(f"{_count(len(enlarged), 'picture')} enlarged: {', '.join(enlarged)}")
    cropped = [f"{name} ({1 - place.kept:.0%})" for name, place in placed if place.kept < LEAST_KEPT]
    if cropped:
        found.append(f"{_count(len(cropped), 'picture')} cut at the edges by much: {', '.join(cropped)}")
    if not config.save_every and forecast.seconds > LONG_S:
        found.append("save_every is 0: if the process is killed, all of it is lost")
    if forecast.peak_bytes > forecast.free_bytes:
        needed, free = size_text(forecast.peak_bytes), size_text(forecast.free_bytes)
        found.append(f"it may need {needed} of memory, and {free} are free")
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
