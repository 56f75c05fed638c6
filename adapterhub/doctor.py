"""What `adapterhub doctor` looks at: this machine, what is installed, and the home."""

import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from adapterhub_registry.checkup import Check, check_home, guarded, size_text
from adapterhub_registry.errors import EXTRAS

LIBRARIES = ("sqlmodel", "alembic", "safetensors", "huggingface_hub", "pillow", "click")


def examine(home: Path) -> Iterator[Check]:
    """Look at everything that AdapterHub needs; nothing is changed, and a broken home is a finding."""
    yield Check(
        "python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}"
    )
    yield Check("adapterhub", True, _version("adapterhub"))
    yield _libraries()
    yield _search()
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        detail = f"no {', '.join(missing)}" if missing else _versions(modules)
        advice = f'for what needs it: pip install "adapterhub[{extra}]"' if missing else ""
        yield Check(f"extra {extra}", True, detail, advice)
    yield guarded("device", _device)
    yield from check_home(home)


def _libraries() -> Check:
    missing = [name for name in LIBRARIES if not _version(name)]
    if missing:
        return Check(
            "libraries", False, f"no {', '.join(missing)}", "install them with: pip install adapterhub"
        )
    return Check("libraries", True, _versions(LIBRARIES))


def _search() -> Check:
    """SQLite must have its full-text index, which some systems leave out."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE probe USING fts5(text)")
    except sqlite3.Error as exc:
        advice = "use a Python whose SQLite has FTS5, such as python.org's"
        return Check("sqlite", False, f"{sqlite3.sqlite_version}: {exc}", advice)
    finally:
        connection.close()
    return Check("sqlite", True, f"{sqlite3.sqlite_version}, with full-text search")


def _device() -> Check:
    """Say what would train and generate; without torch that is nothing, and no error."""
    processor = f"{platform.machine()} with {os.cpu_count()} cores"
    if find_spec("torch") is None:
        return Check("device", True, f"{processor}; no torch, so the registry alone works")
    try:
        import torch
    except (ImportError, OSError) as exc:
        return Check("device", False, f"torch cannot be loaded: {exc}", "install torch again")
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        names = ", ".join(f"{item.name}, {size_text(item.total_memory)}" for item in found)
        return Check("device", True, f"cuda: {names}")
    if torch.backends.mps.is_available():
        return Check("device", True, f"mps: {processor}, {size_text(_memory())}")
    advice = ""
    if shutil.which("nvidia-smi"):
        advice = (
            f"there is an NVIDIA driver, but torch {torch.__version__} cannot use it; install a CUDA build"
        )
    return Check("device", True, f"cpu: {processor}, {size_text(_memory())}", advice)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions(names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
