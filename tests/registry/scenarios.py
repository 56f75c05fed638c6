"""Work on a registry that may be interrupted: what is there before, what is done, what must hold after."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from adapterhub_registry.adoption import adopt
from adapterhub_registry.backup import MARKER, restore, verify_backup
from adapterhub_registry.errors import TombstoneError
from adapterhub_registry.publication import Details
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.invariants import check_home, live_digests, stored_digests

NAME = "me/ink"


@dataclass(frozen=True)
class Scenario:
    """Work below a directory that holds `home`, `share` (a remote) and `files`.

    Attributes:
        prepare: What is done before.
        work: What may be interrupted; doing it again must always end well.
        is_atomic: Whether nobody may ever see it half done.
        check: What else must hold whenever it is interrupted, and after it.
        check_done: What else must hold after it.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    is_atomic: bool = True
    check: Callable[[Path], None] = lambda _: None
    check_done: Callable[[Path], None] = lambda _: None


def told(root: Path, home: str = "home") -> dict[str, Any]:
    """Return all that a home and a remote say, but for times, keys and garbage, in a form that compares."""
    found: dict[str, Any] = {}
    for path in root.glob("share/adapters/*/*/**/*.json"):
        found[str(path.relative_to(root))] = json.loads(path.read_text())
    if (root / home / "registry.db").exists():
        with closing(sqlite3.connect(root / home / "registry.db")) as database:
            for table, columns in TOLD.items():
                with suppress(sqlite3.OperationalError):  # a database without tables says nothing
                    rows = database.execute(f"SELECT {columns} FROM {table}").fetchall()  # noqa: S608
                    found |= {table: sorted(rows, key=repr)} if rows else {}
    return found


ADAPTER = "(SELECT namespace || '/' || name FROM adapter a WHERE a.id = adapter_id)"
VERSION = "(SELECT digest FROM version v WHERE v.id = version_id)"
HEAD = "(SELECT number FROM version v WHERE v.id = head_id)"
TOLD = {
    "adapter": f"namespace, name, title, description, card, kind, settings, {HEAD}",
    "version": f"{ADAPTER}, number, digest, state, yank_reason, message, author",
    "document": f"{VERSION}, name, sha256, size",
    "preview": f"{VERSION}, sha256, prompt, seed, settings",
    "tag": f"{ADAPTER}, tag",
    "alias": f"{ADAPTER}, name, number",
    "event WHERE action <> 'gc'": "action, subject, detail",
}


def prepared(prepare: Callable[[Path], None]) -> Callable[[Path], None]:
    """Let some preparation find the files that versions are made of."""

    def complete(root: Path) -> None:
        (root / "files").mkdir(parents=True)
        (root / "share").mkdir()
        for seed in (1, 2):
            (root / "files" / f"{seed}.safetensors").write_bytes(weights_bytes(seed))
            Image.new("RGB", (4, 4), (seed, 0, 0)).save(root / "files" / f"{seed}.png")
        prepare(root)

    return complete


def add(root: Path, seed: int, **settings: Any) -> None:
    """Add a version with documents and a preview."""
    with closing(Registry(root / "home")) as registry:
        registry.add(
            root / "files" / f"{seed}.safetensors",
            name=NAME,
            trigger_words=[f"word{seed}"],
            documents={"config.json": b"{}", "data.json": f"[{seed}]".encode()},
            previews=[root / "files" / f"{seed}.png"],
            **settings,
        )


def nothing(_: Path) -> None:
    """Prepare no home at all."""


def one_version(root: Path) -> None:
    """Prepare a home with one version, and a remote that is empty."""
    add(root, 1, title="Ink", tags=["grey"])
    with closing(Registry(root / "home")) as registry:
        registry.add_remote("team", (root / "share").as_uri())


def two_versions(root: Path) -> None:
    """Prepare a home with two versions."""
    one_version(root)
    add(root, 2)


def one_pushed(root: Path) -> None:
    """Prepare a remote with the first of two versions, under another title than the home's."""
    one_version(root)
    with closing(Registry(root / "home")) as registry:
        registry.push(NAME, remote="team", aliases=["prod"])
        registry.update(NAME, Details(title="Ink wash", tags=["grey", "wash"]))
    add(root, 2)


def one_pulled(root: Path) -> None:
    """Prepare a remote with two versions, and a home with the first of them."""
    one_version(root)
    push(root)
    shutil.copytree(root / "home", root / "kept")
    add(root, 2)
    push(root)
    shutil.rmtree(root / "home")
    (root / "kept").rename(root / "home")


def folder(root: Path) -> None:
    """Prepare an empty home, and a folder of another tool."""
    (root / "lora").mkdir()
    for seed in (1, 2):
        shutil.copy(root / "files" / f"{seed}.safetensors", root / "lora" / f"ink-{seed}.safetensors")
        shutil.copy(root / "files" / f"{seed}.png", root / "lora" / f"ink-{seed}.png")
        (root / "lora" / f"ink-{seed}.json").write_text('{"activation text": "inkwash"}')
    Registry(root / "home").close()


def add_second(root: Path) -> None:
    """Add a version, and say other things of the adapter."""
    add(root, 2, title="Ink wash", tags=["grey", "wash"], kind="style", message="darker")


def pull(root: Path) -> None:
    """Pull the second version."""
    with closing(Registry(root / "home")) as registry:
        registry.pull(f"{NAME}@2", remote="team")


def push(root: Path, *aliases: str) -> None:
    """Push the newest version."""
    with closing(Registry(root / "home")) as registry:
        registry.push(NAME, remote="team", aliases=aliases)


def delete(root: Path) -> None:
    """Delete the second version, if that was not done before."""
    with closing(Registry(root / "home")) as registry, suppress(TombstoneError):
        registry.delete(f"{NAME}@2")


def adopt_folder(root: Path) -> None:
    """Adopt a folder."""
    with closing(Registry(root / "home")) as registry:
        list(adopt(registry, root / "lora", namespace="me"))


def one_deleted(root: Path) -> None:
    """Prepare a home with one version, and all that another one needed."""
    two_versions(root)
    delete(root)


def collect(root: Path) -> None:
    """Collect what is not needed, at once."""
    with closing(Registry(root / "home")) as registry:
        registry.collect(grace=timedelta(0), keep=timedelta(0))


def check_collected(root: Path) -> None:
    """Nothing is stored but what is needed."""
    home = root / "home"
    assert stored_digests(home) == live_digests(home)
    assert not [
        path for place in ("trash", "staging") for path in home.glob(f"{place}/**/*") if path.is_file()
    ]


def one_backed_up(root: Path) -> None:
    """Prepare a home with two versions, and a backup from when it had one."""
    one_version(root)
    back_up(root)
    add(root, 2)


def back_up(root: Path) -> None:
    """Back up the home."""
    with closing(Registry(root / "home")) as registry:
        registry.backup(root / "backup")


def check_backup(root: Path) -> None:
    """A backup that is there is whole."""
    if (root / "backup" / MARKER).exists():
        assert list(verify_backup(root / "backup", lambda *_: None)) == []


def backed_up(root: Path) -> None:
    """Prepare a backup."""
    two_versions(root)
    back_up(root)


def restore_home(root: Path) -> None:
    """Restore a home, if that was not done before."""
    if not (root / "restored").exists():
        restore(root / "backup", root / "restored", lambda *_: None)


def check_restored(root: Path) -> None:
    """A restored home is as it was."""
    if (root / "restored").exists():
        check_home(root / "restored")
        assert told(root, "restored") == told(root)


SCENARIOS = {
    "first add": Scenario(prepared(nothing), lambda root: add(root, 1)),
    "add": Scenario(prepared(one_version), add_second),
    "pull": Scenario(prepared(one_pulled), pull),
    "first push": Scenario(prepared(one_version), push),
    "push": Scenario(prepared(one_pushed), push),
    "push with alias": Scenario(prepared(one_pushed), lambda root: push(root, "prod"), is_atomic=False),
    "delete": Scenario(prepared(two_versions), delete),
    "adopt": Scenario(prepared(folder), adopt_folder, is_atomic=False),
    "gc": Scenario(prepared(one_deleted), collect, check_done=check_collected),
    "first backup": Scenario(prepared(two_versions), back_up, check=check_backup),
    "backup": Scenario(prepared(one_backed_up), back_up, check=check_backup),
    "restore": Scenario(prepared(backed_up), restore_home, check=check_restored),
}
