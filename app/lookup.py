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
"""Seconds that a source is left alone that keeps failing."""

MAX_UNDER_WAY = 64
"""Requests to one source at once: its patience is limited, and so is the memory for connections."""

logger = logging.getLogger("geoip")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an address: the JSON of its answer, made once, or the sentence that says why there is none."""

    body: bytes | None
    source: str
    unknown: str
    expires: float
    """Seconds on the clock of the Lookup."""


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
    """Looks addresses up: in the cache, then by the sources in turn. For one event loop."""

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
        self._store = store if ttl and size else None
        self._turns = [_Turn(source, self._store, clock) for source in sources]
        self._timeout = timeout
        self._ttl = ttl
        self._clock = clock
        # No TTLCache: it drops what has expired, which is what is needed when every source fails.
        self._entries: LRUCache[str, Entry] = LRUCache(size if ttl else 0)
        self._under_way: dict[str, asyncio.Task[_Fresh]] = {}

    async def find(self, address: IPAddress | None) -> Found:
        """Look an address up, or the service's own (None); a Problem where there is no answer."""
        key = str(address or "")
        if entry := self._fresh(key):
            return self._hit(entry)
        forwarded = "fwd=stale" if key in self._entries else "fwd=uri-miss"
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
        except Problem as problem:
            entry = self._entries.get(key)
            if entry and entry.body and self._ttl_left(entry) > -MAX_STALE:
                return self._hit(entry, problem.upstream_ms)
            raise
        if upstream_ms is None:
            return self._hit(fresh)
        return self._found(fresh, forwarded, upstream_ms)

    def cached(self, text: str) -> Found | None:
        """Answer to an address as the cache writes it (RFC 5952), if there is one that has not expired."""
        entry = self._fresh(text) if text else None  # under "" is the service's own
        return self._hit(entry) if entry and entry.body else None

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

    def _fresh(self, key: str) -> Entry | None:
        entry = self._entries.get(key)
        return entry if entry and entry.expires > self._clock() else None

    def _hit(self, entry: Entry, upstream_ms: float | None = None) -> Found:
        return self._found(entry, f"hit; ttl={self._ttl_left(entry)}", upstream_ms)

    def _ttl_left(self, entry: Entry) -> int:
        return math.floor(entry.expires - self._clock())

    def _found(self, entry: Entry, forwarded: str, upstream_ms: float | None) -> Found:
        cache_status = f"geoip; {forwarded}"
        if entry.body is None:
            # None failed, so every source was asked.
            sources = [SourceProblem(source=turn.source.name, code=UnknownAddress.code) for turn in self._turns]
            problem = UnknownAddress(entry.unknown, sources=sources if len(sources) > 1 else ())
            problem.cache_status, problem.upstream_ms = cache_status, upstream_ms
            raise problem
        return Found(entry.body, entry.source, upstream_ms, cache_status, max(0, self._ttl_left(entry)))

    async def _ask(self, key: str, address: IPAddress | None) -> _Fresh:
        """What the shared store knows, or else a source."""
        # The service's own address is not the other replicas'.
        store = self._store if address else None
        if store:
            known, pauses = await store.get(key, [turn.source.name for turn in self._turns])
            if known:
                entry = self._keep(key, known)
                if known.ttl > 0:
                    return entry, None
            for turn in self._turns:
                if pause := pauses.get(turn.source.name):
                    turn.pause(*pause)
        started = time.perf_counter()
        try:
            known = Known(await self._ask_in_turn(address), "", self._ttl)
        except UnknownAddress as problem:
            known = Known(None, problem.detail, min(self._ttl, NEGATIVE_TTL))
        except Problem as problem:
            problem.upstream_ms = _ms_since(started)
            raise
        upstream_ms = _ms_since(started)
        entry = self._keep(key, known)
        if store:
            await store.put(key, known)
        return entry, upstream_ms

    def _keep(self, key: str, known: Known) -> Entry:
        answer, unknown, ttl = known
        # What another replica stored may be good for longer: its settings are others, or its clock.
        ttl = min(ttl, self._ttl if answer else min(self._ttl, NEGATIVE_TTL))
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
            share = (deadline - self._clock()) / max(1, sum(not later.paused for later in self._turns[position:]))
            try:
                return await turn.ask(address, share)
            except Problem as problem:
                problems.append((turn.source.name, problem))
        first = next((problem for _, problem in problems if not isinstance(problem, UnknownAddress)), problems[0][1])
        raise type(first)(
            "; ".join(problem.detail for _, problem in problems),
            retry_after=first.retry_after,
            sources=[SourceProblem(source=name, code=problem.code) for name, problem in problems if len(problems) > 1],
        )


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 1)


class _Turn:
    """A source, and how long it is to be left alone."""

    def __init__(self, source: Source, store: Store | None, clock: Callable[[], float]) -> None:
        self.source = source
        self._store = store
        self._clock = clock
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._failures = 0
        self._paused_for: Problem = UpstreamFailed("")
        self._paused_until = -math.inf

    @property
    def paused(self) -> bool:
        return self._clock() < self._paused_until

    def pause(self, problem: Problem, seconds: float) -> None:
        """Leave the source alone; what was still under way does not shorten a pause."""
        until = self._clock() + seconds
        if until > self._paused_until:
            self._paused_for, self._paused_until = problem, until

    async def ask(self, address: IPAddress | None, seconds: float) -> Answer:
        """Answer of the source within that time; a paused one repeats the problem that it is paused for."""
        if self.paused:
            raise self._repeated()
        queued = self._room.locked()
        try:
            async with asyncio.timeout(seconds), self._room:
                # It may have refused the one before.
                reply = None if self.paused else await self.source.ask(address)
        except UnknownAddress:
            self._failures = 0
            raise
        except Problem as problem:
            await self._failed(problem)
            raise
        except TimeoutError:
            if queued:  # no failure of the source's, which did not have all that time
                raise UpstreamTimeout(f"{self.source.name} has too many requests under way") from None
            timeout = UpstreamTimeout(f"{self.source.name} said nothing in time", reason=f"{seconds:.1f} s")
            await self._failed(timeout)
            raise timeout from None
        if reply is None:
            raise self._repeated()
        self._failures = 0
        if reply.pause:
            await self._refused(QuotaExhausted(f"{self.source.name} takes no more requests for now"), reply.pause)
        return reply.answer

    def _repeated(self) -> Problem:
        problem = self._paused_for
        left = max(1, math.ceil(self._paused_until - self._clock()))
        return type(problem)(problem.detail, retry_after=left if isinstance(problem, QuotaExhausted) else None)

    async def _failed(self, problem: Problem) -> None:
        logger.warning("%s%s", problem.detail, f" ({problem.reason})" if problem.reason else "")
        self._failures += 1
        if isinstance(problem, QuotaExhausted | UpstreamRefused):
            await self._refused(problem, problem.retry_after or DEFAULT_PAUSE)
        elif self._failures >= FAILURES_RUNNING:
            self.pause(problem, FAILURE_PAUSE)

    async def _refused(self, problem: QuotaExhausted | UpstreamRefused, seconds: float) -> None:
        self.pause(problem, seconds)
        if self._store:
            await self._store.put_pause(self.source.name, problem, seconds)
