"""CPU time of `adapterhub --help` beside bare Python and a bare click command, in one run.

Run: python benchmarks/startup.py [--out FILE.json]
The bound is 150 ms of CPU time (docs/adr/0002-command-start-up.md); the floor is Python with click.
"""

import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import click

PROGRAMS = {
    "bare python": ["-c", "pass"],
    "python, import click": ["-c", "import click"],
    "adapterhub --help": ["-m", "adapterhub_cli", "--help"],
    "adapterhub --version": ["-m", "adapterhub_cli", "--version"],
}
REPEATS = 15


def cpu_seconds(words: list[str], **environment: str) -> float:
    """Return user and system time of one run of this Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command, settings = [sys.executable, *words], os.environ | environment
    subprocess.run(command, env=settings, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """Measure and print."""
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(REPEATS):
        for name, words in PROGRAMS.items():
            times[name].append(1000 * cpu_seconds(words))
    rows = {
        name: {"best_ms": round(min(t), 1), "median_ms": round(sorted(t)[REPEATS // 2], 1)}
        for name, t in times.items()
    }
    for name, row in rows.items():
        print(f"{name:22} best {row['best_ms']:7.1f} ms   median {row['median_ms']:7.1f} ms")
    if out is not None:
        result = {"machine": platform.machine(), "python": platform.python_version(), "cpu_time": rows}
        out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
