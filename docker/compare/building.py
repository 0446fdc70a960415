"""Building an image: how long it takes, what a code change costs, and what it starts from."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image

from comparison import Base
from engine import LABEL, remove_image

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1800.0  # seconds for one build
IMAGES = tuple(re.findall(r"^IMAGES := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
"""All images, the heaviest first, as the Makefile lists them."""
VERSION = re.compile(r'^(__version__ = ".*)"$', re.MULTILINE)


class BuildError(Exception):
    """Why an image was not built, in one line."""


@dataclass(frozen=True)
class Build:
    cold: float
    """Seconds without any layer of before. Base images, and what pip downloaded, are there."""
    rebuild: float
    """Seconds after one line of app/ was changed."""
    before: Image
    changed: Image


def dockerfile(name: str) -> Path:
    return ROOT / "docker" / f"{name.removesuffix('-single')}.Dockerfile"


@contextmanager
def built(engine: docker.DockerClient, name: str, command: list[str], run: str) -> Iterator[Build]:
    """Build the image from nothing, and again after a change; both are there as long as they are needed."""
    tag = f"geoip-compare:{name}-{run}"
    with TemporaryDirectory(prefix="geoip-compare-") as folder:
        context = Path(folder)
        _copy_context(context)
        try:
            cold = _build(command, name, context, tag, run, "--no-cache")
            # Once more from the cache, as the change will be: what is compared differs in one line alone.
            _build(command, name, context, tag, run)
            before = engine.images.get(tag)
            code = context / "app/__init__.py"
            source, changes = VERSION.subn(rf'\1+{run}"', code.read_text())
            if changes != 1:
                raise BuildError(f"no line of {code.name} to change")
            code.write_text(source)
            rebuild = _build(command, name, context, tag, run)
            yield Build(cold, rebuild, before, engine.images.get(tag))
        finally:
            with suppress(ImageNotFound):
                remove_image(engine, engine.images.get(tag))


def bases(engine: docker.DockerClient, names: list[str], *, pull: bool) -> list[Base]:
    """The images that these Dockerfiles start from, in their order; a build that pulled one may keep it to itself."""
    return [
        _base(engine, base, pull=pull)
        for base in dict.fromkeys(base for name in names for base in _from(dockerfile(name)))
    ]


def _copy_context(destination: Path) -> None:
    """What .dockerignore lets in: the rest is no part of any image."""
    shutil.copy(ROOT / ".dockerignore", destination)
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        for source in ROOT.glob(line[1:]) if line.startswith("!") else ():
            target = destination / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _build(command: list[str], name: str, context: Path, tag: str, run: str, *options: str) -> float:
    target = ["--target", "single"] if name.endswith("-single") else []
    arguments = [*options, *target, "--file", str(dockerfile(name)), "--tag", tag, "--label", f"{LABEL}={run}"]
    started = time.monotonic()
    try:
        result = subprocess.run(
            [*command, "--progress", "plain", *arguments, str(context)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"not built within {LIMIT:.0f} s") from None
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise BuildError(lines[-1] if lines else f"exit status {result.returncode}")
    return time.monotonic() - started


def _from(path: Path) -> list[str]:
    """The images of a Dockerfile's FROM lines: not its own stages, not `scratch`, arguments by their defaults."""
    if not path.exists():
        return []
    text = path.read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    stages = {"scratch"}
    images = []
    for image, stage in re.findall(r"^FROM (?:--\S+ )*(\S+)(?: AS (\S+))?$", text, re.MULTILINE):
        name = re.sub(r"\$\{?(\w+)\}?", lambda variable: defaults.get(variable[1], variable[0]), image)
        if name not in stages:
            images.append(name)
        stages.add(stage)
    return images


def _base(engine: docker.DockerClient, name: str, *, pull: bool) -> Base:
    try:
        image = engine.images.get(name)
    except ImageNotFound:
        if not pull:
            return Base(name, None, [], None)
        try:
            image = engine.images.pull(name)
        except DockerException:
            return Base(name, None, [], None)
    digests = image.attrs.get("RepoDigests") or []
    published: bool | None = bool(digests)
    if published and "containerd" in str(engine.info().get("DriverStatus")):
        # That image store gives everything a digest, what was built or loaded here as well: the registry knows better.
        try:
            published = any(digest.endswith(engine.images.get_registry_data(name).id) for digest in digests)
        except DockerException:
            published = None
    return Base(name, image.id, digests, published)
