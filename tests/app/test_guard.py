"""Pauses: what makes the service pause a source, and what must not."""

import asyncio
import gc
import logging
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.address import IPAddress
from app.answer import Answer
from app.client import Client
from app.guard import FAILURE_PAUSE, MAX_FAILURES, MAX_UNDER_WAY, Guard
from app.lookup import Lookup
from app.problems import Problem
from app.sources import SOURCES
from app.sources.mmdb import Mmdb, MmdbSettings
from app.sources.source import DEFAULT_PAUSE, HttpSettings, HttpSource, Source
from tests.app.documented import EXAMPLES
from tests.app.scripted import Clock, Outcome, Scripted, never
from tests.app.test_mmdb import write
from tests.upstream import Request, Upstream, http_answer, reset

pytestmark = pytest.mark.anyio

WEB = [source for source in SOURCES if issubclass(source, HttpSource)]
EIGHT = ip_address("8.8.8.8")


@pytest.fixture
def clock() -> Clock:
    return Clock()


# Good and bad answers, over sockets

GOOD = [IPv4Address(f"9.0.0.{number}") for number in range(8)]
BAD = [IPv4Address(f"8.0.0.{number}") for number in range(8)]
DAMAGE = [
    "not JSON",
    "a list",
    "empty",
    "longitude",
    "another address",
    "too long",
    "unknown",
    "compressed",
    "418",
]


def damaged(name: str, kind: str) -> bytes:
    """An HTTP answer of a provider that is bad in one way."""
    body = dict(EXAMPLES[name][0].body)
    match kind:
        case "not JSON":
            return http_answer(b"<html>")
        case "a list":
            return http_answer([body])
        case "empty":
            return http_answer({})
        case "longitude":
            places = {"longitude": 182.5, "lon": 182.5, "loc": "1,182.5", "location": {"lat": 1, "lng": 182.5}}
            return http_answer(body | {place: value for place, value in places.items() if place in body})
        case "another address":
            return http_answer(body)
        case "too long":
            return http_answer(b" " * 70_000)
        case "unknown":
            return http_answer(body | {"bogon": True, "messages": "valid IP", "success": False, "message": "reserved"})
        case "broken off":
            return http_answer(body)[:-5]
        case "not HTTP":
            return b"220 ready\r\n\r\n"
        case "compressed":
            return http_answer(body, headers={"Content-Encoding": "gzip"})
        case _:
            return http_answer({}, int(kind))


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    """A provider whose behaviour each test sets."""
    with Upstream(reset) as made:
        yield made


def moody(name: str, damage: Callable[[str], str]) -> Callable[[socket.socket, Request], None]:
    """A provider that answers well about addresses that begin with 9, and badly about others."""

    def answer(connection: socket.socket, request: Request) -> None:
        ip = next(str(each) for each in (*GOOD, *BAD) if str(each) in request.target)
        if ip.startswith("9."):
            connection.sendall(http_answer(EXAMPLES[name][0].body | {"query" if name == "ipapi" else "ip": ip}))
        else:
            connection.sendall(damaged(name, damage(ip)))

    return answer


@pytest.mark.parametrize("source", WEB, ids=lambda source: source.name)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_good_answer_is_never_withheld_because_of_another_addresss_bad_one(
    provider: Upstream, source: type[HttpSource], data: st.DataObject
) -> None:
    kinds = {str(address): data.draw(st.sampled_from(DAMAGE), str(address)) for address in BAD}
    order = data.draw(st.lists(st.sampled_from(GOOD + 2 * BAD), min_size=4, max_size=20), "order")
    provider.behaviour = moody(source.name, kinds.__getitem__)
    ask_in_order(source(HttpSettings.model_validate({"url": provider.url, "key": "key"}), Client()), order)


def ask_in_order(source: Source, order: list[IPv4Address]) -> None:
    """Ask about addresses, and check that each one in GOOD is answered."""

    async def ask() -> None:
        lookup = Lookup([source], timeout=10, ttl=0, size=0)
        for address in order:
            if address in GOOD:
                found, _ = await lookup.find(address)
                assert Answer.model_validate_json(found.body).ip == str(address)
            else:
                with suppress(Problem):
                    found, _ = await lookup.find(address)
                    assert found.problem

    asyncio.run(ask())


@pytest.mark.parametrize("source", WEB, ids=lambda source: source.name)
@pytest.mark.parametrize("failure", ["500", "broken off", "not HTTP"])
def test_one_address_that_the_server_always_fails_at_pauses_no_source(
    provider: Upstream, source: type[HttpSource], failure: str
) -> None:
    provider.behaviour = moody(source.name, lambda _: failure)
    made = source(HttpSettings.model_validate({"url": provider.url, "key": "key"}), Client())
    ask_in_order(made, [BAD[0]] * 5 + [GOOD[0]] + [BAD[1]] * 5 + [GOOD[1]] + [BAD[0], BAD[1], GOOD[2]])


@pytest.mark.parametrize("source", WEB, ids=lambda source: source.name)
def test_a_server_that_fails_at_several_addresses_is_paused(provider: Upstream, source: type[HttpSource]) -> None:
    provider.behaviour = moody(source.name, lambda _: "500")
    made = source(HttpSettings.model_validate({"url": provider.url, "key": "key"}), Client())
    with pytest.raises(Problem, match="sent HTTP status 500"):
        ask_in_order(made, [*BAD[:MAX_FAILURES], GOOD[0]])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from(GOOD + 2 * BAD), min_size=4, max_size=30))
def test_a_local_file_is_never_paused(tmp_path: Path, order: list[IPv4Address]) -> None:
    records: dict[str, Any] = {
        str(address): {"longitude": 182.5, "latitude": 1, "isp": "Damaged"} for address in BAD[:4]
    }
    records |= {str(address): {"isp": 5} for address in BAD[4:7]}
    records |= {
        f"1.0.0.{number}": {"isp": f"AS{number}"} for number in range(100)
    }  # the records that the start looks at
    records |= {str(BAD[7]): {"isp": "Example"}}
    path = write(tmp_path / "a.mmdb", records | {str(address): {"isp": "Good"} for address in GOOD})
    path.write_bytes(path.read_bytes().replace(b"\x47Example", b"\x47Exampl\xff"))  # not UTF-8
    ask_in_order(Mmdb(MmdbSettings(city=(path,)), Client()), order)


# Each rule


BAD_ANSWER = Problem("upstream-failed", "bad answer", reason="why")
SERVER = Problem("upstream-failed", "server error", fault="server")
CONNECTION = Problem("upstream-failed", "no connection", fault="connection")
UNKNOWN = Problem("unknown-address", "not known")
REFUSED = Problem("upstream-refused", "it refuses")
QUOTA = Problem("quota-exhausted", "too many", retry_after=17)


async def problem(guard: Guard, address: IPAddress | None = EIGHT, seconds: float = 5) -> Problem:
    with pytest.raises(Problem) as caught:
        await guard.ask(address, seconds)
    return caught.value


async def is_asked(guard: Guard, source: Scripted, address: IPAddress | None = None, seconds: float = 5) -> bool:
    """Ask about an address that was not asked about before; tell whether the source was asked."""
    before = len(source.asked)
    with suppress(Problem):
        await guard.ask(address or IPv4Address(f"8.8.4.{before}"), seconds)
    return len(source.asked) > before


async def test_an_answer_is_passed_on(clock: Clock) -> None:
    guard = Guard(Scripted(None), clock)
    assert (await guard.ask(EIGHT, 5)).isp == "1"
    assert guard.pause is None


async def test_a_source_without_quota_is_paused_for_as_long_as_it_says(clock: Clock) -> None:
    source = Scripted(QUOTA, None)
    guard = Guard(source, clock)
    assert (await problem(guard)).retry_after == 17
    clock.now += 3.5
    again = await problem(guard)
    assert (again.code, again.detail, again.retry_after) == ("quota-exhausted", "too many", 14)
    clock.now += 13.4
    assert (await problem(guard)).retry_after == 1
    assert len(source.asked) == 1
    clock.now += 0.2
    assert await is_asked(guard, source)


async def test_a_source_that_refuses_a_key_is_paused_for_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = Scripted(REFUSED, None)
    guard = Guard(source, clock)
    assert await is_asked(guard, source)
    clock.now += DEFAULT_PAUSE - 1
    again = await problem(guard)
    assert (again.code, again.retry_after) == ("upstream-refused", None)
    clock.now += 2
    assert await is_asked(guard, source)
    assert caplog.messages == ["it refuses"]


@pytest.mark.parametrize("failure", [SERVER, CONNECTION], ids=["server", "connection"])
async def test_a_source_that_failed_three_times_in_a_row_is_paused_for_ten_seconds(
    failure: Problem, clock: Clock
) -> None:
    source = Scripted(failure)
    guard = Guard(source, clock)
    assert [await is_asked(guard, source) for _ in range(4)] == [True, True, True, False]
    paused = await problem(guard)
    assert (paused.code, paused.detail, paused.retry_after) == ("upstream-failed", failure.detail, None)
    clock.now += FAILURE_PAUSE - 0.1
    assert not await is_asked(guard, source)
    clock.now += 0.2
    # A source that still fails is tried once, not three times.
    assert [await is_asked(guard, source) for _ in range(2)] == [True, False]


async def test_a_source_that_is_silent_about_several_addresses_is_paused(clock: Clock) -> None:
    source = Scripted(never)
    guard = Guard(source, clock)
    asked = [await is_asked(guard, source, seconds=0.01) for _ in range(4)]
    assert asked == [True, True, True, False]


@pytest.mark.parametrize("outcome", [never, SERVER, BAD_ANSWER, UNKNOWN], ids=["silent", "server", "bad", "unknown"])
async def test_one_address_pauses_no_source(outcome: Outcome, clock: Clock) -> None:
    source = Scripted(outcome)
    guard = Guard(source, clock)
    for _ in range(3 * MAX_FAILURES):
        assert await is_asked(guard, source, EIGHT, 0.01)


async def test_connections_that_fail_for_one_address_pause_the_source(clock: Clock) -> None:
    source = Scripted(CONNECTION)
    guard = Guard(source, clock)
    assert [await is_asked(guard, source, EIGHT) for _ in range(4)] == [True, True, True, False]


async def test_a_source_that_is_away_for_days_fills_no_memory(clock: Clock) -> None:
    async def be_away() -> None:
        raise Problem("upstream-failed", "away", fault="server")

    source = Scripted(be_away)
    guard = Guard(source, clock)
    asked = []
    for number in range(1000):
        address = IPv4Address(0x08000000 + number)
        asked.append(weakref.ref(address))
        with suppress(Problem):
            await guard.ask(address, 1)
        clock.now += FAILURE_PAUSE
    source.asked.clear()
    del address
    gc.collect()
    assert sum(kept() is not None for kept in asked) < 10


@pytest.mark.parametrize("outcome", [None, UNKNOWN, BAD_ANSWER], ids=["answer", "unknown", "bad answer"])
async def test_failures_are_counted_from_the_last_answer(outcome: Outcome, clock: Clock) -> None:
    source = Scripted(SERVER, CONNECTION, outcome, SERVER, CONNECTION, SERVER)
    guard = Guard(source, clock)
    assert [await is_asked(guard, source) for _ in range(7)] == [True] * 6 + [False]


async def test_what_was_under_way_does_not_shorten_a_pause(clock: Clock) -> None:
    refused = asyncio.Event()

    async def fail_afterwards() -> None:
        await refused.wait()
        raise CONNECTION

    source = Scripted(fail_afterwards, fail_afterwards, fail_afterwards, QUOTA)
    guard = Guard(source, clock)
    under_way = [asyncio.create_task(problem(guard)) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert len(source.asked) == 3
    await problem(guard)
    refused.set()
    await asyncio.gather(*under_way)
    clock.now += FAILURE_PAUSE + 1
    assert (await problem(guard)).code == "quota-exhausted"
    assert len(source.asked) == 4


async def test_a_failure_is_one_warning_and_an_unknown_address_none(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(Scripted(UNKNOWN, BAD_ANSWER, SERVER), clock)
    for _ in range(3):
        await problem(guard)
    assert caplog.record_tuples == [
        ("geoip", logging.WARNING, "bad answer (why)"),
        ("geoip", logging.WARNING, "server error"),
    ]


async def test_a_silent_source_is_named_with_the_time_it_had(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    silent = await problem(Guard(Scripted(never), clock), seconds=0.05)
    assert (silent.code, silent.detail) == ("upstream-timeout", "scripted did not answer in time")
    assert caplog.messages == ["scripted did not answer in time (0.1 s)"]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=["thread", "memory"])
async def test_resources_that_run_out_are_a_failed_source_and_not_a_bug(error: Exception, clock: Clock) -> None:
    source = Scripted(error)
    guard = Guard(source, clock)
    failed = await problem(guard)
    assert failed.code == "upstream-failed"
    assert failed.detail == "scripted cannot be asked: the service has no thread or no memory left"
    assert [await is_asked(guard, source) for _ in range(5)] == [True] * 5


async def test_a_bug_is_passed_on(clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError):
        await Guard(Scripted(ZeroDivisionError()), clock).ask(EIGHT, 5)


# Requests under way


async def test_the_number_of_requests_under_way_is_bounded(clock: Clock) -> None:
    under_way = most = 0

    async def count() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    source = Scripted(count)
    guard = Guard(source, clock)
    await asyncio.gather(*(guard.ask(EIGHT, 30) for _ in range(4 * MAX_UNDER_WAY)))
    assert len(source.asked) == 4 * MAX_UNDER_WAY
    assert most == MAX_UNDER_WAY


async def test_a_wait_for_room_is_not_a_failure_of_the_source(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    source = Scripted(done.wait)
    guard = Guard(source, clock)
    under_way = [asyncio.create_task(guard.ask(EIGHT, 30)) for _ in range(MAX_UNDER_WAY)]
    await asyncio.sleep(0.05)
    assert len(source.asked) == MAX_UNDER_WAY
    for number in range(5):
        late = await problem(guard, IPv4Address(1000 + number), 0.02)
        assert (late.code, late.detail) == (
            "upstream-timeout",
            "scripted has too many requests under way: try again in a moment",
        )
    done.set()
    await asyncio.gather(*under_way)
    assert (await guard.ask(EIGHT, 5)).source == "scripted"
    assert caplog.messages == []


async def test_those_who_waited_for_room_do_not_ask_a_source_that_was_paused_meanwhile(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse() -> None:
        await asyncio.sleep(0.01)
        raise QUOTA

    source = Scripted(refuse)
    guard = Guard(source, clock)
    problems = await asyncio.gather(*(problem(guard, seconds=30) for _ in range(3 * MAX_UNDER_WAY)))
    assert {each.code for each in problems} == {"quota-exhausted"}
    assert len(source.asked) == MAX_UNDER_WAY
    assert caplog.messages == ["too many"] * MAX_UNDER_WAY  # not a line for each one that met the pause
