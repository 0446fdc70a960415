"""The comparison: its figures agree with what other tools say, and it says what it could not measure."""

import gzip
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import pytest

from archive import File, Layer, contents, merged
from building import IMAGES
from engine import uninterrupted
from scanning import SCANNERS, Package, ScanError, packages
from tests.images.conftest import FROZEN

ROOT = Path(__file__).parent.parent.parent
# What Docker lays into every container, if the image has none of its own.
OF_DOCKER = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"}


def output(*command: object, stdin: str | None = None) -> str:
    """What a command prints."""
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, input=stdin)
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr}"
    return result.stdout.strip()


def docker(*arguments: object, stdin: str | None = None) -> str:
    return output("docker", *arguments, stdin=stdin)


def compare(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "docker/compare", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def figures(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The figures of each image, by its name."""
    return {image["name"]: image for image in json.loads(result.stdout)["images"]}


@pytest.fixture(scope="module")
def built() -> list[str]:
    tags = docker("image", "ls", "--format", "{{.Tag}}", "geoip").split()
    return [name for name in IMAGES if name in tags]


@pytest.fixture(scope="module")
def measured(built: list[str]) -> dict[str, dict[str, Any]]:
    """All images that are built, measured but for the builds."""
    result = compare("--json", "--no-build", "--starts", 1, *built)
    assert result.returncode == 0, result.stderr
    return figures(result)


@pytest.fixture
def repository() -> Iterator[str]:
    """A name for images that are gone after the test."""
    name = f"geoip-test-{uuid.uuid4().hex[:8]}"
    yield name
    tags = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", name).split()
    if tags:
        docker("image", "rm", "--force", *tags)


@pytest.fixture
def rootfs(tmp_path: Path) -> Callable[[str], Path]:
    """Unpack what a container of an image sees."""

    def export(image: str) -> Path:
        root = tmp_path / "root"
        root.mkdir()
        container = docker("container", "create", image, "/nothing")
        try:
            with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as exported:
                subprocess.run(["tar", "-x", "-C", root], stdin=exported.stdout, check=True, timeout=300)
        finally:
            docker("container", "rm", container)
        docker("image", "save", "--output", tmp_path / "own.tar", image)
        own = set()
        with tarfile.open(tmp_path / "own.tar") as archive:
            for blob in json.load(member(archive, "manifest.json"))[0]["Layers"]:
                with tarfile.open(fileobj=member(archive, blob)) as layer:
                    own |= {name.removeprefix("./") for name in layer.getnames()}
        for path in OF_DOCKER - own:
            (root / path).unlink(missing_ok=True)
        return root

    return export


def find(root: Path, *tests: str) -> int:
    """How many files `find` finds."""
    return len(output("find", root, "-xdev", "-type", "f", *tests, "-printf", "x"))


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    assert file
    return file


def fake(folder: Path, name: str, script: str) -> None:
    """A program of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# Figures


@pytest.mark.parametrize("name", IMAGES)
def test_the_sizes_are_those_of_the_engine(measured: dict[str, dict[str, Any]], name: str) -> None:
    if name not in measured:
        pytest.skip(f"geoip:{name} is not built")
    image = json.loads(docker("image", "inspect", measured[name]["id"]))[0]
    # Where a symbolic link points to is counted in layers that were pulled, not in those that were built.
    assert measured[name]["unpacked"] - 25_000 <= image["Size"] <= measured[name]["unpacked"]
    assert measured[name]["layers"] == len(image["RootFS"]["Layers"])
    assert measured[name]["id"] == image["Id"]
    assert measured[name]["user"] == image["Config"]["User"]


@pytest.mark.parametrize("name", IMAGES)
def test_the_counts_are_those_of_find_in_a_container(
    measured: dict[str, dict[str, Any]], rootfs: Callable[[str], Path], name: str
) -> None:
    if name not in measured:
        pytest.skip(f"geoip:{name} is not built")
    root = rootfs(measured[name]["id"])
    library = ("-regextype", "posix-extended", "-regex", r".*\.so(\.[0-9.]+)?")
    row = measured[name]
    assert row["files"] == find(root)
    assert row["executables"] == find(root, "-perm", "/111") - find(root, "-perm", "/111", *library)
    assert row["setuid_files"] == find(root, "-perm", "/6000")
    assert row["shared_libraries"] == find(root, *library)


@pytest.mark.parametrize("name", IMAGES)
def test_the_unpacked_size_is_what_du_says_of_the_unpacked_layers(
    measured: dict[str, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    if name not in measured:
        pytest.skip(f"geoip:{name} is not built")
    docker("image", "save", "--output", tmp_path / "image.tar", measured[name]["id"])
    used = 0
    with tarfile.open(tmp_path / "image.tar") as archive:
        for number, blob in enumerate(json.load(member(archive, "manifest.json"))[0]["Layers"]):
            root = tmp_path / str(number)
            root.mkdir()
            with subprocess.Popen(["tar", "-x", "-C", root], stdin=subprocess.PIPE) as unpacking:
                assert unpacking.stdin
                shutil.copyfileobj(member(archive, blob), unpacking.stdin)
            assert unpacking.returncode == 0
            folders = output("find", root, "-type", "d", "-printf", r"%s\n").split()
            used += int(output("du", "-s", "--bytes", root).split()[0]) - sum(map(int, folders))
    assert measured[name]["unpacked"] == used


def test_the_compressed_size_is_that_of_its_layers_gzipped(measured: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    name = next(reversed(measured))
    path = tmp_path / "image.tar"
    docker("image", "save", "--output", path, measured[name]["id"])
    total = 0
    with tarfile.open(path) as archive:
        for blob in json.load(member(archive, "manifest.json"))[0]["Layers"]:
            total += len(gzip.compress(member(archive, blob).read(), 6))
    assert measured[name]["compressed"] == pytest.approx(total, rel=0.001)


def test_every_image_answers_as_nobody_and_the_frozen_ones_hold_no_programs(
    measured: dict[str, dict[str, Any]],
) -> None:
    for name, row in measured.items():
        assert 0 < row["start"] < 60
        assert 5e6 < row["memory"] < 256e6
        assert row["python_packages"] > 15
        assert row["vulnerabilities"] is None or row["vulnerabilities"]["counts"]
        assert (row["shells"] == []) is (row["package_managers"] == []) is (name in FROZEN)
        if name not in FROZEN:
            assert "sh" in row["shells"]
            assert {"apk" if "alpine" in name else "dpkg", "pip"} <= set(row["package_managers"])


def layer(*files: tuple[str, int] | tuple[str, int, int]) -> Layer:
    return Layer(0, tuple(File(path, mode, *(size or [1])) for path, mode, *size in files), "")


def test_what_a_later_layer_removes_or_replaces_is_pulled_but_not_seen() -> None:
    regular, folder = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
    layers = [
        layer(("/a", folder, 0), ("/a/1", regular), ("/a/2", regular), ("/b", folder, 0), ("/b/1", regular)),
        layer(
            ("/a/.wh.1", regular, 0),
            ("/b/.wh..wh..opq", regular, 0),
            ("/b/2", regular),
            ("/c", folder, 0),
            ("/c/1", regular),
        ),
        layer(("/c", stat.S_IFLNK | 0o777, 1), ("/.wh.a", regular, 0)),
    ]
    assert {file.path for file in merged(layers)} == {"/b", "/b/2", "/c"}
    assert contents(layers).files == 1
    assert contents(layers).unpacked == 6


def test_files_that_share_their_bytes_or_run_as_another_user_are_counted_as_find_does(
    repository: str, rootfs: Callable[[str], Path]
) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, mode, kind, target in (
            ("./bin/su", 0o4755, tarfile.REGTYPE, ""),
            ("bin/wall", 0o2755, tarfile.REGTYPE, ""),
            ("bin/su-too", 0o4755, tarfile.LNKTYPE, "./bin/su"),
            ("bin/link", 0o777, tarfile.SYMTYPE, "su"),
            ("lib/libx.so.1", 0o755, tarfile.REGTYPE, ""),
            ("lib/libx.so.1.txt", 0o644, tarfile.REGTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.mode, member.type, member.linkname = mode, kind, target
            member.size = 100 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    imported = subprocess.run(
        ["docker", "import", "-", f"{repository}:links"], input=archive.getvalue(), capture_output=True, timeout=60
    )
    assert imported.returncode == 0, imported.stderr
    row = figures(compare("--json", "--no-build", "--starts", 0, "--repository", repository, "links"))["links"]
    root = rootfs(f"{repository}:links")
    assert (row["files"], row["executables"], row["setuid_files"], row["shared_libraries"]) == (5, 3, 3, 1)
    assert find(root) == 5
    assert find(root, "-perm", "/6000") == 3
    assert row["unpacked"] == json.loads(docker("image", "inspect", f"{repository}:links"))[0]["Size"]


def test_reading_an_image_costs_no_memory_of_its_size(repository: str, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w") as tar, Path("/dev/zero").open("rb") as zeros:
        member = tarfile.TarInfo("large")
        member.size = 400 << 20
        tar.addfile(member, zeros)
    docker("image", "import", path, f"{repository}:large")
    path.unlink()
    script = f"""
import resource, archive, engine
client = engine.connect()
image = client.images.get("{repository}:large")
with archive.saved(image) as path:
    assert archive.contents(archive.read_layers(image, path, {{}})).unpacked == 400 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "docker/compare", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 160 << 10  # KiB


def test_a_second_pull_is_the_layers_that_a_changed_line_changes(repository: str, tmp_path: Path) -> None:
    recipe = tmp_path / "Dockerfile"
    recipe.write_text("FROM scratch\nCOPY app/sample.mmdb /\nCOPY --link app/__init__.py /\n")
    docker("build", "--tag", f"{repository}:scratch", "--file", recipe, ROOT)
    fake(tmp_path, "build", f'echo "$@" >{tmp_path}/arguments; exec docker build "$@" --file {recipe}')
    row = figures(
        compare("--json", "--starts", 0, "--repository", repository, "--build", tmp_path / "build", "scratch")
    )["scratch"]
    assert row["problems"] == []
    assert row["current"]
    assert 0 < row["cold_build"] < 60
    assert 0 < row["rebuild"] < 60
    assert 100 < row["second_pull"] < 1000 < row["compressed"]
    [tag, label] = re.findall(r"--(?:tag|label) (\S+)", (tmp_path / "arguments").read_text())
    for filtered in (f"reference={tag}", f"label={label}"):
        assert docker("image", "ls", "--all", "--quiet", "--filter", filtered) == ""


@pytest.mark.parametrize("name", FROZEN)
def test_a_scanner_sees_into_a_frozen_image(built: list[str], repository: str, tmp_path: Path, name: str) -> None:
    if name not in built:
        pytest.skip(f"geoip:{name} is not built")
    (tmp_path / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.2.3\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM geoip:{name}\nCOPY METADATA /app/_internal/planted-1.2.3.dist-info/METADATA\n"
    )
    docker("build", "--tag", f"{repository}:{name}", tmp_path)
    archive = tmp_path / "image.tar"
    docker("image", "save", "--output", archive, f"geoip:{name}")
    without, _ = packages(archive)
    docker("image", "save", "--output", archive, f"{repository}:{name}")
    found, _ = packages(archive)
    assert found - without == {Package("python", "planted", "1.2.3")}
    assert {package.kind for package in without} >= {"python", "deb" if name == "distroless" else "apk"}
    assert any(package.name == "fastapi" for package in without)


# Scanners

TRIVY = {
    "SchemaVersion": 2,
    "Results": [
        {"Target": "clean", "Class": "os-pkgs", "Packages": [{"Name": "musl", "Version": "1"}]},
        {
            "Target": "Python",
            "Vulnerabilities": [
                {"VulnerabilityID": "CVE-1", "PkgName": "a", "InstalledVersion": "1", "Severity": "CRITICAL"},
                {"VulnerabilityID": "CVE-1", "PkgName": "a", "InstalledVersion": "1", "Severity": "CRITICAL"},
                {"VulnerabilityID": "CVE-2", "PkgName": "a", "InstalledVersion": "1", "Severity": "UNKNOWN"},
            ],
        },
    ],
}
TRIVY_VERSION = {"Version": "0.74.0", "VulnerabilityDB": {"Version": 2, "UpdatedAt": "2026-09-04T01:11:59Z"}}
GRYPE = {
    "matches": [
        {"vulnerability": {"id": "CVE-3", "severity": "High"}, "artifact": {"name": "b", "version": "2"}},
        {"vulnerability": {"id": "CVE-4", "severity": "Negligible"}, "artifact": {"name": "b", "version": "2"}},
    ],
    "descriptor": {"name": "grype", "version": "0.100.0", "db": {"status": {"built": "2026-11-01T00:00:00Z"}}},
}
SNYK = {
    "vulnerabilities": [{"id": "SNYK-1", "packageName": "c", "version": "3", "severity": "medium"}],
    "dependencyCount": 0,
    "applications": [
        {
            "vulnerabilities": [{"id": "SNYK-2", "packageName": "d", "version": "4", "severity": "low"}],
            "dependencyCount": 25,
        }
    ],
}
SCOUT = {
    "scan": {"scanner": {"version": "1.18.0"}, "end_time": "2026-11-02T00:00:00"},
    "vulnerabilities": [
        {
            "id": "x",
            "severity": "Critical",
            "identifiers": [{"type": "cve", "value": "CVE-5"}],
            "location": {"dependency": {"package": {"name": "e"}, "version": "5"}},
        }
    ],
}


@pytest.fixture
def small(repository: str, tmp_path: Path) -> str:
    """The repository of an image, `small`, that holds one file."""
    with tarfile.open(tmp_path / "small.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    docker("image", "import", tmp_path / "small.tar", f"{repository}:small")
    return repository


@pytest.mark.parametrize(
    ("name", "answer", "status", "counts", "version", "database"),
    [
        ("trivy", TRIVY, 0, (1, 0, 0, 0, 1), "0.74.0", "2026-09-04T01:11:59Z"),
        ("grype", GRYPE, 0, (0, 1, 0, 0, 1), "0.100.0", "2026-11-01T00:00:00Z"),
        ("snyk", SNYK, 1, (0, 0, 1, 1, 0), "1.1300.0", None),
        ("docker scout", SCOUT, 0, (1, 0, 0, 0, 0), "1.18.0", "2026-11-02T00:00:00"),
    ],
)
def test_a_scanner_is_read_and_named_with_the_date_of_its_database(
    small: str,
    tmp_path: Path,
    name: str,
    answer: object,
    status: int,
    counts: tuple[int, ...],
    version: str,
    database: str | None,
) -> None:
    path = f"{tmp_path}:{os.environ['PATH']}"
    (tmp_path / "answer").write_text(json.dumps(answer))
    versions = f"case \"$*\" in 'version --format json') echo '{json.dumps(TRIVY_VERSION)}'; exit;; "
    versions += "--version) echo 1.1300.0; exit;; 'scout version') exit;; esac"
    # The archive that it is given is one.
    check = (
        'for word in "$@"; do case $word in */*) tar -tf "/${word#*/}" manifest.json >/dev/null || exit 9;; esac; done'
    )
    fake(tmp_path, name.split()[0], f"{versions}\n{check}\necho progress >&2; cat {tmp_path}/answer; exit {status}")
    arguments = ("--no-build", "--starts", 0, "--scanner", name, "--repository", small, "small")
    result = compare("--json", *arguments, PATH=path)
    assert result.returncode == 0, result.stdout + result.stderr
    expected = dict(zip(("critical", "high", "medium", "low", "other"), counts, strict=True))
    assert figures(result)["small"]["vulnerabilities"] == {"counts": expected, "failure": None}
    scanner = json.loads(result.stdout)["scanner"]
    assert (scanner["name"], scanner["version"]) == (name, version)
    assert scanner["database"] == database or name == "snyk"
    table = compare(*arguments, PATH=path).stdout
    assert f"{sum(counts)} ({counts[0]} critical, {counts[1]} high)" in table
    assert f"{name} {version}" in table
    listing = compare("--scan", "--scanner", name, "--repository", small, "small", PATH=path)
    assert listing.returncode == 0
    assert f"{counts[0]} critical, {counts[1]} high" in listing.stdout
    assert any(identifier in listing.stdout for identifier in ("CVE-1", "CVE-3", "SNYK-1", "CVE-5"))


TRIVY_EMPTY = {"SchemaVersion": 2, "Results": [{"Target": "clean", "Class": "os-pkgs"}]}
TRIVY_ODD = {"SchemaVersion": 2, "Results": [{"Packages": [1], "Vulnerabilities": [1]}]}
GRYPE_EMPTY = {"matches": [], "descriptor": {"version": "1"}}
SNYK_ERROR = json.dumps({"ok": False, "error": "not logged in", "path": "x"}, indent=2)
DEEP = "head -c 200000 /dev/zero | tr '\\0' '['"


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        (
            "trivy",
            "echo reading >&2; printf '\\033[31mFATAL: no database\\033[0m\\n\\n' >&2; exit 1",
            "FATAL: no database",
        ),
        ("trivy", "echo not logged in; exit 2", "not logged in"),
        ("trivy", """echo '{"message": "try later"}'; echo stopped >&2; exit 2""", "try later"),
        ("snyk", f"echo '{SNYK_ERROR}'; exit 2", "not logged in"),
        ("snyk", f"echo '{SNYK_ERROR}'; exit 1", "not logged in"),
        ("snyk", """echo '{"vulnerabilities": [], "ok": true}'""", "dependencyCount"),
        ("snyk", """echo '{"vulnerabilities": [], "dependencyCount": 0}'""", "snyk saw no package at all"),
        ("grype", f"echo '{json.dumps(GRYPE_EMPTY)}'", "grype names no database"),
        ("trivy", "exit 3", "exit status 3"),
        ("trivy", "echo '<html>'; echo 'try later'", "try later"),
        ("trivy", "echo '{}'", "SchemaVersion"),
        ("trivy", """echo '{"SchemaVersion": 2}'""", "trivy saw no package at all"),
        ("trivy", f"echo '{json.dumps(TRIVY_EMPTY)}'", "trivy saw no package at all"),
        ("trivy", f"echo '{json.dumps(TRIVY_ODD)}'", "unknown shape"),
        ("trivy", DEEP, r"\[\[\["),
        ("trivy", "echo null", "unknown shape"),
        ("trivy", "true", "it wrote nothing"),
    ],
)
def test_a_scanner_that_fails_or_answers_rubbish_is_no_zero(
    small: str, tmp_path: Path, name: str, script: str, reason: str
) -> None:
    fake(tmp_path, name, script)
    arguments = ("--no-build", "--starts", 0, "--scanner", name, "--repository", small, "small")
    result = compare(*arguments, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result.returncode == 1
    assert re.search(r"small .* scan failed", result.stdout)
    assert re.search(f"small: scan failed: .*{reason}", result.stdout.replace("\n", " "))
    assert "\033" not in result.stdout
    assert "Traceback" not in result.stderr


def test_a_syft_that_answers_rubbish_is_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for script in (DEEP, "echo '{}'", "true", "exit 1"):
        fake(tmp_path, "syft", script)
        with pytest.raises(ScanError, match=r"\S"):
            packages(tmp_path / "image.tar")


def test_without_a_scanner_nothing_is_called_free_of_vulnerabilities(small: str, tmp_path: Path) -> None:
    result = compare("--no-build", "--starts", 0, "--repository", small, "small", PATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert re.search(r"small .* not scanned", result.stdout)
    listing = compare("--scan", "--repository", small, "small", PATH=str(tmp_path))
    assert listing.returncode == 1
    assert listing.stderr == "compare: no scanner is there: install snyk, trivy, grype or docker scout\n"
    for more in ((), ("--scan",)):
        asked = compare("--scanner", "trivy", *more, "--repository", small, "small", PATH=str(tmp_path))
        assert (asked.returncode, asked.stdout) == (1, "")
        assert asked.stderr == "compare: no scanner is there: install trivy\n"


def test_every_scanner_refuses_another_ones_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for scanner, answer in zip(SCANNERS, (GRYPE["matches"], SCOUT, SNYK, TRIVY), strict=True):
        (tmp_path / "answer").write_text(json.dumps(answer))
        fake(tmp_path, scanner.name.split()[0], f"cat {tmp_path}/answer")
        with pytest.raises(ScanError):
            scanner.scan(tmp_path / "image.tar")


# What goes wrong


def test_an_image_that_is_not_built_has_a_row_that_says_so_and_the_rest_is_measured(small: str) -> None:
    arguments = ("--no-build", "--starts", 0, "--repository", small, "scratch", "small")
    result = compare(*arguments)
    assert result.returncode == 1
    assert len(re.findall("scratch +not built", result.stdout)) == 4
    assert "scratch: not built: make image-scratch" in result.stdout
    rows = figures(compare("--json", *arguments))
    assert rows["scratch"]["problems"] == ["not built: make image-scratch"]
    assert rows["scratch"]["files"] is None
    assert rows["small"]["files"] == 1


def test_an_image_that_does_not_run_says_why(small: str) -> None:
    docker("build", "--tag", f"{small}:broken", "-", stdin='FROM scratch\nWORKDIR /x\nENTRYPOINT ["/nothing"]\n')
    result = compare("--json", "--no-build", "--starts", 3, "--repository", small, "broken")
    assert result.returncode == 1
    [problem] = figures(result)["broken"]["problems"]
    assert re.search("does not run: .*nothing.*no such file", problem)
    assert figures(result)["broken"]["layers"] == 1


@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:9"])
@pytest.mark.parametrize("arguments", [("--no-build",), ("--scan", "scratch")])
def test_without_docker_there_is_one_clear_line(host: str, arguments: tuple[str, ...]) -> None:
    result = compare(*arguments, DOCKER_HOST=host)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"compare: Docker does not answer \([^)\n]+\): is it running\?\n", result.stderr)


def test_a_docker_context_that_there_is_not_is_named() -> None:
    result = compare("--no-build", DOCKER_HOST="", DOCKER_CONTEXT="nosuch")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "compare: the Docker context nosuch does not exist: docker context ls\n"


def test_fewer_starts_than_none_are_refused() -> None:
    result = compare("--starts", -1)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("compare: error: argument --starts: 0 or more\n")


def test_a_place_that_cannot_be_written_to_is_told_in_one_line(tmp_path: Path) -> None:
    early = compare("--docs", "/proc/nope")  # before anything is measured
    assert (early.returncode, early.stdout) == (1, "")
    assert re.fullmatch("compare: .*'/proc/nope'\n", early.stderr)
    for options in ("", "--json"):
        command = f"{sys.executable} docker/compare --read docs/comparison.json {options} >/dev/full"
        late = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (late.returncode, late.stderr) == (1, "compare: [Errno 28] No space left on device\n")


def test_an_image_that_is_older_than_the_code_is_told(small: str, tmp_path: Path) -> None:
    docker("image", "tag", f"{small}:small", f"{small}:scratch")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY app/__init__.py /\n")
    fake(tmp_path, "build", f'exec docker build "$@" --file {tmp_path}/Dockerfile')
    result = compare("--starts", 0, "--repository", small, "--build", tmp_path / "build", "scratch")
    assert result.returncode == 0
    assert "scratch: its Dockerfile or the code gives other files by now: make image-scratch" in result.stdout


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": 1}'])
def test_a_file_that_holds_no_comparison_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(text)
    result = compare("--read", path)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(f"compare: {path} cannot be read: .+\n", result.stderr)


def test_a_build_that_fails_says_its_last_line(small: str, tmp_path: Path) -> None:
    docker("image", "tag", f"{small}:small", f"{small}:scratch")
    fake(tmp_path, "build", "echo first >&2; echo 'ERROR: no such base' >&2; exit 1")
    result = compare("--json", "--starts", 0, "--repository", small, "--build", tmp_path / "build", "scratch")
    assert result.returncode == 1
    assert figures(result)["scratch"]["problems"] == ["build failed: ERROR: no such base"]


def interrupt(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.endswith("compare: interrupted\n")
    assert "Traceback" not in errors
    assert output == ""


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "docker/compare", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 0.0), (signal.SIGINT, 0.7), (signal.SIGTERM, 0.3)])
def test_an_interrupt_leaves_no_container_behind(built: list[str], repository: str, number: int, after: float) -> None:
    if not built:
        pytest.skip("no image is built")
    # An image of its own: its containers are those of this test.
    recipe = f"FROM geoip:{built[-1]}\nLABEL test={repository}\n"
    docker("build", "--tag", f"{repository}:waiting", "-", stdin=recipe)
    process = start("--no-build", "--starts", 50, "--repository", repository, "waiting")
    mine = ("container", "ls", "--all", "--quiet", "--filter", f"label=test={repository}")
    deadline = time.monotonic() + 60
    while not docker(*mine):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(after)
    interrupt(process, number)
    assert docker(*mine) == ""


def test_an_interrupt_ends_the_build_that_is_under_way(small: str, tmp_path: Path) -> None:
    docker("image", "tag", f"{small}:small", f"{small}:scratch")
    fake(tmp_path, "build", f"echo $$ >{tmp_path}/started; exec sleep 60")
    process = start("--starts", 0, "--repository", small, "--build", tmp_path / "build", "scratch")
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    interrupt(process, signal.SIGINT)
    assert not Path("/proc", (tmp_path / "started").read_text().strip()).exists()


def test_an_interrupt_ends_a_scanner_with_its_children(small: str, tmp_path: Path) -> None:
    fake(tmp_path, "trivy", f"sleep 60 & echo $! >{tmp_path}/child; wait")
    path = f"{tmp_path}:{os.environ['PATH']}"
    process = start("--no-build", "--scanner", "trivy", "--repository", small, "small", PATH=path)
    child = tmp_path / "child"
    deadline = time.monotonic() + 60
    while not (child.exists() and child.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    interrupt(process, signal.SIGTERM)
    while Path("/proc", child.read_text().strip()).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_what_must_be_done_whole(number: int) -> None:
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # As rich's does, a second thread would take a signal that the first has blocked.
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(10,))
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            done.set()
        assert done.is_set()
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGTERM, old)


# What is written


@pytest.fixture
def documents(small: str, tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    compare("--no-build", "--starts", 0, "--repository", small, "--docs", folder, "small", "scratch")
    return folder


def test_the_documents_say_on_what_they_were_measured(documents: Path) -> None:
    data = json.loads((documents / "comparison.json").read_text())
    [name] = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / "docker/scratch.Dockerfile").read_text(), re.MULTILINE)
    page = (documents / "comparison.md").read_text()
    assert {base["name"] for base in data["bases"]} == {name}
    base = json.loads(docker("image", "inspect", name))[0]
    assert data["bases"][0]["id"] == base["Id"]
    said = base["RepoDigests"][0] if base["RepoDigests"] else "local stand-in, not the published image"
    assert f"| `{name}` | `{base['Id'][:19]}` | {said} |" in page
    for said in (data["measured"], data["machine"]["kernel"], data["machine"]["docker"], "make images compare-docs"):
        assert said in page
    rows = [line for line in page.splitlines() if line.startswith(("| `small` |", "| `scratch` |"))]
    assert len(rows) == 8
    assert [line for line in rows if "not built" in line] == [line for line in rows if "scratch" in line]


def test_the_chart_is_text_for_light_and_dark(documents: Path) -> None:
    chart = ElementTree.fromstring((documents / "comparison.svg").read_text())
    texts = ["".join(text.itertext()) for text in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert {"small", "scratch", "Size in MB", "Packages", "Executables"} <= set(texts)
    style = "".join("".join(style.itertext()) for style in chart.iter("{http://www.w3.org/2000/svg}style"))
    assert "prefers-color-scheme:dark" in style
    colours = set(re.findall("(?:fill|stroke): (#[0-9a-f]{6})", (documents / "comparison.svg").read_text()))
    changed = set(re.findall(r'\*="(?:fill|stroke): (#[0-9a-f]{6})"', style))
    assert colours <= changed


def test_the_committed_page_and_chart_are_those_of_the_committed_figures(tmp_path: Path) -> None:
    compare("--read", "docs/comparison.json", "--docs", tmp_path)
    for name in ("comparison.json", "comparison.md", "comparison.svg"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text(), f"{name}: make compare-docs"
