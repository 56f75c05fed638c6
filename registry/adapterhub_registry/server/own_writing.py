"""Our own protocol: adapters made, versions published in one transaction, aliases moved, versions yanked."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlmodel import col, delete
from starlette.responses import Response

from adapterhub_registry import adapters, intake
from adapterhub_registry.errors import (
    AdapterExistsError,
    FieldError,
    InputError,
    PictureError,
    VersionConflictError,
)
from adapterhub_registry.facts import CONFIG, read_facts
from adapterhub_registry.locks import store_kept
from adapterhub_registry.publication import (
    Publication,
    Published,
    StoredFile,
    check_details,
    check_documents,
)
from adapterhub_registry.publishing import publish_in
from adapterhub_registry.references import adapter_reference
from adapterhub_registry.remote_version import RemoteVersion
from adapterhub_registry.safetensors_header import START_BYTES, foreign_start
from adapterhub_registry.server.calls import Call, answer
from adapterhub_registry.server.catching_up import catch_up
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.holdings import is_held
from adapterhub_registry.server.hub_accounts import body_name
from adapterhub_registry.server.hub_commits import check_weights
from adapterhub_registry.server.meaning import MAX_PICTURES
from adapterhub_registry.server.own_reading import selected
from adapterhub_registry.server.paths import check_kind, check_path, is_weights
from adapterhub_registry.server.quotas import check_quota
from adapterhub_registry.tables import UploadRow

THE_SERVER = "the server"
VERSION = {
    **dict.fromkeys(("digest", "manifest", "message", "author", "created"), "string"),
    **dict.fromkeys(("documents", "previews"), "array"),
    "number": "integer",
    "details": "object",
    "renumber": "boolean",
}
"""The fields of a version that is sent, with their types in JSON."""


def create_adapter(call: Call) -> Response:
    """Make room for an adapter, which is seen once it has a version; one that is there stays as it is."""
    name, visibility = body_name(call), call.text("visibility", "private")
    title = call.text("name").strip().split("/")[-1]
    try:
        adapters.create(
            call.registry.database,
            adapter_reference(name),
            visibility=visibility,
            title="" if title == name.rpartition("/")[2] else title,
            is_draft=True,
        )
    except AdapterExistsError as exc:
        if exc.moved_to:
            raise
        return answer({"name": name, "is_new": False})
    return answer({"name": name, "is_new": True}, 201)


def publish(call: Call) -> Response:
    """Publish a version whose files are here.

    A number that is taken is a conflict, or `renumber` takes the next. A digest that the adapter has already
    changes nothing, and is answered with its number.
    """
    entry = RemoteVersion.from_json(call.body, source="the version that was sent")
    check_details(entry.details)
    _check_files(call, entry)
    facts = read_facts(entry.manifest, call.registry.blobs, entry.documents)
    publication = Publication(
        name=call.hosted.adapter,
        manifest=entry.manifest,
        number=entry.number,
        message=entry.message,
        author=entry.author,
        created=entry.created,
        documents=entry.documents,
        previews=_previews(call, entry.previews),
        details=entry.details,
        facts=facts,
    )

    def store() -> Published:
        registry = call.registry
        with registry.database.writing() as session:
            try:
                done = publish_in(session, registry.blobs, publication, facts, where=THE_SERVER)
            except VersionConflictError:
                if call.body.get("renumber") is not True:
                    raise
                free = replace(publication, number=None)
                done = publish_in(session, registry.blobs, free, facts, where=THE_SERVER)
            check_quota(session, call.hosted.namespace)
            return done

    done = store_kept(call.registry.home, store)
    catch_up(call.registry, call.hosted.adapter)
    _forget_uploads(call, entry)
    version = done.version
    table = {"name": version.name, "number": version.number, "digest": version.digest}
    return answer({**table, "is_new": done.is_new}, 201 if done.is_new else 200)


def set_alias(call: Call) -> Response:
    """Point an alias at a version, if it stands at `expected`; null means nowhere yet."""
    number, expected = _number(call, "number"), None
    if "expected" not in call.body:
        raise RefusalError(400, '"expected" must say where the alias stands now; null for nowhere yet')
    if call.body["expected"] is not None:
        expected = _number(call, "expected")
    call.registry.set_alias(call.hosted.adapter, call.part("alias"), number, expected=expected)
    return answer({"alias": call.part("alias").lower(), "number": number})


def yank(call: Call) -> Response:
    """Hide a version from `latest` and from search, and say why."""
    version = call.registry.yank(selected(call).reference, call.text("reason"))
    return answer({"name": version.name, "number": version.number, "state": version.state})


def unyank(call: Call) -> Response:
    """Bring a yanked version back."""
    version = call.registry.unyank(selected(call).reference)
    return answer({"name": version.name, "number": version.number, "state": version.state})


def _check_files(call: Call, entry: RemoteVersion) -> None:
    """Check that all files were uploaded for this adapter, and are of kinds that are kept."""
    payload = [StoredFile(file.path, file.sha256, file.size) for file in entry.manifest.files]
    _check_held(call, [*payload, *entry.documents, *entry.previews])
    names = [file.name for file in payload if is_weights(file.name)]
    if len(names) != 1 or {file.name for file in payload} - {*names, CONFIG}:
        rule = f"a version has one file of weights, and {CONFIG} beside it if it is PEFT's"
        raise FieldError("payload", ", ".join(file.name for file in payload), rule)
    for file in payload:
        check_path(file.name)
        check_kind(file.name, _start(call, file), file.size)
        check_weights(call, file.name, file.sha256)
    check_documents(entry.documents)
    for file in entry.documents:
        check_path(file.name)
        if foreign := foreign_start(_start(call, file), file.size):
            raise FieldError("document", file.name, f"it is {foreign}; that is not kept here")


def _check_held(call: Call, files: Iterable[StoredFile]) -> None:
    with call.registry.database.snapshot() as read:
        for file in files:
            if not is_held(read, call.hosted, file.sha256) or not call.registry.blobs.has(file.sha256):
                message = f'"{file.name}" was not uploaded: this adapter has no file sha256:{file.sha256}'
                raise RefusalError(400, message, table={"code": "blob-missing", "sha256": file.sha256})


def _start(call: Call, file: StoredFile) -> bytes:
    with call.registry.blobs.path(file.sha256).open("rb") as opened:
        return opened.read(START_BYTES)


def _previews(call: Call, previews: Iterable[StoredFile]) -> list[StoredFile]:
    """Make pictures anew, under the caps of all previews, so that they hold pixels alone."""
    pictures: list[StoredFile] = []
    for item in previews:
        if len(pictures) == MAX_PICTURES:
            raise FieldError("number of previews", f"above {MAX_PICTURES}", "push fewer")
        picture = intake.PreviewPicture(
            call.registry.blobs.path(item.sha256), item.prompt, item.seed, item.settings
        )
        try:
            (stored,) = intake.store_previews(call.registry.blobs, [picture])
        except (PictureError, InputError) as exc:
            raise PictureError(Path(item.name), exc.reason) from exc
        pictures.append(stored)
    return pictures


def _forget_uploads(call: Call, entry: RemoteVersion) -> None:
    """Count the files by what names them now."""
    files = [*entry.manifest.files, *entry.documents, *entry.previews]
    with call.registry.database.writing() as session:
        chosen = col(UploadRow.sha256).in_({file.sha256 for file in files})
        session.exec(delete(UploadRow).where(col(UploadRow.adapter_id) == call.hosted.id, chosen))


def _number(call: Call, name: str) -> int:
    value: Any = call.body.get(name)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise RefusalError(400, f'"{name}" must be the number of a version')
    return value
