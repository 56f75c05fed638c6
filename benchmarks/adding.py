"""How long it takes to add a file of weights, to adopt a folder again, and to refuse hostile headers.

    python benchmarks/adding.py --clones /mnt/btrfs --out benchmarks/results/adding.json

Adding is measured against what cannot be left out: the same hashes in one pass over the same file, and a copy
that reaches the disk. The least of several rounds counts, because other work on the machine only adds to it.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from adapterhub_registry.files import share_bytes
from adapterhub_registry.hashes import hash_file
from adapterhub_registry.store import Registry
from tests.registry.hostile_headers import hostile_headers

BOUNDS = {
    "add, copied / (hashes + copy)": 1.3,
    "add, reflinked / hashes": 1.15,
    "adopt again, s": 2.0,
    "hostile header, worst CPU ms": 50.0,
    "hostile header, worst MiB": 64.0,
}
MODULES = 400
PROBE = """
import re, sys, time
from pathlib import Path
from adapterhub_registry.errors import WeightsError
from adapterhub_registry.safetensors_header import read_header

def resident():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before, times = resident(), []
for _ in range(3):
    began = time.process_time()
    try:
        read_header(Path(sys.argv[1]))
        raise SystemExit("it was not refused")
    except WeightsError:
        times.append(time.process_time() - began)
print(min(times) * 1000, (resident() - before) / 1024)
"""


def write_weights(path: Path, size: int, seed: int) -> None:
    """Write a LoRA of about `size` bytes for SDXL, in kohya's names, with random values."""
    columns = max(size // (2 * MODULES * 2 * 16), 1)
    header: dict[str, object] = {"__metadata__": {"ss_base_model_version": "sdxl_base_v1-0"}}
    position = 0
    for number in range(MODULES):
        module = f"lora_unet_input_blocks_4_1_transformer_blocks_{number % 10}_attn1_to_q{number}"
        for part, shape in (
            ("alpha", []),
            ("lora_down.weight", [16, columns]),
            ("lora_up.weight", [columns, 16]),
        ):
            length = 2 * int(np.prod(shape))
            header[f"{module}.{part}"] = {
                "dtype": "F16",
                "shape": shape,
                "data_offsets": [position, position + length],
            }
            position += length
    text = json.dumps(header, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(np.random.default_rng(seed).bytes(position))


def seconds(work: Callable[[], object], *, unread: Path | None = None) -> float:
    """Return how long something takes; a file that comes in is not in memory at the start."""
    if unread is not None:
        with unread.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copy(source: Path, target: Path) -> None:
    """Copy a file so that it outlasts a power failure."""
    shutil.copyfile(source, target)
    for path in (target, target.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def measure_add(folder: Path, size: int, rounds: int) -> dict[str, float]:
    """Return the least time of adding a file that is new, of hashing it and of copying it."""
    weights = folder / "weights.safetensors"
    write_weights(weights, size, 0)
    registry = Registry(folder / "home")
    found: dict[str, list[float]] = {"add": [], "hashes": [], "copy": []}
    for number in range(rounds + 1):
        with weights.open("r+b") as file:  # other bytes than before
            file.seek(-8, os.SEEK_END)
            file.write(struct.pack("<Q", number))
            os.fsync(file.fileno())
        row = {
            "hashes": seconds(lambda: hash_file(weights), unread=weights),
            "copy": seconds(lambda: copy(weights, folder / "copy"), unread=weights),
            "add": seconds(lambda: registry.add(weights, name="me/ink"), unread=weights),
        }
        registry.blobs.path(registry.resolve("me/ink").files[0].sha256).unlink()
        (folder / "copy").unlink()
        if number > 0:  # the first one imports modules
            for name, value in row.items():
                found[name].append(value)
    registry.close()
    return {name: min(values) for name, values in found.items()}


def can_clone(folder: Path) -> bool:
    """Say whether the file system has clones."""
    (folder / "one").write_bytes(bytes(4096))
    with (folder / "one").open("rb") as source, (folder / "two").open("wb") as target:
        return share_bytes(source, target)


def measure_adoption(folder: Path, files: int, rounds: int) -> float:
    """Return the least time of the whole command on a folder that was adopted already."""
    loras = folder / "Lora"
    loras.mkdir()
    for number in range(files):
        write_weights(loras / f"{number}.safetensors", 100_000, number)
        (loras / f"{number}.txt").write_text("a note")
    words = [sys.executable, "-m", "adapterhub_cli", "adopt", str(loras), "--quiet"]
    environment = {**os.environ, "ADAPTERHUB_HOME": str(folder / "home")}

    def run() -> None:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
        if len(done.stdout.split()) != files:
            raise click.ClickException(f"not every file was adopted: {done.stderr}")

    run()
    return min(seconds(run) for _ in range(rounds))


def measure_hostile(folder: Path) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return the most CPU time in ms and the most memory in MiB, each with the header that took it."""
    path = folder / "hostile.safetensors"
    times: list[tuple[float, str]] = []
    sizes: list[tuple[float, str]] = []
    for hostile in hostile_headers():
        hostile.write(path)
        words = [sys.executable, "-c", PROBE, str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603
        took, grew = map(float, done.stdout.split())
        times.append((took, hostile.name))
        sizes.append((grew, hostile.name))
    return max(times), max(sizes)


@click.command()
@click.option("--size", type=int, default=200, show_default=True, help="Of the file that is added, MB.")
@click.option("--files", type=int, default=300, show_default=True, help="In the folder that is adopted.")
@click.option("--rounds", type=int, default=9, show_default=True)
@click.option("--clones", type=click.Path(path_type=Path, exists=True), help="A directory that has clones.")
@click.option("--out", type=click.Path(path_type=Path))
def main(size: int, files: int, rounds: int, clones: Path | None, out: Path | None) -> None:
    """Measure, print a table, and exit 1 if a bound is missed."""
    values: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        found = measure_add(Path(folder), size * 1_000_000, rounds)
        values |= {f"{name}, s": value for name, value in found.items()}
        values["add, copied / (hashes + copy)"] = found["add"] / (found["hashes"] + found["copy"])
    with tempfile.TemporaryDirectory(dir=clones) as folder:
        values["add, reflinked / hashes"] = None
        if can_clone(Path(folder)):
            found = measure_add(Path(folder), size * 1_000_000, rounds)
            values["add, reflinked, s"] = found["add"]
            values["add, reflinked / hashes"] = found["add"] / found["hashes"]
    with tempfile.TemporaryDirectory() as folder:
        values["adopt again, s"] = measure_adoption(Path(folder), files, rounds)
        (took, slowest), (grew, largest) = measure_hostile(Path(folder))
        values |= {"hostile header, worst CPU ms": took, "hostile header, worst MiB": grew}
        notes |= {"hostile header, worst CPU ms": slowest, "hostile header, worst MiB": largest}
    print(f"a file of {size} MB, a folder of {files} files, {len(list(hostile_headers()))} hostile headers")
    missed = 0
    rows: list[dict[str, object]] = []
    for name, value in values.items():
        bound = BOUNDS.get(name)
        rows.append({"measure": name, "value": value and round(value, 3), "bound": bound})
        if value is None:
            print(f"{name:32} not measured: no reflink here; name a directory with --clones")
            continue
        verdict = ""
        if bound is not None:
            missed += value > bound
            verdict = f"at most {bound}   {'MISSED' if value > bound else 'kept'}"
        print(f"{name:32} {value:8.3f}   {verdict}   {notes.get(name, '')}".rstrip())
    if out is not None:
        facts = {"megabytes": size, "files": files, "measures": rows, "worst": notes}
        out.write_text(json.dumps(facts, indent=2) + "\n")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
