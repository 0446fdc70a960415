"""The Docker engine: a connection, and what must be gone from it afterwards."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import docker
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.models.images import Image

LABEL = "geoip.compare"
TIMEOUT = 300  # seconds for one answer: the engine packs an archive before its first byte


class NoDockerError(Exception):
    """Docker does not answer; one line says why."""


def connect() -> docker.DockerClient:
    """The engine that the `docker` command would ask."""
    try:
        if os.environ.get("DOCKER_HOST"):
            return docker.from_env(timeout=TIMEOUT)
        name = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(name)  # without a name, the one in use
        if context is None:
            raise NoDockerError(f"the Docker context {name or 'in use'} does not exist: docker context ls")
        return docker.DockerClient(base_url=context.Host, timeout=TIMEOUT)
    except (DockerException, OSError) as error:
        raise NoDockerError(f"Docker does not answer ({_innermost(error)}): is it running?") from None


@contextmanager
def cleaned_up(engine: docker.DockerClient, run: str) -> Iterator[None]:
    """Remove the containers and images that carry this run's label, however it ends."""
    try:
        yield
    finally:
        with uninterrupted():
            label: dict[str, str | list[str] | bool] = {"label": f"{LABEL}={run}"}
            for container in engine.containers.list(all=True, filters=label, ignore_removed=True):
                remove_container(container)
            for image in engine.images.list(filters=label):
                remove_image(engine, image)


def remove_container(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # gone, or going
            raise


def remove_image(engine: docker.DockerClient, image: Image) -> None:
    for name in image.tags or [str(image.id)]:
        with suppress(ImageNotFound):
            engine.images.remove(name, force=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C waiting: between asking for a container and knowing it, nobody could remove it."""
    waiting: list[int] = []
    # Not pthread_sigmask: that leaves the signal to another thread, rich's, and Python handles it in this one at once.
    handlers = {
        number: signal.signal(number, lambda number, _: waiting.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _innermost(error: BaseException) -> str:
    """The reason at the bottom of what libraries have wrapped in one another."""
    while error.__context__ is not None:
        error = error.__context__
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
