"""`generate` and `replay` as a user runs them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_cli.main import main
from adapterhub_registry.record import read_record

Capture = pytest.CaptureFixture[str]


def test_a_picture_is_made_and_replayed_to_the_same_bytes(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "new" / "heart.png"
    words = ["generate", "-p", "a red heart", "-n", "blue", "--seed", "7", "--steps", "3", "--out", str(out)]
    assert main(words) == 0
    assert out.name in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.size == (64, 64)
    record = read_record(out)
    assert (record.prompt, record.negative_prompt, record.seed, record.steps) == ("a red heart", "blue", 7, 3)

    assert main(["replay", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    again = Path(json.loads(captured.out)["file"])
    assert again == tmp_path / "new" / "heart.replay.png"
    assert again.read_bytes() == out.read_bytes()
    assert captured.err == "every pixel is the same\n"


def test_several_pictures_are_numbered(capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    assert (
        main(
            [
                *[
                    "generate",
                    "-p",
                    "star",
                    "-p",
                    "fish",
                    "--count",
                    "2",
                    "--seed",
                    "1",
                    "--steps",
                    "1",
                    "-q",
                    "--out",
                ],
                str(out),
            ]
        )
        == 0
    )
    expected = [str(tmp_path / f"x-{i}.png") for i in (1, 2, 3, 4)]
    assert capsys.readouterr().out.splitlines() == expected
    assert [read_record(Path(path)).prompt for path in expected] == ["star", "star", "fish", "fish"]


def test_a_name_that_was_not_chosen_never_hits_an_existing_file(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-star-1.png").write_text("precious")
    assert main([*["generate", "--seed", "1", "--steps", "1", "-q", "-p"], "A star!"]) == 0
    assert capsys.readouterr().out == "a-star-2.png\n"
    assert (tmp_path / "a-star-1.png").read_text() == "precious"


def test_bases_are_listed_as_a_json_array_and_a_table(capsys: Capture) -> None:
    assert main(["bases", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["architecture"]) == ("mini", "mini")
    assert main(["bases", "list"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "architecture", "size", "path"]
    assert line.startswith("mini  mini")


def test_a_base_is_shown_with_its_identity(capsys: Capture) -> None:
    assert main(["bases", "show", "mini"]) == 0
    text = capsys.readouterr().out
    assert "identity" in text
    assert "sha256:" in text
    assert "top-5" in text


def test_a_picture_is_made_from_another_and_replayed(capsys: Capture, tmp_path: Path) -> None:
    image, mask, out = tmp_path / "sky.png", tmp_path / "mask.png", tmp_path / "star.png"
    Image.new("RGB", (72, 64), "skyblue").save(image)
    Image.new("L", (72, 64), "white").save(mask)
    given = ["--image", str(image), "--mask", str(mask)]
    drawn = ["generate", "-p", "a star", "--seed", "7", "--steps", "4", "--out", str(out), "-q"]
    assert main([*drawn, *given, "--strength", "0.75"]) == 0
    assert capsys.readouterr().err == ""
    record = read_record(out)
    assert (record.width, record.start["strength"], record.start["mask"]["width"]) == (72, 0.75, 72)
    assert main(["replay", str(out)]) == 1
    assert "name the file with --image" in capsys.readouterr().err
    assert main(["replay", str(out), *given]) == 0
    assert (tmp_path / "star.replay.png").read_bytes() == out.read_bytes()


def test_a_picture_is_refined(tmp_path: Path) -> None:
    out = tmp_path / "star.png"
    words = ["generate", "-p", "a star", "--seed", "7", "--steps", "4", "-q", "--out", str(out)]
    assert main([*words, "--refiner", "mini", "--refine-from", "0.5", "--refiner-swap"]) == 0
    assert (read_record(out).refiner["name"], read_record(out).refiner["refine_from"]) == ("mini", 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strength", "0.5"], "go with --image"),
        (["--mask", "mask.png"], "go with --image"),
        (["--control", "edges.png"], "go together"),
        (["--controlnet", "canny"], "go together"),
        (["--control-scale", "0.5"], "goes with --control"),
        (["--refine-from", "0.8"], "go with --refiner"),
        (["--refiner-swap"], "go with --refiner"),
    ],
)
def test_options_that_need_others_are_refused_without_them(
    capsys: Capture, words: list[str], said: str
) -> None:
    assert main(["generate", "-p", "a star", *words]) == 2
    assert said in capsys.readouterr().err
