"""What tools see in a saved image: packages by syft, vulnerabilities by the scanner that is there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 900.0  # seconds for one run: some fetch their database first
SEVERITIES = ("critical", "high", "medium", "low", "other")
OS_PACKAGES = ("apk", "deb", "rpm")

Json = Any
"""What a tool answered: its shape is what it says in its documentation, or an error."""


class ScanError(Exception):
    """Why there is no result, in one line: what the tool calls its error, or the last that it said."""


class NoScannerError(Exception):
    """No scanner is there, or not the one that was asked for; one line says so."""


class Finding(NamedTuple):
    """A vulnerability of a package."""

    id: str
    package: str
    version: str
    severity: str  # one of SEVERITIES


class Report(NamedTuple):
    """What a scanner found, and what it is."""

    findings: list[Finding]
    version: str | None
    database: str | None
    """When its database was made, ISO 8601; for an online service, when it was asked."""


class Package(NamedTuple):
    kind: str
    name: str
    version: str


@dataclass(frozen=True)
class Scanner:
    name: str
    command: str
    """The archive's path goes where ARCHIVE stands."""
    read: Callable[[Json], Report]
    statuses: tuple[int, ...] = (0,)
    """Exit statuses of a scan that was completed."""

    def scan(self, archive: Path) -> Report:
        """Run it on an archive that `docker save` wrote; ScanError if it fails or its answer cannot be understood."""
        answer = run([word.replace("ARCHIVE", str(archive)) for word in self.command.split()], self.statuses)
        try:
            data = json.loads(answer)
        except (ValueError, RecursionError):
            raise ScanError(_last_line(answer) or "it wrote nothing") from None
        try:
            report = self.read(data)
            # The same package may be found at several places, and by several ways to it.
            return report._replace(findings=sorted(set(report.findings), key=_worst_first))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            shape = f"{self.name} answered in an unknown shape: {type(error).__name__} {error}"
            raise ScanError(_error(answer) or shape) from None

    def there(self) -> bool:
        if not self.name.startswith("docker "):
            return shutil.which(self.name) is not None
        try:
            run([*self.name.split(), "version"])
        except ScanError:
            return False
        return True


def installed(name: str | None = None) -> Scanner | None:
    """The scanner of that name, or NoScannerError; without a name the first there is, or None."""
    for scanner in SCANNERS:
        if scanner.name == (name or scanner.name) and scanner.there():
            return scanner
    if name:
        raise NoScannerError(f"no scanner is there: install {name}")
    return None


def count(findings: list[Finding]) -> dict[str, int]:
    counts = Counter(finding.severity for finding in findings)
    return {severity: counts[severity] for severity in SEVERITIES}


def packages(archive: Path) -> tuple[set[Package], str]:
    """What syft finds in the archive, and its version; ScanError if it fails."""
    syft = Path(sys.executable).with_name("syft")
    answer = run(
        [str(syft if syft.exists() else "syft"), "scan", f"docker-archive:{archive}", "--output", "json", "--quiet"]
    )
    try:
        report = json.loads(answer)
        found = {Package(artifact["type"], artifact["name"], artifact["version"]) for artifact in report["artifacts"]}
        return found, str(report["descriptor"]["version"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ScanError(_last_line(answer) or "it wrote nothing") from None


def run(command: list[str], statuses: tuple[int, ...] = (0,)) -> str:
    """What a tool writes; ScanError, with the reason that it gives, if it ends otherwise."""
    try:
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Asked each time, it would tell of new releases.
            env=os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false", "GRYPE_CHECK_FOR_APP_UPDATE": "false"},
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=LIMIT)
            except BaseException:  # too late, or interrupted: its own children end as well
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except OSError as error:
        raise ScanError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ScanError(f"{command[0]} took more than {LIMIT:.0f} s") from None
    if process.returncode not in statuses:
        raise ScanError(
            _error(output) or _last_line(errors) or _last_line(output) or f"exit status {process.returncode}"
        )
    return output


def _error(text: str) -> str:
    """`error` or `message` of a JSON object, or nothing: snyk writes its errors so, over several lines."""
    with suppress(ValueError, RecursionError):
        answer = json.loads(text)
        if isinstance(answer, dict):
            return _last_line(" ".join(str(answer.get("error") or answer.get("message") or "").split()))
    return ""


def _last_line(text: str) -> str:
    # Without what would colour or move the reader's terminal.
    lines = [
        re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^\x20-\x7e\xa0-\U0010ffff]", "", line).strip() for line in text.splitlines()
    ]
    return next((line[:200] for line in reversed(lines) if line), "")


def _severity(text: str) -> str:
    return text.lower() if text.lower() in SEVERITIES else "other"


def _worst_first(finding: Finding) -> tuple[int, str, str]:
    return SEVERITIES.index(finding.severity), finding.package, finding.id


# A scanner is a command and a function from its JSON to a report.


def _snyk(answer: Json) -> Report:
    """https://docs.snyk.io/developer-tools/snyk-cli/commands/container-test: an object, or a list of them."""

    def results() -> Iterator[dict[str, Any]]:
        for project in answer if isinstance(answer, list) else [answer]:
            yield project
            yield from project.get("applications", [])

    if not sum(result["dependencyCount"] for result in results()):
        raise ScanError("snyk saw no package at all")
    found = [
        Finding(entry["id"], entry["packageName"], entry["version"], _severity(entry["severity"]))
        for result in results()
        for entry in result["vulnerabilities"]
    ]
    version = _last_line(run(["snyk", "--version"]))
    return Report(found, version, datetime.now(UTC).isoformat(timespec="seconds"))


def _trivy(answer: Json) -> Report:
    """https://trivy.dev/docs/latest/configuration/reporting/#json"""
    if answer["SchemaVersion"] and not any(result.get("Packages") for result in answer.get("Results") or []):
        raise ScanError("trivy saw no package at all")
    found = [
        Finding(entry["VulnerabilityID"], entry["PkgName"], entry["InstalledVersion"], _severity(entry["Severity"]))
        for result in answer["Results"]
        for entry in result.get("Vulnerabilities") or []
    ]
    about = json.loads(run(["trivy", "version", "--format", "json"]))
    return Report(found, about["Version"], about.get("VulnerabilityDB", {}).get("UpdatedAt"))


def _grype(answer: Json) -> Report:
    """https://github.com/anchore/grype: with version 6 of its database, what is told of it moved under `status`."""
    found = [
        Finding(
            match["vulnerability"]["id"],
            match["artifact"]["name"],
            match["artifact"]["version"],
            _severity(match["vulnerability"]["severity"]),
        )
        for match in answer["matches"]
    ]
    database = answer["descriptor"].get("db") or {}
    built = database.get("status", database).get("built")
    if not built:
        raise ScanError("grype names no database that it looked into")
    return Report(found, answer["descriptor"]["version"], built)


def _scout(answer: Json) -> Report:
    """GitLab's report of container scanning, the only JSON with severities that it writes:
    https://gitlab.com/gitlab-org/security-products/security-report-schemas"""
    found = []
    for entry in answer["vulnerabilities"]:
        dependency = entry["location"]["dependency"]
        cve = next((other["value"] for other in entry.get("identifiers", []) if other["type"] == "cve"), entry["id"])
        found.append(Finding(cve, dependency["package"]["name"], dependency["version"], _severity(entry["severity"])))
    return Report(found, answer["scan"]["scanner"]["version"], answer["scan"]["end_time"])


SCANNERS = (
    Scanner("snyk", "snyk container test docker-archive:ARCHIVE --json", _snyk, (0, 1)),
    Scanner("trivy", "trivy image --input ARCHIVE --scanners vuln --list-all-pkgs --format json --quiet", _trivy),
    Scanner("grype", "grype docker-archive:ARCHIVE --output json --quiet", _grype),
    Scanner("docker scout", "docker scout cves archive://ARCHIVE --format gitlab", _scout),
)
