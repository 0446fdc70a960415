"""A source and a clock that do as a test says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar, TypeAlias

from pydantic import BaseModel

from app.address import IPAddress
from app.answer import Answer
from app.sources.source import Source

OWN = "9.9.9.9"
"""The address that a scripted source finds the service itself at."""


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Outcome: TypeAlias = Exception | Callable[[], Awaitable[object]] | None
"""None: answer. An exception: raise it. A function: await it, then answer."""


class Scripted(Source):
    """A source with one outcome after the other, and the last one for ever. Its ISP is the number of the request."""

    name = "scripted"
    settings_model: ClassVar[type[BaseModel]] = BaseModel

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[IPAddress | None] = []

    async def ask(self, address: IPAddress | None) -> Answer:
        self.asked.append(address)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        if outcome:
            await outcome()
        return Answer(ip=str(address or OWN), isp=f"{len(self.asked)}", source=self.name)


async def never() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()
