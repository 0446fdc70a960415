"""deploy/compose.yaml, started for real, and what the READMEs tell of it."""

import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.deploy.conftest import DEPLOY, UID, Compose, docker, wait_for

SERVICES = ("geoip", "nginx", "valkey")


@pytest.fixture(scope="module")
def started(compose: Compose) -> Iterator[Compose]:
    compose.run("up", "--detach", "--wait")
    yield compose
    compose.run("down", "--timeout", "10")


def get(compose: Compose, target: str, **headers: str) -> httpx.Response:
    return httpx.get(compose.url + target, headers=headers, timeout=15, trust_env=False)


def nginx_finds_them(compose: Compose) -> None:
    """All replicas are others, with other addresses: nginx looks their name up anew within a second."""
    wait_for(lambda: get(compose, "/healthz").status_code == 204, 3)


def asked(compose: Compose) -> list[str]:
    return [request.target for request in compose.upstream.requests]


def test_what_the_readme_says_is_what_happens(compose: Compose) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", (DEPLOY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    steps = [step.partition("\n") for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert len(steps) >= 8
    for command, _, expected in steps:
        done = compose.shell(command.replace("http://localhost:8080", compose.url))
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        pattern = ".*".join(map(re.escape, expected.strip().split("…")))
        assert re.fullmatch(pattern, done.stdout.replace("\r", "").strip(), re.DOTALL), f"{command}\n{done.stdout}"
    assert compose.run("ps", "--all", "--quiet") == ""


def test_what_the_projects_own_readme_says_runs(compose: Compose) -> None:
    section = (ROOT / "README.md").read_text().partition("## Run it for real\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert "docker compose up" in block
    done = compose.shell(f"set -e; cd {ROOT}\n{block.replace('localhost:8080', compose.url)}")
    assert done.returncode == 0, done.stdout
    assert '{"ip":"8.8.8.8","isp":"Google LLC",' in done.stdout
    assert compose.run("ps", "--all", "--quiet") == ""


@pytest.mark.parametrize("service", SERVICES)
def test_containers_are_hardened(service: str, started: Compose) -> None:
    container: dict[str, Any] = json.loads(docker("inspect", started.containers(service)[0]))[0]
    host = container["HostConfig"]
    assert container["State"]["Health"]["Status"] == "healthy"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert container["Config"]["User"] == f"{UID}:{UID}"
    assert not host["Privileged"]
    published = [port for ports in host["PortBindings"].values() for port in ports]
    assert len(published) == (service == "nginx")


@pytest.mark.parametrize("service", ["nginx", "valkey"])
def test_nothing_is_written_to_an_image(service: str, started: Compose) -> None:
    (container,) = started.containers(service)
    written = docker(
        "exec", container, "sh", "-c", "for d in / /etc /usr /var; do touch $d/x 2>/dev/null && echo $d; done; true"
    )
    assert written == ""


def test_replicas_share_what_they_know(started: Compose) -> None:
    # On a busy machine 50 ms may pass before the store answers: then the next address.
    addresses = iter(f"8.8.4.{number}" for number in range(1, 21))
    wait_for(lambda: is_asked_once(started, next(addresses)), 20)
    answered = [container for container in started.containers("geoip") if '"path": "/"' in logs(container)]
    assert len(answered) == 2


def is_asked_once(compose: Compose, address: str) -> bool:
    statuses = [get(compose, f"/?ip={address}").headers["Cache-Status"] for _ in range(6)]
    assert statuses[0] == "geoip; fwd=uri-miss; stored"
    shared = all(status.startswith("geoip; hit; ttl=") for status in statuses[1:])
    return shared and asked(compose).count(f"/{address}") == 1


def logs(container: str) -> str:
    return docker("logs", "--tail", "1000", container, both=True)


def test_nginx_alone_is_believed(started: Compose) -> None:
    # A client's word goes through nginx, which appends whom it sees: Docker's own address, which means nobody.
    get(started, "/", **{"X-Forwarded-For": "1.0.0.1"})
    assert "/1.0.0.1" not in asked(started)
    # nginx's word:
    request = ["wget", "-q", "-O", "-", "--header", "X-Forwarded-For: 9.9.9.10", "http://geoip:8080/"]
    answer = docker("exec", started.containers("nginx")[0], *request)
    assert json.loads(answer)["ip"] == "9.9.9.10"
    # And that of somebody else on its network:
    inside = f"{started.environment['COMPOSE_PROJECT_NAME']}_inside"
    other = ["run", "--rm", "--network", inside, "--entrypoint", "wget", started.environment["NGINX_IMAGE"]]
    request[-2] = "X-Forwarded-For: 1.0.0.1"
    docker(*other, *request[1:])
    assert "/1.0.0.1" not in asked(started)


def test_new_replicas_at_other_addresses_are_found(started: Compose) -> None:
    before = addresses(started)
    started.run("up", "--detach", "--wait", "--force-recreate", "--no-deps", "--scale", "geoip=3", "geoip")
    assert addresses(started) != before
    nginx_finds_them(started)
    for _ in range(9):
        assert get(started, "/?ip=8.8.4.4").status_code == 200


def addresses(compose: Compose) -> set[str]:
    network = f"{compose.environment['COMPOSE_PROJECT_NAME']}_inside"
    form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return {docker("inspect", "--format", form, container) for container in compose.containers("geoip")}


def test_a_replica_that_goes_away_fails_no_request(started: Compose) -> None:
    gone = False

    def ask_on() -> list[int]:
        statuses = []
        with httpx.Client(trust_env=False, timeout=15) as client:
            while not gone:
                statuses.append(client.get(f"{started.url}/?ip=8.8.4.4").status_code)
        return statuses

    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(ask_on) for _ in range(8)]
        try:
            for container in started.containers("geoip")[1:]:
                time.sleep(1)
                docker("stop", "--time", "10", container)
                time.sleep(3)  # its name is resolved anew, and a connection to it may take as long
        finally:
            gone = True
    statuses = [status for answers in asking for status in answers.result()]
    assert len(statuses) > 100
    assert set(statuses) == {200}


def test_without_the_store_it_answers(started: Compose) -> None:
    started.run("kill", "valkey")
    try:
        assert get(started, "/?ip=9.9.9.11").json()["ip"] == "9.9.9.11"
        assert get(started, "/healthz").status_code == 204
    finally:
        started.run("start", "valkey")


def test_a_key_is_a_file_and_in_nothing_else(started: Compose, tmp_path: Path) -> None:
    key = tmp_path / "ipify.key"
    key.write_text("at_sesame\n")
    key.chmod(0o400)
    os.chown(key, UID, -1)  # as the README has it
    variables = {"GEOIP_SOURCES": "ipify", "GEOIP_IPIFY_KEY_FILE": str(key)}
    assert "sesame" not in started.run("config", **variables)
    started.run("up", "--detach", "--wait", "--no-deps", "geoip", **variables)
    nginx_finds_them(started)
    assert get(started, "/?ip=1.1.1.1").json()["isp"] == "Cloudflare, Inc."
    assert [target for target in asked(started) if "apiKey=at_sesame" in target and "ipAddress=1.1.1.1" in target]
    for container in started.containers("geoip"):
        assert "sesame" not in docker("inspect", container) + logs(container)


def test_it_ends_in_good_order(started: Compose) -> None:
    containers = {service: started.containers(service) for service in SERVICES}
    started.run("stop")
    for name in (name for names in containers.values() for name in names):
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
