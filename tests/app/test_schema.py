"""The service against its own schema, and against any address and any X-Forwarded-For."""

import itertools
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from app.address import IPAddress, caller_address, is_global, parse_address, parse_network
from app.problems import KINDS
from tests.app.conftest import Server, serving
from tests.conftest import Service, environment
from tests.upstream import Request, Upstream, answering, ipwhois

# The schema


# os._exit, since Python before 3.11.3 hangs at its normal end (https://github.com/python/cpython/issues/102126).
SCHEMATHESIS = """
import os, sys
from schemathesis.cli import schemathesis
try:
    schemathesis()
except SystemExit as end:
    sys.stdout.flush()
    os._exit(end.code)
"""


def run_schemathesis(service: Service, directory: Path, *options: str) -> None:
    """Try what the schema allows and what it does not: its examples, its limits, and random requests."""
    command = [sys.executable, "-c", SCHEMATHESIS, "run", f"{service.url}/openapi.json"]
    done = subprocess.run(
        [*command, "--seed=1", "--no-color", "--request-timeout=5", *options],
        cwd=directory,
        # Without coverage, which would take half as long again.
        env={name: value for name, value in environment().items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 1" in done.stdout
    assert service.process.poll() is None
    assert "Traceback" not in service.log.read_text()


def test_the_service_does_what_its_schema_says(
    serve: Callable[..., Service], upstream: Callable[..., Upstream], tmp_path: Path
) -> None:
    run_schemathesis(serve(GEOIP_IPWHOIS_URL=upstream().url), tmp_path, "--checks=all", "--max-examples=30")


@pytest.mark.slow
def test_the_schema_holds_for_the_problems_of_a_faulty_upstream(
    serve: Callable[..., Service], upstream: Callable[..., Upstream], tmp_path: Path
) -> None:
    faults = itertools.cycle(
        [
            ipwhois,
            answering(b"", 500),
            answering({"success": False, "message": "Reserved range"}),
            ipwhois,
            answering(b"", 429, {"Retry-After": "1"}),
        ]
    )

    def fail(connection: socket.socket, request: Request) -> None:
        next(faults)(connection, request)

    # The schema documents server errors, and answers to correct requests.
    excluded = "--exclude-checks=not_a_server_error,positive_data_acceptance"
    service = serve(GEOIP_IPWHOIS_URL=upstream(fail).url, GEOIP_CACHE_TTL=0)
    run_schemathesis(service, tmp_path, "--checks=all", excluded, "--max-examples=20")


@pytest.fixture(scope="module")
def schema() -> Iterator[dict[str, Any]]:
    with serving(GEOIP_SOURCES="mmdb") as service:
        yield service.get("/openapi.json").json()


def test_the_schema_describes_every_problem_of_the_route(schema: dict[str, Any]) -> None:
    (operations,) = schema["paths"].values()
    assert operations.keys() == {"get"}
    responses = operations["get"]["responses"]
    for code, kind in KINDS.items():
        described = responses.get(str(kind.status), {"description": ""})["description"]
        assert (f"`{code}`: {kind.meaning}" in described) == (code not in {"not-found", "method-not-allowed"})
    assert "Retry-After" in responses["503"]["headers"]
    assert [parameter["name"] for parameter in operations["get"]["parameters"]] == ["ip"]
    listed = schema["components"]["schemas"]["ProblemDetails"]["properties"]["code"]["enum"]
    assert sorted(listed) == sorted(KINDS)


def test_every_reference_of_the_schema_leads_somewhere(schema: dict[str, Any]) -> None:
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(schema)))
    assert references == schema["components"]["schemas"].keys()


# Addresses


SPECIAL = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 ::/127 ::ffff:0:0/96 64:ff9b::/96
64:ff9b:1::/48 100::/64 2000::/3 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10
ff00::/8
"""
NETWORKS = [ip_network(text) for text in SPECIAL.split()]

# Python's releases differ here, or differ from the registries.
DISPUTES = "192.0.0.0/24 192.88.99.0/24 64:ff9b::/96 64:ff9b:1::/48 2001::/23 2002::/16 3fff::/20"
DISPUTED = [ip_network(text) for text in DISPUTES.split()]


@st.composite
def near_networks(draw: st.DrawFn) -> IPAddress:
    """An address in, or just beside, a network that IANA's registries know."""
    network = draw(st.sampled_from(NETWORKS))
    edge = draw(st.sampled_from([network.network_address, network.broadcast_address]))
    number = int(edge) + draw(st.integers(-2, 2))
    assume(0 <= number < 2**edge.max_prefixlen)
    return type(edge)(number)


ADDRESSES = near_networks() | st.ip_addresses()


@settings(max_examples=150, deadline=None)
@given(ADDRESSES)
def test_an_address_is_global_where_pythons_releases_agree_that_it_is(address: IPAddress) -> None:
    assume(not any(address in network for network in DISPUTED))
    if isinstance(address, IPv6Address):
        assume(address.ipv4_mapped is None)
        unicast = address in IPv6Network("2000::/3")
    else:
        unicast = not address.is_multicast
    assert is_global(address) == (unicast and address.is_global)


@settings(max_examples=100, deadline=None)
@given(near_networks().filter(lambda address: address.version == 4) | st.ip_addresses(v=4))
def test_a_translated_address_is_as_global_as_the_one_it_stands_for(address: IPAddress) -> None:
    assert is_global(ip_address(f"64:ff9b::{address}")) == is_global(address)


@settings(max_examples=150, deadline=None)
@given(ADDRESSES)
def test_every_way_to_write_an_address_is_read(address: IPAddress) -> None:
    meant = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    forms = [str(address), address.exploded, address.exploded.upper()]
    if isinstance(address, IPv4Address):
        forms += [f"::ffff:{address}", f"::FFFF:{int(address) >> 16:x}:{int(address) & 0xFFFF:04X}"]
    for form in forms:
        assert parse_address(form) == meant
    assert parse_address(str(parse_address(str(address)))) == meant


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=45) | st.from_regex(r"[0-9a-fA-F:.%/ ]{0,45}", fullmatch=True))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert is_global(address) in (True, False)
    assert re.fullmatch("[0-9a-fA-F:.]+", text)
    assert socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


# X-Forwarded-For

TRUSTED = [parse_network(text) for text in ("10.0.0.0/8", "198.51.100.7", "2001:db8::/32")]
PROXIES = st.sampled_from(
    ["10.0.0.1", "10.255.0.9", "198.51.100.7", "2001:db8::1", "::ffff:10.0.0.1", "[2001:db8::2]:81"]
)
NUMBERS = ["", "8.8.8.8.8", "1.2.3", "010.8.8.8", "0x8.8.8.8", "134744072", "8.8.8.8/32", "8.8.8.8:x", "2001:4860:::1"]
WORDS = [
    "unknown",
    "_hidden",
    "-",
    "localhost",
    "for=8.8.8.8",
    '"8.8.8.8"',
    "[::1",
    "[2001:4860::1]x",
    "fe80::1%0",
    "*",
]
JUNK = st.sampled_from([*NUMBERS, *WORDS, "\xff"])
WRITTEN = {"plain": "{}", "port": "{}:443", "brackets": "[{}]", "both": "[{}]:443", "mapped": "::ffff:{}"}


@st.composite
def hops(draw: st.DrawFn) -> str:
    """A hop as a proxy may write it, or as somebody makes it up."""
    address = draw(ADDRESSES)
    ways = ["plain", "port", "mapped"] if address.version == 4 else ["plain", "brackets", "both"]
    return draw(PROXIES | JUNK | st.just(WRITTEN[draw(st.sampled_from(ways))].format(address)))


def host(hop: str) -> str:
    """A hop without a port."""
    match = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([^:]*):\d+", hop)
    return (match[1] or match[2]) if match else hop


def address_or_none(text: str) -> IPAddress | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def is_trusted(text: str) -> bool:
    address = address_or_none(text)
    return address is not None and any(address in network for network in TRUSTED)


def expected(peer: IPAddress, headers: Sequence[str]) -> IPAddress:
    """The rightmost hop that is not a trusted proxy, if it is an address; else the hop or the peer behind it."""
    chain = [host(hop.strip()) for header in headers for hop in header.split(",") if hop.strip()]
    address = peer
    for hop in reversed(chain):
        if not is_trusted(str(address)) or address_or_none(hop) is None:
            break
        address = parse_address(hop)
    return address


PEERS = ["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "8.8.4.4", "127.0.0.1"]


@settings(max_examples=200, deadline=None)
@given(
    peer=st.sampled_from(PEERS).map(parse_address),
    headers=st.lists(st.lists(hops(), min_size=1, max_size=4).map(", ".join), max_size=3),
)
@example(peer=parse_address("10.0.0.1"), headers=["1.1.1.1", "8.8.8.8, 10.0.0.2", "10.0.0.3"])
@example(peer=parse_address("10.0.0.1"), headers=["8.8.8.8, unknown"])
@example(peer=parse_address("8.8.4.4"), headers=["1.1.1.1"])
def test_the_rightmost_hop_that_is_not_a_trusted_proxy_is_the_caller(peer: IPAddress, headers: list[str]) -> None:
    assert caller_address(peer, headers, TRUSTED) == expected(peer, headers)


@pytest.fixture(scope="module")
def behind_a_proxy() -> Iterator[tuple[Server, Upstream]]:
    """The service, which trusts loopback, and its upstream."""
    with (
        Upstream(ipwhois) as upstream,
        serving(GEOIP_TRUSTED_PROXIES="127.0.0.0/8", GEOIP_CACHE_TTL=0, GEOIP_IPWHOIS_URL=upstream.url) as service,
    ):
        yield service, upstream


@settings(max_examples=50, deadline=None)
@given(ADDRESSES.filter(lambda address: not str(address).startswith("127.")))
def test_the_caller_behind_a_proxy_is_asked_about_if_it_is_global(
    behind_a_proxy: tuple[Server, Upstream], address: IPAddress
) -> None:
    service, upstream = behind_a_proxy
    answer = service.get(headers={"X-Forwarded-For": str(address)})
    meant = parse_address(str(address))
    asked = str(meant) if is_global(meant) else ""
    assert answer.json()["ip"] == (asked or "9.9.9.9")
    assert upstream.requests[-1].target == f"/{asked}"
