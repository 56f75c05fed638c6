"""Schedulers by name: those of diffusers, with the base's settings, for one call."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from adapterhub.errors import SettingError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.replay import replay
from adapterhub.runtime.schedulers import SCHEDULERS
from adapterhub_registry.record import png_with_record

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"
EXPECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddim_trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "ddpm": ("DDPMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


@pytest.fixture(scope="module")
def stock() -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(MINI)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_every_name_is_tested() -> None:
    assert EXPECTED.keys() == SCHEDULERS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_pictures_are_those_of_the_stock_pipeline_with_that_scheduler(
    mini_runtime: Runtime, stock: StableDiffusionXLPipeline, tmp_path: Path, name: str
) -> None:
    own = mini_runtime.pipeline.scheduler
    kind, settings = EXPECTED[name]
    stock.scheduler = getattr(diffusers, kind).from_config(own.config, **settings)
    generator = torch.Generator("cpu").manual_seed(5)
    expected = stock("a rocket", num_inference_steps=4, guidance_scale=5.0, generator=generator).images[0]
    steps: list[int] = []
    result = mini_runtime.generate(
        "a rocket", seed=5, steps=4, scheduler=name, on_step=lambda step, _: steps.append(step)
    )
    assert np.array_equal(np.asarray(result.images[0]), np.asarray(expected))
    assert steps == [1, 2, 3, 4]
    assert mini_runtime.pipeline.scheduler is own
    assert result.record.scheduler["class"] == kind
    (tmp_path / "rocket.png").write_bytes(png_with_record(result.images[0], result.record))
    again = replay(tmp_path / "rocket.png")
    assert again.record == result.record
    assert again.image.tobytes() == result.images[0].tobytes()


def test_an_unknown_scheduler_is_refused_with_near_names(mini_runtime: Runtime, tmp_path: Path) -> None:
    own = mini_runtime.pipeline.scheduler
    with pytest.raises(SettingError, match="euler_ancestral"):
        mini_runtime.generate("a rocket", scheduler="euler_ancestor", steps=1)
    result = mini_runtime.generate("a rocket", seed=1, steps=1)
    result.record.scheduler["class"] = "AutoencoderKL"
    (tmp_path / "rocket.png").write_bytes(png_with_record(result.images[0], result.record))
    with pytest.raises(SettingError, match="AutoencoderKL"):
        replay(tmp_path / "rocket.png")
    assert mini_runtime.pipeline.scheduler is own
