"""What is measured of an image: one list, MEASURES, at the end.

Each is a column of the tables and a key of the JSON. docs/comparison.md says what it means.
"""

import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import archive
import building
import running
import scanning
from archive import File, Layer
from engine import ENGINE, ToolError
from running import Sample
from scanning import Vulnerabilities

SHELLS = ("sh", "bash", "ash", "dash", "zsh", "busybox")
PACKAGE_MANAGERS = ("apk", "apt", "apt-get", "dpkg", "rpm", "pip", "uv")
FOLDERS = [f"{prefix}/{name}" for prefix in ("", "/usr", "/usr/local") for name in ("bin", "sbin")]
LIBRARY = re.compile(r"[.]so([.][0-9.]+)?$")
PYTHON = re.compile(r"(?:^|/)(?:lib)?python(3[.][0-9]+)(?:[.]so.*)?$")


@dataclass
class Subject:
    """An image that is measured. It finds the facts that several measures need only once."""

    name: str
    image: str
    archive: Path  # what `docker save` wrote
    build: Sequence[str]
    scan: Callable[[Path], Vulnerabilities] | None
    compressed: dict[str, int]  # the layers whose compressed size is known
    samples: list[Sample] = field(default_factory=list)
    failure: ToolError | None = None

    @cached_property
    def layers(self) -> list[Layer]:
        return archive.layers(self.archive)

    @cached_property
    def tree(self) -> dict[str, File]:
        return archive.tree(self.layers)

    @cached_property
    def files(self) -> list[File]:
        return [file for file in self.tree.values() if stat.S_ISREG(file.mode)]

    @cached_property
    def packages(self) -> Counter[str]:
        return scanning.packages(self.archive)

    def start(self) -> None:
        """Start it once more, unless it failed before."""
        try:
            if self.failure is None:
                self.samples.append(running.sample(self.image))
        except ToolError as error:
            self.failure = ToolError(f"{error} ({ENGINE} run --rm {self.image} shows more)")

    def median(self, figure: Callable[[Sample], float]) -> float:
        if self.failure:
            raise self.failure
        return median(map(figure, self.samples))

    def with_mode(self, bits: int) -> list[str]:
        return [file.path for file in self.files if file.mode & bits]

    def on_the_path(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if any(f"{folder}/{name}" in self.tree for folder in FOLDERS)]

    def python(self) -> str:
        """By the name of its program or library."""
        return ", ".join(sorted({found[1] for file in self.files if (found := PYTHON.search(file.path))})) or "none"


class Measure(NamedTuple):
    name: str
    unit: str  # MB, s, count, text, names or severities
    of: Callable[[Subject], Any]  # ToolError: why there is no figure


MEASURES = (
    Measure("unpacked", "MB", lambda image: sum(file.size for layer in image.layers for file in layer.files)),
    Measure("compressed", "MB", lambda image: sum(archive.compressed(image.archive, image.compressed).values())),
    Measure("second pull", "MB", lambda image: building.second_pull(image.name, image.build, image.compressed)),
    Measure("Python", "text", Subject.python),
    Measure("files", "count", lambda image: len(image.files)),
    Measure("executables", "count", lambda image: sum(not LIBRARY.search(path) for path in image.with_mode(0o111))),
    Measure("setuid", "count", lambda image: len(image.with_mode(0o6000))),
    Measure("OS packages", "count", lambda image: image.packages["deb"] + image.packages["apk"]),
    Measure("Python packages", "count", lambda image: image.packages["python"]),
    Measure("shell", "names", lambda image: image.on_the_path(SHELLS)),
    Measure("package manager", "names", lambda image: image.on_the_path(PACKAGE_MANAGERS)),
    Measure("first answer", "s", lambda image: round(image.median(lambda sample: sample.start), 3)),
    Measure("memory", "MB", lambda image: round(image.median(lambda sample: sample.memory))),
    Measure("vulnerabilities", "severities", lambda image: image.scan and image.scan(image.archive)),
)
