"""Servers that are measured: Python programs, containers, and replicas behind nginx. All listen on 127.0.0.1."""

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

HERE = Path(__file__).parent
ROOT = HERE.parent
LIMIT = 60
"""Seconds that anything may take to start or to end."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("GEOIP_", "PYTHON"))}
"""The environment of what is measured: default settings, and a Python that keeps the bytecode that it compiles."""

_NGINX = """
daemon off; pid {folder}/pid; error_log stderr error; worker_processes auto; worker_rlimit_nofile 4096;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream replicas {{ {servers} keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Server:
    """A port, the processes whose CPU time counts, and the milliseconds from their start to the first answer."""

    port: int
    processes: Sequence[int]
    start: float
    container: str = ""
    """Its name, if they run in one."""

    def cpu_seconds(self) -> float:
        """Return the CPU time that the processes have used (proc_pid_stat(5): utime and stime)."""
        fields = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in self.processes]
        return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def first_answer(port: int, path: str, process: subprocess.Popen[bytes] | None = None) -> tuple[dict[str, str], bytes]:
    """Ask until the server answers; return headers and body. OSError if it does not, or if its process ends before."""
    deadline = time.monotonic() + LIMIT
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return dict(answer.getheaders()), answer.read()
        except OSError:
            if time.monotonic() > deadline or (process and process.poll() is not None):
                raise
            time.sleep(0.002)
        finally:
            connection.close()


def settings(port: int, upstream: int | None, **more: str) -> dict[str, str]:
    """Return the service's settings: the defaults, except where it listens and which source it asks."""
    source = {"GEOIP_SOURCES": "ipwhois", "GEOIP_IPWHOIS_URL": f"http://127.0.0.1:{upstream}"} if upstream else {}
    return {"PORT": str(port), "GEOIP_BIND": "127.0.0.1"} | source | more


@contextmanager
def program(
    command: Sequence[str | Path], port: int, path: str = "/?ip=8.8.8.8", variables: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run a program that listens on a port. RuntimeError, with the last line of its messages, if it does not answer."""
    with TemporaryFile() as messages:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=ENVIRONMENT | (variables or {}),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
        try:
            try:
                first_answer(port, path, process)
            except OSError as error:
                messages.seek(0)
                last = [b"nothing", *messages.read().splitlines()][-1].decode(errors="replace")
                raise RuntimeError(f"{command[0]} does not answer on port {port}. Its last message: {last}") from error
            yield Server(port, [process.pid], (time.perf_counter() - started) * 1000)
        finally:
            process.terminate()
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def peer(name: str, *arguments: object) -> Iterator[Server]:
    """Run one of the programs in this folder; its first argument is the port."""
    port = free_port()
    with program([sys.executable, HERE / name, str(port), *map(str, arguments)], port) as server:
        yield server


@contextmanager
def service(upstream: int | None, **more: str) -> Iterator[Server]:
    """Run the service outside a container."""
    port = free_port()
    with program([sys.executable, "-m", "app"], port, "/healthz", settings(port, upstream, **more)) as server:
        yield server


@contextmanager
def same_files(binary: str) -> Iterator[dict[str, Server]]:
    """Run the service and echoip on the same MMDB files: those of GEOIP_MMDB_CITY and GEOIP_MMDB_ASN, or the sample."""
    port = free_port()
    with TemporaryDirectory() as folder:
        city, asn = (
            os.environ.get(f"GEOIP_MMDB_{kind.upper()}") or sample(Path(folder) / f"{kind}.mmdb", f"GeoLite2-{kind}")
            for kind in ("City", "ASN")
        )
        files = {"GEOIP_SOURCES": "mmdb", "GEOIP_MMDB_CITY": str(city), "GEOIP_MMDB_ASN": str(asn)}
        # Echoip takes the names of countries only from the file of -f. That can be a file of cities.
        command = [binary, "-l", f"127.0.0.1:{port}", "-f", city, "-c", city, "-a", asn]
        with program(command, port, "/json?ip=8.8.8.8") as other, service(None, **files) as ours:
            yield {"geoip": ours, "echoip": other}


def sample(path: Path, kind: str) -> Path:
    """Copy the app's sample to a file that names another type in its metadata; return the path.

    Echoip refuses types that it does not know. It looks for cities and autonomous systems in files of different types.
    """
    # A byte with the length precedes a string (https://maxmind.github.io/MaxMind-DB/).
    before, after = (bytes([0x40 + len(name)]) + name.encode() for name in ("DBIP-City-Lite-sample", kind))
    path.write_bytes((ROOT / "app/sample.mmdb").read_bytes().replace(before, after))
    return path


@contextmanager
def container(image: str, upstream: int) -> Iterator[Server]:
    """Run the service in a container on the machine's own network."""
    port = free_port()
    name = f"geoip-bench-{os.getpid()}-{port}"
    options = ["--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    # A health check is a second process for a moment, which is not to be measured.
    options += ["--no-healthcheck", f"--name={name}"]
    options += [f"--env={key}={value}" for key, value in settings(port, upstream).items()]
    docker("run", "--detach", "--rm", *options, image)
    try:
        first_answer(port, "/healthz")
        answered = time.time()
        process, started = docker("inspect", "--format={{.State.Pid}} {{.State.StartedAt}}", name).split()
        begun = datetime.fromisoformat(started[:26].rstrip("Z") + "+00:00").timestamp()
        yield Server(port, [int(process)], (answered - begun) * 1000, name)
    finally:
        docker("stop", name)


@contextmanager
def nginx(replicas: Sequence[Server]) -> Iterator[Server]:
    """Run nginx in front of replicas; the CPU time of the replicas alone counts."""
    port = free_port()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "nginx.conf"
        servers = " ".join(f"server 127.0.0.1:{replica.port};" for replica in replicas)
        path.write_text(_NGINX.format(folder=folder, port=port, servers=servers))
        with program(["nginx", "-e", "stderr", "-c", path], port, "/healthz"):
            yield Server(port, [process for replica in replicas for process in replica.processes], 0)


def docker(*arguments: str) -> str:
    """Return the output of a docker command."""
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT).stdout.strip()
