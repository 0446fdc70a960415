"""A repository in a registry, by skopeo, with the credentials of `docker login`."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.publishing import layout
from scripts.publishing.commands import FailedError, RefusedError, run

_NAME = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+")
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:|/)")


@dataclass(frozen=True)
class Repository:
    name: str
    """host/path, without a tag."""
    limit: float
    """Seconds for one exchange with the registry."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RefusedError(f"{self.name!r} is not a repository: REGISTRY=host/path, in small letters")

    @property
    def local(self) -> bool:
        """Whether the registry is on this machine."""
        return _LOOPBACK.match(self.name) is not None

    def at(self, digest: str) -> str:
        return f"{self.name}@{digest}"

    def manifest(self, reference: str) -> tuple[str, dict[str, Any]] | None:
        """The digest and the content of `:tag` or `@digest`; None if the registry has no such name."""
        what = f"reading {self.name}{reference}"
        # skopeo itself tries a registry again and again.
        command = ("skopeo", f"--command-timeout={self.limit:g}s", "inspect", "--raw", *self._plain("--"))
        try:
            raw = run(*command, f"docker://{self.name}{reference}", what=what, limit=self.limit + 5)
        except FailedError as error:
            if re.search(r"manifest unknown|name unknown|not found", str(error)):
                return None
            if re.search(r"unauthorized|denied|forbidden|authentication required", str(error), re.IGNORECASE):
                raise RefusedError(f"no permission for {self.name}: docker login {self.name.split('/')[0]}") from None
            raise RefusedError(f"no registry answers at {self.name.split('/')[0]}: {error}") from None
        try:
            content: dict[str, Any] = json.loads(raw)
        except ValueError:
            raise RefusedError(f"no registry answers at {self.name.split('/')[0]}: {what}: it is not JSON") from None
        digest = f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
        if reference.startswith("@") and reference != f"@{digest}":
            raise FailedError(f"{self.name}{reference} has other content: its digest is {digest}")
        return digest, content

    def push(self, folder: Path, digest: str, reference: str) -> None:
        """Copy a manifest of the layout, an index with its images, to `:tag` or `@digest`.

        Content that the registry has is not sent again.
        """
        source = f"oci:{folder}:{digest.replace(':', '-')}"
        self._copy(source, f"docker://{self.name}{reference}", f"pushing to {self.name}{reference}", "--dest-")

    def pull(self, folder: Path, digest: str) -> None:
        """Copy an image into a layout of its own."""
        self._copy(f"docker://{self.at(digest)}", f"oci:{folder}", f"pulling {self.at(digest)}", "--src-")

    def _copy(self, source: str, target: str, what: str, side: str) -> None:
        options = ("--all", "--preserve-digests", *self._plain(side))
        command = ("skopeo", f"--command-timeout={self.limit:g}s", "copy", *options, source, target)
        try:
            run(*command, what=what, limit=self.limit + 5)
        except FailedError as error:
            if re.search(r"unauthorized|denied|forbidden|authentication required", str(error), re.IGNORECASE):
                raise RefusedError(f"no permission to push: docker login {self.name.split('/')[0]}") from None
            raise

    def _plain(self, side: str) -> tuple[str, ...]:
        """A registry on this machine needs no TLS, as for Docker."""
        return (f"{side}tls-verify=false",) if self.local else ()


def platforms(index: dict[str, Any]) -> dict[str, str]:
    """The digest of each platform's image."""
    if index.get("mediaType") != layout.INDEX:
        raise FailedError("it is one image, not an index of one for each platform")
    try:
        return {
            f"{entry['platform']['os']}/{entry['platform']['architecture']}": entry["digest"]
            for entry in index["manifests"]
        }
    except KeyError as error:
        raise FailedError(f"it is an index of something else than images: an entry has no {error}") from None
