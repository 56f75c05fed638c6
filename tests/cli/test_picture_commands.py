"""`generate` in three formats, `diff`, `grid` and `slider`, as a user runs them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adapterhub_cli.main import main
from adapterhub_registry.record import read_picture, read_record
from adapterhub_registry.store import Registry

Capture = pytest.CaptureFixture[str]
MODULE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def ink(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with `me/ink`; the working directory is a temporary one."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        f"{MODULE}.lora_down.weight": torch.randn(4, 160, generator=generator),
        f"{MODULE}.lora_up.weight": torch.randn(96, 4, generator=generator),
    }
    monkeypatch.chdir(tmp_path)
    save_file(tensors, "ink.safetensors")
    registry = Registry(home)
    registry.add(Path("ink.safetensors"), name="me/ink", base="mini", trigger_words=["inkwash"])
    return registry


def test_the_suffix_says_the_format_and_json_holds_the_whole_record(capsys: Capture, ink: Registry) -> None:
    del ink
    words = ["generate", "-p", "a star", "--seed", "1", "--steps", "1", "--use", "me/ink", "--json", "--out"]
    assert main([*words, "star.webp"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    found = read_picture(Path("star.webp"))
    assert (row["file"], row["record"]) == ("star.webp", json.loads(found.record.to_json()))
    assert (found.encoding.format, found.encoding.quality) == ("WEBP", None)
    assert main([*words, "star.JPG", "--quality", "60"]) == 0
    with Image.open("star.JPG") as picture:
        assert picture.format == "JPEG"
    assert read_picture(Path("star.JPG")).encoding.quality == 60
    capsys.readouterr()
    assert main([*words, "plain"]) == 0
    assert capsys.readouterr().err == "the name has no suffix; the picture will be plain.png\n"
    assert read_record(Path("plain.png")) == found.record

    assert main(["diff", "plain.png", "star.webp"]) == 0
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines()] == [
        ["setting", "A", "B"],
        ["encoding.format", "PNG", "WEBP"],
        *[["pixels:", "every", "one", "is", "the", "same"]],
    ]
    assert main(["diff", "-q", "plain.png", "plain.png"]) == 0
    assert main(["diff", "plain.png", "plain.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "pixels: every one is the same\n"
    assert captured.err == "every setting is the same\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--out", "star.gif"], "must end in one of .png, .jpg, .jpeg, .webp"),
        (["generate", "--out", "star.png", "--quality", "9"], "--quality goes with"),
        (["generate", "--quality", "9"], "--quality goes with"),
        (["generate", "--out", "star.jpg", "--quality", "101"], "101 is not in the range"),
        (["grid", "--out", "star.jpg"], "sheets are PNG files"),
        (["grid", "--out", "x.png", "--weight", "0.5"], "name a composition too"),
        (["grid", "--out", "x.png", "--use", "me/ink", "--every", "2"], "--every goes with"),
        (["slider", "me/ink", "--frames", "1"], "1 is not in the range"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_drawn(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "-p", "a star"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_said_with_both_values(capsys: Capture, ink: Registry) -> None:
    del ink
    words = ["generate", "-p", "a star", "--steps", "1", "-q"]
    assert main([*words, "--seed", "1", "--out", "a.png"]) == 0
    assert main([*words, "--seed", "2", "--use", "me/ink:0.5", "--out", "b.png"]) == 0
    capsys.readouterr()
    assert main(["diff", "a.png", "b.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "setting",
        "composition.me/ink",
        "plane",
        "plane_reason",
        "seed",
        "pixels:",
    ]
    assert lines[1].split(maxsplit=2)[1:] == ["-", 'version 1, strengths {"unet": 0.5}']
    assert lines[4].split() == ["seed", "1", "2"]
    assert "PSNR" in lines[5]
    assert main(["diff", "a.png", "b.png", "-q"]) == 0
    assert capsys.readouterr().out.split() == [
        "composition.me/ink",
        "plane",
        "plane_reason",
        "seed",
        "pixels",
    ]
    assert main(["diff", "a.png", "b.png", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["settings"]["seed"] == [1, 2]
    assert table["pixels"]["equal"] is False
    assert table["pixels"]["sizes"] == [[64, 64], [64, 64]]
    Image.new("RGB", (8, 8)).save("plain.png")
    assert main(["diff", "a.png", "plain.png"]) == 1
    assert "plain.png carries no AdapterHub record" in capsys.readouterr().err


def test_a_grid_is_drawn_once(capsys: Capture, ink: Registry) -> None:
    del ink
    words = ["grid", "-p", "a star", "-p", "a cat", "--use", "base", "--use", "me/ink:0.5", "--steps", "1"]
    words += ["--weight", "0.5", "--weight", "1", "--out", "new/sheet", "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    cells = json.loads(captured.out)
    assert "the picture will be new/sheet.png" in captured.err
    assert "6 pictures drawn, 0 were there already" in captured.err
    assert [(cell["row"], cell["column"], cell["composition"]) for cell in cells] == [
        (row, column, name)
        for row in range(2)
        for column, name in enumerate(["base", "me/ink:0.25", "me/ink:0.5"])
    ]
    assert all(cell["drawn"] for cell in cells)
    assert [read_record(Path(cell["file"])).prompt for cell in cells] == ["a star"] * 3 + ["a cat"] * 3
    assert Path(cells[0]["file"]).parent == Path("new/sheet.cells")
    with Image.open("new/sheet.png") as sheet:
        assert sheet.width == 8 + 150 + 3 * 136 + 8
    first = Path("new/sheet.png").read_bytes()
    assert main(words) == 0
    captured = capsys.readouterr()
    assert not any(cell["drawn"] for cell in json.loads(captured.out))
    assert "0 pictures drawn, 6 were there already" in captured.err
    assert Path("new/sheet.png").read_bytes() == first


def test_a_slider_goes_from_one_weight_to_the_other(capsys: Capture, ink: Registry) -> None:
    words = ["slider", "me/ink:0.5", "--from", "-1", "--to", "1", "--frames", "4", "--steps", "1", "--json"]
    assert main(words) == 0
    cells = json.loads(capsys.readouterr().out)
    weights = [-0.5, -0.1665, 0.1665, 0.5]  # a third in three digits, times 0.5
    assert [cell["composition"] for cell in cells] == [f"me/ink:{weight:g}" for weight in weights]
    records = [read_record(Path(cell["file"])) for cell in cells]
    assert [record.composition[0]["strengths"]["unet"] for record in records] == weights
    assert {(record.prompt, record.seed) for record in records} == {("inkwash", 0)}
    assert Path("ink-slider.png").exists()
    assert cells[0]["file"].startswith("ink-slider.cells/")
    ink.add(Path("ink.safetensors"), name="me/silent", base="mini")
    assert main(["slider", "me/silent"]) == 2
    assert "say with -p what to draw" in capsys.readouterr().err
