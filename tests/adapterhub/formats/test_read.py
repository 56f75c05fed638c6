"""Reading adapters: the right scale in every dialect, every key claimed or named."""

import json
from pathlib import Path

import peft
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from adapterhub.errors import InputError, PickleRefusedError, UnknownKeysError, WeightsError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.formats.names import unet_names
from adapterhub.formats.read import read_adapter
from adapterhub.lora.weights import AdapterTensors, LowRank, Target

MODULES = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": 2.0,
    "up_blocks.0.attentions.1.transformer_blocks.1.ff.net.2": 8.0,
    "mid_block.attentions.0.proj_in": 1.0,
}


def factors(seed: int, rank: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, 6, generator=generator), torch.randn(5, rank, generator=generator)


@pytest.mark.parametrize("spelling", ["sgm", "diffusers"])
def test_kohya_files_have_an_alpha_for_each_module(tmp_path: Path, spelling: str) -> None:
    tensors = {}
    for seed, (module, alpha) in enumerate(MODULES.items()):
        name = (unet_names()[module] if spelling == "sgm" else module).replace(".", "_")
        down, up = factors(seed)
        tensors[f"lora_unet_{name}.lora_down.weight"] = down
        tensors[f"lora_unet_{name}.lora_up.weight"] = up
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)
    down, up = factors(9)
    tensors["lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_down.weight"] = down
    tensors["lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight"] = up
    save_file(tensors, tmp_path / "kohya.safetensors")
    adapter = read_adapter(tmp_path / "kohya.safetensors")
    for seed, (module, alpha) in enumerate(MODULES.items()):
        down, up = factors(seed)
        layer = adapter.layers[Target("unet", module)]
        assert torch.allclose(layer.delta(), alpha / 4 * up @ down)
        assert layer.origin == "alpha"
    encoder = adapter.layers[Target("text_encoder_2", "text_model.encoder.layers.3.mlp.fc1")]
    assert (encoder.scale, encoder.origin) == (1.0, "rank")
    assert len(adapter.layers) == 4


def test_what_diffusers_saves_is_read_at_the_scale_that_it_trained_with(tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from diffusers.training_utils import _collate_lora_metadata

    mini = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights" / "unet"
    unet = UNet2DConditionModel.from_pretrained(mini)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=10,
        target_modules=["to_q", "proj_in"],
        rank_pattern={"proj_in": 2},
        alpha_pattern={"proj_in": 3},
        init_lora_weights=False,
    )
    unet.add_adapter(config)
    StableDiffusionXLPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(unet),
        **_collate_lora_metadata({"unet": unet}),
    )
    adapter = read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    checked = 0
    for name, module in unet.named_modules():
        if isinstance(module, peft.tuners.lora.Linear):
            expected = module.get_delta_weight("default")
            assert torch.allclose(adapter.layers[Target("unet", name)].delta(), expected, atol=1e-6)
            checked += 1
    assert checked == len(adapter.layers) > 20


@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_a_peft_directory_is_read_with_its_config(tmp_path: Path, is_rank_stabilised: bool) -> None:
    down, up = factors(0)
    module = next(iter(MODULES))
    save_file(
        {
            f"base_model.model.{module}.lora_A.weight": down,
            f"base_model.model.{module}.lora_B.weight": up,
        },
        tmp_path / "adapter_model.safetensors",
    )
    config = {"r": 4, "lora_alpha": 6, "use_rslora": is_rank_stabilised}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    scale = 6 / (2 if is_rank_stabilised else 4)
    layer = read_adapter(tmp_path).layers[Target("unet", module)]
    assert torch.allclose(layer.delta(), scale * up @ down)


def test_writing_and_reading_are_inverse_also_for_mixed_scales(tmp_path: Path) -> None:
    layers = {}
    for seed, (module, alpha) in enumerate(MODULES.items()):
        down, up = factors(seed, rank=seed + 2)
        layers[Target("unet", module)] = LowRank(down, up, alpha / (seed + 2), "alpha")
    data = diffusers_bytes(AdapterTensors(layers), metadata={"title": "ink"})
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    adapter = read_adapter(path)
    assert adapter.metadata["title"] == "ink"
    for target, layer in layers.items():
        assert torch.allclose(adapter.layers[target].delta(), layer.delta())
    assert diffusers_bytes(AdapterTensors(layers), metadata={"title": "ink"}) == data


def test_every_unknown_key_is_named(tmp_path: Path) -> None:
    down, up = factors(0)
    module = next(iter(MODULES))
    save_file(
        {
            f"unet.{module}.lora_A.weight": down,
            f"unet.{module}.lora_B.weight": up,
            "unet.no.such.module.lora_A.weight": down.clone(),
            "lora_unet_x.hada_w1_a": up.clone(),
        },
        tmp_path / "x.safetensors",
    )
    with pytest.raises(UnknownKeysError) as caught:
        read_adapter(tmp_path / "x.safetensors")
    assert caught.value.keys == ["lora_unet_x.hada_w1_a", "unet.no.such.module.lora_A.weight"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"up": None}, "lacks its up"), ({"up": torch.zeros(5, 3)}, "do not fit")],
)
def test_factors_that_do_not_belong_together_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], reason: str
) -> None:
    down, up = factors(0)
    parts = {"down": down, "up": up, **change}
    names = {"down": "lora_A", "up": "lora_B"}
    module = next(iter(MODULES))
    save_file(
        {f"unet.{module}.{names[part]}.weight": t for part, t in parts.items() if t is not None},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(WeightsError, match=reason):
        read_adapter(tmp_path / "x.safetensors")


def test_one_module_in_two_spellings_is_refused(tmp_path: Path) -> None:
    down, up = factors(0)
    module = next(iter(MODULES))
    tensors = {}
    for name in (unet_names()[module], module):
        tensors[f"lora_unet_{name.replace('.', '_')}.lora_down.weight"] = down.clone()
        tensors[f"lora_unet_{name.replace('.', '_')}.lora_up.weight"] = up.clone()
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="twice, in two spellings"):
        read_adapter(tmp_path / "x.safetensors")


def test_pickle_and_missing_files_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(PickleRefusedError):
        read_adapter(tmp_path / "x.safetensors")
    with pytest.raises(InputError):
        read_adapter(tmp_path / "missing.safetensors")


def check_a_damaged_file(data: st.DataObject, path: Path) -> None:
    """Damage a good file, and read it: it is read, or refused with our error."""
    down, up = factors(0)
    layers = {Target("unet", next(iter(MODULES))): LowRank(down, up, 1.0, "alpha")}
    good = bytearray(diffusers_bytes(AdapterTensors(layers)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(good[: data.draw(st.integers(0, len(good)))]))
    try:
        read_adapter(path)
    except (WeightsError, PickleRefusedError) as error:
        assert error.path == path


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_a_damaged_file(data, tmp_path_factory.mktemp("fuzz") / "x.safetensors")


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(data=st.data())
def test_many_damaged_files_are_refused_or_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_a_damaged_file(data, tmp_path_factory.getbasetemp() / "fuzz.safetensors")
