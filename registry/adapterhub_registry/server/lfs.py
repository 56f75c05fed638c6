"""Git LFS's batch protocol: where to upload large files, whole or in parts, and every digest checked."""

import hashlib
import re
from typing import Any

from starlette.responses import Response

from adapterhub_registry.manifest import MAX_SIZE
from adapterhub_registry.rows import acting_as
from adapterhub_registry.server.access import Hosted, find_writable
from adapterhub_registry.server.bodies import in_thread, pieces, read_body, store_body
from adapterhub_registry.server.calls import Call, answer, read_json
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.quotas import check_room
from adapterhub_registry.server.uploads import Parts, known_size, note_upload, room_on_disk, sweep_parts

OID = re.compile(r"[0-9a-f]{64}")
MAX_OBJECTS = 1000
MAX_PARTS = 10_000
LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}


def batch(call: Call) -> Response:
    """Say where to upload each object; one that the adapter has already needs no upload."""
    if call.text("operation", "upload") != "upload":
        raise RefusalError(501, "download through /resolve/; Git LFS is for uploads here")
    if call.text("hash_algo", "sha256") != "sha256":
        raise RefusalError(422, "objects are known by their SHA-256 here")
    sweep_parts(call.registry.home)
    transfers: Any = call.body.get("transfers") or ["basic"]
    objects = _objects(call.body.get("objects"))
    with call.registry.database.snapshot() as read:
        missing = {oid: size for oid, size in objects if known_size(read, call.hosted, oid) is None}
        check_room(read, call.hosted.namespace, sum(missing.values()))
    if sum(missing.values()) > room_on_disk(call.registry.home):
        raise RefusalError(400, "the server's disk has no room for this; tell who runs it")
    is_in_parts = "multipart" in transfers
    answers = [
        {"oid": oid, "size": size, "authenticated": True}
        | ({"actions": _actions(call, oid, size, is_in_parts=is_in_parts)} if oid in missing else {})
        for oid, size in objects
    ]
    has_parts = is_in_parts and any(size > call.site.part_bytes for size in missing.values())
    table = {"transfer": "multipart" if has_parts else "basic", "objects": answers, "hash_algo": "sha256"}
    return answer(table, headers=LFS_JSON)


async def put_object(call: Call) -> Response:
    """Take a whole object; its digest is in the address that was signed."""
    adapter, oid, size = await in_thread(lambda: _signed(call))
    await store_body(call.request, call.registry.blobs, expected=oid, size=size, source="the upload")
    with acting_as(call.request.query_params["user"]):
        await in_thread(lambda: note_upload(call.registry, adapter, oid, size))
    return Response(status_code=200)


async def put_part(call: Call) -> Response:
    """Take one part of an object."""
    adapter, oid, size = await in_thread(lambda: _signed(call))
    part, step = (int(call.request.query_params[name]) for name in ("part", "step"))
    start = (part - 1) * step
    wanted, position = min(step, size - start), start
    parts, digest = Parts(call.registry.home, adapter, oid, size), hashlib.sha256()
    async for piece in pieces(call.request, most=wanted):
        digest.update(piece)
        at = position
        await in_thread(lambda at=at, piece=piece: parts.write(at, piece))
        position += len(piece)
    if position - start != wanted:
        raise RefusalError(400, f"part {part} has {position - start} bytes, not {wanted}")
    return Response(status_code=200, headers={"ETag": f'"{digest.hexdigest()}"'})


async def finish_parts(call: Call) -> Response:
    """Put the parts of an object together."""
    adapter, oid, size = await in_thread(lambda: _signed(call))
    table = read_json(await read_body(call.request))
    if table.get("oid") != oid:
        raise RefusalError(400, "the oid in the body is not that of the address")
    with acting_as(call.request.query_params["user"]):

        def finish() -> None:
            Parts(call.registry.home, adapter, oid, size).finish(call.registry.blobs)
            note_upload(call.registry, adapter, oid, size)

        await in_thread(finish)
    return answer({})


def verify(call: Call) -> Response:
    """Say whether an object arrived."""
    with call.registry.database.snapshot() as read:
        size = known_size(read, call.hosted, call.text("oid"))
    if size is None or size != call.body.get("size"):
        raise RefusalError(404, "the object did not arrive; upload it again")
    return answer({})


def _objects(entries: Any) -> list[tuple[str, int]]:
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_OBJECTS:  # pyright: ignore[reportUnknownArgumentType]
        raise RefusalError(422, f'"objects" must be a list of 1 to {MAX_OBJECTS}')
    return [_object(entry) for entry in entries]  # pyright: ignore[reportUnknownVariableType]


def _object(entry: Any) -> tuple[str, int]:
    try:
        oid, size = entry["oid"], entry["size"]
    except (TypeError, KeyError):
        oid, size = "", 0
    if (
        not isinstance(oid, str)
        or not OID.fullmatch(oid)
        or type(size) is not int
        or not 0 <= size < MAX_SIZE
    ):
        raise RefusalError(422, "each object needs its SHA-256 as oid, and its size")
    return oid, size


def _actions(call: Call, oid: str, size: int, *, is_in_parts: bool) -> dict[str, Any]:
    """Return signed addresses to upload to, and the one that says whether it arrived."""
    base = f"/{call.hosted.adapter}.git/info/lfs/objects"
    user, origin, step = call.caller.name, call.origin, call.site.part_bytes
    verified = {"verify": {"href": f"{origin}{base}/verify"}}

    def signed(path: str, **values: str | int) -> str:
        return origin + call.site.signer.sign(path, size=size, user=user, **values)

    if not is_in_parts or size <= step:
        return {"upload": {"href": signed(f"{base}/{oid}")}, **verified}
    step = max(step, -(-size // MAX_PARTS))
    count = -(-size // step)
    header = {"chunk_size": str(step)}
    header |= {str(part): signed(f"{base}/{oid}/part", part=part, step=step) for part in range(1, count + 1)}
    return {"upload": {"href": signed(f"{base}/{oid}/finish"), "header": header}, **verified}


def _signed(call: Call) -> tuple[Hosted, str, int]:
    """Return what an address was signed for; who got it was a writer then, and must be one still."""
    values, oid = call.request.query_params, call.part("oid")
    if not OID.fullmatch(oid):
        raise RefusalError(400, "an object is named by 64 hexadecimal digits")
    with call.registry.database.snapshot() as read:
        name = f"{call.part('namespace')}/{call.part('name')}"
        _, adapter = find_writable(read, call.site.people, values["user"], name)
    return adapter, oid, int(values["size"])
