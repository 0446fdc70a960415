"""The page that a browser is shown: one static file, which asks the route it came from for JSON."""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

import mimeparse

HTML = Path(__file__).with_name("page.html").read_bytes()


def _hashes(element: bytes) -> str:
    """Sources for a Content-Security-Policy (CSP 3, 2.3.1): what stands between the tags, and nothing else."""
    contents = re.findall(rb"<%b>(.*?)</%b>" % (element, element), HTML, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" for content in contents)


CONTENT_SECURITY_POLICY = "; ".join(
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
)


MAX_ACCEPT = 1000
"""Characters of an Accept header that is looked at: mimeparse takes seconds over a long one that was made for it."""


@lru_cache(maxsize=64)
def prefers_html(accept: str) -> bool:
    """Tell whether an Accept header (RFC 9110, 12.5.1) asks for HTML rather than JSON; for `*/*` that is JSON."""
    if len(accept) > MAX_ACCEPT:
        return False
    types = ",".join(element for element in accept.lower().split(",") if "/" in element)
    try:
        return bool(mimeparse.best_match(["text/html", "application/json"], types) == "text/html")
    except mimeparse.MimeTypeParseException:
        return False
