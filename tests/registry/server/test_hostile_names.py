"""Names that lead elsewhere, by every way in: nothing outside is read or written, and nothing fails."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import quote, unquote

import pytest

from adapterhub_registry.server.openapi import PARAMETER
from adapterhub_registry.server.routes import ROUTES, Route
from adapterhub_registry.server.signing import Signer
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Answer, Served
from tests.registry.server.test_own_protocol import put, version_of
from tests.registry.server.test_roles import BODIES, OID
from tests.registry.server.xet_format import Pusher, sha256_of

UP = (
    "../",
    "..\\",
    "....//",
    "%2e%2e/",
    "%252e%252e%252f",
    "..%00/",
    "..;/",
    "\u2025/",
    "\uff0e\uff0e\uff0f",
    "",
)
TARGETS = ("outside.txt", "server.key", "registry.db", "etc/passwd", "blobs", ".git/config", "con")
ODD = (
    *(
        "",
        ".",
        "..",
        "...",
        "/",
        "//",
        "\\",
        "~",
        "~root",
        "$HOME",
        "`id`",
        "|id",
        "*",
        "?",
        "#",
        "%",
        "%00",
        "\0",
    ),
    *(
        "a\r\nX-Evil: 1",
        "file:///etc/passwd",
        "//evil.example/x",
        "\\\\host\\share",
        "C:\\x",
        "x" * 300,
        "\u202etxt",
    ),
    *("é" * 200, "'; DROP TABLE adapter; --", "<script>", "a/../../b", "%c0%ae%c0%ae/", "-rf", " ", "\ud800"),
)
NAMES = [*ODD, *(step * depth + target for step, depth, target in product(UP, (1, 4, 9), TARGETS))][:210]
EVERY = [40, pytest.param(1, marks=pytest.mark.long)]
MARK = b"what lies outside the home"


@dataclass(frozen=True)
class Door:
    """A place in a request where a name may stand."""

    route: Route
    parameter: str = ""
    """In the address; else `key`."""
    key: str = ""
    """In the body."""


DOORS = [
    *(Door(route, parameter=name) for route in ROUTES for name in PARAMETER.findall(route.path)),
    *(
        Door(route, key=key)
        for route in ROUTES
        if isinstance(body := BODIES.get((route.method, route.path)), dict)
        for key in (*body, *route.fields, "name", "files", "paths", "ref")
    ),
]


def through(served: Served, door: Door, adapter: str, name: str) -> Answer:
    """Send a request that is right but for one name in it."""
    route = door.route
    generation, grant = "0" * 18, ""
    if route.rule.role == "granted":
        pusher = Pusher(served, adapter)
        generation, grant = pusher.url.rpartition("/")[2], pusher.grant
    values = dict(zip(("namespace", "name"), adapter.split("/"), strict=True)) | {
        "revision": "main",
        "path": "README.md",
        "branch": "draft",
        "tag": "none",
        "oid": OID,
        "hash": OID,
        "generation": generation,
        "prefix": "default",
        "sha256": OID,
        "selector": "1",
        "alias": "prod",
        "position": "1",
    }
    shown = name.encode("utf-8", "surrogatepass")
    if door.parameter:
        values[door.parameter] = quote(shown, safe="")
    path = route.path.replace(":path", "").format(**values)
    body: Any = BODIES.get((route.method, route.path))
    if isinstance(body, dict):
        body = {key: {"{adapter}": adapter}.get(str(value), value) for key, value in body.items()}
        body |= {door.key: name} if door.key else {}
        body = json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {grant or served.tokens['alice']}"}
    if route.rule.role == "signed":
        signed = Signer(served.registry.home).sign(unquote(path), size=3, user="alice", part=1, step=3)
        path += "?" + signed.rpartition("?")[2]
    return served.ask(route.method, path, body, headers=headers)


def outside(served: Served) -> dict[str, tuple[int, int]]:
    """Which files lie beside the home, how large they are, and when they were written."""
    home = served.registry.home
    files = (path for path in home.parent.rglob("*") if not path.is_relative_to(home))
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()}


def inside(served: Served) -> set[str]:
    """The folders at the top of the home, and how deep files lie in it."""
    home = served.registry.home
    return {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()}


@pytest.fixture
def guarded(served: Served) -> Iterator[Served]:
    """The server, with something outside that must stay as it is and be told to nobody."""
    home = served.registry.home
    (home.parent / "outside.txt").write_bytes(MARK)
    before = outside(served)
    yield served
    assert outside(served) == before
    assert not [above for above in home.parents[1:] if (above / "outside.txt").exists()]
    known = {"blobs", "staging", "partial", "uploads", "xet", "server.key", "registry.db", "registry.lock"}
    assert {name.removesuffix("-wal").removesuffix("-shm") for name in inside(served)} <= known | {"gc.lock"}


def check(served: Served, found: Answer, what: object) -> None:
    assert found.status < 500 or found.status == 501, (what, found)
    assert "x-evil" not in found.headers, what
    secrets = (MARK, (served.registry.home / "server.key").read_bytes(), b"SQLite format", b"root:x:")
    assert not [secret for secret in secrets if secret in found.content], (what, found)
    assert str(served.registry.home).encode() not in found.content, (what, found)


def test_there_are_enough_names_and_doors() -> None:
    assert len(set(NAMES)) >= 200
    named = {(door.route.method, door.route.path) for door in DOORS if door.parameter}
    assert named == {(route.method, route.path) for route in ROUTES if "{" in route.path}


@pytest.mark.parametrize("step", EVERY)
def test_no_name_in_a_request_leads_elsewhere(guarded: Served, step: int) -> None:
    adapter = guarded.registry.create(f"acme/guarded-{step}")
    for number, door in enumerate(DOORS):
        for name in NAMES[number % step :: step]:
            check(guarded, through(guarded, door, adapter, name), (door, name))
        if guarded.ask("GET", f"/api/models/{adapter}", by="alice").status != 200:
            adapter = guarded.registry.create(f"acme/guarded-{step}-{number}")


@pytest.mark.parametrize("step", EVERY)
def test_no_path_of_a_file_leads_elsewhere(guarded: Served, step: int) -> None:
    adapter = guarded.registry.create(f"acme/paths-{step}")
    content = weights_bytes(1)
    put(guarded, adapter, content)
    file = {"content": b64encode(b"text").decode(), "encoding": "base64"}
    large = {"algo": "sha256", "oid": sha256_of(content), "size": len(content)}
    for name in NAMES[::step]:
        for key, value in (("file", file), ("lfsFile", large), ("deletedFile", {}), ("deletedFolder", {})):
            line = {"key": key, "value": {**value, "path": name}}
            check(guarded, guarded.commit(adapter, by="bob", lines=(line,)), (key, name))
        early = {"files": [{"path": name, "size": 1, "sample": "eA=="}]}
        check(guarded, guarded.ask("POST", f"/api/models/{adapter}/preupload/main", early, by="bob"), name)
        asked = f"paths={quote(name.encode('utf-8', 'surrogatepass'))}".encode()
        check(guarded, guarded.ask("POST", f"/api/models/{adapter}/paths-info/main", asked, by="bob"), name)
        for beside in ("documents", "previews"):
            entry = {"name": name, "sha256": "0" * 64, "size": 1}
            table = version_of(content, **{beside: [entry]})
            check(guarded, guarded.ask("POST", f"/v1/adapters/{adapter}/versions", table, by="bob"), name)
        table = version_of(content)
        table["manifest"] = table["manifest"].replace(
            "pytorch_lora_weights.safetensors", json.dumps(name)[1:-1]
        )
        check(guarded, guarded.ask("POST", f"/v1/adapters/{adapter}/versions", table, by="bob"), name)
    assert guarded.registry.versions(adapter) == []
