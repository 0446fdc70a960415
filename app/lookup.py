"""Lookups: one cache, one request under way per address, and the sources in turn within one budget of time."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cachetools import LRUCache

from app.address import IPAddress
from app.problems import (
    Problem,
    QuotaExhausted,
    SourceProblem,
    UnknownAddress,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from app.sources import DEFAULT_PAUSE, Answer, Source
from app.store import MAX_STALE, Known, Store

NEGATIVE_TTL = 60
"""Seconds that "unknown" is believed at most."""

FAILURES_RUNNING = 3
"""Failures of a source, one after the other, after which it is left alone for FAILURE_PAUSE seconds."""

FAILURE_PAUSE = 10

MAX_UNDER_WAY = 64
"""Requests under way at once, of a source: its patience, and the memory of as many connections, have an end."""

logger = logging.getLogger("geoip")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an address: the JSON of its answer, made once, or the sentence that says why there is none."""

    body: bytes | None
    source: str
    unknown: str
    expires: float


@dataclass(frozen=True, slots=True)
class Found:
    """An answer on its way out."""

    body: bytes
    """An Answer as JSON."""
    source: str
    upstream_ms: float | None
    """Milliseconds that the sources took; None where the answer was there already."""
    cache_status: str
    """Where it is from (RFC 9211)."""
    max_age: int
    """Seconds that others may keep it; 0 where it has expired."""


_Fresh: TypeAlias = tuple[Entry, float | None]  # and the milliseconds that the sources took; None from the store


class Lookup:
    """Answers of several sources for one address at a time. One event loop; nothing blocks it."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        timeout: float,
        ttl: int,
        size: int,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turns = [_Turn(source, store, clock) for source in sources]
        self._store = store if ttl else None
        self._timeout = timeout
        self._ttl = ttl
        self._clock = clock
        # No TTLCache: it drops what has expired, which is what is needed when every source fails.
        self._entries: LRUCache[str, Entry] = LRUCache(size if ttl else 0)
        self._under_way: dict[str, asyncio.Task[_Fresh]] = {}

    async def find(self, address: IPAddress | None) -> Found:
        """Look an address up, or the service's own (None); a Problem where there is no answer."""
        key = str(address or "")
        entry = self._entries.get(key)
        if entry and entry.expires > self._clock():
            return self._found(entry, f"hit; ttl={self._ttl_left(entry)}")
        forwarded = "fwd=stale" if entry else "fwd=uri-miss"
        if task := self._under_way.get(key):
            forwarded += "; collapsed"
        else:
            task = self._under_way[key] = asyncio.create_task(self._ask(key, address))
            task.add_done_callback(lambda done: self._landed(key, done))
            if self._entries.maxsize:
                forwarded += "; stored"
        try:
            # Shielded: a client that hangs up cancels nothing that others wait for.
            fresh, upstream_ms = await asyncio.shield(task)
        except Problem:
            entry = self._entries.get(key)
            if entry and entry.body and self._ttl_left(entry) > -MAX_STALE:
                return self._found(entry, f"hit; ttl={self._ttl_left(entry)}")
            raise
        if upstream_ms is None:
            return self._found(fresh, f"hit; ttl={self._ttl_left(fresh)}")
        return self._found(fresh, forwarded, upstream_ms)

    def cached(self, text: str) -> Found | None:
        """Answer to an address as the cache writes it (RFC 5952), if there is one that has not expired."""
        entry = self._entries.get(text) if text else None  # under "" is the service's own
        if entry is None or entry.body is None or entry.expires <= self._clock():
            return None
        return self._found(entry, f"hit; ttl={self._ttl_left(entry)}")

    async def aclose(self) -> None:
        """Give up what is still under way, for nobody any more."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: str, task: asyncio.Task[_Fresh]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited has hung up

    def _ttl_left(self, entry: Entry) -> int:
        return math.floor(entry.expires - self._clock())

    def _found(self, entry: Entry, cache_status: str, upstream_ms: float | None = None) -> Found:
        if entry.body is None:
            raise UnknownAddress(entry.unknown)
        return Found(entry.body, entry.source, upstream_ms, f"geoip; {cache_status}", max(0, self._ttl_left(entry)))

    async def _ask(self, key: str, address: IPAddress | None) -> _Fresh:
        """What the shared store knows, or else a source."""
        # The service's own address is not the other replicas'.
        store = self._store if address else None
        if store:
            known, refusals = await store.get(key, [turn.source.name for turn in self._turns])
            if known:
                entry = self._keep(key, known)
                if known.ttl > 0:
                    return entry, None
            for turn in self._turns:
                if refusal := refusals.get(turn.source.name):
                    turn.rest(*refusal)
        started = time.perf_counter()
        try:
            known = Known(await self._ask_in_turn(address), "", self._ttl)
        except UnknownAddress as problem:
            known = Known(None, problem.detail, min(self._ttl, NEGATIVE_TTL))
        upstream_ms = round((time.perf_counter() - started) * 1000, 1)
        entry = self._keep(key, known)
        if store:
            await store.put(key, known)
        return entry, upstream_ms

    def _keep(self, key: str, known: Known) -> Entry:
        answer, unknown, ttl = known
        body = answer.model_dump_json().encode() if answer else None
        entry = Entry(body, answer.source if answer else "", unknown, self._clock() + ttl)
        if self._entries.maxsize:
            self._entries[key] = entry
        return entry

    async def _ask_in_turn(self, address: IPAddress | None) -> Answer:
        """The first answer of a source; else the first failure, or UnknownAddress if none failed."""
        for turn in self._turns:
            turn.source.open()
        deadline = self._clock() + self._timeout
        problems: list[tuple[str, Problem]] = []
        for position, turn in enumerate(self._turns):
            # Equal shares of what is left, for those that will be asked: a silent one does not starve the next.
            share = (deadline - self._clock()) / max(1, sum(not later.resting for later in self._turns[position:]))
            try:
                return await turn.ask(address, share)
            except Problem as problem:
                problems.append((turn.source.name, problem))
        first = next((problem for _, problem in problems if not isinstance(problem, UnknownAddress)), problems[0][1])
        raise type(first)(
            "; ".join(problem.detail for _, problem in problems),
            retry_after=first.retry_after,
            sources=[SourceProblem(source=name, code=problem.code) for name, problem in problems[1:] and problems],
        )


class _Turn:
    """A source, and how long it is to be left alone."""

    def __init__(self, source: Source, store: Store | None, clock: Callable[[], float]) -> None:
        self.source = source
        self._store = store
        self._clock = clock
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._failures = 0
        self._resting_for: Problem = UpstreamFailed("")
        self._resting_until = -math.inf

    @property
    def resting(self) -> bool:
        return self._clock() < self._resting_until

    def rest(self, problem: Problem, seconds: float) -> None:
        """Leave the source alone; what was still under way does not shorten a rest."""
        until = self._clock() + seconds
        if until > self._resting_until:
            self._resting_for, self._resting_until = problem, until

    async def ask(self, address: IPAddress | None, seconds: float) -> Answer:
        """Answer of the source within that time; a resting one repeats the problem that it rests for."""
        if not self.resting:
            try:
                async with asyncio.timeout(seconds), self._room:
                    if not self.resting:  # it may have refused the one before
                        return await self._ask(address)
            except TimeoutError:
                timeout = UpstreamTimeout(f"{self.source.name} said nothing in time", reason=f"{seconds:.1f} s")
                await self._failed(timeout)
                raise timeout from None
        problem = self._resting_for
        left = max(1, math.ceil(self._resting_until - self._clock()))
        raise type(problem)(problem.detail, retry_after=left if isinstance(problem, QuotaExhausted) else None)

    async def _ask(self, address: IPAddress | None) -> Answer:
        try:
            answer, pause = await self.source.ask(address)
        except UnknownAddress:
            self._failures = 0
            raise
        except Problem as problem:
            await self._failed(problem)
            raise
        self._failures = 0
        if pause:
            await self._refused(QuotaExhausted(f"{self.source.name} takes no more requests for now"), pause)
        return answer

    async def _failed(self, problem: Problem) -> None:
        logger.warning("%s%s", problem.detail, f" ({problem.reason})" if problem.reason else "")
        self._failures += 1
        if isinstance(problem, QuotaExhausted | UpstreamRefused):
            await self._refused(problem, problem.retry_after or DEFAULT_PAUSE)
        elif self._failures >= FAILURES_RUNNING:
            self.rest(problem, FAILURE_PAUSE)

    async def _refused(self, problem: QuotaExhausted | UpstreamRefused, seconds: float) -> None:
        self.rest(problem, seconds)
        if self._store:
            await self._store.put_rest(self.source.name, problem, seconds)
