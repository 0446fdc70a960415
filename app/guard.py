"""Asking one source: within a time, not too often at once, and not during its pause."""

import asyncio
import logging
import math
from collections.abc import Callable

from app.address import IPAddress
from app.answer import Answer
from app.problems import Problem
from app.sources.source import DEFAULT_PAUSE, Source

MAX_UNDER_WAY = 64
"""Requests to one source at once: each holds a connection."""

MAX_FAILURES = 3
"""Failures in a row after which a source is paused."""

FAILURE_PAUSE = 10
"""Seconds of that pause."""

logger = logging.getLogger("geoip")


class Guard:
    """Guards one source. While it is paused nobody asks it, and everybody gets the problem that caused the pause."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self.source = source
        self._clock = clock
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._failures: set[object] = set()
        self._cause: Problem | None = None
        self.paused_until = -math.inf
        """The end of its last pause, in seconds on the clock."""

    @property
    def pause(self) -> Problem | None:
        """The problem that the source is paused for; None while it can be asked."""
        if self._cause is None or self.paused_until <= self._clock():
            return None
        left = math.ceil(self.paused_until - self._clock())
        retry_after = left if self._cause.code == "quota-exhausted" else None
        return Problem(self._cause.code, self._cause.detail, retry_after=retry_after)

    async def ask(self, address: IPAddress | None, seconds: float) -> Answer:
        """Return the source's answer within that time; a Problem if there is none."""
        if pause := self.pause:
            raise pause
        was_full = self._room.locked()
        try:
            async with asyncio.timeout(seconds), self._room:
                if pause := self.pause:  # a request before this one was refused
                    raise pause
                answer = await self.source.ask(address)
        except TimeoutError:
            name, reason = self.source.name, f"{seconds:.1f} s"
            if was_full:  # the source did not have all that time, so it did not fail
                detail = f"{name} has too many requests under way: try again in a moment"
                raise Problem("upstream-timeout", detail) from None
            problem = Problem("upstream-timeout", f"{name} did not answer in time", reason=reason, fault="server")
        except Problem as error:
            problem = error
        except (RuntimeError, MemoryError) as error:  # no thread to look a name up, or no memory
            detail = f"{self.source.name} cannot be asked: the service has no thread or no memory left"
            problem = Problem("upstream-failed", detail, reason=str(error))
        else:
            self._failures.clear()
            return answer
        if problem is not pause:
            self._note(problem, address)
        raise problem

    def _note(self, problem: Problem, address: IPAddress | None) -> None:
        """Log a problem, and pause the source unless only one answer is bad."""
        if problem.code == "unknown-address":
            self._failures.clear()
            return
        logger.warning("%s%s", problem.detail, f" ({problem.reason})" if problem.reason else "")
        if problem.code in {"quota-exhausted", "upstream-refused"}:
            self._pause(problem, problem.retry_after or DEFAULT_PAUSE)
        elif problem.fault == "answer":
            self._failures.clear()
        else:
            # An address that the server always fails at counts once: nobody can pause a source with it.
            if len(self._failures) < MAX_FAILURES:  # more would fill the memory while a source is away
                self._failures.add(address if problem.fault == "server" else object())
            if len(self._failures) >= MAX_FAILURES:
                self._pause(problem, FAILURE_PAUSE)

    def _pause(self, cause: Problem, seconds: float) -> None:
        until = self._clock() + seconds
        if until > self.paused_until:  # requests that were under way do not shorten a pause
            self._cause, self.paused_until = cause, until
