"""The registry's commands as a user runs them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.store import Registry
from tests.cli.conftest import Run
from tests.registry.conftest import weights_bytes


@pytest.fixture
def ink(tmp_path: Path) -> Path:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(weights_bytes(1))
    return path


def test_an_adapter_is_added_listed_and_shown(run: Run, ink: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "p.png")
    words = ["add", ink, "--name", "me/ink", "--base", "mini", "--trigger", "inkwash", "--tag", "portrait"]
    words += ["--kind", "style", "--weight", "0.8", "--preview", tmp_path / "p.png", "-m", "first"]
    assert run(*words, "-q") == "me/ink@1\n"
    run(*words)
    assert run.talk == "nothing changed: these weights are there already as me/ink@1\n"

    (row,) = json.loads(run("list", "--json"))
    assert row == {"name": "me/ink", "latest": 1, "kind": "style", "tags": ["portrait"], "aliases": {}}
    table = json.loads(run("show", "me/ink", "--json"))
    assert table["trigger_words"] == ["inkwash"]
    assert table["recommended_weight"] == "0.8"
    assert [item["name"] for item in table["previews"]] == ["preview-1.png"]
    assert (table["rank"], table["targets"], table["has_card"]) == ("2", "unet 1", False)
    assert table["files"][0]["size"] == ink.stat().st_size
    assert "trigger words" in run("show", "me/ink")
    assert run("versions", "me/ink", "-q") == "me/ink@1\n"
    assert "architecture  mini" in run("inspect", ink)
    assert json.loads(run("inspect", "me/ink@1", "--json"))["ranks"] == [2]


def test_an_empty_registry_says_what_to_do(run: Run) -> None:
    assert run("list") == ""
    assert "adapterhub add FILE" in run.talk
    assert run("list", "--json") == "[]\n"


def test_aliases_and_tags_change(run: Run, ink: Path) -> None:
    run("add", ink, "--name", "me/ink", "--tag", "a")
    run("alias", "me/ink", "prod", 1, "--expect", 0)
    assert json.loads(run("show", "me/ink@prod", "--json"))["aliases"] == {"prod": 1}
    run("alias", "me/ink", "prod", 1, "--expect", 0, code=1)
    assert 'the alias "prod" of "me/ink" is at 1, not at nothing' in run.talk
    assert run("tag", "me/ink", "--add", "B", "--remove", "a", "-q") == "b\n"
    run("tag", "me/ink", "--add", "a b", code=1)
    assert run("tag", "me/ink", "-q") == "b\n"


def test_a_version_travels_through_a_remote(
    run: Run, ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    run("add", ink, "--name", "me/ink")
    run("push", "me/ink", code=1)
    assert "adapterhub remote add NAME URL" in run.talk
    run("remote", "add", "team", share.as_uri())
    assert json.loads(run("remote", "list", "--json")) == [{"name": "team", "url": share.as_uri()}]
    sent = json.loads(run("push", "me/ink", "--alias", "prod", "--json"))
    assert (sent["version"], sent["files_transferred"]) == ("me/ink@1", 1)

    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "other"))
    run("pull", "team:me/ink@prod", code=1)
    assert 'the remote "team" cannot be used' in run.talk
    run("remote", "add", "team", share.as_uri())
    assert run("pull", "team:me/ink@prod", "-q") == "me/ink@1\n"
    assert run("pull", "me/ink", "--as", "us/ink", "-q") == "us/ink@1\n"
    run("pull", "me/ink")
    assert run.talk == "nothing changed: this registry has this digest already as me/ink@1\n"
    run("verify")
    assert run.talk == "every file is whole\n"
    run("remote", "remove", "team")
    run("pull", "me/ink", code=1)


def test_verify_exits_with_1_and_lists_what_is_damaged(run: Run, ink: Path, home: Path) -> None:
    run("add", ink, "--name", "me/ink")
    registry = Registry(home)
    path = registry.blobs.path(registry.resolve("me/ink").files[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"rot")
    (row,) = json.loads(run("verify", "--json", code=1))
    assert row["version"] == "me/ink@1"
    assert row["problem"].startswith("damaged: expected sha256:")


def test_training_from_flags_and_composing_the_result(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), ("red", "blue")[number]).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text("inkwash square")
    words = ["train", "--base", "mini", "--data", data, "--name", "me/ink", "--trigger", "inkwash"]
    words += ["--steps", 2, "--rank", 2, "--batch-size", 2, "--learning-rate", "1e-2"]
    (row,) = json.loads(run(*words, "--plan", "--json"))
    assert (row["version"], row["pictures"], row["without_trigger"], row["epochs"]) == (1, 2, 0, 2.0)
    assert run("list", "-q") == ""
    assert run(*words, "-q") == "me/ink@1\n"
    run(*words)
    assert "nothing changed" in run.talk

    base, used = tmp_path / "base.png", tmp_path / "used.png"
    run("generate", "-p", "a star", "--seed", 1, "--steps", 2, "--out", base)
    run("generate", "-p", "a star", "--seed", 1, "--steps", 2, "--use", "me/ink:3", "--out", used)
    with Image.open(base) as first, Image.open(used) as second:
        assert first.tobytes() != second.tobytes()
    run("replay", used)
    assert used.with_name("used.replay.png").read_bytes() == used.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "missing.toml"], "cannot read missing.toml"),
        (["show", "me/inc"], 'there is no adapter "me/inc"'),
        (["show", "inc"], '"inc" names no version'),
        (["add", "missing.safetensors", "--name", "me/x"], "cannot read missing.safetensors"),
        (["generate", "-p", "x", "--use", "me/ink"], 'there is no adapter "me/ink"'),
        (["inspect", "missing.safetensors"], "cannot read missing.safetensors"),
        (["remote", "add", "x", "file:///no/such/dir"], "there is no directory /no/such/dir"),
    ],
)
def test_bad_input_gets_one_line(run: Run, words: list[str], message: str) -> None:
    assert run(*words, code=1) == ""
    assert message in run.talk
    assert run.talk.startswith("error: ")
    assert run.talk.count("\n") == 1


def test_a_config_and_flags_together_are_wrong_usage(run: Run, tmp_path: Path) -> None:
    run("train", tmp_path / "x.toml", "--rank", 4, code=2)
    run("train", "--base", "mini", code=2)
    run("train", "--init", tmp_path, "--rank", 4, code=2)
    run("train", "--init", tmp_path, "--plan", code=2)


def test_a_starter_config_is_written_planned_and_changed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Zork").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), ("red", "blue")[number]).save(tmp_path / "Zork" / f"{number}.png")
    (row,) = json.loads(run("train", "--init", "Zork", "--json"))
    assert row == {"config": "zork.toml", "name": "me/zork", "pictures": 2, "steps": 200}
    assert run.talk == (
        "2 of 2 pictures have no caption\n"
        'the trigger word "zork" is a guess; look whether it is right\n'
        "go on with: adapterhub train zork.toml --plan\n"
    )
    (row,) = json.loads(run("train", "zork.toml", "--plan", "--set", "adapters.me/zork.steps=7", "--json"))
    assert (row["name"], row["pictures"], row["steps"]) == ("me/zork", 2, 7)
    run("train", "--init", "Zork", code=1)
    assert run.talk.startswith("error: cannot write zork.toml: it is there already")


def test_wrong_values_are_told_by_line_or_option(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text('base = "mini"\n[[adapters]]\nname = "me/ink"\ndata = "ink"\nrank = 4\n')
    run("train", config, "--set", "adapters.0.steps=0", code=1)
    assert run.talk.splitlines() == [
        f"error: {config} is not valid:",
        f'  {config}:5: unknown key "rank"; did you mean "network.rank"?',
        "  --set adapters.0.steps=0: steps must be at least 1, not 0.",
    ]
    run("train", "--base", "mini", "--data", "ink", "--name", "me/ink", "--rank", 0, "--kind", "x", code=1)
    assert run.talk.splitlines()[1:] == [
        "  --rank: network.rank must be at least 1, not 0",
        '  --kind: kind must be one of style, subject, concept, slider, other, not "x".',
    ]


def test_adapters_are_searched_yanked_and_deleted(run: Run, ink: Path, tmp_path: Path) -> None:
    run(
        "add",
        ink,
        "--name",
        "me/ink",
        "--base",
        "mini",
        "--tag",
        "portrait",
        "--description",
        "soft drawings",
    )
    run("add", ink, "--name", "me/other", "--base", "mini")
    assert run("search", "draw", "-q") == "me/ink\n"
    assert run("search", "--tag", "portrait", "--rank", 2, "-q") == "me/ink\n"
    assert run("search", "nothing") == ""
    assert run.talk == "nothing found\n"
    first = run("search", "--limit", 1, "-q")
    token = run.talk.split("--after ")[1].strip()
    assert {first, run("search", "--limit", 1, "--after", token, "-q")} == {"me/ink\n", "me/other\n"}
    (row,) = json.loads(run("search", "soft", "--json"))
    assert row["tags"] == ["portrait"]

    assert "the very file" in run("find-file", ink)
    digest = json.loads(run("inspect", ink, "--header", "--json"))["autov2"]
    assert run("find-file", digest, "-q") == "me/ink@1\nme/other@1\n"
    (tmp_path / "x.safetensors").write_bytes(weights_bytes(7))
    run("find-file", tmp_path / "x.safetensors", code=1)

    run("yank", "me/ink@1", "--why", "wrong pictures")
    assert "yanked" in run("versions", "me/ink")
    run("show", "me/ink", code=1)
    run("yank", "me/ink@1", "--undo")
    run("yank", "me/ink@1", code=2)
    run("delete", "me/other@1", "--yes")
    run("show", "me/other@1", code=1)
    assert "was deleted" in run.talk
    assert [row["action"] for row in json.loads(run("events", "me/ink@1", "--json"))] == [
        "unyank",
        "yank",
        "publish",
    ]
    assert run("lineage", "me/ink") == "me/ink@1  (imported)\n"
    assert json.loads(run("lineage", "me/ink", "--json"))["is_here"]


def test_a_folder_is_adopted(run: Run, ink: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    rows = json.loads(run("adopt", tmp_path, "--namespace", "me", "--json"))
    assert [(row["file"], row["outcome"]) for row in rows] == [
        ("broken.safetensors", "refused"),
        (ink.name, "added"),
    ]
    assert "1 added, 1 refused" in run.talk
    run("adopt", tmp_path, "--namespace", "me")
    assert "1 known, 1 refused" in run.talk
    assert "publish" in run("events", "me/ink")
