"""Podman does each step of the workshop: the targets that Docker has, two equal builds, and a signature."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.images.conftest import docker

DEBIAN = "python:3.13-slim-trixie"
PRIVILEGED = ["docker", "run", "--rm", "--privileged", "--volume", "/var/lib/containers"]


def test_podman_does_every_step(tmp_path: Path) -> None:
    if subprocess.run([*PRIVILEGED, DEBIAN, "true"], capture_output=True, timeout=60).returncode:
        pytest.skip("Docker allows no privileged container here")
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "data", ".env", "__pycache__")
    checkout = shutil.copytree(ROOT, tmp_path / "checkout", ignore=left_out)
    docker("save", "--output", tmp_path / "base.tar", "python:3.13-alpine")
    volumes = [f"--volume={checkout}:/checkout", f"--volume={tmp_path / 'base.tar'}:/base.tar:ro"]
    command = [*PRIVILEGED, *volumes, DEBIAN, "/checkout/tests/images/podman-steps"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert '"isp":"Google LLC"' in result.stdout
    digests = re.findall(r"^(sha256:[0-9a-f]{64}) build \d$", result.stdout, re.MULTILINE)
    assert (len(digests), len(set(digests))) == (2, 1)
    # The signature is right before and after the layer is changed, and the changed layer cannot be pulled.
    assert result.stderr.count("The signatures were verified against the specified public key") == 2
    assert "Digest did not match" in result.stderr.splitlines()[-1]
    assert result.stdout.endswith("exit status 1\nstopped\n")
