"""What `make run-NAME` hands to a container."""

import shlex
import subprocess
from pathlib import Path

from tests.conftest import ROOT, environment


def run_command(**settings: object) -> list[str]:
    """The words of the docker command that starts an image."""
    done = subprocess.run(
        ["make", "--dry-run", "run-scratch"],
        env=environment(**settings),
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=30,
        check=True,
    )
    (line,) = [line for line in done.stdout.replace("\\\n", "").splitlines() if line.startswith("docker run")]
    return shlex.split(line)


def test_settings_and_proxies_are_passed_on_without_their_values() -> None:
    words = run_command(GEOIP_IPIFY_KEY="sesame", HTTPS_PROXY="http://me:sesame@proxy.example", PORT=9)
    assert {"GEOIP_IPIFY_KEY", "HTTPS_PROXY"} <= set(words)
    assert "sesame" not in " ".join(words)
    assert [word for word in words if word.startswith("PORT")] == ["PORT=8080"]
    assert "--mount" not in words


def test_files_are_mounted_where_they_are(tmp_path: Path) -> None:
    words = run_command(GEOIP_MMDB_CITY=tmp_path / "city.mmdb", SSL_CERT_FILE="ca.pem")
    for name, path in (("GEOIP_MMDB_CITY", tmp_path / "city.mmdb"), ("SSL_CERT_FILE", ROOT / "ca.pem")):
        assert f"{name}={path}" in words
        assert f"type=bind,readonly,source={path},target={path}" in words
    assert "GEOIP_MMDB_CITY" not in words
