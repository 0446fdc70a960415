"""Sources: the request each makes, how its documented answers and errors are read, and whatever else it may send."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.address import IPAddress
from app.answer import Answer
from app.client import Client
from app.problems import Code, Problem
from app.sources import SOURCES
from app.sources.source import DEFAULT_PAUSE, MAX_PAUSE, HttpSettings, HttpSource, Source, read_retry_after
from tests.app.conftest import serving
from tests.app.documented import ERRORS, EXAMPLES, KEY, NULLS, Example
from tests.conftest import Service
from tests.upstream import Behaviour, Upstream, answering, ipwhois_answer, reset, sending

WEB: dict[str, type[HttpSource]] = {source.name: source for source in SOURCES if issubclass(source, HttpSource)}
EIGHT = ip_address("8.8.8.8")

Upstreams = Callable[..., Upstream]


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    """A provider whose behaviour each test sets."""
    with Upstream(reset) as made:
        yield made


def ask(
    name: str, upstream: Upstream, address: IPAddress | None = EIGHT, *, path: str = "", key: str | None = KEY
) -> Answer | Problem:
    """Return the source's reading of the upstream's answer about an address."""
    made = HttpSettings.model_validate({"url": upstream.url + path, "key": key})

    async def run() -> Answer | Problem:
        client = Client()
        try:
            return await WEB[name](made, client).ask(address)
        except Problem as problem:
            return problem
        finally:
            client.close()

    return asyncio.run(run())


def answered(found: Answer | Problem) -> Answer:
    assert isinstance(found, Answer), found
    return found


def failed(found: Answer | Problem) -> Problem:
    assert isinstance(found, Problem), found
    return found


# Every source has its documentation


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_source_has_its_documented_answers(source: type[Source]) -> None:
    assert EXAMPLES.get(source.name), f"tests/app/documented.py has no documented answer of {source.name}"


@pytest.mark.parametrize("name", WEB)
def test_every_web_api_has_its_documented_errors(name: str) -> None:
    codes = {code for _, _, code in ERRORS.get(name, [])}
    missing = {"unknown-address", "quota-exhausted"} - codes
    assert not missing, f"tests/app/documented.py has no such error of {name}: {missing}"


DOCUMENTED = [pytest.param(name, each, id=f"{name}, {each.name}") for name in WEB for each in EXAMPLES.get(name, [])]


@pytest.mark.parametrize(("name", "documented"), DOCUMENTED)
@pytest.mark.parametrize("own", [False, True], ids=["an address", "own address"])
def test_a_documented_answer_is_read(name: str, documented: Example, own: bool, upstream: Upstreams) -> None:
    provider = upstream(answering(documented.body))
    address = None if own else ip_address(str(documented.answer["ip"]))
    found = ask(name, provider, address, path=documented.path, key=documented.key)
    assert answered(found).model_dump() == NULLS | documented.answer | {"source": name}
    (request,) = provider.requests
    target = documented.own_target if own else documented.target.format(ip=address)
    assert unquote(request.target) == target
    authorization = f"Bearer {documented.key}" if name == "ipinfo" and documented.key else None
    assert request.headers.get("authorization") == authorization


@pytest.mark.parametrize("name", WEB)
def test_an_ipv6_address_is_asked_about_in_its_shortest_form(name: str, upstream: Upstreams) -> None:
    documented = EXAMPLES[name][0]
    ip = {"query" if name == "ipapi" else "ip": "2001:4860:4860:0000:0:0:0:8888"}
    provider = upstream(answering(documented.body | ip))
    found = ask(name, provider, ip_address("2001:4860:4860:0:0:0:0:8888"), key=documented.key)
    assert answered(found).ip == "2001:4860:4860::8888"
    assert unquote(provider.requests[0].target) == documented.target.format(ip="2001:4860:4860::8888")


@pytest.mark.parametrize(
    ("name", "status", "body", "code"),
    [(name, *error) for name, errors in ERRORS.items() for error in errors],
)
def test_a_documented_error_is_told_from_the_others(
    name: str, status: int, body: object, code: Code, provider: Upstream
) -> None:
    provider.behaviour = answering(body, status)
    problem = failed(ask(name, provider))
    assert problem.code == code
    assert problem.detail.startswith(name)
    assert problem.retry_after == (DEFAULT_PAUSE if code == "quota-exhausted" else None)
    assert problem.fault == "answer"


@pytest.mark.parametrize(
    ("name", "key", "url"),
    [
        ("ipwhois", None, "https://ipwho.is"),
        ("ipwhois", KEY, "https://ipwhois.pro"),
        ("ipify", KEY, "https://geo.ipify.org"),
        ("ipapi", None, "http://ip-api.com"),
        ("ipapi", KEY, "https://pro.ip-api.com"),
        ("ipinfo", None, "https://ipinfo.io"),
        ("ipinfo", KEY, "https://ipinfo.io"),
    ],
)
def test_a_key_leads_to_the_host_of_its_plan(name: str, key: str | None, url: str) -> None:
    assert WEB[name](HttpSettings.model_validate({"key": key}), Client()).base_url == url
    named = HttpSettings.model_validate({"key": key, "url": "http://proxy.example/there/"})
    assert WEB[name](named, Client()).base_url == "http://proxy.example/there"


@pytest.mark.parametrize("name", WEB)
def test_a_refusal_names_the_variable_to_look_at(name: str, provider: Upstream) -> None:
    provider.behaviour = answering({"messages": f"the key {KEY} is wrong"}, 403)
    problem = failed(ask(name, provider))
    assert problem.code == "upstream-refused"
    variable = f"GEOIP_{name.upper()}_KEY"
    assert problem.detail == f"{name} refuses the request: check {variable}"


def test_a_key_reaches_the_provider_and_no_log(serve: Callable[..., Service], upstream: Upstreams) -> None:
    leaks = [
        answering({"messages": KEY, "message": f"{KEY} is wrong", "error": KEY}, 403),
        answering({"isp": KEY, "latitude": KEY, "ip": KEY, "success": True, "status": "success", "query": KEY}),
        sending(f"HTTP/1.1 {KEY}\r\n\r\n".encode()),
        answering(KEY.encode(), 302, {"Location": f"http://127.0.0.1:9/{KEY}"}),
    ]
    for name, leak in zip(WEB, leaks, strict=True):
        provider = upstream(leak)
        settings = {f"GEOIP_{name.upper()}_URL": provider.url, f"GEOIP_{name.upper()}_KEY": KEY}
        service = serve(GEOIP_SOURCES=name, GEOIP_LOG_LEVEL="debug", **settings)
        response = service.get("/?ip=8.8.8.8")
        assert response.status_code == 502
        assert KEY in f"{provider.requests[0].target} {provider.requests[0].headers}"
        assert KEY not in response.text + service.log.read_text()


# Retry-After


@pytest.mark.parametrize("name", WEB)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait", ["37", "date"])
def test_a_source_that_says_when_to_ask_again_is_out_of_quota(
    name: str, status: int, wait: str, provider: Upstream
) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=37), usegmt=True) if wait == "date" else wait
    provider.behaviour = answering({}, status, {"Retry-After": value})
    problem = failed(ask(name, provider))
    assert problem.code == "quota-exhausted"
    assert problem.retry_after is not None
    assert 30 <= problem.retry_after <= 37


@pytest.mark.parametrize("name", WEB)
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_that_does_not_say_when_to_ask_again_is_a_failure(
    name: str, status: int, provider: Upstream
) -> None:
    provider.behaviour = answering({}, status)
    problem = failed(ask(name, provider))
    assert (problem.code, problem.fault, problem.retry_after) == ("upstream-failed", "server", None)
    assert problem.detail == f"{name} sent HTTP status {status}"


def test_ip_api_has_a_header_of_its_own_for_the_seconds(provider: Upstream) -> None:
    provider.behaviour = answering(b"", 429, {"X-Ttl": "33", "X-Rl": "0"})
    assert failed(ask("ipapi", provider)).retry_after == 33
    provider.behaviour = answering(b"", 429, {"Retry-After": "34"})
    assert failed(ask("ipapi", provider)).retry_after == 34


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(max_codepoint=255))
    | st.integers().map(str)
    | st.datetimes().map(lambda d: f"{d:%a, %d %b %Y %T} GMT")
)
@example("Wed, 21 Oct 9999 07:28:00 -2359")
@example("Mon, 1 Jan 1 00:00 +2359")
@example("Mon, 1 Jan 2035 00:00:00")
@example("²")
@example("٣")
@example("1" * 5000)
def test_whatever_stands_in_retry_after_is_a_wait_of_a_second_to_an_hour(value: str) -> None:
    assert 1 <= read_retry_after(value) <= MAX_PAUSE


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 1), ("59", 59), ("86400", MAX_PAUSE), ("", DEFAULT_PAUSE), ("soon", DEFAULT_PAUSE)]
)
def test_the_seconds_of_retry_after(value: str, seconds: int) -> None:
    assert read_retry_after(value) == seconds


# Anything else


@pytest.mark.parametrize("name", WEB)
@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"<html>", 200, "sent an answer that is not JSON"),
        (b'{"latitude": NaN}', 200, "sent an answer that is not JSON"),
        ([1], 200, "sent an answer that is not valid"),
        ({}, 418, "sent HTTP status 418"),
        ({}, 301, "sent HTTP status 301"),
    ],
)
def test_what_is_not_an_answer_is_a_failure_of_that_answer(
    name: str, body: object, status: int, detail: str, provider: Upstream
) -> None:
    provider.behaviour = answering(body, status)
    problem = failed(ask(name, provider))
    assert (problem.code, problem.fault, problem.detail) == ("upstream-failed", "answer", f"{name} {detail}")


@pytest.mark.parametrize("name", WEB)
def test_a_good_answer_under_a_status_of_an_error_is_not_believed(name: str, provider: Upstream) -> None:
    provider.behaviour = answering(EXAMPLES[name][0].body, 404)
    ip = ip_address(str(EXAMPLES[name][0].answer["ip"]))
    assert failed(ask(name, provider, ip)).detail == f"{name} sent HTTP status 404"


@pytest.mark.parametrize("name", WEB)
@pytest.mark.parametrize(
    ("behaviour", "fault", "detail"),
    [
        (reset, "server", "cannot be reached"),
        (sending(b"220 ready\r\n\r\n"), "server", "cannot be reached"),
        (sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), "server", "cannot be reached"),
        (answering(b" " * 70_000), "answer", "sent an answer that is not valid"),
        (answering({}, headers={"Content-Encoding": "br"}), "answer", "sent an answer that is not valid"),
    ],
)
def test_an_answer_that_breaks_off_or_is_not_taken_is_a_failure(
    name: str, behaviour: Behaviour, fault: str, detail: str, provider: Upstream
) -> None:
    provider.behaviour = behaviour
    problem = failed(ask(name, provider))
    assert (problem.code, problem.fault, problem.detail) == ("upstream-failed", fault, f"{name} {detail}")
    assert problem.reason
    assert "://" not in problem.reason


@pytest.mark.parametrize("name", WEB)
def test_a_server_that_nobody_answers_at_is_a_failure_of_the_source(name: str) -> None:
    with Upstream(reset) as gone:
        pass
    problem = failed(ask(name, gone))
    assert (problem.code, problem.fault, problem.detail) == (
        "upstream-failed",
        "connection",
        f"{name} cannot be reached",
    )


@pytest.mark.parametrize("ip", ["10.0.0.1", "127.0.0.1", "fe80::1", None])
def test_the_services_own_address_is_a_global_one(ip: str | None, provider: Upstream) -> None:
    provider.behaviour = answering(ipwhois_answer("9.9.9.9") | {"ip": ip})
    problem = failed(ask("ipwhois", provider, None))
    assert problem.detail == "ipwhois does not say which public address the service has"


@pytest.mark.parametrize(
    ("organization", "isp", "asn"),
    [
        ("AS15169 Google LLC", "Google LLC", 15169),
        ("AS15169", None, 15169),
        ("AS1.10 Asdot", "Asdot", 65546),
        ("Google LLC", "Google LLC", None),
        ("ASUS Cloud", "ASUS Cloud", None),
        ("AS4294967296 Too Large", "Too Large", None),
        ("AS0 Nobody", "Nobody", None),
        (None, None, None),
        (["AS15169 Google LLC"], None, None),
    ],
)
def test_ipinfo_writes_the_system_and_its_name_in_one(
    organization: object, isp: str | None, asn: int | None, provider: Upstream
) -> None:
    provider.behaviour = answering({"ip": "8.8.8.8", "loc": "1,2", "org": organization})
    answer = answered(ask("ipinfo", provider))
    assert (answer.isp, answer.asn) == (isp, asn)


NUMERALS = "37.4|-0.0|nan|1_0| 9 |1,2|AS1|AS15169 Google|8.8.8.8|8.8.4.4|fe80::1%1"
TEXTS = "US|ZZ|UTC|Europe/Berlin|success|reserved range|quota exceeded|key"
WORDS = st.sampled_from([*NUMERALS.split("|"), *TEXTS.split("|"), "x" * 201, KEY])
NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.sampled_from([10**400, -(10**20), 2**32, 2**32 - 1, 90, 180, 0, -0.0])
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=20)
FLAT = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(WORDS, SCALARS, max_size=2)
JSON = FLAT | st.lists(FLAT, max_size=2) | st.dictionaries(WORDS, FLAT, max_size=2)
Place = tuple[str, ...]


def places(body: Mapping[str, Any], path: Place = ()) -> list[Place]:
    """Return the places of the values in an object, and in the objects inside it."""
    found: list[Place] = []
    for name, value in body.items():
        found += [(*path, name), *(places(value, (*path, name)) if isinstance(value, dict) else [])]
    return found


def replaced(body: object, values: Mapping[Place, object], path: Place = ()) -> object:
    """An object with other values in some places."""
    if path in values:
        return values[path]
    if isinstance(body, dict):
        return {name: replaced(value, values, (*path, name)) for name, value in body.items()}
    return body


# The places of the address, the coordinates and the ISP. All other places are decoration.
NEEDED = {"ip", "query", "success", "status", "latitude", "longitude", "lat", "lng", "lon", "loc", "isp", "org"}
SECTIONS_OF_COORDINATES = {("location",), ("geo",)}


@st.composite
def decorated(draw: st.DrawFn) -> tuple[str, Example, object]:
    """A documented answer with coordinates, with anything in the places of its decoration."""
    choices = [(name, each) for name in WEB for each in EXAMPLES[name] if "latitude" in each.answer]
    name, documented = draw(st.sampled_from(choices))
    free = [
        place
        for place in places(documented.body)
        if place[-1] not in NEEDED and place not in SECTIONS_OF_COORDINATES and place[-1] not in {"as_name", "name"}
    ]
    values = draw(st.dictionaries(st.sampled_from(free), JSON, min_size=1, max_size=len(free)))
    return name, documented, replaced(documented.body, values)


@settings(max_examples=150, deadline=None)
@given(decorated())
def test_decoration_of_any_type_never_breaks_an_answer(provider: Upstream, drawn: tuple[str, Example, object]) -> None:
    name, documented, body = drawn
    provider.behaviour = answering(body)
    found = ask(name, provider, ip_address(str(documented.answer["ip"])), path=documented.path, key=documented.key)
    for field in ("ip", "latitude", "longitude"):
        assert getattr(answered(found), field) == documented.answer[field]
    if isinstance(body, dict) and "isp" in body and body["isp"]:
        assert answered(found).isp == documented.answer["isp"]


FIELD_NAMES = sorted(
    {field for name in WEB for each in EXAMPLES[name] for field in each.body}
    | {"messages", "message", "error", "bogon"}
)


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, bytes]:
    """A source's documented answer, with anything in some of its places."""
    name = draw(st.sampled_from(sorted(WEB)))
    body = draw(st.sampled_from(EXAMPLES[name])).body
    values = draw(st.dictionaries(st.sampled_from(places(body)), JSON, min_size=1, max_size=3))
    return name, json.dumps(replaced(body, values)).encode()


@st.composite
def anything(draw: st.DrawFn) -> tuple[str, bytes]:
    """Bytes, or JSON that has names of fields."""
    name = draw(st.sampled_from(sorted(WEB)))
    value = JSON | st.dictionaries(st.sampled_from(FIELD_NAMES), JSON, max_size=4)
    return name, draw(st.binary(max_size=30) | value.map(lambda value: json.dumps(value).encode()))


def check(name: str, found: Answer | Problem, address: IPAddress | None) -> None:
    """An answer that is what the schema says, or a problem that gives nothing away."""
    if isinstance(found, Problem):
        assert KEY not in f"{found.detail} {found.reason}"
        assert found.status in (404, 502, 503)
        return
    text = found.model_dump_json()
    assert Answer.model_validate_json(text) == found
    assert json.loads(text, parse_constant=pytest.fail) == found.model_dump()
    assert found.source == name
    assert ip_address(found.ip) == address or address is None
    assert (found.latitude is None) == (found.longitude is None)
    assert found.isp or found.latitude is not None
    for coordinate, limit in ((found.latitude, 90), (found.longitude, 180)):
        if coordinate is not None:
            assert abs(coordinate) <= limit
            assert round(coordinate, 6) == coordinate
            assert math.copysign(1, coordinate) == 1 or coordinate


STATUSES = st.sampled_from([200] * 12 + [404, 422, 429, 403, 500, 503])
HEADERS = st.dictionaries(st.sampled_from(["Retry-After", "X-Ttl"]), st.sampled_from(["0", "60", "9" * 30, "-1", "no"]))


@settings(max_examples=200, deadline=None)
@given(changed() | anything(), STATUSES, HEADERS, st.booleans())
@example(("ipify", b'{"ip": "8.8.8.8", "isp": "\\ud800"}'), 200, {}, False)
@example(("ipinfo", b"[" * 60_000), 200, {}, False)
@example(("ipify", b"-" + b"9" * 60_000), 200, {}, False)
def test_whatever_is_sent_is_an_answer_or_a_problem(
    provider: Upstream, sent: tuple[str, bytes], status: int, headers: dict[str, str], own: bool
) -> None:
    name, body = sent
    provider.behaviour = answering(body, status, headers)
    address = None if own else EIGHT
    check(name, ask(name, provider, address), address)


# A source from outside


class Outside(HttpSource):
    """A provider that app/ does not know."""

    name = "example"
    url = "https://example.invalid"
    needs_key = True

    def __init__(self, settings: HttpSettings, client: Client) -> None:
        super().__init__(settings, client)
        self.headers["X-Key"] = self.key

    def path(self, address: IPAddress | None) -> str:
        return f"/where/{address or 'me'}"

    def read(self, body: dict[str, Any]) -> dict[str, object]:
        if "problem" in body:
            raise self.error(body["problem"])
        return {"ip": body.get("address"), "isp": body.get("provider"), "latitude": 1.5, "longitude": -2}


OUTSIDE: tuple[type[Source], ...] = (*SOURCES, Outside)


def test_a_source_from_outside_is_asked_with_its_own_settings(upstream: Upstreams) -> None:
    provider = upstream(answering({"address": "8.8.8.8", "provider": "Example Net"}))
    variables: dict[str, Any] = {
        "GEOIP_SOURCES": "example",
        "GEOIP_EXAMPLE_URL": provider.url,
        "GEOIP_EXAMPLE_KEY": KEY,
    }
    with serving(OUTSIDE, **variables) as service:
        answer = service.get("/?ip=8.8.8.8").json()
        own = service.get("/")
        schema = service.get("/openapi.json").json()
    assert answer == NULLS | {
        "ip": "8.8.8.8",
        "isp": "Example Net",
        "latitude": 1.5,
        "longitude": -2.0,
        "source": "example",
    }
    assert own.json()["ip"] == "8.8.8.8"
    assert [request.target for request in provider.requests] == ["/where/8.8.8.8", "/where/me"]
    assert provider.requests[0].headers["x-key"] == KEY
    assert list(answer) == list(schema["components"]["schemas"]["Answer"]["properties"])


def test_a_source_from_outside_may_have_its_key_in_a_file(upstream: Upstreams, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    provider = upstream(answering({"problem": "unknown token"}))
    variables: dict[str, Any] = {"GEOIP_EXAMPLE_URL": provider.url, "GEOIP_EXAMPLE_KEY_FILE": tmp_path / "key"}
    with serving(OUTSIDE, GEOIP_SOURCES="example", **variables) as service:
        problem = service.get("/?ip=8.8.8.8").json()
    assert provider.requests[0].headers["x-key"] == KEY
    assert problem["code"] == "upstream-refused"
    assert problem["detail"] == "example refuses the request: check GEOIP_EXAMPLE_KEY"


def test_a_source_from_outside_is_asked_beside_the_others(upstream: Upstreams) -> None:
    provider = upstream(answering(b"", 500))
    variables: dict[str, Any] = {"GEOIP_EXAMPLE_URL": provider.url, "GEOIP_EXAMPLE_KEY": KEY}
    with serving(OUTSIDE, GEOIP_SOURCES="example,mmdb", **variables) as service:
        assert service.get("/?ip=8.8.8.8").json()["source"] == "mmdb"


def test_a_source_from_outside_that_needs_a_key_is_not_started_without() -> None:
    with (
        pytest.raises(
            ValueError,
            match=r"^GEOIP_EXAMPLE_KEY: example needs an API key: set it, or change GEOIP_SOURCES$",
        ),
        serving(OUTSIDE, GEOIP_SOURCES="example"),
    ):
        pytest.fail("it started")
