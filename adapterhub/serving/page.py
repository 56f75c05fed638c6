"""`GET /`: one page to try compositions with."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

PAGE = Path(__file__).with_name("page.html")


class Page:
    """The page; its own script and style may run in it, and nothing else, whatever adapters are called."""

    def __init__(self) -> None:
        text = PAGE.read_text()
        self._body = text.encode()
        script, style = (_source(text, tag) for tag in ("script", "style"))
        self._policy = (
            f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    async def page(self, request: Request) -> Response:
        """Answer with the page."""
        del request
        headers = {
            "Content-Security-Policy": self._policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return Response(self._body, headers=headers, media_type="text/html")


def _source(text: str, tag: str) -> str:
    """Return what a Content-Security-Policy calls the one element of this tag in the page."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
