"""Images by digest: what kustomize builds, and the policies by which a cluster insists on digests and signatures."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.deploy.conftest import DEPLOY

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
POLICY, BINDING = yaml.safe_load_all((DEPLOY / "admission/require-digest.yaml").read_text())
SIGNATURES = list(yaml.safe_load_all((DEPLOY / "admission/require-signature.yaml").read_text()))
NAMESPACE = yaml.safe_load((DEPLOY / "kubernetes/namespace.yaml").read_text())


def is_admitted(pod: dict[str, Any]) -> bool:
    """Evaluate the policy's expressions on a pod, as the API server does."""
    cel = pytest.importorskip("cel_expr_python.cel", reason="cel-expr-python has no wheel for this Python")
    environment = cel.NewEnv(variables={"object": cel.Type.DYN})
    results = [
        environment.compile(rule["expression"]).eval(data={"object": pod}).plain_value()
        for rule in POLICY["spec"]["validations"]
    ]
    assert {type(result) for result in results} == {bool}
    return all(results)


def pod(**images: list[str]) -> dict[str, Any]:
    """A pod with these images, by the name of the list that they are in."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "geoip"},
        "spec": {
            kind: [{"name": f"c{number}", "image": name} for number, name in enumerate(names)]
            for kind, names in images.items()
        },
    }


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("item", [POLICY, BINDING], ids=["policy", "binding"])
def test_the_digest_policy_is_valid(item: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def test_the_digest_policy_denies_pods_of_the_namespace() -> None:
    assert POLICY["spec"]["failurePolicy"] == "Fail"
    [rule] = POLICY["spec"]["matchConstraints"]["resourceRules"]
    assert set(rule["resources"]) == {"pods", "pods/ephemeralcontainers"}
    assert set(rule["operations"]) == {"CREATE", "UPDATE"}
    assert BINDING["spec"]["policyName"] == POLICY["metadata"]["name"]
    assert BINDING["spec"]["validationActions"] == ["Deny"]
    selector = BINDING["spec"]["matchResources"]["namespaceSelector"]
    assert selector == {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE["metadata"]["name"]}}


KINDS = ["containers", "initContainers", "ephemeralContainers"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "image",
    [
        f"geoip@{DIGEST}",
        f"registry.example/geoip@{DIGEST}",
        f"registry.example:5000/team/geoip@{DIGEST}",
        f"registry.example/geoip:1.0@{DIGEST}",
    ],
)
def test_an_image_with_a_digest_is_admitted(image: str, kind: str) -> None:
    assert is_admitted(pod(**{"containers": [f"geoip@{DIGEST}"], kind: [image, f"other@{DIGEST}"]}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "image",
    [
        "geoip",
        "geoip:scratch",
        "registry.example:5000/geoip:1.0",
        f"geoip:{DIGEST.replace(':', '-')}",
        f"geoip@{DIGEST[:-1]}",
        f"geoip@{DIGEST}0",
        f"geoip@{DIGEST.upper()}",
        f"geoip@{DIGEST.replace('sha256', 'md5')}",
        f"{DIGEST}",
        f"geoip@{DIGEST}:1.0",
        "",
    ],
)
def test_an_image_without_a_digest_is_refused(image: str, kind: str) -> None:
    assert not is_admitted(pod(**{"containers": [f"geoip@{DIGEST}"], kind: [f"other@{DIGEST}", image]}))


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_readmes_kustomization_names_every_image_by_digest(tmp_path: Path) -> None:
    section = (DEPLOY / "README.md").read_text().partition("## Images by digest\n")[2]
    [block] = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kustomization.yaml").write_text(block.replace("sha256:…", DIGEST))
    images = {}
    for directory in ("kubernetes", "mine"):
        done = subprocess.run(
            ["kubectl", "kustomize", tmp_path / directory], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        pods = [item["spec"]["template"] for item in yaml.safe_load_all(done.stdout) if item["kind"] == "Deployment"]
        assert [is_admitted(item) for item in pods] == [directory == "mine"] * 2
        images[directory] = {container["image"] for item in pods for container in item["spec"]["containers"]}
    assert images["mine"] == {f"registry.example/geoip@{DIGEST}", f"valkey/valkey@{DIGEST}"}
    # The policy-controller writes the registry of a name that has none, and wants each image to match a policy.
    assert [matching("registry.example/geoip@"), matching("index.docker.io/valkey/valkey@")] == [
        ["geoip-is-signed"],
        ["valkey-is-not-signed"],
    ]
    assert matching("registry.example/other@") == []


def matching(name: str) -> list[str]:
    """Return the policies of the image of this name: in a glob `*` stands for characters other than a slash."""
    return [
        policy["metadata"]["name"]
        for policy in SIGNATURES
        for image in policy["spec"]["images"]
        if re.fullmatch(re.escape(image["glob"]).replace(r"\*", "[^/]*"), name + DIGEST)
    ]


def an_object(*required: str, **properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT = {"type": "string", "minLength": 1}
CLUSTER_IMAGE_POLICY = an_object(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "policy.sigstore.dev/v1beta1"},
    kind={"const": "ClusterImagePolicy"},
    metadata=an_object("name", name=TEXT),
    spec=an_object(
        *("images", "authorities"),
        mode={"enum": ["enforce", "warn"]},
        # The controller refuses other characters in a glob.
        images={
            "type": "array",
            "minItems": 1,
            "items": an_object("glob", glob=TEXT | {"pattern": "^[a-zA-Z0-9_:/*.-]+$"}),
        },
        authorities={
            "type": "array",
            "minItems": 1,
            "items": an_object(
                name=TEXT,
                key=an_object(data=TEXT, hashAlgorithm=TEXT, kms=TEXT, secretRef=an_object("name", name=TEXT)),
                keyless=an_object(
                    "identities",
                    url=TEXT,
                    identities={
                        "type": "array",
                        "minItems": 1,
                        "items": an_object(issuer=TEXT, issuerRegExp=TEXT, subject=TEXT, subjectRegExp=TEXT),
                    },
                ),
                static=an_object("action", action={"enum": ["pass", "fail"]}, message=TEXT),
                ctlog=an_object(url=TEXT),
            )
            | {"oneOf": [{"required": [kind]} for kind in ("key", "keyless", "static")]},
        },
    ),
)
"""The fields of v1beta1 that this project's policy may have.

Source: config/300-clusterimagepolicy.yaml and pkg/apis/glob of https://github.com/sigstore/policy-controller, whose own
schema has no field that is required, and drops unknown ones.
"""


@pytest.mark.parametrize("policy", SIGNATURES, ids=lambda policy: policy["metadata"]["name"])
def test_a_signature_policy_is_valid(policy: dict[str, Any]) -> None:
    Draft202012Validator(CLUSTER_IMAGE_POLICY).validate(policy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("subjectRegExp:", "subjectRegex:"),
        ("identities:", "identity:"),
        ("keyless:", "keyles:"),
        ("glob: registry.example/geoip*", "glob: registry.example/geoip@*"),
        ("mode: enforce", "mode: deny"),
        ("v1beta1", "v1"),
    ],
)
def test_a_mistake_in_a_signature_policy_is_found(old: str, new: str) -> None:
    text = (DEPLOY / "admission/require-signature.yaml").read_text()
    assert old in text
    with pytest.raises(ValidationError):
        Draft202012Validator(CLUSTER_IMAGE_POLICY).validate(next(yaml.safe_load_all(text.replace(old, new))))


def test_only_the_release_workflow_of_the_repository_may_sign() -> None:
    [authority] = SIGNATURES[0]["spec"]["authorities"]
    [identity] = authority["keyless"]["identities"]
    workflow = "https://github.com/OWNER/geoip/.github/workflows"
    assert re.search(identity["subjectRegExp"], f"{workflow}/release.yaml@refs/tags/v1.2.0")
    for subject in (
        f"{workflow}/ci.yaml@refs/tags/v1.2.0",
        f"{workflow}/release.yaml@refs/heads/main",
        f"{workflow}/release.yaml@refs/pull/1/merge",
        f"{workflow}/release.yaml@refs/tags/v1.2.0/other",
        "https://github.com/OTHER/geoip/.github/workflows/release.yaml@refs/tags/v1.2.0",
        f"https://other.example/?{workflow}/release.yaml@refs/tags/v1.2.0",
        "https://githubXcom/OWNER/geoip/.github/workflows/release.yaml@refs/tags/v1.2.0",
    ):
        assert not re.search(identity["subjectRegExp"], subject)
