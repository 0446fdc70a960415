"""Dockerfiles: what a code change costs an image that is built from one, and which base images it names."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import archive
from engine import ToolError, docker, run

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 3600.0  # seconds for one build
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "build", "data", "tests")  # large, and in no image


def dockerfile(name: str) -> Path:
    return ROOT / "docker" / f"{name}.Dockerfile"


def second_pull(name: str, build: Sequence[str], known: dict[str, int]) -> int:
    """The bytes of the compressed layers that differ once a line of the code was changed; ToolError.

    `build` is the command that builds both images, without the Dockerfile; `known` is that of archive.compressed.
    """
    tag = f"geoip-compare:{name}-{uuid4().hex[:12]}"
    with TemporaryDirectory(prefix="geoip-compare-") as folder:
        context = Path(folder, "context")
        shutil.copytree(ROOT, context, ignore=LEFT_OUT)

        def layers() -> dict[str, int]:
            run(*build, "--file", dockerfile(name), "--tag", tag, context, limit=LIMIT)
            docker("save", "--output", Path(folder, "image.tar"), tag)
            return archive.compressed(Path(folder, "image.tar"), known)

        try:
            before = layers()
            with (context / "app/__init__.py").open("a") as code:
                code.write(f"changed = {tag!r}\n")  # not a comment, which bytecode does not have
            after = layers()
        finally:
            with suppress(ToolError):
                docker("image", "rm", "--force", tag)
    return sum(size for digest, size in after.items() if digest not in before)


def bases(name: str) -> list[str]:
    """The images of the Dockerfile's FROM lines, arguments by their defaults; without its own stages and `scratch`."""
    text = dockerfile(name).read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    lines = re.findall(r"^FROM (?:--\S+ )*(\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    own = {"scratch", *(stage for _, stage in lines)}
    names = [re.sub(r"\$\{?(\w+)\}?", lambda found: defaults.get(found[1], found[0]), image) for image, _ in lines]
    return [name for name in dict.fromkeys(names) if name not in own]


def is_stand_in(base: str) -> bool:
    """Whether an image in the local store was put together here, and not published under this name.

    The history of a published image says how each layer was made. In Docker's classic store it has the digest that its
    registry gave it, too; containerd's store gives a digest to all. An image that is not in the store is not known.
    """
    try:
        digests = docker("image", "inspect", "--format", "{{len .RepoDigests}}", base)
        return digests == "0" or not docker("history", "--format", "{{.CreatedBy}}", base)
    except ToolError:
        return False
