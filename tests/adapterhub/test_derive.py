"""Deriving versions: lineage, dialects through every step, and the same picture before and after."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

import adapterhub as ah
from adapterhub import derive
from adapterhub.errors import (
    ArchitectureError,
    CompositionError,
    FormatError,
    InputError,
    NativeLayersError,
    NotFiniteError,
)
from adapterhub.formats.subjects import open_subject
from adapterhub.lora.identity import content_identity
from adapterhub.lora.weights import Target
from adapterhub.runtime.engine import Runtime
from adapterhub_registry.store import Registry
from tests.adapterhub.formats.dialects import Known, known_layers, spelled


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def runtime(registry: Registry) -> Iterator[Runtime]:
    with Runtime.load("mini", registry=registry, device="cpu") as runtime:
        yield runtime


@pytest.fixture(scope="module")
def layers(runtime: Runtime) -> dict[Target, Known]:
    known = known_layers(
        runtime.pipeline, has_convolutions=False, has_text=False, alpha=lambda n, _: 1.0 + n % 3
    )
    return {
        t: Known(v.down, v.up * 0.4, v.alpha) for t, v in known.items() if "transformer_blocks" in t.module
    }


@pytest.fixture(scope="module")
def ink(registry: Registry, layers: dict[Target, Known], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("files") / "ink.safetensors"
    save_file(spelled("kohya", layers), path)
    registry.add(path, name="me/ink", base="mini", trigger_words=["ink"], licence="MIT")
    return "me/ink@1"


@pytest.fixture(scope="module")
def wash(registry: Registry, layers: dict[Target, Known], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("files") / "wash.safetensors"
    flipped = {t: Known(v.down.flip(1), v.up * 0.5, v.alpha) for t, v in layers.items()}
    save_file(spelled("omi", flipped), path)
    registry.add(path, name="me/wash", base="mini", trigger_words=["wash"], licence="MIT")
    return "me/wash@1"


def picture(runtime: Runtime, composition: str) -> np.ndarray:
    runtime.compose(composition)
    call = runtime.pipeline
    result = call(
        "a red heart",
        generator=torch.Generator("cpu").manual_seed(7),
        num_inference_steps=4,
        output_type="np",
    )
    return result.images[0]


def test_a_merge_draws_what_the_composition_draws(
    registry: Registry, runtime: Runtime, ink: str, wash: str
) -> None:
    merged = ah.merge([f"{ink}:0.7", f"{wash}:-0.3"], name="me/both", registry=registry)
    expected = picture(runtime, f"{ink}:0.7 + {wash}:-0.3")
    assert np.abs(picture(runtime, merged.reference) - expected).max() <= 1e-4
    assert np.abs(picture(runtime, ink) - expected).max() > 0.01


def test_a_derived_version_knows_its_parents(registry: Registry, ink: str, wash: str) -> None:
    merged = ah.merge([f"{ink}:0.7", wash], name="me/lineage", method="svd", rank=2, registry=registry)
    parents = [registry.resolve(name).digest for name in (ink, wash)]
    lineage = dict(merged.lineage)
    assert 0 < float(lineage.pop("energy_kept")) < 1
    assert lineage == {
        "operation": "merged",
        "method": "svd",
        "setting.rank": "2",
        "parent.1": parents[0],
        "parent.1.name": ink,
        "parent.1.weight": "0.7",
        "parent.2": parents[1],
        "parent.2.name": wash,
        "parent.2.weight": "1.0",
    }
    assert merged.trigger_words == ("ink", "wash")
    assert merged.manifest.licence == "MIT"
    assert merged.architecture == "mini"
    assert merged.manifest.base_identity == registry.resolve(ink).manifest.base_identity
    small = derive.resize(merged.reference, name="me/lineage", rank=1, registry=registry)
    assert small.lineage["parent.1"] == merged.digest
    assert {layer.rank for layer in registry_tensors(registry, small.reference).low_rank().values()} == {1}


def registry_tensors(registry: Registry, reference: str) -> ah.AdapterTensors:
    return open_subject(reference, registry=registry).tensors


DIALECTS = (
    *("kohya", "kohya-diffusers", "lycoris", "diffusers", "diffusers-lora"),
    *("peft with a component", "peft-named", "omi", "comfy", "bare"),
)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_goes_through_every_step(
    registry: Registry, runtime: Runtime, layers: dict[Target, Known], tmp_path: Path, ink: str, dialect: str
) -> None:
    known = {t: Known(v.down, v.up * v.alpha / 4, None) for t, v in layers.items() if v.alpha is not None}
    tensors = spelled("diffusers" if dialect == "bare" else dialect, known)
    if dialect == "bare":
        tensors = {name.removeprefix("unet."): value for name, value in tensors.items()}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    name = f"me/{dialect.replace(' ', '-')}"
    version = registry.add(path, name=name, base="mini")
    expected = picture(runtime, ink)
    assert np.abs(picture(runtime, version.reference) - expected).max() <= 1e-4
    report = derive.inspect(str(path))
    assert report.overall.layers == len(layers)
    comparison = ah.compare(ink, str(path), registry=registry)
    assert comparison.cosines[0, 1] > 0.99999
    merged = ah.merge([f"{path}:0.5", f"{version.reference}:0.5"], name=f"{name}-twice", registry=registry)
    assert np.abs(picture(runtime, merged.reference) - expected).max() <= 1e-4
    small = derive.resize(merged.reference, name=f"{name}-small", rank=4, registry=registry)
    assert np.abs(picture(runtime, small.reference) - expected).max() <= 1e-4
    for format_name in ("kohya", "diffusers", "comfy", "a1111", "peft"):
        out = tmp_path / format_name
        derive.export(version.reference, out, format=format_name, registry=registry)
        back = registry.add(out, name=f"{name}-{format_name}", base="mini")
        assert np.abs(picture(runtime, back.reference) - expected).max() <= 1e-4


def test_one_adapter_is_one_adapter_whatever_its_file(registry: Registry, ink: str, tmp_path: Path) -> None:
    original = content_identity(registry_tensors(registry, ink))
    for format_name in ("diffusers", "comfy", "a1111"):
        derive.export(ink, tmp_path / format_name, format=format_name, registry=registry)
        assert content_identity(ah.read_adapter(tmp_path / format_name)) == original


def test_the_format_of_the_source_is_copied_bit_for_bit(registry: Registry, ink: str, tmp_path: Path) -> None:
    derive.export(ink, tmp_path / "ink.safetensors", registry=registry)
    stored = registry.directory(registry.resolve(ink)) / registry.resolve(ink).files[0].path
    assert (tmp_path / "ink.safetensors").read_bytes() == stored.read_bytes()


def test_an_exported_file_says_what_the_registry_knows(registry: Registry, wash: str, tmp_path: Path) -> None:
    notes = derive.export(wash, tmp_path / "wash.safetensors", registry=registry)
    header = ah.read_adapter(tmp_path / "wash.safetensors").metadata
    assert header["modelspec.trigger_phrase"] == "wash"
    assert header["modelspec.license"] == "MIT"
    assert header["adapterhub.architecture"] == "mini"
    assert header["ss_network_dim"] == "4"
    assert header["ss_network_alpha"] == "Dynamic"
    assert "wrong strength" in notes[0]


def test_lycoris_becomes_a_plain_lora_that_draws_the_same(
    registry: Registry, runtime: Runtime, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for path, module in runtime.pipeline.unet.named_modules():
        if isinstance(module, nn.Linear) and "transformer_blocks" in path:
            name = f"lycoris_{path.replace('.', '_')}"
            layer = LokrModule(name, module, lora_dim=2, alpha=1, factor=8)
            for key, value in layer.custom_state_dict().items():
                noise = torch.randn_like(value.float()) * 0.1 if value.dim() else 0.0
                tensors[f"{name}.{key}"] = (value.detach().float() + noise).contiguous()
    save_file(tensors, tmp_path / "lokr.safetensors")
    native = registry.add(tmp_path / "lokr.safetensors", name="me/lokr", base="mini")
    plain, done = derive.convert("me/lokr", name="me/lokr-plain", registry=registry)
    assert (native.manifest.algorithm, plain.manifest.algorithm) == ("lokr", "lora")
    assert all(layer.is_exact for layer in done.layers)
    first, second = picture(runtime, "me/lokr"), picture(runtime, "me/lokr-plain")
    assert np.abs(first - second).max() <= 1e-4
    runtime.compose(None)
    with pytest.raises(NativeLayersError, match="lokr"):
        ah.merge(["me/lokr", "me/lokr-plain"], name="me/no", registry=registry)


def test_a_checkpoint_that_was_baked_gives_its_adapter_back(
    registry: Registry, ink: str, tmp_path: Path
) -> None:
    assert derive.bake("mini", [f"{ink}:0.5"], tmp_path / "tuned", registry=registry) > 100
    version, found = derive.extract("mini", tmp_path / "tuned", name="me/learnt", rank=6, registry=registry)
    comparison = ah.compare(ink, version.reference, registry=registry)
    assert comparison.cosines[0, 1] > 0.995  # the base is in float16
    assert float(comparison.norms[1] / comparison.norms[0]) == pytest.approx(0.5, rel=0.02)
    assert version.lineage["operation"] == "extracted"
    assert found.unchanged
    with pytest.raises(InputError, match="nothing to extract"):
        derive.extract("mini", ah.find_base("mini").path, name="me/no", rank=4, registry=registry)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A tiny Llama, and two PEFT directories of it with different ranks and alphas."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    paths: list[Path] = []
    for number, more in enumerate(({"lora_alpha": 16}, {"lora_alpha": 6, "use_rslora": True})):
        model = LlamaForCausalLM.from_pretrained(folder / "base")
        settings = peft.LoraConfig(
            r=4 - number,
            target_modules=["q_proj", "down_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
            **more,
        )
        paths.append(folder / f"adapter-{number}")
        peft.get_peft_model(model, settings).save_pretrained(paths[-1])
    return folder / "base", paths


def logits(base: Path, adapters: list[tuple[Path, float]]) -> Tensor:
    """What the model says with the adapters' deltas, by PEFT's own layers, added to its weights."""
    model = LlamaForCausalLM.from_pretrained(base)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for path, weight in adapters:
        wrapped = peft.PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), path)
        for name, module in wrapped.base_model.model.named_modules():
            if isinstance(module, peft.tuners.lora.Linear):
                weights[f"{name}.weight"] += weight * module.get_delta_weight("default")
    model.load_state_dict(weights)
    with torch.no_grad():
        return model(torch.arange(8)[None]).logits


def test_adapters_of_language_models_are_kept_merged_and_exported(
    registry: Registry, runtime: Runtime, language_model: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    base, (first, second) = language_model
    one = registry.add(first, name="me/llama-one")
    two = registry.add(second, name="me/llama-two")
    assert (one.architecture, one.number, two.number) == ("transformers/causal_lm", 1, 1)
    assert ah.compare("me/llama-one", "me/llama-two", registry=registry).norms.min() > 0
    assert derive.inspect("me/llama-one", registry=registry).overall.layers == 4
    merged = ah.merge(["me/llama-one:0.5", "me/llama-two:0.25"], name="me/llama-both", registry=registry)
    derive.export(merged.reference, tmp_path / "both", format="peft", registry=registry)
    made = logits(base, [(tmp_path / "both", 1.0)])
    expected = logits(base, [(first, 0.5), (second, 0.25)])
    assert torch.allclose(made, expected, atol=1e-5)
    assert not torch.allclose(made, logits(base, []), atol=1e-2)
    derive.export("me/llama-one", tmp_path / "one", format="peft", registry=registry)
    for file in first.iterdir():
        if file.name.startswith("adapter_"):
            assert (tmp_path / "one" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(ArchitectureError, match=r"peft\.PeftModel\.from_pretrained"):
        runtime.compose("me/llama-one")
    with pytest.raises(FormatError, match="--format peft"):
        derive.export("me/llama-one", tmp_path / "no", format="kohya", registry=registry)
    assert not (tmp_path / "no").exists()


def test_architectures_are_not_mixed(
    registry: Registry, ink: str, language_model: tuple[Path, list[Path]]
) -> None:
    path = str(language_model[1][0])
    with pytest.raises(ArchitectureError):
        ah.merge([ink, path], name="me/no", registry=registry)
    with pytest.raises(ArchitectureError):
        ah.compare(ink, path, registry=registry)
    with pytest.raises(CompositionError):
        ah.merge([], name="me/no", registry=registry)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_load_into_takes_references_and_files(registry: Registry, ink: str, tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    stock = StableDiffusionXLPipeline.from_pretrained(ah.find_base("mini").path)
    derive.export(ink, tmp_path / "ink.safetensors", format="comfy", registry=registry)
    count = ah.load_into(stock, ink, registry=registry, adapter_name="ref")
    assert ah.load_into(stock, tmp_path / "ink.safetensors", adapter_name="file") == count > 100


def test_json_of_reports_is_json(registry: Registry, ink: str, wash: str) -> None:
    assert json.loads(json.dumps(derive.inspect(ink, registry=registry).as_json()))["overall"]["layers"] > 0
    assert len(json.loads(json.dumps(ah.compare(ink, wash, registry=registry).as_json()))["names"]) == 2


def test_numbers_that_are_not_finite_go_nowhere(
    registry: Registry, runtime: Runtime, ink: str, layers: dict[Target, Known], tmp_path: Path
) -> None:
    tensors = spelled("kohya", layers)
    name = next(name for name in tensors if name.endswith("lora_up.weight"))
    tensors[name] = tensors[name].clone().fill_(float("inf"))
    path = tmp_path / "spoilt.safetensors"
    save_file(tensors, path)
    registry.add(path, name="me/spoilt", base="mini")
    runtime.compose(ink)
    for use in (
        lambda: runtime.compose("me/spoilt"),
        lambda: ah.merge([ink, "me/spoilt"], name="me/no", registry=registry),
        lambda: derive.resize(str(path), name="me/no", rank=1, registry=registry),
        lambda: derive.export("me/spoilt", tmp_path / "no", registry=registry),
        lambda: derive.bake("mini", ["me/spoilt"], tmp_path / "no", registry=registry),
        lambda: ah.compare(ink, str(path), registry=registry),
    ):
        with pytest.raises(NotFiniteError) as caught:
            use()
        assert len(caught.value.targets) == 1
    assert str(runtime.composition) == f"{ink}:1.0"
    assert not (tmp_path / "no").exists()
    assert next(problem.kind for problem in derive.inspect(str(path)).problems) == "not-finite"
    runtime.compose(None)
