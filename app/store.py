"""What is known of addresses, and a second cache of it in Valkey or Redis, shared by all replicas.

Without the store everything works as if there were none: it has 50 ms to answer, and what it says is validated.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
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


class Known(NamedTuple):
    """What is known of an address: an answer, or the sentence that says why there is none."""

    answer: Answer | None
    unknown: str
    ttl: float
    """Seconds that it is good for; less than 0 where it has expired."""


_Time = Annotated[float, Field(allow_inf_nan=False)]  # seconds since the epoch: replicas share no other clock


class _StoredAnswer(BaseModel):
    v: Literal[1] = 1
    answer: Answer | None
    unknown: str
    expires: _Time


class _StoredRest(BaseModel):
    v: Literal[1] = 1
    code: Literal["quota-exhausted", "upstream-refused"]
    detail: str
    until: _Time


_Model = TypeVar("_Model", _StoredAnswer, _StoredRest)
_Result = TypeVar("_Result")


class Store:
    """What is known, and which sources refuse: versioned JSON under keys that begin with `geoip:`. It never raises."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        # Imported here: who has no store does without its tenth of a second and its 10 MB.
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.exceptions import RedisError

        self._redis = Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=16, timeout=patience))
        self._patience = patience
        self._failures = (RedisError, OSError, TimeoutError)
        self._away_until = -math.inf
        self._complained = -math.inf

    async def get(self, key: str, sources: Sequence[str]) -> tuple[Known | None, dict[str, tuple[Problem, float]]]:
        """What is stored of an address, expired or not; and why, and for how many seconds, which source refuses."""
        keys = [f"geoip:{key}", *(f"geoip:rest:{source}" for source in sources)]
        values = await self._ask(lambda: self._redis.mget(keys))
        if values is None:
            return None, {}
        now = time.time()
        stored = _read(_StoredAnswer, values[0])
        if stored and stored.answer and stored.answer.ip != key:
            stored = None
        refusals: dict[str, tuple[Problem, float]] = {}
        for source, value in zip(sources, values[1:], strict=True):
            rest = _read(_StoredRest, value)
            if rest and rest.until > now:
                refusal = QuotaExhausted if rest.code == QuotaExhausted.code else UpstreamRefused
                refusals[source] = refusal(rest.detail), rest.until - now
        known = Known(stored.answer, stored.unknown, stored.expires - now) if stored else None
        return known, refusals

    async def put(self, key: str, known: Known) -> None:
        """Keep what is known of an address for as long as it is of use."""
        stored = _StoredAnswer(answer=known.answer, unknown=known.unknown, expires=time.time() + known.ttl)
        await self._set(key, stored, known.ttl + (MAX_STALE if known.answer else 0))

    async def put_rest(self, source: str, problem: QuotaExhausted | UpstreamRefused, seconds: float) -> None:
        """Tell the other replicas that a source refuses."""
        stored = _StoredRest(code=problem.code, detail=problem.detail, until=time.time() + seconds)
        await self._set(f"rest:{source}", stored, seconds)

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(*self._failures):
            async with asyncio.timeout(self._patience):
                await self._redis.aclose()

    async def _set(self, key: str, stored: BaseModel, seconds: float) -> None:
        await self._ask(lambda: self._redis.set(f"geoip:{key}", stored.model_dump_json(), ex=math.ceil(seconds)))

    async def _ask(self, command: Callable[[], Awaitable[_Result]]) -> _Result | None:
        now = time.monotonic()
        if now < self._away_until:
            return None
        try:
            async with asyncio.timeout(self._patience):
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
