"""Cards as HTML: what strangers wrote, with nothing in it that runs, loads, or pretends to be of the page."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

MAX_LETTERS = 40_000
"""Longer cards are shown as far as this: of the worst of them, half a second is made."""
TAGS = {
    *("h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s"),
    *("ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
DEEPER = 2
"""The page's own headings are above those of a card."""


def _headings(state: Any) -> None:
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + DEEPER)}"


def _picture(self: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    """Show a link in place of a picture: its host would learn of everybody who reads the card."""
    del self, options, env
    token = tokens[place]
    words = Markup("{}").format(token.content or "picture")
    source = str(token.attrGet("src") or "")
    if not source.startswith(("https://", "http://")):
        return words
    return Markup('<a href="{}">{}</a>').format(source, words)


_markdown = (
    MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable("table").enable("strikethrough")
)
_markdown.core.ruler.push("deeper_headings", _headings)
_markdown.add_render_rule("image", _picture)


@lru_cache(maxsize=256)
def card_html(text: str) -> Markup:
    """Return a card as HTML that may stand in a page.

    Example:
        >>> card_html("# Ink\\n\\n*soft* <b>x</b> [y](javascript:1)")
        Markup('<h3>Ink</h3>\\n<p><em>soft</em> &lt;b&gt;x&lt;/b&gt; [y](javascript:1)</p>\\n')
    """
    shown = text[:MAX_LETTERS].replace("<Gallery />", "")
    made = nh3.clean(
        _markdown.render(shown),
        tags=TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow ugc",
    )
    if len(text) > MAX_LETTERS:
        made += "<p>The card goes on; its file has the rest.</p>"
    return Markup(made)  # noqa: S704 - it was just cleaned
