"""What is known of addresses, and a second cache of it in Valkey or Redis, shared by all replicas.

Without the store everything works as if there were none: it has 50 ms to answer, and what it says is validated.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from app.problems import Problem, QuotaExhausted, UpstreamRefused
from app.sources import MAX_PAUSE, Answer

PATIENCE = 0.05
"""Seconds that the store has for an answer."""

OPENING = 1
"""Seconds that the start waits to be connected, so that the first command need not."""

STEPS = 10
"""Turns of the event loop in which an answer that has already arrived may still be read."""

FAILURES_RUNNING = 2
"""Failed commands in a row before the store is passed over; a single one may be chance."""

AWAY = 1
"""Seconds for which it is passed over; then one command asks whether it is back."""

COMPLAINT_INTERVAL = 60
"""Seconds between two lines in the log about it."""

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


class _StoredPause(BaseModel):
    v: Literal[1] = 1
    code: Literal["quota-exhausted", "upstream-refused"]
    detail: str
    until: _Time


_NOT_OURS = "what it holds is not ours"

_Model = TypeVar("_Model", _StoredAnswer, _StoredPause)
_Result = TypeVar("_Result")


class Store:
    """What is known, and which sources refuse: versioned JSON under keys that begin with `geoip:`.

    Only the making of it raises: ValueError, of one line, for a URL with options that there are not.
    """

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        # Imported here: who has no store does without its tenth of a second and its 10 MB.
        from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
        from redis.exceptions import RedisError, ResponseError

        # A connection is ready when it is open: no protocol is agreed on, and no library introduces itself.
        options = {"max_connections": 16, "timeout": patience, "protocol": 2, "driver_info": None}
        try:
            pool = BlockingConnectionPool.from_url(url, **options)
            one = pool.connection_class(**pool.connection_kwargs)  # looks at all options, and does not connect
        except (RedisError, TypeError, ValueError):
            raise ValueError("GEOIP_CACHE_URL: an option in it, after the question mark, is wrong") from None
        if isinstance(one, SSLConnection):
            context = one.ssl_context

            class Connection(SSLConnection):
                """On TLS, with one CA bundle for all: to read it takes as long as the store has for an answer."""

                def __init__(self, **options: Any) -> None:  # noqa: ANN401 (passed on as redis gives them)
                    super().__init__(**options)
                    self.ssl_context = context

            pool.connection_class = Connection
        self._redis = Redis.from_pool(pool)
        self._patience = patience
        self._refusal = ResponseError
        self._failures = 0
        self._failed_at = -math.inf
        self._away_until = -math.inf
        self._complained = -math.inf

    async def get(self, key: str, sources: Sequence[str]) -> tuple[Known | None, dict[str, tuple[Problem, float]]]:
        """What is stored of an address, expired or not; and why, and for how many seconds, which source refuses."""
        keys = [f"geoip:{key}", *(f"geoip:pause:{source}" for source in sources)]
        values = await self._ask(lambda: self._redis.mget(keys))
        if values is None:
            return None, {}
        if not isinstance(values, list) or len(values) != len(keys):
            self._complain("it does not answer what it is asked")
            return None, {}
        now = time.time()
        stored = self._read(_StoredAnswer, values[0])
        if stored and stored.answer and stored.answer.ip != key:
            self._complain(_NOT_OURS)
            stored = None
        pauses: dict[str, tuple[Problem, float]] = {}
        for source, value in zip(sources, values[1:], strict=True):
            pause = self._read(_StoredPause, value)
            if pause and pause.until > now:
                refusal = QuotaExhausted if pause.code == QuotaExhausted.code else UpstreamRefused
                pauses[source] = refusal(pause.detail), min(pause.until - now, MAX_PAUSE)
        known = Known(stored.answer, stored.unknown, stored.expires - now) if stored else None
        return known, pauses

    async def put(self, key: str, known: Known) -> None:
        """Keep what is known of an address for as long as it is of use."""
        stored = _StoredAnswer(answer=known.answer, unknown=known.unknown, expires=time.time() + known.ttl)
        await self._set(key, stored, known.ttl + (MAX_STALE if known.answer else 0))

    async def put_pause(self, source: str, problem: QuotaExhausted | UpstreamRefused, seconds: float) -> None:
        """Tell the other replicas that a source refuses."""
        stored = _StoredPause(code=problem.code, detail=problem.detail, until=time.time() + seconds)
        await self._set(f"pause:{source}", stored, seconds)

    async def open(self) -> None:
        """Connect, if it is there."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(OPENING):
                await self._redis.exists("geoip:")

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._patience):
                await self._redis.aclose()

    async def _set(self, key: str, stored: BaseModel, seconds: float) -> None:
        await self._ask(lambda: self._redis.set(f"geoip:{key}", stored.model_dump_json(), ex=math.ceil(seconds)))

    async def _ask(self, command: Callable[[], Awaitable[_Result]]) -> _Result | None:
        began = time.monotonic()
        if began < self._away_until:
            return None
        if self._failures >= FAILURES_RUNNING:
            self._away_until = began + AWAY  # for the others: many at once would open as many connections
        result = None
        try:
            result = await self._in_time(asyncio.ensure_future(command()))
        except self._refusal as error:  # full, read-only, not ours: it is there, and may yet answer the next command
            self._complain(f"it refuses a command ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 (redis raises ValueError and the like where it is sent nonsense)
            self._failed(error, began)
            return None
        self._failures, self._away_until = 0, -math.inf
        return result

    async def _in_time(self, asking: asyncio.Future[_Result]) -> _Result:
        try:
            await asyncio.wait([asking], timeout=self._patience)
            # It may be this process that was late: the answer has arrived, but has not been read.
            for _ in range(STEPS):
                if asking.done():
                    return asking.result()
                await asyncio.sleep(0)
            raise TimeoutError
        finally:
            asking.cancel()

    def _failed(self, error: Exception, began: float) -> None:
        now = time.monotonic()
        if began > self._failed_at:  # what was under way at the last failure is part of it
            self._failures += 1
            self._failed_at = now
        if self._failures < FAILURES_RUNNING:
            return
        self._away_until = now + AWAY
        self._complain(f"it does not answer ({type(error).__name__})")

    def _complain(self, reason: str) -> None:
        if (now := time.monotonic()) - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            logger.warning("going on without the shared cache: %s", reason)

    def _read(self, model: type[_Model], value: bytes | str | None) -> _Model | None:
        try:
            return None if value is None else model.model_validate_json(value)
        except ValidationError:
            self._complain(_NOT_OURS)
            return None
