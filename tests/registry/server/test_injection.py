"""What people write is text: no answer is a page with it in, and no pointer or header comes of it."""

import json
from typing import Any

import pytest

from adapterhub_registry.server.people import People
from adapterhub_registry.server.routes import ROUTES
from adapterhub_registry.server.tokens import Tokens
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Served
from tests.registry.server.test_own_protocol import put, version_of
from tests.registry.server.test_roles import send
from tests.registry.server.xet_format import sha256_of

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\r\nX-Evil: 1\u2028"
ONE_LINE = EVIL.replace("\r\n", " ").replace("\u2028", " ")
TYPES = (
    "application/json",
    "text/css",
    "text/plain",
    "application/octet-stream",
    "image/png",
    "application/vnd.git-lfs+json",
)


@pytest.fixture(scope="module")
def evil(served: Served) -> str:
    """A public adapter on which everything that people may write is markup."""
    registry, name = served.registry, "acme/evil"
    People(registry.database).add_user("evan", title=EVIL)
    served.tokens["evan"] = Tokens(registry.database).add("evan", label=EVIL)[0]
    registry.create(name, visibility="public")
    content, note = weights_bytes(1), b"<script>alert(2)</script>"
    for item in (content, note):
        assert put(served, name, item).status == 201
    table = version_of(content)
    manifest: dict[str, Any] = json.loads(table["manifest"])
    manifest |= {"trigger_words": [ONE_LINE], "licence": ONE_LINE}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    table |= {
        "manifest": text,
        "digest": f"sha256:{sha256_of(text.encode())}",
        "message": EVIL,
        "author": EVIL,
    }
    table["documents"] = [{"name": "note.txt", "sha256": sha256_of(note), "size": len(note)}]
    table["details"] = {
        "title": ONE_LINE,
        "description": EVIL,
        "card": EVIL,
        "settings": {"negative_prompt": ONE_LINE},
    }
    found = served.ask("POST", f"/v1/adapters/{name}/versions", table, by="bob")
    assert found.status == 201, found
    readme = f"---\nlicense: mit\ninstance_prompt: {json.dumps(ONE_LINE)}\n---\n# {ONE_LINE}\n\n{EVIL}\n"
    assert served.commit(name, {"README.md": readme.encode()}, title=EVIL).status == 200
    registry.yank(f"{name}@1", ONE_LINE)
    registry.unyank(f"{name}@1")
    return name


def test_no_answer_is_a_page_of_what_people_wrote(served: Served, evil: str) -> None:
    told = 0
    for route in ROUTES:
        if route.method != "GET":
            continue
        found = send(served, route, evil, "evil", "evan")
        kind = found.headers.get("content-type", "").partition(";")[0]
        assert found.headers["x-content-type-options"] == "nosniff", route
        assert "x-evil" not in found.headers, route
        told += b"script>alert" in found.content
        if kind == "text/html":
            policy = found.headers["content-security-policy"]
            assert f"default-src '{'self' if route.is_page else 'none'}'" in policy, route
            assert "unsafe-inline" not in policy or not route.is_page, route
            assert b"<script>alert" not in found.content, route
            assert b"onerror=" not in found.content.replace(b"x onerror=alert(1)&gt;", b""), route
        else:
            assert kind in TYPES or found.content == b"", (route, kind)
    assert told > 5  # it is told, as text


@pytest.mark.parametrize("status", [400, 404, 501])
def test_errors_that_say_what_was_asked_are_no_pages(served: Served, status: int) -> None:
    path = {400: "/v1/search?sort=", 404: "/api/models/acme/", 501: "/api/datasets/"}[status]
    found = served.ask("GET", path + "%3Cimg%20src=x%20onerror=alert(1)%3E%0d%0aX-Evil:%201", by="bob")
    assert found.status == status
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "x-evil" not in found.headers


def test_a_pointer_to_the_file_of_another_is_text(served: Served) -> None:
    secret = weights_bytes(77)
    assert put(served, served.registry.create("acme/hidden"), secret).status == 201
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256_of(secret)}\nsize {len(secret)}\n"
    )
    own = served.registry.create("other/points")
    as_weights = served.commit(own, {"ink.safetensors": pointer.encode()}, by="other")
    assert as_weights.status == 400
    assert served.commit(own, {"pointer.txt": pointer.encode()}, by="other").status == 200
    read = served.ask("GET", f"/{own}/resolve/main/pointer.txt", by="other")
    assert read.content == pointer.encode()
    (listed,) = served.ask("GET", f"/api/models/{own}/tree/main", by="other").table
    assert "lfs" not in listed
