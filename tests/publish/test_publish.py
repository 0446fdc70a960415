"""`make publish` against a real registry."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.conftest import free_port
from tests.publish.conftest import PYTHON, Checkout, Published, Registry, serving

HTPASSWD = "user:$2b$04$WvR4drynMFqAzMpyRirwhOyn8QC9ZDaCoIn1WazXvkri3QnHUye0W\n"
"""The password is `password`."""


def test_publish_prints_one_line_with_the_digest_that_both_tags_have(published: Published) -> None:
    assert re.fullmatch(r"127\.0\.0\.1:\d+/geoip:alpine-[\d.]+@sha256:[0-9a-f]{64}\n", published.output)
    version = published.output.partition("@")[0].rpartition(":")[2]
    assert published.registry.tags == {"alpine": published.digest, version: published.digest}


def test_the_tag_is_an_index_of_the_images_alone(published: Published, platforms: tuple[str, ...]) -> None:
    index = published.registry.manifest(published.digest)
    found = ["{os}/{architecture}".format_map(entry["platform"]) for entry in index["manifests"]]  # type: ignore[arg-type]
    assert found == list(platforms)


def test_a_second_publish_of_the_same_commit_changes_nothing(
    published: Published, checkout: Checkout, platforms: tuple[str, ...]
) -> None:
    before = published.registry.tags, published.registry.attached
    result = checkout.publish(published.registry.repository, f"PLATFORMS={','.join(platforms)}")
    assert (result.status, result.output) == (0, published.output)
    assert (published.registry.tags, published.registry.attached) == before


def test_another_umask_of_the_checkout_gives_the_same_digest(
    published: Published, checkout: Checkout, platforms: tuple[str, ...]
) -> None:
    names = ("LICENSE", "app", "app/page.html")
    modes = {name: (checkout.folder / name).stat().st_mode for name in names}
    for name in names:
        (checkout.folder / name).chmod(modes[name] & 0o700)
    try:
        result = checkout.publish(published.registry.repository, f"PLATFORMS={','.join(platforms)}")
    finally:
        for name in names:
            (checkout.folder / name).chmod(modes[name])
    assert (result.status, result.errors, result.output) == (0, [], published.output)


def test_machines_that_push_by_digest_and_one_that_joins_give_the_same_index(
    published: Published, checkout: Checkout, platforms: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(tmp_path) as registry:
        for platform in platforms:
            pushed = checkout.publish(registry.repository, f"PLATFORMS={platform}", f"DIGESTS={tmp_path / 'digests'}")
            assert pushed.status == 0, pushed.errors
        assert registry.tags == {}
        given = (f"PLATFORMS={','.join(platforms)}", f"DIGESTS={tmp_path / 'digests'}", "JOIN=1")
        joined = checkout.publish(registry.repository, *given)
        assert joined.status == 0, joined.errors
        assert registry.tags == published.registry.tags


def test_the_image_is_pulled_by_its_digest_and_answers(published: Published) -> None:
    port = free_port()
    command = ["docker", "run", "--rm", "--detach", "--read-only", "--network", "host", "--env", f"PORT={port}"]
    command += ["--env", "GEOIP_SOURCES=mmdb", "--pull", "always", published.reference]
    container = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    try:
        command = ["curl", "--silent", "--noproxy", "*", "--retry", "60", "--retry-connrefused", "--retry-delay", "1"]
        command += [f"http://127.0.0.1:{port}/?ip=8.8.8.8"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout
        assert json.loads(answer)["isp"] == "Google LLC"
    finally:
        subprocess.run(["docker", "kill", container], check=True, capture_output=True, timeout=60)
        subprocess.run(["docker", "image", "rm", published.reference], check=False, capture_output=True, timeout=60)


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, str | None], str]] = {
    "no registry named": (("REGISTRY=",), {}, "REGISTRY is not set: REGISTRY=host/path"),
    "not a repository": (("REGISTRY=HTTP://x/Y",), {}, "is not a repository"),
    "no such registry": (("REGISTRY=127.0.0.1:9/geoip",), {}, "no registry answers at 127.0.0.1:9"),
    "no key": ((), {"COSIGN_KEY": None}, "there is no key to sign with"),
    "no such key": ((), {"COSIGN_KEY": "/nowhere/cosign.key"}, "there is no file /nowhere/cosign.key"),
    "wrong password": ((), {"COSIGN_PASSWORD": "wrong"}, "COSIGN_KEY: "),
    "no password": ((), {"COSIGN_PASSWORD": None}, "COSIGN_PASSWORD is not set"),
    "no log without a key": (
        (),
        {"COSIGN_KEY": None, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "x", "TLOG": "0"},
        "TLOG=0 needs a key",
    ),
    "unsupported platform": (("PLATFORMS=linux/sparc64",), {}, "does not build for linux/sparc64"),
    "no provenance": (("ENGINE=podman",), {}, "Podman writes no provenance: publish with ENGINE=docker"),
    "no such image": (("IMAGES=nothing",), {}, "there is no image nothing"),
    "not a version": (("VERSION=latest",), {}, "'latest' is not a version"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_and_pushes_nothing(name: str, published: Published, checkout: Checkout) -> None:
    arguments, settings, expected = REFUSED[name]
    before = published.registry.tags, published.registry.attached
    result = checkout.publish(published.registry.repository, *arguments, **settings)
    assert result.status == 2
    assert len(result.errors) == 1
    assert expected in result.errors[0]
    assert (published.registry.tags, published.registry.attached) == before


def test_a_dirty_tree_is_refused(published: Published, checkout: Checkout) -> None:
    file = checkout.folder / "app/new.py"
    file.touch()
    try:
        result = checkout.publish(published.registry.repository)
    finally:
        file.unlink()
    assert result.status == 2
    assert result.errors == [
        "publish alpine: the checkout has changes that are in no commit: commit or stash them first"
    ]


def test_no_permission_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    more = f"auth: {{htpasswd: {{realm: test, path: {tmp_path / 'htpasswd'}}}}}\n"
    with serving(tmp_path, more=more) as registry:
        result = checkout.publish(registry.repository)
        assert result.status == 2
        assert result.errors == [
            f"publish alpine: no permission for {registry.repository}: docker login 127.0.0.1:{registry.port}"
        ]
        assert registry.tags == {}


def test_a_web_server_that_is_not_a_registry_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "v2/geoip/manifests").mkdir(parents=True)
    (tmp_path / "v2/geoip/manifests/alpine-1.0.0").write_text("<!doctype html>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        result = checkout.publish(f"127.0.0.1:{server.server_port}/geoip")
        server.shutdown()
    assert result.status == 2
    assert len(result.errors) == 1
    assert result.errors[0].startswith(f"publish alpine: no registry answers at 127.0.0.1:{server.server_port}: ")


def test_a_version_never_gets_other_content(published: Published, checkout: Checkout, tmp_path: Path) -> None:
    with serving(tmp_path) as registry:
        source = f"docker://{published.reference}"
        target = f"docker://{registry.repository}:alpine-1.0.0"
        options = ["--all", "--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run(["skopeo", "copy", *options, source, target], check=True, capture_output=True, timeout=120)
        before = registry.tags, registry.attached
        # Another source address is another label, so that the image's bytes differ.
        result = checkout.publish(registry.repository, "VERSION=1.0.0", "WEB=s,.*,https://example.org/fork,p")
        assert result.status == 2
        assert len(result.errors) == 1
        assert "is published with other content" in result.errors[0]
        assert (registry.tags, registry.attached) == before


def test_a_version_never_loses_a_platform(
    copy: Registry, published: Published, checkout: Checkout, platforms: tuple[str, ...]
) -> None:
    version = next(tag for tag in copy.tags if tag != "alpine")
    index = copy.manifest(published.digest)
    index["manifests"].append(index["manifests"][0] | {"platform": {"os": "linux", "architecture": "s390x"}})  # type: ignore[arg-type]
    copy.put(version, index)
    before = copy.tags, copy.attached
    result = checkout.publish(copy.repository, f"PLATFORMS={','.join(platforms)}")
    assert result.status == 2
    assert result.errors == [
        f"publish alpine: {copy.repository}:{version} is published for {','.join(platforms)},linux/s390x: "
        "set PLATFORMS to these, or raise the version"
    ]
    assert (copy.tags, copy.attached) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_tag_and_no_files_and_publishing_resumes(
    number: signal.Signals, checkout: Checkout, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving(tmp_path) as registry:
        given = (f"REGISTRY={registry.repository}", f"PYTHON={PYTHON}", "IMAGES=alpine", "PLATFORMS=linux/amd64")
        process = checkout.start("publish", *given, TMPDIR=str(temporary))
        for _ in range(3000):
            if any(temporary.glob("geoip-publish-*/joined")):
                break
            time.sleep(0.01)
        # More than once: make passes SIGTERM on to what already has it, and people press Ctrl-C again.
        for _ in range(100):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            time.sleep(0.01)
        _, errors = process.communicate(timeout=60)
        assert errors.startswith("publish alpine: interrupted; the same command continues from here\n")
        assert list(temporary.iterdir()) == []
        assert registry.tags == {}
        assert checkout.publish(registry.repository).status == 0
        assert sorted(registry.tags) == ["alpine", "alpine-1.0.0"]


def stop_answering(registry: Registry) -> None:
    registry.process.send_signal(signal.SIGSTOP)


def end(registry: Registry) -> None:
    registry.process.kill()


@pytest.mark.parametrize("fault", [stop_answering, end])
def test_a_registry_that_fails_in_the_middle_leaves_no_tag_and_publishing_resumes(
    fault: Callable[[Registry], None], checkout: Checkout, tmp_path: Path
) -> None:
    def wait_for_an_upload(registry: Registry) -> None:
        for _ in range(6000):
            if any(registry.storage.glob("docker/registry/v2/repositories/geoip/_uploads/*")):
                fault(registry)
                return
            time.sleep(0.01)

    with serving(tmp_path) as registry:
        watcher = threading.Thread(target=wait_for_an_upload, args=(registry,))
        watcher.start()
        result = checkout.publish(registry.repository, "TIMEOUT=5")
        watcher.join()
        assert result.status == 1
        assert len(result.errors) == 1
        assert f"pushing to {registry.repository}" in result.errors[0]
        assert registry.tags == {}
    with serving(tmp_path) as registry:
        assert checkout.publish(registry.repository).status == 0
        assert sorted(registry.tags) == ["alpine", "alpine-1.0.0"]


def test_a_full_registry_leaves_no_tag(checkout: Checkout, tmp_path: Path) -> None:
    with serving(tmp_path, mount="mount -t tmpfs -o size=2m tmpfs") as registry:
        result = checkout.publish(registry.repository)
        assert result.status == 1
        assert len(result.errors) == 1
        assert f"pushing to {registry.repository}" in result.errors[0]
        answer = httpx.get(f"http://127.0.0.1:{registry.port}/v2/geoip/tags/list", trust_env=False)
        assert answer.json().get("tags") is None


def test_a_public_log_that_does_not_answer_leaves_no_tag(checkout: Checkout, tmp_path: Path) -> None:
    with serving(tmp_path) as registry:
        result = checkout.publish(registry.repository, TLOG="1")
        assert result.status == 1
        assert len(result.errors) == 1
        assert "the public log took no signature (TLOG=0 leaves it out): " in result.errors[0]
        assert registry.tags == {}
