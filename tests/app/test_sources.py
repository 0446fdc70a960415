"""Sources: the request each makes, how its documented answers and errors are read, and whatever else it may send."""

import json
import math
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
import respx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.address import IPAddress
from app.client import Client, Response
from app.problems import Problem, QuotaExhausted, UnknownAddress, UpstreamFailed, UpstreamRefused
from app.settings import Settings
from app.sources import DEFAULT_PAUSE, MAX_PAUSE, Answer, Reply, Source, make_sources, read_answer, read_retry_after
from tests.upstream import ipwhois_answer

KEY = "k3y-that-nobody-may-see"
FIELDS = "status,message,country,countryCode,regionName,city,zip,lat,lon,timezone,isp,as,query"
NAMES = ["ipwhois", "ipify", "ipapi", "ipinfo"]


def source(name: str, client: Client | None = None) -> Source:
    """A source as the settings make it, with a key where it takes one."""
    keys: dict[str, Any] = {"ipify_key": KEY, "ipinfo_key": KEY}
    made = Settings(_env_file=None, sources=name, **keys)  # type: ignore[arg-type, call-arg]
    return make_sources(made, client or Client())[0]


def test_a_data_folder_that_cannot_be_looked_into_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("app.sources.Path.exists", refuse)
    with pytest.raises(ValueError, match=r"^data/dbip-city.mmdb: Permission denied$"):
        source("mmdb")


# Requests and documented answers

REQUESTS = {
    "ipwhois": ("https://ipwho.is/{ip}", "https://ipwho.is/"),
    "ipify": (
        f"https://geo.ipify.org/api/v2/country,city?apiKey={KEY}&ipAddress={{ip}}",
        f"https://geo.ipify.org/api/v2/country,city?apiKey={KEY}",
    ),
    "ipapi": (f"http://ip-api.com/json/{{ip}}?fields={FIELDS}", f"http://ip-api.com/json/?fields={FIELDS}"),
    "ipinfo": ("https://ipinfo.io/{ip}/json", "https://ipinfo.io/json"),
}

# What the providers' documentation shows, and what the service makes of it.
DOCUMENTED: dict[str, tuple[dict[str, Any], dict[str, object]]] = {
    "ipwhois": (
        ipwhois_answer("8.8.4.4"),
        {
            "ip": "8.8.4.4",
            "isp": "Google LLC",
            "latitude": 37.386052,
            "longitude": -122.083851,
            "city": "Mountain View",
            "region": "California",
            "country": "United States",
            "country_code": "US",
            "postal_code": "94039",
            "timezone": "America/Los_Angeles",
            "asn": 15169,
        },
    ),
    "ipify": (
        {
            "ip": "8.8.8.8",
            "location": {
                "country": "US",
                "region": "California",
                "city": "Mountain View",
                "lat": 37.40599,
                "lng": -122.078514,
                "postalCode": "94043",
                "timezone": "-07:00",
                "geonameId": 5375480,
            },
            "as": {
                "asn": 15169,
                "name": "GOOGLE",
                "route": "8.8.8.0/24",
                "domain": "https://about.google/",
                "type": "Content",
            },
            "isp": "Google LLC",
        },
        {
            "ip": "8.8.8.8",
            "isp": "Google LLC",
            "latitude": 37.40599,
            "longitude": -122.078514,
            "city": "Mountain View",
            "region": "California",
            "country": None,
            "country_code": "US",
            "postal_code": "94043",
            "timezone": None,
            "asn": 15169,
        },
    ),
    "ipapi": (
        {
            "status": "success",
            "country": "Canada",
            "countryCode": "CA",
            "regionName": "Quebec",
            "city": "Montreal",
            "zip": "H1K",
            "lat": 45.6085,
            "lon": -73.5493,
            "timezone": "America/Toronto",
            "isp": "Le Groupe Videotron Ltee",
            "as": "AS5769 Videotron Ltee",
            "query": "24.48.0.1",
        },
        {
            "ip": "24.48.0.1",
            "isp": "Le Groupe Videotron Ltee",
            "latitude": 45.6085,
            "longitude": -73.5493,
            "city": "Montreal",
            "region": "Quebec",
            "country": "Canada",
            "country_code": "CA",
            "postal_code": "H1K",
            "timezone": "America/Toronto",
            "asn": 5769,
        },
    ),
    "ipinfo": (
        {
            "ip": "66.87.125.72",
            "hostname": "ip-66-87-125-72.spfdma.spcsdns.net",
            "city": "Springfield",
            "region": "Massachusetts",
            "country": "US",
            "loc": "42.0999,-72.5783",
            "postal": "01105",
            "timezone": "America/New_York",
            "org": "AS51501 Example Networks Ltd",
        },
        {
            "ip": "66.87.125.72",
            "isp": "Example Networks Ltd",
            "latitude": 42.0999,
            "longitude": -72.5783,
            "city": "Springfield",
            "region": "Massachusetts",
            "country": None,
            "country_code": "US",
            "postal_code": "01105",
            "timezone": "America/New_York",
            "asn": 51501,
        },
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("own", [False, True])
async def test_a_documented_answer_is_read(name: str, own: bool, respx_mock: respx.MockRouter) -> None:
    body, fields = DOCUMENTED[name]
    route = respx_mock.route().respond(json=body)
    reply = await source(name).ask(None if own else ip_address(str(fields["ip"])))
    assert reply == Reply(Answer.model_validate(fields | {"source": name}), 0)
    request = route.calls.last.request
    assert str(request.url).replace("%2C", ",") == REQUESTS[name][own].format(ip=fields["ip"])
    assert request.method == "GET"
    assert request.headers.get("Authorization") == (f"Bearer {KEY}" if name == "ipinfo" else None)


@pytest.mark.anyio
@pytest.mark.parametrize("name", NAMES)
async def test_an_ipv6_address_is_asked_about_in_its_shortest_form(name: str, respx_mock: respx.MockRouter) -> None:
    address = "2001:4860:4860::8888"
    body = DOCUMENTED[name][0] | {"query" if name == "ipapi" else "ip": "2001:4860:4860:0000:0:0:0:8888"}
    route = respx_mock.route().respond(json=body)
    reply = await source(name).ask(ip_address("2001:4860:4860:0:0:0:0:8888"))
    assert reply.answer.ip == address
    url = httpx.URL(str(route.calls.last.request.url).replace("%3A", ":").replace("%2C", ","))
    assert str(url) == REQUESTS[name][0].format(ip=address)


@pytest.mark.anyio
async def test_without_a_key_ipinfo_is_asked_without_one(respx_mock: respx.MockRouter) -> None:
    route = respx_mock.get("https://ipinfo.io/json").respond(json=DOCUMENTED["ipinfo"][0])
    keyless = make_sources(Settings(_env_file=None, sources="ipinfo"), Client())[0]  # type: ignore[arg-type, call-arg]
    await keyless.ask(None)
    assert "Authorization" not in route.calls.last.request.headers


@pytest.mark.anyio
async def test_a_base_url_may_have_a_path(respx_mock: respx.MockRouter) -> None:
    respx_mock.get("http://proxy.example/ipwhois/8.8.4.4").respond(json=DOCUMENTED["ipwhois"][0])
    settings = Settings(_env_file=None, sources="ipwhois", ipwhois_url="http://proxy.example/ipwhois/")  # type: ignore[arg-type, call-arg]
    assert (await make_sources(settings, Client())[0].ask(ip_address("8.8.4.4"))).answer.isp == "Google LLC"


NO_CREDIT = "Access restricted. Check credits balance or enter the correct API key."
ERRORS: list[tuple[str, int, object, type[Problem]]] = [
    ("ipwhois", 200, {"success": False, "message": "Reserved range", "ip": "127.0.0.1"}, UnknownAddress),
    ("ipwhois", 200, {"success": False, "message": "Invalid IP address"}, UnknownAddress),
    ("ipwhois", 401, {"success": False, "message": "Invalid API key"}, UpstreamRefused),
    ("ipwhois", 429, {"success": False, "message": "Too many requests"}, QuotaExhausted),
    ("ipify", 403, {"code": 403, "messages": NO_CREDIT}, UpstreamRefused),
    ("ipify", 200, {"code": 403, "messages": NO_CREDIT}, UpstreamRefused),
    ("ipify", 422, {"code": 422, "messages": "Input correct IPv4 or IPv6 address."}, UnknownAddress),
    ("ipify", 429, {"code": 429, "messages": "Too many requests"}, QuotaExhausted),
    ("ipapi", 200, {"status": "fail", "message": "reserved range", "query": "::1"}, UnknownAddress),
    ("ipapi", 200, {"status": "fail", "message": "private range", "query": "10.0.0.1"}, UnknownAddress),
    ("ipapi", 200, {"status": "fail", "message": "invalid query", "query": "x"}, UnknownAddress),
    ("ipapi", 200, {"status": "fail", "message": "out of order"}, UpstreamFailed),
    ("ipapi", 429, b"", QuotaExhausted),
    ("ipinfo", 200, {"ip": "192.168.1.1", "bogon": True}, UnknownAddress),
    (
        "ipinfo",
        404,
        {"status": 404, "error": {"title": "Wrong ip", "message": "Please provide a valid IP address"}},
        UnknownAddress,
    ),
    ("ipinfo", 403, {"status": 403, "error": {"title": "Unknown token", "message": "Check it"}}, UpstreamRefused),
    ("ipinfo", 200, {"status": 403, "error": {"title": "Unknown token", "message": "Check it"}}, UpstreamRefused),
    ("ipinfo", 429, {"status": 429, "error": {"title": "Rate limit exceeded", "message": "…"}}, QuotaExhausted),
    ("ipinfo", 200, {"status": 429, "error": {"title": "Rate limit exceeded", "message": "…"}}, QuotaExhausted),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "status", "body", "problem"), ERRORS)
async def test_a_documented_error_is_told_from_the_others(
    name: str, status: int, body: object, problem: type[Problem], respx_mock: respx.MockRouter
) -> None:
    respx_mock.route().respond(status, content=body if isinstance(body, bytes) else json.dumps(body))
    with pytest.raises(Problem) as caught:
        await source(name).ask(ip_address("8.8.8.8"))
    assert type(caught.value) is problem
    assert caught.value.detail.startswith(name)
    assert caught.value.retry_after == (DEFAULT_PAUSE if problem is QuotaExhausted else None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("ipwhois", "GEOIP_IPWHOIS_URL"),
        ("ipify", "GEOIP_IPIFY_KEY"),
        ("ipapi", "GEOIP_IPAPI_URL"),
        ("ipinfo", "GEOIP_IPINFO_KEY"),
    ],
)
async def test_a_refusal_names_the_variable_to_look_at(name: str, variable: str, respx_mock: respx.MockRouter) -> None:
    respx_mock.route().respond(403, json={"messages": f"the key {KEY} is wrong"})
    with pytest.raises(UpstreamRefused) as caught:
        await source(name).ask(None)
    assert caught.value.detail == f"{name} refuses the service: its operator should look at {variable}"


@pytest.mark.anyio
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.RemoteProtocolError(f"illegal status line: bytearray(b'GET /?apiKey={KEY}')"),
        httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY} '"),
        httpx.InvalidURL(f"no URL: {KEY}"),
        httpx.ProxyError(f"407 {KEY}"),
        ValueError(KEY),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_key_is_in_what_is_said_of_a_broken_connection(
    name: str, error: Exception, respx_mock: respx.MockRouter
) -> None:
    respx_mock.route().mock(side_effect=error)
    with pytest.raises(UpstreamFailed) as caught:
        await source(name).ask(None)
    assert caught.value.detail == f"{name} cannot be reached, or broke off"
    assert type(error).__name__ in caught.value.reason
    assert KEY not in caught.value.reason
    assert "://" not in caught.value.reason


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"X-Rl": "44", "X-Ttl": "60"}, 0),
        ({"X-Rl": "0", "X-Ttl": "42"}, 42),
        ({"X-Rl": "0", "X-Ttl": "0"}, 1),
        ({"X-Rl": "0"}, DEFAULT_PAUSE),
        ({"X-Ttl": "42"}, 0),
    ],
)
def test_ip_api_says_which_request_was_the_last(headers: dict[str, str], pause: int) -> None:
    body = json.dumps(DOCUMENTED["ipapi"][0]).encode()
    assert ask("ipapi", body, headers=headers, address=None) == Reply(
        Answer.model_validate(DOCUMENTED["ipapi"][1] | {"source": "ipapi"}), pause
    )


def test_ip_api_counts_the_seconds_of_its_429_in_a_header_of_its_own() -> None:
    refused = ask("ipapi", b"", 429, {"X-Ttl": "33"})
    assert isinstance(refused, QuotaExhausted)
    assert refused.retry_after == 33


@pytest.mark.parametrize("status", [200, 429])
def test_a_quota_that_is_gone_in_words_is_believed_for_as_long_as_the_header_says(status: int) -> None:
    body = json.dumps({"success": False, "message": "You've hit the monthly limit"}).encode()
    refused = ask("ipwhois", body, status, {"Retry-After": "900"})
    assert isinstance(refused, QuotaExhausted)
    assert refused.retry_after == 900


@pytest.mark.parametrize("ip", ["10.0.0.1", "127.0.0.1", "fe80::1", None])
def test_the_services_own_address_is_one_on_the_internet(ip: str | None) -> None:
    body = json.dumps(ipwhois_answer("9.9.9.9") | {"ip": ip}).encode()
    failed = ask("ipwhois", body, address=None)
    assert isinstance(failed, UpstreamFailed)
    assert failed.detail == "ipwhois does not say which address the service has on the internet"


@pytest.mark.parametrize(
    ("organization", "isp", "asn"),
    [
        ("AS15169 Google LLC", "Google LLC", 15169),
        ("AS15169", None, 15169),
        ("Google LLC", "Google LLC", None),
        ("ASUS Cloud", "ASUS Cloud", None),
        ("AS4294967296 Too Large", "Too Large", None),
        ("AS0 Nobody", "Nobody", None),
        (None, None, None),
    ],
)
def test_ipinfo_writes_the_system_and_its_name_in_one(
    organization: str | None, isp: str | None, asn: int | None
) -> None:
    body = json.dumps({"ip": "8.8.8.8", "loc": "1,2", "org": organization}).encode()
    reply = ask("ipinfo", body)
    assert isinstance(reply, Reply)
    assert (reply.answer.isp, reply.answer.asn) == (isp, asn)


# Anything else


class Canned(Client):
    """A client that has the answer already."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self._response = response

    async def get(self, *_: object) -> Response:
        return self._response


EIGHT = ip_address("8.8.8.8")
SOURCES = {name: source(name) for name in NAMES}


def ask(
    name: str,
    body: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    address: IPAddress | None = EIGHT,
) -> Reply | Problem:
    """What a source makes of an HTTP answer to a question about an address."""
    question = SOURCES[name]
    question._client = Canned(Response(status, httpx.Headers(headers), body))  # type: ignore[attr-defined]
    try:
        question.ask(address).send(None)  # nothing is waited for, so no loop is needed
    except StopIteration as done:
        reply: Reply = done.value
        return reply
    except Problem as problem:
        return problem
    raise AssertionError("it waits for something")


NUMERALS = ["37.4", "-0.0", "nan", "1e400", "1_0", " 9 ", "1,2", "AS1", "AS15169 Google"]
ADDRESSES = ["8.8.8.8", "8.8.4.4", "::ffff:8.8.8.8", "fe80::1%1"]
PLACES = ["US", "UTC", "Europe/Berlin", "x" * 201]
COMPLAINTS = ["success", "reserved range", "quota exceeded", "key", KEY]
WORDS = st.sampled_from(NUMERALS + ADDRESSES + PLACES + COMPLAINTS)
NUMBERS = st.floats() | st.integers() | st.sampled_from([10**400, -(10**20), 2**32, 2**32 - 1, 90, 180, 0, -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=20)
FLAT = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(WORDS, SCALARS, max_size=2)
JSON = FLAT | st.lists(FLAT, max_size=2) | st.dictionaries(WORDS, FLAT, max_size=2)


def places(body: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where a value stands in an object, and in the objects inside it."""
    found: list[tuple[str, ...]] = []
    for name, value in body.items():
        found += [(*path, name), *(places(value, (*path, name)) if isinstance(value, dict) else [])]
    return found


def replaced(body: object, values: Mapping[tuple[str, ...], object], path: tuple[str, ...] = ()) -> object:
    """An object with other values in some places."""
    if path in values:
        return values[path]
    if isinstance(body, dict):
        return {name: replaced(value, values, (*path, name)) for name, value in body.items()}
    return body


# What each may say beside its documented answer.
MORE: dict[str, dict[str, object]] = {
    "ipwhois": {"message": "x"},
    "ipify": {},
    "ipapi": {"message": "x"},
    "ipinfo": {"bogon": False},
}


DOCUMENTS = {name: DOCUMENTED[name][0] | MORE[name] for name in NAMES}
FIELD_NAMES = sorted({field for body in DOCUMENTS.values() for field in body} | {"messages", "error"})


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, bytes]:
    """A source's documented answer, with anything in some of its places."""
    name = draw(st.sampled_from(NAMES))
    values = draw(st.dictionaries(st.sampled_from(places(DOCUMENTS[name])), JSON, min_size=1, max_size=3))
    return name, json.dumps(replaced(DOCUMENTS[name], values)).encode()


ANYTHING = st.binary(max_size=30) | (JSON | st.dictionaries(st.sampled_from(FIELD_NAMES), JSON, max_size=4)).map(
    lambda value: json.dumps(value).encode()
)


def check(name: str, made: Reply | Problem, address: IPAddress | None) -> None:
    """An answer that is what the schema says, or a problem that gives nothing away."""
    if isinstance(made, Problem):
        assert type(made) is not Problem
        assert KEY not in f"{made.detail} {made.reason}"
        assert len(made.detail + made.reason) < 500
        assert made.details().status in (404, 502, 503)
        return
    answer, pause = made
    assert 0 <= pause <= MAX_PAUSE
    text = answer.model_dump_json()
    assert Answer.model_validate_json(text) == answer
    assert json.loads(text, parse_constant=pytest.fail) == answer.model_dump()
    assert answer.source == name
    assert ip_address(answer.ip) == address or address is None
    assert (answer.latitude is None) == (answer.longitude is None)
    assert answer.isp or answer.latitude is not None
    for coordinate, limit in ((answer.latitude, 90), (answer.longitude, 180)):
        if coordinate is not None:
            assert abs(coordinate) <= limit
            assert round(coordinate, 6) == coordinate
            assert math.copysign(1, coordinate) == 1 or coordinate


STATUSES = st.sampled_from([200] * 12 + [404, 422, 429, 403, 500])
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "X-Ttl", "X-Rl"]), st.sampled_from(["0", "60", "9" * 30, "-1", "soon"])
)


def ask_all(names: Sequence[str], body: bytes, status: int, headers: Mapping[str, str], own: bool) -> None:
    for name in names:
        address = None if own else EIGHT
        check(name, ask(name, body, status, headers, address), address)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(ANYTHING, STATUSES, HEADERS, st.booleans())
@example(b'{"ip": "8.8.8.8", "isp": "\\ud800"}', 200, {}, False)
@example(b"[" * 60_000, 200, {}, False)
@example(b"-" + b"9" * 60_000, 200, {}, False)
def test_whatever_is_sent_is_an_answer_or_a_problem(
    body: bytes, status: int, headers: dict[str, str], own: bool
) -> None:
    ask_all(NAMES, body, status, headers, own)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(changed(), STATUSES, HEADERS, st.booleans())
def test_whatever_stands_in_a_documented_answer_is_read_or_a_problem(
    sent: tuple[str, bytes], status: int, headers: dict[str, str], own: bool
) -> None:
    name, body = sent
    ask_all([name], body, status, headers, own)


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(max_codepoint=255))
    | st.integers().map(str)
    | st.datetimes().map(lambda d: f"{d:%a, %d %b %Y %T} GMT")
)
@example("Wed, 21 Oct 9999 07:28:00 -2359")
@example("Mon, 1 Jan 1 00:00 +2359")
@example("²")
@example("٣")
@example("1" * 5000)
def test_whatever_stands_in_retry_after_is_a_wait_of_a_second_to_an_hour(value: str) -> None:
    assert 1 <= read_retry_after(value) <= MAX_PAUSE


def test_an_answer_cannot_be_changed() -> None:
    answer = read_answer("ipwhois", EIGHT, {"isp": "Google LLC"})
    with pytest.raises(ValidationError):
        answer.isp = "Other"
