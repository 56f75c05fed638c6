"""Run the examples of pages, and keep the pictures that they draw.

    python docs/draw.py docs/how-to/regions.md

A picture is one that a page shows and that its examples write, by the same file name; tests compare them.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from adapterhub.training.dataset import read_dataset

DOCS = Path(__file__).parent
PICTURES = DOCS.parent / "adapterhub" / "quickstart" / "pictures"
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"!\[[^\]]*\]\(([^)]+\.png)\)")


def prepare(folder: Path) -> None:
    """Put what pages take for granted into a folder: two adapters, and pictures with captions."""
    for adapter in (DOCS / "adapters").glob("*.safetensors"):
        shutil.copy(adapter, folder)
    shutil.copytree(PICTURES / "subject", folder / "guitar")
    (folder / "ink").mkdir()
    for example in read_dataset(PICTURES / "style").examples[:4]:
        shutil.copy(example.path, folder / "ink")
        (folder / "ink" / example.path.name).with_suffix(".txt").write_text(example.caption)


def run(page: Path, folder: Path) -> None:
    """Run the console blocks of a page, but for `make`, in a shell, then its Python blocks.

    Raises:
        RuntimeError: A command failed.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in CONSOLE.findall(page.read_text()):
        lines = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
        script = "\n".join(line for line in lines if not line.startswith("make "))
        done = subprocess.run(  # noqa: S603 - these are our own pages
            ["bash", "-ec", script],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "PATH": path},
        )
        if done.returncode:
            raise RuntimeError(f"{page}: {script}\n{done.stderr}")
    with contextlib.chdir(folder):
        for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(page):
            example.evaluate()


def drawn(page: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each picture that the page shows and that its examples wrote: there, and here."""
    for name in SHOWN.findall(page.read_text()):
        found = folder / Path(name).name
        if found.exists():
            yield page.parent / name, found


def main(pages: list[str]) -> None:
    """Run pages, and put their pictures where they show them."""
    for page in map(Path, pages):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["ADAPTERHUB_HOME"] = str(folder / "home")
            prepare(folder)
            run(page.resolve(), folder)
            for shown, found in drawn(page.resolve(), folder):
                shown.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, shown)
                print(shown)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
