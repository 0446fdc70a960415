"""What is in every image, and what is not."""

import gzip
import hashlib
import io
import json
import marshal
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

import building
from engine import connect
from tests.conftest import ROOT
from tests.images.conftest import FROZEN, docker

HERE = Path(__file__).parent
BIN = str(Path(sys.executable).parent)
BUDGETS = tomllib.loads((HERE / "budgets.toml").read_text())
SECRET = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[\w+/=]{10}|GEOIP_\w*KEY=\w|\bgh[opsu]_\w{36}\b|\bAKIA[0-9A-Z]{16}\b"
)
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@dataclass(frozen=True)
class Entry:
    """A file, folder or link of a layer."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    time: float
    target: str
    digest: str


def archives(name: str) -> list[bytes]:
    """The layers of an image, the lowest first, as tar archives."""
    saved = subprocess.run(["docker", "save", name], capture_output=True, timeout=120, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member is not None
            return member.read()

        (manifest,) = json.loads(read("manifest.json"))
        return [read(name) for name in manifest["Layers"]]


def layers(image: str, repository: str = "geoip") -> list[dict[str, Entry]]:
    """What every layer holds, by path."""
    return [_entries(layer) for layer in archives(f"{repository}:{image}")]


def added(image: str) -> list[bytes]:
    """The layers on top of the image's base, as tar archives."""
    label = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    base = docker("image", "inspect", "--format", label, f"geoip:{image}")
    if base == "scratch":
        return archives(f"geoip:{image}")
    building.bases(connect(), [image], pull=True)  # a build may have kept it to itself
    return archives(f"geoip:{image}")[int(docker("image", "inspect", "--format", "{{len .RootFS.Layers}}", base)) :]


def _entries(layer: bytes) -> dict[str, Entry]:
    entries = {}
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            digest = hashlib.sha256(content.read()).hexdigest() if content else ""
            owner = (member.uid, member.gid)
            path = member.name.removeprefix("./")
            entries[path] = Entry(member.type, member.mode, owner, member.mtime, member.linkname, digest)
    return entries


def tree(image: str, repository: str = "geoip") -> dict[str, Entry]:
    """All layers together, by path: what a container sees."""
    return {path: entry for layer in layers(image, repository) for path, entry in layer.items()}


@cache
def files(image: str) -> dict[str, Entry]:
    """The files of an image, by path."""
    return {path: entry for path, entry in tree(image).items() if entry.kind == tarfile.REGTYPE}


@cache
def packages(image: str) -> frozenset[tuple[str, str, str]]:
    """Kind, name and version of each package that a scanner sees."""
    command = [f"{BIN}/syft", "scan", "--quiet", f"docker:geoip:{image}", "--output", "json"]
    report = json.loads(subprocess.run(command, capture_output=True, timeout=120, check=True).stdout)
    return frozenset((found["type"], found["name"].lower(), found["version"]) for found in report["artifacts"])


def test_is_as_its_structure_test_says(image: str) -> None:
    kinds = ("any", "frozen", image) if image in FROZEN else ("any", "python")
    configs = [f"--config={HERE / kind}.yaml" for kind in kinds]
    command = [f"{BIN}/container-structure-test", "test", "--no-color", f"--image=geoip:{image}", *configs]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_frozen_image_has_one_program_and_the_loader_of_libc(image: str) -> None:
    if image not in FROZEN:
        return
    programs = {path for path, member in files(image).items() if member.mode & 0o111}
    libc = r"(usr/)?lib(64)?/([\w-]+/)?(ld-[\w.-]+|lib\w+.*[.]so[.\d]*)"
    programs -= {"etc/update-motd.d/10-uname"}  # distroless: a script, without the shell to run it
    assert {path for path in programs if not re.fullmatch(libc, path)} == {"app/geoip"}
    assert not {path for path, member in files(image).items() if member.mode & 0o6000}


def test_nothing_is_there_twice_or_for_the_build_alone(image: str) -> None:
    written = [path for layer in layers(image) for path in layer if path.endswith(".pyc")]
    assert len(written) == len(set(written))
    caches = [path for path in files(image) if re.search(r"(^|/)([.]cache|var/lib/apt/lists|var/cache/apk)/.", path)]
    assert caches == []
    if not image.endswith("-single"):
        bundles = [path for path in files(image) if path.endswith("cacert.pem") and "/pip/" not in path]
        assert bundles == []


def test_holds_no_secret_and_no_file_of_a_checkout(image: str) -> None:
    names = {".env", ".git", ".netrc", ".pypirc", ".npmrc", "id_rsa", "id_ed25519", ".venv"}
    assert [path for path in files(image) if names.intersection(PurePosixPath(path).parts)] == []
    described = docker("image", "inspect", f"geoip:{image}") + docker("history", "--no-trunc", f"geoip:{image}")
    assert re.findall(r"GEOIP_\w*KEY|://[^/\s\"]*:[^/\s\"]*@|PRIVATE KEY|gh[pos]_\w{30}|AKIA\w{16}", described) == []
    assert [secret for layer in added(image) for secret in SECRET.findall(layer)] == []


def test_a_secret_in_a_file_is_recognised() -> None:
    key = b"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA0\n"
    for secret in (key, b"GEOIP_IPIFY_KEY=at_planted", b" ghp_" + b"a" * 36, b"=AKIA" + b"A" * 16):
        assert SECRET.search(b"\0" + secret + b"\n")


def test_stays_within_its_budget(image: str) -> None:
    if any(base.published is not False for base in building.bases(connect(), [image], pull=False)):
        pytest.skip("the budgets are of stand-ins for the base images, and these are not")
    unpacked = int(docker("image", "inspect", "--format", "{{.Size}}", f"geoip:{image}")) / 1e6
    command = f"docker save geoip:{image} | gzip -9 | wc -c"
    packed = int(subprocess.run(command, shell=True, capture_output=True, timeout=300, check=True).stdout) / 1e6
    budget = BUDGETS[image]
    assert unpacked <= budget["unpacked"], f"{unpacked:.2f} MB"
    assert packed <= budget["packed"], f"{packed:.2f} MB compressed"


def test_the_client_of_a_shared_cache_costs_little(image: str) -> None:
    parts = []
    for layer in archives(f"geoip:{image}"):
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            for member in archive:
                if re.search(r"/redis(-[\d.]+[.]dist-info)?/|^([.]/)?app/geoip$", member.name) and member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    parts.append(frozen_redis(content.read()) if member.name.endswith("/geoip") else content.read())
    assert 200_000 < len(gzip.compress(b"".join(parts), 9)) < 600_000


def frozen_redis(program: bytes) -> bytes:
    """The library's modules in PyInstaller's archive of modules (PyInstaller/archive/readers.py: ZlibArchiveReader)."""
    archive = program[program.index(b"PYZ\0") :]
    modules = marshal.loads(archive[int.from_bytes(archive[8:12]) :])
    return b"".join(
        archive[start : start + size] for name, (_, start, size) in modules if name.partition(".")[0] == "redis"
    )


def test_a_scanner_sees_the_locked_packages_and_no_others(image: str) -> None:
    lock = re.findall(r"^([a-z0-9-]+)==(\S+) (;?)", (ROOT / "requirements/app.txt").read_text(), re.MULTILINE)
    tools = {"pip", "setuptools", "wheel"}  # of the base images
    seen = {(name, version) for kind, name, version in packages(image) if kind == "python" and name not in tools}
    assert seen >= {(name, version) for name, version, marker in lock if not marker}
    assert seen <= {(name, version) for name, version, _ in lock}


def test_a_scanner_sees_python_openssl_and_libc(image: str) -> None:
    names = {name for _, name, _ in packages(image)}
    assert names & {"openssl", "libssl1.1", "libssl3", "libssl3t64"}
    assert names & {"libc6", "musl"}
    assert "python" in names


def test_two_builds_give_the_same_bytes(image: str) -> None:
    name, _, stage = image.partition("-")
    again = f"geoip-again:{image}"
    # Neither the cache nor what the first was told: files do not depend on commit and date.
    options = ["--quiet", "--no-cache", "--tag", again, *(["--target", stage] if stage else [])]
    docker("build", *options, "--file", ROOT / "docker" / f"{name}.Dockerfile", ROOT, timeout=600)
    try:
        first, second = tree(image), tree(image, "geoip-again")
        different = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
        assert different - {"etc", "etc/"} == set()  # where a build mounts its own resolv.conf and hosts
    finally:
        docker("image", "rm", again)


def test_a_build_is_given_nothing_but_what_an_image_is_made_of(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for path in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    ):
        if path and (ROOT / path).is_file():
            (checkout / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, checkout / path)
    secrets = (".env", "app/.env", "app/planted.key", "app/old/dump.sql", "app/__pycache__/old.pyc", "docker/.env")
    for secret in (*secrets, "data/city.mmdb", "key.pem"):
        (checkout / secret).parent.mkdir(exist_ok=True)
        (checkout / secret).write_text("GEOIP_IPIFY_KEY=secret\n")
    (checkout / "docker/context.Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    context = tmp_path / "context"
    docker("build", "--quiet", "--file", checkout / "docker/context.Dockerfile", f"--output={context}", checkout)
    given = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    allowed = r"app/\w+[.](py|html|mmdb)|docker/(geoip[.]spec|\w+[.]py)|requirements/(app|freeze)[.]txt|LICENSE|NOTICE"
    assert {path for path in given if not re.fullmatch(allowed, path)} == set()
    assert {"app/__main__.py", "app/page.html", "app/sample.mmdb"} <= given


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_passes_its_linters(dockerfile: Path) -> None:
    for command in (
        [f"{BIN}/hadolint", str(dockerfile)],
        ["docker", "buildx", "build", "--check", "--file", str(dockerfile), str(ROOT)],
    ):
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "warning" not in (result.stdout + result.stderr).replace("no warnings", "").lower()
