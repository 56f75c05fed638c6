"""How fast the registry server is, beside the clients that people have, on loopback.

    python benchmarks/server.py --out benchmarks/results/server.json
    python benchmarks/server.py --size 20 --rounds 3 --adapters 500        # small

Each way to push and pull has a process of its own that stays, so that imports and connections are not in the
figures; the ways take turns, and each push is of a file that nobody has seen. Ours pushes a version that
`add` put into the local registry before, so that its digest is known; the stock client has a file. The best
round of each decides, since whatever else a machine does only adds to it: a virtual machine that gets memory
from its host takes twice as long, by chance in one way or in another. Medians stand beside it.

- push, pull: one file of weights. Ours verifies what it pulls; `hf_hub_download` does not.
- current: is a version of five files the newest? Ours asks once; beside it `snapshot_download`, warm.
- search: pages of 50 of 10,000 adapters, in the time that the server's own log says.
- slow clients: what others wait for, while 200 hang in half a request or an unread answer.
- floor: what SHA-256, and writing with a sync, cost for the same bytes.
"""

import hashlib
import http.client
import json
import os
import platform
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import click
import numpy as np

from adapterhub_registry.server.people import People
from adapterhub_registry.server.tokens import Tokens
from adapterhub_registry.store import Registry
from registry import fill, word_pairs  # noqa: TID251 - the script beside this one

BOUNDS = {
    "pull, part of hf_hub_download": 0.5,
    "current, part of snapshot_download": 0.2,
    "current, requests": 1,
    "push new, part of LFS": 0.6,
    "push new, part of Xet": 0.35,
    "push unchanged, part of LFS": 0.1,
    "push unchanged, part of Xet": 0.03,
    "stock Xet push, part of stock LFS push": 1.8,
    "search, server ms, p95": 10.0,
    "cold start, s": 1.5,
    "memory with all adapters, MiB": 300,
    "p99 with slow clients, part of without": 2.0,
}
WAYS = ("ours", "lfs", "xet")
MODULE = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
WIDTHS = (160, 96)


def weights(path: Path, megabytes: int) -> Path:
    """Write a file of weights that nobody has seen."""
    rank = (megabytes << 20) // (4 * sum(WIDTHS))
    ends = np.cumsum([0, 4 * rank * WIDTHS[0], 4 * rank * WIDTHS[1]]).tolist()
    header = {
        f"{MODULE}.lora_A.weight": {"dtype": "F32", "shape": [rank, WIDTHS[0]], "data_offsets": ends[:2]},
        f"{MODULE}.lora_B.weight": {"dtype": "F32", "shape": [WIDTHS[1], rank], "data_offsets": ends[1:]},
    }
    text = json.dumps(header).encode()
    random = np.random.default_rng(secrets.randbits(64))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(random.standard_normal(ends[2] // 4, dtype=np.float32).tobytes())
    return path


@contextmanager
def server(home: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Run the server; yield its process, its address, and the seconds to its first answer."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "adapterhub_cli", "serve", "registry", "--port", "0", "--rate", "0"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--home", str(home)], stderr=file, text=True)  # noqa: S603
        try:
            while not (found := re.search(r"http://\S+", log.read_text())):
                time.sleep(0.002)
            ask(found[0], "/healthz")
            yield process, found[0], time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()


def ask(url: str, path: str, token: str = "") -> bytes:
    """Send one request on a connection of its own."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    found = connection.getresponse()
    content = found.read()
    connection.close()
    if found.status != 200:
        raise SystemExit(f"{path}: {found.status} {content[:200]!r}")
    return content


def people(home: Path) -> str:
    """Make a home with one user, and return the token."""
    registry = Registry(home)
    People(registry.database).add_user("bench")
    token, _ = Tokens(registry.database).add("bench")
    registry.close()
    return token


class Worker:
    """A process that pushes and pulls in one way, and says how long each took."""

    def __init__(self, way: str, url: str, token: str, folder: Path) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = kept | {
            "HF_ENDPOINT": url,
            "HF_TOKEN": token,
            "HF_HOME": str(folder / way),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1" if way == "lfs" else "0",
            "ADAPTERHUB_TOKEN": token,
            "ADAPTERHUB_HOME": str(folder / "ours"),
        }
        command = [sys.executable, __file__, "--worker", way]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def do(self, what: str, *words: object) -> float:
        """Return the seconds that something took, on a disk that has written what others left to it."""
        os.sync()
        asked, told = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        asked.write(json.dumps([what, *map(str, words)]) + "\n")
        asked.flush()
        line = told.readline()
        if not line:
            raise SystemExit(f"{what} failed")
        return float(line)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def work(way: str) -> None:
    """Do what is asked, and print the seconds."""
    steps = ours() if way == "ours" else stock()
    for line in sys.stdin:
        what, *words = json.loads(line)
        began = time.perf_counter()
        steps[what](*words)
        print(time.perf_counter() - began, flush=True)


def ours() -> dict[str, Callable[..., object]]:
    """Our own client."""
    url = os.environ["HF_ENDPOINT"]

    @cache
    def at(home: str) -> Registry:
        return Registry(Path(home))

    def add(home: str, path: str, name: str, *files: str) -> object:
        documents = {Path(file).name: Path(file).read_bytes() for file in files}
        return at(home).add(path, name=name, base="mini", documents=documents)

    return {
        "open": at,
        "add": add,
        "push": lambda home, name: at(home).push(name, remote=url, with_data=True),
        "pull": lambda home, name: at(home).pull(name, remote=url),
    }


def stock() -> dict[str, Callable[..., object]]:
    """The client of huggingface_hub."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    api = HfApi()
    return {
        "create": lambda name: api.create_repo(name, private=True),
        "push": lambda path, name: api.upload_file(
            path_or_fileobj=path, path_in_repo="pytorch_lora_weights.safetensors", repo_id=name
        ),
        "pull": lambda cache, name: hf_hub_download(
            name, "pytorch_lora_weights.safetensors", cache_dir=cache, force_download=True
        ),
        "snapshot": lambda cache, name: snapshot_download(name, cache_dir=cache),
    }


def measure_moves(folder: Path, megabytes: int, rounds: int) -> dict[str, float]:
    """Push, push again and pull, in every way in turn."""
    home = folder / "hub"
    token = people(home)
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    with server(home, folder / "log") as (_, url, _):
        workers = {way: Worker(way, url, token, folder) for way in WAYS}
        for number in range(-1, rounds):  # the first round warms up
            order = WAYS[number % 3 :] + WAYS[: number % 3]
            for way in order:
                path, name = weights(folder / "w.safetensors", megabytes), f"bench/{way}-{number + 1}"
                worker = workers[way]
                worker.do(*(("add", folder / "ours", path, name) if way == "ours" else ("create", name)))
                what = (folder / "ours", name) if way == "ours" else (path, name)
                new, again = worker.do("push", *what), worker.do("push", *what)
                if number >= 0:
                    note(f"push new, {way}", new)
                    note(f"push unchanged, {way}", again)
            name = f"bench/ours-{number + 1}"
            for way in order[:2] if "ours" in order[:2] else ("ours", order[0]):
                where = folder / "pulled" / f"{way}-{number}"
                where.mkdir(parents=True)
                if way == "ours":
                    workers[way].do("open", where)
                taken = workers[way].do("pull", where, name)
                if number >= 0:
                    note(f"pull, {'ours' if way == 'ours' else 'hf_hub_download'}", taken)
                subprocess.run(["rm", "-rf", str(where)], check=True)  # noqa: S603, S607
            if number >= 0:
                measure_floor(folder / "w.safetensors", note)
            clear(folder / "ours", home)
        measure_current(folder, workers, note)
        for worker in workers.values():
            worker.close()
        after = (folder / "log").read_text().count("/v1/adapters/bench/five/versions/")
    seconds = {name: min(times) for name, times in found.items()}
    medians = {f"{name}, median s": float(np.median(times)) for name, times in found.items()}
    parts = {
        "pull, part of hf_hub_download": seconds["pull, ours"] / seconds["pull, hf_hub_download"],
        "push new, part of LFS": seconds["push new, ours"] / seconds["push new, lfs"],
        "push new, part of Xet": seconds["push new, ours"] / seconds["push new, xet"],
        "push unchanged, part of LFS": seconds["push unchanged, ours"] / seconds["push unchanged, lfs"],
        "push unchanged, part of Xet": seconds["push unchanged, ours"] / seconds["push unchanged, xet"],
        "stock Xet push, part of stock LFS push": seconds["push new, xet"] / seconds["push new, lfs"],
        "current, part of snapshot_download": seconds["current, ours"]
        / seconds["current, snapshot_download"],
        "current, requests": (after - 1) / len(found["current, ours"]),
    }
    return {f"{name}, s": value for name, value in seconds.items()} | medians | parts


def clear(*homes: Path) -> None:
    """Make room: blobs of rounds that are over are needed by nobody."""
    for home in homes:
        for path in (home / "blobs").glob("sha256/*/*/*"):
            if path.stat().st_size > 1 << 20:
                path.unlink()


def measure_floor(path: Path, note: Callable[[str, float], None]) -> None:
    """Hash a file, and write it with a sync."""
    content = path.read_bytes()
    began = time.perf_counter()
    hashlib.sha256(content).digest()
    note("floor, SHA-256", time.perf_counter() - began)
    began = time.perf_counter()
    with path.with_suffix(".copy").open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    note("floor, write and sync", time.perf_counter() - began)


def measure_current(folder: Path, workers: dict[str, Worker], note: Callable[[str, float], None]) -> None:
    """Ask whether a version of five files is current."""
    path, home, cache = weights(folder / "five.safetensors", 1), folder / "ours", folder / "cache"
    files = [folder / f"{name}.json" for name in "abc"]
    for number, file in enumerate(files):
        file.write_text(json.dumps({"number": number}))
    workers["ours"].do("add", home, path, "bench/five", *files)
    workers["ours"].do("push", home, "bench/five")
    workers["ours"].do("pull", home, "bench/five")
    workers["xet"].do("snapshot", cache, "bench/five")
    for _ in range(25):
        note("current, ours", workers["ours"].do("pull", home, "bench/five"))
        note("current, snapshot_download", workers["xet"].do("snapshot", cache, "bench/five"))


def measure_search(folder: Path, adapters: int, versions: int, rounds: int) -> dict[str, float]:
    """Search among many adapters, and start cold on them."""
    home, log = folder / "many", folder / "many.log"
    vocabulary = fill(home, adapters, versions)
    with sqlite3.connect(home / "registry.db") as database:
        database.execute("UPDATE adapter SET visibility = 'public'")
    database.close()
    starts: list[float] = []
    for _ in range(5):
        with server(home, log) as (_, _, seconds):
            starts.append(seconds)
    with server(home, log) as (process, url, _):
        for first, second in word_pairs(vocabulary, rounds):
            for query in (f"q={first}+{second}", f"q={first}", f"tag={first}", "sort=updated"):
                ask(url, f"/v1/search?{query}")
        status = Path(f"/proc/{process.pid}/status").read_text()
    times = [float(text) for text in re.findall(r"/v1/search 200 \d+B ([\d.]+)ms", log.read_text())]
    (memory,) = re.findall(r"VmHWM:\s+(\d+)", status)
    return {
        "search, server ms, median": float(np.median(times)),
        "search, server ms, p95": float(np.percentile(times, 95)),
        "cold start, s": float(np.median(starts)),
        "memory with all adapters, MiB": int(memory) / 1024,
    }


def measure_slow(folder: Path, clients: int, rounds: int) -> dict[str, float]:
    """Ask for the same with and without slow clients, in turn."""
    home = folder / "slow"
    token = people(home)
    registry = Registry(home)
    registry.add(weights(folder / "slow.safetensors", 16), name="bench/ink", base="mini")
    registry.close()
    found: dict[bool, list[float]] = {True: [], False: []}
    with server(home, folder / "slow.log") as (_, url, _):
        host, port = url.removeprefix("http://").split(":")
        for _ in range(3):
            for is_slow in (False, True):
                with ExitStack() as stack:
                    for text in islice(halves(token), clients if is_slow else 0):
                        slow = stack.enter_context(socket.create_connection((host, int(port))))
                        slow.sendall(text)
                    if is_slow:
                        time.sleep(1)  # until what they began hangs
                    for _ in range(rounds):
                        began = time.perf_counter()
                        ask(url, "/v1/adapters/bench/ink", token)
                        found[is_slow].append(1000 * (time.perf_counter() - began))
    with_slow, without = (float(np.percentile(found[is_slow], 99)) for is_slow in (True, False))
    return {
        "p99 with slow clients, ms": with_slow,
        "p99 without, ms": without,
        "p99 with slow clients, part of without": with_slow / without,
    }


def halves(token: str) -> Iterator[bytes]:
    """What slow clients begin with."""
    said = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    while True:
        yield b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "
        yield f"POST /api/models/bench/ink/commit/main {said}Content-Length: 1000\r\n\r\n{{".encode()
        path = "/bench/ink/resolve/main/pytorch_lora_weights.safetensors"
        yield f"GET {path} {said}\r\n".encode()


@click.command()
@click.option("--size", type=int, default=200, show_default=True, help="Of a file, in MiB.")
@click.option("--rounds", type=int, default=9, show_default=True)
@click.option("--adapters", type=int, default=10_000, show_default=True)
@click.option("--versions", type=int, default=10, show_default=True, help="Of each adapter.")
@click.option("--clients", type=int, default=200, show_default=True, help="Slow ones.")
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--worker", hidden=True)
def main(
    size: int, rounds: int, adapters: int, versions: int, clients: int, out: Path | None, worker: str | None
) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    if worker is not None:
        work(worker)
        return
    print(f"{size} MiB, {rounds} rounds, {adapters} adapters, {adapters * versions} versions, {clients} slow")
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_moves(Path(folder), size, rounds)
        measured |= measure_search(Path(folder), adapters, versions, 50)
        measured |= measure_slow(Path(folder), clients, 300)
    rows: list[dict[str, Any]] = []
    for name, value in measured.items():
        row, verdict = {"measure": name, "value": round(value, 4)}, ""
        if (bound := BOUNDS.get(name)) is not None:
            row |= {"bound": bound, "kept": value <= bound}
            verdict = f"at most {bound}   {'kept' if row['kept'] else 'MISSED'}"
        rows.append(row)
        print(f"{name:48} {value:9.3f}   {verdict}".rstrip())
    if out is not None:
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "mebibytes": size, "rounds": rounds}
        out.write_text(json.dumps(facts | {"measures": rows}, indent=2) + "\n")
    raise SystemExit(1 if any(row.get("kept") is False for row in rows) else 0)


if __name__ == "__main__":
    main()
