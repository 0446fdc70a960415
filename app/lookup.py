"""Lookups: the cache, one request under way for each address, and the sources in turn within one limit of time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cachetools import LRUCache

from app.address import IPAddress
from app.answer import MAX_STALE, Found
from app.guard import Guard
from app.problems import Problem, SourceProblem
from app.sources.source import Source

if TYPE_CHECKING:  # only a service with a shared store imports it, and redis with it
    from app.store import Store

UNKNOWN_TTL = 60
"""Seconds for which "unknown" is kept at most."""


class Lookup:
    """Looks addresses up: in the cache, then in the shared store, then in the sources. For one event loop."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        timeout: float,
        ttl: int,
        size: int,
        store: "Store | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._guards = [Guard(source, clock) for source in sources]
        self._timeout = timeout
        self._ttl = ttl
        self._store = store if ttl and size else None
        # Not a TTLCache, which drops stale answers: they are served when every source fails.
        self._cache: LRUCache[str, Found] = LRUCache(size if ttl else 0)
        self._under_way: dict[str, asyncio.Task[tuple[Found, bool]]] = {}
        self._storing: set[asyncio.Task[None]] = set()

    def cached(self, address: str) -> Found | None:
        """Return a hit for an address as RFC 5952 writes it; None if nothing is cached, or only something stale."""
        found = self._cache.get(address)
        return found if found and found.expires > self.clock() else None

    async def find(self, address: IPAddress | None) -> tuple[Found, str]:
        """Look an address up, or the service's own (None). Return what is found, and the value of Cache-Status.

        Problem if sources fail and nothing stale is there.
        """
        key = str(address or "")
        if hit := self.cached(key):
            return hit, hit.hit_status(self.clock())
        status = "geoip; fwd=stale" if key in self._cache else "geoip; fwd=uri-miss"
        task = self._under_way.get(key)
        if task:
            status += "; collapsed"
        else:
            task = self._under_way[key] = asyncio.create_task(self._ask(key, address))
            task.add_done_callback(lambda done: self._land(key, done))
            if self._cache.maxsize:
                status += "; stored"
        try:
            # Shielded: a client that hangs up cancels nothing that others wait for.
            found, is_shared = await asyncio.shield(task)
        except Problem:
            stale = self._cache.get(key)
            if stale and stale.body and stale.expires > self.clock() - MAX_STALE:
                return stale, stale.hit_status(self.clock())
            raise
        if is_shared:
            status = found.hit_status(self.clock())
        return found, status

    async def aclose(self) -> None:
        """Give up the requests that are under way, and wait for what is being stored."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._storing, return_exceptions=True)

    def _land(self, key: str, task: asyncio.Task[tuple[Found, bool]]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # retrieved, even if everybody who waited has hung up

    async def _ask(self, key: str, address: IPAddress | None) -> tuple[Found, bool]:
        """Ask the shared store, then the sources, and keep what is found. Tell also whether the store had it."""
        store = self._store if address else None  # the own address of another replica may be another one
        if store and (stored := await store.get(key, self._ttl)):
            self._keep(key, stored)
            if stored.expires > self.clock():
                return stored, True
        found = await self._ask_sources(address)
        self._keep(key, found)
        if store and found.body:
            storing = asyncio.create_task(store.put(key, found))  # nobody waits for it
            self._storing.add(storing)
            storing.add_done_callback(self._storing.discard)
        return found, False

    def _keep(self, key: str, found: Found) -> None:
        kept = self._cache.get(key)
        if self._cache.maxsize and (kept is None or kept.expires < found.expires):  # the store may have an older answer
            self._cache[key] = found

    async def _ask_sources(self, address: IPAddress | None) -> Found:
        """Return the first answer, or a Found without one if no source knows the address; raise the first failure."""
        deadline = self.clock() + self._timeout
        problems: list[Problem] = []
        for position, guard in enumerate(self._guards):
            # Each source that will be asked has an equal share of the time left: a silent one leaves some for the next.
            sharing = sum(later.paused_until < deadline for later in self._guards[position:])
            try:
                answer = await guard.ask(address, (deadline - self.clock()) / max(1, sharing))
            except Problem as problem:
                problems.append(problem)
            else:
                body = answer.model_dump_json().encode()
                return Found(body, answer.source, self.clock() + self._ttl)
        failed = [problem for problem in problems if problem.code != "unknown-address"]
        first = (failed or problems)[0]
        asked = zip(self._guards, problems, strict=True)
        each = [SourceProblem(source=guard.source.name, code=problem.code) for guard, problem in asked]
        combined = Problem(
            first.code,
            "; ".join(problem.detail for problem in problems),
            retry_after=first.retry_after,
            sources=each if len(each) > 1 else None,
        )
        if failed:
            raise combined
        return Found(b"", "", self.clock() + min(self._ttl, UNKNOWN_TTL), combined)
