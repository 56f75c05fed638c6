"""Who is let in, and what is there for those who look."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from adapterhub.errors import PlaneError
from adapterhub.runtime.engine import Runtime
from adapterhub.serving.app import make_app
from adapterhub.serving.errors import AddressError, SecretError, SecretNeededError
from adapterhub.serving.limits import RequestLimits
from adapterhub.serving.page import PAGE
from adapterhub.serving.secret import Secret, find_secret, require_secret
from adapterhub.serving.server import bind
from adapterhub_registry.store import Registry
from tests.adapterhub.serving.conftest import serving
from tests.registry.conftest import weights_bytes

SECRET = "open:sesame"  # noqa: S105 - what else could a test say


def basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


@pytest.fixture(scope="module")
def locked(runtime: Runtime) -> Iterator[httpx2.Client]:
    limits = RequestLimits(steps=2, pixels=64 * 64, count=1)
    with serving(runtime, secret=Secret(SECRET), limits=limits) as client:
        yield client


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        (SECRET, 401),
        ("Bearer", 401),
        ("Bearer open:sesam", 401),
        (f"Digest {SECRET}", 401),
        ("Bearer \xe9".encode("latin-1"), 401),
        (basic(SECRET, ""), 401),
        ("Basic !", 401),
        (f"Bearer {SECRET}", 200),
        (f"bearer {SECRET}", 200),
        (basic("anybody", SECRET), 200),
    ],
)
def test_only_who_knows_the_secret_is_let_in(
    locked: httpx2.Client, header: str | bytes | None, status: int
) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/adapters", "/metrics", "/sdapi/v1/options"):
        answer = locked.get(path, headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] == ("Basic" if path.startswith("/sdapi") else "Bearer")


def test_the_page_and_the_health_are_for_all(locked: httpx2.Client) -> None:
    assert locked.get("/healthz").json()["status"] == "ok"
    assert locked.get("/").text == PAGE.read_text()
    assert locked.get("/no/such").status_code == 401


def test_the_page_takes_nothing_from_elsewhere(client: httpx2.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)|@import|url\(|https?://""", page.text)
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")


def test_with_a_secret_any_host_name_is_served_and_without_only_this_machine_s(
    locked: httpx2.Client, client: httpx2.Client
) -> None:
    open_to = {"Authorization": f"Bearer {SECRET}"}
    assert locked.get("/v1/adapters", headers={"Host": "draw.example.org"} | open_to).status_code == 200
    for host in ("localhost:8010", "127.0.0.1", "[::1]:8010"):
        assert client.get("/v1/adapters", headers={"Host": host}).status_code == 200
    # What a browser sends for a page whose name was made to point here.
    for host in ("draw.example.org", "localhost.example.org:8010", "10.0.0.1"):
        refused = client.get("/v1/adapters", headers={"Host": host})
        assert (refused.status_code, refused.json()["code"]) == (403, "host-refused")


def test_limits_are_those_that_the_server_was_given(locked: httpx2.Client) -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    told = locked.get("/v1/runtime", headers=headers).json()
    assert (told["base"], told["size"]) == ("mini", 64)
    assert told["limits"] == {"pixels": 4096, "steps": 2, "count": 1, "body_bytes": 32 << 20}
    for setting in ({"steps": 3}, {"steps": 1, "count": 2}, {"steps": 1, "width": 72}):
        answer = locked.post("/v1/generate", json={"prompt": "a star", **setting}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "setting-invalid")


def test_adapters_are_told_in_pages(client: httpx2.Client) -> None:
    first = client.get("/v1/adapters", params={"limit": 1}).json()
    assert first["adapters"] == [
        {
            "name": "me/corgi",
            "title": "",
            "description": "",
            "kind": "other",
            "tags": [],
            "versions": [1],
            "aliases": {},
            "latest": 1,
            "trigger_words": ["corgistyle"],
            "recommended_weight": "0.8",
            "architecture": "mini",
            "fits": True,
        }
    ]
    rest = client.get("/v1/adapters", params={"limit": 1, "after": first["next"]}).json()
    assert [one["name"] for one in rest["adapters"]] == ["me/ink"]
    assert rest["next"] is None
    assert [one["name"] for one in client.get("/v1/adapters?q=inks").json()["adapters"]] == ["me/ink"]
    for query in ("limit=0", "limit=many", "after=x"):
        assert client.get(f"/v1/adapters?{query}").status_code == 422


def test_an_adapter_of_another_architecture_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(weights_bytes(1, text_width=2048))
    Registry().add(tmp_path / "other.safetensors", name="me/other")
    with Runtime.load("mini", registry=Registry(), device="cpu") as other, serving(other) as client:
        (told,) = client.get("/v1/adapters").json()["adapters"]
        assert (told["architecture"], told["fits"]) == ("sdxl", False)
        answer = client.post("/v1/generate", json={"prompt": "a star", "composition": "me/other"})
        assert (answer.status_code, answer.json()["code"]) == (422, "architecture-mismatch")
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["mini"]
        other.close()
        answer = client.post("/v1/generate", json={"prompt": "a star"})
        assert (answer.status_code, answer.json()["code"]) == (503, "runtime-closed")
        assert client.get("/healthz").status_code == 503


def test_metrics_are_in_prometheus_text_format(client: httpx2.Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    types: dict[str, str] = {}
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in types
            types[name] = kind
        elif not line.startswith("# HELP "):
            found = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [\d.]+', line)
            assert found, line
            family = re.sub(r"_(bucket|sum|count)$", "", found[1])
            assert types.get(family) == "histogram" or found[1] in types
    assert types["adapterhub_jobs_queued"] == "gauge"
    assert types["adapterhub_residency_reads_total"] == "counter"


def test_unknown_paths_and_methods_are_json_too(client: httpx2.Client) -> None:
    assert client.get("/no/such").json() == {"code": "http-404", "message": "Not Found"}
    assert client.get("/v1/generate").json()["code"] == "http-405"


def test_a_secret_is_found_in_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_secret() is None
    monkeypatch.setenv("ADAPTERHUB_SECRET", "from-the-environment\n")
    assert find_secret() == Secret("from-the-environment", "ADAPTERHUB_SECRET")
    file = tmp_path / "secret"
    file.write_text("from-the-file\n")
    found = find_secret(file)
    assert found == Secret("from-the-file", str(file))
    assert "from" not in repr(found).replace(str(file), "")
    for content in (b"", b"\n", b"two words", "s\xe9same".encode(), b"\xff"):
        file.write_bytes(content)
        with pytest.raises(SecretError) as caught:
            find_secret(file)
        assert caught.value.source == str(file)
    with pytest.raises(SecretError):
        find_secret(tmp_path / "none")


def test_other_machines_are_served_with_a_secret_alone() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        require_secret(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", ""):  # noqa: S104 - they are refused
        with pytest.raises(SecretNeededError) as caught:
            require_secret(host, None)
        assert caught.value.host == host
        require_secret(host, Secret("opensesame"))


def test_an_address_that_is_taken_or_not_ours_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for host, number in (("127.0.0.1", port), ("192.0.2.1", 0), ("no.such.invalid", 0)):
            with pytest.raises(AddressError) as caught:
                bind(host, number)
            assert (caught.value.host, caught.value.port) == (host, number)


def test_a_plane_for_all_requests_is_in_the_record(runtime: Runtime) -> None:
    with serving(runtime, plane="low_rank") as client:
        body = {"prompt": "a star", "steps": 1, "composition": "me/ink"}
        (made,) = client.post("/v1/generate", json=body).json()["pictures"]
        assert made["record"]["plane"] == "low_rank"
        (made,) = client.post("/v1/generate", json=body | {"plane": "fused"}).json()["pictures"]
        assert made["record"]["plane"] == "fused"
    with pytest.raises(PlaneError):
        make_app(runtime, plane="air")
