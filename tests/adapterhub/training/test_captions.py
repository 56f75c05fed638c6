"""Captions: which encodings are read, and what becomes of a caption at a showing."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.errors import CaptionError, ConfigError
from adapterhub.training.batches import Showing
from adapterhub.training.captions import CaptionRules, read_text

TEXT = "ein Füchslein, 狐"
TAGS = st.lists(st.sampled_from(["fox", "snow", "ink wash", "red", "night"]), max_size=6)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16")],
)
def test_unicode_that_says_what_it_is_is_read(tmp_path: Path, encoding: str, expected: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.txt") == (TEXT, expected)
    (tmp_path / "a.txt").write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(tmp_path / "a.txt") == (TEXT, "utf-16")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("Füchslein".encode("latin-1"), "is no UTF-8 (at byte 1); save it as UTF-8"),
        ("fox".encode("utf-16-le"), "holds zero bytes, as UTF-16 without a byte order mark does"),
        (TEXT.encode("utf-32"), "is UTF-32"),
        (b"\xff\xfef", "is no UTF-16 (at byte"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CaptionError) as caught:
        read_text(tmp_path / "a.txt")
    assert caught.value.path == tmp_path / "a.txt"
    assert reason in caught.value.reason


def test_a_missing_file_is_a_caption_error(tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match="cannot be opened"):
        read_text(tmp_path / "none.txt")


@settings(max_examples=60, deadline=None)
@given(TAGS, st.integers(0, 4), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_kept_tags_stay_in_front_and_nothing_is_made_up(
    tags: list[str], keep: int, dropout: float, shuffle: bool, epoch: int
) -> None:
    rules = CaptionRules(
        template="{trigger}: {caption}", trigger="ink", shuffle=shuffle, keep_tokens=keep, tag_dropout=dropout
    )
    text = rules.vary(", ".join(tags), Showing(epoch, 0, 0), seed=1, name="me/ink")
    assert text is not None
    assert text.startswith("ink:")
    found = [tag for tag in text.removeprefix("ink:").strip().split(", ") if tag]
    assert found[:keep] == tags[:keep][: len(found)]
    assert all(found.count(tag) <= tags.count(tag) for tag in found)
    if not dropout:
        assert sorted(found) == sorted(tags)
    assert text == rules.vary(", ".join(tags), Showing(epoch, 0, 0), seed=1, name="me/ink")


def test_without_rules_a_caption_stays_as_it_is() -> None:
    odd = "a fox,in  the {snow} , "
    assert CaptionRules().vary(odd, Showing(0, 0, 0), seed=1, name="me/ink") == odd.strip()


def test_dropouts_are_as_frequent_as_they_should_be() -> None:
    showings = [Showing(epoch, sample, 0) for epoch in range(40) for sample in range(25)]
    captions = CaptionRules(caption_dropout=0.2)
    gone = [captions.vary("fox", showing, seed=1, name="me/ink") is None for showing in showings]
    assert 150 <= sum(gone) <= 250  # 4 deviations
    tags = CaptionRules(tag_dropout=0.2)
    texts = [tags.vary("fox, snow", showing, seed=1, name="me/ink") for showing in showings]
    assert 1500 <= sum(text.count("fox") + text.count("snow") for text in texts if text) <= 1700


def test_one_rule_does_not_move_the_choices_of_another() -> None:
    text = "a, b, c, d, e, f, g, h"
    some, more = CaptionRules(shuffle=True), CaptionRules(shuffle=True, caption_dropout=0.5)
    pairs = [
        [rules.vary(text, Showing(epoch, 0, 0), seed=1, name="me/ink") for rules in (some, more)]
        for epoch in range(20)
    ]
    assert all(second in (first, None) for first, second in pairs)
    assert len({first for first, _ in pairs}) > 15


@pytest.mark.parametrize(
    "template", ["{caption.x}", "{other}", "{caption!r}", "{caption:>9}", "{", "{0}", "{}"]
)
def test_templates_have_two_fields_and_no_others(template: str) -> None:
    with pytest.raises(ConfigError, match="may have the fields"):
        CaptionRules(template=template)
    assert CaptionRules(template="{{x}} {caption}").plain("fox") == "{x} fox"


def test_every_wrong_rule_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        CaptionRules(template="{trigger}", keep_tokens=-1, tag_dropout=2, caption_dropout=float("nan"))
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "template",
        "keep_tokens",
        "tag_dropout",
        "caption_dropout",
    ]
