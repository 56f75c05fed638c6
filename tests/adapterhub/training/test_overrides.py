"""Values from the command line stand in place of a config's own."""

import tomllib
from pathlib import Path

import pytest

from adapterhub.errors import ConfigError
from adapterhub.training.config import TrainConfig
from adapterhub.training.toml_lines import key_lines

TEXT = """base = "mini"
[[adapters]]
name = "me/ink"
data = "ink"
[[adapters]]
name = "me/ink.v2"
data = [{ path = "ink", repeats = 2 }, { path = "more" }]
"""


def read(*overrides: str) -> TrainConfig:
    return TrainConfig.from_table(
        tomllib.loads(TEXT),
        source="x.toml",
        folder=Path("/data"),
        places=key_lines(TEXT),
        overrides=overrides,
    )


def test_values_are_set_for_all_for_one_by_name_and_for_one_by_number() -> None:
    config = read(
        "base=other",
        "group.max_adapters=2",
        "defaults.network.rank=8",
        "adapters.1.network.rank=4",
        "adapters.Me/Ink.v2.steps = 10",
        'adapters.me/ink.validation.prompts=["a", "b = c"]',
        'adapters.me/ink.network.rank_pattern."*.attn2.*"=2',
        "adapters.me/ink.title=A drawing, in ink",
        "adapters.me/ink.data=other",
        "adapters.0.data.0.repeats=3",
        "adapters.me/ink.v2.data.1.prior=true",
    )
    ink, second = config.adapters
    assert (config.base.model, config.group.max_adapters) == ("other", 2)
    assert (ink.network.rank, second.network.rank, second.steps) == (8, 4, 10)
    assert ink.validation.prompts == ("a", "b = c")
    assert ink.network.rank_pattern == {"*.attn2.*": 2}
    assert ink.title == "A drawing, in ink"
    assert [(item.path, item.repeats) for item in ink.data] == [(Path("/data/other"), 3)]
    assert [(item.repeats, item.prior) for item in second.data] == [(2, False), (1, True)]


def test_what_is_wrong_names_the_option_and_the_rest_its_line() -> None:
    options = {
        "defaults.network.rank=0": "network.rank must be at least 1, not 0",
        "adapters.1.steps=many": 'steps must be a whole number, not "many"',
        "adapters.0.data.0.flip=1": "data.flip must be true or false, not 1",
        "group.executer=auto": 'unknown key "group.executer"; did you mean "group.executor"?',
    }
    with pytest.raises(ConfigError) as caught:
        read(*options, "adapters.1.data.0.path=x", "adapters.1.name=me/ink")
    assert set(caught.value.problems) == {
        *(f"--set {option}: {problem}" for option, problem in options.items()),
        '--set adapters.1.name=me/ink: name is "me/ink", as that of another adapter',
    }


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("steps", "it must be KEY=VALUE"),
        ("a b=1", '"a b" is no key'),
        ("=1", '"" is no key'),
        ("a=1\nb", None),
        ("adapters.me/corgi.steps=1", "it names no adapter; there are: 0, 1, me/ink, me/ink.v2"),
        ("adapters.2.steps=1", "it names no adapter"),
        ("adapters.me/ink=1", "it must say what to set of the adapter"),
        ("adapters=1", "it names no adapter"),
        ("adapters.0.name.x=1", "adapters.0.name is no table"),
        ("adapters.0.data.1.path=x", "adapters.0.data is a list of 1, counted from 0"),
        ("adapters.0.data.x=1", "adapters.0.data is a list of 1, counted from 0"),
    ],
)
def test_an_option_that_cannot_be_set_says_why(option: str, reason: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        read(option)
    assert any(problem.startswith(f"--set {option}: {reason or ''}") for problem in caught.value.problems)
