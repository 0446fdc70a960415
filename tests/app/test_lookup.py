"""Lookups: the sources in turn, the limit of time, the cache, and one request under way for each address."""

import asyncio
import gc
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, ip_address

import pytest

from app.answer import Answer, Found
from app.lookup import Lookup
from app.problems import Problem
from app.sources.source import Source
from app.store import Store
from tests.app.scripted import Clock, Outcome, Scripted, never
from tests.conftest import free_port

pytestmark = pytest.mark.anyio

EIGHT = ip_address("8.8.8.8")
NINE = ip_address("9.9.9.9")


class First(Scripted):
    """The source that is asked first."""

    name = "first"


class Second(Scripted):
    """The source that is asked second."""

    name = "second"


class Third(Scripted):
    """The source that is asked third."""

    name = "third"


FAILED = Problem("upstream-failed", "it failed", reason="why")
UNKNOWN = Problem("unknown-address", "not known")
LATE = Problem("upstream-timeout", "late", fault="server")
QUOTA = Problem("quota-exhausted", "too many", retry_after=17)


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


def answer(result: tuple[Found, str]) -> Answer:
    return Answer.model_validate_json(result[0].body)


def status(result: tuple[Found, str]) -> str:
    return result[1]


async def problem(lookup: Lookup, address: object = EIGHT) -> Problem:
    """The problem that sources had."""
    with pytest.raises(Problem) as caught:
        await lookup.find(address)  # type: ignore[arg-type]
    return caught.value


async def unknown(lookup: Lookup) -> Problem:
    """The problem of an address that no source knows, which is kept as answers are."""
    found, _ = await lookup.find(EIGHT)
    assert found.problem
    assert found.body == b""
    return found.problem


def codes(problem: Problem) -> list[tuple[str, str]]:
    return [(source.source, source.code) for source in problem.sources or []]


# The sources in turn


async def test_the_first_source_that_answers_is_the_last_one_asked(lookup: Make) -> None:
    first, second, third = First(FAILED), Second(None), Third(None)
    assert answer(await lookup(first, second, third).find(EIGHT)).source == "second"
    assert (first.asked, second.asked, third.asked) == ([EIGHT], [EIGHT], [])


async def test_the_next_source_is_asked_about_what_one_does_not_know(lookup: Make) -> None:
    assert answer(await lookup(First(UNKNOWN), Second(None)).find(EIGHT)).source == "second"


async def test_an_address_is_unknown_if_no_source_knows_it(lookup: Make) -> None:
    nobody = await unknown(lookup(First(UNKNOWN), Second(UNKNOWN)))
    assert (nobody.code, nobody.detail) == ("unknown-address", "not known; not known")
    assert codes(nobody) == [("first", "unknown-address"), ("second", "unknown-address")]
    assert codes(await unknown(lookup(First(UNKNOWN)))) == []


async def test_the_first_failure_decides_and_every_source_is_listed(lookup: Make) -> None:
    failed = await problem(lookup(First(UNKNOWN), Second(QUOTA), Third(FAILED)))
    assert failed.code == "quota-exhausted"
    assert failed.retry_after == 17
    assert codes(failed) == [
        ("first", "unknown-address"),
        ("second", "quota-exhausted"),
        ("third", "upstream-failed"),
    ]
    assert "why" not in failed.detail


async def test_a_single_source_is_not_listed(lookup: Make) -> None:
    failed = await problem(lookup(First(FAILED)))
    assert (failed.detail, codes(failed), failed.sources) == ("it failed", [], None)


async def test_a_bug_reaches_those_who_ask_and_is_not_kept(lookup: Make) -> None:
    bug = lookup(First(ZeroDivisionError(), None))
    for found in await asyncio.gather(bug.find(EIGHT), bug.find(EIGHT), return_exceptions=True):
        assert isinstance(found, ZeroDivisionError)
    assert status(await bug.find(EIGHT)) == "geoip; fwd=uri-miss; stored"


# The limit of time


async def test_every_source_has_an_equal_share_of_what_is_left(
    lookup: Make, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def use_the_share_up() -> None:
        clock.now += 0.2
        await never()

    await problem(lookup(First(use_the_share_up), Second(FAILED), Third(never), timeout=0.6))
    assert caplog.messages == [
        "first did not answer in time (0.2 s)",  # a third of all
        "it failed (why)",
        "third did not answer in time (0.4 s)",  # what the others left
    ]


async def test_a_source_that_is_paused_has_no_share(lookup: Make, caplog: pytest.LogCaptureFixture) -> None:
    quota = First(QUOTA)
    both = lookup(quota, Second(None, never), timeout=0.3, ttl=0)
    await both.find(EIGHT)
    assert (await problem(both)).code == "quota-exhausted"
    assert caplog.messages == ["too many", "second did not answer in time (0.3 s)"]
    assert len(quota.asked) == 1


async def test_a_source_whose_pause_ends_in_time_has_its_share() -> None:
    first = First(FAILED, never)
    second = Second(Problem("quota-exhausted", "too many", retry_after=1), partial(asyncio.sleep, 0.05))
    both = Lookup([first, second], timeout=2.4, ttl=0, size=0)
    assert (await problem(both)).code == "upstream-failed"
    assert answer(await both.find(EIGHT)).source == "second"


async def test_a_silent_source_does_not_starve_the_next(lookup: Make, caplog: pytest.LogCaptureFixture) -> None:
    found = await lookup(First(never), Second(None), timeout=0.4).find(EIGHT)
    assert answer(found).source == "second"
    assert caplog.messages == ["first did not answer in time (0.2 s)"]


async def test_nothing_within_the_limit_is_a_timeout(lookup: Make) -> None:
    timeout = await problem(lookup(First(never), Second(never), timeout=0.2))
    assert timeout.code == "upstream-timeout"
    assert codes(timeout) == [("first", "upstream-timeout"), ("second", "upstream-timeout")]


# The cache


async def test_an_answer_is_kept_until_it_expires(lookup: Make, clock: Clock) -> None:
    source = First(None)
    cached = lookup(source)
    first = await cached.find(EIGHT)
    assert first[0].body == Answer(ip="8.8.8.8", isp="1", source="first").model_dump_json().encode()
    assert (first[0].source, status(first), first[0].expires) == ("first", "geoip; fwd=uri-miss; stored", 4600)
    clock.now += 60
    hit = await cached.find(EIGHT)
    assert (answer(hit).isp, status(hit)) == ("1", "geoip; hit; ttl=3540")
    assert cached.cached("8.8.8.8") == hit[0]
    clock.now += 3539.5
    assert status(await cached.find(EIGHT)) == "geoip; hit; ttl=0"
    clock.now += 0.5
    fresh = await cached.find(EIGHT)
    assert (answer(fresh).isp, status(fresh), fresh[0].expires) == ("2", "geoip; fwd=stale; stored", 8200)
    assert status(await cached.find(EIGHT)) == "geoip; hit; ttl=3600"


async def test_the_services_own_address_is_kept_apart(lookup: Make) -> None:
    source = First(None)
    cached = lookup(source)
    assert answer(await cached.find(None)).ip == "9.9.9.9"
    assert status(await cached.find(None)) == "geoip; hit; ttl=3600"
    assert status(await cached.find(NINE)) == "geoip; fwd=uri-miss; stored"
    assert source.asked == [None, NINE]


@pytest.mark.parametrize(("ttl", "kept"), [(3600, 60), (20, 20)])
async def test_an_unknown_address_is_kept_for_a_minute_or_the_time_to_live(
    ttl: int, kept: int, lookup: Make, clock: Clock
) -> None:
    source = First(UNKNOWN, UNKNOWN, None)
    cached = lookup(source, ttl=ttl)
    await unknown(cached)
    clock.now += kept - 1
    assert (await unknown(cached)).detail == "not known"
    assert len(source.asked) == 1
    clock.now += 1
    await unknown(cached)
    clock.now += kept
    assert status(await cached.find(EIGHT)) == "geoip; fwd=stale; stored"


async def test_an_expired_answer_is_better_than_an_error_for_a_day(lookup: Make, clock: Clock) -> None:
    source = First(None, FAILED, LATE, QUOTA)
    cached = lookup(source)
    await cached.find(EIGHT)
    clock.now += 3600 + 120
    stale = await cached.find(EIGHT)
    assert (answer(stale).isp, status(stale)) == ("1", "geoip; hit; ttl=-120")
    assert cached.cached("8.8.8.8") is None
    clock.now += 86_400 - 120 - 1
    assert status(await cached.find(EIGHT)) == "geoip; hit; ttl=-86399"
    clock.now += 1
    assert (await problem(cached)).code == "quota-exhausted"
    assert len(source.asked) == 4


async def test_an_expired_answer_is_served_while_the_source_is_paused(lookup: Make, clock: Clock) -> None:
    source = First(None, QUOTA)
    cached = lookup(source)
    await cached.find(EIGHT)
    clock.now += 3605
    for _ in range(2):
        assert status(await cached.find(EIGHT)) == "geoip; hit; ttl=-5"
    assert len(source.asked) == 2


async def test_an_unknown_address_is_not_better_than_an_error(lookup: Make, clock: Clock) -> None:
    cached = lookup(First(UNKNOWN, FAILED))
    await unknown(cached)
    clock.now += 61
    assert (await problem(cached)).code == "upstream-failed"


async def test_an_answer_that_is_no_longer_true_is_forgotten(lookup: Make, clock: Clock) -> None:
    cached = lookup(First(None, UNKNOWN, FAILED))
    await cached.find(EIGHT)
    clock.now += 3600
    await unknown(cached)
    clock.now += 60
    assert (await problem(cached)).code == "upstream-failed"


async def test_a_failure_is_not_kept(lookup: Make) -> None:
    cached = lookup(First(FAILED, None))
    await problem(cached)
    assert status(await cached.find(EIGHT)) == "geoip; fwd=uri-miss; stored"


async def test_the_cache_is_bounded_and_forgets_what_was_used_longest_ago(lookup: Make) -> None:
    cached = lookup(First(None), size=2)
    one, two, three = (IPv4Address(number) for number in (1, 2, 3))
    for address in (one, two, one, three):
        await cached.find(address)
    assert status(await cached.find(one)) == "geoip; hit; ttl=3600"
    assert status(await cached.find(two)) == "geoip; fwd=uri-miss; stored"


@pytest.mark.parametrize(("ttl", "size"), [(0, 100), (3600, 0)])
@pytest.mark.parametrize("outcome", [None, UNKNOWN], ids=["answer", "unknown"])
async def test_the_cache_can_be_turned_off(outcome: Outcome, ttl: int, size: int, lookup: Make) -> None:
    source = First(outcome)
    uncached = lookup(source, ttl=ttl, size=size)
    for _ in range(2):
        assert status(await uncached.find(EIGHT)) == "geoip; fwd=uri-miss"
    assert len(source.asked) == 2
    assert uncached.cached("8.8.8.8") is None


# Single flight


async def test_five_hundred_at_once_are_one_request(lookup: Make) -> None:
    source = First(partial(asyncio.sleep, 0.01))
    crowd = lookup(source)
    found = await asyncio.gather(*(crowd.find(EIGHT) for _ in range(500)))
    assert len(source.asked) == 1
    assert len({each.body for each, _ in found}) == 1
    statuses = [status(each) for each in found]
    assert set(statuses) == {"geoip; fwd=uri-miss; collapsed", "geoip; fwd=uri-miss; stored"}
    assert statuses.count("geoip; fwd=uri-miss; stored") == 1


async def test_those_who_wait_for_the_same_failure_are_one_request_and_one_warning(
    lookup: Make, caplog: pytest.LogCaptureFixture
) -> None:
    source = First(FAILED)
    crowd = lookup(source)
    found = await asyncio.gather(*(crowd.find(EIGHT) for _ in range(50)), return_exceptions=True)
    assert {type(each) for each in found} == {Problem}
    assert len(source.asked) == len(caplog.messages) == 1


async def test_those_who_wait_for_an_expired_answer_to_be_renewed_are_one_request(lookup: Make, clock: Clock) -> None:
    crowd = lookup(First(None, partial(asyncio.sleep, 0.01)))
    await crowd.find(EIGHT)
    clock.now += 3600
    found = await asyncio.gather(crowd.find(EIGHT), crowd.find(EIGHT))
    assert [status(each) for each in found] == ["geoip; fwd=stale; stored", "geoip; fwd=stale; collapsed"]


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
async def test_a_client_that_hangs_up_cancels_nothing(hangs_up: list[int], lookup: Make) -> None:
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
        assert isinstance(each, asyncio.CancelledError if number in hangs_up else tuple)
    await asyncio.sleep(0)
    assert status(await crowd.find(EIGHT)) == "geoip; hit; ttl=3600"
    assert len(source.asked) == 1


async def test_a_failure_that_nobody_waits_for_any_more_is_not_an_error(lookup: Make) -> None:
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


async def test_what_is_being_stored_is_waited_for_at_the_end() -> None:
    store = Store(f"redis://127.0.0.1:{free_port()}/0?socket_timeout=5&socket_connect_timeout=5")
    ending = Lookup([First(None)], timeout=3, ttl=60, size=10, store=store)
    before = asyncio.all_tasks()
    assert answer(await ending.find(EIGHT)).isp == "1"
    await ending.aclose()
    assert asyncio.all_tasks() == before
    await store.aclose()
