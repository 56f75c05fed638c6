"""Bodies as they come in: never more of them in memory than was agreed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from adapterhub_registry.blobs import DirectoryBlobs
from adapterhub_registry.server.errors import RefusalError

MAX_BODY = 4 << 20
MAX_BODY_OF_STRANGERS = 1 << 20
LARGE = 64 << 10
"""From here on, JSON may unfold to so much memory that few at a time are read."""
PIECE = 1 << 20
"""So much is worth a thread's while."""
Result = TypeVar("Result")


async def read_body(request: Request, *, most: int = MAX_BODY) -> bytes:
    """Return a whole body.

    Raises:
        RefusalError: It is too large.
    """
    _check_length(request, most)
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise too_large(most)
    return bytes(content)


async def pieces(request: Request, *, most: int) -> AsyncIterator[bytearray]:
    """Yield a body in pieces of about a mebibyte; of one that is cut off, all that came.

    The next piece comes in while somebody works on the one before.

    Raises:
        RefusalError: It is too large.
        ClientDisconnect: It was cut off.
    """
    _check_length(request, most)
    coming = _pieces(request, most)
    following = asyncio.ensure_future(anext(coming, None))
    try:
        while (piece := await following) is not None:
            following = asyncio.ensure_future(anext(coming, None))
            yield piece
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, ClientDisconnect, RefusalError):
            await following
        await coming.aclose()


async def _pieces(request: Request, most: int) -> AsyncGenerator[bytearray]:
    held, total = bytearray(), 0
    try:
        async for piece in request.stream():
            total += len(piece)
            if total > most:
                raise too_large(most)
            held += piece
            if len(held) >= PIECE:
                yield held  # and not a copy
                held = bytearray()
    except ClientDisconnect:
        if held:
            yield held
        raise
    if held:
        yield held


async def lines(request: Request, *, most: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body that are not empty, without their ends.

    Raises:
        RefusalError: A line is too long.
    """
    held = bytearray()
    async for piece in request.stream():
        held += piece
        while (end := held.find(b"\n")) >= 0:
            with memoryview(held) as view:
                line = bytes(view[:end]).strip()  # one copy
            del held[: end + 1]
            if line:
                yield line
        if len(held) > most:
            raise too_large(most)
    if line := bytes(held).strip():
        yield line


async def store_body(
    request: Request, blobs: DirectoryBlobs, *, expected: str, size: int, source: str
) -> None:
    """Take a body into the store; what has another digest or size is not kept.

    Raises:
        RefusalError: It is larger.
        DigestMismatchError: It is something else.
        OutputError: The disk is full.
    """
    with ExitStack() as stack:
        reception = await run_in_threadpool(stack.enter_context, blobs.receive())
        async for piece in pieces(request, most=size):
            await run_in_threadpool(reception.write, piece)
        await run_in_threadpool(partial(reception.keep, expected=expected, source=source))


async def in_thread(function: Callable[[], Result], *, limiter: CapacityLimiter | None = None) -> Result:
    """Do in a thread what waits for the disk, or needs a processor for long.

    Args:
        function: What to do.
        limiter: Waited for before; by default that of all threads.
    """
    return await to_thread.run_sync(function, limiter=limiter)


def too_large(most: int) -> RefusalError:
    """Return the answer for a body that is too large."""
    return RefusalError(413, f"the body, or a line of it, has more than {most:,} bytes")


def _check_length(request: Request, most: int) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large(most)
