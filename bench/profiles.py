"""Where the time goes: a sample of the running service by py-spy, and the imports of a start by Python itself."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.load import load
from bench.servers import ENVIRONMENT, LIMIT, ROOT, Server

SECONDS = 5
ROWS = 10


def sampled_profile(server: Server, addresses: int) -> dict[str, dict[str, float]]:
    """Return the percentage of the samples that each package had under load; empty if the system forbids py-spy."""
    spy = Path(sys.executable).with_name("py-spy")
    with tempfile.NamedTemporaryFile() as file, ThreadPoolExecutor(1) as pool:
        command = [str(spy), "record", "-p", str(server.processes[0]), "-d", str(SECONDS), "-r", "200", "-f", "raw"]
        loading = pool.submit(load, server, addresses=addresses, seconds=SECONDS + 2)
        done = subprocess.run([*command, "-o", file.name], capture_output=True, text=True, timeout=LIMIT)
        loading.result()
        if done.returncode:
            print(f"there is no profile: {done.stderr.strip()[-200:]}", file=sys.stderr)
            return {}
        samples: Counter[str] = Counter()
        for line in Path(file.name).read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            samples[_owner(stack.split(";")[-1])] += int(count)
    return {name: {"share": 100 * n / samples.total()} for name, n in samples.most_common(ROWS)}


def _owner(frame: str) -> str:
    """Return the package of a frame, `function (path:line)`."""
    path = re.sub(r".*site-packages/", "", frame.rpartition(" (")[2])
    if re.match(r"asyncio/selector_events|selectors", path):
        return "sockets (asyncio's transport, the kernel)"
    package = re.split(r"[/.]", path)[0]
    return package if "/" in path else f"the standard library ({package})"


def import_profile() -> dict[str, dict[str, float]]:
    """Return the milliseconds that the modules of each package take themselves, of `python -X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", "import app.server"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=LIMIT)
    times: Counter[str] = Counter()
    for line in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", done.stderr):
        times[line[1].split(".")[0]] += int(line[0])
    rows = [*times.most_common(ROWS), (f"all {len(times)} packages", times.total())]
    return {name: {"import_ms": used / 1000} for name, used in rows}
