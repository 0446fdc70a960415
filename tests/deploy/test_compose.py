"""deploy/compose.yaml, started for real, and what its README says about it."""

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

from tests.conftest import free_port
from tests.deploy.conftest import DEPLOY, NO_IPV6, UID, Compose, docker, wait_for

SERVICES = ("geoip", "nginx", "valkey")


@pytest.fixture(scope="module")
def started(compose: Compose) -> Iterator[Compose]:
    compose.run("up", "--detach", "--wait")
    yield compose
    compose.run("down", "--timeout", "10")


def get(compose: Compose, target: str, **headers: str) -> httpx.Response:
    return httpx.get(compose.url + target, headers=headers, timeout=15, trust_env=False)


def nginx_finds_them(compose: Compose) -> None:
    """Wait until nginx knows new replicas: it looks up their addresses every second."""
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
        pattern = ".*".join(map(re.escape, expected.strip().split("...")))
        assert re.fullmatch(pattern, done.stdout.replace("\r", "").strip(), re.DOTALL), f"{command}\n{done.stdout}"
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
    # On a busy machine the store may miss its 50 ms: then the next address is tried.
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
    # nginx adds the address that it sees to a client's header. Here that is Docker's own, which is private.
    get(started, "/", **{"X-Forwarded-For": "1.0.0.1"})
    assert "/1.0.0.1" not in asked(started)
    # A header of nginx itself is believed.
    request = ["wget", "-q", "-O", "-", "--header", "X-Forwarded-For: 9.9.9.10", "http://geoip:8080/"]
    answer = docker("exec", started.containers("nginx")[0], *request)
    assert json.loads(answer)["ip"] == "9.9.9.10"
    # A header of another container on its network is not.
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


def test_selinux_lets_containers_read_each_mounted_file(compose: Compose) -> None:
    services = json.loads(compose.run("config", "--format", "json"))["services"].values()
    mounts = [mount for service in services for mount in service.get("volumes", []) if mount["type"] == "bind"]
    assert {Path(mount["source"]).name for mount in mounts} == {"nginx.conf", "secrets"}
    assert {mount["bind"]["selinux"] for mount in mounts} == {"z"}


def test_a_key_is_in_its_file_alone(started: Compose) -> None:
    key = started.directory / "secrets/ipify.key"
    key.write_text("at_sesame\n")
    key.chmod(0o400)
    os.chown(key, UID, -1)  # as the README has it
    with started.set(GEOIP_SOURCES="ipify", GEOIP_IPIFY_KEY_FILE="/run/secrets/ipify.key"):
        assert "sesame" not in started.run("config")
        started.run("up", "--detach", "--wait", "--no-deps", "geoip")
    nginx_finds_them(started)
    assert get(started, "/?ip=1.1.1.1").json()["isp"] == "Cloudflare, Inc."
    assert [target for target in asked(started) if "apiKey=at_sesame" in target and "ipAddress=1.1.1.1" in target]
    for container in started.containers("geoip"):
        assert "sesame" not in docker("inspect", container) + logs(container)


def configured(compose: Compose, service: str, **variables: str) -> dict[str, Any]:
    """Return what Docker Compose makes of a service."""
    found: dict[str, Any] = json.loads(compose.run("config", "--format", "json", **variables))["services"][service]
    return found


def test_a_new_source_needs_no_change_of_the_compose_file(compose: Compose) -> None:
    settings = {
        "GEOIP_SOURCES": "newsource,mmdb",
        "GEOIP_NEWSOURCE_URL": "https://newsource.example",
        "GEOIP_NEWSOURCE_KEY": "sesame",
        "GEOIP_NEWSOURCE_KEY_FILE": "/run/secrets/newsource.key",
        "GEOIP_TIMEOUT": "2",
    }
    with compose.set(**settings):
        assert settings.items() <= configured(compose, "geoip")["environment"].items()
        assert not [name for name in configured(compose, "nginx").get("environment", {}) if name.startswith("GEOIP_")]


@pytest.mark.parametrize(("name", "value"), [("PORT", "9000"), ("GEOIP_BIND", "127.0.0.1")])
def test_where_the_service_listens_is_not_a_setting_here(name: str, value: str, compose: Compose) -> None:
    with compose.set(**{name: value}):
        environment = configured(compose, "geoip")["environment"]
    assert (environment["PORT"], environment["GEOIP_BIND"]) == ("8080", "0.0.0.0")


def test_the_service_asks_through_the_users_proxy(started: Compose) -> None:
    proxy = started.settings["GEOIP_IPWHOIS_URL"]
    with started.set(GEOIP_IPWHOIS_URL="http://provider.example"):
        started.run("up", "--detach", "--wait", "--no-deps", "geoip", http_proxy=proxy)
        nginx_finds_them(started)
        get(started, "/?ip=9.9.9.12")
        assert "http://provider.example/9.9.9.12" in asked(started)


@pytest.mark.parametrize(
    "name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"]
)
def test_a_proxys_variable_is_passed_on_if_it_is_set(name: str, compose: Compose) -> None:
    assert configured(compose, "geoip", **{name: "value"})["environment"][name] == "value"
    assert not configured(compose, "geoip")["environment"].get(name)


def test_a_missing_image_is_not_looked_for_on_docker_hub(compose: Compose) -> None:
    done = compose.shell("docker compose up --detach --no-deps geoip", IMAGE="geoip:not-built")
    assert done.returncode != 0
    assert "No such image: geoip:not-built" in done.stdout
    assert "pull access denied" not in done.stdout
    assert "Pulling" not in done.stdout


def test_images_are_named_by_digest(compose: Compose) -> None:
    digest = f"sha256:{'0123456789abcdef' * 4}"
    for service, variable in (("geoip", "IMAGE"), ("nginx", "NGINX_IMAGE"), ("valkey", "VALKEY_IMAGE")):
        image = f"registry.example/{service}:1.0@{digest}"
        assert configured(compose, service, **{variable: image})["image"] == image
    assert configured(compose, "geoip", PULL_POLICY="missing")["pull_policy"] == "missing"


CHECK_NGINX = """
docker run --rm --security-opt seccomp=no-ipv6.json --volume "$PWD/nginx.conf:/etc/nginx/nginx.conf:ro" \\
  --entrypoint nginx "$NGINX_IMAGE" -t -e stderr
"""


def test_it_runs_on_a_host_without_ipv6(compose: Compose) -> None:
    (compose.directory / "no-ipv6.json").write_text(json.dumps(NO_IPV6))
    profile = '{ security_opt: ["seccomp=no-ipv6.json"] }'
    services = ", ".join(f"{service}: {profile}" for service in SERVICES)
    (compose.directory / "no-ipv6.yaml").write_text(f"services: {{ {services} }}\n")
    project = {
        "COMPOSE_FILE": f"{compose.environment['COMPOSE_FILE']}:no-ipv6.yaml",
        "COMPOSE_PROJECT_NAME": f"{compose.environment['COMPOSE_PROJECT_NAME']}-no-ipv6",
        "LISTEN": f"127.0.0.1:{(port := free_port())}",
        "SUBNET": "172.30.90.0/24",
        "SUBNET_REST": "172.30.90.128/25",
        "PROXY_ADDRESS": "172.30.90.10",
    }
    originals = {name: (compose.directory / name).read_text() for name in ("compose.yaml", "nginx.conf")}
    try:
        # Without the change nginx fails, so the profile does take IPv6 away.
        assert "[::]:8080 failed" in compose.shell(CHECK_NGINX).stdout
        [command] = re.findall(r"^sed .*IPv6.*$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
        assert compose.shell(command).returncode == 0
        compose.run("up", "--detach", "--wait", **project)
        response = httpx.get(f"http://127.0.0.1:{port}/?ip=9.9.9.13", timeout=15, trust_env=False)
        assert response.json()["ip"] == "9.9.9.13"
        network = docker(
            "network", "inspect", "--format", "{{.EnableIPv6}}", f"{project['COMPOSE_PROJECT_NAME']}_outside"
        )
        assert network == "false"
    finally:
        compose.run("down", "--timeout", "5", **project)
        for name, text in originals.items():
            (compose.directory / name).write_text(text)


def test_it_ends_in_good_order(started: Compose) -> None:
    containers = {service: started.containers(service) for service in SERVICES}
    started.run("stop")
    for name in (name for names in containers.values() for name in names):
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
