"""The grammar of references."""

import pytest

from adapterhub_registry.errors import ReferenceSyntaxError
from adapterhub_registry.references import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me/ink", Reference("me", "ink")),
        ("me/ink@3", Reference("me", "ink", "3")),
        ("me/ink@v03", Reference("me", "ink", "3")),
        ("Me/INK@Prod", Reference("me", "ink", "prod")),
        ("team:acme/corgi.v2@latest", Reference("acme", "corgi.v2", "latest", "team")),
        ("me/ink@sha256:0123456789AB", Reference("me", "ink", "sha256:0123456789ab")),
    ],
)
def test_references_are_read(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "ink", "/ink", "me/", "me/ink/x", "me//ink", "me/ink@", "me/ink@@3", "me/ink@3:"),
        *("me/-ink", "me/in k", "me/a--b", "me/a..b", "a--b/me", "me/ink.git", "me/../ink", "me/ink\n@3"),
        *("me/ink@sha256:0123", "me/ink@sha256:xyz", "me/ink@" + "a" * 65, "me/" + "a" * 97, "mé/ink"),
        *("me/ink@v1234567890", "me/in\u212a", "me/ink@\u017fx", "me/ink@a\u0130", "\u212a:me/ink"),
    ],
)
def test_what_is_no_reference_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ReferenceSyntaxError) as caught:
        parse_reference(text)
    assert caught.value.text == text
