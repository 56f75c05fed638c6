"""Other tools read what we write, and a stock pipeline takes everything that we read."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from adapterhub.errors import FormatError
from adapterhub.formats.interop import load_into
from adapterhub.formats.names import kohya_text_encoder_names, text_encoder_names, unet_names
from adapterhub.formats.read import read_adapter
from adapterhub.formats.write import write_adapter
from adapterhub.lora.weights import Target
from tests.adapterhub.formats.dialects import Known, known_layers, spelled
from tests.adapterhub.lora.test_algorithms import CASES, module_state

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return StableDiffusionXLPipeline.from_pretrained(MINI)


@pytest.fixture
def stock(pipeline: Any) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        yield pipeline
    pipeline.unload_lora_weights()


@pytest.mark.parametrize("case", [case for case in CASES if "bounded" not in case])
def test_a_stock_pipeline_takes_every_algorithm(stock: Any, tmp_path: Path, case: str) -> None:
    path, make = CASES[case]
    original = stock.unet.get_submodule(path)
    name = f"lora_unet_{path.replace('.', '_')}"
    module = make(name, original)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() != original.weight.numel():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    state = {f"{name}.{key}": v.detach().clone().contiguous() for key, v in module_state(module).items()}
    save_file(state, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    expected = adapter.layers[Target("unet", path)].delta(base=original.weight.detach()).double()
    assert load_into(stock, adapter, adapter_name="x") == 1
    made = stock.unet.get_submodule(path).get_delta_weight("x").double().reshape(expected.shape)
    assert (made - expected).norm() <= 1e-5 * expected.norm()


def test_differences_of_norms_are_refused_by_name(stock: Any, tmp_path: Path) -> None:
    save_file({"lora_unet_mid_block_attentions_0_norm.w_norm": torch.ones(128)}, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match=r"mid_block\.attentions\.0\.norm"):
        load_into(stock, read_adapter(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("component", ["unet", "text_encoder", "text_encoder_2"])
def test_stock_peft_takes_our_directories_at_the_right_strength(tmp_path: Path, component: str) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(MINI)
    layers = known_layers(
        pipeline, rank=lambda n: 1 + n % 4, alpha=lambda n, _: 0.5 + n % 3, has_convolutions=False
    )
    own = {target: layer for target, layer in layers.items() if target.component == component}
    save_file(spelled("kohya", own), tmp_path / "x.safetensors")
    write_adapter(read_adapter(tmp_path / "x.safetensors"), tmp_path / "peft", format="peft")
    wrapped = peft.PeftModel.from_pretrained(getattr(pipeline, component), tmp_path / "peft")
    seen = 0
    for path, module in wrapped.base_model.model.named_modules():
        if isinstance(module, peft.tuners.lora.Linear):
            name = path if component == "unet" else f"text_model.{path.removeprefix('text_model.')}"
            expected = own[Target(component, name)].delta
            made = module.get_delta_weight("default").double()
            assert (made - expected).norm() <= 1e-6 * expected.norm(), path
            seen += 1
    assert seen == len(own)


def by_comfy_s_rules(state: dict[str, Tensor], pipeline: Any) -> dict[Target, Tensor]:
    """What ComfyUI adds to each weight: its map from key stems to modules, then alpha / rank * up @ down."""
    stems = {
        stem: Target("unet", path)
        for path, sgm in unet_names().items()
        for stem in (f"lora_unet_{sgm.replace('.', '_')}", f"diffusion_model.{sgm}")
    }
    for component, prefix in (("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        for path in text_encoder_names():
            stems[prefix + path.replace(".", "_")] = Target(component, path)
    deltas: dict[Target, Tensor] = {}
    for key, up in state.items():
        if key.endswith(".lora_up.weight"):
            stem = key.removesuffix(".lora_up.weight")
            down, alpha = state[f"{stem}.lora_down.weight"], float(state[f"{stem}.alpha"])
            product = up.flatten(1).double() @ down.flatten(1).double() * (alpha / down.shape[0])
            deltas[stems[stem]] = product.reshape(up.shape[0], *down.shape[1:])
    assert 3 * len(deltas) == len(state)
    del pipeline
    return deltas


@pytest.mark.parametrize("format_name", ["kohya", "comfy", "a1111"])
def test_comfy_s_rules_give_the_right_deltas(pipeline: Any, tmp_path: Path, format_name: str) -> None:
    layers = known_layers(pipeline, rank=lambda n: 1 + n % 4, alpha=lambda n, _: 0.5 + n % 3)
    save_file(spelled("omi", layers), tmp_path / "x.safetensors")
    write_adapter(read_adapter(tmp_path / "x.safetensors"), tmp_path / "y.safetensors", format=format_name)
    deltas = by_comfy_s_rules(load_file(tmp_path / "y.safetensors"), pipeline)
    assert deltas.keys() == layers.keys()
    for target, layer in layers.items():
        assert (deltas[target] - layer.delta).norm() <= 1e-6 * layer.delta.norm()


def test_the_tables_cover_sdxl_one_to_one() -> None:
    from transformers.models.clip.configuration_clip import CLIPTextConfig

    from tests.sdxl_configs import SDXL_TEXT_ENCODERS, SDXL_UNET

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SDXL_UNET)
        encoders = [CLIPTextModelWithProjection(CLIPTextConfig(**config)) for config in SDXL_TEXT_ENCODERS]
    paths = [name for name, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(paths) == len({unet_names()[path] for path in paths}) == 794
    table = kohya_text_encoder_names()
    for encoder, count in zip(encoders, (72, 192), strict=True):
        names = [
            f"text_model.{name.removeprefix('text_model.')}"
            for name, m in encoder.named_modules()
            if isinstance(m, nn.Linear) and "layers" in name
        ]
        assert len(names) == count
        assert [table[name.replace(".", "_")] for name in names] == names


def test_a_known_layer_is_what_it_says() -> None:
    layer = Known(torch.ones(2, 3), torch.ones(4, 2), 1.0)
    assert torch.equal(layer.delta, torch.ones(4, 3).double())
