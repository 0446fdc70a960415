"""Figures in the documents are those that were measured, and stand where they are checked."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.report import written
from tests.conftest import ROOT

DOCUMENTS = ["README.md", "docs/article.md", "docs/comparison.md", "docs/ladder.md", "docs/workshop.md"]
COMPARISON = {
    "measured": "2026-01-01",
    "machine": "docker 1",
    "stand_ins": [],
    "images": [
        {"name": "one", "figures": {"unpacked": 90_000_000, "executables": 0, "shell": ["sh"]}, "problems": {}},
        {"name": "two", "figures": {"unpacked": 20_000_000, "executables": 3, "shell": []}, "problems": {}},
    ],
}
TABLE = """\
<!-- comparison: executables, shell -->
| image | executables | shell |
| ----- | ----------: | ----- |
| `one` |           0 | sh    |
| `two` |           3 | none  |
<!-- /comparison -->
"""


def figures(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = ROOT / "docker/compare/figures.py"
    return subprocess.run([sys.executable, program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(COMPARISON))
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
    text = re.sub(r"<!-- (comparison|diff|notes)\b.*?<!-- /\1 -->", "", (ROOT / document).read_text(), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```|`[^`\n]*`|<!-- figure: .*?<!-- / -->", "", text, flags=re.DOTALL | re.MULTILINE)
    assert [
        line for line in re.findall(r"[^\n]*\d [kMG]B[^\n]*|[^\n]*\d m?s\b[^\n]*", text) if "10^6" not in line
    ] == []


def test_the_ladder_has_each_image_beside_the_one_before() -> None:
    pairs = re.findall(r"^<!-- diff: (\S+), (\S+) -->$", (ROOT / "docs/ladder.md").read_text(), re.MULTILINE)
    steps = [pairs[0][0], *(second for _, second in pairs)]
    assert [first for first, _ in pairs] == steps[:-1]
    assert sorted(steps) == sorted(path.stem for path in ROOT.glob("docker/*.Dockerfile"))
    images = [image["name"] for image in json.loads((ROOT / "docs/comparison.json").read_text())["images"]]
    assert steps == images


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
        ("<!-- comparison: executables, shell -->\nold\n<!-- /comparison -->\n", TABLE),
        (
            "<!-- notes -->\n<!-- /notes -->",
            "<!-- notes -->\n- Measured 2026-01-01, with docker 1.\n<!-- /notes -->",
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


def test_two_dockerfiles_are_compared_as_diff_does(comparison: Path) -> None:
    document = comparison.with_name("document.md")
    document.write_text("<!-- diff: alpine, scratch -->\n<!-- /diff -->\n")
    assert figures(comparison, document).returncode == 0
    files = [f"docker/{name}.Dockerfile" for name in ("alpine", "scratch")]
    command = ["diff", "--unified=1", "--label", files[0], "--label", files[1], *files]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout

    def changes(text: str, sign: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(sign)]

    written = document.read_text()
    # Two diffs may pair equal lines differently and both be right: compare the lines, not their order.
    assert written.count("```") == 2
    assert changes(written, "---") == changes(shown, "---")
    assert changes(written, "+++") == changes(shown, "+++")
    old, new = (Path(ROOT, file).read_text().splitlines() for file in files)
    assert {line[1:] for line in changes(written, "-")[1:]} <= set(old)
    assert {line[1:] for line in changes(written, "+")[1:]} >= set(new) - set(old)


def test_a_table_of_figures_on_stand_ins_says_so(comparison: Path) -> None:
    document = comparison.with_name("document.md")
    for stand_ins, lines in (([], 0), (["python:3.13-alpine"], 1)):
        comparison.write_text(json.dumps(COMPARISON | {"stand_ins": stand_ins}))
        document.write_text("<!-- comparison: shell -->\n<!-- /comparison -->\n")
        assert figures(comparison, document).returncode == 0
        assert document.read_text().count("stand-ins") == lines
        assert figures(comparison, "--check", document).returncode == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("A <!-- figure: three, unpacked --><!-- / -->", "there is no figure of unpacked of three"),
        ("A <!-- figure: one, weight --><!-- / -->", "there is no figure of weight of one"),
        ("A <!-- figure: two / one, executables --><!-- / -->", "executables of two cannot be divided by that of one"),
        ("A <!-- figure: two / one, shell --><!-- / -->", "shell of two cannot be divided by that of one"),
        ("A <!-- figure: one, files --><!-- / -->", "there is no figure of files of one"),
        ("A <!-- figure: one -->1<!-- / -->", "this marker cannot be read: <!-- figure: one -->"),
        ("<!-- comparison -->\n<!-- /comparison -->", "there is no measure ''"),
        ("<!-- comparison: weight -->\n<!-- /comparison -->", "there is no measure 'weight': take some of unpacked"),
        ("<!-- comparison: shell -->\n", "this marker cannot be read: <!-- comparison: shell -->"),
        ("<!-- diff: alpine, nosuch -->\n<!-- /diff -->", "nosuch.Dockerfile"),
        ("A\n<!-- figure: one, unpacked --><!-- / -->", "a line begins with <!-- figure: one, unpacked -->"),
        ("<!-- figure: one, unpacked --><!-- / -->", "a line begins with <!-- figure: one, unpacked -->"),
    ],
)
def test_a_figure_that_does_not_exist_is_named(comparison: Path, text: str, complaint: str) -> None:
    document = comparison.with_name("document.md")
    document.write_text(text)
    written = figures(comparison, document)
    assert complaint in written.stderr
    assert written.stderr.count("\n") == 1
    assert (written.returncode, document.read_text()) == (1, text)


def test_a_file_that_is_not_a_comparison_is_told(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"images": 1}'):
        (tmp_path / "comparison.json").write_text(text)
        (tmp_path / "document.md").write_text("text")
        written = figures(tmp_path / "comparison.json", tmp_path / "document.md")
        assert (written.returncode, written.stderr.count("\n")) == (1, 1)
