"""A pipeline that somebody else loaded: used, and given back as it came."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from adapterhub.errors import PipelineRefusedError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.lora.weights import AdapterTensors, LowRank
from adapterhub.runtime.engine import Runtime
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import random_adapter, weights

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"
SETTINGS = {"num_inference_steps": 2, "guidance_scale": 5.0, "output_type": "np"}


def stock(dtype: torch.dtype = torch.float32) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(MINI, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_wrapped_pipeline_is_given_back_as_it_came(registry: Registry, runtime: Runtime) -> None:
    pipeline = stock()
    state = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    keys, scheduler = list(vars(pipeline.unet)), pipeline.scheduler
    addresses = [parameter.data_ptr() for parameter in pipeline.unet.parameters()]
    with Runtime.wrap(pipeline, base="mini", registry=registry) as wrapped:
        wrapped.compose("me/ink:0.7")
        made = wrapped.generate("a star", seed=3, steps=2, scheduler="ddim")
        wrapped.compose("me/words", plane="low_rank")
    runtime.compose("me/ink:0.7")
    expected = runtime.generate("a star", seed=3, steps=2, scheduler="ddim")
    runtime.compose(None)
    assert np.array_equal(np.asarray(made.images[0]), np.asarray(expected.images[0]))
    assert made.record == expected.record
    assert all(torch.equal(state[name], value) for name, value in pipeline.unet.state_dict().items())
    assert list(vars(pipeline.unet)) == keys
    assert pipeline.scheduler is scheduler
    assert [parameter.data_ptr() for parameter in pipeline.unet.parameters()] == addresses
    assert not any(module._forward_hooks for module in pipeline.unet.modules())


def test_a_wrapped_pipeline_without_a_base_has_an_architecture_and_no_identity(registry: Registry) -> None:
    with Runtime.wrap(stock(), registry=registry) as wrapped:
        wrapped.compose("me/ink")
        record = wrapped.generate("a star", seed=3, steps=1).record
    assert (record.base.name, record.base.architecture, record.base.identity) == ("wrapped", "mini", "")


def test_a_pipeline_with_layers_of_peft_is_refused_with_the_reason(
    registry: Registry, runtime: Runtime
) -> None:
    del runtime  # it fills the registry
    pipeline = stock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(registry.directory(registry.resolve("me/ink")), adapter_name="ink")
    with pytest.raises(PipelineRefusedError, match="unload_lora_weights") as caught:
        Runtime.wrap(pipeline)
    assert "is a layer of PEFT" in caught.value.reason
    pipeline.unload_lora_weights()
    Runtime.wrap(pipeline).close()
    pipeline.text_encoder_2 = None
    with pytest.raises(PipelineRefusedError, match="it has no text_encoder_2"):
        Runtime.wrap(pipeline)


def test_a_pipeline_whose_unet_is_compiled_is_refused() -> None:
    """Torch does not look whether hooks came: what acts by hooks would silently not act."""
    pipeline = stock()
    whole = pipeline.unet
    for change in (whole.compile, whole.mid_block.resnets[0].compile):
        change()
        with pytest.raises(PipelineRefusedError, match=r"unet is compiled.*wrap\(pipeline, compile=True\)"):
            Runtime.wrap(pipeline)
        for module in whole.modules():
            module._compiled_call_impl = None
    pipeline.unet = torch.compile(whole)
    with pytest.raises(PipelineRefusedError, match="unet is compiled"):
        Runtime.wrap(pipeline)
    pipeline.unet = whole
    Runtime.wrap(pipeline).close()


@pytest.mark.parametrize(("part", "is_told"), [(0.003, True), (0.3, False)])
def test_an_adapter_that_bfloat16_swallows_is_told(
    runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture, part: float, is_told: bool
) -> None:
    """Rounding of a delta of 0.3 % of the weight's norm spoils about half of it."""
    pristine = weights(runtime)
    layers = {}
    for target, layer in random_adapter(runtime, 5).layers.items():
        size = pristine[f"unet.{target.module}.weight"].norm() / layer.delta().norm()
        layers[target] = LowRank(layer.down, layer.up * float(size) * part)
    registry = Registry(tmp_path / "home")
    (tmp_path / "x.safetensors").write_bytes(diffusers_bytes(AdapterTensors(layers)))
    registry.add(tmp_path / "x.safetensors", name="me/x", base="mini")
    caplog.set_level(logging.WARNING)
    with Runtime.wrap(stock(torch.bfloat16), base="mini", registry=registry) as wrapped:
        for _ in range(2):
            wrapped.compose("me/x")
            wrapped.compose(None)
    told = [record.message for record in caplog.records if "signal to noise" in record.message]
    assert len(told) == is_told
    if is_told:
        spoilt = float(told[0].split("spoils ")[1].split(" %")[0])
        assert 30 < spoilt < 70
