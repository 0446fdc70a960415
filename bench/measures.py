"""What is measured: each function returns the rows of its tables. All load goes to 127.0.0.1."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from functools import partial
from statistics import median

from bench.load import MANY, QUICK, ROUNDS, Figures, Servers, in_turns, load, summary, warm_load
from bench.profiles import import_profile, sampled_profile
from bench.servers import (
    ENVIRONMENT,
    LIMIT,
    ROOT,
    Server,
    container,
    docker,
    first_answer,
    nginx,
    peer,
    same_files,
    service,
)

TURNS = 3 if QUICK else 11
"""Starts of each."""


def hits(upstream: int) -> Figures:
    """Measure a hit, beside a raw ASGI callable and a route of FastAPI that answer the same bytes."""
    with ExitStack() as stack, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        ours = stack.enter_context(service(upstream))
        first_answer(ours.port, "/?ip=8.8.8.8")
        headers, body = first_answer(ours.port, "/?ip=8.8.8.8")
        if not headers["cache-status"].startswith("geoip; hit"):
            raise SystemExit(f"this is not a hit: {headers}")
        del headers["date"]  # left to the server
        json.dump({"headers": headers, "body": body.decode()}, file)
        file.flush()
        servers = {
            "geoip": partial(service, upstream),
            "raw ASGI callable": partial(peer, "peers.py", "raw", file.name),
            "bare FastAPI": partial(peer, "peers.py", "fastapi", file.name),
        }
        return {"hit": in_turns(servers, 0), "hit profile": sampled_profile(ours, 0)}


def misses(upstream: Server, slow: Server) -> Figures:
    """Measure a miss, beside the same with aiohttp's client and the article's way; then with a slow upstream."""
    url = f"http://127.0.0.1:{upstream.port}"
    servers: Servers = {
        "geoip": partial(service, upstream.port),
        "with aiohttp's client": partial(peer, "aiohttp_way.py", url),
        "the article's way": partial(peer, "article.py", url),
        "the upstream alone": lambda: nullcontext(upstream),
    }
    rows = in_turns(servers, MANY)
    with service(upstream.port) as ours:
        profile = sampled_profile(ours, MANY)
    with service(slow.port) as ours:
        load(ours, 128, addresses=MANY, seconds=1)
        seen = [load(ours, 128, addresses=MANY, seconds=2 if QUICK else 6) for _ in range(3)]
    return {"miss": rows, "miss profile": profile, "slow": {"geoip": summary(seen)}}


def starts(upstream: int) -> Figures:
    """Measure a start, from the start of the process to the first answer, beside two imports; and its profile."""
    command = [sys.executable, "-c", "import fastapi, uvicorn"]
    ours, imports = [], []
    for _ in range(TURNS):
        started = time.perf_counter()
        # Captured, since run() notices the end of pipes at once, but that of a process only every 50 ms.
        subprocess.run(command, env=ENVIRONMENT, check=True, timeout=LIMIT, capture_output=True)
        imports.append((time.perf_counter() - started) * 1000)
        with service(upstream) as server:
            ours.append(server.start)
    rows = {"geoip": ours, "import fastapi, uvicorn": imports}
    times = {name: {"start_ms": median(seen), "least": min(seen), "most": max(seen)} for name, seen in rows.items()}
    return {"start": times, "start profile": import_profile()}


def images(upstream: int) -> Figures:
    """Measure every image that is built: its start, its memory, a hit and a miss; beside the service outside."""
    names = [name for name in tomllib.loads((ROOT / "docker/images.toml").read_text()) if _is_built(f"geoip:{name}")]
    servers = {"outside": partial(service, upstream)} | {
        name: partial(container, f"geoip:{name}", upstream) for name in names
    }
    seen: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in servers}
    for name in names:  # the first start reads the image's files from the disk, and counts their pages as its memory
        with servers[name]():
            pass
    for name in names:
        with servers[name]() as server:
            _ask_about_10000(server.port)
            seen[name]["memory_after_mb"] = [_megabytes(server.container)]
    for _ in range(ROUNDS):
        for name, started in servers.items():
            with started() as server:
                if server.container:
                    seen[name]["start_ms"].append(server.start)
                    seen[name]["memory_mb"].append(_megabytes(server.container))
                seen[name]["hit_us"].append(warm_load(server, 0).cpu)
                seen[name]["miss_us"].append(warm_load(server, MANY).cpu)
    rows = {name: {what: median(values) for what, values in each.items()} for name, each in seen.items()}
    for name, row in rows.items():
        print(f"  {name:28} a hit {row['hit_us']:7.1f} µs CPU, a miss {row['miss_us']:7.1f}", flush=True)
    return {"images": rows}


def _is_built(image: str) -> bool:
    return bool(shutil.which("docker")) and bool(docker("images", "--quiet", image))


def _megabytes(name: str) -> float:
    """Return what docker stats shows, in 10^6 bytes."""
    used = docker("stats", "--no-stream", "--format={{.MemUsage}}", name).split(" / ")[0]
    if not used.endswith("MiB"):
        raise SystemExit(f"docker stats says {used}, which is not in MiB")
    return float(used.removesuffix("MiB")) * 1.048576


def _ask_about_10000(port: int) -> None:
    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        for last in range(100):
            connection.request("GET", f"/?ip=20.1.{number}.{last}")
            answer = connection.getresponse()
            if answer.status != 200 or not answer.read():
                raise SystemExit(f"a miss has the status {answer.status}")
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))


def growth(upstream: int) -> Figures:
    """Measure hits of more and more clients, more and more addresses, and more replicas behind nginx."""
    seconds = 1.0 if QUICK else 4.0
    with service(upstream) as ours:
        clients = {n: load(ours, n, seconds=seconds) for n in (1, 4, 16, 64, 256, 1000)}
    addresses = {}
    for n in (10, 1_000, 10_000, 100_000, 1_000_000):
        with service(upstream) as ours:
            load(ours, addresses=n, seconds=2 * seconds)  # fill the cache
            addresses[n] = load(ours, addresses=n, seconds=seconds)
    replicas = {}
    with ExitStack() as stack:
        running = [stack.enter_context(service(upstream)) for _ in range(os.cpu_count() or 1)]
        for n in range(1, len(running) + 1) if shutil.which("nginx") else ():
            with nginx(running[:n]) as front:
                replicas[n] = load(front, 64, seconds=seconds)
    grown = {"clients": clients, "addresses": addresses, "replicas": replicas}
    return {what: {f"{n:,}": summary([seen]) for n, seen in each.items()} for what, each in grown.items()}


def echoip(binary: str) -> Figures:
    """Measure echoip beside the service, both on the same MMDB files, with one address and with 16 million."""
    rows: dict[str, dict[str, float]] = {}
    with same_files(binary) as both:
        for what, addresses in (("8.8.8.8", 0), ("many addresses", MANY)):
            servers: Servers = {
                "geoip": lambda: nullcontext(both["geoip"]),
                "echoip": lambda: nullcontext(both["echoip"]),
            }
            seen = in_turns(servers, addresses, {"echoip": "/json?ip="})
            rows |= {f"{name}: {what}": row for name, row in seen.items()}
    return {"echoip": {name: row | {"per_cpu": 1e6 / max(row["cpu_us"], 1)} for name, row in rows.items()}}
