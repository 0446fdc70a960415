"""The manifests: valid by Kubernetes' own schemas, and what they promise."""

import re
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings
from tests.conftest import ROOT
from tests.deploy.conftest import DEPLOY, UID

DIRECTORY = DEPLOY / "kubernetes"
Object = dict[str, Any]


def read() -> list[Object]:
    """Every object that `kubectl apply -k` would send."""
    names = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())["resources"]
    return [item for name in names for item in yaml.safe_load_all((DIRECTORY / name).read_text())]


OBJECTS = read()
WORKLOADS = [item for item in OBJECTS if item["kind"] == "Deployment"]


def get(kind: str, name: str) -> Object:
    (found,) = (item for item in OBJECTS if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def name_of(item: Object) -> str:
    return f"{item['kind']}-{item['metadata']['name']}"


def template(item: Object) -> Object:
    spec: Object = item["spec"]["template"]["spec"]
    return spec


def container(item: Object) -> Object:
    (only,) = template(item)["containers"]
    return dict(only)


def environment() -> dict[str, Any]:
    return {variable["name"]: variable for variable in container(get("Deployment", "geoip"))["env"]}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("item", OBJECTS, ids=name_of)
def test_every_object_is_valid(item: Object, version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def test_what_is_misspelt_is_not_valid() -> None:
    item = yaml.safe_load((DIRECTORY / "service.yaml").read_text())
    item["spec"]["selectors"] = item["spec"].pop("selector")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, "1.37", strict=True)


def test_every_file_is_applied() -> None:
    kustomization = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
    files = {path.name for path in DIRECTORY.iterdir()}
    assert files == {*kustomization["resources"], "kustomization.yaml"}
    assert len({name_of(item) for item in OBJECTS}) == len(OBJECTS)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_makes_of_them_what_they_say() -> None:
    done = subprocess.run(["kubectl", "kustomize", DIRECTORY], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = sorted(yaml.safe_load_all(done.stdout), key=name_of)
    assert built == sorted(OBJECTS, key=name_of)


def test_all_is_in_a_namespace_that_takes_restricted_pods_alone() -> None:
    namespace = get("Namespace", "geoip")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all(item["metadata"]["namespace"] == "geoip" for item in OBJECTS if item is not namespace)


@pytest.mark.parametrize("item", WORKLOADS, ids=name_of)
def test_pods_are_restricted(item: Object) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and more than it asks for."""
    pod = template(item)
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(item)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"} & set(pod)


@pytest.mark.parametrize("item", WORKLOADS, ids=name_of)
def test_pods_have_limits_and_probes(item: Object) -> None:
    only = container(item)
    for kind in ("requests", "limits"):
        assert set(only["resources"][kind]) == {"cpu", "memory"}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(only)


def test_the_service_is_asked_how_it_is() -> None:
    only = container(get("Deployment", "geoip"))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert only[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert [port["containerPort"] for port in only["ports"]] == [Settings.model_fields["port"].default]


def test_the_grace_covers_the_sleep_and_the_longest_lookup() -> None:
    deployment = get("Deployment", "geoip")
    sleep = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
    timeout = Settings.model_fields["timeout"].default
    assert "GEOIP_TIMEOUT" not in environment()
    assert template(deployment)["terminationGracePeriodSeconds"] > sleep + timeout + 1


def test_the_settings_are_ones_that_the_service_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {})
    for name, variable in environment().items():
        monkeypatch.setenv(name, variable.get("value", ""))
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    fields = {f"GEOIP_{name.upper()}" for name in Settings.model_fields}
    assert set(environment()) <= fields
    assert settings.trusted_proxies
    # The Service has an address of either family, and passes on to the pod's address of the same.
    assert get("Service", "geoip")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    assert str(settings.bind) == "::"
    assert settings.log_format == "json"
    # No address of anybody is logged.
    assert not settings.log_addresses


def test_keys_are_references_to_a_secret_that_is_not_here() -> None:
    keys = {name: variable for name, variable in environment().items() if name.endswith("_KEY")}
    assert set(keys) == {"GEOIP_IPIFY_KEY", "GEOIP_IPINFO_KEY"}
    for variable in keys.values():
        assert set(variable) == {"name", "valueFrom"}
        assert variable["valueFrom"]["secretKeyRef"]["optional"] is True
    assert not [item for item in OBJECTS if item["kind"] == "Secret"]


def test_services_find_their_pods() -> None:
    for service in (item for item in OBJECTS if item["kind"] == "Service"):
        deployment = get("Deployment", service["metadata"]["name"])
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
        names = {port["name"] for port in container(deployment)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert "selector" in get("Service", "geoip")["spec"]


def test_the_store_is_where_the_service_looks_for_it() -> None:
    host, port = re.fullmatch(r"redis://(\w+):(\d+)/0", environment()["GEOIP_CACHE_URL"]["value"]).groups()  # type: ignore[union-attr]
    assert int(port) in [port["port"] for port in get("Service", host)["spec"]["ports"]]


def test_replicas_are_spread_scaled_and_drained_one_by_one() -> None:
    deployment, scaler = get("Deployment", "geoip"), get("HorizontalPodAutoscaler", "geoip")
    labels = deployment["spec"]["selector"]["matchLabels"]
    spread = template(deployment)["topologySpreadConstraints"]
    assert {constraint["topologyKey"] for constraint in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert all(constraint["labelSelector"]["matchLabels"] == labels for constraint in spread)
    assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "geoip"}
    assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    assert "replicas" not in deployment["spec"]
    budget = get("PodDisruptionBudget", "geoip")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_nobody_talks_to_anybody_without_leave() -> None:
    deny = get("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    service, store = get("NetworkPolicy", "geoip")["spec"], get("NetworkPolicy", "valkey")["spec"]
    for policy, name in ((service, "geoip"), (store, "valkey")):
        assert policy["podSelector"]["matchLabels"] == get("Deployment", name)["spec"]["selector"]["matchLabels"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        # Everybody, or every port, is an empty or a missing list.
        for rule in policy["ingress"] + policy.get("egress", []):
            assert rule["ports"]
            assert rule.get("from") or rule.get("to")
    assert [port["port"] for rule in service["egress"] for port in rule["ports"]] == [53, 53, 443, 80, 6379]
    assert [peer["podSelector"]["matchLabels"] for rule in store["ingress"] for peer in rule["from"]] == [
        {"app.kubernetes.io/name": "geoip"}
    ]
    assert "egress" not in store
    internet = [peer["ipBlock"] for peer in service["egress"][1]["to"]]
    assert {block["cidr"] for block in internet} == {"0.0.0.0/0", "::/0"}
    assert "169.254.0.0/16" in internet[0]["except"]  # a cloud's metadata server


def test_the_store_makes_room_before_its_limit() -> None:
    only = container(get("Deployment", "valkey"))
    options = dict(zip(only["args"][::2], only["args"][1::2], strict=True))
    assert options["--maxmemory-policy"] == "allkeys-lru"
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    maxmemory = int(options["--maxmemory"].removesuffix("mb"))
    assert int(only["resources"]["limits"]["memory"].removesuffix("Mi")) >= maxmemory * 1.5


def test_the_store_is_the_one_of_the_compose_file() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["valkey"]
    only = container(get("Deployment", "valkey"))
    assert compose["command"] == only["args"]
    assert compose["image"] == f"${{VALKEY_IMAGE:-{only['image']}}}"


def test_the_image_is_the_one_of_the_compose_file() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["geoip"]
    image = container(get("Deployment", "geoip"))["image"]
    assert compose["image"] == f"${{IMAGE:-{image}}}"
    assert (ROOT / f"docker/{image.removeprefix('geoip:')}.Dockerfile").is_file()
