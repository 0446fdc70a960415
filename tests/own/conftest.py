"""Fixtures of the tests of `make own`: packed projects, and an HTTPS server of a throwaway authority."""

import io
import json
import os
import ssl
import subprocess
import sys
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from PIL import Image

from tests.conftest import ROOT

HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host")
EVENTS = [{"name": "Fête de Zoë", "at": "2030-07-01T18:00:00Z"}, {"name": "Żółw", "at": "2030-01-01T18:00:00Z"}]


def docker(*arguments: object, timeout: float = 60) -> str:
    """The output of a docker command."""
    command = ["docker", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout.strip()


def own(project: Path, module: str, base: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run what `make own` runs."""
    command = [sys.executable, "-m", "scripts.own", str(project), module, base]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=500)


@cache
def with_sqlite(tag: str) -> bool:
    """Whether the Python of a base image has SQLite. A published one has; a stand-in may lack it."""
    return subprocess.run(["docker", "run", "--rm", tag, "python", "-c", "import sqlite3"], timeout=60).returncode == 0


EXAMPLES = {
    "flask-bookmarks": ("bookmarks", ""),
    "django-agenda": ("agenda", "whitenoise"),
    "pillow-worker": ("thumbnails", ""),
}


@cache
def packed(example: str, base: str) -> tuple[str, str]:
    """The tag of an example that `make own` has packed, and what it printed."""
    module, whole = EXAMPLES[example]
    variables = [f"APP=examples/{example}", f"MODULE={module}", f"BASE={base}", f"WHOLE={whole}"]
    if example == "flask-bookmarks" and base == "scratch" and not with_sqlite("python:3.13-alpine"):
        variables.append("BUILD_OPTIONS=--build-arg PYTHON=python:3.15-alpine")
    command = ["make", "own", *variables, "RUN=--env SECRET_KEY=not-secret"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    return f"{module}:{base}", result.stdout


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Start an image read-only and without capabilities, with a volume at /data; its container."""
    with ExitStack() as stack:

        def run(tag: str, *options: str, **settings: object) -> str:
            name = f"own-test-{uuid.uuid4().hex}"
            variables = [f"--env={key}={value}" for key, value in settings.items()]
            stack.callback(
                subprocess.run, ["docker", "rm", "--force", "--volumes", name], capture_output=True, timeout=30
            )
            docker("run", "--detach", "--name", name, *HARDENED, *variables, *(options or ["--volume=/data"]), tag)
            return name

        yield run


def contents(tag: str) -> list[tarfile.TarInfo]:
    """The files of an image."""
    container = docker("create", tag)
    export = subprocess.run(["docker", "export", container], stdout=subprocess.PIPE, timeout=60).stdout
    docker("rm", container)
    with tarfile.open(fileobj=io.BytesIO(export)) as archive:
        return archive.getmembers()


def log(container: str) -> str:
    command = ["docker", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30).stdout


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        picture = io.BytesIO()
        Image.linear_gradient("L").resize((640, 480)).save(picture, "png")
        bodies = {
            "/page": "<!doctype html><title>Zoë &amp; Żółw</title>".encode(),
            "/feed": json.dumps(EVENTS).encode(),
            "/picture.png": picture.getvalue(),
        }
        self.send_response(200)
        self.send_header("Content-Length", str(len(bodies[self.path])))
        self.end_headers()
        self.wfile.write(bodies[self.path])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of an HTTPS server on loopback, and the folder with the certificate of its authority, ca.pem."""
    folder = tmp_path_factory.mktemp("authority")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def trusting(folder: Path) -> str:
    """The option of docker run by which a container trusts the authority in `folder`."""
    return f"--mount=type=bind,readonly,source={folder},target=/authority"
