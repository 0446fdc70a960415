"""Building an image for release: from its commit and dated by it, so that the same commit gives the same bytes."""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.publishing import layout
from scripts.publishing.commands import BUILD_LIMIT, FailedError, RefusedError, date, export, run
from scripts.publishing.layout import Image


def supported() -> list[str]:
    """The platforms that the builder builds for, this machine's first."""
    try:
        text = run("docker", "buildx", "inspect", "--bootstrap", what="docker buildx", limit=120)
    except FailedError as error:
        raise RefusedError(str(error)) from None
    return [
        name for line in re.findall(r"^Platforms: +(.+)$", text, re.M) for name in line.replace("*", "").split(", ")
    ]


def build(command: list[str], platform: str, folder: Path) -> tuple[Image, dict[str, Any]]:
    """Run `docker build …` for one platform into an OCI layout; the image and its provenance."""
    output = f"type=oci,tar=false,dest={folder},rewrite-timestamp=true"
    # BuildKit's own attestations would be part of the index, with the times of the build: only their content is used.
    provenance = "mode=max,version=v1"
    if run_id := os.environ.get("GITHUB_RUN_ID"):
        source = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
        provenance += f",builder-id={source}/actions/runs/{run_id}"
    options = ("--quiet", "--platform", platform, "--provenance", provenance, "--sbom=false", "--output", output)
    environment = os.environ | {"SOURCE_DATE_EPOCH": date()}
    what = f"building for {platform}"
    try:
        with TemporaryDirectory(prefix="geoip-commit-") as context:
            export(Path(context))
            run(*command, *options, what=what, limit=BUILD_LIMIT, environment=environment, folder=Path(context))
    except FailedError as error:
        if "not supported for the docker driver" in str(error):
            raise RefusedError(
                "Docker's classic image store makes no provenance: turn containerd's on (docs/release.md)"
            ) from None
        raise
    image, predicate = layout.read(folder, platform)
    if predicate is None:
        raise FailedError(f"building for {platform}: BuildKit gave no provenance of SLSA v1, as 0.23 and newer do")
    return image, predicate


def packages(reference: str, platform: str, file: Path, limit: float) -> None:
    """Write the SBOM (SPDX) of an image in a registry: syft reads its layers there, and checks their digests."""
    environment = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false", "NO_COLOR": "1"}
    options = ("--platform", platform, "--output", f"spdx-json={file}")
    syft = str(Path(sys.executable).parent / "syft")
    run(
        syft, "scan", f"registry:{reference}", *options, what="reading the layers", limit=limit, environment=environment
    )
