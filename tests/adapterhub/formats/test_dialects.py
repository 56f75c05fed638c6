"""Every dialect of adapter files: the right delta on every module, or an error that names the keys."""

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from adapterhub.errors import AdapterHubError, FormatError, TargetError, UnknownKeysError, WeightsError
from adapterhub.formats.interop import load_into
from adapterhub.formats.read import read_adapter
from adapterhub.formats.write import FORMATS, write_adapter
from adapterhub.lora.identity import content_identity
from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub_registry.probe import probe
from tests.adapterhub.formats.dialects import SPELLINGS, WITH_ALPHA, Known, known_layers, spelled

MINI = Path(__file__).parents[3] / "adapterhub" / "bases" / "mini" / "weights"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return StableDiffusionXLPipeline.from_pretrained(MINI)


@pytest.fixture
def stock(pipeline: Any) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about ranks and several adapters
        yield pipeline
    pipeline.unload_lora_weights()


def layers_of(layout: str, pipeline: Any, alpha: float = 2.0) -> dict[Target, Known]:
    """Layers that a layout can spell; without its own alphas it means alpha = rank."""
    value = alpha if layout in WITH_ALPHA else None
    layers = known_layers(pipeline, alpha=lambda *_: value)
    if layout.startswith("diffusers-processor"):
        return {t: v for t, v in layers.items() if t.component == "unet" and ".attn" in t.module}
    if layout == "peft":
        return {t: v for t, v in layers.items() if t.component == "unet"}
    return layers


def check(adapter: AdapterTensors, layers: dict[Target, Known], tolerance: float = 1e-6) -> None:
    assert adapter.layers.keys() == layers.keys()
    for target, layer in layers.items():
        made = adapter.layers[target].delta().double()
        expected = layer.delta.reshape(made.shape)
        assert (made - expected).norm() <= tolerance * expected.norm(), target


@pytest.mark.parametrize("layout", SPELLINGS)
def test_every_layout_gives_every_delta(tmp_path: Path, pipeline: Any, layout: str) -> None:
    layers = layers_of(layout, pipeline)
    path = tmp_path / "x.safetensors"
    save_file(spelled(layout, layers), path)
    check(read_adapter(path), layers)
    found = probe(path)
    assert found.layouts[0] in layout or layout == "comfy"
    assert (found.algorithm, found.architecture) == (
        ("lora", "mini") if layout.startswith("diffusers-processor") else ("locon+lora", "mini")
    )
    assert found.modules == len(layers)
    assert not found.unknown


def test_layouts_may_be_mixed_in_one_file(tmp_path: Path, pipeline: Any) -> None:
    layers = layers_of("kohya", pipeline)
    names = list(SPELLINGS)
    kohya_like = [name for name in names if name in WITH_ALPHA]
    tensors: dict[str, Tensor] = {}
    for number, (target, layer) in enumerate(layers.items()):
        tensors |= spelled(kohya_like[number % len(kohya_like)], {target: layer})
    save_file(tensors, tmp_path / "x.safetensors")
    check(read_adapter(tmp_path / "x.safetensors"), layers)


def test_one_adapter_has_one_identity_in_every_spelling(tmp_path: Path, pipeline: Any) -> None:
    layers = known_layers(pipeline, alpha=lambda *_: 4.0)  # alpha = rank, which needs no alpha key
    identities = set()
    for layout in ("kohya", "kohya-diffusers", "diffusers", "diffusers-lora", "omi", "lycoris", "peft-named"):
        save_file(spelled(layout, layers), tmp_path / "x.safetensors", metadata={"layout": layout})
        identities.add(content_identity(read_adapter(tmp_path / "x.safetensors")))
    assert len(identities) == 1


SCALES = {
    "one alpha": ({}, lambda *_: 1.0),
    "mixed ranks, alpha = rank": ({"rank": lambda n: 1 + n % 4}, lambda n, _: float(1 + n % 4)),
    "another alpha on one block's attention": (
        {},
        lambda _, path: 16.0 if "down_blocks.1" in path and "attn" in path else 4.0,
    ),
    "alpha on attention only": ({}, lambda _, path: 2.0 if "attn" in path else None),
    "no alpha, mixed ranks": ({"rank": lambda n: 1 + n % 4}, lambda *_: None),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_stock_pipeline_gets_every_module_at_the_right_strength(
    tmp_path: Path, stock: Any, case: str
) -> None:
    more, alpha = SCALES[case]
    layers = known_layers(stock, alpha=alpha, **more)
    save_file(spelled("kohya", layers), tmp_path / "x.safetensors")
    assert load_into(stock, read_adapter(tmp_path / "x.safetensors"), adapter_name="x") == len(layers)
    check_stock(stock, layers)


@pytest.mark.parametrize("format_name", ["diffusers", "kohya", "comfy", "a1111"])
@pytest.mark.parametrize("case", ["mixed ranks, alpha = rank", "alpha on attention only"])
def test_our_files_hold_every_strength(tmp_path: Path, stock: Any, case: str, format_name: str) -> None:
    more, alpha = SCALES[case]
    layers = known_layers(stock, alpha=alpha, **more)
    save_file(spelled("omi", layers), tmp_path / "omi.safetensors")
    path = tmp_path / "pytorch_lora_weights.safetensors"
    write_adapter(read_adapter(tmp_path / "omi.safetensors"), path, format=format_name)
    check(read_adapter(path), layers)
    if format_name == "diffusers":
        stock.load_lora_weights(tmp_path, weight_name=path.name, adapter_name="x")
        stock.set_adapters("x", 1.0)
    else:
        load_into(stock, read_adapter(path), adapter_name="x")
    check_stock(stock, layers)


def check_stock(stock: Any, layers: dict[Target, Known]) -> None:
    """Compare what PEFT would add to each module with the known deltas."""
    seen = 0
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for path, module in getattr(stock, component).named_modules():
            if "x" in getattr(module, "lora_A", {}):
                name = path if component == "unet" else f"text_model.{path.removeprefix('text_model.')}"
                expected = layers[Target(component, name)].delta
                made = module.get_delta_weight("x").double()
                assert (made - expected.reshape(made.shape)).norm() <= 1e-5 * expected.norm(), path
                seen += 1
    assert seen == len(layers)


@pytest.mark.parametrize("first", ["kohya", "diffusers", "peft", "comfy"])
def test_the_same_format_comes_back_bit_for_bit(tmp_path: Path, pipeline: Any, first: str) -> None:
    layers = layers_of("peft", pipeline)
    source = AdapterTensors(
        {
            target: LowRank(layer.down.half(), layer.up.half(), 1.5, "alpha")
            for target, layer in layers.items()
        },
        {"ss_output_name": "ink"},
    )
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_adapter(source, one, format=first)
    write_adapter(read_adapter(one), two, format=first)
    files = sorted(one.iterdir()) if one.is_dir() else [one]
    for file in files:
        other = two / file.name if one.is_dir() else two
        assert file.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("through", [name for name in FORMATS if name != "kohya"])
def test_kohya_survives_any_other_layout(tmp_path: Path, pipeline: Any, through: str) -> None:
    layers = known_layers(
        pipeline, rank=lambda n: 1 + n % 3, alpha=lambda n, _: 0.5 + n % 5, has_text=through != "peft"
    )
    save_file(spelled("kohya", layers), tmp_path / "kohya.safetensors")
    write_adapter(read_adapter(tmp_path / "kohya.safetensors"), tmp_path / "other", format=through)
    write_adapter(read_adapter(tmp_path / "other"), tmp_path / "back.safetensors", format="kohya")
    check(read_adapter(tmp_path / "back.safetensors"), layers)


def test_alpha_is_folded_before_the_cast(tmp_path: Path, pipeline: Any) -> None:
    layers = known_layers(pipeline, alpha=lambda *_: 3.0, has_text=False, has_convolutions=False)
    save_file(spelled("kohya", layers), tmp_path / "x.safetensors")
    write_adapter(
        read_adapter(tmp_path / "x.safetensors"),
        tmp_path / "y.safetensors",
        format="diffusers",
        dtype="float16",
        fold_alpha=True,
    )
    folded = read_adapter(tmp_path / "y.safetensors")
    assert {layer.scale for layer in folded.layers.values()} == {1.0}
    for target, layer in folded.low_rank().items():
        expected = (layers[target].up * (3.0 / 4)).half()
        assert torch.equal(layer.up, expected)
    check(folded, layers, tolerance=2e-3)


def test_training_data_is_stripped_from_the_header(tmp_path: Path, pipeline: Any) -> None:
    layers = layers_of("kohya", pipeline)
    header = {"ss_dataset_dirs": "/home/me/secret", "ss_tag_frequency": "{}", "modelspec.title": "Ink"}
    save_file(spelled("kohya", layers), tmp_path / "x.safetensors", metadata=header)
    adapter = read_adapter(tmp_path / "x.safetensors")
    write_adapter(adapter, tmp_path / "y.safetensors", format="kohya", strip="training")
    written = read_adapter(tmp_path / "y.safetensors").metadata
    assert "secret" not in str(written)
    assert written["modelspec.title"] == "Ink"


MODULE = "lora_unet_mid_block_attentions_0_proj_in"
GOOD = {f"{MODULE}.lora_down.weight": torch.ones(2, 128), f"{MODULE}.lora_up.weight": torch.ones(128, 2)}
BAD: dict[str, dict[str, Tensor | None]] = {
    "proj_in is 0": {f"{MODULE}.alpha": torch.tensor(0.0)},
    "proj_in is nan": {f"{MODULE}.alpha": torch.tensor(float("nan"))},
    "is no single number": {f"{MODULE}.alpha": torch.ones(3)},
    "lacks its up": {f"{MODULE}.lora_up.weight": None},
    "is its rank zero": {
        f"{MODULE}.lora_down.weight": torch.ones(0, 128),
        f"{MODULE}.lora_up.weight": torch.ones(128, 0),
    },
    "is there twice": {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 128)},
    "do not fit each other": {f"{MODULE}.lora_up.weight": torch.ones(128, 3)},
    "do not belong to lora": {f"{MODULE}.hada_t1": torch.ones(1)},
    "several adapters": {"unet.mid_block.attentions.0.proj_out.lora_A.two.weight": torch.ones(2, 128)},
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, reason: str) -> None:
    tensors = {name: value for name, value in {**GOOD, **BAD[reason]}.items() if value is not None}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=reason):
        read_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 7, struct.pack("<Q", 4 << 30) + b"{}", struct.pack("<Q", 2) + b"{}" + b"\x00" * 4],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsError):
        read_adapter(tmp_path / "x.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_file(GOOD, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:-4])
    with pytest.raises(WeightsError):
        read_adapter(tmp_path / "x.safetensors")


def test_unknown_keys_are_named_or_kept_apart(tmp_path: Path) -> None:
    save_file({**GOOD, "model.secret.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UnknownKeysError) as caught:
        read_adapter(tmp_path / "x.safetensors")
    assert caught.value.keys == ["model.secret.weight"]
    waived = read_adapter(tmp_path / "x.safetensors", strict=False)
    assert list(waived.extras) == ["model.secret.weight"]
    assert len(waived.layers) == 1


def test_bundled_embeddings_are_kept_apart(tmp_path: Path, stock: Any) -> None:
    save_file({**GOOD, "bundle_emb.ink.clip_l": torch.ones(2, 64)}, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    assert list(adapter.extras) == ["bundle_emb.ink.clip_l"]
    with pytest.raises(FormatError, match="bundle_emb"):
        load_into(stock, adapter)


def test_an_adapter_of_another_shape_is_not_loaded(tmp_path: Path, stock: Any) -> None:
    wide = {f"{MODULE}.lora_down.weight": torch.ones(2, 640), f"{MODULE}.lora_up.weight": torch.ones(640, 2)}
    save_file(wide, tmp_path / "x.safetensors")
    with pytest.raises(TargetError, match="shapes differ"):
        load_into(stock, read_adapter(tmp_path / "x.safetensors"))


def test_numbers_that_a_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    layer = LowRank(torch.ones(1, 128) * 1e6, torch.ones(128, 1))
    adapter = AdapterTensors({Target("unet", "mid_block.attentions.0.proj_in"): layer})
    with pytest.raises(FormatError, match="not finite"):
        write_adapter(adapter, tmp_path / "x.safetensors", dtype="float16")
    assert not list(tmp_path.iterdir())


PIECES = st.sampled_from(
    [
        *("lora_unet_", "lora_te1_", "unet.", "base_model.model.", "diffusion_model.", "lycoris_", "clip_g."),
        *("mid_block_attentions_0_proj_in", "mid_block.attentions.0.proj_in", "input_blocks_4_1_proj_in"),
        *(
            ".lora_down.weight",
            ".lora_up.weight",
            ".lora_mid.weight",
            ".alpha",
            ".dora_scale",
            ".diff",
            ".diff_b",
        ),
        *(".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b", ".lokr_w1", ".lokr_w2", ".oft_blocks"),
        *(
            ".lora_A.weight",
            ".lora_B.default.weight",
            ".a1.weight",
            ".on_input",
            ".weight",
            ".set_weight",
            "x",
        ),
    ]
)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
KEY_SETS = st.dictionaries(st.lists(PIECES, min_size=1, max_size=4).map("".join), SHAPES, max_size=8)


def read_any(path: Path, tensors: dict[str, Tensor]) -> bool:
    """Read a file; only success or one of our own errors may come of it."""
    save_file(tensors, path)
    try:
        adapter = read_adapter(path)
    except AdapterHubError:
        return False
    assert adapter.layers or adapter.biases
    return True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEY_SETS)
def test_any_set_of_keys_is_read_or_refused(tmp_path: Path, keys: dict[str, tuple[int, ...]]) -> None:
    read_any(tmp_path / "x.safetensors", {name: torch.zeros(shape) + 1 for name, shape in keys.items()})


@pytest.mark.long
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEY_SETS)
def test_any_set_of_keys_is_read_or_refused_in_full(tmp_path: Path, keys: dict[str, tuple[int, ...]]) -> None:
    read_any(tmp_path / "x.safetensors", {name: torch.zeros(shape) + 1 for name, shape in keys.items()})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.integers(1, 6),
    alpha=st.floats(0.0625, 64, width=16),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    format_name=st.sampled_from(["kohya", "diffusers", "comfy", "a1111"]),
    conv=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_layer_survives_any_format(
    tmp_path: Path, rank: int, alpha: float, dtype: torch.dtype, format_name: str, conv: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kernel, ones = ((3, 3), (1, 1)) if conv else ((), ())
    down = torch.randn(rank, 6, *kernel, generator=generator).to(dtype)
    up = torch.randn(5, rank, *ones, generator=generator).to(dtype)
    module = "mid_block.resnets.0.conv1" if conv else "mid_block.attentions.0.proj_in"
    adapter = AdapterTensors({Target("unet", module): LowRank(down, up, alpha / rank, "alpha")})
    path = tmp_path / "x.safetensors"
    write_adapter(adapter, path, format=format_name)
    back = read_adapter(path).low_rank()[Target("unet", module)]
    assert torch.equal(back.down, down)
    assert torch.equal(back.up, up)
    assert back.scale == pytest.approx(alpha / rank, rel=1e-6)


def test_nothing_but_sdxl_s_modules_is_a_target(tmp_path: Path) -> None:
    save_file(
        {
            "unet.down_blocks.7.attentions.0.proj_in.lora_A.weight": torch.ones(2, 8),
            "unet.down_blocks.7.attentions.0.proj_in.lora_B.weight": torch.ones(8, 2),
        },
        tmp_path / "x.safetensors",
    )
    with pytest.raises(UnknownKeysError):
        read_adapter(tmp_path / "x.safetensors")


def test_the_pipeline_has_no_layer_that_we_cannot_name(pipeline: Any) -> None:
    count = sum(isinstance(m, nn.Linear | nn.Conv2d) for m in pipeline.unet.modules())
    layers = known_layers(pipeline, has_text=False)
    assert len(layers) == count
