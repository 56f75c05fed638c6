"""The grid, an adapter, two versions side by side: pages that only read."""

from itertools import zip_longest
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from adapterhub_registry import reading
from adapterhub_registry.errors import BlobMissingError
from adapterhub_registry.publication import StoredFile
from adapterhub_registry.references import parse_reference
from adapterhub_registry.search import Filters, search
from adapterhub_registry.server.access import Hosted, find_hosted
from adapterhub_registry.server.calls import Call
from adapterhub_registry.server.errors import RefusalError
from adapterhub_registry.server.gallery.cards import read_cards
from adapterhub_registry.server.gallery.editions import (
    Edition,
    changes,
    read_edition,
    read_editions,
    with_changes,
)
from adapterhub_registry.server.gallery.family import draw_family
from adapterhub_registry.server.gallery.index import FACETS, SORTS, is_rank, shown_values
from adapterhub_registry.server.gallery.markdown import card_html
from adapterhub_registry.server.gallery.rendering import render
from adapterhub_registry.server.gallery.snippets import snippets
from adapterhub_registry.server.hub_files import BlobResponse
from adapterhub_registry.server.own_reading import selected, shown_lineage

ON_A_PAGE, MOST_PAGES, MOST_VALUES, MOST_TAGS = 24, 100_000, 12, 60
QUERY = ("q", *FACETS, "namespace", "sort", "page")
SORT_NAMES = {"relevance": "Best match", "updated": "Recently changed", "created": "Newest", "name": "Name"}
SUGGESTED = 200


def show_front(call: Call) -> Response:
    """Show adapters that the caller may see: found by words, narrowed by facets, a page at a time."""
    asked = call.request.query_params
    words, sort, tags = asked.get("q", "")[:200], asked.get("sort", ""), asked.getlist("tag")[:10]
    one = {name: asked.get(name, "") for name in ("kind", "architecture", "licence", "namespace")}
    rank = asked.get("rank", "")
    filters = Filters(
        tags=tags,
        kind=one["kind"] or None,
        architecture=one["architecture"] or None,
        licence=one["licence"] or None,
        rank=int(rank) if is_rank(rank) else None,
        namespace=one["namespace"] or None,
        readable=tuple(call.caller.roles),
    )
    if sort not in SORTS or (sort == "relevance" and not words.strip()):
        sort = "relevance" if words.strip() else "updated"
    page = call.number("page", 1, most=MOST_PAGES)
    start = (page - 1) * ON_A_PAGE
    with call.registry.database.snapshot() as read:
        find = call.site.gallery.index.find
        found = find(read, words, filters, sort=sort, start=start, count=ON_A_PAGE)
        cards = read_cards(read, found.keys)
    chosen: dict[str, Any] = {**one, "tag": tags, "rank": rank if filters.rank else ""}
    kept: dict[str, Any] = {"q": words, **chosen, "sort": asked.get("sort", "")}
    values: dict[str, Any] = {
        "query": words,
        "cards": cards,
        "total": found.total,
        "facets": [_facet(name, found.facets[name], kept) for name in FACETS],
        "chosen": _chosen(kept),
        "hidden": _hidden(kept),
        "sorts": [
            (title, name == sort, {**kept, "sort": name})
            for name, title in SORT_NAMES.items()
            if name != "relevance" or words.strip()
        ],
        "next": {**kept, "page": page + 1} if found.total > start + ON_A_PAGE else None,
        "is_first": page == 1,
        "is_filtered": bool(words.strip() or any(chosen.values())),
        "kept": kept,
    }
    return render(call, "front", values)


def show_adapter(call: Call) -> Response:
    """Show an adapter: one version with its pictures, and how it came to be; the newest by default."""
    hosted, asked = call.hosted, call.request.query_params.get("version", "latest")
    name = hosted.adapter
    with call.registry.database.snapshot() as read:
        (adapter,) = reading.list_adapters(read, [hosted.id])
    if adapter.latest is None and asked == "latest":
        with call.registry.database.snapshot() as read:
            newest = read_editions(read, hosted.id, name, 1 << 31)
        if not newest:
            return render(call, "empty", {"adapter": adapter, "hosted": hosted, "origin": call.origin})
        asked = str(newest[0].version.number)  # all were yanked; who comes here is told so
    version = call.registry.resolve(parse_reference(f"{name}@{asked}"))
    call.registry.facts(version)  # of a version that an older release added, they are filled in now
    before = call.number("before", 1 << 31, most=1 << 31)
    with call.registry.database.snapshot() as read:
        edition = _required(read_edition(read, hosted.id, name, version.number), version.reference)
        editions = read_editions(read, hosted.id, name, before)
        previews = reading.list_previews(read, edition.id)
    node = call.registry.lineage(version.reference)
    with call.registry.database.snapshot() as read:
        family = draw_family(shown_lineage(read, call, node))
    shown = with_changes(editions)
    values = {
        "adapter": adapter,
        "hosted": hosted,
        "edition": edition,
        "version": version,
        "previews": previews,
        "history": shown,
        "older": shown[-1][0].version.number if len(editions) > len(shown) else None,
        "aliases": _by_number(adapter.aliases),
        "card": card_html(adapter.card),
        "family": family,
        "snippets": snippets(version, call.origin, is_private=not hosted.is_public),
        "may_write": hosted.namespace in call.writable,
    }
    return render(call, "adapter", values)


def compare(call: Call) -> Response:
    """Show two versions side by side: what differs, and their pictures."""
    asked = [call.request.query_params.get(name, "").strip() for name in ("first", "second")]
    sides = [_side(call, text) if text else None for text in asked]
    one, other = sides
    differing = {change.name for change in changes(one[0], other[0])} if one and other else set[str]()
    names = dict.fromkeys([*(one[0].facts if one else ()), *(other[0].facts if other else ())])
    filters = Filters(readable=tuple(call.caller.roles))
    with call.registry.database.snapshot() as read:
        found = search(read, "", filters, sort="updated", limit=SUGGESTED, after=None)
    values = {
        "asked": asked,
        "sides": sides,
        "rows": [
            (name, [side[0].facts.get(name, "") if side else "" for side in sides], name in differing)
            for name in names
        ],
        "pairs": _pairs(one[1], other[1]) if one and other else [],
        "has_same_weights": bool(one and other and one[0].weights and one[0].weights == other[0].weights),
        "suggested": [adapter.name for adapter in found],
    }
    return render(call, "compare", values)


def download(call: Call) -> Response:
    """Send a file of a version, to be kept and never shown."""
    version, path = selected(call), call.part("path")
    file = next((item for item in version.files if item.path == path), None)
    if file is None:
        raise RefusalError(404, f"{version.reference} has no such file", code="EntryNotFound")
    blob = call.registry.blobs.path(file.sha256)
    try:
        found = blob.stat()
    except OSError as exc:
        raise BlobMissingError(file.sha256, str(blob)) from exc
    kept = f"{call.hosted.name}-v{version.number}-{path.rsplit('/', 1)[-1]}"
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(kept)}",
        "ETag": f'"{file.sha256}"',
        "Cache-Control": "private, no-cache",
    }
    return BlobResponse(blob, headers=headers, media_type="application/octet-stream", stat_result=found)


def _facet(name: str, values: Any, kept: dict[str, Any]) -> tuple[str, list[tuple[str, int, bool, Any]]]:
    """Return the values of a facet, each with its number, whether it is chosen, and what a click asks."""
    now = kept[name] if name == "tag" else [value for value in [kept.get(name, "")] if value]
    shown: list[tuple[str, int, bool, Any]] = []
    for value, count in shown_values(values, now, MOST_TAGS if name == "tag" else MOST_VALUES):
        is_on = value in now
        if name == "tag":
            other: Any = [tag for tag in now if tag != value] if is_on else [*now, value]
        else:
            other = "" if is_on else value
        shown.append((value, count, is_on, {**kept, name: other}))
    return name, sorted(shown, key=lambda item: not item[2])


def _hidden(kept: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the form for other words must carry along; those find their own order."""
    one = [(name, str(value)) for name, value in kept.items() if name not in ("q", "tag") and value]
    return [pair for pair in one if pair != ("sort", "relevance")] + [("tag", tag) for tag in kept["tag"]]


def _chosen(kept: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Return what narrows the search, each with what is asked for without it."""
    found: list[tuple[str, str, Any]] = []
    for name, value in kept.items():
        if name == "tag":
            found += [(name, tag, {**kept, "tag": [one for one in value if one != tag]}) for tag in value]
        elif value and name not in ("q", "sort"):
            found.append((name, value, {**kept, name: ""}))
    return found


def _side(call: Call, text: str) -> tuple[Edition, list[StoredFile], Hosted]:
    """Return a version that is compared, with its pictures.

    Raises:
        RefusalError: There is none, or the caller must not know of it.
    """
    parsed = parse_reference(text)
    with call.registry.database.snapshot() as read:
        hosted = find_hosted(read, call.caller, parsed.adapter)
    version = call.registry.resolve(parse_reference(f"{hosted.adapter}@{parsed.selector}"))
    with call.registry.database.snapshot() as read:
        edition = read_edition(read, hosted.id, hosted.adapter, version.number)
        edition = _required(edition, version.reference)
        return edition, reading.list_previews(read, edition.id), hosted


def _pairs(
    ours: list[StoredFile], theirs: list[StoredFile]
) -> list[tuple[StoredFile | None, StoredFile | None]]:
    """Return pictures side by side: those of one prompt and seed together first, then in their order."""
    left = list(theirs)
    pairs: list[tuple[StoredFile | None, StoredFile | None]] = []
    alone: list[StoredFile] = []
    for picture in ours:
        made_with = (picture.prompt, picture.seed)
        same = (item for item in left if picture.prompt and (item.prompt, item.seed) == made_with)
        if (found := next(same, None)) is not None:
            left.remove(found)
            pairs.append((picture, found))
        else:
            alone.append(picture)
    return pairs + list(zip_longest(alone, left))


def _by_number(aliases: Any) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for alias, number in aliases.items():
        found.setdefault(number, []).append(alias)
    return found


def _required(edition: Edition | None, reference: str) -> Edition:
    if edition is None:  # deleted in this very moment
        raise RefusalError(404, f"{reference} is gone", code="RevisionNotFound")
    return edition
