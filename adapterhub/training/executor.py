"""The loop that trains adapters together on one frozen base, each as if it were alone."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adapterhub.lora.weights import AdapterTensors
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.losses import adapter_losses
from adapterhub.training.objective import ObjectiveTable, Terms
from adapterhub.training.optimizers import OptimizerConfig, make_optimizer, rate_factor, set_rates
from adapterhub.training.spread import Spread

PATIENCE = 4
"""Passes that an adapter waits at most while others are trained in another shape."""


HALF_SCALE = 2.0**14
"""What losses are multiplied by under float16, and gradients divided by: those of a mean over a picture's
latents begin near 1e-5, where float16 has few digits left."""


@dataclass(frozen=True)
class Rows:
    """What one adapter's pass reads, on the CPU in float32.

    Attributes:
        mean: Of the posteriors, `(samples, channels, height, width)`, scaled.
        std: Likewise.
        states: Prompt states, `(samples, tokens, width)`.
        pooled: Pooled prompts, `(samples, projection)`.
        size_ids: SDXL's, `(samples, 6)`.
        mask: What is learnt, `(samples, 1, height, width)`, or None for all of it.
        is_prior: Which samples keep a class.
        tokens: Of the captions, `(samples, chunks, 2, 77)`, if text encoders are trained: these are encoded
            in place of `states` and `pooled`.
        is_dropped: Which samples have no caption, then.
        first: The place of the first sample in the pass, of which these may be a part.
        whole: Samples of the whole pass; 0 means that these are all.
    """

    mean: Tensor
    std: Tensor
    states: Tensor
    pooled: Tensor
    size_ids: Tensor
    mask: Tensor | None = None
    is_prior: Sequence[bool] = ()
    tokens: Tensor | None = None
    is_dropped: Sequence[bool] = ()
    first: int = 0
    whole: int = 0

    def part(self, start: int, stop: int) -> "Rows":
        """Return some of the samples of a whole pass."""
        return Rows(
            mean=self.mean[start:stop],
            std=self.std[start:stop],
            states=self.states[start:stop],
            pooled=self.pooled[start:stop],
            size_ids=self.size_ids[start:stop],
            mask=None if self.mask is None else self.mask[start:stop],
            is_prior=self.is_prior[start:stop],
            tokens=None if self.tokens is None else self.tokens[start:stop],
            is_dropped=self.is_dropped[start:stop],
            first=start,
            whole=len(self.mean),
        )

    @property
    def weight(self) -> float:
        """How much of the pass these are."""
        return len(self.mean) / (self.whole or len(self.mean))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.mean.shape[1:]
        return channels, height, width

    @property
    def shape(self) -> tuple[int, ...]:
        """What all rows of one forward have in common."""
        return (*self.latent_shape, self.states.shape[1])


@dataclass(frozen=True)
class Trainee:
    """One adapter to train.

    Attributes:
        name: Which one of those that are trained together.
        seed: Part of the key of every random number.
        network: Its layers.
        optimizer: How they are changed.
        objective: What is minimised.
        steps: Optimizer steps.
        accumulation: Passes a step.
        rows: Returns what a pass reads; passes count up from 0.
        drawn_as: The name in the key of every random number, if it is not `name`: candidates of one adapter
            see the same numbers.
    """

    name: str
    seed: int
    network: NetworkConfig
    optimizer: OptimizerConfig
    objective: ObjectiveTable
    steps: int
    accumulation: int
    rows: Callable[[int], Rows]
    drawn_as: str = ""

    @property
    def key(self) -> str:
        """The name in the key of every random number."""
        return self.drawn_as or self.name


EncodeCaptions: TypeAlias = Callable[[Sequence[Rows]], Sequence[tuple[Tensor, Tensor]]]
"""Returns states and pooled output for the tokens of each of these rows, with their graph."""


class Network(Protocol):
    """Trainable layers of several adapters on one base; see `LoraBank`."""

    def place(self, slot: int, config: NetworkConfig, *, seed: int, key: str) -> None:
        """Put a new adapter into a slot."""
        ...

    def remove(self, slot: int) -> None:
        """Free a slot."""
        ...

    def parameters(self, slot: int) -> dict[tuple[str, str], list[nn.Parameter]]:
        """Return an adapter's factors, by component and side."""
        ...

    def share(
        self,
        slots: Sequence[int],
        counts: Sequence[int],
        steps: Sequence[int] | None = None,
        *,
        parts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Say whose samples come next; of nobody, so that the base is as it was."""
        ...

    def limit_norms(self, slot: int) -> int:
        """Scale an adapter's updates down to its `max_norm`."""
        ...

    def tensors(self, slot: int) -> AdapterTensors:
        """Return copies of an adapter's factors as an adapter."""
        ...


@dataclass
class Training:
    """One adapter that is in training.

    Attributes:
        trainee: What is trained.
        slot: Its place in the network.
        optimizer: Of its factors.
        parameters: Its factors.
        passes: Done.
        waited: Passes of others since its last one.
        losses: Of each step.
        error: Why it is frozen; empty while it is trained.
        loss_sum: Of the passes of the present step.
        until: The step at which it leaves its slot, to wait or for good; 0 means its last one.
    """

    trainee: Trainee
    slot: int
    optimizer: Optimizer
    parameters: list[nn.Parameter]
    passes: int = 0
    waited: int = 0
    losses: list[float] = field(default_factory=list[float])
    error: str = ""
    loss_sum: float = 0.0
    until: int = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return self.passes // self.trainee.accumulation

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do in this slot."""
        return bool(self.error) or self.step >= (self.until or self.trainee.steps)


@dataclass(frozen=True)
class Events:
    """Who is told what; each is called between two passes.

    Attributes:
        on_step: An adapter has done a step.
        on_pass: A pass is over, for checkpoints: gets all that are in training.
        on_end: An adapter is trained, frozen, or as far as `until`, and still in its slot.
        should_stop: Asked after each pass.
        on_place: An adapter has got a slot, and is at its first step there.
    """

    on_step: Callable[[Training], None]
    on_pass: Callable[[Sequence[Training]], None]
    on_end: Callable[[Training], None]
    should_stop: Callable[[], bool]
    on_place: Callable[[Training], None] = lambda _: None


class Executor:
    """Trains adapters, several in each forward of the base; a slot that is free takes the next one.

    Args:
        unet: Frozen; the network's layers must be active on it.
        network: With as many slots as adapters may be trained at a time.
        trainees: In their order.
        slots: Of the network.
        encode_captions: Needed if a trainee's rows have tokens.
        dtype: In which losses are taken and latents are made noisy: float32, or float64 to compare with.
        spread: The part of this process, if several train the only adapter.
    """

    def __init__(
        self,
        unet: Any,
        network: Network,
        trainees: Sequence[Trainee],
        *,
        slots: int,
        encode_captions: EncodeCaptions | None = None,
        dtype: torch.dtype = torch.float32,
        spread: Spread | None = None,
    ) -> None:
        self._unet = unet
        self._spread = spread
        # Diffusers finds either by a walk over all modules.
        self._device, self._unet_dtype = unet.device, unet.dtype
        self._encode_captions = encode_captions
        self._network = network
        self._scale = HALF_SCALE if self._unet_dtype == torch.float16 else 1.0
        self._queue = deque(trainees)
        self._free = list(range(slots))
        self._dtype = dtype
        self.active: list[Training] = []

    def place(self, trainee: Trainee, slot: int) -> Training:
        """Put an adapter into a free slot, at its first step."""
        self._free.remove(slot)
        self._network.place(slot, trainee.network, seed=trainee.seed, key=trainee.key)
        groups = self._network.parameters(slot)
        optimizer = make_optimizer(trainee.optimizer, groups)
        training = Training(trainee, slot, optimizer, [one for own in groups.values() for one in own])
        self.active.append(training)
        return training

    def resume(self, name: str, slot: int) -> Training:
        """Put the adapter of that name into a slot, to be set to its checkpoint's state."""
        return self.place(self.take(name), slot)

    def take(self, name: str) -> Trainee:
        """Take the adapter of that name out of the line."""
        trainee = next(trainee for trainee in self._queue if trainee.name == name)
        self._queue.remove(trainee)
        return trainee

    @property
    def waiting(self) -> list[str]:
        """The names in the line, in order."""
        return [trainee.name for trainee in self._queue]

    def enqueue(self, trainee: Trainee) -> None:
        """Put an adapter at the end of the line."""
        self._queue.append(trainee)

    def run(self, events: Events) -> bool:
        """Train until all are trained; return False if `should_stop` ended it before."""
        while True:
            while self._queue and self._free:
                events.on_place(self.place(self._queue.popleft(), self._free[0]))
            if not self.active:
                return True
            self._pass(events)
            for training in [one for one in self.active if one.is_over]:
                events.on_end(training)
                self.active.remove(training)
                self._network.remove(training.slot)
                self._free = sorted([*self._free, training.slot])
            events.on_pass(self.active)
            if events.should_stop():
                return not (self.active or self._queue)

    def _pass(self, events: Events) -> None:
        """One forward and backward of those whose next rows have the same shape."""
        # Captions that are missing in the cache are encoded by the base.
        self._network.share((), ())
        rows = {one.slot: one.trainee.rows(one.passes) for one in self.active}
        chosen = self._chosen({slot: own.shape for slot, own in rows.items()})
        for one in self.active:
            one.waited = 0 if one in chosen else one.waited + 1
        for one, loss in zip(chosen, self._derive(chosen, [rows[one.slot] for one in chosen]), strict=True):
            one.passes += 1
            one.loss_sum += loss / one.trainee.accumulation
            if one.passes % one.trainee.accumulation == 0:
                self._step(one)
                if not one.error:
                    events.on_step(one)

    def _derive(self, chosen: Sequence[Training], rows: Sequence[Rows]) -> list[float]:
        """Add to the gradients, and return the losses, as much as these rows count in their passes."""
        if self._spread is not None:
            rows = [own.part(*self._spread.bounds(len(own.mean))) for own in rows]
            if not len(rows[0].mean):
                return [0.0]
        losses = self._losses(chosen, rows)
        pairs = list(zip(chosen, rows, strict=True))
        shares = torch.tensor(
            [own.weight / one.trainee.accumulation for one, own in pairs], dtype=losses.dtype
        )
        (losses * (shares * self._scale).to(losses.device)).sum().backward()
        return [loss * own.weight for loss, own in zip(losses.detach().tolist(), rows, strict=True)]

    def _chosen(self, shapes: Mapping[int, tuple[int, ...]]) -> list[Training]:
        """Return who is trained now: most of one shape, unless somebody has waited too long."""
        late = max(self.active, key=lambda one: one.waited)
        counts = list(shapes.values())
        wanted = shapes[late.slot] if late.waited >= PATIENCE else max(counts, key=counts.count)
        return sorted((one for one in self.active if shapes[one.slot] == wanted), key=lambda one: one.slot)

    def _losses(self, chosen: Sequence[Training], rows: Sequence[Rows]) -> Tensor:
        """Return each adapter's loss, with its graph."""
        counts = [len(own.mean) for own in rows]
        draws = [
            one.trainee.objective.draw(
                own.latent_shape,
                seed=one.trainee.seed,
                name=one.trainee.key,
                step=one.passes,
                sample=own.first + sample,
            )
            for one, own in zip(chosen, rows, strict=True)
            for sample in range(len(own.mean))
        ]
        device, dtype = self._device, self._unet_dtype
        steps = iter(draw.timestep for draw in draws)
        terms = Terms.join(
            [
                one.trainee.objective.terms(
                    [next(steps) for _ in own.mean], is_prior=own.is_prior or None, dtype=self._dtype
                )
                for one, own in zip(chosen, rows, strict=True)
            ]
        ).to(device)
        posterior = torch.stack([draw.posterior for draw in draws])
        mean, std = (_joined([getattr(own, name) for own in rows]) for name in ("mean", "std"))
        latents = (mean.to(self._dtype) + std.to(self._dtype) * posterior.to(self._dtype)).to(device)
        noise = torch.stack([draw.noise for draw in draws]).to(device, self._dtype)
        added = torch.stack([draw.added for draw in draws]).to(device, self._dtype)
        states, pooled = self._conditioning(chosen, rows)
        self._share(chosen, rows)
        predicted = self._unet(
            terms.noisy(latents, added).to(dtype),
            terms.timesteps,
            encoder_hidden_states=states.to(device, dtype),
            added_cond_kwargs={
                "text_embeds": pooled.to(device, dtype),
                # In float32 up to their sinusoids: bfloat16 would make 1368 of 1365.
                "time_ids": _joined([own.size_ids for own in rows]).to(device, self._dtype),
            },
            return_dict=False,
        )[0]
        mask = _masks(rows, device)
        return adapter_losses(terms.losses(predicted, latents, noise, mask), counts)

    def _conditioning(self, chosen: Sequence[Training], rows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
        """Return states and pooled output of all captions: encoded before, or now if that is trained."""
        parts = [(own.states, own.pooled) for own in rows]
        live = [number for number, own in enumerate(rows) if own.tokens is not None]
        if live and self._encode_captions is not None:
            own = [rows[number] for number in live]
            self._share([chosen[number] for number in live], own)
            for number, encoded in zip(live, self._encode_captions(own), strict=True):
                parts[number] = encoded
            parts = [(states.to(self._device), pooled.to(self._device)) for states, pooled in parts]
        return _joined([states for states, _ in parts]), _joined([pooled for _, pooled in parts])

    def _share(self, chosen: Sequence[Training], rows: Sequence[Rows]) -> None:
        counts, steps = [len(own.mean) for own in rows], [one.passes for one in chosen]
        parts = [(own.first, own.whole) for own in rows] if self._spread is not None else ()
        self._network.share([one.slot for one in chosen], counts, steps, parts=parts)

    def _step(self, one: Training) -> None:
        """Change an adapter's factors, or freeze it as it was if its loss or gradient is no number."""
        config, trainee = one.trainee.optimizer, one.trainee
        gradients = [parameter.grad for parameter in one.parameters if parameter.grad is not None]
        if self._spread is not None:
            one.loss_sum = self._spread.add_up(gradients, one.loss_sum)
        if self._scale != 1:
            for gradient in gradients:
                gradient.div_(self._scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        loss, one.loss_sum = one.loss_sum, 0.0
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            what = (
                f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm.item()}"
            )
            one.error = f"{what}; try a lower learning_rate"
            one.passes -= trainee.accumulation
        else:
            if config.max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(one.parameters, config.max_grad_norm, norm)
            factor = rate_factor(
                one.step - 1, steps=trainee.steps, warmup=config.warmup, schedule=config.schedule
            )
            set_rates(one.optimizer, factor)
            one.optimizer.step()
            self._network.limit_norms(one.slot)
            one.losses.append(loss)
        for gradient in gradients:
            gradient.zero_()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _masks(rows: Sequence[Rows], device: torch.device) -> Tensor | None:
    """Return all masks; rows without one learn the whole picture."""
    if all(own.mask is None for own in rows):
        return None
    whole = [
        torch.ones(len(own.mean), 1, *own.mean.shape[2:]) if own.mask is None else own.mask for own in rows
    ]
    return _joined(whole).to(device)
