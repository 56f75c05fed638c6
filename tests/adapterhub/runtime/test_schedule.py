"""Schedules and Composite: equal to plain loops that follow the paper, recorded, and gone afterwards."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapterhub.errors import BlockWeightsError, RecordError, SettingError
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub.runtime.schedule import Composite, Keyframes, Plan, Switch
from adapterhub_registry.record import png_with_record, read_record
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import ADAPTERS, random_adapter, weights

pytestmark = pytest.mark.usefixtures("base_again")
STEPS = 7
PROMPT, SEED, GUIDANCE = "a red heart", 7, 5.0
BOTH = Composition.parse("me/words:0.8 + me/corgi:-0.5")
WRONG = Composition.parse("me/ink[IN99=1]")
STRENGTHS = {"words": 0.8, "corgi": -0.5}

Strengths = Mapping[str, float]
Predict = Callable[[int, Callable[[], Tensor]], Tensor]


class ByHand:
    """The stock pipeline, with `W + sum of strength B A` written into it, and a plain denoising loop."""

    def __init__(self, runtime: Runtime) -> None:
        self.pipeline = runtime.pipeline
        self.tensors = {
            name: random_adapter(runtime, seed, with_text=with_text)
            for name, (seed, with_text) in ADAPTERS.items()
        }
        parts = ("unet", "text_encoder", "text_encoder_2")
        self.parameters = {
            f"{part}.{name.removeprefix('text_model.')}": parameter
            for part in parts
            for name, parameter in getattr(self.pipeline, part).named_parameters()
        }
        self.pristine = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @contextmanager
    def added(self, strengths: Strengths) -> Generator[None]:
        changed: dict[str, Tensor] = {}
        for name, strength in strengths.items():
            for target, layer in self.tensors[name].layers.items():
                path = f"{target.component}.{target.module.removeprefix('text_model.')}.weight"
                before = changed.get(path, self.pristine[path].double())
                changed[path] = before + strength * (layer.up.double() @ layer.down.double())
        with torch.no_grad():
            for path, value in changed.items():
                self.parameters[path].copy_(value)
            yield
            for path in changed:
                self.parameters[path].copy_(self.pristine[path])

    @torch.no_grad()
    def latents(self, on_text: Strengths, predict: Predict) -> Tensor:
        """Denoise; `predict(step, unet)` calls `unet()` under the weights that it wants."""
        pipeline: Any = self.pipeline
        with self.added(on_text):
            text, _, pooled, _ = pipeline.encode_prompt(
                prompt=PROMPT, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        states = torch.cat([torch.zeros_like(text), text])
        generator = torch.Generator("cpu").manual_seed(SEED)
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(STEPS)
        latents = torch.randn((1, 4, 16, 16), generator=generator) * scheduler.init_noise_sigma
        added = {
            "text_embeds": torch.cat([torch.zeros_like(pooled), pooled]),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
        }
        for step, time in enumerate(scheduler.timesteps):
            both = scheduler.scale_model_input(torch.cat([latents] * 2), time)

            def unet(both: Tensor = both, time: Tensor = time) -> Tensor:
                return pipeline.unet(both, time, encoder_hidden_states=states, added_cond_kwargs=added).sample

            without, with_text = predict(step, unet).chunk(2)
            noise = without + GUIDANCE * (with_text - without)
            latents = scheduler.step(noise, time, latents).prev_sample
        return latents


@pytest.fixture(scope="module")
def by_hand(runtime: Runtime) -> ByHand:
    return ByHand(runtime)


def made_latents(runtime: Runtime, plan: Plan) -> Tensor:
    """Return what the VAE is given."""
    seen: list[Tensor] = []
    vae: Any = runtime.pipeline.vae
    hook = vae.post_quant_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        runtime.compose(plan)
        runtime.generate(PROMPT, seed=SEED, steps=STEPS, guidance_scale=GUIDANCE)
    finally:
        hook.remove()
    return seen[0] * vae.config.scaling_factor


def assert_equal(made: Tensor, expected: Tensor) -> None:
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()


def names_at(turns: str) -> list[str]:
    return [{"w": "words", "c": "corgi"}[letter] for letter in turns]


@pytest.mark.parametrize(
    ("every", "order", "turns"),
    [
        (2, "even", "wwccwwc"),
        (2, "reference", "wwwccww"),  # the authors' callback: at the end of step s > 0, if s % every == 0
        (1, "even", "wcwcwcw"),
        (1, "reference", "wwcwcwc"),
        (5, "even", "wwwwwcc"),
        (9, "even", "wwwwwww"),
    ],
)
def test_switch_equals_a_loop_with_one_adapter_at_a_time(
    runtime: Runtime, by_hand: ByHand, every: int, order: str, turns: str
) -> None:
    active = names_at(turns)

    def predict(step: int, unet: Callable[[], Tensor]) -> Tensor:
        with by_hand.added({active[step]: STRENGTHS[active[step]]}):
            return unet()

    expected = by_hand.latents({"words": 0.8}, predict)
    assert_equal(made_latents(runtime, Switch(BOTH, every, order)), expected)


def test_composite_equals_the_guided_mean_of_single_predictions(runtime: Runtime, by_hand: ByHand) -> None:
    def predict(_: int, unet: Callable[[], Tensor]) -> Tensor:
        predictions: list[Tensor] = []
        for name, strength in STRENGTHS.items():
            with by_hand.added({name: strength}):
                predictions.append(unet())
        return torch.stack(predictions).mean(0)

    expected = by_hand.latents(STRENGTHS, predict)
    made = made_latents(runtime, Composite(BOTH))
    assert_equal(made, expected)
    assert (made - made_latents(runtime, BOTH)).abs().max() > 0.01


def test_keyframes_equal_a_loop_with_strengths_between_them(runtime: Runtime, by_hand: ByHand) -> None:
    plan = Keyframes(
        (
            (0.0, Composition.parse("me/words:0.2")),
            (3, Composition.parse("me/words:0.8 + me/corgi:0.6")),
            (1.0, Composition.parse("me/corgi:-0.3")),
        )
    )
    words = [0.2, 0.4, 0.6, 0.8, 0.8 * 2 / 3, 0.8 / 3, 0.0]
    corgi = [0.0, 0.2, 0.4, 0.6, 0.3, 0.0, -0.3]

    def predict(step: int, unet: Callable[[], Tensor]) -> Tensor:
        with by_hand.added({"words": words[step], "corgi": corgi[step]}):
            return unet()

    assert_equal(made_latents(runtime, plan), by_hand.latents({"words": 0.2}, predict))


PLANS = [
    Switch(BOTH, 2),
    Composite(BOTH),
    Keyframes(((1, Composition.parse("me/words:0.2")), (1.0, BOTH))),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: type(plan).__name__)
def test_the_record_makes_the_same_bytes(
    runtime: Runtime, registry: Registry, tmp_path: Path, plan: Plan
) -> None:
    runtime.compose(plan)
    result = runtime.generate("a star", seed=1, steps=4)
    path = tmp_path / "star.png"
    path.write_bytes(png_with_record(result.images[0], result.record))
    assert {entry["reference"] for entry in read_record(path).composition} == {"me/words@1", "me/corgi@1"}
    again = replay(path, registry=registry)
    assert png_with_record(again.image, again.record) == path.read_bytes()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: type(plan).__name__)
def test_between_pictures_the_pipeline_is_the_base(runtime: Runtime, plan: Plan) -> None:
    pristine = weights(runtime)
    before = vars(runtime.pipeline.unet).keys()
    runtime.compose(plan)
    assert runtime.composition == plan
    runtime.generate("a star", seed=1, steps=2)

    def stop(step: int, _: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.generate("a star", seed=1, steps=4, on_step=stop)
    assert all(torch.equal(pristine[name], value) for name, value in weights(runtime).items())
    assert vars(runtime.pipeline.unet).keys() == before


def test_a_damaged_schedule_in_a_record_is_named(
    runtime: Runtime, registry: Registry, tmp_path: Path
) -> None:
    runtime.compose(Switch(BOTH))
    result = runtime.generate("a star", seed=1, steps=1)
    for schedule in (
        {"kind": "new"},
        {"every": 2},
        {"kind": "switch", "every": "2", "order": "even"},
        {"kind": "keyframes", "points": [[0]]},
    ):
        result.record.schedule.clear()
        result.record.schedule.update(schedule)
        (tmp_path / "star.png").write_bytes(png_with_record(result.images[0], result.record))
        with pytest.raises(RecordError):
            replay(tmp_path / "star.png", registry=registry)


def test_settings_that_make_no_sense_are_refused() -> None:
    one = Composition.parse("me/ink")
    for wrong in (
        lambda: Switch(BASE),
        lambda: Switch(one, 0),
        lambda: Switch(one, 1, "odd"),
        lambda: Composite(BASE),
        lambda: Keyframes(()),
        lambda: Keyframes(((-1, one),)),
        lambda: Keyframes(((1.5, one),)),
        lambda: Keyframes(((float("nan"), one),)),
    ):
        with pytest.raises(SettingError):
            wrong()


def test_blocks_that_cannot_be_read_are_refused_when_it_is_composed(runtime: Runtime) -> None:
    for plan in (Switch(WRONG), Composite(WRONG), Keyframes(((0, WRONG),))):
        with pytest.raises(BlockWeightsError):
            runtime.compose(plan)
    assert runtime.composition == BASE
