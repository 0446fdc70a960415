"""The manifests are valid by Kubernetes' own schemas, and keep what they promise."""

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings, load_settings
from tests.conftest import ROOT
from tests.deploy.conftest import DEPLOY, UID

DIRECTORY = DEPLOY / "kubernetes"
OPENSHIFT = DEPLOY / "openshift"
Object = dict[str, Any]


def read() -> list[Object]:
    """Return every object that `kubectl apply -k` would send."""
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


def test_a_misspelt_field_is_not_valid() -> None:
    item = yaml.safe_load((DIRECTORY / "service.yaml").read_text())
    item["spec"]["selectors"] = item["spec"].pop("selector")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, "1.37", strict=True)


def test_every_file_is_applied() -> None:
    kustomization = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
    files = {path.name for path in DIRECTORY.iterdir()}
    assert files == {*kustomization["resources"], "kustomization.yaml"}
    assert len({name_of(item) for item in OBJECTS}) == len(OBJECTS)


needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def kustomize(directory: Path) -> dict[str, Object]:
    """Return the objects that kustomize builds, by kind and name."""
    done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return {name_of(item): item for item in yaml.safe_load_all(done.stdout)}


@needs_kubectl
def test_kustomize_changes_nothing() -> None:
    assert kustomize(DIRECTORY) == {name_of(item): item for item in OBJECTS}


@needs_kubectl
def test_openshift_chooses_the_user_and_has_its_own_dns_and_router() -> None:
    built, plain = kustomize(OPENSHIFT), {name_of(item): item for item in OBJECTS}
    for item in built.values():
        kubernetes_validate.validate(item, "1.30", strict=True)
    changed = {"Deployment-geoip", "Deployment-valkey", "NetworkPolicy-geoip"}
    assert {name for name in built if built[name] != plain.get(name)} == changed
    assert set(built) == set(plain)
    for name in ("Deployment-geoip", "Deployment-valkey"):
        context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert template(built[name])["securityContext"] == context
        assert container(built[name])["securityContext"] == container(plain[name])["securityContext"]
    policy, base = built["NetworkPolicy-geoip"]["spec"], plain["NetworkPolicy-geoip"]["spec"]
    assert policy["egress"][0] == {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}},
                "podSelector": {"matchLabels": {"dns.operator.openshift.io/daemonset-dns": "default"}},
            }
        ],
        "ports": [{"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"}],
    }
    assert policy["egress"][1:] == base["egress"][1:]
    assert [list(peer["namespaceSelector"]["matchLabels"]) for peer in policy["ingress"][0]["from"]] == [
        ["policy-group.network.openshift.io/ingress"],
        ["policy-group.network.openshift.io/host-network"],
    ]
    variables = {variable["name"]: variable["value"] for variable in container(built["Deployment-geoip"])["env"]}
    assert variables == {name: variable["value"] for name, variable in environment().items()} | {
        "GEOIP_TRUSTED_PROXIES": "10.128.0.0/14"
    }


def test_every_object_is_in_a_namespace_for_restricted_pods() -> None:
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


def test_the_probes_ask_the_service_for_its_health() -> None:
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


def test_the_service_takes_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {name: variable["value"] for name, variable in environment().items()})
    settings = load_settings()
    assert set(environment()) <= {f"GEOIP_{name.upper()}" for name in Settings.model_fields}
    assert settings.trusted_proxies
    # The Service has an address of each family, and passes requests on to the pod's address of the same family.
    assert get("Service", "geoip")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    assert str(settings.bind) == "::"
    assert settings.log_format == "json"
    assert not settings.log_addresses


def test_keys_and_sources_come_from_a_secret_that_is_not_here() -> None:
    assert container(get("Deployment", "geoip"))["envFrom"] == [
        {"secretRef": {"name": "geoip-settings", "optional": True}}
    ]
    # A variable of `env` would win over the Secret's.
    assert not [name for name in environment() if re.search("_(KEY|KEY_FILE|SOURCES)$", name)]
    assert [name for name in environment() if name.endswith("_URL")] == ["GEOIP_CACHE_URL"]
    assert not [item for item in OBJECTS if item["kind"] == "Secret"]
    assert "secret generic geoip-settings " in (DEPLOY / "README.md").read_text()


@needs_kubectl
def test_every_line_of_the_readmes_file_is_a_variable(tmp_path: Path) -> None:
    keys = tmp_path / "keys.env"
    keys.write_text("GEOIP_NEWSOURCE_KEY=sesame\nGEOIP_SOURCES=newsource,mmdb\n")
    [command] = re.findall("^kubectl .*create secret .*$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    done = subprocess.run(
        [*command.split(), "--dry-run=client", "--output=yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    secret = yaml.safe_load(done.stdout)
    assert (secret["metadata"]["namespace"], secret["metadata"]["name"]) == ("geoip", "geoip-settings")
    assert {name: base64.b64decode(value) for name, value in secret["data"].items()} == {
        "GEOIP_NEWSOURCE_KEY": b"sesame",
        "GEOIP_SOURCES": b"newsource,mmdb",
    }


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


def test_all_traffic_needs_a_rule() -> None:
    deny = get("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    service, store = get("NetworkPolicy", "geoip")["spec"], get("NetworkPolicy", "valkey")["spec"]
    for policy, name in ((service, "geoip"), (store, "valkey")):
        assert policy["podSelector"]["matchLabels"] == get("Deployment", name)["spec"]["selector"]["matchLabels"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        # An empty or a missing list means every peer, or every port.
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
