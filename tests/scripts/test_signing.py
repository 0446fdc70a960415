"""Signing with cosign 3, of which a stand-in records the calls. The tests of publishing use cosign 2.5 itself."""

from pathlib import Path

import pytest

from scripts.publishing.signing import Signer

# The help of cosign 3.1 does not list an option that is deprecated, and cosign takes it all the same.
COSIGN = """#!/bin/sh
case " $* " in
*" --help "*) echo 'Usage: cosign sign [flags]' ;;
*) echo "$*" >"$0.called" ;;
esac
"""


@pytest.mark.parametrize("log", [True, False], ids=["public log", "no log"])
def test_a_signature_of_cosign_3_has_the_format_of_cosign_2(
    log: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cosign = tmp_path / "cosign"
    cosign.write_text(COSIGN)
    cosign.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Signer("me", ("--key", "cosign.key"), (), log, 60).sign("registry.example/geoip@sha256:0")
    options = (tmp_path / "cosign.called").read_text().split()
    # cosign 3 refuses the second without the first.
    assert {"--use-signing-config=false", "--new-bundle-format=false"} <= set(options)
    assert ("--tlog-upload=false" in options) is not log
