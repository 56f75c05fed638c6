"""What a file of adapter weights is, from its header alone: no tensor is read, and nothing is executed."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub_registry.dialects import EMBEDDING_PREFIX, Key, algorithm_of, split_key
from adapterhub_registry.errors import WeightsError
from adapterhub_registry.safetensors_header import Header, TensorInfo, read_header

# Width of the text that cross-attention reads, and of the two text encoders.
ARCHITECTURE_BY_TEXT_WIDTH = {2048: "sdxl", 160: "mini", 1024: "sd2", 768: "sd1"}
ARCHITECTURE_BY_ENCODER_WIDTH = {1280: "sdxl", 96: "mini"}
WIDE = frozenset({"down", "hada_w1_b", "a2"})
"""Parts whose second size is the module's number of inputs."""
SDXL_WIDTHS = frozenset({640, 1280, 2048, 2560, 5120})
"""Of inputs in SDXL's transformers; the mini base has the same names and other widths."""
MAX_CONFIG_BYTES = 1 << 20
BASE_MODELS = {"sdxl": "stabilityai/stable-diffusion-xl-base-1.0"}
"""Architecture to the repository that the Hub knows its base by."""
TRANSFORMERS = "transformers"
"""Architectures of language models begin with this: `transformers/causal_lm`."""
# Modules that only a transformer from the transformers library has.
_LANGUAGE = re.compile(r"\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|c_attn|query|value)$")
_DIFFUSION = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)")


@dataclass(frozen=True)
class Probe:
    """What a file of weights is.

    Attributes:
        layouts: As `adapterhub_registry.dialects.Key` names them; files may mix them.
        algorithm: The algorithms of its modules, joined by `+`: `lora`, `locon`, `loha`, ...
        architecture: `sdxl`, `mini`, `sd1`, `sd2`, `transformers/...`; empty if nothing tells.
        evidence: What told the architecture, and what else did, strongest first.
        components: Which parts of the pipeline it changes.
        modules: How many modules it changes.
        targets: How many of each component; of none where the file does not say.
        ranks: The ranks that occur.
        dtypes: The dtypes that occur.
        parameters: Numbers stored.
        metadata: The header's own text.
        extras: Keys that belong to no module, such as text embeddings.
        unknown: Keys that nothing claims.
    """

    layouts: tuple[str, ...]
    algorithm: str
    architecture: str
    evidence: tuple[str, ...]
    components: tuple[str, ...]
    modules: int
    targets: Mapping[str, int]
    ranks: tuple[int, ...]
    dtypes: tuple[str, ...]
    parameters: int
    metadata: Mapping[str, str]
    extras: tuple[str, ...]
    unknown: tuple[str, ...]


def probe(path: Path, *, config: Mapping[str, Any] | None = None) -> Probe:
    """Say what a safetensors file of adapter weights is.

    Args:
        path: The file.
        config: `adapter_config.json`, if it lies in a PEFT directory.

    Raises:
        WeightsError: The header is malformed, or no key belongs to an adapter.
        OSError: The file cannot be read.
    """
    return describe(path, read_header(path), config=config)


def describe(path: Path, header: Header, *, config: Mapping[str, Any] | None = None) -> Probe:
    """Say what a header that was read already is about; as `probe`."""
    known: dict[str, Key] = {}
    rest: list[str] = []
    modules: dict[tuple[str, str], dict[str, TensorInfo]] = {}
    for name, info in header.tensors.items():
        key = split_key(name)
        if key is None:
            rest.append(name)
            continue
        known[name] = key
        place = (key.component, key.module)
        parts = modules.get(place)
        if parts is None:
            parts = modules[place] = {}
        parts[key.part] = info
    if not known:
        shown = ", ".join(sorted(rest)[:3]) or "none"
        raise WeightsError(path, f"no key belongs to an adapter; its first keys: {shown}")
    found = list(_architectures(known, header, config or {}))
    return Probe(
        layouts=tuple(sorted({key.layout for key in known.values()})),
        algorithm="+".join(sorted({_algorithm(parts) for parts in modules.values()} - {""})),
        architecture=found[0][0] if found else "",
        evidence=tuple(f"{architecture}: {why}" for architecture, why in found),
        components=tuple(sorted({key.component for key in known.values() if key.component})),
        modules=len(modules),
        targets=dict(sorted(Counter(component for component, _ in modules).items())),
        ranks=tuple(sorted({rank for parts in modules.values() if (rank := _rank(parts))})),
        dtypes=tuple(sorted({info.dtype for info in header.tensors.values()})),
        parameters=sum(map(math.prod, (info.shape for info in header.tensors.values()))),
        metadata=header.metadata,
        extras=tuple(sorted(name for name in rest if name.startswith(EMBEDDING_PREFIX))),
        unknown=tuple(sorted(name for name in rest if not name.startswith(EMBEDDING_PREFIX))),
    )


def _algorithm(parts: Mapping[str, TensorInfo]) -> str:
    down, blocks = parts.get("down"), parts.get("oft_blocks")
    is_conv = down is not None and len(down.shape) == 4
    return algorithm_of(parts, is_conv=is_conv, oft_dimensions=len(blocks.shape) if blocks else 3)


def _rank(parts: Mapping[str, TensorInfo]) -> int:
    """Return the inner size; 0 for algorithms that have none."""
    for name in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2"):
        if name in parts and parts[name].shape:
            return parts[name].shape[0]
    return 0


def _architectures(
    known: Mapping[str, Key], header: Header, config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield (architecture, why), strongest evidence first."""
    if config and _is_language_model(known, config):
        task = str(config.get("task_type") or "unknown").lower()
        yield f"{TRANSFORMERS}/{task}", "adapter_config.json"
    seen: set[str] = set()
    for name, key in known.items():
        if key.part in WIDE and (found := _by_shape(key, header.tensors[name].shape)) not in {"", *seen}:
            seen.add(found)
            yield found, f"shape of {name}"
    if header.metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        yield "sdxl", "ss_base_model_version"
    model_spec = header.metadata.get("modelspec.architecture", "")
    if model_spec.startswith("stable-diffusion-xl-v1-base"):
        yield "sdxl", "modelspec.architecture"
    elif model_spec.startswith("stable-diffusion-v1"):
        yield "sd1", "modelspec.architecture"
    if str(config.get("base_model_name_or_path")) == BASE_MODELS["sdxl"]:
        yield "sdxl", "base_model_name_or_path"
    if "adapterhub.architecture" in header.metadata:
        yield header.metadata["adapterhub.architecture"], "adapterhub.architecture"
    if seen:
        return
    for name, key in known.items():
        shape = header.tensors[name].shape
        if key.part != "down" or len(shape) < 2 or shape[1] not in SDXL_WIDTHS:
            continue
        depth = re.search(r"transformer_blocks[._](\d+)", key.module)
        if key.component == "text_encoder_2" or (depth and int(depth.group(1)) > 0):
            yield "sdxl", f"only SDXL has {name} of that width"
            return


def _by_shape(key: Key, shape: Sequence[int]) -> str:
    width = shape[1] if len(shape) > 1 else 0
    if key.component in ("unet", "") and key.module.endswith(
        ("attn2.to_k", "attn2_to_k", "attn2.to_v", "attn2_to_v")
    ):
        return ARCHITECTURE_BY_TEXT_WIDTH.get(width, "")
    if key.component == "text_encoder_2" and key.module.endswith(("q_proj", "k_proj", "v_proj", "fc1")):
        return ARCHITECTURE_BY_ENCODER_WIDTH.get(width, "")
    return ""


def _is_language_model(known: Mapping[str, Key], config: Mapping[str, Any]) -> bool:
    modules = [key.module for key in known.values()]
    if any(_DIFFUSION.match(module) or module.startswith("text_model.") for module in modules):
        return False
    return bool(config.get("task_type")) or any(_LANGUAGE.search(module) for module in modules)


def read_peft_config(path: Path) -> dict[str, Any]:
    """Read an `adapter_config.json`.

    Raises:
        WeightsError: It cannot be read, or holds no LoRA.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise WeightsError(path, "it has more than 1 MiB")
        config: Any = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no object")
        kind = str(config.get("peft_type", "LORA"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    except (OSError, ValueError, RecursionError) as exc:
        raise WeightsError(path, f"it cannot be read ({exc})") from exc
    if kind.upper() != "LORA":
        raise WeightsError(path, f"its peft_type is {kind}, and only LORA is understood")
    return config  # pyright: ignore[reportUnknownVariableType]
