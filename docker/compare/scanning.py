"""What programs find in a saved image: packages by syft, vulnerabilities by trivy or grype."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from engine import ENGINE, ToolError, docker, last_line, run

LIMIT = 900.0  # seconds for one scan: the first one fetches a database
# Each scanner's image, and its arguments; ARCHIVE stands for the path. Their answers are described in
# https://trivy.dev/latest/docs/configuration/reporting/#json and https://github.com/anchore/grype (presenter/models).
SCANNERS = {
    "trivy": ("aquasec/trivy", "image --input ARCHIVE --scanners vuln --list-all-pkgs --format json --quiet"),
    "grype": ("anchore/grype", "docker-archive:ARCHIVE --output json --quiet"),
}
# Options of a scanner in a container: a volume keeps its database, and SELinux lets it read the archive.
CACHE = "--volume=geoip-compare:/cache --env=TRIVY_CACHE_DIR=/cache --env=GRYPE_DB_CACHE_DIR=/cache"
OPTIONS = [*CACHE.split(), "--security-opt=label=disable"]
os.environ |= {"SYFT_CHECK_FOR_APP_UPDATE": "false", "GRYPE_CHECK_FOR_APP_UPDATE": "false"}

# Numbers: all, critical, high; and `scanner`: its version, and its database's date.
Vulnerabilities = dict[str, int | str]
Json = Any  # what a program answered: of the form that it documents, or an error


def packages(archive: Path) -> Counter[str]:
    """How many packages syft finds of each kind (deb, apk, python, binary); ToolError."""
    syft = Path(sys.executable).with_name("syft")
    command = (syft if syft.exists() else "syft", "scan", f"docker-archive:{archive}", "--output=json", "--quiet")
    try:
        found = {(one["type"], one["name"], one["version"]) for one in _json("syft", run(*command))["artifacts"]}
    except (KeyError, TypeError):
        raise ToolError("syft: its output has an unknown form: install another release of it") from None
    return Counter(kind for kind, *_ in found)


def find(name: str | None) -> tuple[Callable[[Path], Vulnerabilities] | None, str]:
    """The scan of a saved image, by a program or else by an image that Docker can pull; or why there is none.

    ToolError: the scanner that was asked for by name is not there.
    """
    wanted = [name] if name else list(SCANNERS)
    for scanner in wanted:
        if shutil.which(scanner):
            return partial(scan, scanner, [scanner]), ""
    for scanner in wanted:
        for command in (("image", "inspect"), ("pull", "--quiet")):
            with suppress(ToolError):
                docker(*command, SCANNERS[scanner][0])
                return partial(scan, scanner, [ENGINE, "run", "--rm", *OPTIONS, SCANNERS[scanner][0]]), ""
    reason = f"{' or '.join(wanted)} is not installed, and its image cannot be pulled: install {wanted[0]}"
    if name:
        raise ToolError(reason)
    return None, reason


def scan(scanner: str, command: list[str], archive: Path) -> Vulnerabilities:
    """Return the findings of the scanner that this command starts. ToolError if it failed, or saw no package."""
    if command[0] == ENGINE:  # the container sees the archive under its own path
        command = [*command[:-1], f"--volume={archive.parent}:{archive.parent}:ro", command[-1]]
    arguments = SCANNERS[scanner][1].replace("ARCHIVE", str(archive)).split()
    answer = _json(scanner, run(*command, *arguments, limit=LIMIT))
    try:
        if scanner == "trivy":
            results = answer["Results"] if answer["SchemaVersion"] else []
            if not any(result.get("Packages") for result in results):
                raise ToolError("trivy: it saw no package in the image")
            entries = [entry for result in results for entry in result.get("Vulnerabilities") or []]
            found = {
                (one["VulnerabilityID"], one["PkgName"], one["InstalledVersion"]): one["Severity"] for one in entries
            }
            about = _json(scanner, run(*command, "version", "--format=json"))
            version, built = about["Version"], about["VulnerabilityDB"]["UpdatedAt"]
        else:
            pairs = [(match["vulnerability"], match["artifact"]) for match in answer["matches"]]
            found = {(one["id"], package["name"], package["version"]): one["severity"] for one, package in pairs}
            version, database = answer["descriptor"]["version"], answer["descriptor"]["db"]
            built = database.get("status", database)["built"]  # in older releases without `status`
    except (AttributeError, KeyError, TypeError):
        raise ToolError(f"{scanner}: its output has an unknown form: install another release of it") from None
    counts = Counter(severity.lower() for severity in found.values())
    return {"all": len(found), "critical": counts["critical"], "high": counts["high"]} | {
        "scanner": f"{scanner} {version}, with its database of {built}"
    }


def _json(name: str, text: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ToolError(f"{name}: {last_line(text) or 'it wrote nothing'}") from None
