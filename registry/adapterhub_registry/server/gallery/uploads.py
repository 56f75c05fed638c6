"""Publishing a version with a browser: one form, one transaction."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from adapterhub_registry import intake
from adapterhub_registry.adapters import VISIBILITIES
from adapterhub_registry.errors import (
    AdapterHubError,
    ArchitectureError,
    FieldError,
    InputError,
    OutputError,
    PickleRefusedError,
    PictureError,
    WeightsError,
)
from adapterhub_registry.locks import store_kept
from adapterhub_registry.manifest import Manifest, Version, check_manifest, decimal_text
from adapterhub_registry.publication import KINDS, Details, Publication, Published, check_details
from adapterhub_registry.publishing import publish_in
from adapterhub_registry.references import adapter_reference
from adapterhub_registry.rows import acting_as, find_adapter
from adapterhub_registry.server.access import require
from adapterhub_registry.server.calls import Call, to_refusal
from adapterhub_registry.server.catching_up import catch_up
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.gallery.forms import MAX_FORM_BYTES, Form, FormFile, receive_form
from adapterhub_registry.server.gallery.rendering import go_to, render
from adapterhub_registry.server.gallery.sessions import check_origin
from adapterhub_registry.server.quotas import check_quota, largest_quota
from adapterhub_registry.server.uploads import room_on_disk

MOST_PICTURES = 16
TEXTS = ("title", "description", "tags", "kind", "licence", "trigger_words", "weight", "message", "card")
LONGEST = 100_000
FORM_TEXT_BYTES = 4 << 20
"""What a form has beside its files: texts, and the heads of its parts."""


@dataclass(frozen=True)
class Parcel:
    """What a form asks for, checked.

    Attributes:
        name: `namespace/name`.
        payload: The weights.
        pictures: The previews.
        manifest: What is said of the version, without files.
        message: Likewise.
        details: What is said of the adapter.
        visibility: Of a new adapter.
    """

    name: str
    payload: intake.Payload
    pictures: list[intake.PreviewPicture]
    manifest: Manifest
    message: str
    details: Details
    visibility: str


def show_upload(call: Call) -> Response:
    """Ask for weights, pictures, and what there is to say of them."""
    namespace, _, name = call.request.query_params.get("name", "").lower().partition("/")
    values = {"namespace": namespace, "name": name, "kind": "style" if not name else ""}
    return _form_page(call, values, "")


async def upload(call: Call) -> Response:
    """Publish what was sent as the next version, and show it; or say in the form what is wrong."""
    if call.visitor.secret:
        check_origin(call.request)  # before anything is taken in
    if not call.writable:
        raise RefusalError(
            403, "this needs the role of writer in a namespace, and a token of the scope write"
        )
    staging = call.registry.home / "staging"
    most = await run_in_threadpool(_most_bytes, call)
    try:
        with ExitStack() as stack:
            form = await receive_form(call.request, staging, stack, most=most)
            return await run_in_threadpool(partial(_upload, call, form))
    except OSError as exc:  # also at the end of a draft, whose last bytes are written then
        raise OutputError(staging, exc.strerror or str(exc)) from exc


def _most_bytes(call: Call) -> int:
    """Return how large a form may be: no namespace of the caller could hold more.

    What is free there does not matter, because the files may be there already.

    Raises:
        RefusalError: The disk has no room for what is announced.
    """
    length = call.request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > room_on_disk(call.registry.home):
        raise RefusalError(507, "the server's disk has no room for this; tell who runs it")
    with call.registry.database.snapshot() as read:
        quota = largest_quota(read, call.writable)
    return MAX_FORM_BYTES if quota is None else min(quota + FORM_TEXT_BYTES, MAX_FORM_BYTES)


def _upload(call: Call, form: Form) -> Response:
    call.site.gallery.sessions.check_form(call.request, call.visitor, form.text("form_key"))
    try:
        with acting_as(call.caller.name):
            version = _publish(call, _read(call, form))
    except AdapterHubError as exc:
        refusal = to_refusal(exc)
        if refusal is None or refusal.status >= 500:
            raise
        return _form_page(call, {name: form.text(name) for name in form.fields}, str(exc))
    return go_to(f"/{version.name}?version={version.number}")


def _form_page(call: Call, values: dict[str, str], error: str) -> Response:
    shown = {"namespaces": call.writable, "kinds": KINDS, "values": values, "error": error}
    return render(call, "upload", shown, status=400 if error else 200)


def _read(call: Call, form: Form) -> Parcel:
    """Check a form.

    Raises:
        RefusalError: The namespace is not the caller's to write in.
        AdapterHubError: Something in the form is wrong.
    """
    namespace = form.text("namespace").lower()
    require(call.caller, "writer", namespace)
    reference = adapter_reference(f"{namespace}/{form.text('name')}")
    for field in TEXTS:
        if len(form.text(field)) > LONGEST:
            raise FieldError(field, f"{form.text(field)[:20]}...", f"at most {LONGEST:,} letters")
    given = form.files.get("weights", [])
    if len(given) != 1:
        raise FieldError("weights", str(len(given)), "choose one safetensors file")
    newest = _newest(call, reference.adapter)
    payload = _payload(given[0])
    try:
        architecture, identity = intake.describe_base(None, payload, newest)
    except ArchitectureError as exc:
        if newest is not None:
            raise
        rule = "its shapes do not say which base it fits; add it with `adapterhub add --base`, and push it"
        raise FieldError("weights", given[0].name, rule) from exc
    words = form.text("trigger_words").replace("\n", ",").split(",")
    manifest = Manifest(
        files=(),
        architecture=architecture,
        base_identity=identity,
        algorithm=payload.algorithm,
        trigger_words=tuple(dict.fromkeys(" ".join(word.split()) for word in words if word.strip())),
        recommended_weight=decimal_text(form.text("weight")) if form.text("weight") else "",
        licence=" ".join(form.text("licence").split()),
        lineage={"operation": "imported"},
    )
    visibility = form.text("visibility") or "private"
    if visibility not in VISIBILITIES:
        raise FieldError("visibility", visibility, f"one of {', '.join(VISIBILITIES)}")
    pictures = form.files.get("pictures", [])
    if len(pictures) > MOST_PICTURES:
        raise FieldError("number of pictures", str(len(pictures)), f"at most {MOST_PICTURES} at once")
    details = _details(form)
    check_details(details)
    return Parcel(
        name=reference.adapter,
        payload=payload,
        pictures=[_picture(file, form.text("prompt")) for file in pictures],
        manifest=manifest,
        message=" ".join(form.text("message").split()),
        details=details,
        visibility=visibility,
    )


def _details(form: Form) -> Details:
    """Return what a form says of the adapter; what was left empty stays as it is."""
    tags = form.text("tags").replace(",", " ").split()
    return Details(
        title=" ".join(form.text("title").split()) or None,
        description=" ".join(form.text("description").split()) or None,
        card=form.text("card") or None,
        kind=form.text("kind") or None,
        tags=tags or None,
    )


def _newest(call: Call, name: str) -> Version | None:
    known = call.registry.known_versions(name)
    return known[-1] if known else None


def _payload(file: FormFile) -> intake.Payload:
    """Check weights; errors name the file as its owner knows it."""
    try:
        return intake.read_payload(file.path)
    except PickleRefusedError as exc:
        raise PickleRefusedError(Path(file.name)) from exc
    except WeightsError as exc:
        raise WeightsError(Path(file.name), exc.reason) from exc


def _picture(file: FormFile, prompt: str) -> intake.PreviewPicture:
    try:
        found = intake.read_preview(file.path)
    except (PictureError, InputError) as exc:
        raise PictureError(Path(file.name), exc.reason) from exc
    return replace(found, prompt=found.prompt or " ".join(prompt.split()))


def _publish(call: Call, parcel: Parcel) -> Version:
    registry, reference = call.registry, adapter_reference(parcel.name)

    def store() -> Published:
        files, _, previews, facts = intake.store_files(registry.blobs, parcel.payload, {}, parcel.pictures)
        manifest = replace(parcel.manifest, files=files)
        check_manifest(manifest)
        publication = Publication(
            name=parcel.name,
            manifest=manifest,
            message=parcel.message,
            previews=previews,
            details=parcel.details,
            facts=facts,
        )
        with registry.database.writing() as session:
            row = find_adapter(session, reference)
            is_new = row is None or bool(row.removed)
            done = publish_in(session, registry.blobs, publication, facts, where="the server")
            check_quota(session, reference.namespace)
            row = find_adapter(session, reference)
            if is_new and row is not None:
                row.visibility = parcel.visibility
                session.add(row)
            return done

    done = store_kept(registry.home, store)
    catch_up(registry, parcel.name)
    return done.version
