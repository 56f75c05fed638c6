"""Charts: the colours stand where the numbers are, and no label is cut off or written over."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapterhub.lora.charts import LEAST_WIDTH, MATRIX_CELL, bars, heat_map, kind_of, matrix
from adapterhub.lora.compare import Comparison, compare
from adapterhub.lora.inspect import AdapterReport, inspect
from adapterhub.lora.weights import AdapterTensors, LowRank, Native, Target, Update

PART = "attentions.0.transformer_blocks.0"
LONG = "community/" + "a-very-long-name-" * 8 + "@12"


def of_norm(norm: float) -> LowRank:
    return LowRank(torch.full((1, 4), norm / 4), torch.ones(4, 1))


def report_of(norms: Mapping[tuple[str, str], float]) -> AdapterReport:
    """A report of `(component, module)` to norm."""
    return inspect(AdapterTensors({Target(*place): of_norm(norm) for place, norm in norms.items()}))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def cells(picture: Image.Image, count: int) -> list[tuple[float, float, int]]:
    """Return (x, y, brightness) of the largest areas of one colour that is no grey, row by row."""
    found = pixels(picture)
    colours, counts = np.unique(found.reshape(-1, 3), axis=0, return_counts=True)
    areas = sorted(zip(counts.tolist(), colours.tolist(), strict=True), reverse=True)
    places: list[tuple[float, float, int]] = []
    for _, colour in [area for area in areas if len(set(area[1])) > 1][:count]:
        y, x = np.nonzero((found == colour).all(axis=2))
        places.append((float(np.median(x)), float(np.median(y)), sum(colour)))
    return sorted(places, key=lambda place: (round(place[1]), place[0]))


def ink(picture: Image.Image) -> np.ndarray:
    return (pixels(picture) < 200).any(axis=2)


def comparison(names: list[str], cosine: float = 0.5) -> Comparison:
    target = Target("unet", "mid_block.attentions.0.proj_in")
    first = LowRank(torch.eye(4)[:1], torch.eye(4)[:, :1])
    turned = LowRank(torch.tensor([[cosine, (1 - cosine**2) ** 0.5, 0, 0]]), torch.eye(4)[:, :1])
    layers = [first, turned, *[first] * 9]
    return compare({name: AdapterTensors({target: layers[n]}) for n, name in enumerate(names)})


def test_darker_cells_stand_for_larger_mean_norms() -> None:
    modules = [f"{PART}.attn1.to_q", f"{PART}.attn2.to_out.0", f"{PART}.ff.net.0.proj"]
    blocks = ["down_blocks.1", "mid_block", "up_blocks.0"]
    norms = [[1.0, 9.0, 2.0], [7.0, 3.0, 8.0], [4.0, 6.0, 5.0]]
    table = {
        ("unet", f"{block}.{module}"): norms[row][column]
        for column, module in reversed(list(enumerate(modules)))
        for row, block in reversed(list(enumerate(blocks)))
    }
    # A second layer in one cell makes its mean the smallest, though its sum is not.
    table["unet", f"mid_block.{PART}.attn1.to_q".replace("blocks.0", "blocks.1")] = 0.0
    norms[1][0] = 3.5
    found = cells(heat_map(report_of(table)), 9)
    assert len({x for x, _, _ in found}) == len({y for _, y, _ in found}) == 3
    brightness = [value for _, _, value in found]
    order = sorted(range(9), key=lambda place: [norm for row in norms for norm in row][place])
    assert sorted(range(9), key=lambda place: brightness[place], reverse=True) == order


def test_what_has_no_norm_has_no_colour() -> None:
    oft: Update = Native("oft", {"oft_blocks": torch.zeros(2, 2, 2)}, 0.0, "alpha")
    q, k = (Target("unet", f"mid_block.{PART}.attn1.to_{part}") for part in "qk")
    known = heat_map(inspect(AdapterTensors({q: of_norm(1.0), k: of_norm(1.0)})))
    unknown = heat_map(inspect(AdapterTensors({q: of_norm(1.0), k: oft})))
    dark = pixels(known)[known.height // 2, :, 0].min()
    count = [(pixels(picture)[:, :, 0] == dark).sum() for picture in (known, unknown)]
    assert known.size == unknown.size
    assert 0.4 < count[1] / count[0] < 0.6


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (Target("unet", f"up_blocks.0.{PART}.attn1.to_q"), ("attn1 (self)", "q")),
        (Target("unet", f"up_blocks.0.{PART}.attn2.to_out.0"), ("attn2 (cross)", "out")),
        (Target("unet", f"up_blocks.0.{PART}.ff.net.0.proj"), ("ff", "in")),
        (Target("unet", f"up_blocks.0.{PART}.ff.net.2"), ("ff", "out")),
        (Target("unet", "up_blocks.0.attentions.2.proj_out"), ("proj", "out")),
        (Target("unet", "mid_block.resnets.1.time_emb_proj"), ("resnet", "time")),
        (Target("unet", "down_blocks.0.downsamplers.0.conv"), ("", "sampler")),
        (Target("unet", "conv_in"), ("", "other")),
        (Target("text_encoder", "text_model.encoder.layers.3.self_attn.out_proj"), ("attn1 (self)", "out")),
        (Target("text_encoder_2", "text_model.encoder.layers.30.mlp.fc2"), ("ff", "out")),
        (Target("model", "model.layers.3.mlp.gate_proj"), ("mlp", "gate_proj")),
        (Target("model", "lm_head"), ("", "lm_head")),
    ],
)
def test_kind_of(target: Target, kind: tuple[str, str]) -> None:
    assert kind_of(target) == kind


def test_an_unknown_architecture_with_many_kinds_stays_of_a_readable_width() -> None:
    table = {("model", f"blocks.0.{LONG}.part_{number}"): 1.0 + number for number in range(200)}
    picture = heat_map(report_of(table))
    assert picture.width < 2500
    assert_nothing_is_cut(picture)


def assert_nothing_is_cut(picture: Image.Image) -> None:
    written = ink(picture)
    assert written.any()
    assert not written[:3].any()
    assert not written[-3:].any()
    assert not written[:, :3].any()
    assert not written[:, -3:].any()


@pytest.mark.parametrize(
    "table",
    [
        {("unet", "conv_in"): 1e-9},
        {("text_encoder_2", f"text_model.encoder.layers.{n}.self_attn.out_proj"): 12345.6 for n in range(32)},
        {("model", f"{LONG}.3.{LONG}.w"): 1.0},
        {("model", "w"): 0.0},
    ],
    ids=["one", "encoder", "long", "zero"],
)
def test_labels_of_a_heat_map_are_inside_it(table: dict[tuple[str, str], float]) -> None:
    picture = heat_map(report_of(table))
    assert_nothing_is_cut(picture)
    assert picture.width < 900


def test_a_heat_map_of_nothing_is_a_picture_too() -> None:
    assert_nothing_is_cut(heat_map(inspect(AdapterTensors({}))))


@pytest.mark.parametrize("names", [["a"], ["a", "b"], [LONG, f"{LONG}3", "me/ink@3"], list("abcdefghijk")])
def test_labels_of_a_matrix_are_inside_it_and_beside_the_cells(names: list[str]) -> None:
    picture = matrix(comparison(names))
    assert_nothing_is_cut(picture)
    _, left = first_cell(picture)
    above_the_legend = ink(picture)[:-45]
    assert above_the_legend[:, : left - 3].any()
    assert not above_the_legend[:, left - 3].any()
    assert picture.width < 500 + 60 * len(names)


def first_cell(picture: Image.Image) -> tuple[int, int]:
    """Return (y, x) of a pixel in the upper left cell: the darkest red, that of cosine 1."""
    found = pixels(picture)
    y, x = np.nonzero((found[:, :, 0] > 150) & (found[:, :, 1] < 50) & (found[:, :, 2] < 50))
    return int(y[0]), int(x[0])


@pytest.mark.parametrize("cosine", [-0.9, -0.4, 0.4, 0.9])
def test_alike_is_red_and_opposite_is_blue(cosine: float) -> None:
    found = comparison(["a", "b"], cosine)
    assert float(found.cosines[0, 1]) == pytest.approx(cosine, abs=1e-6)
    picture = matrix(found)
    y, x = first_cell(picture)
    left = right = pixels(picture)[y, x]
    while (right == left).all():
        x += 1
        right = pixels(picture)[y, x]
    red, _, blue = pixels(picture)[y + 2, x + 6]
    assert (red > blue) == (cosine > 0)
    weaker = matrix(comparison(["a", "b"], cosine / 2))
    pale = pixels(weaker)[y + 2, x + 6]
    assert abs(int(pale[0]) - int(pale[2])) < abs(int(red) - int(blue))


def test_the_numbers_of_a_matrix_are_written_into_its_cells() -> None:
    pictures = [matrix(comparison(["a", "b"], cosine)) for cosine in (0.500, 0.504, 0.52)]
    y, x = first_cell(pictures[0])
    box = (x, y, x + 2 * MATRIX_CELL[0], y + 2 * MATRIX_CELL[1])
    inks = [pixels(picture.crop(box)).sum(axis=2) < 200 for picture in pictures]
    assert (inks[0] == inks[1]).mean() > 0.999
    assert (inks[0] != inks[2]).sum() > 5


@settings(max_examples=40, deadline=None)
@given(norms=st.lists(st.floats(0, 1e4), min_size=1, max_size=6), width=st.integers(0, 120))
def test_bars_are_as_long_as_the_norms(norms: list[float], width: int) -> None:
    report = report_of({("unet", f"down_blocks.{n}.conv"): norm for n, norm in enumerate(norms)})
    lines = bars(report, width)
    assert {len(line) for line in lines} == {max(width, LEAST_WIDTH)}
    eighths = [sum(max(" ▏▎▍▌▋▊▉█".find(sign), 0) for sign in line) for line in lines]
    largest, found = max(eighths), [totals.norm for totals in report.blocks.values()]
    for norm, length in zip(found, eighths, strict=True):
        assert (length > 0) == (norm > 0)
        assert norm == 0 or length == pytest.approx(largest * norm / max(found), abs=1)


def test_bars_name_the_blocks_and_their_norms() -> None:
    encoder = "text_model.encoder.layers.11.mlp.fc1"
    report = report_of({("unet", "conv_in"): 2.0, ("text_encoder_2", encoder): 1234.4})
    assert [line.split()[0] for line in bars(report, 80)] == ["conv_in", "text_encoder_2.layers.11"]
    assert [line.split()[-1] for line in bars(report, 80)] == ["2", "1234"]
    assert bars(report, 30)[1].startswith("text_en…yers.11 ")
    assert bars(inspect(AdapterTensors({})), 80) == []
