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


def test_labels_are_drawn() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    bare = contact_sheet([[picture]], cell=64)
    assert contact_sheet([[picture]], column_labels=["base"], cell=64).size[1] > bare.size[1]
    assert len(contact_sheet([[picture]], row_labels=["a prompt"], cell=64).getcolors(10_000) or []) > 3
