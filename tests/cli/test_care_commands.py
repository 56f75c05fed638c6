"""Care as a user runs it: verify, repair, collect, back up, restore, look."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from adapterhub_cli.main import main
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes


class Run:
    """Runs a command, checks its exit code, and returns stdout; `talk` is what stderr said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.talk = ""

    def __call__(self, *words: object, code: int = 0) -> str:
        assert main([str(word) for word in words]) == code
        captured = self.capsys.readouterr()
        self.talk = captured.err
        return captured.out

    def rows(self, *words: object, code: int = 0) -> list[dict[str, object]]:
        return json.loads(self(*words, "--json", code=code))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    registry = Registry(home)
    for seed in (1, 2):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(weights_bytes(seed))
        registry.add(path, name="me/ink", base="mini")
    return registry


def damage(registry: Registry, reference: str) -> None:
    path = registry.blobs.path(registry.resolve(reference).files[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"rot")
    path.chmod(0o444)


def tallies(rows: list[dict[str, object]]) -> dict[object, object]:
    return {row["what"]: row["files"] for row in rows if row["files"]}


def test_what_was_deleted_is_collected(run: Run, registry: Registry) -> None:
    registry.delete("me/ink@1")
    assert tallies(run.rows("gc", "--dry-run")) == {"live": 1, "condemned": 1}
    assert run.talk == "nothing was changed\n"
    assert tallies(run.rows("gc")) == {"live": 1, "condemned": 1}
    run("verify")
    assert run.talk.startswith("no version needs 2348 bytes in 1 files; see: adapterhub gc --dry-run\n")
    assert "moved to the trash" in run("gc", "--grace", "0s")
    assert tallies(run.rows("gc", "--grace", "12h", "--keep", "0s")) == {"live": 1, "deleted": 1}
    assert [row["action"] for row in run.rows("events", "blobs")] == ["gc", "gc"]


@pytest.mark.parametrize("text", ["", "5", "1w", "-1d", "0.5h", "999999d"])
def test_a_duration_that_is_none_is_wrong_usage(run: Run, text: str) -> None:
    run("gc", "--grace", text, code=2)
    assert "write 0s, 30m, 12h or 7d" in run.talk


def test_what_is_wrong_is_listed_and_repaired(run: Run, registry: Registry, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    registry.add_remote("team", share.as_uri())
    registry.push("me/ink@1", remote="team")
    damage(registry, "me/ink@1")
    damage(registry, "me/ink@2")
    assert [row["version"] for row in run.rows("verify", code=1)] == ["me/ink@1", "me/ink@2"]
    assert "adapterhub verify --repair" in run.talk
    assert "damaged: expected sha256:" in run("verify", code=1)
    first, second = run.rows("verify", "--repair", code=1)
    assert (first["repaired"], first["repair"]) == (True, "restored from team")
    assert (second["repaired"], second["repair"]) == (False, "no whole copy in the trash, team")
    registry.push("me/ink@1", remote="team")
    assert "restored" not in run("verify", "me/ink@1", "--repair")
    assert run.talk == "every file is whole\n"
    run("verify", "--from", "team", code=2)
    run("verify", "--repair", "--from", "nas", code=1)
    assert 'the remote "nas" cannot be used' in run.talk
    registry.delete("me/ink@2")
    damage(registry, "me/ink@1")
    run("verify", "--repair", "--from", "team")
    assert "everything is repaired" in run.talk


def test_a_home_is_backed_up_and_restored(run: Run, registry: Registry, tmp_path: Path) -> None:
    target, new = tmp_path / "backup", tmp_path / "new"
    done = json.loads(run("backup", target, "--json"))
    assert (done["versions"], done["files_copied"]) == (2, 3)
    assert json.loads(run("backup", target, "--json"))["files_copied"] == 0
    assert "0" in run("backup", target, "--verify")
    assert run.talk == "every file is whole\n"

    run("restore", target, code=1)
    assert f'the home "{registry.home}" is not allowed: it is not empty' in run.talk
    assert json.loads(run("restore", target, "--home", new, "--json"))["versions"] == 2
    assert f"ADAPTERHUB_HOME={new}" in run.talk
    assert Registry(new).versions("me/ink") == registry.versions("me/ink")

    sha256 = registry.resolve("me/ink").files[0].sha256
    next(target.glob(f"blobs/sha256/*/*/{sha256}")).unlink()
    run("backup", target, "--verify", code=1)
    assert run.talk.startswith("missing: ")
    run("restore", target, "--home", tmp_path / "other", code=1)
    run("restore", tmp_path / "nowhere", "--home", tmp_path / "other", code=1)
    assert "was the backup finished" in run.talk
    assert not (tmp_path / "other").exists()


def checks(run: Run, code: int = 0) -> dict[object, dict[str, object]]:
    return {row["check"]: row for row in run.rows("doctor", code=code)}


def test_a_healthy_home_passes_the_doctor(run: Run, registry: Registry, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    registry.add_remote("team", share.as_uri())
    before = sorted(registry.home.rglob("*"))
    found = checks(run)
    assert sorted(registry.home.rglob("*")) == before
    assert all(row["ok"] for row in found.values())
    assert found["files"]["detail"] == "2 of 2 that versions need, 0 that none needs"
    assert "schema 0004, wal mode" in str(found["database"]["detail"])
    assert str(found["remote team"]["detail"]).endswith("read and write")
    assert "cpu" in str(found["device"]["detail"]) or "cuda" in str(found["device"]["detail"])
    assert "yes" in run("doctor")


def test_a_home_that_is_not_there_yet_is_not_made_by_the_doctor(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "none"))
    assert "which the first command makes" in str(checks(run)["home"]["detail"])
    assert not (tmp_path / "none").exists()
    (tmp_path / "none").mkdir()
    assert "there is none yet" in str(checks(run)["database"]["detail"])


def test_every_fault_of_a_home_is_a_finding(run: Run, registry: Registry, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    registry.add_remote("team", share.as_uri())
    share.rmdir()
    registry.blobs.path(registry.resolve("me/ink@1").files[0].sha256).unlink()
    found = checks(run, code=1)
    assert [name for name, row in found.items() if not row["ok"]] == ["files", "remote team"]
    assert found["files"]["detail"] == "1 of 2 that versions need, 0 that none needs"
    assert "adapterhub remote remove team" in run.talk
    with closing(sqlite3.connect(registry.home / "registry.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    assert checks(run, code=1)["database"]["advice"] == "install that release"


@pytest.mark.parametrize("fault", ["garbage", "page", "directory", "empty", "file"])
def test_a_broken_home_does_not_break_the_doctor(run: Run, registry: Registry, fault: str) -> None:
    registry.close()
    path = registry.home / "registry.db"
    data = path.read_bytes()
    path.unlink()
    if fault == "directory":
        path.mkdir()
    elif fault == "file":
        for item in sorted(registry.home.rglob("*"), reverse=True):
            item.rmdir() if item.is_dir() else item.unlink()
        registry.home.rmdir()
        registry.home.write_text("in the way")
    else:
        whole = {
            "garbage": b"garbage" * 1000,
            "page": data[:8192] + b"\xff" * 8192 + data[16384:],
            "empty": b"",
        }
        path.write_bytes(whole[fault])
    found = checks(run, code=1)
    assert not found["home" if fault == "file" else "database"]["ok"]
    assert found["python"]["ok"]


def test_the_doctor_works_without_torch(registry: Registry) -> None:
    program = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'diffusers'): raise ModuleNotFoundError(name=name)\n"
        "import importlib.util\n"
        "known = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name in ('torch', 'diffusers') else known(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from adapterhub_cli.main import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "no torch, diffusers" in done.stdout
    assert "the registry alone works" in done.stdout
    assert 'pip install "adapterhub[sdxl]"' in done.stderr
    assert registry.list()
