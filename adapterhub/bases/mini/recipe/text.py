"""Stage `text`: give the two text encoders a first sense of what captions look like.

Contrastive training against a small picture encoder that is thrown away afterwards (Radford et al., "Learning
transferable visual models from natural language supervision", 2021). The `unet` stage goes on training
the text encoders together with the denoiser.
"""

import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from adapterhub.bases.mini.recipe.autoencoder import to_tensor
from adapterhub.bases.mini.recipe.config import Recipe
from adapterhub.bases.mini.recipe.pictures import load_pictures, split_pictures, training_caption
from adapterhub.bases.mini.recipe.state import load_state, save_state, warmup_stable_decay
from adapterhub.bases.mini.recipe.vocabulary import END, START
from adapterhub.randomness import keyed_generator


class PictureEncoder(nn.Module):
    """Five strided convolutions from `(batch, 3, 64, 64)` to `(batch, size)`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, size))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return one feature for each picture."""
        return self.layers(pixels)


def build_text_encoders(
    recipe: Recipe, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return both text encoders with fresh weights."""
    configs = [
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text.hidden_size[i],
            intermediate_size=4 * recipe.text.hidden_size[i],
            num_hidden_layers=recipe.text.layers[i],
            num_attention_heads=recipe.text.heads[i],
            max_position_embeddings=recipe.tokenizers.max_length,
            projection_dim=recipe.text.projection_size,
            hidden_act=("quick_gelu", "gelu")[i],
            bos_token_id=tokenizer.get_vocab()[START],
            eos_token_id=tokenizer.get_vocab()[END],
            pad_token_id=tokenizer.get_vocab()[str(tokenizer.pad_token)],
        )
        for i, tokenizer in enumerate(tokenizers)
    ]
    return CLIPTextModel(configs[0]), CLIPTextModelWithProjection(configs[1])


def load_tokenizers(work: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Read the two tokenizers that stage `tokenizers` wrote."""
    return (
        CLIPTokenizer.from_pretrained(work / "tokenizer"),
        CLIPTokenizer.from_pretrained(work / "tokenizer_2"),
    )


def train_text_encoders(recipe: Recipe, work: Path) -> None:
    """Train both text encoders contrastively; the state goes to `work/text.safetensors`."""
    settings = recipe.text
    torch.manual_seed(recipe.seed)
    pictures, _ = split_pictures(load_pictures(work))
    tokenizers = load_tokenizers(work)
    first, second = build_text_encoders(recipe, tokenizers)
    modules: dict[str, nn.Module] = {
        "text_encoder": first,
        "text_encoder_2": second,
        "picture": PictureEncoder(settings.projection_size),
        "head": nn.Linear(settings.hidden_size[0], settings.projection_size),
    }
    for module in modules.values():
        module.to(recipe.device)
    optimizer = torch.optim.AdamW(
        [p for m in modules.values() for p in m.parameters()], lr=settings.learning_rate, weight_decay=0.05
    )
    path = work / "text.safetensors"
    start = load_state(path, modules, optimizer, {})
    pixels = to_tensor(pictures.pixels).to(recipe.device)
    began = time.monotonic()
    for step in range(start, settings.steps):
        random = keyed_generator(recipe.seed, "text-batch", step)
        chosen = random.choice(len(pictures.names), settings.batch_size, replace=False).tolist()
        captions = [
            training_caption(
                pictures.names[i],
                pictures.keywords[i],
                mix=recipe.pictures.caption_mix,
                seed=recipe.seed,
                key=("text", step, i),
            )
            for i in chosen
        ]
        factor = warmup_stable_decay(step, steps=settings.steps, warmup=50, decay=settings.steps // 2)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor
        features = [nn.functional.normalize(modules["picture"](pixels[chosen]), dim=-1)]
        # Causal attention: what stands after the end token cannot change the pooled state.
        tokens = [
            t(captions, padding=True, truncation=True, return_tensors="pt").input_ids.to(recipe.device)
            for t in tokenizers
        ]
        features.append(modules["head"](first(tokens[0]).pooler_output))
        features.append(second(tokens[1]).text_embeds)
        losses = [
            _contrastive_loss(features[0], nn.functional.normalize(text, dim=-1)) for text in features[1:]
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == settings.steps:
            save_state(path, step + 1, modules, optimizer, {})
            seconds = time.monotonic() - began
            print(f"text {step + 1}/{settings.steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True)  # noqa: T201


def _contrastive_loss(pictures: Tensor, texts: Tensor) -> Tensor:
    logits = 15.0 * pictures @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
