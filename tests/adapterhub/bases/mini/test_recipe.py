"""The recipe's own arithmetic: what is kept out, how captions and learning rates vary, how it resumes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adapterhub.bases.mini.recipe.config import read_recipe
from adapterhub.bases.mini.recipe.evaluate import feature, neighbour_ranks
from adapterhub.bases.mini.recipe.pictures import (
    PictureSet,
    clean_caption,
    held_out_names,
    split_pictures,
    training_caption,
)
from adapterhub.bases.mini.recipe.state import load_state, save_state, warmup_stable_decay

CONFIG = Path(__file__).parents[4] / "adapterhub" / "bases" / "mini" / "recipe" / "config.toml"


def test_at_least_sixty_subjects_are_held_out_and_stay_out() -> None:
    held = held_out_names()
    assert len(set(held)) == len(held) >= 60
    names = [*held, "cat face", "rocket"]
    pictures = PictureSet(np.zeros((len(names), 64, 64, 3), np.uint8), names, [[] for _ in names])
    training, outside = split_pictures(pictures)
    assert training.names == ["cat face", "rocket"]
    assert outside.names == held


def test_captions_follow_the_mix_and_their_key() -> None:
    def caption(step: int) -> str:
        return training_caption(
            "owl", ["bird", "wise", "owl"], mix=[0.55, 0.15, 0.2, 0.1], seed=1, key=("unet", step, 0)
        )

    captions = [caption(step) for step in range(2000)]
    assert captions == [caption(step) for step in range(2000)]
    assert captions.count("owl") / 2000 == pytest.approx(0.55, abs=0.04)
    assert captions.count("an owl") / 2000 == pytest.approx(0.15, abs=0.03)
    assert set(captions) - {"owl", "an owl"} == {
        *("owl, bird", "owl, wise", "owl, bird, wise", "owl, wise, bird"),
        *("bird", "wise", "bird, wise", "wise, bird"),
    }


def test_captions_are_plain_lower_case() -> None:
    assert clean_caption("Kiss: Woman,  Man") == "kiss woman, man"
    assert clean_caption("one o\u2019clock") == "one o'clock"


def test_the_learning_rate_rises_stays_and_falls() -> None:
    factors = [warmup_stable_decay(step, steps=100, warmup=10, decay=20) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)


def test_the_feature_is_the_mean_of_blocks_of_four() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels[0]).resize((16, 16), Image.Resampling.BOX)
    assert feature(pixels).reshape(16, 16, 3) == pytest.approx(np.asarray(expected) / 255, abs=0.005)


def test_ranks_count_the_pictures_that_are_nearer() -> None:
    pixels = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 100, 200)])
    made = [Image.new("RGB", (64, 64), (90, 90, 90))]
    assert neighbour_ranks(made, pixels, [1]).tolist() == [0]
    assert neighbour_ranks(made, pixels, [0]).tolist() == [1]
    assert neighbour_ranks(made, pixels, [2]).tolist() == [2]


def test_training_goes_on_from_saved_state_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def train(module: nn.Linear, optimizer: torch.optim.AdamW, steps: range) -> None:
        for step in steps:
            data = torch.full((2, 3), float(step))
            optimizer.zero_grad()
            module(data).square().mean().backward()
            optimizer.step()

    def fresh() -> tuple[nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    whole, optimizer = fresh()
    train(whole, optimizer, range(6))

    first, optimizer = fresh()
    train(first, optimizer, range(3))
    save_state(tmp_path / "state.safetensors", 3, {"m": first}, optimizer, {"m/weight": first.weight})
    second, optimizer = fresh()
    averages: dict[str, torch.Tensor] = {}
    assert load_state(tmp_path / "state.safetensors", {"m": second}, optimizer, averages) == 3
    assert torch.equal(averages["m/weight"], first.weight)
    train(second, optimizer, range(3, 6))
    assert torch.equal(second.weight, whole.weight)


def test_the_shipped_config_is_read_whole_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    recipe = read_recipe(CONFIG)
    assert recipe.edition == 2
    assert sum(recipe.pictures.caption_mix) == pytest.approx(1)
    wrong = tmp_path / "config.toml"
    wrong.write_text(CONFIG.read_text().replace("kl_weight", "kl_wait"))
    with pytest.raises(TypeError, match="kl_wait"):
        read_recipe(wrong)
