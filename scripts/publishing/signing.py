"""Signatures and attestations, by cosign: with a key, or without one from a workflow of GitHub."""

import base64
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scripts.publishing.commands import FailedError, RefusedError, run

ISSUER = "https://token.actions.githubusercontent.com"
PROVENANCE, SBOM = "slsaprovenance1", "spdxjson"
"""Kinds of attestations, as cosign names them."""


@dataclass(frozen=True)
class Signer:
    name: str
    """The owner of the signature."""
    signing: tuple[str, ...]
    """Options of cosign."""
    verifying: tuple[str, ...]
    log: bool
    """Whether signatures are in the public log."""
    limit: float

    def sign(self, reference: str) -> None:
        """Sign an index and the images in it."""
        options = ("--yes", "--recursive", *self.signing, *self._options("sign"))
        self._write("sign", *options, reference, what=f"signing {reference}")

    def attest(self, reference: str, kind: str, predicate: Path) -> None:
        options = ("--yes", "--type", kind, "--predicate", str(predicate), *self.signing, *self._options("attest"))
        self._write("attest", *options, reference, what=f"attesting {kind} of {reference}")

    def verify(self, reference: str) -> None:
        """Raise FailedError unless a signature of this digest is the signer's."""
        options = (*self.verifying, *self._options("verify"))
        run("cosign", "verify", *options, reference, what="no valid signature", limit=self.limit)

    def attested(self, reference: str, kind: str) -> dict[str, Any]:
        """The predicate of the newest attestation of this kind; FailedError unless the signer made one."""
        options = ("--type", kind, *self.verifying, *self._options("verify-attestation"))
        output = run("cosign", "verify-attestation", *options, reference, what="none is valid", limit=self.limit)
        statement = json.loads(base64.b64decode(json.loads(output.splitlines()[-1])["payload"]))
        predicate: dict[str, Any] = statement["predicate"]
        return predicate

    def _write(self, command: str, *options: str, what: str) -> None:
        try:
            run("cosign", command, *options, what=what, limit=self.limit)
        except FailedError as error:
            if self.log and "/log/entries" in str(error):
                raise FailedError(f"the public log took no signature (TLOG=0 leaves it out): {error}") from None
            raise

    def _options(self, command: str) -> tuple[str, ...]:
        """The options that leave the public log out, and those that keep cosign 3 to the format of cosign 2."""
        options: tuple[str, ...] = ()
        if not self.log:
            options = ("--tlog-upload=false",) if command in ("sign", "attest") else ("--insecure-ignore-tlog=true",)
        # A registry may lack the interface that the newer format needs, and policy-controller reads the older one.
        older = ("--use-signing-config=false", "--new-bundle-format=false")
        return (*options, *[option for option in older if _takes(command, option)])


def publisher(folder: Path, limit: float, *, local: bool) -> Signer:
    """The publisher: the owner of COSIGN_KEY, or the workflow that runs. The public key is written into the folder."""
    environment = os.environ
    if key := environment.get("COSIGN_KEY"):
        if "://" not in key and not Path(key).is_file():
            raise RefusedError(f"COSIGN_KEY: there is no file {key} (cosign generate-key-pair makes one)")
        if "://" not in key and "COSIGN_PASSWORD" not in environment:
            raise RefusedError("COSIGN_PASSWORD is not set: set it to the password of the key, empty if it has none")
        key = key if "://" in key else str(Path(key).resolve())
        public = folder / "cosign.pub"
        try:
            public.write_text(run("cosign", "public-key", "--key", key, what="COSIGN_KEY", limit=limit))
        except FailedError as error:
            raise RefusedError(str(error)) from None
        return Signer(key, ("--key", key), ("--key", str(public)), _logged(local=local), limit)
    if "ACTIONS_ID_TOKEN_REQUEST_TOKEN" not in environment:
        raise RefusedError("there is no key to sign with: COSIGN_KEY=cosign.key (cosign generate-key-pair makes one)")
    _need_log()
    identity = f"{environment['GITHUB_SERVER_URL']}/{environment['GITHUB_WORKFLOW_REF']}"
    return Signer(identity, (), ("--certificate-identity", identity, "--certificate-oidc-issuer", ISSUER), True, limit)


def verifier(source: str, limit: float, *, local: bool) -> Signer:
    """The signer to expect: the owner of COSIGN_PUBLIC_KEY, or the release workflow of the repository at `source`."""
    if key := os.environ.get("COSIGN_PUBLIC_KEY"):
        if "://" not in key and not Path(key).is_file():
            raise RefusedError(f"COSIGN_PUBLIC_KEY: there is no file {key}: name the public half of the key")
        key = key if "://" in key else str(Path(key).resolve())
        return Signer(key, (), ("--key", key), _logged(local=local), limit)
    if not source.startswith("https://github.com/"):
        raise RefusedError(
            "it is not known whose signature to expect: set COSIGN_PUBLIC_KEY=cosign.pub, or SOURCE=https://github.com/OWNER/geoip"
        )
    _need_log()
    identity = workflow(source)
    options = ("--certificate-identity-regexp", identity, "--certificate-oidc-issuer", ISSUER)
    return Signer(f"{source}'s release workflow", (), options, True, limit)


def workflow(source: str) -> str:
    """The identity of the release workflow, as a regular expression, as in deploy/admission/require-signature.yaml."""
    escaped = source.removesuffix("/").replace(".", r"\.")
    return rf"^{escaped}/\.github/workflows/release\.yaml@refs/tags/v[0-9.]+$"


def _logged(*, local: bool) -> bool:
    """Whether signatures with a key go to the public log: TLOG. By default not those of a registry on this machine."""
    return os.environ.get("TLOG", "0" if local else "1") != "0"


def _need_log() -> None:
    if os.environ.get("TLOG") == "0":
        raise RefusedError("TLOG=0 needs a key: a signature without one proves nothing unless it is in the public log")


@cache
def _takes(command: str, option: str) -> bool:
    """Whether this cosign has the option. Its help does not say so: it hides what is deprecated."""
    try:
        run("cosign", command, option, "--help", what="cosign", limit=60)
    except FailedError:
        return False
    return True
