"""The targets of the Makefile for images, and the scripts that they run."""

import json
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, environment
from tests.images.conftest import IMAGES, Container, docker

LABEL = "org.opencontainers.image.title"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "data", ".env", "__pycache__")


def make(
    *arguments: str, cwd: Path = ROOT, timeout: float = 60, **variables: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def printed(*arguments: str, cwd: Path = ROOT) -> str:
    """The commands that make would run."""
    result = make("--dry-run", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout, without its history, in a folder with a space in its name."""
    return Path(shutil.copytree(ROOT, tmp_path / "a checkout", ignore=LEFT_OUT))


def test_all_images_are_built_by_one_target() -> None:
    assert re.findall(r"--file docker/([a-z-]+)[.]Dockerfile", printed("images")) == list(IMAGES)


def test_a_new_image_is_a_dockerfile_and_a_row(checkout: Path) -> None:
    (checkout / "docker/tiny.Dockerfile").write_text("FROM scratch\nCOPY LICENSE /\n")
    with (checkout / "docker/images.toml").open("a") as rows:
        rows.write('\n[tiny]\nlibc = "musl"\nfrozen = true\nshell = false\nunpacked = 1\ncompressed = 1\n')
    assert "--tag geoip:tiny --file docker/tiny.Dockerfile" in printed("images", cwd=checkout)
    # The tests take it up as soon as it is built, under a tag that no other test uses.
    tag = f"geoip-tiny-{uuid.uuid4().hex[:12]}"
    docker("build", "--quiet", "--tag", f"{tag}:tiny", "--file", checkout / "docker/tiny.Dockerfile", checkout)
    try:
        conftest = checkout / "tests/images/conftest.py"
        conftest.write_text(conftest.read_text().replace('"{{.Tag}}", "geoip"', f'"{{{{.Tag}}}}", "{tag}"'))
        command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "tests/images/test_contents.py"]
        collected = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60).stdout
        assert "test_says_what_it_is[tiny]" in collected
        assert "test_a_frozen_image_has_one_program_and_the_loader_of_libc[tiny]" in collected
    finally:
        docker("image", "rm", f"{tag}:tiny")


@pytest.mark.parametrize("name", [name for name, row in IMAGES.items() if "python" not in row])
def test_a_version_of_python_names_another_base(name: str) -> None:
    base = re.search(r"--build-arg PYTHON=(\S+)", printed(f"image-{name}", "PYTHON=3.15"))
    assert base is not None
    assert base[1] in ("python:3.15-slim-trixie", "python:3.15-alpine")


def test_another_base_does_not_get_the_digest_of_the_first(checkout: Path) -> None:
    """A copy of the Dockerfiles may name its bases by digest."""
    file = checkout / "docker/slim.Dockerfile"
    file.write_text(file.read_text().replace("slim-trixie", "slim-trixie@sha256:0", 1))
    assert "--build-arg PYTHON=python:3.15-slim-trixie " in printed("image-slim", "PYTHON=3.15", cwd=checkout)


@pytest.mark.parametrize("name", [name for name, row in IMAGES.items() if "python" in row])
def test_an_image_with_the_python_of_its_base_takes_no_other(name: str) -> None:
    result = make("--dry-run", f"image-{name}", "PYTHON=3.15")
    assert result.returncode != 0
    assert f"{name} has the Python of its base" in result.stderr
    assert f"docker/{name}.Dockerfile" not in printed("images", "PYTHON=3.15")


def test_another_platform_has_a_tag_of_its_own() -> None:
    command = printed("image-alpine", "PLATFORM=linux/arm64")
    assert "--platform linux/arm64" in command
    assert "--tag geoip:alpine-arm64 " in command


def test_a_variable_of_another_program_changes_nothing(checkout: Path) -> None:
    """WSL sets NAME to the name of the machine."""
    theirs: dict[str, Any] = {
        "PLATFORM": "x86_64",
        "NAME": "DESKTOP-1",
        "TAG": "1",
        "VERSION": "22.04 (jammy)",
        "IMAGE": "ubuntu",
    }
    assert make("--dry-run", "image-slim", cwd=checkout, **theirs).stdout == printed("image-slim", cwd=checkout)
    assert "there is no image NAME: there are buster-single" in make("reproduce", **theirs).stderr


@pytest.mark.parametrize("words", [["image-slimm"], ["reproduce", "NAME=slimm"], ["reproduce-slimm"]])
def test_an_image_that_does_not_exist_is_named_in_one_line(words: list[str]) -> None:
    result = make(*words)
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    assert "there is no image slimm: there are buster-single buster " in line


def test_podman_keeps_the_health_check_and_lets_steps_read_what_they_mount() -> None:
    command = printed("image-alpine", "ENGINE=podman")
    assert command.startswith("podman build --format docker --security-opt label=disable ")


def test_a_checkout_says_where_an_image_came_from(checkout: Path) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["git", "init", "--quiet"],
        [*git, "commit", "--quiet", "--allow-empty", "--message=test"],
        ["git", "remote", "add", "origin", "git@example.org:someone/geoip.git"],
    ):
        subprocess.run(command, cwd=checkout, check=True)
    # A hook of git sets GIT_DIR, here that of another repository.
    described = make("--dry-run", "image-slim", cwd=checkout, GIT_DIR="/nowhere").stdout
    assert re.search(r"image[.]revision=[0-9a-f]{40} ", described)
    assert "image.source=https://example.org/someone/geoip " in described


def test_an_archive_without_git_has_no_labels_of_another_repository(checkout: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=checkout.parent, check=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=test"], cwd=checkout.parent, check=True)
    result = make("--dry-run", "image-slim", cwd=checkout)
    assert (result.returncode, result.stderr) == (0, "")
    assert "image.title=geoip" in result.stdout
    assert "revision" not in result.stdout
    assert "source" not in result.stdout


@pytest.mark.parametrize("name", ["alpine", "scratch"])
def test_a_release_build_gives_the_same_bytes_twice(name: str) -> None:
    if "containerd" not in docker("info", "--format", "{{.DriverStatus}}"):
        pytest.skip("Docker's classic image store writes no OCI archives")
    result = make("reproduce", f"NAME={name}", timeout=900, SOURCE_DATE_EPOCH=1_700_000_000)
    digests = re.findall(r"^(sha256:[0-9a-f]{64}) build \d$", result.stdout, re.MULTILINE)
    assert (result.returncode, len(digests), len(set(digests))) == (0, 2, 1), result.stdout + result.stderr


@pytest.mark.parametrize("name", [name for name, row in IMAGES.items() if row["frozen"]])
@pytest.mark.parametrize("version", ["3.14", "3.15"])
def test_a_frozen_app_starts_with_other_pythons(name: str, version: str, container: Callable[..., Container]) -> None:
    command = printed(f"image-{name}", f"PYTHON={version}")
    base = command.partition("PYTHON=")[2].split()[0]
    if subprocess.run(["docker", "image", "inspect", base], capture_output=True, timeout=30).returncode:
        pytest.skip(f"{base} is not here")
    tag = f"{name}-{uuid.uuid4().hex[:12]}"
    subprocess.run(command.replace(f"--tag geoip:{name}", f"--tag geoip:{tag}"), shell=True, cwd=ROOT, check=True)
    try:
        service = container(tag, GEOIP_SOURCES="mmdb")
        assert service.get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"
        assert service.get("/openapi.json").status_code == 200
        assert service.healthcheck() == 0
    finally:
        docker("image", "rm", "--force", f"geoip:{tag}")


@pytest.fixture
def stopped() -> Iterator[None]:
    """Remove the container `geoip` of this project before and after a test."""
    if subprocess.run(["docker", "container", "inspect", "geoip"], capture_output=True, timeout=30).returncode == 0:
        pytest.skip("a container geoip is there already")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8080)) == 0:
            pytest.skip("port 8080 is in use")
    yield
    subprocess.run(["docker", "rm", "--force", "geoip"], capture_output=True, timeout=30)


@pytest.mark.usefixtures("stopped")
def test_runs_in_the_background_until_it_is_stopped() -> None:
    run = make("run-scratch", http_proxy="http://127.0.0.1:9")
    assert run.returncode == 0, run.stderr
    assert "http://localhost:8080 answers" in run.stdout
    assert docker("container", "inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", "geoip") == "true"
    assert make("run-scratch").returncode == 0  # in place of the one before
    assert make("stop").returncode == 0
    assert docker("ps", "--all", "--quiet", "--filter", "name=^geoip$") == ""
    assert make("stop").returncode == 0


@pytest.mark.usefixtures("stopped")
def test_does_not_touch_the_container_of_another_project() -> None:
    docker("create", "--name", "geoip", "--label", f"{LABEL}=other", "geoip:scratch")
    for target in ("run-scratch", "stop"):
        result = make(target)
        assert result.returncode != 0
        assert "not one of this project" in result.stderr.splitlines()[0]
    assert docker("ps", "--all", "--quiet", "--filter", "name=^geoip$")


@pytest.mark.usefixtures("stopped")
def test_a_file_that_is_replaced_outside_is_replaced_inside(tmp_path: Path) -> None:
    folder = tmp_path / 'a "b" (c) é $d'
    folder.mkdir()
    tmp_path.chmod(0o755)
    shutil.copyfile(ROOT / "app/sample.mmdb", folder / "city.mmdb")
    result = make("run-scratch", GEOIP_MMDB_CITY=folder / "city.mmdb", GEOIP_SOURCES="mmdb")
    assert result.returncode == 0, result.stderr
    (mount,) = json.loads(docker("container", "inspect", "--format", "{{json .Mounts}}", "geoip"))
    assert (mount["Source"], mount["RW"]) == (str(folder), False)


@pytest.mark.usefixtures("stopped")
def test_says_why_a_container_ended() -> None:
    result = make("run-scratch", GEOIP_SOURCES="nobody")
    assert result.returncode != 0
    assert "GEOIP_SOURCES" in result.stderr
    assert "the container has ended: its log is above" in result.stderr


@pytest.mark.usefixtures("stopped")
def test_says_when_there_is_no_answer_in_time() -> None:
    result = make("run-scratch", WAIT=0)
    assert result.returncode != 0
    assert "has not answered on http://localhost:8080 within 0 seconds" in result.stderr


def test_says_that_an_image_is_not_built() -> None:
    result = make("run-nothing")
    assert result.returncode != 0
    assert "geoip:nothing is not built: make image-nothing" in result.stderr


def test_says_that_the_engine_is_missing() -> None:
    result = make("run-scratch", ENGINE="no-engine")
    assert result.returncode != 0
    assert "no-engine is missing: install it, or name another one with ENGINE" in result.stderr


@pytest.mark.parametrize("target", ["run-scratch", "stop"])
def test_says_that_the_engine_cannot_be_reached(target: str) -> None:
    result = make(target, DOCKER_HOST="tcp://127.0.0.1:9")
    assert result.returncode != 0
    assert result.stderr.startswith("Cannot connect to the Docker daemon at tcp://127.0.0.1:9")
    assert "is not built" not in result.stderr


def arguments(folder: Path, **settings: object) -> str:
    """Run scripts/run-container with an engine that records its arguments, and return these."""
    log = folder / "arguments"
    engine = folder / "docker"
    engine.write_text(f'#!/bin/sh\necho "$*" >>{log}\ncase $* in *Labels*) exit 1 ;; *Running*) echo false ;; esac\n')
    engine.chmod(0o755)
    command = ["scripts/run-container", "geoip:scratch"]
    subprocess.run(command, cwd=ROOT, env=environment(ENGINE=engine, **settings), capture_output=True, timeout=30)
    return log.read_text()


def test_a_key_is_in_no_list_of_processes(tmp_path: Path) -> None:
    found = arguments(tmp_path, GEOIP_IPIFY_KEY="at_secret")
    assert "--env GEOIP_IPIFY_KEY " in found
    assert "at_secret" not in found


def test_a_container_listens_on_ipv6_as_well(tmp_path: Path) -> None:
    """`localhost` is ::1 first, and rootless Podman passes that on to ::1 in the container."""
    assert " --env GEOIP_BIND=:: " in arguments(tmp_path, GEOIP_BIND="127.0.0.1")


def test_a_file_is_mounted_from_its_folder_and_not_from_a_link_to_it(tmp_path: Path) -> None:
    """On macOS /etc and /tmp are links, and Docker Desktop shares only the folders that they point to."""
    folder = tmp_path / "folder, with a comma"
    folder.mkdir()
    (folder / "key").write_text("at_secret")
    (tmp_path / "link").symlink_to(folder)
    found = arguments(tmp_path, GEOIP_IPIFY_KEY_FILE=tmp_path / "link/key")
    assert f'--mount type=bind,readonly,"source={folder}","target=/host{folder}" ' in found
    assert f"--env GEOIP_IPIFY_KEY_FILE=/host{folder}/key " in found
