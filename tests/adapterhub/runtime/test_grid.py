"""Grids: every cell as the runtime draws it alone, kept, and drawn again only if it would differ."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from adapterhub.errors import ArchitectureError, EmptyPromptError, SettingError, VersionNotFoundError
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.grid import DrawnGrid, Grid, GridCell, draw_grid, label
from adapterhub_registry.record import png_with_record, read_picture, read_record
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes

INK = Composition.parse("me/ink:0.2")
BOTH = Composition.parse("me/ink:0.2 + me/words:0.1[mid_block=0]")
SMALL = Grid(["a star", "a red heart"], seeds=[3, 9], compositions=[INK], steps=2)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def new_cells(drawn: DrawnGrid) -> list[tuple[int, int]]:
    return [(cell.row, cell.column) for cell in drawn.cells if cell.is_new]


@pytest.mark.usefixtures("base_again")
def test_every_cell_is_what_the_runtime_draws_alone(runtime: Runtime, tmp_path: Path) -> None:
    grid = Grid(
        ["a star", "a red heart"],
        seeds=[3, 9],
        compositions=[BASE, BOTH],
        weights=[0.5, 1],
        steps=2,
        negative_prompt="blue",
        guidance_scale=3,
        scheduler="ddim",
        width=48,
    )
    runtime.compose("me/corgi:0.1")
    seen: list[tuple[int, int]] = []
    drawn = draw_grid(runtime, grid, tmp_path / "cells", on_step=lambda *step: seen.append(step))
    assert seen == [(number, 24) for number in range(1, 25)]
    assert str(runtime.composition) == "me/corgi:0.1"  # given back
    columns = [None, "me/ink:0.1 + me/words:0.05[mid_block=0]", "me/ink:0.2 + me/words:0.1[mid_block=0]"]
    rows = [("a star", 3), ("a star", 9), ("a red heart", 3), ("a red heart", 9)]
    labels = ["base", *columns[1:]]
    assert [(cell.row, cell.column) for cell in drawn.cells] == [(r, c) for r in range(4) for c in range(3)]
    for column, composition in enumerate(columns):
        runtime.compose(composition)
        for row, (prompt, seed) in enumerate(rows):
            cell = drawn.cells[row * 3 + column]
            assert (cell.prompt, cell.seed, cell.composition) == (prompt, seed, labels[column])
            expected = runtime.generate(
                prompt,
                seed=seed,
                steps=2,
                negative_prompt="blue",
                guidance_scale=3,
                scheduler="ddim",
                width=48,
            )
            found = read_picture(cell.path)
            assert found.image.tobytes() == expected.images[0].tobytes()
            assert found.record == expected.record
    (sheet,) = drawn.sheets()
    assert sheet.width == 8 + 150 + 3 * 136 + 8
    with Image.open(drawn.cells[-1].path) as last:
        middle = last.convert("RGB").resize((96, 128)).getpixel((48, 64))
    centre = (8 + 150 + 2 * 136 + 64, sheet.height - 136 + 64)
    shown = sheet.getpixel(centre)
    assert isinstance(shown, tuple)
    assert isinstance(middle, tuple)
    assert max(abs(one - other) for one, other in zip(shown, middle, strict=True)) < 40


def test_what_is_there_is_not_drawn_again(runtime: Runtime, tmp_path: Path) -> None:
    draw_grid(runtime, SMALL, tmp_path)
    before = files(tmp_path)
    assert new_cells(draw_grid(runtime, SMALL, tmp_path)) == []
    assert files(tmp_path) == before
    more = replace(SMALL, seeds=[3, 4, 9], compositions=[INK, BASE])
    there = {(row, 0) for row in (0, 2, 3, 5)}
    everything = [(row, column) for row in range(6) for column in range(2)]
    assert new_cells(draw_grid(runtime, more, tmp_path)) == [
        place for place in everything if place not in there
    ]
    assert before.items() <= files(tmp_path).items()


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3},
        {"guidance_scale": 4.0},
        {"negative_prompt": ""},
        {"scheduler": "ddim"},
        {"width": 48},
        {"weights": [0.999]},
        {"compositions": [Composition.parse("me/ink:0.2[mid_block=0]")]},
        {"method": "switch"},
        {"method": "composite"},
    ],
    ids=str,
)
def test_another_setting_is_another_picture(
    runtime: Runtime, tmp_path: Path, change: dict[str, object]
) -> None:
    grid = Grid(["a star"], compositions=[INK], steps=2)
    draw_grid(runtime, grid, tmp_path)
    other = replace(grid, **change)  # pyright: ignore[reportArgumentType]
    assert new_cells(draw_grid(runtime, other, tmp_path)) == [(0, 0)]
    assert new_cells(draw_grid(runtime, other, tmp_path)) == []
    assert new_cells(draw_grid(runtime, grid, tmp_path)) == []


def test_an_alias_that_moved_is_drawn_again(runtime: Runtime, registry: Registry, tmp_path: Path) -> None:
    ink, corgi = (registry.home / "files" / f"{name}.safetensors" for name in ("ink", "corgi"))
    for path in (ink, corgi):
        registry.add(path, name="me/moving", base="mini")
    registry.set_alias("me/moving", "prod", 1)
    grid = Grid(["a star"], compositions=[Composition.parse("me/moving@prod:0.2")], steps=2)
    first = draw_grid(runtime, grid, tmp_path).cells[0]
    registry.set_alias("me/moving", "prod", 2)
    second = draw_grid(runtime, grid, tmp_path).cells[0]
    assert second.is_new
    assert read_record(second.path).composition[0]["digest"] == registry.resolve("me/corgi").digest
    registry.set_alias("me/moving", "prod", 1)
    assert draw_grid(runtime, grid, tmp_path).cells[0] == replace(first, is_new=False)


def test_a_cell_whose_record_or_pixels_are_not_as_they_should_be_is_drawn_again(
    runtime: Runtime, tmp_path: Path
) -> None:
    drawn = draw_grid(runtime, SMALL, tmp_path)
    good = [cell.path.read_bytes() for cell in drawn.cells]
    found = read_picture(drawn.cells[0].path)
    other = replace(found.record, versions={**found.record.versions, "torch": "1.0"})
    drawn.cells[0].path.write_bytes(png_with_record(found.image, other))
    drawn.cells[1].path.write_bytes(good[1][: len(good[1]) // 2])
    drawn.cells[2].path.write_bytes(good[3])
    again = draw_grid(runtime, SMALL, tmp_path)
    assert new_cells(again) == [(0, 0), (1, 0), (2, 0)]
    assert [cell.path.read_bytes() for cell in again.cells] == good


def test_an_interrupted_grid_goes_on_to_the_same_sheet(runtime: Runtime, tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_grid(runtime, SMALL, tmp_path / "a", on_step=interrupt)
    assert runtime.composition == BASE
    assert len(files(tmp_path / "a")) == 2
    for path in (tmp_path / "a").iterdir():
        assert read_record(path).prompt == "a star"
    went_on = draw_grid(runtime, SMALL, tmp_path / "a")
    assert new_cells(went_on) == [(2, 0), (3, 0)]
    at_once = draw_grid(runtime, SMALL, tmp_path / "b")
    assert list(files(tmp_path / "a")) == list(files(tmp_path / "b"))
    assert [sheet.tobytes() for sheet in went_on.sheets()] == [sheet.tobytes() for sheet in at_once.sheets()]


def test_values_that_come_twice_count_once() -> None:
    grid = Grid(
        ["a", "b", "a"], seeds=[1, 1], compositions=[BASE, INK, INK, BASE], weights=[1, 0.5, 1.0, -0.0, 0]
    )
    assert grid.rows == [("a", 1), ("b", 1)]
    assert [label(column) for column in grid.columns] == ["base", "me/ink:0.2", "me/ink:0.1", "me/ink:0"]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"prompts": []}, EmptyPromptError, "prompt"),
        ({"seeds": []}, SettingError, "seeds is empty"),
        ({"seeds": [1, -1]}, SettingError, "seed is -1"),
        ({"compositions": []}, SettingError, "compositions is empty"),
        ({"weights": [float("nan")]}, SettingError, "weight is nan"),
        ({"method": "maximum"}, SettingError, "method is maximum"),
        ({"seeds": range(5001)}, SettingError, "10,002 rows of 1, but a grid has at most 10,000 cells"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    settings: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        replace(SMALL, **settings)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_drawn_is_refused_before_anything_is(
    runtime: Runtime, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "big.safetensors").write_bytes(weights_bytes(1, text_width=2048))
    registry.add(tmp_path / "big.safetensors", name="me/big")
    for settings, error in (
        ({"compositions": [INK, Composition.parse("me/big")]}, ArchitectureError),
        ({"compositions": [INK, Composition.parse("me/ink@7")]}, VersionNotFoundError),
        ({"steps": 0}, SettingError),
        ({"width": 0}, SettingError),
        ({"scheduler": "eulr"}, SettingError),
        ({"method": "switch", "every": 0}, SettingError),
    ):
        with pytest.raises(error):
            draw_grid(runtime, replace(SMALL, **settings), tmp_path / "cells")  # pyright: ignore[reportArgumentType]
        assert not (tmp_path / "cells").exists()


def test_more_columns_than_a_sheet_holds_go_on_further_sheets(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (16, 16), "red").save(path)

    def drawn(columns: int) -> DrawnGrid:
        grid = Grid(["a star"], compositions=[INK], weights=[number / 8 for number in range(columns)])
        return DrawnGrid(grid, [GridCell(path, 0, n, "a star", 0, "", is_new=True) for n in range(columns)])

    (sheet,) = drawn(100).sheets()  # in smaller cells: 8192 // 100 - 8 = 73
    assert sheet.width == 8 + 150 + 100 * (73 + 8) + 8
    first, second = drawn(150).sheets()  # 8192 // (64 + 8) = 113 of the smallest
    assert first.width == 8 + 150 + 113 * (64 + 8) + 8
    assert second.width == 8 + 150 + 37 * (64 + 8) + 8
