"""Lookups: one cache, one request under way per address, and the sources in turn within one budget of time."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

NEGATIVE_TTL = 60
"""Seconds that "unknown" is believed at most."""

MAX_STALE = 86_400
"""Seconds after its expiry that an answer is still better than an error."""

FAILURES_RUNNING = 3
"""Failures of a source, one after the other, after which it is left alone for FAILURE_PAUSE seconds."""

FAILURE_PAUSE = 10

logger = logging.getLogger("geoip")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an address: the JSON of its answer, made once, or why there is none."""

    body: bytes | None
    unknown: str
    expires: float


@dataclass(frozen=True, slots=True)
class Found:
    """An answer on its way out."""

    body: bytes
    """An Answer as JSON."""
    cache_status: str
    """Where it is from (RFC 9211)."""
    max_age: int
    """Seconds that others may keep it; 0 where it has expired."""


class Lookup:
    """Answers of several sources for one address at a time. One event loop; nothing blocks it."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        timeout: float,
        ttl: int,
        size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turns = [_Turn(source, clock) for source in sources]
        self._timeout = timeout
        self._ttl = ttl
        self._clock = clock
        # No TTLCache: it drops what has expired, which is what is needed when every source fails.
        self._entries: LRUCache[str, Entry] = LRUCache(size if ttl else 0)
        self._under_way: dict[str, asyncio.Task[Entry]] = {}

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
            fresh = await asyncio.shield(task)
        except Problem:
            if entry and entry.body and self._ttl_left(entry) > -MAX_STALE:
                return self._found(entry, f"hit; ttl={self._ttl_left(entry)}")
            raise
        return self._found(fresh, forwarded)

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

    def _landed(self, key: str, task: asyncio.Task[Entry]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited has hung up

    def _ttl_left(self, entry: Entry) -> int:
        return math.floor(entry.expires - self._clock())

    def _found(self, entry: Entry, cache_status: str) -> Found:
        if entry.body is None:
            raise UnknownAddress(entry.unknown)
        return Found(entry.body, f"geoip; {cache_status}", max(0, self._ttl_left(entry)))

    async def _ask(self, key: str, address: IPAddress | None) -> Entry:
        try:
            answer = await self._ask_in_turn(address)
        except UnknownAddress as problem:
            entry = Entry(None, problem.detail, self._clock() + min(self._ttl, NEGATIVE_TTL))
        else:
            entry = Entry(answer.model_dump_json().encode(), "", self._clock() + self._ttl)
        if self._entries.maxsize:
            self._entries[key] = entry
        return entry

    async def _ask_in_turn(self, address: IPAddress | None) -> Answer:
        """The first answer of a source; else the first failure, or UnknownAddress if none failed."""
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

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self.source = source
        self._clock = clock
        self._failures = 0
        self._resting_for: Problem = UpstreamFailed("")
        self._resting_until = -math.inf

    @property
    def resting(self) -> bool:
        return self._clock() < self._resting_until

    async def ask(self, address: IPAddress | None, seconds: float) -> Answer:
        """Answer of the source within that time; a resting one repeats the problem that it rests for."""
        if self.resting:
            problem = self._resting_for
            left = math.ceil(self._resting_until - self._clock())
            raise type(problem)(problem.detail, retry_after=left if problem.retry_after else None)
        try:
            async with asyncio.timeout(seconds):
                answer, pause = await self.source.ask(address)
        except UnknownAddress:
            self._failures = 0
            raise
        except Problem as problem:
            self._failed(problem)
            raise
        except TimeoutError:
            timeout = UpstreamTimeout(f"{self.source.name} said nothing in time", reason=f"{seconds:.1f} s")
            self._failed(timeout)
            raise timeout from None
        self._failures = 0
        if pause:
            self._rest(QuotaExhausted(f"{self.source.name} takes no more requests for now", retry_after=pause), pause)
        return answer

    def _failed(self, problem: Problem) -> None:
        logger.warning("%s%s", problem.detail, f" ({problem.reason})" if problem.reason else "")
        self._failures += 1
        if isinstance(problem, QuotaExhausted | UpstreamRefused):
            self._rest(problem, problem.retry_after or DEFAULT_PAUSE)
        elif self._failures >= FAILURES_RUNNING:
            self._rest(problem, FAILURE_PAUSE)

    def _rest(self, problem: Problem, seconds: float) -> None:
        self._resting_for = problem
        self._resting_until = self._clock() + seconds
