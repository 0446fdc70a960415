"""Images as folders: the OCI image layout (https://github.com/opencontainers/image-spec/blob/main/image-layout.md)."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PROVENANCE = "https://slsa.dev/provenance/v1"


@dataclass(frozen=True)
class Image:
    """One platform's image in a layout."""

    platform: str
    """Such as linux/amd64."""
    digest: str
    size: int
    """Bytes of the manifest."""
    layers: tuple[str, ...]
    """Digests, from the base up."""


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def load(file: Path) -> dict[str, Any]:
    """A file with one JSON object."""
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _read(layout: Path, digest: str) -> dict[str, Any]:
    return load(blob(layout, digest))


def read(layout: Path, platform: str) -> tuple[Image, dict[str, Any] | None]:
    """The image that BuildKit wrote, and the predicate of its provenance.

    BuildKit puts the provenance beside the image, in an index. It holds the times of the build, so two builds of one
    commit have one manifest and two such indexes.
    """
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    entries = _read(layout, entry["digest"])["manifests"] if entry["mediaType"] == INDEX else [entry]
    attested = [one for one in entries if one.get("annotations", {}).get("vnd.docker.reference.type")]
    (manifest,) = [one for one in entries if one not in attested]
    layers = tuple(layer["digest"] for layer in _read(layout, manifest["digest"])["layers"])
    predicate = None
    for one in attested:
        for statement in _read(layout, one["digest"])["layers"]:
            content = _read(layout, statement["digest"])
            if content["predicateType"] == PROVENANCE:
                predicate = content["predicate"]
    return Image(platform, manifest["digest"], manifest["size"], layers), predicate


def join(folder: Path, layouts: dict[Image, Path]) -> str:
    """Write one layout with all images and an index of them; the index's digest.

    The index holds the images alone, the same bytes for the same images. In index.json each manifest has its digest
    as its name.
    """
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    for layout in layouts.values():
        for file in (layout / "blobs/sha256").iterdir():
            if not (blobs / file.name).exists():
                _link(file, blobs / file.name)
    images = sorted(layouts, key=lambda image: image.platform)
    manifests = [_descriptor(MANIFEST, image.digest, image.size) | _platform(image.platform) for image in images]
    content = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, indent=2).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob(folder, digest).write_bytes(content)
    entries = [_descriptor(INDEX, digest, len(content)), *manifests]
    named = [
        entry | {"annotations": {"org.opencontainers.image.ref.name": str(entry["digest"]).replace(":", "-")}}
        for entry in entries
    ]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": named}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return digest


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy(source, target)


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _platform(platform: str) -> dict[str, object]:
    system, architecture = platform.split("/")
    return {"platform": {"architecture": architecture, "os": system}}
