"""Each example works on every base: its compiled parts, TLS, time zones and names that are not ASCII."""

import io
import json
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from scripts.own import BASES, FROZEN
from tests.conftest import free_port
from tests.own.conftest import contents, docker, log, packed, trusting

Start = Callable[..., str]
Site = tuple[str, Path]
CA = "/authority/ca.pem"


def answers(container: str, port: int) -> httpx.Client:
    """Wait until a container listens, and return a client of it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10)
        time.sleep(0.1)
    raise AssertionError(log(container))


def logged(container: str, text: str) -> str:
    """Wait until a container has logged a text, and return its log."""
    deadline = time.monotonic() + 20
    while text not in (said := log(container)):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
    return said


@pytest.mark.parametrize("base", BASES)
def test_flask_keeps_bookmarks_on_a_volume(base: str, start: Start, site: Site) -> None:
    url, authority = site
    tag, _ = packed("flask-bookmarks", base)
    port, volume = free_port(), f"--volume=own-test-{base}:/data"
    subprocess.run(["docker", "volume", "rm", "--force", f"own-test-{base}"], capture_output=True, timeout=30)
    settings = {"BIND": "127.0.0.1", "PORT": port, "SSL_CERT_FILE": CA}
    first = start(tag, volume, trusting(authority), **settings)
    with answers(first, port) as client:
        added = client.post("/bookmarks", json={"url": f"{url}/page"})
        assert added.status_code == 201, log(first)
        assert added.json()["title"] == "Zoë & Żółw"
    docker("rm", "--force", first)
    second = start(tag, volume, **settings)
    with answers(second, port) as client:
        (kept,) = client.get("/bookmarks", params={"zone": "Asia/Kathmandu"}).json()
    assert kept["title"] == "Zoë & Żółw"
    assert kept["added"].endswith("+05:45")
    docker("rm", "--force", second)
    docker("volume", "rm", f"own-test-{base}")


@pytest.mark.parametrize("base", BASES)
def test_sqlalchemy_has_its_compiled_part(base: str) -> None:
    tag, _ = packed("flask-bookmarks", base)
    assert any("sqlalchemy" in member.name and member.name.endswith(".so") for member in contents(tag))


@pytest.mark.parametrize("base", BASES)
def test_django_shows_a_feed_in_local_time_with_static_files(base: str, start: Start, site: Site) -> None:
    url, authority = site
    tag, _ = packed("django-agenda", base)
    port = free_port()
    settings = {"SECRET_KEY": "not-secret", "SSL_CERT_FILE": CA, "FEED": f"{url}/feed"}
    container = start(tag, trusting(authority), BIND="127.0.0.1", PORT=port, **settings)
    with answers(container, port) as client:
        page = client.get("/")
        assert page.status_code == 200, log(container)
        assert "2030-07-01 20:00 CEST</time> Fête de Zoë" in page.text
        assert "2030-01-01 19:00 CET</time> Żółw" in page.text
        assert "font-family" in client.get("/static/agenda.css").text


@pytest.mark.parametrize("base", BASES)
def test_pillow_keeps_thumbnails_under_their_names(base: str, start: Start, site: Site) -> None:
    url, authority = site
    tag, _ = packed("pillow-worker", base)
    settings = {"SSL_CERT_FILE": CA, "URL": f"{url}/picture.png", "NAME": "Zoë", "ZONE": "America/St_Johns"}
    container = start(tag, "--volume=/data", trusting(authority), **settings)
    said = logged(container, "/data/Zoë.webp: Zoë")
    assert " NST" in said or " NDT" in said
    copied = subprocess.run(
        ["docker", "cp", f"{container}:/data/Zoë.webp", "-"], stdout=subprocess.PIPE, timeout=30
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(copied)) as archive:
        picture = archive.extractfile("Zoë.webp")
        assert picture is not None
        assert Image.open(picture).size == (256, 192)


@pytest.mark.parametrize("base", BASES)
def test_an_unknown_authority_is_refused(base: str, start: Start, site: Site) -> None:
    tag, _ = packed("pillow-worker", base)
    container = start(tag, URL=f"{site[0]}/picture.png")
    assert "CERTIFICATE_VERIFY_FAILED" in logged(container, "no picture")


STARTED: dict[str, Callable[[str, int], object]] = {
    "flask-bookmarks": lambda container, port: answers(container, port).close(),
    "pillow-worker": lambda container, _: logged(container, "no picture"),
}
"""For each example, a wait until it has started: before that, process 1 ignores SIGTERM."""


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("example", STARTED)
def test_sigterm_ends_it_with_status_0(example: str, base: str, start: Start) -> None:
    tag, _ = packed(example, base)
    port = free_port()
    container = start(tag, PORT=port, BIND="127.0.0.1", URL="http://127.0.0.1:9/picture.png")
    STARTED[example](container, port)
    docker("stop", "--time=10", container)
    state = json.loads(docker("container", "inspect", "--format", "{{json .State}}", container))
    assert state["ExitCode"] == 0, log(container)


@pytest.mark.parametrize("base", BASES)
def test_the_build_says_what_it_did(base: str) -> None:
    tag, said = packed("django-agenda", base)
    assert f"--tag {tag} build/own/agenda-{base}\n" in said
    assert "\nleft out: " in said
    assert f"{tag} takes " in said
    assert ("\nnot seen: what these import by computed names" in said) == (base in FROZEN)


@pytest.mark.parametrize("base", FROZEN)
def test_a_frozen_image_holds_one_program_and_no_build_tools(base: str) -> None:
    tag, _ = packed("pillow-worker", base)
    members = contents(tag)
    programs = [member.name for member in members if member.isfile() and member.mode & 0o111 and "app/" in member.name]
    assert programs == ["app/app"]
    assert not any("setuptools" in member.name or "pip" in Path(member.name).parts for member in members)
    assert any(member.name.endswith(".dist-info/METADATA") and "pillow" in member.name for member in members)
