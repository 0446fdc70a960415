"""The page for browsers: one static file, which asks the route that it came from for JSON."""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

import mimeparse

# As text, which turns CRLF into LF: browsers hash with LF, whatever the checkout has.
HTML = Path(__file__).with_name("page.html").read_text("utf-8").encode()

MAX_ACCEPT = 1000
"""Characters of an Accept header that are looked at: mimeparse takes seconds for a long one made for that purpose."""


def _hashes(element: bytes) -> str:
    """Return hashes for a Content-Security-Policy (CSP 3, 2.3.1) of the contents of such elements."""
    contents = re.findall(rb"<%b>(.*?)</%b>" % (element, element), HTML, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" for content in contents)


HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(b'script')}",
            f"style-src {_hashes(b'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    ),
    "Referrer-Policy": "no-referrer",
}


@lru_cache(maxsize=64)
def prefers_html(accept: str) -> bool:
    """Tell whether an Accept header (RFC 9110, 12.5.1) prefers HTML to JSON; `*/*` does not."""
    if len(accept) > MAX_ACCEPT:
        return False
    types = ",".join(element for element in accept.lower().split(",") if "/" in element)
    try:
        return bool(mimeparse.best_match(["text/html", "application/json"], types) == "text/html")
    except mimeparse.MimeTypeParseException:
        return False
