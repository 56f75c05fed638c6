"""Text encoders that are trained: captions go through them in each pass, each under its own adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from adapterhub.bases.find import find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.randomness import keyed_generator, keyed_normal
from adapterhub.runtime.engine import Runtime
from adapterhub.training.bank import LoraBank
from adapterhub.training.cache import EncodingCache
from adapterhub.training.config import AdapterConfig, BaseConfig, DataConfig, TrainConfig
from adapterhub.training.executor import Events, Executor, Rows, Trainee, Training
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective, ObjectiveTable
from adapterhub.training.optimizers import OptimizerConfig
from adapterhub.training.rows import Encoder
from adapterhub.training.text import TEXT_ENCODERS, CaptionEncoder
from adapterhub.training.train import train
from adapterhub_registry.store import Registry

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"
ALPHAS = torch.linspace(0.999, 0.005, 1000)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mini() -> StableDiffusionXLPipeline:
    return load_pipeline(find_base("mini"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def encoders() -> list[CLIPTextModel | CLIPTextModelWithProjection]:
    """Both text encoders in float64, small, with random weights; together as wide as `small_unet` reads."""
    made: list[CLIPTextModel | CLIPTextModelWithProjection] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for kind, width in ((CLIPTextModel, 8), (CLIPTextModelWithProjection, 16)):
            config = CLIPTextConfig(
                vocab_size=40,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=7,
                projection_dim=16,
                bos_token_id=38,
                eos_token_id=39,
                pad_token_id=39,
            )
            made.append(kind(config).double().eval().requires_grad_(requires_grad=False))
    return made


def rows_of(name: str, count: int, *, trains_text: bool) -> Callable[[int], Rows]:
    """Passes over random latents and captions of two chunks, of which the last one is dropped."""

    def rows(number: int) -> Rows:
        drawn = keyed_generator(0, name, "tokens", number).integers(0, 38, (count, 2, 2, 7))
        tokens = torch.from_numpy(drawn)
        tokens[..., 0], tokens[..., -1] = 38, 39
        return Rows(
            mean=keyed_normal((count, 4, 8, 8), 0, name, "mean", number),
            std=torch.full((count, 4, 8, 8), 0.1),
            states=keyed_normal((count, 14, 24), 0, name, "states", number),
            pooled=keyed_normal((count, 16), 0, name, "pooled", number),
            size_ids=torch.full((count, 6), 64.0),
            tokens=tokens if trains_text else None,
            is_dropped=[sample == count - 1 for sample in range(count)],
        )

    return rows


def trainee(number: int) -> Trainee:
    """One of four, of which the second one leaves the text encoders alone."""
    name, trains_text = f"me/t{number}", number != 1
    return Trainee(
        name=name,
        seed=number,
        network=NetworkConfig(rank=2, text_rank=(3 + number) * trains_text, dropout=0.2 * (number == 3)),
        optimizer=OptimizerConfig(learning_rate=1e-3, text_learning_rate=(2e-3, 5e-3 * (number == 2))),
        objective=ObjectiveTable(Objective(), ALPHAS),
        steps=4,
        accumulation=1,
        rows=rows_of(name, 2 + number % 2, trains_text=trains_text),
    )


def run(unet: UNet2DConditionModel, encoders: Sequence[torch.nn.Module], trainees: Sequence[Trainee]) -> dict:
    components = {"unet": unet, **dict(zip(TEXT_ENCODERS, encoders, strict=True))}
    networks = [one.network for one in trainees]
    bank = LoraBank(components, networks, slots=len(trainees), device=CPU, dtype=torch.float64)
    executor = Executor(
        unet,
        bank,
        trainees,
        slots=len(trainees),
        encode_captions=CaptionEncoder(encoders),
        dtype=torch.float64,
    )
    factors: dict[str, Mapping[str, Tensor]] = {}

    def ended(training: Training) -> None:
        assert training.error == ""
        factors[training.trainee.name] = bank.factors_of(training.slot)

    with bank:
        executor.run(Events(lambda _: None, lambda _: None, ended, lambda: False))
    return factors


def test_adapters_that_train_text_together_equal_themselves_alone(
    small_unet: UNet2DConditionModel, encoders: Sequence[torch.nn.Module]
) -> None:
    trainees = [trainee(number) for number in range(4)]
    together = run(small_unet, encoders, trainees)
    for one in trainees:
        alone = run(small_unet, encoders, [one])[one.name]
        mine = together[one.name]
        assert mine.keys() == alone.keys()
        assert max(float((mine[key] - alone[key]).abs().max()) for key in alone) <= 1e-10
        moved = {key.split(".")[0] for key in mine if key.endswith(".up") and mine[key].abs().max() > 0}
        assert moved == {"unet", *(TEXT_ENCODERS if one.network.trains_text else ())}


def test_a_step_moves_the_text_encoders_at_their_own_rates(
    small_unet: UNet2DConditionModel, encoders: Sequence[torch.nn.Module]
) -> None:
    """Adam's first step moves every entry by the rate, whatever its gradient."""
    one = replace(trainee(0), steps=1)
    rates = OptimizerConfig(learning_rate=1e-3, text_learning_rate=(3e-4, 7e-4), warmup=0, max_grad_norm=0)
    factors = run(small_unet, encoders, [replace(one, optimizer=rates)])[one.name]
    for component, rate in (("unet", 1e-3), ("text_encoder", 3e-4), ("text_encoder_2", 7e-4)):
        ups = [
            value for key, value in factors.items() if key.startswith(f"{component}.") and key.endswith(".up")
        ]
        assert max(float(value.abs().max()) for value in ups) == pytest.approx(rate, rel=1e-2)


@pytest.mark.parametrize(
    "text", ["a red apple", "", "wait! what? (no:1.5) [brackets]", "a, " * 60, "one " * 200]
)
def test_captions_are_encoded_as_for_the_cache(
    mini: StableDiffusionXLPipeline, text: str, tmp_path: Path
) -> None:
    encoder = Encoder(mini, EncodingCache(tmp_path))
    for chunks in (1, 2, 3):
        kept = encoder.caption(text, chunks=chunks)
        whole = torch.zeros(2, 4, 8, 8)
        tokens = torch.stack([encoder.tokens(text, chunks=chunks)] * 2)
        rows = Rows(whole, whole, whole, whole, whole, tokens=tokens, is_dropped=[False, True])
        ((states, pooled),) = CaptionEncoder([mini.text_encoder, mini.text_encoder_2])([rows])
        assert (states[0] - kept["states"]).abs().max() <= 1e-5 * kept["states"].abs().max()
        assert (pooled[0] - kept["pooled"]).abs().max() <= 1e-5 * kept["pooled"].abs().max()
        assert not states[1].any()
        assert not pooled[1].any()


def test_a_file_with_text_layers_loads_in_stock_diffusers_and_composes_the_same(
    pictures: Callable[..., Path], home: Path
) -> None:
    registry = Registry(home)
    adapter = AdapterConfig(
        name="me/words",
        data=(DataConfig(pictures()),),
        steps=6,
        batch_size=2,
        network=NetworkConfig(rank=2, text_rank=4),
        optimizer=OptimizerConfig(learning_rate=3e-3, text_learning_rate=(3e-3, 3e-3)),
    )
    (version,) = train(TrainConfig(BaseConfig("mini", device="cpu"), (adapter,)), registry=registry)
    weights = load(registry.read(version.files[0].sha256))
    assert all(value.any() for value in weights.values())  # and none for the layer that SDXL does not read
    stock = StableDiffusionXLPipeline.from_pretrained(MINI)
    plain = stock.encode_prompt("inkwash blob", num_images_per_prompt=1)[0]
    stock.load_lora_weights(registry.directory(version))
    assert set(stock.get_list_adapters()) == {"unet", *TEXT_ENCODERS}
    theirs = stock.encode_prompt("inkwash blob", num_images_per_prompt=1)
    with Runtime.load("mini", registry=registry, device="cpu") as runtime:
        runtime.compose("me/words")
        mine = runtime.pipeline.encode_prompt("inkwash blob", num_images_per_prompt=1)
    for here, there in ((mine[0], theirs[0]), (mine[2], theirs[2])):
        assert (here - there).abs().max() <= 1e-5 * there.abs().max()
    assert (theirs[0] - plain).abs().max() > 0.01 * plain.abs().max()
