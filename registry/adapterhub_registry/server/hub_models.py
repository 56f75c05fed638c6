"""The Hugging Face protocol: what is known of a repository, and lists of them."""

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from adapterhub_registry.card import HUB_TAGS, LICENCES, hub_licence
from adapterhub_registry.describing import README
from adapterhub_registry.errors import CardError, FieldError
from adapterhub_registry.front_matter import MAX_BYTES, read_front_matter, split_front_matter
from adapterhub_registry.probe import BASE_MODELS, TRANSFORMERS
from adapterhub_registry.publication import Adapter
from adapterhub_registry.search import MAX_PAGE, Filters, SearchPage
from adapterhub_registry.server.calls import Call, answer
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.history import MAIN
from adapterhub_registry.server.revisions import Revision, open_revision

PAGE = 100
SORTS = {"createdAt": "created", "created_at": "created"}
"""Our order of each of theirs; all others are the newest first."""
EVERYWHERE = {*HUB_TAGS, "safetensors", "text-to-image"}
"""Tags that every adapter of a diffusion model has."""
OF_MODELS = """
    SELECT namespace || '/' || adapter.name, visibility = 'private', adapter.created, adapter.updated,
        coalesce(version.architecture, ''), coalesce(version.licence, ''), coalesce(sha, '')
    FROM adapter LEFT JOIN version ON version.id = head_id
    LEFT JOIN hub_branch ON hub_branch.adapter_id = adapter.id AND hub_branch.name = ?
    LEFT JOIN hub_commit ON hub_commit.id = hub_branch.commit_id
    WHERE namespace || '/' || adapter.name IN """


def info(call: Call) -> Response:
    """Say what is known of a repository at a revision, with its files."""
    revision = open_revision(call)
    table = _models(call, [call.registry.show(call.hosted.adapter)])[0]
    has_blobs = call.asks("blobs")
    siblings: list[dict[str, Any]] = []
    for path, file in revision.files.items():
        entry: dict[str, Any] = {"rfilename": path}
        if has_blobs:
            entry |= {"size": file.size, "blobId": file.blob_id}
            if file.is_lfs:
                entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
        siblings.append(entry)
    table |= {
        "sha": revision.commit.sha,
        "siblings": siblings,
        "cardData": _front_matter(call, revision),
        "usedStorage": sum({file.sha256: file.size for file in revision.files.values()}.values()),
    }
    return answer(table, headers=revision.headers)


def list_models(call: Call) -> Response:
    """List the repositories that the caller may see, page by page."""
    query = call.request.query_params
    filters = _filters(call)
    limit = call.number("limit", PAGE, most=MAX_PAGE)
    if filters is None:
        return answer([])
    try:
        page: SearchPage = call.registry.search(
            query.get("search", ""),
            filters=filters,
            sort=SORTS.get(query.get("sort", ""), "updated"),
            limit=limit,
            after=query.get("cursor") or None,
        )
    except FieldError as exc:
        raise RefusalError(400, str(exc)) from exc
    headers = call.next_link(cursor=page.next) if page.next else {}
    return answer(_models(call, page.adapters), headers=headers)


def _filters(call: Call) -> Filters | None:
    """Return what the address asks for; None if no adapter can be it."""
    query = call.request.query_params
    wanted: dict[str, Any] = {"namespace": query["author"].lower()} if query.get("author") else {}
    tags: list[str] = []
    if query.get("gated", "").lower() in ("1", "true"):
        return None
    asked = [text for item in query.getlist("filter") for text in item.split(",") if text]
    asked += [text for name in ("tags", "pipeline_tag", "library") for text in query.getlist(name) if text]
    for text in asked:
        name, _, value = text.partition(":")
        if name == "license" and value:
            wanted["licence"] = LICENCES.get(value.lower(), value)
        elif name == "base_model" and value:
            repository = re.sub(r"^(adapter|finetune|quantized|merge):", "", value)
            found = [key for key, known in BASE_MODELS.items() if known == repository]
            if not found or wanted.get("architecture", found[0]) != found[0]:
                return None
            wanted["architecture"] = found[0]
        elif text not in EVERYWHERE:
            tags.append(text)
    return Filters(tags=tags, readable=tuple(call.caller.roles), **wanted)


def _models(call: Call, adapters: "tuple[Adapter, ...] | list[Adapter]") -> list[dict[str, Any]]:
    """Return what the Hub says of models, but for their files."""
    names = [adapter.name for adapter in adapters]
    marks = ", ".join("?" * len(names))
    with call.registry.database.snapshot() as read:
        rows = {name: rest for name, *rest in read(f"{OF_MODELS}({marks})", [MAIN, *names])}
    return [_model(adapter, rows[adapter.name]) for adapter in adapters if adapter.name in rows]


def _model(adapter: Adapter, row: list[Any]) -> dict[str, Any]:
    is_private, created, updated, architecture, licence, sha = row
    is_language = architecture.startswith(TRANSFORMERS)
    tags = ["lora", "peft" if is_language else "diffusers", "safetensors"]
    tags += [] if is_language else ["text-to-image"]
    tags += adapter.tags
    if identifier := hub_licence(licence).get("license"):
        tags.append(f"license:{identifier}")
    if base := BASE_MODELS.get(architecture):
        tags += [f"base_model:{base}", f"base_model:adapter:{base}"]
    table: dict[str, Any] = {
        "_id": adapter.name,
        "id": adapter.name,
        "modelId": adapter.name,
        "author": adapter.name.partition("/")[0],
        "private": bool(is_private),
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(dict.fromkeys(tags)),
        "library_name": "peft" if is_language else "diffusers",
        "createdAt": _moment(created),
        "lastModified": _moment(updated or created),
    }
    if not is_language:
        table["pipeline_tag"] = "text-to-image"
    return table | ({"sha": sha} if sha else {})


def _moment(time: str) -> str:
    """Return a time as the Hub writes it, with milliseconds."""
    return f"{time.removesuffix('Z')}.000Z"


def _front_matter(call: Call, revision: Revision) -> Mapping[str, Any]:
    """Return the fields of the card; none if it has none that can be read."""
    readme = revision.files.get(README)
    if readme is None:
        return {}
    try:
        front, _ = split_front_matter(call.registry.read(readme.sha256).decode("utf-8-sig"))
        return read_front_matter(front)[0] if len(front.encode()) <= MAX_BYTES else {}
    except (CardError, UnicodeDecodeError):
        return {}
