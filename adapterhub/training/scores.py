"""How near sample pictures come to their prompts and to real pictures: CLIP-T, CLIP-I and DINO.

As Ruiz et al. measure them (arXiv 2208.12242): CLIP-T is the mean cosine of pictures and their prompts, and
CLIP-I and DINO are the mean cosine of all pairs of a drawn and a real picture.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from adapterhub.bases.load import quiet_libraries
from adapterhub.errors import ScoreModelError
from adapterhub.training.config import AdapterConfig
from adapterhub.training.dataset import Dataset

KINDS = {"clip": ("clip",), "dino": ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")}
"""Which `model_type` a directory may hold, by key of `[adapters.validation]`."""
REFERENCES = 32
"""Real pictures that drawn ones are compared with, at most."""
UNUSED = ("pooler.",)
"""Weights that may be missing: DINO's embedding is the class token as the last norm leaves it."""


class ScoreModel:
    """A model that embeds pictures, and prompts if it is CLIP; in float32, on the CPU until it is needed.

    Args:
        path: A directory in transformers' format, with safetensors; nothing is downloaded.
        kind: `clip` or `dino`.

    Raises:
        ScoreModelError: It holds no such model, or not all of it.
    """

    def __init__(self, path: Path, kind: str) -> None:
        require_score_model(path, kind)
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

        self.path, self.kind = path, kind
        local: dict[str, Any] = {"local_files_only": True}
        loader: Any = CLIPModel if kind == "clip" else AutoModel
        try:
            with quiet_libraries():
                self._model, found = loader.from_pretrained(
                    path, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **local
                )
                self._processor: Any = AutoImageProcessor.from_pretrained(path, backend="pil", **local)
                self._tokenizer: Any = (
                    AutoTokenizer.from_pretrained(path, **local) if kind == "clip" else None
                )
        except Exception as exc:
            raise ScoreModelError(path, kind, str(exc).strip() or repr(exc)) from exc
        missing = sorted(name for name in found["missing_keys"] if not name.startswith(UNUSED))
        if missing:
            raise ScoreModelError(path, kind, f"{len(missing)} weights are missing, such as {missing[0]}")
        self._model.eval().requires_grad_(requires_grad=False)

    def pictures(self, pictures: Sequence[Image.Image], device: torch.device) -> Tensor:
        """Return the embeddings of pictures, `(pictures, width)`, each of length 1, on the CPU."""
        values = [self._processor(images=one, return_tensors="pt")["pixel_values"] for one in pictures]
        rows: list[Tensor] = []
        with self._on(device) as model:
            for value in values:
                if self.kind == "clip":
                    pooled = model.vision_model(pixel_values=value.to(device)).pooler_output
                    rows.append(model.visual_projection(pooled))
                else:
                    rows.append(model(pixel_values=value.to(device)).last_hidden_state[:, 0])
        return torch.nn.functional.normalize(torch.cat(rows).cpu(), dim=-1)

    def prompts(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """Return CLIP's embeddings of prompts, as `pictures` does; what is too long for it is cut."""
        longest = self._model.config.text_config.max_position_embeddings
        read = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        with self._on(device) as model:
            pooled = model.text_model(
                input_ids=read["input_ids"], attention_mask=read["attention_mask"]
            ).pooler_output
            rows = model.text_projection(pooled).cpu()
        return torch.nn.functional.normalize(rows, dim=-1)

    @contextmanager
    def _on(self, device: torch.device) -> Iterator[Any]:
        """Have the model on a device for a while, whatever happens there."""
        try:
            with torch.no_grad():
                yield self._model.to(device)
        finally:
            self._model.to("cpu")


ScoreModels = Mapping[tuple[str, Path], ScoreModel]
"""By kind and directory."""


class Scorer:
    """Scores the sample pictures of one adapter, always against the same prompts and pictures.

    Args:
        models: Any of CLIP and DINO, by kind.
        prompts: Of the sample pictures.
        dataset: Its held-out pictures, or else those that are trained on, are the real ones.
        device: Where embeddings are computed.
    """

    def __init__(
        self, models: Mapping[str, ScoreModel], prompts: Sequence[str], dataset: Dataset, device: torch.device
    ) -> None:
        self._models, self._device = models, device
        real = reference_pictures(dataset)
        self._real = {kind: model.pictures(real, device) for kind, model in models.items()}
        self._prompts = models["clip"].prompts(prompts, device) if "clip" in models else None

    def score(self, pictures: Sequence[Image.Image]) -> dict[str, float]:
        """Return `clip_t`, `clip_i` and `dino`, as far as there are models for them.

        Args:
            pictures: One for each prompt.
        """
        scores: dict[str, float] = {}
        for kind, model in self._models.items():
            drawn = model.pictures(pictures, self._device)
            if self._prompts is not None and kind == "clip":
                scores["clip_t"] = float((drawn * self._prompts).sum(dim=-1).mean())
            scores["clip_i" if kind == "clip" else kind] = float((drawn @ self._real[kind].T).mean())
        return scores


def reference_pictures(dataset: Dataset) -> list[Image.Image]:
    """Return the real pictures of an adapter as they are trained: held-out ones, or else the others."""
    examples = dataset.held_out or [item for item in dataset.examples if not item.source.is_prior]
    chosen = sorted(examples, key=lambda item: item.sha256)[:REFERENCES]
    pixels = [item.load()[0].add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8) for item in chosen]
    return [Image.fromarray(value.permute(1, 2, 0).contiguous().numpy()) for value in pixels]


def load_score_models(adapters: Sequence[AdapterConfig]) -> dict[tuple[str, Path], ScoreModel]:
    """Load the models that adapters ask for, each directory once.

    Raises:
        ScoreModelError: A directory holds no such model, or not all of it.
    """
    return {key: ScoreModel(key[1], key[0]) for key in _wanted(adapters)}


def require_score_models(adapters: Sequence[AdapterConfig]) -> None:
    """Check the directories of the models that adapters ask for, without loading their weights.

    Raises:
        ScoreModelError: One holds no such model.
    """
    for kind, path in _wanted(adapters):
        require_score_model(path, kind)


def require_score_model(path: Path, kind: str) -> None:
    """Check that a directory looks like a model of that kind.

    Raises:
        ScoreModelError: It does not.
    """
    try:
        model_type = json.loads((path / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        reason = "there is no config.json with a model_type in it"
        raise ScoreModelError(path, kind, reason) from exc
    if model_type not in KINDS[kind]:
        raise ScoreModelError(path, kind, f"it holds a {model_type}, not {' or '.join(KINDS[kind])}")
    if not list(path.glob("*.safetensors")):
        raise ScoreModelError(path, kind, "it holds no safetensors, and pickle is never read")
    files = ["preprocessor_config.json", *(["tokenizer_config.json"] if kind == "clip" else [])]
    for name in files:
        if not (path / name).is_file():
            raise ScoreModelError(path, kind, f"{name} is missing")


def _wanted(adapters: Sequence[AdapterConfig]) -> list[tuple[str, Path]]:
    found = [
        (kind, path)
        for adapter in adapters
        for kind in KINDS
        if (path := getattr(adapter.validation, kind)) is not None
    ]
    return list(dict.fromkeys(found))
