"""Configs are checked as a whole, and every problem is told with its line."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from adapterhub.errors import ConfigError, InputError
from adapterhub.training.captions import CaptionRules
from adapterhub.training.config import (
    AdapterConfig,
    BaseConfig,
    DataConfig,
    GroupConfig,
    TrainConfig,
    ValidationConfig,
    config_document,
)
from adapterhub.training.dataset import Source
from adapterhub.training.layers import NetworkConfig
from adapterhub.training.objective import Objective
from adapterhub.training.optimizers import OptimizerConfig

PAGE = Path(__file__).parents[3] / "docs" / "training-config.md"
GOOD = """
base = { model = "mini", threads = 1 }

[defaults]
trigger_words = ["inkwash"]
network.rank = 8

[[adapters]]
name = "me/ink"
data = "pictures"
optimizer.learning_rate = 1

[[adapters]]
name = "me/corgi"
network.rank = 4
[[adapters.data]]
path = "/data/corgi"
[[adapters.data]]
path = "dogs"
prior = true
"""
BAD = """\
bse = "mini"
device = "cpu"
base.threads = -1

[defaults]
rank = 3
network.dropout = 2
[defaults.data]
caption_dropout = 3

[[adapters]]
name = "me/ink"
data = "x"
steps = "a"
optimizer.betas = [1]
kind = "drawing"
objective.zero_terminal_snr = true

[[adapters]]
name = "Me/Ink"
data = [
    { path = "a", template = "{trigger}", ground = "blorp" },
    {}, 4]
network.rank_pattern = { "mid_block" = -1 }
network.rnak = 3

[[adapters]]
name = "corgi"
data = 3
network = 3
tags = "x"
[adapters.validation]
prompts = ["a",
    1]
loss_every = 5
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "styles.toml"
    path.write_text(text)
    return path


def read(text: str, **options: Any) -> TrainConfig:
    return TrainConfig.from_table(tomllib.loads(text), source="it", folder=Path("/data"), **options)


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_toml(path)
    return [problem.removeprefix(f"{path.parent}/") for problem in caught.value.problems]


def test_defaults_hold_for_all_adapters_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = TrainConfig.from_toml(write(tmp_path, GOOD))
    ink, corgi = config.adapters
    assert config.base == BaseConfig("mini", threads=1)
    assert (ink.network.rank, ink.optimizer.learning_rate, ink.trigger_words) == (8, 1.0, ("inkwash",))
    assert (corgi.network.rank, corgi.trigger_words) == (4, ("inkwash",))
    assert ink.data == (DataConfig(tmp_path / "pictures"),)
    assert corgi.data == (DataConfig(Path("/data/corgi")), DataConfig(tmp_path / "dogs", prior=True))


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path, BAD)) == [
        'styles.toml:1: unknown key "bse"; did you mean "base"?',
        'styles.toml:2: unknown key "device"; did you mean "base.device"?',
        'styles.toml:3: the key "base.model" is missing',
        "styles.toml:3: base.threads must not be negative, not -1",
        'styles.toml:6: unknown key "rank"; did you mean "network.rank"?',
        "styles.toml:7: network.dropout must be from 0 to below 1, not 2.0",
        "styles.toml:9: data.caption_dropout must be from 0 to 1, not 3.0",
        'styles.toml:14: steps must be a whole number, not "a"',
        "styles.toml:15: optimizer.betas must be two numbers from 0 to below 1, not [1.0]",
        'styles.toml:16: kind must be one of style, subject, concept, slider, other, not "drawing"',
        "styles.toml:17: objective: the weights of min_snr divide an epsilon loss by the SNR, which "
        'zero_terminal_snr makes 0: train a base of v_prediction, or set weighting to "none"',
        'styles.toml:20: name is "me/ink", as that of another adapter',
        "styles.toml:22: data: the ground is blorp, but it must be a colour's name, or #rrggbb",
        'styles.toml:23: the key "data.path" is missing',
        "styles.toml:23: data must be a table, not 4",
        'styles.toml:24: network.rank_pattern "mid_block" must not be negative, not -1',
        'styles.toml:25: unknown key "network.rnak"; did you mean "network.rank"?',
        'styles.toml:28: name: "corgi" names no version: it is not [remote:]namespace/name[@selector]. '
        "Example: me/ink@3, acme/corgi@prod",
        "styles.toml:29: data must be a list of tables, not 3",
        "styles.toml:30: network must be a table, not 3",
        'styles.toml:31: tags must be a list of text, not "x"',
        "styles.toml:34: validation.prompts must be text, not 1",
        "styles.toml:35: validation.loss_every measures held-out pictures, but held_out is 0",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'styles.toml: the key "base" is missing'),
        ('base = "mini"', "styles.toml: there must be at least one [[adapters]] table"),
        ('base = "mini"\nadapters = 3', "styles.toml:2: adapters must be a list of tables, not 3"),
        (GOOD.replace('data = "pictures"', ""), 'styles.toml:8: the key "data" is missing'),
        (GOOD.replace("prior = true", 'template = "{x}"'), "styles.toml:20: data.template may have the"),
        (
            GOOD.replace("prior = true", 'template = "{trigger}"').replace('["inkwash"]', "[]"),
            "styles.toml:20: data.template names {trigger}, but there is no trigger word",
        ),
        (GOOD.replace("[defaults]", '[defaults]\npreset = "stile"'), "styles.toml:5: preset must be one of"),
        (GOOD.replace("[defaults]", "[[defaults]]"), "styles.toml:4: defaults must be a table"),
        (
            GOOD.replace("[defaults]", "[defaults]\nobjective.zero_terminal_snr = true"),
            "styles.toml:5: objective: the weights of min_snr divide",
        ),
        (GOOD + "[[defaults.data]]", "styles.toml:21: defaults.data must be one table"),
        (GOOD.replace("me/ink", "me/ink@3"), 'styles.toml:9: name must be namespace/name, not "me/ink@3"'),
        (GOOD.replace("rank = 4", "rank = 4.0"), "styles.toml:15: network.rank must be a whole number"),
        (GOOD.replace("prior = true", "flip = 1"), "styles.toml:20: data.flip must be true or false, not 1"),
        (GOOD.replace("rank = 4", "= 4"), "styles.toml:15: "),
        (GOOD + "x = [", "styles.toml: Invalid value (at end of document)"),
    ],
)
def test_single_problems(tmp_path: Path, text: str, problem: str) -> None:
    found = problems_of(write(tmp_path, text))
    assert [item for item in found if item.startswith(problem)], found


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        TrainConfig.from_toml(tmp_path / "missing.toml")
    path = tmp_path / "styles.toml"
    path.write_bytes(b'base = "mini"\n# \xff')
    assert problems_of(path) == ["styles.toml:2: this is no UTF-8"]
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert len(TrainConfig.from_toml(path).adapters) == 2


def test_without_lines_problems_name_their_adapter_by_its_number() -> None:
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace("rank = 4", "rank = 0").replace("prior", "pryor"))
    assert caught.value.source == "it"
    assert caught.value.problems == [
        'it: unknown key "adapters.1.data.1.pryor"; did you mean "adapters.1.data.1.prior"?',
        "it: adapters.1.network.rank must be at least 1, not 0",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank", "network.rank"),
        ("learning_rate", "optimizer.learning_rate"),
        ("min_snr_gamma", "objective.gamma"),
        ("validation_prompts", "validation.prompts"),
        ("batchsize", "batch_size"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(tmp_path: Path, old: str, new: str) -> None:
    text = GOOD.replace('data = "pictures"', f'data = "pictures"\n{old} = 1')
    assert problems_of(write(tmp_path, text)) == [
        f'styles.toml:11: unknown key "{old}"; did you mean "{new}"?'
    ]


def test_short_forms_mean_the_same_as_long_ones() -> None:
    short = 'base = "mini"\n[[adapters]]\nname = "me/ink"\ndata = "ink"'
    table = '[base]\nmodel = "mini"\n[[adapters]]\nname = "me/ink"\n[adapters.data]\npath = "ink"'
    shared = 'base.model = "mini"\ndefaults.data = "ink"\n[[adapters]]\nname = "me/ink"'
    expected = TrainConfig(BaseConfig("mini"), (AdapterConfig("me/ink", (DataConfig(Path("/data/ink")),)),))
    assert read(short) == read(table) == read(shared) == expected


def test_presets_stand_below_defaults_and_these_below_what_an_adapter_says() -> None:
    config = read("""
        base = "mini"
        [defaults]
        preset = "style"
        network.conv_rank = 4
        data.repeats = 3
        [[adapters]]
        name = "me/style"
        data = [{ path = "a" }, { path = "b", flip = false, repeats = 1 }]
        [[adapters]]
        name = "me/own"
        data = "a"
        network.rank = 4
        kind = "concept"
        [[adapters]]
        name = "me/prodigy"
        preset = "prodigy"
        data = "a"
    """)
    style, own, prodigy = config.adapters
    assert (style.kind, style.objective.noise_offset) == ("style", 0.0357)
    assert (style.network.rank, style.network.conv_rank) == (32, 4)
    assert [(item.flip, item.repeats) for item in style.data] == [(True, 3), (False, 1)]
    assert (own.network.rank, own.network.conv_rank, own.kind) == (4, 4, "concept")
    assert (prodigy.kind, prodigy.network.rank, prodigy.network.conv_rank) == ("other", 16, 4)
    assert prodigy.optimizer == OptimizerConfig(
        "prodigy", 1.0, betas=(0.9, 0.99), schedule="constant", warmup=0
    )


def test_the_sources_hold_what_the_folders_say() -> None:
    text = """base = "mini"
        [[adapters]]
        name = "me/ink"
        trigger_words = ["zork", "blorp"]
        [adapters.data]
        path = "a"
        repeats = 2
        flip = true
        masks = "m"
        ground = "black"
        missing_captions = "filename"
        template = "{trigger}: {caption}"
        shuffle = true
        keep_tokens = 1
        tag_dropout = 0.1
    """
    rules = CaptionRules("{trigger}: {caption}", "zork", True, 1, 0.1, 0.05)
    expected = Source(Path("/data/a"), 2, True, False, Path("/data/m"), False, "black", "filename", rules)
    assert read(text).adapters[0].sources == (expected,)


INK = AdapterConfig("me/ink", (DataConfig(Path("/data/ink")),), trigger_words=("zork",))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Me/Ink"},
        {"data": (DataConfig(Path("elsewhere")),)},
        {
            "title": "Ink",
            "description": "x",
            "tags": ("a",),
            "kind": "style",
            "licence": "MIT",
            "preset": "style",
        },
        {"save_every": 5, "validation": ValidationConfig(("a",), seed=3, every=2)},
        {"optimizer": OptimizerConfig(learning_rate=1e-4, loraplus_ratio=1)},
    ],
)
def test_what_decides_no_weight_is_not_in_the_document(changes: dict[str, Any]) -> None:
    before = config_document(INK, base_identity="sha256:ab")
    assert config_document(replace(INK, **changes), base_identity="sha256:ab") == before
    assert b"/data" not in before


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "me/other"},
        {"data": (DataConfig(Path("/data/ink"), shuffle=True),)},
        {"data": INK.data * 2},
        {"network": NetworkConfig(rank_pattern={"mid_block": 2})},
        {"objective": Objective(gamma=1.0)},
        {"validation": ValidationConfig(held_out=0.1)},
        {"trigger_words": ("blorp",)},
        {"accumulation": 2},
    ],
)
def test_what_decides_the_weights_is_in_the_document(changes: dict[str, Any]) -> None:
    before = config_document(INK, base_identity="sha256:ab")
    assert config_document(replace(INK, **changes), base_identity="sha256:ab") != before
    assert config_document(INK, base_identity="sha256:cd") != before


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: BaseConfig("mini", dtype="float8", gradient_checkpointing=-1), "dtype must be one of"),
        (lambda: GroupConfig(executor="fast", keep_checkpoints=0), "executor must be one of"),
        (lambda: ValidationConfig(every=-1, held_out=1.0), "every must not be negative, not -1"),
        (lambda: DataConfig(Path("a"), repeats=0, tag_dropout=2), "tag_dropout must be from 0 to 1, not 2"),
        (lambda: replace(INK, max_chunks=0, resolution=100), "max_chunks must be at least 1, not 0"),
        (lambda: replace(INK, data=(), seed=-1), "seed must not be negative, not -1"),
        (lambda: TrainConfig(BaseConfig("mini"), (INK, INK)), 'adapters.1.name is "me/ink"'),
    ],
)
def test_objects_made_in_python_are_checked_too(make: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.problems[0].startswith(problem)
    assert caught.value.code == "config-invalid"


def keys_of(cls: type, above: str = "") -> Iterator[str]:
    """Yield the dotted names of all values that a config may hold."""
    hints = get_type_hints(cls)
    for item in fields(cls):
        inner = [part for part in (hints[item.name], *get_args(hints[item.name])) if is_dataclass(part)]
        if inner:
            yield from keys_of(inner[0], f"{above}{item.name}.")
        else:
            yield f"{above}{item.name}"


def keys_in(table: Any, above: str = "") -> Iterator[str]:
    for name, value in table.items():
        inner = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(inner, dict) and not name.endswith("_pattern"):
            yield from keys_in(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def test_the_page_shows_every_key_at_its_default() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = (block for block in blocks if "[adapters.objective]" in block)
    shown = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert sorted(keys_in(tomllib.loads(shown))) == sorted(keys_of(TrainConfig))
    expected = AdapterConfig("me/ink", (DataConfig(Path("/data/pictures/ink")),))
    assert read(text) == TrainConfig(BaseConfig("mini"), (expected,))


def test_a_rate_of_another_optimizer_is_no_factor_for_prodigy() -> None:
    with pytest.raises(ConfigError, match=r"say 1\.0, not 0\.0001"):
        OptimizerConfig(name="prodigy")
    assert OptimizerConfig(name="prodigy", learning_rate=1.0).rate("unet", "down") == 1.0
