"""Configs are checked as a whole."""

from pathlib import Path

import pytest

from adapterhub.errors import ConfigError, InputError
from adapterhub.training.config import BaseConfig, TrainConfig, config_document

GOOD = """
base.model = "mini"
base.threads = 1

[defaults]
network.rank = 8
trigger_words = ["inkwash"]

[[adapters]]
name = "me/ink"
data = "pictures"
optimizer.learning_rate = 1

[[adapters]]
name = "me/corgi"
data = "/data/corgi"
network.rank = 4
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "styles.toml"
    path.write_text(text)
    return path


def test_defaults_hold_for_all_adapters_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = TrainConfig.from_toml(write(tmp_path, GOOD))
    ink, corgi = config.adapters
    assert config.base == BaseConfig("mini", threads=1)
    assert (ink.network.rank, ink.optimizer.learning_rate, ink.trigger_words) == (8, 1.0, ("inkwash",))
    assert (corgi.network.rank, corgi.trigger_words) == (4, ("inkwash",))
    assert ink.data[0].path == tmp_path / "pictures"
    assert corgi.data[0].path == Path("/data/corgi")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("threads", "treads").replace(
        "network.rank = 4", 'network.rank = 0\noptimizer.warmup = 2\nkind = "drawing"\nsteeps = 3'
    )
    text = text.replace('"me/corgi"', '"corgi"').replace("learning_rate = 1", 'learning_rate = "fast"')
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_toml(write(tmp_path, text))
    problems = "\n".join(caught.value.problems)
    for part in (
        'unknown key "base.treads"; did you mean "base.threads"?',
        'adapters.0.optimizer.learning_rate must be a number, not "fast"',
        'unknown key "adapters.1.steeps"; did you mean "adapters.1.steps"?',
        "adapters.1.network.rank must be at least 1, not 0",
        "adapters.1.optimizer.warmup must be from 0 to 1, not 2.0",
        'adapters.1.kind must be one of style, subject, concept, slider, other, not "drawing"',
        'adapters.1.name: "corgi" names no version',
    ):
        assert part in problems
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('base = "mini"', "at least one [[adapters]]"),
        (GOOD.replace('base.model = "mini"', ""), 'the key "base.model" is missing'),
        (GOOD.replace('data = "pictures"', ""), 'the key "adapters.0.data" is missing'),
        (GOOD.replace("me/corgi", "me/ink"), 'adapters.1.name is "me/ink", as that of another adapter'),
        ("base = ", "Invalid value"),
    ],
)
def test_single_problems(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_toml(write(tmp_path, text))
    assert any(problem in found for found in caught.value.problems)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        TrainConfig.from_toml(tmp_path / "missing.toml")


def test_the_document_holds_what_decides_the_weights_and_no_path(tmp_path: Path) -> None:
    ink = TrainConfig.from_toml(write(tmp_path, GOOD)).adapters[0]
    text = config_document(ink, base_identity="sha256:ab").decode()
    assert '"rank": 8' in text
    assert '"base": "sha256:ab"' in text
    assert str(tmp_path) not in text
    elsewhere = TrainConfig.from_toml(write(tmp_path, GOOD.replace('"pictures"', '"other"'))).adapters[0]
    assert config_document(elsewhere, base_identity="sha256:ab").decode() == text
