"""Starter configs hold what can be guessed, and are valid as they are written."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub.errors import BaseNotFoundError, ConfigError, DatasetError, OutputError
from adapterhub.training.config import TrainConfig
from adapterhub.training.dataset import read_sources
from adapterhub.training.starter import guess_trigger, write_starter

Pictures = Callable[..., Path]


def test_a_starter_is_a_whole_config_for_its_pictures(pictures: Pictures, tmp_path: Path) -> None:
    folder, path = pictures(4, name="Ink Wash"), tmp_path / "ink.toml"
    made = write_starter(folder, path)
    (adapter,) = TrainConfig.from_toml(path).adapters
    assert made.adapter == adapter
    assert (made.pictures, made.without_caption, made.is_guessed) == (4, 0, True)
    assert (adapter.name, adapter.trigger_words, adapter.preset) == ("me/ink-wash", ("inkwash",), "style")
    assert (adapter.steps, adapter.batch_size, adapter.data[0].template) == (200, 4, "{caption}")
    assert tomllib.loads(path.read_text())["adapters"][0]["data"][0]["path"] == "Ink Wash"
    assert len(read_sources(adapter.sources).examples) == 4


@pytest.mark.parametrize("kind", ["style", "subject", "concept"])
def test_what_stands_in_comments_holds_without_them(pictures: Pictures, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ink.toml"
    write_starter(pictures(1), path, kind=kind)
    text = path.read_text()
    with_comments = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert with_comments.count("\n# ") < text.count("\n# ") - 4
    before = TrainConfig.from_toml(path)
    path.write_text(with_comments)
    assert TrainConfig.from_toml(path) == before


def test_pictures_without_captions_get_the_trigger_word_from_a_template(
    pictures: Pictures, tmp_path: Path
) -> None:
    folder = pictures(3, trigger="photo of")
    (folder / "0.txt").unlink()
    made = write_starter(folder, tmp_path / "x.toml", name="you/zork", trigger_words=["zork"], kind="subject")
    data = made.adapter.data[0]
    assert (made.adapter.name, made.adapter.preset, made.adapter.batch_size) == ("you/zork", "character", 3)
    assert (made.without_caption, made.is_guessed) == (1, False)
    (source,) = made.adapter.sources
    captions = [item.caption for item in read_sources([source]).examples]
    assert [source.rules.plain(caption) for caption in captions] == [
        "zork",
        "zork, photo of blob 1",
        "zork, photo of blob 2",
    ]
    assert data.missing_captions == "empty"


def test_steps_grow_with_the_pictures_within_limits(pictures: Pictures, tmp_path: Path) -> None:
    folder = pictures(1)
    for number in range(1, 20):
        (folder / f"{number}.png").write_bytes((folder / "0.png").read_bytes())
        (folder / f"{number}.txt").write_text("inkwash")
    # 20 pictures x 100 showings / 4 pictures a step
    assert write_starter(folder, tmp_path / "x.toml").adapter.steps == 500


@pytest.mark.parametrize(
    ("captions", "word"),
    [
        (["a photo of zork, snow", "zork on a sofa"], "zork"),
        (["blue heart, stencil", "rocket, Stencil", ""], "stencil"),
        (["a picture of the sea", "a picture of the moon"], ""),
        (["zork"], "zork"),
        (["", ""], ""),
    ],
)
def test_the_trigger_is_the_first_word_that_all_captions_share(captions: list[str], word: str) -> None:
    assert guess_trigger(captions) == word


def test_nothing_is_written_over_a_file_or_for_what_cannot_be_trained(
    pictures: Pictures, tmp_path: Path
) -> None:
    folder, path = pictures(1), tmp_path / "x.toml"
    with pytest.raises(ConfigError, match="names no version"):
        write_starter(folder, path, name="ink")
    with pytest.raises(BaseNotFoundError):
        write_starter(folder, path, base="no-such-base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no pictures"):
        write_starter(tmp_path / "empty", path)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(OutputError, match="it is there already"):
        write_starter(folder, path)
    assert path.read_text() == "mine"


def test_odd_words_and_names_stay_text(pictures: Pictures, tmp_path: Path) -> None:
    folder = pictures(2, name='odd "name" # \\ é\n[x]', trigger='q"uote\x7f')
    path = tmp_path / "x.toml"
    made = write_starter(folder, path, trigger_words=['q"uote\x7f', "日本"])
    assert TrainConfig.from_toml(path).adapters == (made.adapter,)
    assert made.adapter.trigger_words == ('q"uote\x7f', "日本")
    assert made.adapter.data[0].path == folder
