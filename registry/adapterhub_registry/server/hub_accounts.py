"""The Hugging Face protocol: who one is, and repositories as a whole."""

from starlette.responses import Response

from adapterhub_registry.card import parse_card
from adapterhub_registry.errors import AdapterExistsError, CardError
from adapterhub_registry.references import adapter_reference
from adapterhub_registry.server.access import find_hosted, require
from adapterhub_registry.server.calls import Call, answer, header_text
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.people import ORGANISATION


def whoami(call: Call) -> Response:
    """Say who the token belongs to, and in which organisations that is somebody."""
    caller, people = call.caller, call.site.people
    organisations = {item.name: item.title for item in people.namespaces(ORGANISATION)}
    shown = people.show(caller.name)
    return answer(
        {
            "type": "user",
            "id": caller.name,
            "name": caller.name,
            "fullname": shown.title if shown is not None else caller.name,
            "isPro": False,
            "orgs": [
                {"type": "org", "id": name, "name": name, "fullname": organisations[name], "roleInOrg": role}
                for name, role in caller.roles.items()
                if name in organisations
            ],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": caller.label or "token", "role": caller.scope},
            },
        }
    )


def create(call: Call) -> Response:
    """Make a repository; one that is there is answered with 409, and where it is."""
    _check_type(call)
    name = body_name(call)
    is_private = call.body.get("visibility") == "private" or call.body.get("private") is True
    visibility = "private" if is_private else "public"
    organisation = call.body.get("organization")
    title = f"{organisation or call.caller.name}/{call.text('name').split('/')[-1]}"
    url = f"{call.origin}/{name}"
    try:
        call.registry.create(title, visibility=visibility)
    except AdapterExistsError as exc:
        raise RefusalError(409, str(exc), table={"url": url}) from exc
    return answer({"url": url, "id": name, "name": name})


def delete(call: Call) -> Response:
    """Delete a repository with all versions; the numbers stay taken."""
    _check_type(call)
    call.registry.remove(call.hosted.adapter)
    return answer({})


def move(call: Call) -> Response:
    """Give a repository another name; the old one goes on to lead to it."""
    _check_type(call)
    target = adapter_reference(call.text("toRepo"))
    require(call.caller, "owner", target.namespace)
    call.registry.move(call.hosted.adapter, call.text("toRepo"))
    return answer({})


def settings(call: Call) -> Response:
    """Show a repository to all, or to its namespace."""
    if call.body.get("gated") not in (None, False):
        raise RefusalError(501, "gated repositories are not supported; make it private")
    visibility = call.text("visibility")
    private = call.body.get("private")
    if not visibility and private is not None:
        visibility = "private" if private is True else "public"
    if visibility:
        call.registry.set_visibility(call.hosted.adapter, visibility)
    return answer({"visibility": visibility or ("public" if call.hosted.is_public else "private")})


def check_access(call: Call) -> Response:
    """Say that the caller may; who may not does not get here."""
    return answer({"repository": call.hosted.adapter})


def validate_card(call: Call) -> Response:
    """Say what is wrong with the README of a push, before anything is pushed."""
    try:
        parse_card(call.text("content"))
    except CardError as exc:
        message = str(exc)
        headers = {"X-Error-Message": header_text(message)}
        return answer({"errors": [{"message": message}], "warnings": []}, 400, headers=headers)
    return answer({"errors": [], "warnings": []})


def body_name(call: Call) -> str:
    """Return `namespace/name` of the repository that the body names."""
    if "fromRepo" in call.body:
        return adapter_reference(call.text("fromRepo")).adapter
    name, organisation = call.text("name"), call.text("organization")
    if "/" not in name:
        name = f"{organisation or call.caller.name}/{name}"
    return adapter_reference(name).adapter


def find_in_body(call: Call, *, drafts: bool) -> Call:
    """Return the call with the repository that the body names; with `drafts`, it may wait to be published."""
    name = body_name(call)
    with call.registry.database.snapshot() as read:
        adapter = find_hosted(read, call.caller, name, drafts=drafts)
    return Call(call.site, call.request, call.caller, adapter, call.body)


def _check_type(call: Call) -> None:
    kind = call.text("type") or "model"
    if kind != "model":
        raise RefusalError(501, f"this is a registry of adapters: there are models, and no {kind}s")
