"""A real server on loopback, with a registry of random adapters."""

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from PIL import Image

from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.runtime.engine import Runtime
from adapterhub.serving.app import make_app
from adapterhub.serving.server import bind, url_of
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import random_adapter

QUEUE = 4
"""How many jobs may wait."""


@contextmanager
def serving(runtime: Runtime, **settings: Any) -> Iterator[httpx2.Client]:
    """Serve a runtime in a thread, and give a client of it."""
    taken = bind("127.0.0.1", 0)
    config = uvicorn.Config(make_app(runtime, **settings), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        with httpx2.Client(base_url=url_of(taken), timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def picture(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def gauge(client: httpx2.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[-1])


def wait_until(client: httpx2.Client, name: str, value: float) -> None:
    """Ask until a metric has a value."""
    for _ in range(2000):
        if gauge(client, name) == value:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{name} is {gauge(client, name)}")


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A runtime whose registry has `me/ink` and `me/corgi`."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    with Runtime.load("mini", registry=registry, device="cpu", queue_limit=QUEUE) as runtime:
        for seed, name in enumerate(("ink", "corgi")):
            path = registry.home / f"{name}.safetensors"
            path.write_bytes(diffusers_bytes(random_adapter(runtime, seed)))
            words = [f"{name}style"]
            registry.add(path, name=f"me/{name}", base="mini", trigger_words=words, recommended_weight=0.8)
        yield runtime


@pytest.fixture(scope="session")
def client(runtime: Runtime) -> Iterator[httpx2.Client]:
    with serving(runtime) as client:
        yield client
