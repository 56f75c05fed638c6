"""Tokens and keys stay where they belong: not in the database, the log, an answer, or any other file."""

from pathlib import Path

from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Answer, Served
from tests.registry.server.test_own_protocol import put, version_of
from tests.registry.server.test_process import log_of, started
from tests.registry.server.test_uploads import batch, commit_lfs
from tests.registry.server.xet_format import Pusher


def test_tokens_are_in_no_file_log_or_answer(home: Path) -> None:
    registry = Registry(home)
    people, tokens = People(registry.database), Tokens(registry.database)
    for user in ("bob", "gone"):
        people.add_user(user)
    people.add_organisation("acme", owner="bob")
    texts = {user: tokens.add(user)[0] for user in ("bob", "gone")}
    texts["past"], old = tokens.add("gone")
    tokens.remove(old.id)
    texts["wrong"] = "ahub_" + "Zm9vYmFyYmF6" * 4
    name = registry.create("acme/ink")
    found: list[Answer] = []
    with started(home) as (_, port):
        served = Served(registry, f"http://127.0.0.1:{port}", texts)
        for by in texts:
            for path in ("/healthz", "/api/whoami-v2", f"/api/models/{name}", "/v1/search", "/nothing"):
                found.append(served.ask("GET", f"{path}?token={texts[by]}", by=by))
            found.append(served.ask("PUT", f"/v1/adapters/{name}/blobs/{'0' * 64}", b"x", by=by))
            found.append(served.ask("POST", f"/api/models/{name}/commit/main", b"nonsense", by=by))
            found.append(served.ask("POST", "/api/repos/create", {"name": "bad name!"}, by=by))
        for kind in ("Basic", "bearer", "Bearer Bearer", "Token"):
            headers = {"Authorization": f"{kind} {texts['bob']}"}
            found.append(served.ask("GET", "/api/whoami-v2", headers=headers))
        # A whole push by each way.
        content = weights_bytes(1)
        (item,) = batch(served, name, content).table["objects"]
        found.append(served.ask("PUT", item["actions"]["upload"]["href"], content))
        found.append(served.ask("PUT", item["actions"]["upload"]["href"] + "0", content))
        found.append(commit_lfs(served, name, "ink.safetensors", content))
        pusher = Pusher(served, name)
        assert pusher.push(weights_bytes(2)) == {"type": "result"}
        put(served, name, weights_bytes(3))
        table = version_of(weights_bytes(3), 2)
        found.append(served.ask("POST", f"/v1/adapters/{name}/versions", table, by="bob"))
        assert found[-1].status == 201, found[-1]
    signature = item["actions"]["upload"]["href"].rpartition("signature=")[2]
    key = (home / "server.key").read_bytes()
    secrets = [part.encode() for text in texts.values() for part in (text, text[9:])]
    everything = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    everything["the log"] = log_of(home).read_bytes()
    assert b"/nothing" in everything["the log"]
    for secret in (*secrets, signature.encode(), pusher.grant.encode(), key, key.hex().encode()):
        named = [path for path, content in everything.items() if secret in content]
        assert named == ([str(home / "server.key")] if secret == key else []), named
    for answer in found:
        said = answer.content + repr(sorted(answer.headers.items())).encode()
        assert not [secret for secret in secrets if secret in said], answer
    registry.close()
