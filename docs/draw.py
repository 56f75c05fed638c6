"""Run the examples of pages, and keep the pictures that they draw.

    python docs/draw.py docs/how-to/regions.md

A picture is one that a page shows and that its examples write, by the same file name; tests compare them.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from adapterhub.training.dataset import read_dataset
from adapterhub_cli.main import main as command

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
    """Run the console blocks of a page, but for `make`, line by line, then its Python blocks.

    `adapterhub` runs in this process, which has read its libraries already; what else there is, in a shell.

    Raises:
        RuntimeError: A command failed.
    """
    with contextlib.chdir(folder):
        for block in CONSOLE.findall(page.read_text()):
            for line in block.splitlines():
                if line.startswith("$ ") and not line.startswith("$ make "):
                    _run_line(page, line.removeprefix("$ "))
        for example in Sybil(parsers=[PythonCodeBlockParser()]).parse(page):
            example.evaluate()


def _run_line(page: Path, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "adapterhub" and not set("|&;<>$`") & set("".join(words)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = command(words[1:])
    else:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PWD": str(Path.cwd())}
        done = subprocess.run(  # noqa: S603 - these are our own pages
            ["bash", "-ec", line],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        code, said = done.returncode, io.StringIO(done.stdout + done.stderr)
    if code:
        raise RuntimeError(f"{page}: {line}\n{said.getvalue()}")


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
