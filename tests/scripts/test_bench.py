"""The benchmark's report, its chart, and the comparison with echoip. A program with echoip's interface stands in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import chart
from bench.load import Figures
from bench.report import goals, written
from bench.servers import program
from tests.conftest import ROOT

ROW = {"rate": 1000.0, "least": 900.0, "most": 1100.0, "cpu_us": 50.0, "p99_ms": 4.0, "errors": 0}
FIGURES: Figures = {
    "hit": {"geoip": ROW, "raw ASGI callable": ROW | {"cpu_us": 40.0}},
    "miss": {"geoip": ROW, "with aiohttp's client": ROW | {"rate": 2000.0}, "the article's way": ROW | {"rate": 200.0}},
    "slow": {"geoip": ROW},
    "start": {"geoip": {"start_ms": 300.0}, "import fastapi, uvicorn": {"start_ms": 400.0}},
    "images": {"outside": {"hit_us": 50.0}, "alpine": {"hit_us": 55.0}, "slim": {"hit_us": 60.0}},
    "clients": {"1": ROW, "1,000": ROW | {"rate": 3000.0}},
}
MACHINE = {"cores": 2, "cpu": "a processor", "load": 1.5}
REPORT = {"date": "2026-01-01", "machine": MACHINE, "versions": {"wrk": "4"}, "server": "Python 3", "rounds": 5}
REPORT |= {"seconds": 3.0, "figures": FIGURES}

# It takes echoip's options, and answers /json?ip=ADDRESS.
ECHOIP = """\
#!{python}
import argparse, http.server, pathlib
parser = argparse.ArgumentParser()
for option in ("-l", "-c", "-a"):
    parser.add_argument(option, required=True)
options = parser.parse_args()
assert all(pathlib.Path(path).is_file() for path in (options.c, options.a))

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        path, _, query = self.path.partition("?ip=")
        self.send_response(200 if path == "/json" and query else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{{}}")

host, _, port = options.l.partition(":")
http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("what", "value", "is_met"),
    [
        ("a hit: CPU time / a raw ASGI callable's", 1.25, True),
        ("a hit in the slowest image (slim): CPU time / that outside", 1.2, False),
        ("a miss: rate / that of the article's way", 5, True),
        ("a miss: rate / that with aiohttp's client", 0.5, False),
        ("a start: time / the imports alone", 0.75, True),
        ("a start in scratch: ms", None, False),
    ],
)
def test_a_goal_is_met_or_missed_by_the_figures(what: str, value: float | None, is_met: bool) -> None:
    found = {goal: (measured, met) for goal, measured, _, met in goals(FIGURES)}
    assert found[what] == (value, is_met)


def test_the_page_has_the_tables_of_the_run_between_its_markers() -> None:
    page = written("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n", REPORT)
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "Python 3 on 2 cores (a processor), at a load of 1.5; medians of 5 turns of 3 s. Versions: wrk 4." in page
    assert "| a miss: rate / that with aiohttp's client | 0.5 | ≥ 1 | **missed** |" in page
    assert "| a start in scratch: ms |  | ≤ 600 | not measured |" in page
    assert "| **geoip** | 1,000 | 900 | 1,100 | 50 | 4 |" in page
    assert "Not measured in this run: addresses, 16 clients; replicas behind nginx" in page


def test_the_page_of_the_same_run_stays_as_it_is() -> None:
    page = written("<!-- benchmark -->\n<!-- /benchmark -->\n", REPORT)
    assert written(page, REPORT) == page


def test_the_chart_has_every_figure_as_text_within_its_bounds() -> None:
    root = ElementTree.fromstring(chart.svg(FIGURES))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["requests/s by clients, one address", "1", "1,000", "1,000", "3,000"]
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.attrib["cx"]) < width
        assert 0 < float(circle.attrib["cy"]) < height


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("wrk"), reason="the benchmark needs Linux and wrk")
def test_echoip_is_measured_on_the_same_files(tmp_path: Path) -> None:
    path = tmp_path / "echoip"
    path.write_text(ECHOIP.format(python=sys.executable))
    path.chmod(0o755)
    code = f"import json; from bench.measures import echoip; print(json.dumps(echoip({str(path)!r})))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"QUICK": "1"}, capture_output=True, text=True, check=True, timeout=120
    )
    rows = json.loads(done.stdout.splitlines()[-1])["echoip"]
    assert set(rows) == {f"{name}: {what}" for name in ("geoip", "echoip") for what in ("8.8.8.8", "many addresses")}
    assert all(row["rate"] > 0 and row["per_cpu"] > 0 for row in rows.values())
    assert rows["echoip: 8.8.8.8"]["errors"] == rows["echoip: many addresses"]["errors"] == 0
    assert rows["geoip: 8.8.8.8"]["errors"] == 0


def test_a_program_that_does_not_start_is_named_with_its_message() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such file')"]
    message = r"python.* does not answer on port 1\. Its last message: no such file"
    with pytest.raises(RuntimeError, match=message), program(command, 1):
        pass


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("wrk"), reason="the benchmark needs Linux and wrk")
def test_a_benchmark_with_a_program_that_is_missing_does_not_begin(tmp_path: Path) -> None:
    missing = str(tmp_path / "echoip")
    command = [sys.executable, "-m", "bench"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ECHOIP": missing}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == f"ECHOIP={missing} is not a program: give the path of the one that you built\n"
