"""Fixtures of the tests of publishing: a real registry on loopback, a throwaway key, and a checkout of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, free_port

PYTHON = "3.15"
"""The version whose base image exists for both architectures everywhere."""
CONFIGURATION = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", secret: a-secret}}
"""


@dataclass
class Registry:
    """Debian's docker-registry, as a process."""

    storage: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def repository(self) -> str:
        return f"127.0.0.1:{self.port}/geoip"

    @property
    def tags(self) -> dict[str, str]:
        """The tags and their digests, read from the registry's files, since the registry may have ended."""
        folder = self.storage / "docker/registry/v2/repositories/geoip/_manifests/tags"
        files = folder.glob("[a-z]*/current/link")
        return {f.parent.parent.name: f.read_text() for f in files if not f.parent.parent.name.startswith("sha256-")}

    @property
    def attached(self) -> set[str]:
        """The manifests of signatures and attestations."""
        folder = self.storage / "docker/registry/v2/repositories/geoip/_manifests/tags"
        return {f"{file.parent.parent.name} {file.read_text()}" for file in folder.glob("sha256-*/current/link")}

    def blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"

    def manifest(self, digest: str) -> dict[str, list[dict[str, str]]]:
        content: dict[str, list[dict[str, str]]] = json.loads(self.blob(digest).read_bytes())
        return content

    def put(self, tag: str, index: dict[str, list[dict[str, str]]]) -> None:
        """Let the tag name another index."""
        address = f"http://127.0.0.1:{self.port}/v2/geoip/manifests/{tag}"
        headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        httpx.put(address, json=index, headers=headers, trust_env=False, timeout=30).raise_for_status()


@contextmanager
def serving(folder: Path, *, more: str = "", mount: str = "") -> Iterator[Registry]:
    """A registry that keeps its content in the folder; `mount` is a command that mounts a file system there first."""
    port = free_port()
    storage = folder / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    file = folder / "registry.yml"
    file.write_text(CONFIGURATION.format(storage=storage, port=port) + more)
    command = ["docker-registry", "serve", str(file)]
    if mount:
        command = ["unshare", "--mount", "sh", "-c", f'{mount} "{storage}" && exec {" ".join(command)}']
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(100):
            try:
                httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield Registry(storage, port, process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)


@dataclass
class Result:
    status: int
    output: str
    errors: list[str]
    """The lines of an output, without those of make itself."""


@dataclass
class Checkout:
    """A clean checkout at a commit of its own, with a key to sign with."""

    folder: Path
    keys: Path

    def start(self, *arguments: str, **settings: str | None) -> subprocess.Popen[str]:
        """Start make in a process group of its own; a setting of None is left out of the environment."""
        path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"
        outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "TLOG", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"}
        given = {key: value for key, value in os.environ.items() if key not in outer}
        given |= {"PATH": path, "COSIGN_PASSWORD": "", "LANG": "C.UTF-8"}
        # No test may write to the public log.
        given |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"}
        given |= {"COSIGN_KEY": str(self.keys / "cosign.key"), "COSIGN_PUBLIC_KEY": str(self.keys / "cosign.pub")}
        environment = {key: value for key, value in (given | settings).items() if value is not None}
        return subprocess.Popen(
            ["make", "--no-print-directory", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments: str, **settings: str | None) -> Result:
        """Run make to its end."""
        process = self.start(*arguments, **settings)
        try:
            output, errors = process.communicate(timeout=1500)
        finally:
            process.kill()
        lines = errors.splitlines()
        statuses = [match[1] for line in lines if (match := re.match(r"make: \*\*\* .* Error (\d+)", line))]
        said = [line for line in lines if not line.startswith("make: ")]
        return Result(int(statuses[0]) if statuses else process.returncode, output, said)

    def publish(self, repository: str, *arguments: str, **settings: str | None) -> Result:
        """Publish alpine, for amd64 unless the arguments say otherwise."""
        given = (f"REGISTRY={repository}", f"PYTHON={PYTHON}", "IMAGES=alpine", "PLATFORMS=linux/amd64")
        return self.make("publish", *given, *arguments, **settings)

    def verify(self, image: str, **settings: str | None) -> Result:
        return self.make("verify", f"IMAGE={image}", **settings)


def key_pair(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    cosign = shutil.which("cosign", path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}")
    assert cosign, "cosign is missing: tests/publish/setup"
    environment = os.environ | {"COSIGN_PASSWORD": ""}
    subprocess.run([cosign, "generate-key-pair"], cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    folder = tmp_path_factory.mktemp("publish")
    copy = folder / "geoip"
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
    # Changes that are not committed yet are tested as well.
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for file in filter(None, files.split("\0")):
        (copy / file).unlink(missing_ok=True)
        if (ROOT / file).exists():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    subprocess.run([*git, "add", "--all"], cwd=copy, check=True)
    # Always the same date: what has not changed since the last run comes from Docker's cache.
    dated = os.environ | {"GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z", "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z"}
    command = [*git, "commit", "--quiet", "--allow-empty", "--message", "as it is"]
    subprocess.run(command, cwd=copy, check=True, env=dated)
    (copy / ".git/info/exclude").write_text(".venv\n")
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return Checkout(copy, key_pair(folder / "keys"))


@pytest.fixture(scope="session")
def platforms() -> tuple[str, ...]:
    """Both platforms, or the only one that this machine builds for."""
    builder = subprocess.run(["docker", "buildx", "inspect"], capture_output=True, text=True, check=True).stdout
    return tuple(name for name in ("linux/amd64", "linux/arm64") if re.search(rf"{name}\b", builder))


@dataclass
class Published:
    registry: Registry
    output: str
    digest: str

    @property
    def reference(self) -> str:
        return f"{self.registry.repository}@{self.digest}"


@pytest.fixture(scope="session")
def published(
    checkout: Checkout, platforms: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """alpine, published for all platforms."""
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        result = checkout.publish(registry.repository, f"PLATFORMS={','.join(platforms)}")
        assert result.status == 0, result.errors
        yield Published(registry, result.output, result.output.strip().rpartition("@")[2])


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Iterator[Registry]:
    """A registry of the same content, to spoil."""
    shutil.copytree(published.registry.storage, tmp_path / "storage")
    with serving(tmp_path) as registry:
        yield registry
