"""The reference pages say what the code does, and leave nothing out."""

import re
from importlib import import_module
from types import ModuleType

import pytest

import adapterhub
from adapterhub_registry.errors import AdapterHubError
from tests.checks.conftest import ROOT, docs_script, module_names

DIRECTIVE = re.compile(
    r"^::: ([\w.]+)\n(?:    options:\n(?:      .*\n)*?      members: \[([^\]]*)\])?", re.MULTILINE
)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return docs_script("reference")


def test_pages_are_as_the_code_is(generator: ModuleType) -> None:
    pages = generator.pages()
    assert sorted(pages) == sorted(path.name for path in generator.FOLDER.glob("*.md"))
    for name, text in pages.items():
        assert (generator.FOLDER / name).read_text() == text, "run: python docs/reference.py"


def test_every_error_has_its_row() -> None:
    for name in module_names():
        import_module(name)
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    listed = set(re.findall(r"^\| `([\w-]+)` \| `(\w+)`", page, re.MULTILINE))
    assert listed == {(one.code, one.__name__) for one in errors(AdapterHubError)}


def errors(cls: type[AdapterHubError]) -> set[type[AdapterHubError]]:
    """Return a class of ours and all below it."""
    below = {one for child in cls.__subclasses__() for one in errors(child)}
    return {one for one in {cls, *below} if one.__module__.startswith("adapterhub")}


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    shown: set[str] = set()
    modules = module_names()
    for name, members in DIRECTIVE.findall((ROOT / "docs" / "api.md").read_text()):
        if name not in modules:
            shown.add(name)
        else:
            shown |= {f"{name}.{one}" for one in re.findall(r"\w+", members) or "*"}
    for name in adapterhub.__all__:
        module = getattr(getattr(adapterhub, name), "__module__", None)
        assert module is None or {f"{module}.{name}", f"{module}.*"} & shown, name
