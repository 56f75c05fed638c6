"""Configs are checked as a whole."""

from pathlib import Path

import pytest

from adapterhub.errors import ConfigError, InputError
from adapterhub.training.config import TrainConfig, config_document

GOOD = """
base = "mini"
threads = 1

[defaults]
rank = 8
trigger_words = ["inkwash"]

[[adapters]]
name = "me/ink"
data = "pictures"
learning_rate = 1

[[adapters]]
name = "me/corgi"
data = "/data/corgi"
rank = 4
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "styles.toml"
    path.write_text(text)
    return path


def test_defaults_hold_for_all_adapters_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = TrainConfig.from_toml(write(tmp_path, GOOD))
    ink, corgi = config.adapters
    assert (config.base, config.threads) == ("mini", 1)
    assert (ink.rank, ink.learning_rate, ink.trigger_words) == (8, 1.0, ("inkwash",))
    assert (corgi.rank, corgi.trigger_words) == (4, ("inkwash",))
    assert ink.data == tmp_path / "pictures"
    assert corgi.data == Path("/data/corgi")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("threads", "treads").replace(
        "rank = 4", 'rank = 0\nwarmup = 2\nkind = "drawing"\nrnak = 3'
    )
    text = text.replace('"me/corgi"', '"corgi"').replace("learning_rate = 1", 'learning_rate = "fast"')
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_toml(write(tmp_path, text))
    problems = "\n".join(caught.value.problems)
    for part in (
        'the file: unknown key "treads"',
        "adapters[1]: learning_rate must be a number, not 'fast'",
        'adapters[2]: unknown key "rnak"',
        "adapters[2]: rank must be at least 1, not 0",
        "adapters[2]: warmup must be from 0 to 1, not 2.0",
        'adapters[2]: kind must be one of style, subject, concept, slider, other, not "drawing"',
        'adapters[2]: "corgi" names no version',
    ):
        assert part in problems
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('base = "mini"', "at least one"),
        (GOOD.replace('base = "mini"', ""), 'the key "base" is missing'),
        (GOOD.replace('data = "pictures"', ""), 'adapters[1]: the key "data" is missing'),
        (GOOD.replace("me/corgi", "me/ink"), 'two adapters are called "me/ink"'),
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
