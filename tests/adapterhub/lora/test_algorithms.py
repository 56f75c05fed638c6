"""Other algorithms: the deltas of LyCORIS' own modules, and exact low-rank forms."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from safetensors.torch import save_file
from torch import Tensor, nn

from adapterhub.errors import ConversionError, FormatError
from adapterhub.formats.read import read_adapter
from adapterhub.formats.write import write_adapter
from adapterhub.lora.convert import to_lora
from adapterhub.lora.weights import AdapterTensors, Dense, Native, Target
from adapterhub_registry.probe import probe

logging.getLogger("LyCORIS").setLevel(logging.ERROR)
LINEAR, CONV = "mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"
CASES: dict[str, tuple[str, Callable[[str, nn.Module], nn.Module]]] = {
    "locon-tucker": (CONV, lambda n, m: LoConModule(n, m, lora_dim=3, alpha=2, use_tucker=True)),
    "loha": (LINEAR, lambda n, m: LohaModule(n, m, lora_dim=3, alpha=2)),
    "loha, convolution": (CONV, lambda n, m: LohaModule(n, m, lora_dim=3, alpha=2)),
    "loha, tucker": (CONV, lambda n, m: LohaModule(n, m, lora_dim=3, alpha=2, use_tucker=True)),
    "lokr, both whole": (LINEAR, lambda n, m: LokrModule(n, m, lora_dim=99, alpha=3, factor=4)),
    "lokr": (LINEAR, lambda n, m: LokrModule(n, m, lora_dim=2, alpha=3, factor=4)),
    "lokr, both factored": (
        LINEAR,
        lambda n, m: LokrModule(n, m, lora_dim=1, alpha=3, factor=4, decompose_both=True),
    ),
    "lokr, convolution": (CONV, lambda n, m: LokrModule(n, m, lora_dim=1, alpha=3, factor=4)),
    "lokr, tucker": (CONV, lambda n, m: LokrModule(n, m, lora_dim=1, alpha=3, factor=2, use_tucker=True)),
    "glora": (LINEAR, lambda n, m: GLoRAModule(n, m, lora_dim=2, alpha=3)),
    "glora, convolution": (CONV, lambda n, m: GLoRAModule(n, m, lora_dim=2, alpha=3)),
    "dora": (LINEAR, lambda n, m: LoConModule(n, m, lora_dim=3, alpha=2, weight_decompose=True)),
    "dora, convolution": (CONV, lambda n, m: LoConModule(n, m, lora_dim=3, alpha=2, weight_decompose=True)),
    "dora by inputs": (
        LINEAR,
        lambda n, m: LoConModule(n, m, lora_dim=3, alpha=2, weight_decompose=True, wd_on_out=False),
    ),
    "dora of loha": (LINEAR, lambda n, m: LohaModule(n, m, lora_dim=3, alpha=2, weight_decompose=True)),
    "oft": (LINEAR, lambda n, m: DiagOFTModule(n, m, lora_dim=4)),
    "oft, bounded": (LINEAR, lambda n, m: DiagOFTModule(n, m, lora_dim=4, constraint=0.01, rescaled=True)),
    "oft, convolution": (CONV, lambda n, m: DiagOFTModule(n, m, lora_dim=4, rescaled=True)),
    "boft": (LINEAR, lambda n, m: ButterflyOFTModule(n, m, lora_dim=4, rescaled=True)),
    "ia3": (LINEAR, lambda n, m: IA3Module(n, m)),
    "ia3 on the input": (LINEAR, lambda n, m: IA3Module(n, m, train_on_input=True)),
}
EXACT = [case for case in CASES if case.startswith(("locon", "loha", "lokr", "glora"))]


def layer(path: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(24, 16, bias=False) if path == LINEAR else nn.Conv2d(8, 16, 3, bias=False)


def trained(case: str) -> tuple[str, Tensor, Tensor, dict[str, Tensor]]:
    """Return a module's path, its weight, LyCORIS' own delta at strength 1, and its file."""
    path, make = CASES[case]
    original = layer(path)
    name = f"lora_unet_{path.replace('.', '_')}"
    module = make(name, original)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        weight = original.weight.detach().clone()
        if case == "lokr, both whole" or not any(kind in case for kind in ("loha", "lokr")):
            delta = module.get_merged_weight(multiplier=1)[0].detach() - weight
        else:
            # get_diff_weight of LoHa and LoKr multiplies by alpha / rank twice, the forward pass once.
            x = torch.eye(24) if path == LINEAR else torch.randn(2, 8, 5, 5)
            module.eval()
            module.org_forward = original.forward
            delta = (module(x) - original(x), x)
    state = {
        f"{name}.{key}": value.detach().clone().contiguous() for key, value in module_state(module).items()
    }
    return path, weight, delta, state


def module_state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.custom_state_dict() or module.state_dict())


def check_delta(path: str, made: Tensor, expected: Tensor | tuple[Tensor, Tensor]) -> None:
    if isinstance(expected, tuple):
        wanted, x = expected
        weight = made.reshape(layer(path).weight.shape)
        made = x @ weight.t() if path == LINEAR else nn.functional.conv2d(x, weight)
        expected = wanted
    assert torch.allclose(made.reshape(expected.shape), expected, atol=2e-5, rtol=1e-4)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_deltas_are_those_of_lycoris(tmp_path: Path, case: str) -> None:
    path, weight, delta, state = trained(case)
    save_file(state, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    update = adapter.layers[Target("unet", path)]
    check_delta(path, update.delta(base=weight), delta)
    assert torch.allclose(update.delta(base=weight, weight=-0.5), update.delta(base=weight) * -0.5)
    assert probe(tmp_path / "x.safetensors").algorithm == update.algorithm
    kind = case.split(",")[0].split(" ")[0]
    assert update.algorithm == kind


@pytest.mark.parametrize("case", CASES)
def test_files_of_other_algorithms_survive_kohya_and_comfy(tmp_path: Path, case: str) -> None:
    path, weight, _, state = trained(case)
    save_file(state, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    expected = adapter.layers[Target("unet", path)].delta(base=weight)
    for format_name in ("kohya", "a1111") if "ia3" in case else ("kohya", "a1111", "comfy"):
        write_adapter(adapter, tmp_path / "y.safetensors", format=format_name)
        back = read_adapter(tmp_path / "y.safetensors").layers[Target("unet", path)]
        assert torch.allclose(back.delta(base=weight), expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_everything_becomes_plain_lora(tmp_path: Path, case: str) -> None:
    path, weight, _, state = trained(case)
    save_file(state, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    expected = adapter.layers[Target("unet", path)].delta(base=weight).double()
    converted = to_lora(adapter, base=lambda _: weight)
    made = converted.adapter.low_rank()[Target("unet", path)].delta().double().reshape(expected.shape)
    assert (made - expected).norm() <= 2e-6 * expected.norm()
    (report,) = converted.layers
    assert report.is_exact
    if case in EXACT and path == LINEAR:
        assert report.rank < min(weight.shape) or "whole" in case or "glora" not in case


@pytest.mark.parametrize("case", ["loha", "lokr", "dora", "ia3"])
def test_a_truncated_conversion_reports_the_error_it_made(tmp_path: Path, case: str) -> None:
    path, weight, _, state = trained(case)
    save_file(state, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    expected = adapter.layers[Target("unet", path)].delta(base=weight).double()
    converted = to_lora(adapter, rank=2, base=lambda _: weight)
    made = converted.adapter.low_rank()[Target("unet", path)]
    error = float((made.delta().double() - expected).norm() / expected.norm())
    best = torch.linalg.svdvals(expected)
    optimal = float((best[2:].square().sum() / best.square().sum()).sqrt())
    assert made.rank == 2
    assert converted.layers[0].error == pytest.approx(error, abs=1e-5)
    assert error == pytest.approx(optimal, abs=1e-5)


def test_what_depends_on_the_base_asks_for_it() -> None:
    tensors = {"ia3": torch.ones(16), "on_input": torch.tensor(0)}
    adapter = AdapterTensors({Target("unet", LINEAR): Native("ia3", tensors, 1.0, "rank")})
    with pytest.raises(ConversionError) as caught:
        to_lora(adapter)
    assert caught.value.targets == [f"unet.{LINEAR}"]
    with pytest.raises(ValueError, match="needs the weight"):
        next(iter(adapter.layers.values())).delta()


def test_norms_and_biases_are_kept_when_the_rest_becomes_lora(tmp_path: Path) -> None:
    norm = NormModule("lora_unet_mid_block_attentions_0_norm", nn.GroupNorm(4, 16))
    with torch.no_grad():
        norm.w_norm.add_(0.5)
        norm.b_norm.add_(0.25)
    state = {f"lora_unet_mid_block_attentions_0_norm.{k}": v.detach() for k, v in norm.state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    target = Target("unet", "mid_block.attentions.0.norm")
    assert isinstance(adapter.layers[target], Dense)
    assert torch.equal(adapter.biases[target], torch.full((16,), 0.25))
    kept = to_lora(adapter)
    assert kept.adapter.layers[target] is adapter.layers[target]
    assert kept.layers[0].rank == 0


def test_whole_differences_and_whole_weights_are_read(tmp_path: Path) -> None:
    name, weight = f"lora_unet_{LINEAR.replace('.', '_')}", torch.randn(16, 24)
    difference, bias = torch.randn(16, 24), torch.randn(16)
    save_file({f"{name}.diff": difference, f"{name}.diff_b": bias}, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    target = Target("unet", LINEAR)
    assert torch.equal(adapter.layers[target].delta(weight=2.0), difference * 2)
    assert torch.equal(adapter.biases[target], bias)
    save_file({f"{name}.set_weight": weight + difference}, tmp_path / "y.safetensors")
    replaced = read_adapter(tmp_path / "y.safetensors").layers[target]
    assert torch.allclose(replaced.delta(base=weight), difference, atol=1e-6)


def test_comfy_has_no_name_for_ia3(tmp_path: Path) -> None:
    _, _, _, state = trained("ia3")
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(FormatError, match="ia3"):
        write_adapter(read_adapter(tmp_path / "x.safetensors"), tmp_path / "y.safetensors", format="comfy")
