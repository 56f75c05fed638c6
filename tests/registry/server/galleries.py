"""What the tests of the gallery share: a registry to look at, and a reader of pages."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

from adapterhub_registry.publication import Details
from adapterhub_registry.server.gallery.sessions import SESSION
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Answer, Served

COLOURS = {"ink": (30, 30, 60), "corgi": (200, 140, 60), "paper": (220, 220, 200), "glow": (20, 0, 60)}


@dataclass
class Page(HTMLParser):
    """A page, read: its text, links, form fields, and every element with its attributes."""

    text: str = ""
    links: list[str] = field(default_factory=list[str])
    fields: dict[str, str] = field(default_factory=dict[str, str])
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list[tuple[str, dict[str, str]]])

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.text, self.links, self.fields, self.elements = "", [], {}, []
        self.feed(answer.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "a":
            self.links.append(found.get("href", ""))
        if tag == "input" and "value" in found:
            self.fields[found["name"]] = found["value"]

    def handle_data(self, data: str) -> None:
        self.text += data

    def adapters(self) -> list[str]:
        """The names in the grid, in order."""
        return [found["href"][1:] for _, found in self.elements if found.get("class") == "frame"]


@dataclass
class Browser:
    """Plain HTTP with a jar of cookies."""

    served: Served
    cookies: dict[str, str] = field(default_factory=dict[str, str])

    def get(self, path: str, **headers: str) -> Answer:
        return self._kept(self.served.ask("GET", path, headers={**self._cookie(), **headers}))

    def post(self, path: str, values: dict[str, str], **headers: str) -> Answer:
        told = {"Content-Type": "application/x-www-form-urlencoded", **self._cookie(), **headers}
        return self._kept(self.served.ask("POST", path, urlencode(values).encode(), headers=told))

    def sign_in(self, token: str, **more: str) -> Answer:
        fields = Page(self.get("/login")).fields
        return self.post("/login", {**fields, "token": token, **more})

    @property
    def session(self) -> str:
        return self.cookies.get(SESSION, "")

    def _cookie(self) -> dict[str, str]:
        text = "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)
        return {"Cookie": text} if text else {}

    def _kept(self, answer: Answer) -> Answer:
        for name, morsel in SimpleCookie(answer.headers.get("set-cookie", "")).items():
            self.cookies[name] = "" if morsel["max-age"] == "0" else morsel.value
        return answer


def fill(registry: Registry, folder: Path) -> None:
    """Add four adapters with pictures, one of them private, and one without."""
    for seed, (name, kind, tags, licence, title) in enumerate(
        (
            ("acme/ink", "style", ["soft", "portrait"], "CC-BY-4.0", "Soft Ink"),
            ("acme/corgi", "subject", ["dog"], "CC0-1.0", "Corgi"),
            ("acme/paper", "style", ["soft"], "CC0-1.0", "Paper Cut"),
            ("acme/glow", "concept", ["night"], "CC-BY-4.0", "Night Glow"),
        )
    ):
        short = name.partition("/")[2]
        path, picture = folder / f"{short}.safetensors", folder / f"{short}.png"
        path.write_bytes(weights_bytes(seed))
        Image.new("RGB", (64, 48), COLOURS[short]).save(picture)
        registry.add(
            path,
            name=name,
            trigger_words=[f"{short}word"],
            licence=licence,
            kind=kind,
            tags=tags,
            title=title,
            recommended_weight="0.8",
            previews=[picture],
        )
        if short != "glow":
            registry.set_visibility(name, "public")
    path.write_bytes(weights_bytes(77))
    registry.add(path, name="acme/ink", trigger_words=["inkword", "wash"], licence="MIT", message="Wetter")
    registry.set_alias("acme/ink", "prod", 1)
    registry.update("acme/ink", Details(card="Some *soft* ink.", description="Washes of ink."))
