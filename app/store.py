"""What is known of addresses, and a second cache of it in Valkey or Redis, shared by all replicas.

Without the store everything works as if there were none: it has 50 ms to answer, and what it says is validated.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from app.problems import Problem, QuotaExhausted, UpstreamRefused
from app.sources import Answer

PATIENCE = 0.05
"""Seconds that the store has for an answer."""

AWAY = 1
"""Seconds that it is done without after it gave none."""

COMPLAINT_INTERVAL = 60
"""Seconds between two lines in the log about that."""

MAX_STALE = 86_400
"""Seconds after its expiry that an answer is still better than an error."""

logger = logging.getLogger("geoip")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an address: the JSON of its answer, made once, or the sentence that says why there is none."""

    body: bytes | None
    source: str
    unknown: str
    expires: float
    """Seconds since the epoch."""


class Rest(NamedTuple):
    """Why a source that refuses is left alone, and until when (seconds since the epoch)."""

    problem: Problem
    until: float


_Time = Annotated[float, Field(allow_inf_nan=False)]


class _StoredEntry(BaseModel):
    v: Literal[1] = 1
    answer: Answer | None
    unknown: str
    expires: _Time


class _StoredRest(BaseModel):
    v: Literal[1] = 1
    code: Literal["quota-exhausted", "upstream-refused"]
    detail: str
    until: _Time


_Model = TypeVar("_Model", _StoredEntry, _StoredRest)
_Result = TypeVar("_Result")


def make_entry(answer: Answer | None, unknown: str, expires: float) -> Entry:
    """An entry of an answer, or of the sentence that says why there is none."""
    if answer is None:
        return Entry(None, "", unknown, expires)
    return Entry(answer.model_dump_json().encode(), answer.source, "", expires)


class Store:
    """Entries, and rests of sources, as versioned JSON under keys that begin with `geoip:`. It never raises."""

    def __init__(self, url: str) -> None:
        # Imported here: who has no store does without its tenth of a second and its 10 MB.
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.exceptions import RedisError

        self._redis = Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=16, timeout=PATIENCE))
        self._failures = (RedisError, OSError, TimeoutError)
        self._away_until = -math.inf
        self._complained = -math.inf

    async def get(self, key: str, sources: Sequence[str]) -> tuple[Entry | None, dict[str, Rest]]:
        """What is stored of an address, expired or not, and which of the sources are to be left alone."""
        keys = [f"geoip:{key}", *(f"geoip:rest:{source}" for source in sources)]
        values = await self._ask(lambda: self._redis.mget(keys))
        if values is None:
            return None, {}
        stored = _read(_StoredEntry, values[0])
        known = stored is not None and (stored.answer is None or stored.answer.ip == key)
        entry = make_entry(stored.answer, stored.unknown, stored.expires) if stored and known else None
        rests = {}
        for source, value in zip(sources, values[1:], strict=True):
            if rest := _read(_StoredRest, value):
                refusal = QuotaExhausted if rest.code == QuotaExhausted.code else UpstreamRefused
                rests[source] = Rest(refusal(rest.detail), rest.until)
        return entry, rests

    async def put(self, key: str, answer: Answer | None, unknown: str, expires: float) -> None:
        """Keep what is known of an address for as long as it is of use."""
        value = _StoredEntry(answer=answer, unknown=unknown, expires=expires).model_dump_json()
        await self._set(key, value, expires + (MAX_STALE if answer else 0))

    async def put_rest(self, source: str, rest: Rest) -> None:
        """Tell the other replicas that a source refuses."""
        code: Literal["quota-exhausted", "upstream-refused"] = (
            "quota-exhausted" if isinstance(rest.problem, QuotaExhausted) else "upstream-refused"
        )
        value = _StoredRest(code=code, detail=rest.problem.detail, until=rest.until).model_dump_json()
        await self._set(f"rest:{source}", value, rest.until)

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(*self._failures):
            async with asyncio.timeout(PATIENCE):
                await self._redis.aclose()

    async def _set(self, key: str, value: str, until: float) -> None:
        seconds = max(1, math.ceil(until - time.time()))
        await self._ask(lambda: self._redis.set(f"geoip:{key}", value, ex=seconds))

    async def _ask(self, command: Callable[[], Awaitable[_Result]]) -> _Result | None:
        now = time.monotonic()
        if now < self._away_until:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                return await command()
        except self._failures as error:
            self._away_until = now + AWAY
            if now - self._complained >= COMPLAINT_INTERVAL:
                self._complained = now
                logger.warning("the shared cache does not answer: going on without it (%s)", type(error).__name__)
            return None


def _read(model: type[_Model], value: bytes | str | None) -> _Model | None:
    try:
        return None if value is None else model.model_validate_json(value)
    except ValidationError:
        return None
