"""Measure the service beside its peers: `make bench` (QUICK=1: rough; ECHOIP=path of the program: beside echoip)."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import chart, measures
from bench.load import QUICK, ROUNDS, SECONDS, Figures
from bench.report import goals, written
from bench.servers import LIMIT, ROOT, peer

PACKAGES = [
    "aiohttp",
    "fastapi",
    "flask",
    "httptools",
    "pydantic",
    "requests",
    "starlette",
    "uvicorn",
]


def main() -> int:
    """Measure everything; return 1 if a goal is missed, 2 without Linux, wrk or the program that ECHOIP names."""
    if sys.platform != "linux":
        print("the benchmark reads the CPU time of processes from /proc: run it on Linux", file=sys.stderr)
        return 2
    if not shutil.which("wrk"):
        print("wrk is missing: install it (Debian, Ubuntu: apt-get install wrk)", file=sys.stderr)
        return 2
    named = os.environ.get("ECHOIP")
    if named and not shutil.which(named):
        print(f"ECHOIP={named} is not a program: give the path of the one that you built", file=sys.stderr)
        return 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))  # wrk opens 1,000 connections
    figures = measure()
    folder = ROOT / ("build" if QUICK else "docs")
    folder.mkdir(exist_ok=True)
    report: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
    }
    report |= {"server": f"Python {platform.python_version()}", "rounds": ROUNDS, "seconds": SECONDS}
    (folder / "benchmark.json").write_text(json.dumps(report | {"figures": figures}, indent=2) + "\n")
    (folder / "performance.svg").write_text(chart.svg(figures))
    page = ROOT / "docs/performance.md"
    (folder / page.name).write_text(written(page.read_text(), report | {"figures": figures}))
    for what, value, limit, is_met in goals(figures):
        print(f"{'not measured' if value is None else f'{value:12.4g}'}  {limit:8} {'' if is_met else 'MISSED '}{what}")
    print(f"all figures are in {folder.name}/benchmark.json, the tables in {folder.name}/performance.md")
    return 0 if all(is_met or value is None for _, value, _, is_met in goals(figures)) else 1


def measure() -> Figures:
    """Return the figures, each with four digits: more than such a measurement has."""
    figures: Figures = {}
    # First: a program that is not ours may not start, and is not to cost the other measurements.
    if binary := shutil.which(os.environ.get("ECHOIP") or "echoip"):
        figures |= measures.echoip(binary)
    with ExitStack() as stack:
        fast, slow = (stack.enter_context(peer("upstream.py", seconds)) for seconds in (0, 0.05))
        figures |= measures.hits(fast.port) | measures.misses(fast, slow) | measures.starts(fast.port)
        figures |= measures.images(fast.port) | measures.growth(fast.port)
    return {
        group: {name: {key: float(f"{value:.4g}") for key, value in row.items()} for name, row in rows.items()}
        for group, rows in figures.items()
    }


def machine() -> dict[str, object]:
    """Return what the machine is, and how busy it was."""
    names = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    load = round(os.getloadavg()[1], 1)
    return {
        "cpu": [*names, platform.machine()][0],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load": load,
    }


def versions() -> dict[str, str]:
    """Return the versions of what is measured and of what measures."""
    wrk = subprocess.run(["wrk", "--version"], capture_output=True, text=True, timeout=LIMIT).stdout.split()[1]
    return {name: version(name) for name in PACKAGES} | {"wrk": wrk}


if __name__ == "__main__":
    sys.exit(main())
