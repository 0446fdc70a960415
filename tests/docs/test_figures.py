"""Figures in the documents are those that were measured, and stand where they are checked."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.bench import written
from tests.conftest import ROOT

DOCUMENTS = ["README.md", "docs/workshop.md"]
COMPARISON = """\
{"measured": "2026-01-01", "syft": null, "scanner": null, "bases": [],
 "machine": {"cpus": 2, "memory": 1, "architecture": "", "system": "", "kernel": "", "docker": "", "load": 0},
 "images": [
  {"name": "one", "image": "", "unpacked": 90000000, "executables": 0, "shells": ["sh"], "vulnerabilities": null},
  {"name": "two", "image": "", "unpacked": 20000000, "executables": 3, "shells": [], "vulnerabilities": null}]}
"""


def figures(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "docker/compare/figures.py"
    return subprocess.run([sys.executable, program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    path = tmp_path / "comparison.json"
    path.write_text(COMPARISON)
    return path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_figures_are_those_of_the_comparison(document: str) -> None:
    checked = figures("docs/comparison.json", "--check", document)
    assert checked.returncode == 0, checked.stderr


def test_figures_of_the_benchmark_are_those_of_its_last_run() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    assert page == written(page, json.loads((ROOT / "docs/benchmark.json").read_text()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sizes_and_times_stand_in_markers_only(document: str) -> None:
    text = re.sub(r"<!-- comparison: .*?<!-- /comparison -->", "", (ROOT / document).read_text(), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```|`[^`\n]*`|<!-- figure: .*?<!-- / -->", "", text, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"[^\n]*\d [kMG]B[^\n]*|[^\n]*\d m?s\b[^\n]*", text) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "It is <!-- figure: two, unpacked --><!-- / --> now.",
            "It is <!-- figure: two, unpacked -->20.0 MB<!-- / --> now.",
        ),
        (
            "It was <!-- figure: two, unpacked -->9 MB<!-- / -->.",
            "It was <!-- figure: two, unpacked -->20.0 MB<!-- / -->.",
        ),
        (
            "By <!-- figure: one / two, unpacked -->?<!-- / -->.",
            "By <!-- figure: one / two, unpacked -->4.5<!-- / -->.",
        ),
        (
            "<!-- comparison: executables, shell -->\nold\n<!-- /comparison -->\n",
            "<!-- comparison: executables, shell -->\n| image | executables | shell |\n| --- | ---: | --- |\n"
            "| `one` | 0 | sh |\n| `two` | 3 | none |\n<!-- /comparison -->\n",
        ),
    ],
)
def test_a_figure_is_written_after_its_marker(comparison: Path, before: str, after: str) -> None:
    document = comparison.with_name("document.md")
    document.write_text(before)
    assert figures(comparison, "--check", document).returncode == 1
    assert figures(comparison, document).returncode == 0
    assert document.read_text() == after
    assert figures(comparison, "--check", document).returncode == 0


def test_a_table_of_figures_on_stand_ins_says_so(comparison: Path) -> None:
    document = comparison.with_name("document.md")
    for published, lines in (("null", 0), ("true", 0), ("false", 1)):
        base = f'[{{"name": "base", "id": "", "digests": [], "published": {published}}}]'
        comparison.write_text(COMPARISON.replace('"bases": []', f'"bases": {base}'))
        document.write_text("<!-- comparison: shell -->\n<!-- /comparison -->\n")
        assert figures(comparison, document).returncode == 0
        assert document.read_text().count("stand-ins") == lines
        assert figures(comparison, "--check", document).returncode == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("A <!-- figure: three, unpacked --><!-- / -->", "there is no 'three': one, two"),
        ("A <!-- figure: one, weight --><!-- / -->", "there is no 'weight': unpacked"),
        ("A <!-- figure: two / one, executables --><!-- / -->", "executables of two or one was not measured, or is 0"),
        ("A <!-- figure: one, files --><!-- / -->", "files of one was not measured"),
        ("A <!-- figure: one -->1<!-- / -->", "this marker cannot be read: <!-- figure: one -->1<!-- / -->"),
        ("<!-- comparison -->\n<!-- /comparison -->", "this marker cannot be read: <!-- comparison -->"),
        ("A\n<!-- figure: one, unpacked --><!-- / -->", "a line begins with <!-- figure: one, unpacked -->"),
    ],
)
def test_a_figure_that_there_is_not_is_named(comparison: Path, text: str, complaint: str) -> None:
    document = comparison.with_name("document.md")
    document.write_text(text)
    written = figures(comparison, document)
    assert complaint in written.stderr
    assert (written.returncode, document.read_text()) == (1, text)
