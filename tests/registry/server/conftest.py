"""A server on loopback with people on it, and plain HTTP to ask it."""

import http.client
import json
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from adapterhub_registry.server.app import create_app
from adapterhub_registry.server.people import People
from adapterhub_registry.server.process import _listen  # pyright: ignore[reportPrivateUsage]
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def table(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Served:
    """A registry, the address of its server, and tokens by the names of their users."""

    registry: Registry
    url: str
    tokens: dict[str, str] = field(default_factory=dict[str, str])

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, as one of the people; tables go as JSON."""
        sent = {"Authorization": f"Bearer {self.tokens[by]}"} if by else {}
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            target = path.removeprefix(self.url)
            connection.request(method, target, body, {**sent, **(headers or {})})
            found = connection.getresponse()
            named = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, named, found.read())
        finally:
            connection.close()

    def commit(
        self,
        name: str,
        files: Mapping[str, bytes] | None = None,
        *,
        by: str = "alice",
        branch: str = "main",
        parent: str | None = None,
        lines: tuple[dict[str, Any], ...] = (),
        title: str = "Change",
    ) -> Answer:
        """Commit files in the way of small ones."""
        header = {"summary": title, **({"parentCommit": parent} if parent else {})}
        rows: list[dict[str, Any]] = [{"key": "header", "value": header}]
        for path, content in (files or {}).items():
            text = b64encode(content).decode()
            rows.append({"key": "file", "value": {"path": path, "content": text, "encoding": "base64"}})
        body = "\n".join(map(json.dumps, [*rows, *lines])).encode()
        return self.ask("POST", f"/api/models/{name}/commit/{branch}", body, by=by)

    def head(self, name: str, revision: str = "main") -> str:
        """The SHA that a revision stands at."""
        return self.ask("GET", f"/api/models/{name}/revision/{revision}", by="alice").table["sha"]


@contextmanager
def serving(home: Path, **options: Any) -> Iterator[Served]:
    """Serve a home from a thread, with Alice, who owns acme, Bob, who writes there, and Rita, who reads."""
    registry = Registry(home)
    people, tokens = People(registry.database), Tokens(registry.database)
    for name in ("alice", "bob", "rita", "other"):
        people.add_user(name)
    people.add_organisation("acme", owner="alice")
    people.set_member("acme", "bob", "writer")
    people.set_member("acme", "rita", "reader")
    texts = {name: tokens.add(name)[0] for name in ("alice", "bob", "rita", "other")}
    texts["alice, reading"] = tokens.add("alice", scope="read")[0]
    texts["nobody"] = "ahub_nobody"
    with _listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(create_app(registry, **options), log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(registry, f"http://127.0.0.1:{listening.getsockname()[1]}", texts)
        finally:
            server.should_exit = True
            thread.join()
            registry.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "home") as found:
        yield found


@pytest.fixture
def adapter(served: Served, request: pytest.FixtureRequest) -> str:
    """An empty private adapter of acme, of a name of its own."""
    name: str = request.node.name
    short = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    while "--" in short:
        short = short.replace("--", "-")
    return served.registry.create(f"acme/{short.strip('-')[:90]}")
