"""The web API: one route, and every problem as `application/problem+json`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, cast

from fastapi import FastAPI, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from pydantic.json_schema import SkipJsonSchema, models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import __version__
from app.address import IPAddress, is_global, parse_address
from app.client import Client
from app.log import NOTES, RequestLog
from app.lookup import Found, Lookup
from app.page import CONTENT_SECURITY_POLICY, HTML, prefers_html
from app.problems import (
    BadRequest,
    InternalError,
    InvalidAddress,
    MethodNotAllowed,
    NotFound,
    Problem,
    ProblemDetails,
    QuotaExhausted,
    ReservedAddress,
    UnknownAddress,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from app.settings import Settings
from app.sources import MAX_PAUSE, Answer, make_sources
from app.store import Store

# On every answer of ours, asked across origins or not: a cache may keep the one and give it to the other.
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Cache-Status, Retry-After",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}
_NOT_AN_ADDRESS = (
    "ip is not an IPv4 or IPv6 address, such as 8.8.8.8 or 2001:4860:4860::8888: "
    "no host names, no networks, no zone ids"
)
_RESERVED = "this address is reserved (private, multicast, documentation…): nobody is found at it"
_BUG = "the service has a bug: its log says more"

_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
}

# Where in an ASGI scope the peer is, whatever a proxy says.
_PEER = "geoip.peer"


def create_app(settings: Settings, store: Store | None = None) -> FastAPI:
    """The application, with nothing under way until the first request; the store is the settings' if none is given."""
    client = Client()
    if store is None and settings.cache_url:
        store = Store(settings.cache_url.get_secret_value())
    lookup = Lookup(
        make_sources(settings, client),
        timeout=settings.timeout,
        ttl=settings.cache_ttl,
        size=settings.cache_size,
        store=store,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if store:
            await store.open()
        yield
        await lookup.aclose()
        await client.aclose()
        if store:
            await store.aclose()

    app = _Service(
        title="geoip",
        version=__version__,
        summary="Where an address is on the internet and on Earth.",
        license_info={"name": "MIT", "identifier": "MIT"},
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
    )

    async def locate(
        request: Request,
        ip: Annotated[
            str | SkipJsonSchema[None],
            Query(
                description="One IPv4 or IPv6 address; the caller's own by default.",
                examples=["8.8.8.8"],
                json_schema_extra={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
            ),
        ] = None,
    ) -> Response:
        """Where the caller is on the internet and on Earth, or another address.

        A caller without an address on the internet (in a private network, say) is answered with the one that the
        service itself has there.
        """
        if prefers_html(", ".join(request.headers.getlist("Accept"))):
            return Response(HTML, headers=_HEADERS | _PAGE_HEADERS, media_type="text/html")
        address = caller_address(request) if ip is None else asked_address(request.query_params.getlist("ip"))
        notes = request.scope.get(NOTES, {})
        notes["address"] = str(address) if address else None
        found = await lookup.find(address)
        notes |= {"source": found.source, "upstream_ms": found.upstream_ms}
        shared = ip is not None and found.max_age > 0
        headers = {
            "Cache-Control": f"public, max-age={found.max_age}" if shared else "private, no-store",
            "Cache-Status": found.cache_status,
        }
        return Response(found.body, headers=_HEADERS | headers, media_type="application/json")

    app.get("/", summary="Look an address up", response_model=Answer, responses=_responses())(locate)
    app.head("/", include_in_schema=False)(locate)

    @app.get("/healthz", include_in_schema=False)
    @app.head("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return Response(status_code=204)

    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "HEAD"], allow_headers=["*"])
    app.add_middleware(Hits, lookup=lookup)
    if settings.log_format == "json":
        paths = {route.path for route in app.routes if isinstance(route, Route)}
        app.add_middleware(RequestLog, paths=paths, addresses=settings.log_addresses)
    if settings.trusted_proxies:
        app.add_middleware(_Forwarded, trusted=settings.trusted_proxies)
    return app


class Hits:
    """`/?ip=ADDRESS` for an address in the cache, answered before the route is asked, with the bytes it would send.

    Most requests are such hits, and the route takes several times as long over one. What is not seen at a glance to be
    one is the route's: it alone decides what is an address, and says what is wrong with one.
    """

    def __init__(self, app: ASGIApp, lookup: Lookup) -> None:
        self._app = app
        self._lookup = lookup
        headers = _HEADERS | {"Vary": "Accept, Origin"}  # as CORSMiddleware leaves it
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        headers = [
            *self._headers,
            (b"cache-control", b"public, max-age=%d" % found.max_age),
            (b"cache-status", found.cache_status.encode()),
            (b"content-length", b"%d" % len(found.body)),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": found.body})

    def _find(self, scope: Scope) -> Found | None:
        query: bytes = scope["query_string"]
        if scope["path"] != "/" or scope["method"] not in {"GET", "HEAD"} or not query.startswith(b"ip="):
            return None
        address = query[3:].decode("latin-1").replace("%3A", ":")
        found = self._lookup.cached(address)
        if found is None or found.max_age == 0:
            return None
        accept = b", ".join([value for name, value in scope["headers"] if name == b"accept"])
        if prefers_html(accept.decode("latin-1")):
            return None
        if NOTES in scope:
            scope[NOTES].update(address=address, source=found.source, upstream_ms=None)
        return found


def asked_address(values: list[str]) -> IPAddress:
    """The address that `?ip=` names; InvalidAddress or ReservedAddress where it names none that could be found."""
    if len(values) > 1:
        raise InvalidAddress("ip is given more than once: ask for one address at a time")
    try:
        address = parse_address(values[0])
    except ValueError:
        raise InvalidAddress(_NOT_AN_ADDRESS) from None
    if not is_global(address):
        raise ReservedAddress(_RESERVED)
    return address


def caller_address(request: Request) -> IPAddress | None:
    """The caller's address; None where it is none on the internet, so that the service's own egress is meant."""
    for client in (request.scope.get("client"), request.scope.get(_PEER)):
        try:
            address = parse_address(client[0] if client else "")
        except ValueError:
            continue
        return address if is_global(address) else None
    return None


class _Forwarded:
    """uvicorn's reading of X-Forwarded-For, which keeps the peer's address for a hop that is none."""

    def __init__(self, app: ASGIApp, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        hosts = [str(network) for network in trusted]
        # On a socket for both families, a peer with an IPv4 address has an IPv4-mapped one.
        hosts += [f"::ffff:{n.network_address}/{96 + n.prefixlen}" for n in trusted if isinstance(n, IPv4Network)]
        self._app: Any = ProxyHeadersMiddleware(cast("Any", app), hosts)  # uvicorn types ASGI in its own way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_PEER] = scope.get("client")
        await self._app(scope, receive, send)


def problem_response(problem: Problem) -> Response:
    """A problem as it is sent."""
    headers = _HEADERS | {"Cache-Control": "no-store"}
    if problem.cache_status is not None:
        headers["Cache-Status"] = problem.cache_status
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if isinstance(problem, MethodNotAllowed):
        headers["Allow"] = "GET, HEAD"  # of every route
    return Response(
        problem.details().model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def _on_problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101 (Starlette hands over what was registered)
    request.scope.get(NOTES, {})["upstream_ms"] = problem.upstream_ms
    return problem_response(problem)


def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (Starlette hands over what was registered)
    if error.status_code == 405:
        return problem_response(MethodNotAllowed("only GET and HEAD are answered here"))
    return problem_response(NotFound("there is nothing here: ask for /, /?ip=ADDRESS or /docs"))


def _on_bug(_request: Request, _: Exception) -> Response:
    return problem_response(InternalError(_BUG))


# What the schema says of problems: for each, how it looks.
_EXAMPLES: tuple[Problem, ...] = (
    BadRequest("this is not HTTP/1.1"),
    InvalidAddress(_NOT_AN_ADDRESS),
    ReservedAddress(_RESERVED),
    UnknownAddress("ipwhois does not know this address"),
    InternalError(_BUG),
    UpstreamRefused("ipify refuses the service: its operator should look at GEOIP_IPIFY_KEY"),
    UpstreamFailed("ipwhois cannot be reached, or broke off"),
    QuotaExhausted("ipwhois takes no more requests for now", retry_after=60),
    UpstreamTimeout("ipwhois said nothing in time"),
)


def _responses() -> dict[int | str, dict[str, Any]]:
    headers = {
        "Cache-Control": "`private, no-store` for the caller's own address and an expired answer, else an age.",
        "Cache-Status": "Whether it is from the cache, and for how many seconds yet (RFC 9211).",
    }
    responses: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The answer; a page that shows it where `Accept` prefers HTML.",
            "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()},
            "content": {"text/html": {"schema": {"type": "string"}}},
        }
    }
    for problem in _EXAMPLES:
        response = responses.setdefault(
            problem.status,
            {
                "content": {
                    "application/problem+json": {
                        "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                        "examples": {},
                    }
                }
            },
        )
        summary = (type(problem).__doc__ or "").strip()
        response["description"] = f"{response['description']} {summary}" if "description" in response else summary
        value = problem.details().model_dump(exclude_none=True)
        response["content"]["application/problem+json"]["examples"][problem.code] = {"summary": summary, "value": value}
        if problem.retry_after:
            schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAUSE}
            response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": schema}}
    return responses


class _Service(FastAPI):
    """FastAPI would document a problem's model as application/json: here it is a schema of its own, referred to."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = super().openapi()
            _, definitions = models_json_schema(
                [(ProblemDetails, "serialization")], ref_template="#/components/schemas/{model}"
            )
            schema["components"]["schemas"] |= definitions["$defs"]
        return super().openapi()
