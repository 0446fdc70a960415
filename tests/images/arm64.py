"""Images for arm64: `make test-arm64`. On another machine they run under emulation, so it is not among the other tests.

Emulated, a start takes 15 s, and to freeze the app more than ten minutes.
"""

import platform
import subprocess
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.images.conftest import Container, docker

# A processor without signed return addresses, which Debian's programs use and QEMU emulates slowly.
EMULATED = () if platform.machine() in ("aarch64", "arm64") else ("--env=QEMU_CPU=cortex-a72",)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["alpine", "slim", "distroless", "scratch"])
def test_builds_answers_and_stops(name: str, container: Callable[..., Container]) -> None:
    command = ["make", f"image-{name}", "PYTHON=3.15", "PLATFORM=linux/arm64"]
    subprocess.run(command, cwd=ROOT, timeout=3000, check=True)
    tag = f"{name}-arm64"
    assert docker("image", "inspect", "--format", "{{.Architecture}}", f"geoip:{tag}") == "arm64"
    options = ("--platform=linux/arm64", "--memory=256m", *EMULATED)  # an emulator takes more than the program
    service = container(tag, *options, limit=120, GEOIP_SOURCES="mmdb")
    assert service.get("/?ip=8.8.8.8").json()["isp"] == "Google LLC"
    assert service.get("/healthz").status_code == 204
    assert service.healthcheck() == 0
    assert service.terminate() == 0
