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
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import archive
import building
import chart
import measures
import report
import scanning
from archive import File, Layer
from engine import ToolError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = Path(__file__).parent.parent.parent
# Files that Docker adds to every container.
OF_DOCKER = {"/.dockerenv", "/dev/console", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab"}
REGULAR, FOLDER = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
NOT_SLOW = ("--skip", "second pull", "--starts", "1")
NOT_STARTED = ("--skip", "second pull", "--skip", "first answer", "--skip", "memory")


def docker(*arguments: object, stdin: str | None = None) -> str:
    """The output of a docker command."""
    command = ["docker", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, input=stdin)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout.strip()


def compare(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "docker/compare", *map(str, arguments)]
    variables = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)


def figures(folder: Path, name: str) -> dict[str, Any]:
    """The figures of an image, as the comparison wrote them into a folder."""
    images = {image["name"]: image for image in json.loads((folder / "comparison.json").read_text())["images"]}
    found: dict[str, Any] = images[name]["figures"]
    return found


@pytest.fixture
def repository() -> Iterator[str]:
    """A name for images that are gone after the test."""
    name = f"geoip-test-{uuid.uuid4().hex[:8]}"
    yield name
    tags = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", name).split()
    if tags:
        docker("image", "rm", "--force", *tags)


@pytest.fixture
def small(repository: str, tmp_path: Path) -> str:
    """An image named `scratch` whose every figure is known."""
    (tmp_path / "old").write_bytes(b"x" * 1000)
    (tmp_path / "new").write_bytes(b"y" * 500)
    (tmp_path / "program").write_bytes(b"z" * 300)
    lines = (
        "FROM scratch",
        "COPY --chmod=644 old /file",
        "COPY --chmod=644 new /file",
        "COPY --chmod=4755 program /bin/sh",
        "COPY --chmod=2611 program /setgid-for-all-but-its-owner",
        "COPY --chmod=755 program /usr/local/lib/libpython3.13.so.1.0",
    )
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    docker("build", "--tag", f"{repository}:scratch", tmp_path)
    return repository


@pytest.fixture
def service(repository: str) -> str:
    """The name of an image that has the service in it."""
    tags = docker("image", "ls", "--format", "{{.Tag}}", "geoip").split()
    names = [name for name in tags if building.dockerfile(name).exists()]
    if not names:
        pytest.skip("no image is built: make images")
    docker("tag", f"geoip:{names[-1]}", f"{repository}:{names[-1]}")
    return names[-1]


def program(folder: Path, name: str, script: str) -> str:
    """Make a program of that name, and return a PATH that has it."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


# Archives


def layer(*files: tuple[str, int]) -> Layer:
    return Layer("", tuple(File(path, mode, 0 if stat.S_ISDIR(mode) else 1) for path, mode in files))


def test_a_later_layer_replaces_and_removes_what_is_below() -> None:
    tree = archive.tree(
        [
            layer(
                ("/a", FOLDER),
                ("/a/1", REGULAR),
                ("/a/2", REGULAR),
                ("/ab", REGULAR),
                ("/b", FOLDER),
                ("/b/1", REGULAR),
            ),
            layer(
                ("/a/.wh.1", REGULAR),
                ("/b/2", REGULAR),
                ("/b/.wh..wh..opq", REGULAR),
                ("/c", FOLDER),
                ("/c/1", REGULAR),
            ),
            layer(("/c", stat.S_IFLNK | 0o777), ("/.wh.a", REGULAR)),
        ]
    )
    assert set(tree) == {"/ab", "/b", "/b/2", "/c"}
    assert stat.S_ISLNK(tree["/c"].mode)


def test_an_opaque_root_hides_all_that_is_below() -> None:
    assert set(archive.tree([layer(("/a", REGULAR)), layer(("/.wh..wh..opq", REGULAR), ("/b", REGULAR))])) == {"/b"}


NUMBERS = "".join(map(str, range(10_000))).encode()
"""A text that gzip compresses differently at each level."""


def saved(path: Path, compress: Callable[[bytes], bytes]) -> Path:
    """An archive as `docker save` writes it, of an image with one layer."""

    def tar(files: dict[str, bytes]) -> bytes:
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w") as written:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.uid = len(content), 7
                written.addfile(member, io.BytesIO(content))
        return output.getvalue()

    manifest = json.dumps([{"Config": "config", "Layers": ["layer"]}]).encode()
    config = json.dumps({"rootfs": {"diff_ids": ["sha256:1"]}, "config": {"User": "7"}}).encode()
    blob = compress(tar({"./a/b": NUMBERS}))
    path.write_bytes(tar({"manifest.json": manifest, "config": config, "layer": blob}))
    return path


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"])
def test_layers_are_the_same_however_the_store_compresses_them(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path, plain = saved(tmp_path / "image.tar", compress), saved(tmp_path / "plain.tar", bytes)
    assert archive.layers(path) == archive.layers(plain)
    assert archive.layers(path)[0].files == (File("/a/b", REGULAR, len(NUMBERS), uid=7),)
    assert list(archive.contents(path)) == [("sha256:1", File("/a/b", REGULAR, len(NUMBERS), uid=7), NUMBERS)]
    with tarfile.open(plain) as image:
        layer = image.extractfile("layer")
        assert layer
        pushed = gzip.compress(layer.read(), 6)
    assert archive.compressed(path, {}) == {"sha256:1": len(pushed)}
    assert archive.config(path)["config"]["User"] == "7"


def test_the_tree_is_what_a_container_sees(repository: str, tmp_path: Path) -> None:
    [base] = building.bases("scratch")
    lines = (f"FROM {base}", "RUN rm /etc/os-release && rm -r /etc/ssl && mkdir /etc/ssl && touch /etc/ssl/new")
    docker("build", "--tag", f"{repository}:removed", "-", stdin="\n".join(lines))
    docker("save", "--output", tmp_path / "image.tar", f"{repository}:removed")
    container = docker("create", f"{repository}:removed")
    try:
        docker("export", "--output", tmp_path / "container.tar", container)
    finally:
        docker("rm", container)
    with tarfile.open(tmp_path / "container.tar") as exported:
        seen = {f"/{one.name}": (one.mode, one.size) for one in exported if one.isreg()}
    tree = archive.tree(archive.layers(tmp_path / "image.tar"))
    found = {path: (stat.S_IMODE(file.mode), file.size) for path, file in tree.items() if stat.S_ISREG(file.mode)}
    # An export and a layer may choose different names of a hard link for the file itself.
    assert {path for path in seen.keys() ^ found.keys() if path not in OF_DOCKER} == set()
    assert {path for path in seen.keys() - OF_DOCKER if seen[path] != found[path]} == set()
    assert len(found) > 1000
    assert "/etc/ssl/new" in found
    assert not {"/etc/os-release", "/etc/ssl/certs"} & found.keys()


def test_reading_an_image_takes_no_memory_of_its_size(repository: str, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w") as tar, Path("/dev/zero").open("rb") as zeros:
        member = tarfile.TarInfo("large")
        member.size = 300 << 20
        tar.addfile(member, zeros)
    docker("image", "import", path, f"{repository}:large")
    docker("save", "--output", path, f"{repository}:large")
    script = f"""
import archive, pathlib, tracemalloc
tracemalloc.start()
path = pathlib.Path("{path}")
assert archive.layers(path)[0].files[0].size == 300 << 20
assert sum(archive.compressed(path, {{}}).values()) < 1 << 20
print(tracemalloc.get_traced_memory()[1])
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "docker/compare", capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 30 << 20


# Figures


def test_the_figures_of_an_image_are_what_was_put_into_it(small: str, tmp_path: Path) -> None:
    result = compare(*NOT_STARTED, "--docs", tmp_path, "--repository", small, "scratch")
    assert (result.returncode, result.stderr) == (0, "")
    found = figures(tmp_path, "scratch")
    assert found["unpacked"] == 1000 + 500 + 300 + 300 + 300
    assert 200 < found["compressed"] < 2000
    assert (found["files"], found["executables"], found["setuid"]) == (4, 2, 2)
    assert (found["OS packages"], found["Python packages"]) == (0, 0)
    assert (found["shell"], found["package manager"], found["Python"]) == (["sh"], [], "3.13")
    assert not {"second pull", "first answer", "memory"} & found.keys()
    assert "scratch: no figure of second pull, first answer, memory: it was left out" in result.stdout


def test_packages_of_alpine_and_of_debian_are_counted(repository: str, tmp_path: Path) -> None:
    (tmp_path / "alpine").write_text("P:musl\nV:1.2.5-r10\nA:x86_64\n\n")
    entry = "Package: {}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n"
    (tmp_path / "debian").write_text(entry.format("libc6") + entry.format("zlib1g"))
    lines = ("FROM scratch", "COPY alpine /lib/apk/db/installed", "COPY debian /var/lib/dpkg/status")
    (tmp_path / "Dockerfile").write_text("\n".join(lines))
    docker("build", "--tag", f"{repository}:scratch", tmp_path)
    result = compare(*NOT_STARTED, "--docs", tmp_path, "--repository", repository, "scratch")
    assert (result.returncode, result.stderr) == (0, "")
    assert figures(tmp_path, "scratch")["OS packages"] == 3


def test_a_second_pull_is_the_layers_that_a_changed_line_changes(small: str, tmp_path: Path) -> None:
    recipe = tmp_path / "Dockerfile"
    recipe.write_text("FROM scratch\nCOPY app/sample.mmdb /\nCOPY app/__init__.py /\n")
    path = program(tmp_path, "build", f'echo "$@" >{tmp_path}/arguments; exec docker build "$@" --file {recipe}')
    arguments = ("--skip", "first answer", "--skip", "memory", "--docs", tmp_path, "--repository", small, "scratch")
    result = compare("--build", tmp_path / "build", *arguments, PATH=path)
    assert result.returncode == 0, result.stderr
    assert 100 < figures(tmp_path, "scratch")["second pull"] < 1000
    [tag] = re.findall(r"--tag (\S+)", (tmp_path / "arguments").read_text())
    assert docker("image", "ls", "--all", "--quiet", "--filter", f"reference={tag}") == ""


def test_an_image_that_answers_is_timed_and_weighed(repository: str, service: str, tmp_path: Path) -> None:
    result = compare(*NOT_SLOW, "--docs", tmp_path, "--repository", repository, service)
    assert result.returncode == 0, result.stderr
    found = figures(tmp_path, service)
    assert 0.05 < found["first answer"] < 60
    assert 5e6 < found["memory"] < 256e6
    assert found["Python packages"] > 15
    assert re.fullmatch(r"3[.]\d+", found["Python"])


@pytest.mark.parametrize(("printed", "expected"), [("30.5MB / 2GB", 30_500_000), ("1.5GiB / 2GiB", 1_610_612_736)])
def test_memory_is_read_in_the_unit_that_docker_prints(
    repository: str, service: str, tmp_path: Path, printed: str, expected: int
) -> None:
    script = f'case $1 in stats) echo "{printed}" ;; *) exec {shutil.which("docker")} "$@" ;; esac'
    path = program(tmp_path, "docker", script)
    result = compare(*NOT_SLOW, "--docs", tmp_path, "--repository", repository, service, PATH=path)
    assert result.returncode == 0, result.stderr
    assert figures(tmp_path, service)["memory"] == expected


def test_every_measure_is_explained_and_shown() -> None:
    page = (ROOT / "docs/comparison.md").read_text()
    tables = ", ".join(re.findall("<!-- comparison: (.+) -->", page)).split(", ")
    assert tables == [measure.name for measure in measures.MEASURES]
    for name in tables:
        assert re.search(rf"^- .*[*][*]{name}[*][*].*:", page, re.MULTILINE), name


# Scanners

# Shortened reports of trivy 0.7x and grype, with the fields that are read.
TRIVY = {
    "SchemaVersion": 2,
    "ArtifactName": "image.tar",
    "Results": [
        {"Target": "image.tar (alpine 3.22)", "Class": "os-pkgs", "Type": "alpine", "Packages": [{"Name": "musl"}]},
        {
            "Target": "Python",
            "Class": "lang-pkgs",
            "Packages": [{"Name": "a"}],
            "Vulnerabilities": [
                {"VulnerabilityID": "CVE-1", "PkgName": "a", "InstalledVersion": "1", "Severity": "CRITICAL"},
                {"VulnerabilityID": "CVE-1", "PkgName": "a", "InstalledVersion": "1", "Severity": "CRITICAL"},
                {"VulnerabilityID": "CVE-2", "PkgName": "a", "InstalledVersion": "1", "Severity": "UNKNOWN"},
            ],
        },
    ],
}
TRIVY_VERSION = {"Version": "0.74.0", "VulnerabilityDB": {"Version": 2, "UpdatedAt": "2026-09-04T01:11:59Z"}}
TRIVY_SCRIPT = f"""case $1 in version) echo '{json.dumps(TRIVY_VERSION)}';; *) echo '{json.dumps(TRIVY)}';; esac"""
GRYPE = {
    "matches": [
        {"vulnerability": {"id": "CVE-3", "severity": "High"}, "artifact": {"name": "b", "version": "2"}},
        {"vulnerability": {"id": "CVE-4", "severity": "Negligible"}, "artifact": {"name": "b", "version": "2"}},
    ],
    "descriptor": {"name": "grype", "version": "0.121.2", "db": {"status": {"built": "2026-11-01T00:00:00Z"}}},
}
TRIVY_EMPTY = {"SchemaVersion": 2, "Results": [{"Target": "clean", "Class": "os-pkgs"}]}
GRYPE_EMPTY = {"matches": [], "descriptor": {"version": "1"}}


@pytest.mark.parametrize(
    ("name", "script", "shown", "said"),
    [
        ("trivy", TRIVY_SCRIPT, "1 critical, 0 high, 2 in all", "trivy 0.74.0, with its database of 2026-09-04"),
        (
            "grype",
            f"echo '{json.dumps(GRYPE)}'",
            "0 critical, 1 high, 2 in all",
            "grype 0.121.2, with its database of 2026-11-01",
        ),
    ],
)
def test_a_scanner_on_the_path_is_asked(
    small: str, tmp_path: Path, name: str, script: str, shown: str, said: str
) -> None:
    path = program(tmp_path, name, f'echo "$@" >>{tmp_path}/arguments; {script}')
    result = compare(*NOT_STARTED, "--scanner", name, "--repository", small, "scratch", PATH=path)
    assert (result.returncode, result.stderr) == (0, "")
    assert shown in result.stdout
    assert f"Vulnerabilities by {said}" in result.stdout
    assert re.search(r"\S+/scratch[.]tar", (tmp_path / "arguments").read_text())


def test_a_scanner_that_docker_has_sees_the_archive(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [base] = building.bases("scratch")
    program(
        tmp_path, "trivy", f'[ "$1" = version ] || [ -s "$3" ] || {{ echo no archive >&2; exit 1; }}\n{TRIVY_SCRIPT}'
    )
    docker(
        "build",
        "--tag",
        f"{small}:scanner",
        "--file",
        "-",
        tmp_path,
        stdin=f'FROM {base}\nCOPY trivy /\nENTRYPOINT ["/trivy"]',
    )
    monkeypatch.setenv("PATH", str(Path(docker_program()).parent))
    monkeypatch.setattr(scanning, "SCANNERS", {"trivy": (f"{small}:scanner", scanning.SCANNERS["trivy"][1])})
    scan, reason = scanning.find("trivy")
    assert scan and not reason
    docker("save", "--output", tmp_path / "image.tar", f"{small}:scratch")
    found = scan(tmp_path / "image.tar")
    assert (found["all"], found["critical"], found["high"]) == (2, 1, 0)


def docker_program() -> str:
    return subprocess.run(["which", "docker"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("trivy", "printf '\\033[31mFATAL: no database\\033[0m\\n\\n' >&2; exit 1", "trivy: FATAL: no database"),
        ("trivy", "exit 3", "trivy: exit status 3"),
        ("trivy", "true", "trivy: it wrote nothing"),
        ("trivy", "echo '<html>'", "trivy: <html>"),
        ("trivy", "head -c 200000 /dev/zero | tr '\\0' '['", r"trivy: \[\[\["),
        ("trivy", "echo null", "trivy: its output has an unknown form"),
        ("trivy", "echo '{}'", "trivy: its output has an unknown form"),
        ("trivy", f"echo '{json.dumps(GRYPE)}'", "trivy: its output has an unknown form"),
        ("trivy", f"echo '{json.dumps(TRIVY_EMPTY)}'", "trivy: it saw no package in the image"),
        ("grype", f"echo '{json.dumps(TRIVY)}'", "grype: its output has an unknown form"),
        ("grype", f"echo '{json.dumps(GRYPE_EMPTY)}'", "grype: its output has an unknown form"),
    ],
)
def test_a_scanner_that_fails_is_not_a_zero(small: str, tmp_path: Path, name: str, script: str, reason: str) -> None:
    path = program(tmp_path, name, script)
    result = compare(*NOT_STARTED, "--scanner", name, "--repository", small, "scratch", PATH=path)
    assert result.returncode == 1
    assert re.search(r"`scratch` .* not scanned", result.stdout)
    assert re.fullmatch(f"compare: scratch: no figure of vulnerabilities: {reason}.*\n", result.stderr)


def test_without_a_scanner_nothing_is_called_free_of_vulnerabilities(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").symlink_to(docker_program())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(scanning, "SCANNERS", {"nosuch": (f"{small}:nosuch", "")})
    assert scanning.find(None) == (None, "nosuch is not installed, and its image cannot be pulled: install nosuch")
    with pytest.raises(ToolError, match="nosuch is not installed"):
        scanning.find("nosuch")
    row = report.Row("scratch", {"unpacked": 1})
    assert report.cell(row, "vulnerabilities") == "not scanned"


# Trouble


def test_an_image_that_is_not_built_is_named_and_the_rest_is_measured(small: str) -> None:
    result = compare(*NOT_STARTED, "--repository", small, "alpine", "scratch")
    assert result.returncode == 1
    assert re.fullmatch(r"compare: alpine: docker: .+ [(]is it built[?] make image-alpine[)]\n", result.stderr)
    assert re.search(r"`alpine` +\| +- \|", result.stdout)
    assert re.search(r"`scratch` +\| +2.4 kB", result.stdout)


def test_an_unknown_image_is_refused_with_a_list_of_the_known_ones() -> None:
    result = compare("nosuch")
    assert (result.returncode, result.stdout) == (2, "")
    assert "there is no image nosuch: take some of alpine, " in result.stderr


def test_an_image_that_does_not_start_says_why(repository: str) -> None:
    docker("build", "--tag", f"{repository}:scratch", "-", stdin='FROM scratch\nWORKDIR /x\nENTRYPOINT ["/nothing"]\n')
    result = compare(*NOT_SLOW, "--repository", repository, "scratch")
    assert result.returncode == 1
    assert re.fullmatch(
        r"compare: scratch: no figure of first answer, memory: .*/nothing.*no such file.*"
        rf"docker run --rm {repository}:scratch shows more\)\n",
        result.stderr,
    )


def test_an_image_that_ends_at_once_says_its_last_words(repository: str) -> None:
    [base] = building.bases("scratch")
    lines = f'FROM {base}\nENTRYPOINT ["sh", "-c", "echo the port is taken >&2; exit 1"]\n'
    docker("build", "--tag", f"{repository}:scratch", "-", stdin=lines)
    result = compare(*NOT_SLOW, "--repository", repository, "scratch")
    assert result.returncode == 1
    assert "no figure of first answer, memory: it ended: the port is taken" in result.stderr


@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:9"])
def test_without_docker_there_is_one_line(host: str) -> None:
    result = compare("scratch", DOCKER_HOST=host)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"compare: docker: .*running[?].*\n", result.stderr)


def test_a_docker_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    result = compare("scratch", PATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "compare: docker cannot be run (No such file or directory): is it installed?\n"


def test_a_build_that_fails_says_its_last_line(small: str, tmp_path: Path) -> None:
    path = program(tmp_path, "build", "echo first >&2; echo 'ERROR: no such base' >&2; exit 1")
    arguments = ("--skip", "first answer", "--skip", "memory", "--repository", small, "scratch")
    result = compare("--build", "build", *arguments, PATH=path)
    assert result.returncode == 1
    assert result.stderr == "compare: scratch: no figure of second pull: build: ERROR: no such base\n"


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 0.0), (signal.SIGINT, 0.7), (signal.SIGTERM, 0.3)])
def test_an_interrupt_leaves_no_container_behind(repository: str, number: int, after: float) -> None:
    [base] = building.bases("scratch")
    lines = f'FROM {base}\nLABEL test={repository}\nENTRYPOINT ["sleep", "60"]\n'
    docker("build", "--tag", f"{repository}:scratch", "-", stdin=lines)
    process = subprocess.Popen(
        [sys.executable, "docker/compare", *NOT_SLOW, "--repository", repository, "scratch"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    mine = ("container", "ls", "--all", "--quiet", "--filter", f"label=test={repository}")
    deadline = time.monotonic() + 60
    while not docker(*mine):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(after)
    for _ in range(50):  # make passes SIGTERM on to what already has it, and people press Ctrl-C again
        process.send_signal(number)
        time.sleep(0.01)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "compare: interrupted\n")
    assert docker(*mine) == ""


# The documents


def test_stand_ins_for_base_images_are_named(small: str) -> None:
    result = compare(*NOT_STARTED, "--repository", small, "scratch")
    [base] = building.bases("scratch")
    assert building.is_stand_in(base) is (f"figures of the published images differ: {base}" in result.stdout)
    rows = [report.Row("one", {"Python": "3.11"}), report.Row("two", {"Python": "3.13"})]
    notes = list(report.notes(report.Comparison("now", "docker", ["python:3.13-alpine"], rows)))
    assert notes[0] == "The Pythons differ: 3.11 in one; 3.13 in two"
    assert notes[1] == "Local stand-ins, so that figures of the published images differ: python:3.13-alpine"


def test_an_image_that_was_built_here_is_a_stand_in_and_one_that_is_not_there_is_not(repository: str) -> None:
    docker("image", "import", "--message", "by hand", os.devnull, f"{repository}:base")
    assert building.is_stand_in(f"{repository}:base")
    assert not building.is_stand_in(f"{repository}:nosuch")


def test_the_chart_is_text_for_light_and_dark() -> None:
    rows = [report.Row("big", {"unpacked": 200, "compressed": 80, "executables": 500}), report.Row("none")]
    drawing = chart.svg(report.Comparison("now", "docker", [], rows))
    texts = [text.text for text in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["unpacked", "compressed", "big", "0.2 kB, 500 executables", "none", "-"]
    assert "prefers-color-scheme: dark" in drawing


def test_the_committed_chart_is_that_of_the_committed_figures() -> None:
    comparison = report.loads((ROOT / "docs/comparison.json").read_text())
    assert (ROOT / "docs/comparison.svg").read_text() == chart.svg(comparison), "make compare-docs"
