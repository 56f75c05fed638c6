"""What all pages have in common."""

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = ("api.md", "glossary.md", "files.md", "adr", "reference")
"""To look things up in; these may be long."""
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).parts[0] not in REFERENCE]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_says_what_it_is_for_and_is_short(page: Path) -> None:
    title, _, rest = page.read_text().partition("\n\n")
    assert title.startswith("# ")
    assert rest[0].isalpha() or rest.startswith(("`adapterhub", "*", "--8<--")), "begin with a sentence"
    assert len(page.read_text().split()) <= 1250
