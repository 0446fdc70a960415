"""Load by wrk, and what it saw. The servers that are compared take turns, so that a busy moment meets all of them."""

import json
import os
import random
import statistics
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.servers import HERE, LIMIT, Server

QUICK = bool(os.environ.get("QUICK"))
ROUNDS, SECONDS = (2, 1.0) if QUICK else (5, 3.0)
MANY = 2**24
"""Addresses of which hardly one is asked twice."""

Servers = Mapping[str, Callable[[], AbstractContextManager[Server]]]
"""By name, what starts a server."""

Figures = dict[str, dict[str, dict[str, float]]]
"""The values of each row of each table: `{"hit": {"geoip": {"cpu_us": 50.1, …}, …}, …}`."""


@dataclass(frozen=True)
class Load:
    """One run of wrk: requests, requests a second, milliseconds, and failures."""

    requests: int
    rate: float
    p99: float
    errors: int
    cpu: float
    """Microseconds of CPU time that the server used for each request."""


def load(
    server: Server, clients: int = 16, *, addresses: int = 0, seconds: float = SECONDS, path: str = "/?ip="
) -> Load:
    """Ask about that many addresses (0: 8.8.8.8 alone) from that many kept connections."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}", "--timeout", "10", "-s", str(HERE / "load.lua")]
    command += [f"http://127.0.0.1:{server.port}", "--", str(random.randrange(2**31)), str(addresses), path]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT + seconds)
    used = server.cpu_seconds() - before
    seen = json.loads(done.stdout.splitlines()[-1])
    requests = max(1, seen["requests"])
    rate = seen["requests"] / seen["seconds"]
    return Load(requests, rate, seen["p99"], seen["errors"] + seen["timeouts"], used / requests * 1e6)


def summary(loads: list[Load]) -> dict[str, float]:
    """Return medians, the spread of the rate, the worst p99 and the sum of what failed."""
    rates = [one.rate for one in loads]
    return {
        "rate": statistics.median(rates),
        "least": min(rates),
        "most": max(rates),
        "cpu_us": statistics.median(one.cpu for one in loads),
        "p99_ms": max(one.p99 for one in loads),
        "errors": sum(one.errors for one in loads),
    }


def warm_load(server: Server, addresses: int, path: str = "/?ip=") -> Load:
    """Load with 16 clients, without the first second: the first requests import and connect."""
    load(server, addresses=addresses, seconds=1, path=path)
    return load(server, addresses=addresses, path=path)


def in_turns(servers: Servers, addresses: int, paths: Mapping[str, str] | None = None) -> dict[str, dict[str, float]]:
    """Load each with 16 clients, in turns. A turn starts it anew: two processes of one program differ by a tenth."""
    seen: dict[str, list[Load]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, started in servers.items():
            with started() as server:
                seen[name].append(warm_load(server, addresses, (paths or {}).get(name, "/?ip=")))
    for name, loads in seen.items():
        row = summary(loads)
        print(f"  {name:28} {row['rate']:8.0f}/s {row['cpu_us']:7.1f} µs CPU, {row['errors']} errors", flush=True)
    return {name: summary(loads) for name, loads in seen.items()}
