"""Locks between processes: files, and the one between those who need blobs and the garbage collector."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from adapterhub_registry.errors import BlobMissingError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "blobs.lock"
Result = TypeVar("Result")


@contextmanager
def locked(
    path: Path, *, is_shared: bool = False, on_wait: Callable[[], None] = lambda: None
) -> Generator[None]:
    """Hold the lock that a file is; it is let go when its holder dies, and those who wait sleep until then.

    Args:
        path: The file; it is made if needed, and stays.
        is_shared: Let others hold it who share it too.
        on_wait: Called before somebody is waited for.

    Raises:
        OutputError: The file cannot be made.
    """
    if fcntl is None:
        from filelock import FileLock

        with FileLock(path):  # it knows no sharing
            yield
        return
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("ab"))
            try:
                fcntl.flock(file.fileno(), kind | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file.fileno(), kind)
        except OSError as exc:
            raise OutputError(path, exc.strerror or str(exc)) from exc
        yield


def keeping_blobs(home: Path) -> AbstractContextManager[None]:
    """Let no blob be taken meanwhile; others may keep them too."""
    return locked(home / LOCK, is_shared=True)


def taking_blobs(home: Path, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
    """Take blobs, alone; `on_wait` is called if somebody keeps them now, and then they are waited for."""
    return locked(home / LOCK, on_wait=on_wait)


def store_kept(home: Path, store: Callable[[], Result]) -> Result:
    """Do what stores blobs and then makes rows name them.

    The garbage collector may take one of them before a row names it. Then it is done once more, and the
    collector has to wait.

    Raises:
        BlobMissingError: A blob was not stored.
    """
    try:
        return store()
    except BlobMissingError:
        with keeping_blobs(home):
            return store()
