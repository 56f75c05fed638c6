"""The writing half of Xet, in which clients since 1.20 send large files: a token, xorbs, and shards.

A shard names the SHA-256 of each file. The file is made, hashed, and a blob from then on, as if it had come
by Git LFS; it is read over plain HTTP. The BLAKE3 hashes of the protocol are names here and no more: they are
known to their own user alone, and what they stand for counts only if the SHA-256 is right.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from adapterhub_registry.errors import AdapterHubError, DigestMismatchError
from adapterhub_registry.rows import acting_as
from adapterhub_registry.server.access import granted_path
from adapterhub_registry.server.bodies import in_thread, pieces
from adapterhub_registry.server.calls import Call, answer, to_refusal
from adapterhub_registry.server.errors import RefusalError, XorbMissingError
from adapterhub_registry.server.hub_uploads import refuse_pull_requests
from adapterhub_registry.server.quotas import check_room
from adapterhub_registry.server.shards import MAX_BODY as MAX_SHARD
from adapterhub_registry.server.shards import ShardFile, ShardReader
from adapterhub_registry.server.staged_xorbs import Placed, StagedXorbs, current_generation
from adapterhub_registry.server.uploads import known_size, note_upload, room_on_disk
from adapterhub_registry.server.xorbs import MAX_BODY as MAX_PACKED
from adapterhub_registry.server.xorbs import MAX_XORB

logger = logging.getLogger(__name__)
LINES = "application/x-ndjson"
HEARTBEAT_S = 10
"""Clients wait for a line for longer than this."""


def write_token(call: Call) -> Response:
    """Say where to send large files, and grant it for an hour."""
    refuse_pull_requests(call)
    namespace, user = call.hosted.namespace, call.caller.name
    generation = current_generation(call.registry.home, call.registry.blobs, namespace, user)
    path = granted_path(generation)
    signed = call.site.signer.sign(path, user=user, adapter=call.hosted.adapter)
    grant = signed.removeprefix(f"{path}?")
    address, expires = call.origin + path, int(dict(parse_qsl(grant))["expires"])
    headers = {
        "X-Xet-Cas-Url": address,
        "X-Xet-Access-Token": grant,
        "X-Xet-Token-Expiration": str(expires),
    }
    return answer({"casUrl": address, "accessToken": grant, "exp": expires}, headers=headers)


def not_known(call: Call) -> Response:
    """Answer that no chunk is known from others, and that xorbs go nowhere else; clients send them here."""
    raise RefusalError(404, f"{call.part('hash')} is not here; send it")


async def put_xorb(call: Call) -> Response:
    """Take a xorb, and unpack it on its way."""
    staged, name = _staged(call), call.part("hash")
    if await in_thread(lambda: staged.has(name)):
        async for _ in pieces(call.request, most=MAX_PACKED):
            pass
        return answer({"was_inserted": False})
    _check_disk(call, MAX_XORB)
    with ExitStack() as stack:
        reception = await run_in_threadpool(stack.enter_context, staged.receive(name))
        async for piece in pieces(call.request, most=MAX_PACKED):
            await run_in_threadpool(reception.write, piece)

        def keep() -> None:
            with call.registry.database.snapshot() as read:
                check_room(read, call.hosted.namespace, staged.raw_bytes() + reception.size)
            reception.keep()

        await in_thread(keep)
    return answer({"was_inserted": True})


async def put_shard(call: Call) -> Response:
    """Make the files of a shard."""
    files = await _read_shard(call)
    await in_thread(lambda: [None for _ in _make(call, files)])
    return answer({"result": 1})


async def put_shard_in_lines(call: Call) -> Response:
    """Make the files of a shard, and say every few seconds how far it is; refusals reach people this way."""
    try:
        files = await _read_shard(call)
    except (RefusalError, AdapterHubError) as exc:
        return Response(_error_line(call, exc), media_type=LINES)

    async def lines() -> AsyncIterator[bytes]:
        try:
            done = 0

            def make() -> None:
                nonlocal done
                for done in _make(call, files):  # noqa: B007
                    pass

            making = asyncio.ensure_future(run_in_threadpool(make))
            while not (await asyncio.wait({making}, timeout=HEARTBEAT_S))[0]:
                yield _line(type="validating", verified=done, total=len(files))
            making.result()
        except (RefusalError, AdapterHubError) as exc:
            yield _error_line(call, exc)
        else:
            yield _line(type="result")

    return StreamingResponse(lines(), media_type=LINES)


async def _read_shard(call: Call) -> list[ShardFile]:
    reader = ShardReader()
    async for piece in pieces(call.request, most=MAX_SHARD):
        await in_thread(lambda piece=piece: reader.feed(piece))
    return reader.finish()


def _make(call: Call, files: list[ShardFile]) -> Iterator[int]:
    """Make a blob of each file that the adapter lacks, and yield how many are there.

    Raises:
        DigestMismatchError, XorbMissingError, XetFormatError: The shard is wrong, or something is not here.
        QuotaError: The namespace would hold more than it may.
    """
    registry, adapter, staged = call.registry, call.hosted, _staged(call)
    with registry.database.snapshot() as read:
        missing = [file for file in files if known_size(read, adapter, file.sha256) is None]
        check_room(read, adapter.namespace, sum(file.size for file in missing))
    _check_disk(call, sum(file.size for file in missing))
    placed: list[Placed] = []
    for done, file in enumerate(missing, len(files) - len(missing) + 1):
        try:
            stored = (piece for term in file.terms for piece in staged.read(term))
            _, size = registry.blobs.write(stored, expected=file.sha256, source="the upload")
        except (DigestMismatchError, XorbMissingError):
            staged.retire()
            raise
        with acting_as(call.caller.name):
            note_upload(registry, adapter, file.sha256, size)
        placed += _places(file)
        yield done
    staged.settle(placed)


def _places(file: ShardFile) -> Iterator[Placed]:
    offset = 0
    for term in file.terms:
        yield Placed(term, file.sha256, offset)
        offset += term.size


def _staged(call: Call) -> StagedXorbs:
    registry, generation = call.registry, call.part("generation")
    return StagedXorbs(registry.home, registry.blobs, call.hosted.namespace, call.caller.name, generation)


def _check_disk(call: Call, size: int) -> None:
    if size > room_on_disk(call.registry.home):
        raise RefusalError(400, "the server's disk has no room for this; tell who runs it")


def _line(**values: str | int) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _error_line(call: Call, error: RefusalError | AdapterHubError) -> bytes:
    refusal = error if isinstance(error, RefusalError) else to_refusal(error)
    if refusal is None or refusal.status >= 500:
        logger.error("%s: %s", call.request.state.request, error)
    if refusal is None:
        refusal = RefusalError(
            500, f"the server failed; its log says why, at request {call.request.state.request}"
        )
    return _line(type="error", message=refusal.message, retryable=refusal.status == 503)
