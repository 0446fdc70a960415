"""Every image has the files that it needs, and lacks the others."""

import json
import re
import shutil
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

import archive
import building
from tests.conftest import ROOT
from tests.images.conftest import IMAGES, config, docker

BIN = str(Path(sys.executable).parent)
SECRET = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[\w+/=]{10}|GEOIP_\w*KEY=\w|\bgh[opsu]_\w{36}\b|\bAKIA[0-9A-Z]{16}\b"
)
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> "Saved":
    return Saved(tmp_path_factory.mktemp("images"))


class Saved:
    """The archive that `docker save` writes of an image, once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, image: str) -> Path:
        path = self._folder / f"{image}.tar"
        if not path.exists():
            docker("save", "--output", path, f"geoip:{image}", timeout=300)
        return path

    def tree(self, image: str) -> dict[str, archive.File]:
        """The files that a container sees, by absolute path."""
        return archive.tree(archive.layers(self(image)))

    def files(self, image: str) -> dict[str, archive.File]:
        return {path: file for path, file in self.tree(image).items() if stat.S_ISREG(file.mode)}


@cache
def packages(image: str) -> frozenset[tuple[str, str, str]]:
    """Kind, name and version of each package that a scanner sees."""
    command = [f"{BIN}/syft", "scan", "--quiet", f"docker:geoip:{image}", "--output", "json"]
    report = json.loads(subprocess.run(command, capture_output=True, timeout=120, check=True).stdout)
    return frozenset((found["type"], found["name"].lower(), found["version"]) for found in report["artifacts"])


def test_says_how_it_is_run(image: str) -> None:
    found = config(f"geoip:{image}")
    program = ["/app/geoip"] if IMAGES[image]["frozen"] else ["python", "-m", "app"]
    assert (found["Entrypoint"], found.get("Cmd")) == (program, None)
    assert found["Healthcheck"]["Test"] == ["CMD", *program, "healthcheck"]
    assert (found["User"], list(found["ExposedPorts"])) == ("65532:65532", ["8080/tcp"])
    assert "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in found["Env"]


def test_says_what_it_is(image: str) -> None:
    labels = config(f"geoip:{image}")["Labels"]
    found = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert (found["title"], found["licenses"]) == ("geoip", "MIT")
    assert re.fullmatch(r"\d+[.]\d+[.]\d+", found["version"])
    assert re.fullmatch(r"[0-9a-f]{40}", found.get("revision", "0" * 40))


def test_brings_its_data_its_licence_and_a_user_with_a_name(image: str, saved: Saved) -> None:
    files = saved.files(image)
    app, root = ("/app/_internal/app", "/app/_internal") if IMAGES[image]["frozen"] else ("/srv/app", "/srv")
    for path in (f"{app}/page.html", f"{app}/sample.mmdb"):
        assert (files[path].mode & 0o777, files[path].uid, files[path].gid) == (0o644, 0, 0)
    assert {f"{root}/LICENSE", f"{root}/NOTICE", "/etc/passwd", "/etc/ssl/certs/ca-certificates.crt"} <= files.keys()


def test_has_a_shell_only_if_its_base_has_one(image: str, saved: Saved) -> None:
    names = {path.rpartition("/")[2] for path, file in saved.tree(image).items() if not stat.S_ISDIR(file.mode)}
    managers = {"apt", "apt-get", "dpkg", "apk"}
    assert bool(names & {"sh", "bash", "dash", "ash", "busybox"}) == IMAGES[image]["shell"]
    assert bool(names & managers) == IMAGES[image]["shell"]


def test_a_frozen_image_has_one_program_and_the_loader_of_libc(frozen_image: str, saved: Saved) -> None:
    files = saved.files(frozen_image)
    programs = {path for path, file in files.items() if file.mode & 0o111}
    libc = r"/(usr/)?lib(64)?/([\w-]+/)?(ld-[\w.-]+|lib\w+.*[.]so[.\d]*)"
    programs -= {"/etc/update-motd.d/10-uname"}  # distroless: a script, without the shell to run it
    assert {path for path in programs if not re.fullmatch(libc, path)} == {"/app/geoip"}
    assert not {path for path, file in files.items() if file.mode & 0o6000}


def test_no_pip_cache_and_no_list_of_packages_stays(image: str, saved: Saved) -> None:
    caches = r"/(.*/)?([.]cache|var/lib/apt/lists|var/cache/apk)/."
    assert [path for path in saved.files(image) if re.match(caches, path)] == []


def test_two_stages_leave_the_compiler_behind(image: str, saved: Saved) -> None:
    names = {path.rpartition("/")[2] for path in saved.files(image)}
    assert bool({"gcc", "cc", "ld", "as"} & names) <= image.endswith("-single")


def test_a_frozen_image_trusts_one_bundle_of_certificates(frozen_image: str, saved: Saved) -> None:
    files = saved.tree(frozen_image)
    assert files["/app/_internal/certifi/cacert.pem"].link == "/etc/ssl/certs/ca-certificates.crt"


def test_holds_no_secret_and_no_file_of_a_checkout(image: str, saved: Saved) -> None:
    names = {".env", ".git", ".netrc", ".pypirc", ".npmrc", "id_rsa", "id_ed25519", ".venv"}
    assert [path for path in saved.files(image) if names.intersection(PurePosixPath(path).parts)] == []
    described = docker("image", "inspect", f"geoip:{image}") + docker("history", "--no-trunc", f"geoip:{image}")
    assert re.findall(r"GEOIP_\w*KEY|://[^/\s\"]*:[^/\s\"]*@|PRIVATE KEY|gh[pos]_\w{30}|AKIA\w{16}", described) == []
    ours = ("/srv/", "/app/", "/root/", "/home/", "/tmp/")  # the rest is the base's
    contents = archive.contents(saved(image))
    assert [file.path for _, file, content in contents if file.path.startswith(ours) and SECRET.search(content)] == []


def test_a_secret_in_a_file_is_recognised() -> None:
    key = b"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA0\n"
    for secret in (key, b"GEOIP_IPIFY_KEY=at_planted", b" ghp_" + b"a" * 36, b"=AKIA" + b"A" * 16):
        assert SECRET.search(b"\0" + secret + b"\n")


def test_stays_within_its_budget(image: str, saved: Saved) -> None:
    published = [base for base in building.bases(image) if not building.is_stand_in(base)]
    if published:
        pytest.skip(f"the budgets are of stand-ins, and these bases are not: {', '.join(published)}")
    layers = archive.layers(saved(image))
    unpacked = sum(file.size for layer in layers for file in layer.files) / 1e6
    compressed = sum(archive.compressed(saved(image), {}).values()) / 1e6
    assert unpacked <= IMAGES[image]["unpacked"], f"{unpacked:.2f} MB"
    assert compressed <= IMAGES[image]["compressed"], f"{compressed:.2f} MB compressed"


def test_a_scanner_sees_the_locked_packages_and_no_others(image: str) -> None:
    lock = re.findall(r"^([a-z0-9-]+)==(\S+) (;?)", (ROOT / "requirements/app.txt").read_text(), re.MULTILINE)
    tools = {"pip", "setuptools", "wheel"}  # of the base images
    seen = {(name, version) for kind, name, version in packages(image) if kind == "python" and name not in tools}
    assert seen >= {(name, version) for name, version, marker in lock if not marker}
    assert seen <= {(name, version) for name, version, _ in lock}


def test_a_scanner_sees_python_openssl_and_libc(image: str) -> None:
    names = {name for _, name, _ in packages(image)}
    assert names & {"openssl", "libssl1.1", "libssl3", "libssl3t64"}
    assert names & ({"musl"} if IMAGES[image]["libc"] == "musl" else {"libc6"})
    assert any(name.startswith("python") for name in names)


def test_a_build_is_given_nothing_but_what_an_image_is_made_of(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "build", "data", "tests", ".env"))
    secrets = (".env", "app/.env", "app/planted.key", "app/old/dump.sql", "app/__pycache__/old.pyc", "docker/.env")
    for secret in (*secrets, "data/city.mmdb", "key.pem"):
        (checkout / secret).parent.mkdir(exist_ok=True)
        (checkout / secret).write_text("GEOIP_IPIFY_KEY=secret\n")
    (checkout / "docker/context.Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    context = tmp_path / "context"
    docker("build", "--quiet", "--file", checkout / "docker/context.Dockerfile", f"--output={context}", checkout)
    given = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    allowed = (
        r"app/(\w+/)*\w+[.](py|html|mmdb)|docker/(geoip[.]spec|freeze[.]py)|requirements/(app|freeze)[.]txt"
        r"|LICENSE|NOTICE"
    )
    assert {path for path in given if not re.fullmatch(allowed, path)} == set()
    assert {"app/__main__.py", "app/sources/__init__.py", "app/page.html", "app/sample.mmdb"} <= given


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_is_short(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    stages = len(re.findall(r"^FROM ", text, re.MULTILINE))
    assert len(text.splitlines()) <= (30 if stages == 1 else 45)


def test_the_spec_is_short() -> None:
    assert len((ROOT / "docker/geoip.spec").read_text().splitlines()) <= 70


def test_every_dockerfile_has_a_row() -> None:
    assert {path.stem for path in DOCKERFILES} == set(IMAGES)
