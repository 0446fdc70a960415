"""The web API: one route, and every problem as `application/problem+json`."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from app import __version__
from app.address import IPAddress, caller_address, is_global, is_in, parse_address
from app.client import Client
from app.hits import Hits
from app.log import RequestLog
from app.lookup import Lookup
from app.page import HEADERS as PAGE_HEADERS
from app.page import HTML, prefers_html
from app.problems import Problem
from app.responses import ALLOWED_METHODS, HEADERS, problem_response
from app.schema import DESCRIPTION, OPERATION, DocumentedAPI
from app.settings import Settings
from app.sources import SOURCES
from app.sources.source import Source

logger = logging.getLogger("geoip")


def create_app(settings: Settings, sources: Sequence[type[Source]] = SOURCES) -> ASGIApp:
    """Make the application, with whatever is around it. ValueError, of one line, for a wrong setting."""
    client, store = Client(settings.certificates), None
    if settings.cache_url:
        from app.store import Store  # redis costs a start 0.1 s and 10 MB

        store = Store(settings.cache_url.get_secret_value(), settings.certificates)
    by_name = {source.name: source for source in sources}
    asked = [by_name[name](settings.of_source(name), client) for name in settings.sources]
    lookup = Lookup(asked, timeout=settings.timeout, ttl=settings.cache_ttl, size=settings.cache_size, store=store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if store:
            await store.open()
        yield
        await lookup.aclose()
        client.close()
        if store:
            await store.aclose()

    app = DocumentedAPI(version=__version__, lifespan=lifespan, **DESCRIPTION)
    app.state.lookup = lookup
    app.state.trusted_proxies = settings.trusted_proxies
    app.state.has_hinted = False
    app.get("/", **OPERATION)(locate)
    app.head("/", include_in_schema=False)(locate)
    app.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)(healthz)
    app.exception_handler(Problem)(_on_problem)
    app.exception_handler(HTTPException)(_on_http_exception)
    app.exception_handler(Exception)(_on_bug)
    with_hits = Hits(app, lookup)
    if settings.log_format == "text":
        return with_hits
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    return RequestLog(with_hits, paths, settings.log_addresses)


async def locate(request: Request) -> Response:
    """Answer with the page, or look up the address of `?ip=`, or the caller's."""
    if prefers_html(", ".join(request.headers.getlist("Accept"))):
        return Response(HTML, headers=HEADERS | PAGE_HEADERS, media_type="text/html")
    asked = request.query_params.getlist("ip")
    address = _asked_address(asked) if asked else _caller(request)
    request.state.address = str(address) if address else None  # for the log, as the source below
    lookup: Lookup = request.app.state.lookup
    found, cache_status = await lookup.find(address)
    request.state.source = found.source or None
    if found.problem:
        return problem_response(found.problem, cache_status)
    left = found.time_left(lookup.clock())
    headers = {  # others may cache the answer to `?ip=`, but not a caller's own
        "Cache-Control": f"public, max-age={left}" if asked and left > 0 else "private, no-store",
        "Cache-Status": cache_status,
    }
    return Response(found.body, headers=HEADERS | headers, media_type="application/json")


async def healthz() -> Response:
    return Response(status_code=204)


def _asked_address(values: list[str]) -> IPAddress:
    """Return the address of `?ip=`; the Problem `invalid-address` or `reserved-address` if there is no global one."""
    if len(values) > 1:
        raise Problem("invalid-address", "ip is given more than once: ask for one address at a time")
    try:
        address = parse_address(values[0])
    except ValueError:
        what = "ip is not an IPv4 or IPv6 address: give one like 8.8.8.8 or 2001:4860:4860::8888"
        raise Problem("invalid-address", f"{what}, without a host name, a network or a zone id") from None
    if not is_global(address):
        what = "this address is not global (private, multicast, documentation…)"
        raise Problem("reserved-address", f"{what}: ask for a public one, such as 8.8.8.8")
    return address


def _caller(request: Request) -> IPAddress | None:
    """Return the caller's address; None if it is not global, for the service's own."""
    state = request.app.state
    try:
        peer = parse_address(request.client.host if request.client else "")
    except ValueError:  # a Unix socket, or a zone id
        return None
    forwarded = request.headers.getlist("X-Forwarded-For")
    if forwarded and not state.has_hinted and not is_global(peer) and not is_in(peer, state.trusted_proxies):
        state.has_hinted = True
        logger.warning(
            "X-Forwarded-For from %s is ignored: if that is your proxy, name it in GEOIP_TRUSTED_PROXIES", peer
        )
    address = caller_address(peer, forwarded, state.trusted_proxies)
    return address if is_global(address) else None


async def _on_problem(_: Request, problem: Problem) -> Response:
    return problem_response(problem)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Answer what no route does: CORS preflights, other methods, other paths."""
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return _answer_preflight(request)
    if error.status_code == 405:
        return problem_response(Problem("method-not-allowed", f"this method is not allowed: use {ALLOWED_METHODS}"))
    return problem_response(Problem("not-found", "there is nothing at this path: ask for /, /?ip=ADDRESS or /docs"))


def _answer_preflight(request: Request) -> Response:
    """Answer a CORS preflight (https://fetch.spec.whatwg.org/#cors-preflight-fetch)."""
    if request.headers["Access-Control-Request-Method"] not in {"GET", "HEAD"}:
        return problem_response(Problem("bad-request", f"a page of another origin may only use {ALLOWED_METHODS}"))
    if "Access-Control-Request-Private-Network" in request.headers:
        return problem_response(Problem("bad-request", "public websites may not ask a service in a private network"))
    allowed = {
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": "*, Authorization",
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers=HEADERS | allowed)


async def _on_bug(_request: Request, _: Exception) -> Response:
    return problem_response(Problem("internal-error", "the service failed: its log says why"))
