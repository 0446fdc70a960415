"""Load: what many requests at once, many in a row, and a minute of them cost in upstream requests and memory."""

import asyncio
import itertools
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.conftest import Service
from tests.upstream import Request, Upstream, answering, http_answer, ipwhois, ipwhois_answer, reset

pytestmark = pytest.mark.anyio

Serve = Callable[..., Service]
Upstreams = Callable[..., Upstream]

# Memory and open sockets of the service are read from /proc.
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")

PUBLIC = int(IPv4Address("20.0.0.0"))


def kept(connection: socket.socket, request: Request) -> None:
    """Answer as ipwho.is does, on a connection that stays open until the service closes it."""
    target = request.target
    while target:
        answer = http_answer(ipwhois_answer(target.strip("/")), headers={"Connection": "keep-alive"})
        connection.sendall(answer)
        target = connection.recv(65536).decode().partition(" ")[2].partition(" ")[0]


def resident(service: Service) -> int:
    """Memory of the process in kB (VmRSS)."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def sockets(service: Service) -> int:
    """Sockets that the process has open."""
    found = 0
    for descriptor in Path(f"/proc/{service.process.pid}/fd").iterdir():
        try:
            found += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


async def settled(service: Service, at_most: int) -> bool:
    """Wait some seconds until the process has no more than so many sockets; tell whether it does."""
    for _ in range(100):
        if sockets(service) <= at_most:
            return True
        await asyncio.sleep(0.1)
    return False


async def get(service: Service, target: str) -> tuple[int, str, bytes]:
    """Status, Cache-Status and body of an answer. Without httpx, which is slower than the service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: geoip\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    status = re.search(rb"^cache-status: (.*)\r?$", head, re.MULTILINE | re.IGNORECASE)
    return int(head.split()[1]), status[1].strip().decode() if status else "", body


async def test_five_hundred_at_once_for_a_new_address_are_one_upstream_request(
    serve: Serve, upstream: Upstreams
) -> None:
    slow = upstream(answering(ipwhois_answer("8.8.8.8"), after=2))
    service = serve(GEOIP_IPWHOIS_URL=slow.url, GEOIP_TIMEOUT=20)

    answers = await asyncio.gather(*(get(service, "/?ip=8.8.8.8") for _ in range(500)))
    assert len(slow.requests) == 1
    assert {status for status, _, _ in answers} == {200}
    assert len({body for _, _, body in answers}) == 1
    found = Counter(cache_status.partition("; ttl=")[0] for _, cache_status, _ in answers)
    assert found["geoip; fwd=uri-miss; stored"] == 1
    # Some requests may have come after the answer.
    assert found["geoip; fwd=uri-miss; collapsed"] + found["geoip; hit"] == 499
    assert found["geoip; fwd=uri-miss; collapsed"] >= 100


@linux
@pytest.mark.slow
async def test_memory_and_entries_are_bounded(serve: Serve, upstream: Upstreams) -> None:
    plenty = upstream(kept)
    service = serve(GEOIP_IPWHOIS_URL=plenty.url, GEOIP_CACHE_SIZE=1000, GEOIP_TIMEOUT=30)
    numbers = itertools.count(PUBLIC)

    async def ask(times: int) -> None:
        for _ in range(times):
            status, cache_status, _ = await get(service, f"/?ip={IPv4Address(next(numbers))}")
            assert (status, cache_status) == (200, "geoip; fwd=uri-miss; stored")

    await asyncio.gather(*(ask(150) for _ in range(10)))
    full = resident(service)
    await asyncio.gather(*(ask(350) for _ in range(10)))
    assert resident(service) - full < 8192
    last = next(numbers)
    hits = 0
    for number in range(
        last - 1, last - 1500, -1
    ):  # from the newest, so that a miss drops no entry that is still to be asked for
        _, cache_status, _ = await get(service, f"/?ip={IPv4Address(number)}")
        hits += cache_status.startswith("geoip; hit")
    assert 900 <= hits <= 1000
    assert sockets(service) < 64


@linux
@pytest.mark.slow
async def test_a_minute_of_fifty_clients_and_a_moody_upstream_leaves_nothing_behind(
    serve: Serve, upstream: Upstreams
) -> None:
    turns = itertools.count()
    moods = itertools.cycle([reset, answering(b"", 500), answering(b"{"), answering(b"<html>", 200)])

    def moody(connection: socket.socket, request: Request) -> None:
        (ipwhois if next(turns) % 3 else next(moods))(connection, request)

    unsteady = upstream(moody)
    service = serve(GEOIP_IPWHOIS_URL=unsteady.url, GEOIP_CACHE_SIZE=500, GEOIP_CACHE_TTL=1)
    assert service.get("/?ip=8.8.8.8").status_code in (200, 502)
    before = sockets(service)
    found: Counter[int] = Counter()
    memory: list[int] = []
    numbers = itertools.count()
    end = time.monotonic() + 60

    async def ask() -> None:
        while time.monotonic() < end:
            status, _, body = await get(service, f"/?ip={IPv4Address(PUBLIC + next(numbers) % 3000)}")
            found[status] += 1
            assert status in (200, 502), body

    async def watch() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(1)
            memory.append(resident(service))

    await asyncio.gather(watch(), *(ask() for _ in range(50)))
    assert found[200] > 100
    assert found[502] > 100
    assert len(unsteady.requests) > 100
    assert max(memory[-10:]) - max(memory[:20]) < 4096
    assert await settled(service, before)
    assert "Traceback" not in service.log.read_text()
    assert "ERROR" not in service.log.read_text()
    service.process.terminate()
    assert service.process.wait(timeout=10) == 0
