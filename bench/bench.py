"""What the service costs, beside what else there is: `make bench` (IMAGE=scratch: in a container; QUICK=1: rough).

Every figure is from this run, on this machine. What is compared runs in turns, so that a busy moment meets all of it;
medians count. All load goes to 127.0.0.1.
"""

import http.client
import json
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGE = os.environ.get("IMAGE")
PACKED = IMAGE or "scratch"  # whose memory is measured
QUICK = bool(os.environ.get("QUICK"))
ROUNDS, SECONDS = (2, 1) if QUICK else (5, 4)
RAW = "a raw ASGI callable"
PACKAGES = ["fastapi", "flask", "h11", "httpcore", "httptools", "httpx", "pydantic", "requests", "starlette"]
PACKAGES += ["uvicorn", "uvloop"]
LIMIT = 60  # seconds that anything may take to start or to end


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests a second, milliseconds, and what went wrong."""

    requests: int
    rate: float
    p50: float
    p99: float
    errors: int
    timeouts: int


def load(port: int, clients: int, *, addresses: int = 0, seconds: float = SECONDS) -> Load:
    """Ask about as many addresses (0: one) from as many kept connections."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}", "--timeout", "10", "-s", str(HERE / "load.lua")]
    command += [f"http://127.0.0.1:{port}", "--", str(random.randrange(2**31)), str(addresses)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT + seconds).stdout
    seen = json.loads(output.splitlines()[-1])
    rate = seen["requests"] / seen["seconds"]
    return Load(seen["requests"], rate, seen["p50"], seen["p99"], seen["errors"], seen["timeouts"])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait(port: int, path: str) -> http.client.HTTPResponse:
    """The first answer of a server that starts."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            return connection.getresponse()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


@contextmanager
def python(*arguments: str | Path, **variables: str) -> Iterator[int]:
    """A Python program that is ended afterwards; its process id."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GEOIP_")} | variables
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def variables(port: int, upstream: int) -> dict[str, str]:
    """Settings of the service: everything by default, but for where it listens and whom it asks."""
    return {
        "PORT": str(port),
        "GEOIP_BIND": "127.0.0.1",
        "GEOIP_SOURCES": "ipwhois",
        "GEOIP_IPWHOIS_URL": f"http://127.0.0.1:{upstream}",
    }


@contextmanager
def container(image: str, settings: dict[str, str]) -> Iterator[str]:
    """The service as a container on the machine's own network; its name."""
    name = f"geoip-bench-{os.getpid()}-{settings['PORT']}"
    options = ["--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    options += [f"--env={key}={value}" for key, value in settings.items()]
    docker("run", "--detach", "--rm", f"--name={name}", *options, f"geoip:{image}")
    try:
        yield name
    finally:
        docker("stop", name)


def cpu_seconds(process: int) -> float:
    """Processor time that a process has used (proc_pid_stat(5): utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def docker(*arguments: str) -> str:
    """Output of a docker command."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=True, timeout=LIMIT
    ).stdout.strip()


class Bench:
    """One run: what was measured, and the processes that answer, by port."""

    def __init__(self, stack: ExitStack) -> None:
        self.figures: dict[str, dict[str, object]] = {}
        self._stack = stack
        self._processes: dict[int, int] = {}

    def upstream(self, seconds: float) -> int:
        """Start an upstream that answers after this time."""
        return self.program("upstream.py", str(seconds))

    def service(self, upstream: int) -> int:
        """Start the service."""
        port = free_port()
        settings = variables(port, upstream)
        if IMAGE:
            name = self._stack.enter_context(container(IMAGE, settings))
            self._processes[port] = int(docker("inspect", "--format={{.State.Pid}}", name))
        else:
            self._processes[port] = self._stack.enter_context(python("-m", "app", **settings))
        wait(port, "/healthz")
        return port

    def program(self, name: str, *arguments: str) -> int:
        """Start one of the programs beside this one."""
        port = free_port()
        self._processes[port] = self._stack.enter_context(python(HERE / name, str(port), *arguments))
        wait(port, "/?ip=8.8.8.8")
        return port

    def note(self, row: str, name: str, values: list[float], **more: object) -> float:
        """Keep a median with its spread, and say it."""
        median = statistics.median(values)
        self.figures.setdefault(row, {})[name] = {
            "median": significant(median),
            "least": significant(min(values)),
            "most": significant(max(values)),
        } | {key: significant(value) if isinstance(value, float) else value for key, value in more.items()}
        print(f"  {row:8} {name:44} {median:10.5g}   {min(values):.5g} to {max(values):.5g}   {more or ''}", flush=True)
        return median

    def in_turns(self, row: str, ports: dict[str, int], addresses: int) -> dict[str, float]:
        """Requests a second of each, and the processor's microseconds for each, in turns."""
        seen: dict[str, list[Load]] = {name: [] for name in ports}
        used: dict[str, list[float]] = {name: [] for name in ports}
        for port in ports.values():
            load(port, 16, addresses=addresses, seconds=1)  # the first requests import, connect and read certificates
        for _ in range(ROUNDS):
            for name, port in ports.items():
                before = cpu_seconds(self._processes[port])
                seen[name].append(load(port, 16, addresses=addresses))
                used[name].append((cpu_seconds(self._processes[port]) - before) / seen[name][-1].requests * 1e6)
        return {
            name: self.note(
                row,
                f"{name}, requests/s",
                [load.rate for load in loads],
                cpu_us=statistics.median(used[name]),
                p99_ms=max(load.p99 for load in loads),
                errors=sum(load.errors for load in loads),
                timeouts=sum(load.timeouts for load in loads),
            )
            for name, loads in seen.items()
        }


def significant(value: float) -> float:
    """Four digits are more than such a measurement has."""
    return float(f"{value:.4g}")


def hits(bench: Bench, upstream: int) -> tuple[float, bool]:
    """A hit, against a raw ASGI callable that answers the same bytes."""
    service = bench.service(upstream)
    wait(service, "/?ip=8.8.8.8").read()
    answer = wait(service, "/?ip=8.8.8.8")
    left_to_the_server = {"date"}
    headers = {name: value for name, value in answer.getheaders() if name.lower() not in left_to_the_server}
    assert headers["cache-status"].startswith("geoip; hit"), headers  # noqa: S101 (nobody runs it with -O)
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump({"headers": headers, "body": answer.read().decode()}, file)
    try:
        ports = {"geoip": service} | {
            what: bench.program("peers.py", peer, file.name)
            for what, peer in {
                RAW: "raw",
                f"{RAW} on uvloop": "raw-uvloop",
                f"{RAW} on h11": "raw-h11",
                "bare Starlette": "starlette",
                "bare FastAPI": "fastapi",
            }.items()
        }
    finally:
        Path(file.name).unlink()
    rates = bench.in_turns("hit", ports, addresses=0)
    for clients in (1, 512) if QUICK else (1, 4, 16, 64, 256, 512):
        seen = load(service, clients, seconds=2)
        bench.note("clients", f"{clients} at once, hits/s", [seen.rate], p99_ms=seen.p99, errors=seen.errors)
    ratio = rates["geoip"] / rates[RAW]
    return ratio, ratio >= 0.7


def misses(bench: Bench, upstream: int) -> tuple[float, bool]:
    """A miss, against the article's way."""
    service = bench.service(upstream)
    article = bench.program("article.py", f"http://127.0.0.1:{upstream}")
    ports = {"the upstream alone": upstream, "geoip": service, "the article's way": article}
    rates = bench.in_turns("miss", ports, addresses=2**24)
    for addresses in (10, 10_000) if QUICK else (10, 1_000, 10_000, 100_000, 1_000_000):
        load(service, 16, addresses=addresses, seconds=1 if QUICK else 4)
        seen = load(service, 16, addresses=addresses, seconds=2)
        bench.note("spread", f"{addresses:,} addresses, requests/s", [seen.rate], p99_ms=seen.p99)
    ratio = rates["geoip"] / rates["the article's way"]
    return ratio, ratio >= 3


def slow_misses(bench: Bench, upstream: int) -> tuple[float, bool]:
    """Misses of many clients, upstream at 50 ms: the worst p99 in seconds."""
    service = bench.service(upstream)
    seen = [load(service, 128, addresses=2**24, seconds=2 if QUICK else 8) for _ in range(1 if QUICK else 3)]
    wrong = sum(each.errors + each.timeouts for each in seen)
    bench.note("misses", "128 clients, upstream at 50 ms, requests/s", [each.rate for each in seen], errors=wrong)
    bench.note("misses", "128 clients, upstream at 50 ms, p99 in ms", [each.p99 for each in seen])
    worst = max(each.p99 for each in seen) / 1000
    return worst, wrong == 0 and worst < 1.5


def start(bench: Bench, upstream: int) -> tuple[float, bool]:
    """From the start of a process to its first answer, against the imports that it cannot do without."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(5 if QUICK else 11):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import fastapi, uvicorn"], check=True, timeout=LIMIT)
        theirs.append((time.perf_counter() - started) * 1000)
        port = free_port()
        started = time.perf_counter()
        with python("-m", "app", **variables(port, upstream)):
            wait(port, "/healthz")
            ours.append((time.perf_counter() - started) * 1000)
    ratio = bench.note("start", "geoip, to the first answer, ms", ours) / bench.note(
        "start", "import fastapi, uvicorn, ms", theirs
    )
    return ratio, ratio <= 1.1


def memory(bench: Bench, upstream: int) -> tuple[float, float]:
    """MB of the image, right after its start and after 10,000 addresses."""
    port = free_port()
    with container(PACKED, variables(port, upstream)):
        wait(
            port, "/healthz"
        )  # who reads a file first has its pages on his bill: the system's cache is not the question

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        for last in range(100):
            connection.request("GET", f"/?ip=20.1.{number}.{last}")
            answer = connection.getresponse()
            assert (answer.status, answer.read()[:1]) == (200, b"{")  # noqa: S101 (nobody runs it with -O)
        connection.close()

    with container(PACKED, variables(port, upstream)) as name:
        wait(port, "/healthz")
        before = megabytes(name)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(100)))
        after = megabytes(name)
    bench.note("memory", f"geoip:{PACKED} after its start, MB", [before])
    bench.note("memory", f"geoip:{PACKED} after 10,000 addresses, MB", [after])
    return before, after


def megabytes(name: str) -> float:
    """What docker stats shows; the least of three looks, since a health check is a second process for a moment."""
    looks = []
    for _ in range(3):
        used = docker("stats", "--no-stream", "--format={{.MemUsage}}", name).split(" / ")[0]
        if not used.endswith("MiB"):
            raise SystemExit(f"docker stats says {used}")
        looks.append(float(used.removesuffix("MiB")) * 1.048576)
    return min(looks)


def cpu() -> str:
    """The processor's name."""
    names = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def wrk_version() -> str:
    """Its version, after its name in the first line; it ends with 1."""
    return subprocess.run(["wrk", "--version"], capture_output=True, text=True, timeout=LIMIT).stdout.split()[1]


def written(page: str, report: dict[str, Any]) -> str:
    """The page with the tables of this run between its two markers."""
    machine, figures = report["machine"], report["figures"]
    lines = [
        f"Measured on {report['date']} with {report['server']} on {machine['cores']} cores ({machine['cpu']}), at a"
        f" load of {machine['load']}; medians of {report['rounds']} turns of {report['seconds']} s.",
        "",
        "| goal | measured | |",
        "| --- | ---: | --- |",
        *(
            f"| {v['what']} | {v['value']:.3g} | {'met' if v['met'] else 'missed'} |"
            for v in report["verdicts"].values()
        ),
        "",
        "| 16 clients | requests/s | least to most | CPU µs | worst p99, ms |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in ("hit", "miss"):
        for name, seen in sorted(figures[row].items(), key=lambda item: -item[1]["median"]):
            spread = f"{seen['least']:.0f} to {seen['most']:.0f}"
            name = name.removesuffix(", requests/s").replace("geoip", "**geoip**")
            lines.append(
                f"| {row}: {name} | {seen['median']:.0f} | {spread} | {seen['cpu_us']:.0f} | {seen['p99_ms']:.1f} |"
            )
    for row, what, rate in (("clients", "clients, one address", "hits/s"), ("spread", "16 clients", "requests/s")):
        lines += ["", f"| {what} | {rate} | p99, ms |", "| --- | ---: | ---: |"]
        for name, seen in figures[row].items():
            lines.append(f"| {name.rpartition(', ')[0]} | {seen['median']:.0f} | {seen['p99_ms']:.1f} |")
    tables = "\n".join(lines)
    before, begin, rest = page.partition("<!-- benchmark -->\n")
    _, end, after = rest.partition("<!-- /benchmark -->")
    return f"{before}{begin}\n{tables}\n\n{end}{after}"


def main() -> int:
    """Measure everything; 1 if something is not what it should be."""
    if not shutil.which("wrk"):
        print("wrk is missing: apt-get install wrk", file=sys.stderr)
        return 2
    has_image = bool(shutil.which("docker")) and bool(docker("images", "--quiet", f"geoip:{PACKED}"))
    if IMAGE and not has_image:
        print(f"there is no image geoip:{IMAGE}: make image-{IMAGE}", file=sys.stderr)
        return 2
    rows: dict[str, tuple[str, float, bool]] = {}
    with ExitStack() as stack:
        bench = Bench(stack)
        fast, slow = bench.upstream(0), bench.upstream(0.05)
        rows["hit"] = ("a hit, of a raw ASGI callable's rate (0.7)", *hits(bench, fast))
        rows["miss"] = ("a miss, of the article's way's rate (3)", *misses(bench, fast))
        rows["misses"] = ("128 clients, upstream at 50 ms: p99 in s, no error (1.5)", *slow_misses(bench, slow))
        rows["start"] = ("start, of the imports' time (1.1)", *start(bench, fast))
        if has_image:
            idle, used = memory(bench, fast)
            rows["idle"] = (f"memory of geoip:{PACKED} after its start, in MB (40)", idle, idle <= 40)
            rows["memory"] = (f"memory of geoip:{PACKED} after 10,000 addresses, in MB (55)", used, used <= 55)
    print()
    for what, value, met in rows.values():
        print(f"{'met   ' if met else 'MISSED'}  {value:8.3g}  {what}")
    if not has_image:
        print(f"not measured: memory, since there is no geoip:{PACKED} (make image-{PACKED})")
    busy = os.getloadavg()[1]
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform(), "load": round(busy, 1)},
        "server": f"geoip:{IMAGE}" if IMAGE else f"Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES} | {"wrk": wrk_version()},
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "verdicts": {row: {"what": w, "value": significant(v), "met": met} for row, (w, v, met) in rows.items()},
        "figures": bench.figures,
    }
    path = HERE.parent / ("build" if QUICK or IMAGE else "docs") / "benchmark.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    if not (QUICK or IMAGE):
        page = HERE.parent / "docs" / "performance.md"
        page.write_text(written(page.read_text(), report))
    print(
        f"all of it is in {path.relative_to(HERE.parent)}; the machine's load was {busy:.1f} on {os.cpu_count()} cores"
    )
    return 0 if all(met for _, _, met in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
