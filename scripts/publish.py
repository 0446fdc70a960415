"""Publish one image for several platforms: `make publish REGISTRY=host/path`.

The order keeps the tags true: build all, compare with what is published, push by digest, attest and sign, and only
then set the tags. An interruption leaves the tags as they were, and the same command goes on.
"""

import argparse
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.publishing import layout
from scripts.publishing.building import build, packages, supported
from scripts.publishing.commands import FailedError, RefusedError, commit, finish
from scripts.publishing.layout import Image
from scripts.publishing.registry import Repository, platforms
from scripts.publishing.signing import PROVENANCE, SBOM, Signer, publisher


def main() -> None:
    parser = argparse.ArgumentParser(prog="publish", description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="name of the image, as in docker/NAME.Dockerfile")
    parser.add_argument("--registry", required=True, metavar="HOST/PATH", help="where to push")
    parser.add_argument("--version", required=True, help="end of the tag NAME-VERSION")
    parser.add_argument("--platforms", default="linux/amd64,linux/arm64", help="default: %(default)s")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one exchange with the registry")
    parser.add_argument("--digests", type=Path, metavar="FOLDER", help="push without tags, and write the digests here")
    parser.add_argument("--join", action="store_true", help="tag what other machines have pushed, by --digests")
    parser.epilog = "After --, give the command that builds the image: -- docker build …"
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:split], argparse.Namespace(build=sys.argv[split + 1 :]))
    with TemporaryDirectory(prefix="geoip-publish-") as folder:
        finish(f"publish {options.image}", lambda: publish(options, Path(folder)))


def publish(options: argparse.Namespace, folder: Path) -> None:
    if options.build and "podman" in options.build[0]:
        raise RefusedError(
            "Podman writes no provenance: publish with ENGINE=docker, or push and sign as docs/workshop-publish.md says"
        )
    if not options.registry:
        raise RefusedError("REGISTRY is not set: REGISTRY=host/path names where to push")
    if not re.fullmatch(r"\d[\w.-]{0,99}", options.version):
        raise RefusedError(f"{options.version!r} is not a version: VERSION=1.2.3")
    repository = Repository(options.registry, options.timeout)
    commit()
    signer = publisher(folder, options.timeout, local=repository.local)
    names = options.platforms.split(",")
    tag = f"{options.image}-{options.version}"
    before = repository.manifest(f":{tag}")
    provenance: dict[Image, dict[str, Any]] = {}
    if options.join:
        layouts = _pulled(options, repository, folder)
        if sorted(image.platform for image in layouts) != sorted(names):
            raise RefusedError(f"{options.digests} lacks digests of {options.platforms}: push each of them first")
    else:
        layouts, provenance = _built(options, names, folder)
    joined = folder / "joined"
    index = layout.join(joined, layouts)
    # One machine of several knows only its own image, not the whole index.
    partial = options.digests and not options.join
    _compare(before, layouts, None if partial else index, f"{repository.name}:{tag}")
    if not options.join:
        for image in layouts:
            repository.push(joined, image.digest, f"@{image.digest}")
            _attest(repository, signer, image, provenance[image], folder)
    if partial:
        options.digests.mkdir(parents=True, exist_ok=True)
        for image in layouts:
            file = options.digests / f"{options.image}-{image.platform.replace('/', '-')}"
            file.write_text(f"{image.platform} {image.digest}\n")
            print(f"{repository.at(image.digest)} {image.platform}")
        return
    repository.push(joined, index, f"@{index}")
    try:
        signer.verify(repository.at(index))
    except FailedError:
        signer.sign(repository.at(index))
    # Once more: builds take minutes, and somebody else may have published meanwhile.
    _compare(repository.manifest(f":{tag}"), layouts, index, f"{repository.name}:{tag}")
    repository.push(joined, index, f":{tag}")
    repository.push(joined, index, f":{options.image}")
    print(f"{repository.name}:{tag}@{index}", flush=True)


def _built(
    options: argparse.Namespace, names: list[str], folder: Path
) -> tuple[dict[Image, Path], dict[Image, dict[str, Any]]]:
    known = supported()
    for name in names:
        if name not in known:
            raise RefusedError(f"this Docker does not build for {name}: set PLATFORMS to some of {','.join(known)}")
    layouts, provenance = {}, {}
    for name in names:
        place = folder / name.replace("/", "-")
        image, predicate = build(options.build, name, place)
        layouts[image], provenance[image] = place, predicate
    return layouts, provenance


def _pulled(options: argparse.Namespace, repository: Repository, folder: Path) -> dict[Image, Path]:
    layouts = {}
    for file in sorted(options.digests.glob(f"{options.image}-linux-*")):
        platform, digest = file.read_text().split()
        place = folder / platform.replace("/", "-")
        repository.pull(place, digest)
        image, _ = layout.read(place, platform)
        layouts[image] = place
    return layouts


def _compare(
    before: tuple[str, dict[str, Any]] | None, layouts: dict[Image, Path], index: str | None, tag: str
) -> None:
    """Refuse to give a version other content, or fewer platforms."""
    if before is None or before[0] == index:
        return
    digest, content = before
    there = platforms(content)
    if any(there.get(image.platform) != image.digest for image in layouts):
        raise RefusedError(f"{tag} is published with other content, {digest}: raise the version")
    if index:
        raise RefusedError(f"{tag} is published for {','.join(there)}: set PLATFORMS to these, or raise the version")


def _attest(repository: Repository, signer: Signer, image: Image, provenance: dict[str, Any], folder: Path) -> None:
    """Attach the attestations that an image lacks."""
    reference = repository.at(image.digest)
    for kind in (PROVENANCE, SBOM):
        with suppress(FailedError):
            signer.attested(reference, kind)
            continue
        file = folder / f"{kind}.json"
        if kind == SBOM:
            packages(reference, image.platform, file, signer.limit)
        else:
            file.write_text(json.dumps(provenance))
        signer.attest(reference, kind, file)


if __name__ == "__main__":
    main()
