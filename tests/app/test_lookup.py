"""Lookups: the sources in turn, their pauses, the budget, the cache, and one request under way per address."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from ipaddress import IPv4Address, ip_address

import httpx
import pytest

from app.address import IPAddress
from app.lookup import MAX_UNDER_WAY, Found, Lookup
from app.problems import (
    Problem,
    QuotaExhausted,
    UnknownAddress,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from app.sources import Answer, Reply, Source
from app.store import Store
from tests.upstream import Upstream, answering, ipwhois, ipwhois_answer

pytestmark = pytest.mark.anyio

EIGHT = ip_address("8.8.8.8")
NINE = ip_address("9.9.9.9")


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Outcome = None | int | Problem | Exception | Callable[[], Awaitable[object]]


class First(Source):
    """A source that does as it is told, one thing after the other and the last one for ever.

    None: answer. A number: answer, and want to be left alone for so many seconds. An exception: raise it. A function:
    await it, then answer.
    """

    name = "first"

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[IPAddress | None] = []

    async def ask(self, address: IPAddress | None) -> Reply:
        self.asked.append(address)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        if callable(outcome):
            await outcome()
        pause = outcome if isinstance(outcome, int) else 0
        return Reply(Answer(ip=str(address or NINE), isp=f"{len(self.asked)}", source=self.name), pause)


class Second(First):
    """Another one."""

    name = "second"


class Third(First):
    """And another."""

    name = "third"


FAILED = UpstreamFailed("it failed", reason="why")
UNKNOWN = UnknownAddress("not known")
REFUSED = UpstreamRefused("it refuses")
QUOTA = QuotaExhausted("too many", retry_after=17)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lookup(clock: Clock) -> Callable[..., Lookup]:
    """A lookup that asks these sources."""

    def make(*sources: Source, timeout: float = 3, ttl: int = 3600, size: int = 100) -> Lookup:
        return Lookup(sources, timeout=timeout, ttl=ttl, size=size, clock=clock)

    return make


Make = Callable[..., Lookup]


def answer(found: Found) -> Answer:
    return Answer.model_validate_json(found.body)


async def problem(lookup: Lookup, address: IPAddress | None = EIGHT) -> Problem:
    with pytest.raises(Problem) as caught:
        await lookup.find(address)
    return caught.value


def codes(problem: Problem) -> list[tuple[str, str]]:
    return [(source.source, source.code) for source in problem.sources]


async def never() -> None:
    await asyncio.Event().wait()


# The sources in turn


async def test_the_first_source_that_answers_is_the_last_one_asked(lookup: Make) -> None:
    first, second, third = First(FAILED), Second(None), Third(None)
    assert answer(await lookup(first, second, third).find(EIGHT)).source == "second"
    assert (first.asked, second.asked, third.asked) == ([EIGHT], [EIGHT], [])


async def test_the_next_source_is_asked_about_what_one_does_not_know(lookup: Make) -> None:
    assert answer(await lookup(First(UNKNOWN), Second(None)).find(EIGHT)).source == "second"


async def test_an_address_is_unknown_if_no_source_knows_it(lookup: Make) -> None:
    unknown = await problem(lookup(First(UNKNOWN), Second(UNKNOWN)))
    assert isinstance(unknown, UnknownAddress)
    assert codes(unknown) == [("first", "unknown-address"), ("second", "unknown-address")]
    assert codes(await problem(lookup(First(UNKNOWN)))) == []


async def test_the_first_failure_decides_and_every_source_is_listed(lookup: Make) -> None:
    failed = await problem(lookup(First(UNKNOWN), Second(QUOTA), Third(FAILED)))
    assert isinstance(failed, QuotaExhausted)
    assert failed.retry_after == 17
    assert codes(failed) == [
        ("first", "unknown-address"),
        ("second", "quota-exhausted"),
        ("third", "upstream-failed"),
    ]
    assert "why" not in failed.detail


async def test_a_single_source_is_not_listed(lookup: Make) -> None:
    failed = await problem(lookup(First(FAILED)))
    assert (failed.detail, codes(failed), failed.details().sources) == ("it failed", [], None)


async def test_a_failure_is_one_warning_and_an_unknown_address_none(
    lookup: Make, caplog: pytest.LogCaptureFixture
) -> None:
    await problem(lookup(First(UNKNOWN), Second(FAILED)))
    assert caplog.record_tuples == [("geoip", logging.WARNING, "it failed (why)")]


async def test_a_bug_reaches_those_who_ask_and_is_not_kept(lookup: Make) -> None:
    bug = lookup(First(ZeroDivisionError(), None))
    for found in await asyncio.gather(bug.find(EIGHT), bug.find(EIGHT), return_exceptions=True):
        assert isinstance(found, ZeroDivisionError)
    assert (await bug.find(EIGHT)).cache_status == "geoip; fwd=uri-miss; stored"


# The budget


async def test_every_source_has_an_equal_share_of_what_is_left(
    lookup: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    timeout = asyncio.timeout

    def note(seconds: float) -> asyncio.Timeout:
        shares.append(seconds)
        return timeout(seconds)

    async def take_two_seconds() -> None:
        clock.now += 2
        raise FAILED

    async def take_half_a_second() -> None:
        clock.now += 0.5
        raise FAILED

    monkeypatch.setattr("asyncio.timeout", note)
    sources = First(take_two_seconds, FAILED), Second(take_half_a_second, QUOTA), Third(None)
    several = lookup(*sources, timeout=6, ttl=0)
    await several.find(EIGHT)
    assert shares == [2, 2, 3.5]
    shares.clear()
    await several.find(EIGHT)
    assert shares == [2, 3, 6]
    shares.clear()
    await several.find(EIGHT)  # while the second one is paused
    assert shares == [3, 6]


async def test_a_silent_source_does_not_starve_the_next(lookup: Make, caplog: pytest.LogCaptureFixture) -> None:
    start = asyncio.get_running_loop().time()
    found = await lookup(First(never), Second(None), timeout=0.4).find(EIGHT)
    assert answer(found).source == "second"
    assert 0.19 < asyncio.get_running_loop().time() - start < 0.9
    assert caplog.messages == ["first said nothing in time (0.2 s)"]


async def test_nothing_within_the_budget_is_a_timeout(lookup: Make) -> None:
    start = asyncio.get_running_loop().time()
    timeout = await problem(lookup(First(never), Second(never), timeout=0.2))
    assert isinstance(timeout, UpstreamTimeout)
    assert codes(timeout) == [("first", "upstream-timeout"), ("second", "upstream-timeout")]
    assert 0.1 < asyncio.get_running_loop().time() - start < 0.7


# Rests


async def asked(lookup: Lookup, source: First) -> bool:
    """Look something up that is in no cache; tell whether the source was asked about it."""
    before = len(source.asked)
    with suppress(Problem):
        await lookup.find(IPv4Address(f"8.8.4.{before}"))
    return len(source.asked) > before


async def test_a_source_without_quota_is_left_alone_for_as_long_as_it_says(lookup: Make, clock: Clock) -> None:
    source = First(QUOTA, None)
    refused = lookup(source, ttl=0)
    assert (await problem(refused)).retry_after == 17
    clock.now += 3.5
    again = await problem(refused)
    assert isinstance(again, QuotaExhausted)
    assert (again.detail, again.retry_after) == ("too many", 14)
    clock.now += 13.4
    assert (await problem(refused)).retry_after == 1
    assert len(source.asked) == 1
    clock.now += 0.2
    assert await asked(refused, source)


async def test_a_source_that_refuses_a_key_is_left_alone_for_a_minute(
    lookup: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source = First(REFUSED, None)
    refused = lookup(source, ttl=0)
    assert await asked(refused, source)
    clock.now += 59
    again = await problem(refused)
    assert isinstance(again, UpstreamRefused)
    assert again.retry_after is None
    clock.now += 2
    assert await asked(refused, source)
    assert caplog.messages == ["it refuses"]


async def test_a_source_that_answers_for_the_last_time_is_left_alone(lookup: Make, clock: Clock) -> None:
    source = First(30, None)
    spent = lookup(source, ttl=0)
    await spent.find(EIGHT)
    refused = await problem(spent)
    assert isinstance(refused, QuotaExhausted)
    assert refused.retry_after == 30
    clock.now += 31
    assert await asked(spent, source)


async def test_a_source_that_failed_three_times_running_is_left_alone_for_ten_seconds(
    lookup: Make, clock: Clock
) -> None:
    source = First(FAILED)
    failing = lookup(source)
    assert [await asked(failing, source) for _ in range(4)] == [True, True, True, False]
    paused = await problem(failing)
    assert isinstance(paused, UpstreamFailed)
    assert paused.retry_after is None
    clock.now += 9.9
    assert not await asked(failing, source)
    clock.now += 0.2
    # One that still fails is tried once, not three times.
    assert [await asked(failing, source) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("success", [None, UNKNOWN], ids=["answer", "unknown"])
async def test_failures_are_counted_from_the_last_success(success: Outcome, lookup: Make) -> None:
    source = First(FAILED, FAILED, success, FAILED, FAILED, FAILED)
    failing = lookup(source)
    assert [await asked(failing, source) for _ in range(7)] == [True] * 6 + [False]


async def test_a_source_that_rests_is_passed_over(lookup: Make) -> None:
    first, second = First(QUOTA), Second(None)
    both = lookup(first, second)
    for number in range(3):
        assert answer(await both.find(IPv4Address(number))).source == "second"
    assert len(first.asked) == 1


async def test_what_was_under_way_does_not_shorten_a_pause(lookup: Make, clock: Clock) -> None:
    refused = asyncio.Event()

    async def fail_afterwards() -> None:
        await refused.wait()
        raise FAILED

    source = First(fail_afterwards, fail_afterwards, fail_afterwards, QUOTA)
    several = lookup(source)
    under_way = [asyncio.create_task(problem(several, IPv4Address(number))) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await problem(several)
    refused.set()
    await asyncio.gather(*under_way)
    clock.now += 16
    assert isinstance(await problem(several), QuotaExhausted)
    assert len(source.asked) == 4


class SlowStore(Store):
    """A store that knows nothing and takes its time to be told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    async def get(self, *_: object) -> tuple[None, dict[str, tuple[Problem, float]]]:
        return None, {}

    async def put(self, *_: object) -> None:
        pass

    async def put_pause(self, *pause: object) -> None:
        await asyncio.sleep(0.3)
        self.told.append(pause[0])


@pytest.mark.parametrize(("outcome", "expected"), [(30, None), (QUOTA, QuotaExhausted)])
async def test_to_tell_the_store_of_a_pause_costs_no_answer(outcome: Outcome, expected: type[Problem] | None) -> None:
    store = SlowStore()
    shared = Lookup([First(outcome)], timeout=0.2, ttl=60, size=10, store=store)
    if expected:
        assert isinstance(await problem(shared), expected)
    else:
        assert answer(await shared.find(EIGHT)).source == "first"
    assert store.told == ["first"]


async def test_the_number_of_requests_under_way_is_bounded(lookup: Make) -> None:
    under_way = most = 0

    async def count() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    source = First(count)
    many = lookup(source, timeout=30)
    await asyncio.gather(*(many.find(IPv4Address(number)) for number in range(4 * MAX_UNDER_WAY)))
    assert len(source.asked) == 4 * MAX_UNDER_WAY
    assert most == MAX_UNDER_WAY


async def test_to_wait_for_room_is_no_failure_of_the_source(lookup: Make, caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    slow = First(done.wait)
    many = lookup(slow, timeout=30)
    asked = [asyncio.create_task(many.find(IPv4Address(number))) for number in range(MAX_UNDER_WAY)]
    for _ in range(10):
        await asyncio.sleep(0)  # until all are asked
    assert len(slow.asked) == MAX_UNDER_WAY
    many._timeout = 0.05
    for number in range(5):
        late = await problem(many, IPv4Address(1000 + number))
        assert isinstance(late, UpstreamTimeout)
        assert late.detail == "first has too many requests under way"
    done.set()
    assert {answer(found).source for found in await asyncio.gather(*asked)} == {"first"}
    many._timeout = 30
    assert answer(await many.find(EIGHT)).source == "first"
    assert caplog.messages == []


async def test_those_who_queued_do_not_ask_a_source_that_refuses_meanwhile(lookup: Make) -> None:
    async def refuse() -> None:
        await asyncio.sleep(0.01)
        raise QUOTA

    source = First(refuse)
    many = lookup(source, timeout=30)
    problems = await asyncio.gather(*(problem(many, IPv4Address(number)) for number in range(100)))
    assert {type(each) for each in problems} == {QuotaExhausted}
    assert len(source.asked) == MAX_UNDER_WAY


# The cache


async def test_an_answer_is_kept_until_it_expires(lookup: Make, clock: Clock) -> None:
    source = First(None)
    cached = lookup(source)
    first = await cached.find(EIGHT)
    assert first.body == Answer(ip="8.8.8.8", isp="1", source="first").model_dump_json().encode()
    assert (first.source, first.cache_status, first.max_age) == ("first", "geoip; fwd=uri-miss; stored", 3600)
    assert first.upstream_ms is not None
    clock.now += 60
    hit = await cached.find(EIGHT)
    assert (answer(hit).isp, hit.cache_status, hit.max_age) == ("1", "geoip; hit; ttl=3540", 3540)
    clock.now += 3539.5
    assert (await cached.find(EIGHT)).cache_status == "geoip; hit; ttl=0"
    clock.now += 0.5
    fresh = await cached.find(EIGHT)
    assert (answer(fresh).isp, fresh.cache_status, fresh.max_age) == ("2", "geoip; fwd=stale; stored", 3600)
    assert (await cached.find(EIGHT)).cache_status == "geoip; hit; ttl=3600"


async def test_the_services_own_address_is_kept_apart(lookup: Make) -> None:
    source = First(None)
    cached = lookup(source)
    assert answer(await cached.find(None)).ip == "9.9.9.9"
    assert (await cached.find(None)).cache_status == "geoip; hit; ttl=3600"
    assert (await cached.find(NINE)).cache_status == "geoip; fwd=uri-miss; stored"
    assert source.asked == [None, NINE]


@pytest.mark.parametrize(("ttl", "kept"), [(3600, 60), (20, 20)])
async def test_what_nobody_knows_is_believed_for_a_minute_or_the_time_to_live(
    ttl: int, kept: int, lookup: Make, clock: Clock
) -> None:
    source = First(UNKNOWN, UNKNOWN, None)
    cached = lookup(source, ttl=ttl)
    await problem(cached)
    clock.now += kept - 1
    unknown = await problem(cached)
    assert isinstance(unknown, UnknownAddress)
    assert unknown.detail == "not known"
    assert len(source.asked) == 1
    clock.now += 1
    await problem(cached)
    clock.now += kept
    assert (await cached.find(EIGHT)).cache_status == "geoip; fwd=stale; stored"


async def test_an_expired_answer_is_better_than_an_error_for_a_day(lookup: Make, clock: Clock) -> None:
    source = First(None, FAILED, UpstreamTimeout("late"), QUOTA)
    cached = lookup(source)
    await cached.find(EIGHT)
    clock.now += 3600 + 120
    stale = await cached.find(EIGHT)
    assert (answer(stale).isp, stale.cache_status, stale.max_age) == ("1", "geoip; hit; ttl=-120", 0)
    clock.now += 86_400 - 120 - 1
    assert (await cached.find(EIGHT)).cache_status == "geoip; hit; ttl=-86399"
    clock.now += 1
    assert isinstance(await problem(cached), QuotaExhausted)
    assert len(source.asked) == 4


async def test_an_expired_answer_is_served_while_the_source_is_paused(lookup: Make, clock: Clock) -> None:
    source = First(None, QUOTA)
    cached = lookup(source)
    await cached.find(EIGHT)
    clock.now += 3605
    for _ in range(2):
        assert (await cached.find(EIGHT)).cache_status == "geoip; hit; ttl=-5"
    assert len(source.asked) == 2


async def test_what_was_unknown_is_no_better_than_an_error(lookup: Make, clock: Clock) -> None:
    cached = lookup(First(UNKNOWN, FAILED))
    await problem(cached)
    clock.now += 61
    assert isinstance(await problem(cached), UpstreamFailed)


async def test_an_answer_that_is_no_longer_true_is_forgotten(lookup: Make, clock: Clock) -> None:
    cached = lookup(First(None, UNKNOWN, FAILED))
    await cached.find(EIGHT)
    clock.now += 3600
    assert isinstance(await problem(cached), UnknownAddress)
    clock.now += 60
    assert isinstance(await problem(cached), UpstreamFailed)


async def test_a_failure_is_not_kept(lookup: Make) -> None:
    cached = lookup(First(FAILED, None))
    await problem(cached)
    assert (await cached.find(EIGHT)).cache_status == "geoip; fwd=uri-miss; stored"


async def test_the_cache_is_bounded_and_forgets_what_was_used_longest_ago(lookup: Make) -> None:
    cached = lookup(First(None), size=2)
    one, two, three = (IPv4Address(number) for number in (1, 2, 3))
    for address in (one, two, one, three):
        await cached.find(address)
    assert (await cached.find(one)).cache_status == "geoip; hit; ttl=3600"
    assert (await cached.find(two)).cache_status == "geoip; fwd=uri-miss; stored"


async def test_no_more_is_kept_than_the_size_says(lookup: Make) -> None:
    source = First(None)
    cached = lookup(source, size=1000)
    for number in range(5000):
        await cached.find(IPv4Address(number))
    found = [await cached.find(IPv4Address(number)) for number in range(4999, 2999, -1)]
    assert ["hit" in each.cache_status for each in found] == [True] * 1000 + [False] * 1000
    assert len(cached._entries) == 1000
    assert not cached._under_way


@pytest.mark.parametrize(("ttl", "size", "max_age"), [(0, 100, 0), (3600, 0, 3600)])
@pytest.mark.parametrize("outcome", [None, UNKNOWN], ids=["answer", "unknown"])
async def test_the_cache_can_be_turned_off(outcome: Outcome, ttl: int, size: int, max_age: int, lookup: Make) -> None:
    source = First(outcome)
    uncached = lookup(source, ttl=ttl, size=size)
    for _ in range(2):
        if outcome:
            await problem(uncached)
        else:
            found = await uncached.find(EIGHT)
            assert (found.cache_status, found.max_age) == ("geoip; fwd=uri-miss", max_age)
    assert len(source.asked) == 2


# Single flight


async def test_five_hundred_at_once_are_one_request(lookup: Make) -> None:
    source = First(partial(asyncio.sleep, 0.01))
    crowd = lookup(source)
    found = await asyncio.gather(*(crowd.find(EIGHT) for _ in range(500)))
    assert len(source.asked) == 1
    assert len({each.body for each in found}) == 1
    assert sorted({each.cache_status for each in found}) == [
        "geoip; fwd=uri-miss; collapsed",
        "geoip; fwd=uri-miss; stored",
    ]
    assert [each.cache_status for each in found].count("geoip; fwd=uri-miss; stored") == 1


async def test_those_who_wait_for_the_same_failure_are_one_request_and_one_warning(
    lookup: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = First(FAILED)
    crowd = lookup(source)
    found = await asyncio.gather(*(crowd.find(EIGHT) for _ in range(50)), return_exceptions=True)
    assert {type(each) for each in found} == {UpstreamFailed}
    assert len(source.asked) == len(caplog.messages) == 1


async def test_those_who_wait_for_an_expired_answer_to_be_renewed_are_one_request(lookup: Make, clock: Clock) -> None:
    crowd = lookup(First(None, partial(asyncio.sleep, 0.01)))
    await crowd.find(EIGHT)
    clock.now += 3600
    found = await asyncio.gather(crowd.find(EIGHT), crowd.find(EIGHT))
    assert [each.cache_status for each in found] == ["geoip; fwd=stale; stored", "geoip; fwd=stale; collapsed"]


async def test_different_addresses_do_not_wait_for_each_other(lookup: Make) -> None:
    source = First(never, None)
    several = lookup(source)
    stuck = asyncio.create_task(several.find(EIGHT))
    await asyncio.sleep(0)
    assert answer(await several.find(NINE)).ip == "9.9.9.9"
    assert not stuck.done()
    await several.aclose()
    await asyncio.wait([stuck])


@pytest.mark.parametrize("hangs_up", [[0], [1], [0, 1], [0, 1, 2]])
async def test_who_hangs_up_cancels_nothing(hangs_up: list[int], lookup: Make) -> None:
    ready = asyncio.Event()

    async def wait() -> None:
        await ready.wait()

    source = First(wait)
    crowd = lookup(source)
    waiting = [asyncio.create_task(crowd.find(EIGHT)) for _ in range(3)]
    await asyncio.sleep(0)
    for number in hangs_up:
        waiting[number].cancel()
    await asyncio.sleep(0)
    ready.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    for number, each in enumerate(found):
        assert isinstance(each, asyncio.CancelledError if number in hangs_up else Found)
    await asyncio.sleep(0)
    assert (await crowd.find(EIGHT)).cache_status == "geoip; hit; ttl=3600"
    assert len(source.asked) == 1


async def test_a_failure_that_nobody_waits_for_any_more_is_no_error(lookup: Make) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail() -> None:
        await asyncio.sleep(0.001)
        raise FAILED

    crowd = lookup(First(fail))
    waiting = asyncio.create_task(crowd.find(EIGHT))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.01)
    del waiting
    gc.collect()
    assert complaints == []


async def test_at_the_end_nothing_stays_under_way(lookup: Make) -> None:
    before = asyncio.all_tasks()
    ending = lookup(First(never))
    waiting = asyncio.create_task(ending.find(EIGHT))
    await asyncio.sleep(0)
    await ending.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == before
    await ending.aclose()


# What a client sees of it

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Upstreams = Callable[..., Upstream]


async def test_others_may_keep_what_was_asked_for_and_nobody_what_has_expired(
    running: Running, upstream: Upstreams, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.Lookup", partial(Lookup, clock=clock))
    moody = upstream(ipwhois)
    async with running(sources="ipwhois", ipwhois_url=moody.url) as service:

        async def headers(target: str) -> tuple[str, str]:
            response = await service.get(target)
            assert response.status_code == 200
            return response.headers["Cache-Status"], response.headers["Cache-Control"]

        assert await headers("/?ip=8.8.8.8") == ("geoip; fwd=uri-miss; stored", "public, max-age=3600")
        assert await headers("/") == ("geoip; fwd=uri-miss; stored", "private, no-store")
        clock.now += 100
        assert await headers("/?ip=8.8.8.8") == ("geoip; hit; ttl=3500", "public, max-age=3500")
        assert await headers("/") == ("geoip; hit; ttl=3500", "private, no-store")
        moody.behaviour = answering(b"", 500)
        clock.now += 3500.5
        assert await headers("/?ip=8.8.8.8") == ("geoip; hit; ttl=-1", "private, no-store")
        moody.behaviour = answering(ipwhois_answer(EIGHT))
        assert await headers("/?ip=8.8.8.8") == ("geoip; fwd=stale; stored", "public, max-age=3600")


async def test_the_last_answer_before_a_ban_is_heeded(running: Running, upstream: Upstreams) -> None:
    last = {"status": "success", "query": "8.8.8.8", "isp": "Google LLC"}
    spent = upstream(answering(last, headers={"X-Rl": "0", "X-Ttl": "42"}))
    async with running(sources="ipapi", ipapi_url=spent.url) as service:
        assert (await service.get("/?ip=8.8.8.8")).status_code == 200
        refused = await service.get("/?ip=8.8.4.4")
        assert refused.json()["code"] == "quota-exhausted"
        assert 38 <= int(refused.headers["Retry-After"]) <= 42
    assert len(spent.requests) == 1
