"""The benchmark's report, its chart, and the comparison with echoip.

A stand-in has echoip's interface. With ECHOIP=path of echoip, echoip itself is tested as well.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import maxminddb
import pytest

from bench import chart
from bench.load import Figures
from bench.report import goals, written
from bench.servers import Server, same_files
from bench.servers import program as running
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

# Our names of the fields, and echoip's.
FIELDS = {"isp": "asn_org", "latitude": "latitude", "longitude": "longitude", "city": "city", "region": "region_name"}
FIELDS |= {"country": "country", "country_code": "country_iso", "postal_code": "zip_code", "timezone": "time_zone"}
needs_wrk = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("wrk"), reason="the benchmark needs Linux and wrk"
)


@pytest.fixture(params=["stand-in", "echoip"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The stand-in, and echoip itself if ECHOIP names it."""
    if request.param == "echoip":
        return os.environ.get("ECHOIP") or pytest.skip("it needs ECHOIP=path of echoip")
    path = tmp_path / "echoip"
    path.write_text(f"#!{sys.executable}\n" + (Path(__file__).parent / "echoip.py").read_text())
    path.chmod(0o755)
    return str(path)


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


def ask(server: Server, target: str) -> dict[str, Any]:
    answer = httpx.get(f"http://127.0.0.1:{server.port}{target}", timeout=15, trust_env=False).raise_for_status()
    fields: dict[str, Any] = answer.json()
    return fields


@pytest.mark.slow
def test_echoip_gives_the_same_answers_from_the_same_files(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEOIP_MMDB_CITY", "GEOIP_MMDB_ASN"):
        monkeypatch.delenv(name, raising=False)
    with maxminddb.open_database(ROOT / "app/sample.mmdb") as sample:
        some = [network.network_address for network, _ in islice(sample, 0, None, 40)]
    with same_files(program) as servers:
        for address in (*some, "8.8.8.8", "21.0.0.0", "21.255.255.255"):
            ours = ask(servers["geoip"], f"/?ip={address}")
            theirs = ask(servers["echoip"], f"/json?ip={address}")
            assert {name: ours[name] for name in FIELDS} == {name: theirs.get(FIELDS[name]) for name in FIELDS}
            assert f"AS{ours['asn']}" == theirs["asn"]


@pytest.mark.slow
@needs_wrk
def test_echoip_is_measured_beside_the_service(program: str) -> None:
    code = f"import json; from bench.measures import echoip; print(json.dumps(echoip({program!r})))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"QUICK": "1"}, capture_output=True, text=True, check=True, timeout=120
    )
    rows = json.loads(done.stdout.splitlines()[-1])["echoip"]
    assert set(rows) == {f"{name}: {what}" for name in ("geoip", "echoip") for what in ("8.8.8.8", "many addresses")}
    assert all(row["rate"] > 0 and row["per_cpu"] > 0 for row in rows.values())
    assert [row["errors"] for row in rows.values()] == [0, 0, 0, 0]


def test_a_program_that_does_not_start_is_named_with_its_message() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such file')"]
    message = r"python.* does not answer on port 1\. Its last message: no such file"
    with pytest.raises(RuntimeError, match=message), running(command, 1):
        pass


@needs_wrk
def test_a_benchmark_with_a_program_that_is_missing_does_not_begin(tmp_path: Path) -> None:
    missing = str(tmp_path / "echoip")
    command = [sys.executable, "-m", "bench"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ECHOIP": missing}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == f"ECHOIP={missing} is not a program: give the path of the one that you built\n"
