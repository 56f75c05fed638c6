"""Contact sheets show every picture at its place."""

from PIL import Image

from adapterhub.sheet import contact_sheet


def test_every_picture_stands_in_its_cell() -> None:
    colours = [["red", "green", "blue"], ["black", "yellow", "purple"]]
    rows = [[Image.new("RGB", (64, 64), colour) for colour in row] for row in colours]
    sheet = contact_sheet(
        rows,
        column_labels=["base", "style", "subject"],
        row_labels=["a red heart", "a very long prompt that has to be wrapped into lines"],
        captions=colours,
        cell=64,
    )
    step_x, step_y = 64 + 8, 64 + 8 + 18
    for row, names in enumerate(colours):
        for column, name in enumerate(names):
            place = (8 + 150 + column * step_x + 32, 8 + 24 + row * step_y + 32)
            assert sheet.getpixel(place) == Image.new("RGB", (1, 1), name).getpixel((0, 0))


def ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> int:
    """The number of pixels in a box that are no paper."""
    return sum(sheet.crop(box).convert("L").histogram()[:200])


def test_long_labels_keep_to_their_place_and_their_last_line() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    long = "me/a-long-reference-without-any-space:0.125 + me/another-one-of-them:1"
    rows = [[picture, picture], [picture, picture]]
    sheet = contact_sheet(
        rows, column_labels=[long, "base"], row_labels=[f"{'w ' * 200}\nseed 7", "x"], cell=64
    )
    head = 8 + 5 * 16 + 8  # as many lines as there are at most
    assert sheet.size == (8 + 150 + 2 * 72 + 8, head + 2 * 72)
    assert ink(sheet, (158 + 65, 0, 158 + 71, head - 1)) == 0  # between the columns' labels
    assert ink(sheet, (8 + 143, head, 157, sheet.height)) == 0
    short = contact_sheet(rows, column_labels=[long, "base"], row_labels=["w\nseed 7", "x"], cell=64)
    lines = [ink(sheet, (8, y, 150, y + 1)) > 0 for y in range(head - 4, head + 72)]
    assert sum(now and not before for before, now in zip([False, *lines], lines, strict=False)) == 4
    seed = short.crop((8, head + 32, 150, head + 50))
    assert any(
        sheet.crop((8, y, 150, y + 18)).tobytes() == seed.tobytes() for y in range(head + 40, head + 64)
    )


def test_labels_are_drawn() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    bare = contact_sheet([[picture]], cell=64)
    assert contact_sheet([[picture]], column_labels=["base"], cell=64).size[1] > bare.size[1]
    assert len(contact_sheet([[picture]], row_labels=["a prompt"], cell=64).getcolors(10_000) or []) > 3
