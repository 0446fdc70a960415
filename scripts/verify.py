"""Verify a published image: `make verify IMAGE=host/path:scratch`.

Each check prints one line: what was checked, and what that proves. The first that fails ends it.
"""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.publishing import layout
from scripts.publishing.building import build, packages, supported
from scripts.publishing.commands import FailedError, RefusedError, commit, finish
from scripts.publishing.layout import Image
from scripts.publishing.registry import Repository, platforms
from scripts.publishing.signing import PROVENANCE, SBOM, Signer, verifier


def main() -> None:
    parser = argparse.ArgumentParser(prog="verify", description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="host/path:tag or host/path@digest")
    parser.add_argument("--source", default="", help="web page of the repository whose workflow signed the image")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one exchange with the registry")
    options = parser.parse_args()
    finish("verify", lambda: verify(options.image, options.source, options.timeout))


def verify(image: str, source: str, limit: float) -> None:
    match = re.fullmatch(r"(?P<name>.+?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?", image)
    if match is None or not (match["tag"] or match["digest"]):
        raise RefusedError("IMAGE does not name an image: write IMAGE=host/path:scratch, or host/path@sha256:…")
    repository = Repository(match["name"], limit)
    signer = verifier(source, limit, local=repository.local)
    # A digest is exact. If there is a tag as well, it is for people.
    found = repository.manifest(f"@{match['digest']}" if match["digest"] else f":{match['tag']}")
    if found is None:
        raise RefusedError(f"the registry has no {image}: check its name and its tag")
    digest, index = found
    images = platforms(index)
    provenance = {}
    with TemporaryDirectory(prefix="geoip-verify-") as name:
        folder = Path(name)
        with check("signature"):
            print(signature(signer, repository.at(digest)), flush=True)
        for platform, one in images.items():
            with check(f"provenance {platform}"):
                provenance[platform] = signer.attested(repository.at(one), PROVENANCE)
                print(origin(provenance[platform], match["tag"]), flush=True)
            with check(f"SBOM {platform}"):
                print(contents(signer, repository.at(one), platform, folder / "sbom.json"), flush=True)
        with check("layers"):
            platform = next((name for name in supported() if name in images), "")
            if not platform:
                raise FailedError(f"this Docker builds for none of {', '.join(images)}")
            there = repository.manifest(f"@{images[platform]}")
            if there is None:
                raise FailedError(f"the registry has no {repository.at(images[platform])}")
            layers = [layer["digest"] for layer in there[1]["layers"]]
            print(rebuilt(layers, provenance[platform], platform, folder / "layout"), flush=True)


@contextmanager
def check(name: str) -> Iterator[None]:
    """Begin the line of a check, and the error of one that fails."""
    output = StringIO()
    try:
        with redirect_stdout(output):
            yield
    except (FailedError, RefusedError) as error:
        raise type(error)(f"{name}: {error}") from None
    print(f"{name}: {output.getvalue()}", end="", flush=True)


def signature(signer: Signer, reference: str) -> str:
    signer.verify(reference)
    digest = reference.rpartition("@")[2]
    return f"{digest} is signed by {signer.name}, so its owner published these bytes"


def origin(predicate: dict[str, Any], tag: str | None) -> str:
    bases = [base(entry["uri"]) for entry in predicate["buildDefinition"].get("resolvedDependencies", [])]
    file = dockerfile(predicate)
    # A signature is of the bytes, not of the tag: one image's tag must not name another.
    if tag and not re.fullmatch(rf"{file.removesuffix('.Dockerfile')}(-\d.*)?", tag):
        raise FailedError(f"the tag {tag} names an image that was built by docker/{file}")
    revision = arguments(predicate).get("label:org.opencontainers.image.revision", "an unknown commit")
    made = f"docker/{file} at commit {revision[:12]}"
    return f"the signer says that it was built by {made}, from {', '.join(bases) or 'no base'}"


def contents(signer: Signer, reference: str, platform: str, file: Path) -> str:
    attested = names(signer.attested(reference, SBOM))
    packages(reference, platform, file, signer.limit)
    found = names(layout.load(file))
    if found != attested:
        difference = ", ".join(sorted(found ^ attested)[:3])
        raise FailedError(f"it does not list what is in the image: {difference}")
    return f"it lists {len(found)} packages, the same that syft finds in the layers in the registry"


def rebuilt(layers: list[str], predicate: dict[str, Any], platform: str, folder: Path) -> str:
    request = arguments(predicate)
    revision, here = request.get("label:org.opencontainers.image.revision"), commit()
    if revision != here:
        raise RefusedError(f"the image was built at {revision}: git checkout {revision}, then verify again")
    command = ["docker", "build", "--no-cache", "--file", f"docker/{dockerfile(predicate)}", "."]
    for key, value in sorted(request.items()):
        kind, _, name = key.partition(":")
        if kind == "build-arg" and name == "PYTHON":
            command += ["--build-arg", f"{name}={value}"]
    image: Image = build(command, platform, folder)[0]
    same = sum(one == other for one, other in zip(layers, image.layers, strict=False))
    if list(image.layers) != layers:
        raise FailedError(
            f"{same} of {len(layers)} are those of a new build of this commit here: the others, or the base, differ"
        )
    return f"all {same} of {platform} are those of a new build of this commit here, so they hold what its source says"


def arguments(predicate: dict[str, Any]) -> dict[str, str]:
    """Build arguments and labels, as BuildKit records them: `build-arg:NAME`, `label:NAME`."""
    found: dict[str, str] = predicate["buildDefinition"]["externalParameters"]["request"]["args"]
    return found


def dockerfile(predicate: dict[str, Any]) -> str:
    name = predicate["buildDefinition"]["externalParameters"]["configSource"]["path"]
    if not re.fullmatch(r"[a-z0-9-]+\.Dockerfile", name):
        raise FailedError(f"it does not name a Dockerfile of docker/: {name}")
    return str(name)


def base(uri: str) -> str:
    """`pkg:docker/python@3.15-alpine?platform=…` as python:3.15-alpine."""
    return uri.removeprefix("pkg:docker/").partition("?")[0].replace("@", ":")


def names(sbom: dict[str, Any]) -> set[str]:
    """Each package with its version, without the entry of the image itself."""
    return {
        f"{package['name']} {package.get('versionInfo', '')}"
        for package in sbom["packages"]
        if package.get("primaryPackagePurpose") != "CONTAINER"
    }


if __name__ == "__main__":
    main()
