"""Describing adapters from the command line: settings, cards, aliases, pictures, folders; the terminal."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_cli.terminal import columns_of, field_lines, printable, table_lines
from adapterhub_registry.card import parse_card
from adapterhub_registry.publication import Details
from adapterhub_registry.store import Registry
from tests.cli.conftest import Run
from tests.registry.conftest import weights_bytes


@pytest.fixture
def ink(run: Run, tmp_path: Path) -> Path:
    """A file of weights, registered twice as me/ink."""
    path = tmp_path / "ink.safetensors"
    for seed in (2, 1):
        path.write_bytes(weights_bytes(seed))
        run("add", path, "--name", "me/ink", "--base", "mini", "--trigger", "inkwash")
    return path


def test_what_is_said_of_an_adapter_changes(run: Run, ink: Path, tmp_path: Path) -> None:
    del ink
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    run("describe", "me/ink", "--title", "Ink", "--kind", "style", "--card", tmp_path / "card.md")
    words = ["--setting", "steps=30", "--setting", "guidance-scale=6"]
    table = json.loads(run("describe", "me/ink", *words, "--json"))
    assert table == {
        "name": "me/ink",
        "title": "Ink",
        "description": "",
        "kind": "style",
        "tags": [],
        "settings": {"steps": "30", "guidance_scale": "6"},
        "card": "# By hand",
    }
    assert json.loads(run("describe", "me/ink", "--setting", "steps=", "--json"))["settings"] == {
        "guidance_scale": "6"
    }
    run("describe", "me/ink", "--setting", "colour=red", code=1)
    assert "there are steps, guidance_scale" in run.talk
    run("describe", "me/ink", "--setting", "steps", code=2)
    run("describe", "me/ink", "--kind", "odd", code=1)
    assert json.loads(run("show", "me/ink", "--json"))["settings"] == {"guidance_scale": "6"}


def test_settings_and_a_card_come_with_add(run: Run, ink: Path, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("---\nlicense: mit\ninstance_prompt: wash\n---\n# Ink wash\n\nSoft.\n")
    words = ["add", ink, "--name", "me/new", "--base", "mini", "--setting", "steps=20"]
    run(*words, "--card", tmp_path / "card.md")
    table = json.loads(run("show", "me/new", "--json"))
    assert (table["title"], table["description"], table["licence"]) == ("Ink wash", "Soft.", "MIT")
    assert (table["trigger_words"], table["settings"]) == (["wash"], {"steps": "20"})
    assert table["has_card"]
    (tmp_path / "card.md").write_text("---\ntags: {a: b}\n---\n")
    run("add", ink, "--name", "me/odd", "--base", "mini", "--card", tmp_path / "card.md", code=1)
    assert run.talk.startswith('error: the model card cannot be read, line 2, field "tags"')


def test_a_card_is_printed_or_written(run: Run, ink: Path, tmp_path: Path) -> None:
    del ink
    text = run("card", "me/ink")
    assert parse_card(text).trigger_words == ("inkwash",)
    assert run("card", "me/ink@2", "--out", tmp_path / "README.md") == ""
    assert (tmp_path / "README.md").read_text() == text
    run("card", "me/ink", "--out", tmp_path / "no" / "README.md", code=1)

    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    run("preview", "me/ink@2", "--add", tmp_path / "red.png")
    run("card", "me/ink@2", "--out", tmp_path / "README.md")
    picture = tmp_path / "preview-1.png"
    assert "url: preview-1.png" in (tmp_path / "README.md").read_text()
    with Image.open(picture) as shown:
        assert shown.getpixel((0, 0)) == (255, 0, 0)
    picture.write_bytes(b"mine")
    run("card", "me/ink@2", "--out", tmp_path / "README.md", code=1)
    assert picture.read_bytes() == b"mine"


def test_aliases_have_a_history_and_an_end(run: Run, ink: Path) -> None:
    del ink
    run("alias", "me/ink", "prod", 1, "--expect", 0)
    run("alias", "me/ink", "prod", 2, "--expect", 1)
    run("alias", "me/ink", "prod", "--remove", "--expect", 1, code=1)
    run("alias", "me/ink", "prod", "--remove", "--expect", 2)
    assert run.talk == "me/ink@prod is gone\n"
    rows = json.loads(run("alias", "me/ink", "--history", "--json"))
    assert [(row["alias"], row["from"], row["to"]) for row in rows] == [
        ("prod", None, 1),
        ("prod", 1, 2),
        ("prod", 2, None),
    ]
    assert run("alias", "me/ink", "prod", "--history").count("\n") == 4
    run("alias", "me/ink", "stable", "--history")
    assert run.talk == "it was never moved\n"
    for words in (["prod"], [], ["prod", 1, "--remove"], ["prod", 1, "--history"]):
        run("alias", "me/ink", *words, code=2)
    run("alias", "me/ink", "prod", "--remove", code=1)


def test_pictures_are_added_listed_and_removed(run: Run, ink: Path, tmp_path: Path) -> None:
    del ink
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
    words = ["--add", tmp_path / "red.png", "--add", tmp_path / "blue.png"]
    assert run("preview", "me/ink", *words, "-q") == "preview-1.png\npreview-2.png\n"
    run("preview", "me/ink", *words)
    assert run.talk == "nothing changed: no picture is new\n"
    (first, second) = json.loads(run("preview", "me/ink", "--list", "--json"))
    run("preview", "me/ink", "--remove", 1)
    (left,) = json.loads(run("preview", "me/ink", "--list", "--json"))
    assert left["sha256"] == second["sha256"] != first["sha256"]
    assert [item["sha256"] for item in json.loads(run("show", "me/ink", "--json"))["previews"]] == [
        left["sha256"]
    ]
    run("preview", "me/ink", "--remove", 2, code=1)
    run("preview", "me/ink", "--list", "--steps", 2, code=2)
    run("preview", "me/ink", "--list", "--remove", 1, code=2)
    run("preview", "me/ink@1", "--list")
    assert run.talk == "there is none\n"


def test_a_preview_is_drawn(run: Run, ink: Path, tmp_path: Path) -> None:
    del ink
    words = ["preview", "me/ink", "--steps", 1, "--device", "cpu", "--out", tmp_path / "sheet.png"]
    (row,) = json.loads(run(*words, "--json"))
    assert (row["prompt"], row["seed"], row["settings"]["steps"]) == ("inkwash", 0, "1")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 256
    run(*words)
    assert run.talk == f"wrote {tmp_path / 'sheet.png'}\nnothing changed: no picture is new\n"


def test_the_whole_registry_is_exported_and_adopted(run: Run, ink: Path, tmp_path: Path) -> None:
    del ink
    out = tmp_path / "Lora"
    words = ["export", "--all", "--layout", "a1111", "--out", out]
    run(*words, "--dry-run")
    assert run.talk == "1 would write\n"
    assert run(*words, "-q") == "me/ink.safetensors\n"
    (row,) = json.loads(run(*words, "--json"))
    assert (row["version"], row["outcome"]) == ("me/ink@2", "unchanged")
    run("adopt", out, "--namespace", "again")
    assert run.talk == "1 known\n"
    (out / "me" / "ink.json").write_text("{}")
    run(*words, code=1)
    assert f"not ours or were changed since: {out}/me/ink.json" in run.talk
    for wrong in (
        ["--all"],
        ["--all", "me/ink"],
        ["me/ink", "--layout", "comfy"],
        ["me/ink", "--dry-run"],
        [],
    ):
        run("export", *wrong, "--out", out, code=2)


def test_a_table_fits_its_width() -> None:
    rows = [["name", "title"], ["me/ink", "a long title " * 5], ["me/kanji", "水墨画" * 20]]
    for width in (20, 40, 200):
        lines = table_lines(rows, width)
        assert all(columns_of(line) <= width for line in lines)
    assert table_lines(rows, None)[1] == f"me/ink    {('a long title ' * 5).strip()}"
    assert table_lines(rows, 30)[1].endswith("…")
    assert table_lines([["a", "b"], ["1", ""]], 30) == ["a  b", "1"]


def test_values_go_on_below_themselves() -> None:
    lines = field_lines(["name", "text"], ["ink", "one two three four five six"], 20)
    assert lines == ["name  ink", "text  one two three", "      four five six"]
    assert field_lines(["a"], [""], 20) == ["a"]


def test_nothing_that_is_printed_moves_the_cursor() -> None:
    assert printable("soft\x1b[2J\x07 ink\r\nwash\u200b") == "soft?[2J? ink wash\u200b"


def test_a_terminal_gets_what_fits_and_a_pipe_everything(run: Run, ink: Path, home: Path) -> None:
    del ink
    Registry(home).update("me/ink", Details(title="x" * 300))
    assert "x" * 300 in run("show", "me/ink")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    command = [sys.executable, "-m", "adapterhub_cli", "show", "me/ink"]
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    done = subprocess.Popen(command, stdout=theirs, env=environment)
    os.close(theirs)
    pieces: list[bytes] = []
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    assert done.wait() == 0
    lines = b"".join(pieces).decode().replace("\r\n", "\n").splitlines()
    assert "x" * 30 in "\n".join(lines)
    assert max(map(len, lines)) <= 60


def test_the_commands_of_a_card_work(run: Run, ink: Path, tmp_path: Path) -> None:
    del ink
    run("describe", "me/ink", "--setting", "steps=1", "--setting", "negative_prompt=it's a photo")
    text = run("card", "me/ink")
    shell = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [block.split()[1] for block in shell] == ["generate", "export"]
    script = "\n".join([*shell, f"python - <<'END'\n{code}\npicture.save('drawn.png')\nEND"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn.png").exists()
    assert "inkwash-1.png" in done.stdout
