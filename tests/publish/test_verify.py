"""`make verify` of what was published, and of what was spoiled afterwards."""

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.publishing.signing import workflow
from tests.conftest import ROOT
from tests.publish.conftest import Checkout, Published, Registry, key_pair


def failure(checkout: Checkout, registry: Registry, **settings: str | None) -> str:
    """The one line that says which check failed."""
    before = registry.tags
    result = checkout.verify(f"{registry.repository}:alpine", **settings)
    assert result.status == 1
    assert len(result.errors) == 1
    assert registry.tags == before
    return result.errors[0]


def test_verify_says_what_each_check_proves(
    published: Published, checkout: Checkout, platforms: tuple[str, ...]
) -> None:
    result = checkout.verify(f"{published.registry.repository}:alpine")
    assert (result.status, result.errors) == (0, [])
    lines = result.output.splitlines()
    each = [f"{check} {platform}" for platform in platforms for check in ("provenance", "SBOM")]
    assert [line.partition(":")[0] for line in lines] == ["signature", *each, "layers"]
    assert published.digest in lines[0]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout.folder, capture_output=True, text=True, check=True
    ).stdout
    assert f"docker/alpine.Dockerfile at commit {commit[:12]}" in lines[1]
    assert re.search(r"lists \d\d packages", lines[2])
    assert re.search(r"all \d of linux/\w+ are those of a new build", lines[-1])


def test_another_key_is_not_accepted(copy: Registry, checkout: Checkout, tmp_path: Path) -> None:
    other = key_pair(tmp_path / "other")
    assert failure(checkout, copy, COSIGN_PUBLIC_KEY=str(other / "cosign.pub")).startswith("verify: signature: ")


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def pack_anew(content: bytes) -> bytes:
    """Another layer, which is valid by itself."""
    return gzip.compress(gzip.decompress(content) + bytes(1024))


@pytest.mark.parametrize("tamper", [flip, pack_anew])
def test_a_layer_with_other_bytes_is_found(
    tamper: Callable[[bytes], bytes], copy: Registry, published: Published, checkout: Checkout
) -> None:
    image = copy.manifest(copy.manifest(published.digest)["manifests"][0]["digest"])
    file = copy.blob(image["layers"][-1]["digest"])
    file.write_bytes(tamper(file.read_bytes()))
    assert failure(checkout, copy).startswith("verify: SBOM linux/amd64: reading the layers: could not ")


def test_a_tag_that_was_moved_to_other_content_is_found(
    copy: Registry, published: Published, checkout: Checkout
) -> None:
    index = copy.manifest(published.digest)
    index["manifests"].reverse()
    index["annotations"] = {"by": "somebody else"}  # type: ignore[assignment]
    copy.put("alpine", index)
    assert failure(checkout, copy).startswith("verify: signature: ")


def test_an_index_of_something_else_is_found(copy: Registry, published: Published, checkout: Checkout) -> None:
    index = copy.manifest(published.digest)
    for entry in index["manifests"]:
        del entry["platform"]
    copy.put("alpine", index)
    expected = "verify: it is an index of something else than images: an entry has no 'platform'"
    assert failure(checkout, copy) == expected


def test_a_missing_attestation_is_found(copy: Registry, checkout: Checkout) -> None:
    tags = copy.storage / "docker/registry/v2/repositories/geoip/_manifests/tags"
    for folder in tags.glob("sha256-*.att"):
        shutil.rmtree(folder)
    assert failure(checkout, copy).startswith("verify: provenance linux/amd64: ")


def test_the_tag_of_another_image_is_found(copy: Registry, checkout: Checkout) -> None:
    tags = copy.storage / "docker/registry/v2/repositories/geoip/_manifests/tags"
    shutil.copytree(tags / "alpine", tags / "scratch")
    result = checkout.verify(f"{copy.repository}:scratch")
    assert result.status == 1
    assert result.errors == [
        "verify: provenance linux/amd64: the tag scratch names an image that was built by docker/alpine.Dockerfile"
    ]


def test_an_image_that_is_not_there_is_refused(copy: Registry, checkout: Checkout) -> None:
    result = checkout.verify(f"{copy.repository}:nothing")
    assert (result.status, result.errors) == (
        2,
        [f"verify: the registry has no {copy.repository}:nothing: check its name and its tag"],
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"COSIGN_PUBLIC_KEY": None, "SOURCE": ""}, "it is not known whose signature to expect"),
        ({"COSIGN_PUBLIC_KEY": None, "SOURCE": "https://github.com/OWNER/geoip", "TLOG": "0"}, "TLOG=0 needs a key"),
        ({"COSIGN_PUBLIC_KEY": "/nowhere/cosign.pub"}, "there is no file /nowhere/cosign.pub"),
    ],
)
def test_a_signer_that_nobody_can_prove_is_refused(
    settings: dict[str, str | None], expected: str, copy: Registry, checkout: Checkout
) -> None:
    result = checkout.verify(f"{copy.repository}:alpine", **settings)
    assert result.status == 2
    assert len(result.errors) == 1
    assert expected in result.errors[0]


def test_verification_and_admission_expect_the_same_workflow() -> None:
    policy = (ROOT / "deploy/admission/require-signature.yaml").read_text()
    assert f"subjectRegExp: {workflow('https://github.com/OWNER/geoip')}\n" in policy
    assert (ROOT / ".github/workflows/release.yaml").is_file()
