"""The page in a real browser: Debian's Chromium, as `tests/images/setup-browser` installs it, elsewhere Chrome.

The page comes from the image geoip:scratch, offline, or from the service whose URL is in GEOIP_SITE (`make run` and
GEOIP_SITE=http://localhost:8080). A rehearsal gives the answers that this service cannot be made to give: a server that
passes on the service's page and headers as they are, and gives answers of its own.
"""

import base64
import hashlib
import json
import os
import platform
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.conftest import free_port
from tests.images.browser import LAPTOP, LIMIT, PHONE, PROJECTOR, Browser, on_debian, start_chromium
from tests.upstream import Upstream, answering, ipwhois_answer

IMAGE = "geoip:scratch"
AXE = sorted((Path(__file__).parents[2] / "build").glob("axe-core-*/axe.min.js"))

ANSWER = {
    "ip": "8.8.8.8",
    "isp": "Google LLC",
    "latitude": 37.40599,
    "longitude": -122.078514,
    "city": "Mountain View",
    "region": "California",
    "country": "United States",
    "country_code": "US",
    "postal_code": "94043",
    "timezone": "America/Los_Angeles",
    "asn": 15169,
    "source": "ipwhois",
}


def fetch(url: str, accept: str) -> tuple[int, Message, bytes]:
    """Status, headers and body of a response."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=LIMIT) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def fetch_json(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(fetch(url, "application/json")[2])
    return answer


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The service's URL, without the last slash."""
    if url := os.environ.get("GEOIP_SITE"):
        yield url.rstrip("/")
        return
    run = ["docker", "run", "--detach", "--rm", "--publish=127.0.0.1::8080", "--env=GEOIP_SOURCES=mmdb"]
    hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    container = subprocess.run([*run, *hardened, IMAGE], check=True, capture_output=True, text=True).stdout.strip()
    try:
        published = subprocess.run(
            ["docker", "port", container, "8080/tcp"], check=True, capture_output=True, text=True
        )
        url = f"http://{published.stdout.split()[0]}"
        wait_for_service(url)
        yield url
    finally:
        subprocess.run(["docker", "stop", container], check=True, capture_output=True)


def wait_for_service(url: str) -> None:
    """Wait until the service answers. TimeoutError if it does not within some ten seconds."""
    for _ in range(100):
        try:
            fetch(url + "/healthz", "*/*")
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise TimeoutError(f"{url} does not answer")


@contextmanager
def container_on_host(source: str) -> Iterator[str]:
    """The URL of the image's service on the network of this machine, where it can ask `source`."""
    port = free_port()
    run = ["docker", "run", "--detach", "--rm", "--network=host", f"--env=PORT={port}", "--env=GEOIP_BIND=127.0.0.1"]
    asked = ["--env=GEOIP_SOURCES=ipwhois", f"--env=GEOIP_IPWHOIS_URL={source}"]
    hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    done = subprocess.run([*run, *asked, *hardened, IMAGE], check=True, capture_output=True, text=True, timeout=60)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_service(url)
        yield url
    finally:
        subprocess.run(["docker", "stop", done.stdout.strip()], check=True, capture_output=True, timeout=60)


@dataclass
class Reply:
    """One answer to the page's question."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0
    """Seconds."""


def answer(**values: object) -> Reply:
    """The usual answer, but for these values."""
    return Reply(json.dumps(ANSWER | values).encode(), headers={"Content-Type": "application/json"})


def problem(status: int, code: str, detail: str, *, retry_after: int | None = None, **members: object) -> Reply:
    body = {"type": "about:blank", "title": "The status", "status": status, "detail": detail, "code": code, **members}
    headers = {"Content-Type": "application/problem+json"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Reply(json.dumps(body).encode(), status, headers)


class Rehearsal(ThreadingHTTPServer):
    """The service's page, with other answers: `answers` by what `?ip=` says, None where it says nothing."""

    daemon_threads = True

    def __init__(self, page: bytes, headers: dict[str, str]) -> None:
        self.page, self.page_headers = page, headers
        self.answers: dict[str | None, Reply | None] = {None: answer()}
        super().__init__(("127.0.0.1", 0), RehearsalHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class RehearsalHandler(BaseHTTPRequestHandler):
    server: Rehearsal

    def do_GET(self) -> None:
        if "text/html" in self.headers.get("Accept", ""):
            self.reply(Reply(self.server.page, headers=self.server.page_headers))
            return
        reply = self.server.answers[parse_qs(urlsplit(self.path).query).get("ip", [None])[0]]
        if reply is not None:  # else the connection breaks off without an answer
            time.sleep(reply.after)
            self.reply(reply)

    def reply(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the class above)
        pass


@pytest.fixture
def rehearsal(site: str) -> Iterator[Rehearsal]:
    _, headers, page = fetch(site + "/", "text/html")
    kept = ("Content-Type", "Content-Security-Policy", "Vary", "Cache-Control", "X-Content-Type-Options")
    with Rehearsal(page, {name: headers[name] for name in kept if name in headers}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if platform.machine() == "aarch64" and not on_debian():
        pytest.skip("no Chrome for Linux on arm64, and Chromium is no package here")
    with start_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def browser(chromium: Chrome, site: str) -> Iterator[Browser]:
    """A browser. After every test its console must be empty, and it must have asked no host but this one."""
    browser = Browser(chromium)
    browser.resize(LAPTOP)
    browser.prefer("light")
    chromium.get("about:blank")
    browser.console()
    browser.requests()
    yield browser
    assert browser.console() == []
    asked = [url for url in browser.requests() if not url.startswith(("data:", "about:"))]
    assert asked
    assert {urlsplit(url).hostname for url in asked} <= {"127.0.0.1", urlsplit(site).hostname}


def on_map(box: dict[str, float], latitude: float, longitude: float) -> tuple[float, float]:
    """The position of a place in an equirectangular map of the whole world that fills this box, in CSS pixels."""
    return box["x"] + (longitude + 180) / 360 * box["width"], box["y"] + (90 - latitude) / 180 * box["height"]


def hashes(page: str, element: str) -> list[str]:
    """The sources of a Content-Security-Policy that allow a page's own elements (CSP Level 3, 8.2)."""
    contents = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in contents]


# --- the service itself


def test_browser_gets_the_page_under_a_policy_of_hashes(site: str) -> None:
    status, headers, body = fetch(site + "/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
    policy = {name: set(sources) for name, *sources in map(str.split, headers["Content-Security-Policy"].split(";"))}
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert len(body) < 60_000
    assert policy["script-src"] == set(hashes(body.decode(), "script"))
    assert policy["style-src"] == set(hashes(body.decode(), "style"))
    assert policy["default-src"] == {"'none'"}
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "accept" in headers["Vary"].lower()


def test_shows_what_the_route_answers(browser: Browser, site: str) -> None:
    browser.open(site + "/?ip=8.8.8.8")
    expected = fetch_json(site + "/?ip=8.8.8.8")
    assert browser.text("address") == "8.8.8.8"
    assert browser.text("isp") == expected["isp"]
    assert browser.facts()["Coordinates"].endswith(f"= {expected['latitude']}, {expected['longitude']}")
    assert browser.facts()["Source"] == expected["source"]
    assert browser.driver.title == f"8.8.8.8 · {expected['isp']} · geoip"


def test_looks_up_a_second_address_by_keyboard_and_goes_back(browser: Browser, site: str) -> None:
    first, second = (fetch_json(f"{site}/?ip={ip}")["isp"] for ip in ("8.8.8.8", "2606:4700:4700::1111"))
    assert first != second
    browser.open(site + "/?ip=8.8.8.8")

    browser.look_up("2606:4700:4700::1111")
    browser.wait_for_address("2606:4700:4700::1111")
    assert browser.text("isp") == second
    assert browser.driver.current_url == site + "/?ip=2606:4700:4700::1111"
    assert browser.focus() == "ip"

    browser.driver.back()
    browser.wait_for_address("8.8.8.8")
    assert browser.text("isp") == first
    assert browser.element("ip").get_property("value") == "8.8.8.8"

    browser.driver.forward()
    browser.wait_for_address("2606:4700:4700::1111")
    assert browser.text("isp") == second


def test_is_still_a_page_on_the_way_back_from_another_document(browser: Browser, site: str) -> None:
    browser.open(site + "/?ip=8.8.8.8")
    browser.driver.get("about:blank")
    browser.driver.back()
    browser.wait_for_address("8.8.8.8")


@pytest.mark.parametrize(("ip", "status"), [("10.0.0.1", 404), ("no address", 422)])
def test_shows_a_problem_as_a_sentence(browser: Browser, site: str, ip: str, status: int) -> None:
    browser.open(f"{site}/?ip=8.8.8.8")
    browser.look_up(ip)
    browser.wait_for_address(ip)
    detail = fetch_json(f"{site}/?ip={ip.replace(' ', '%20')}")["detail"]
    assert detail in browser.text("problem")
    assert "{" not in browser.text("problem")
    assert browser.marker() is None
    assert browser.facts() == {}
    assert browser.element("problem").find_element(By.XPATH, "..").get_attribute("role") == "alert"
    # Chromium itself writes a line for every answer of 400 and above; the page adds none
    [line] = browser.console()
    assert line.startswith(f"{site}/?ip={ip.replace(' ', '%20')} ")
    assert f"Failed to load resource: the server responded with a status of {status}" in line


# Answers of kinds that providers were seen to send, as changes of a usual answer of ipwho.is.
REPORTED: dict[str, dict[str, Any]] = {
    "a usual answer": {},
    "coordinates of 0": {"latitude": 0, "longitude": 0, "country_code": "GH"},
    "0, 0 of no country": {"latitude": 0, "longitude": 0, "country_code": "ZZ"},
    "0, 0 of no country and no ISP": {"latitude": 0, "longitude": 0, "country_code": "ZZ", "connection": {}},
    "a longitude that is none": {"longitude": 182.5},
    "one coordinate": {"longitude": None},
    "more digits than there are": {"latitude": 37.422000885, "longitude": -122.0849990845},
    "a time zone as text": {"timezone": "Europe/Kyiv"},
    "an ISP of 201 characters": {"connection": {"isp": "ü" * 201, "asn": 15169}},
    "an ISP alone": {"latitude": None, "longitude": None, "city": "", "region": "", "country": "", "country_code": ""},
    "no ISP": {"connection": {}},
    "an AS number as asdot": {"connection": {"isp": "x", "asn": "AS1.10"}},
    "an AS number with a fraction": {"connection": {"isp": "x", "asn": 15169.0}},
    "wrong types": {"city": 7, "region": ["x"], "postal": {"a": 1}, "connection": "Google"},
    "a code for a name": {"country": None, "country_code": "XK"},
    "a code that is none": {"country": None, "country_code": "EU"},
    "an error message": {"success": False, "message": "Reserved range"},
    "a quota": {"success": False, "message": "You've hit the monthly limit"},
}


@pytest.fixture
def reporting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the image's service, whose source answers with these changes."""
    with (
        Upstream(answering(ipwhois_answer("8.8.8.8", **request.param))) as source,
        container_on_host(source.url) as url,
    ):
        yield url


@pytest.mark.parametrize("reporting", REPORTED.values(), ids=REPORTED, indirect=True)
def test_the_page_says_what_the_json_says(browser: Browser, reporting: str) -> None:
    browser.open(f"{reporting}/?ip=8.8.8.8")
    answer = fetch_json(f"{reporting}/?ip=8.8.8.8")
    facts = browser.facts()
    assert browser.text("address") == "8.8.8.8"
    if "code" in answer:
        assert answer["detail"] in browser.text("problem")
        assert (facts, browser.marker(), browser.text("isp")) == ({}, None, "")
        [line] = browser.console()  # Chromium itself writes it
        assert "Failed to load resource" in line
        return
    assert browser.text("problem") == ""
    assert browser.text("isp") == (answer["isp"] or "Its ISP is not known")
    if answer["latitude"] is None:
        assert browser.marker() is None
        assert "Coordinates" not in facts
    else:
        assert browser.marker()
        shown = facts.pop("Coordinates").rpartition(" = ")[2]
        assert [float(number) for number in shown.split(", ")] == [answer["latitude"], answer["longitude"]]
    expected = {
        "City": answer["city"],
        "Region": answer["region"],
        "Country": answer["country"] or answer["country_code"],
        "Postal code": answer["postal_code"],
        "Time zone": answer["timezone"],
        "AS number": answer["asn"] and f"AS{answer['asn']}",
        "Source": answer["source"],
    }
    assert facts == {name: value for name, value in expected.items() if value}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, LAPTOP, PROJECTOR], ids=["phone", "laptop", "projector"])
@pytest.mark.parametrize("ip", ["8.8.8.8", "2001:4860:4860::8888", "10.0.0.1"])
def test_has_no_accessibility_violation(
    browser: Browser, site: str, scheme: str, size: tuple[int, int], ip: str
) -> None:
    assert AXE, "axe-core is not in build/: run tests/images/setup-browser"
    browser.resize(size)
    browser.prefer(scheme)
    browser.open(f"{site}/?ip={ip}")
    browser.driver.execute_script(AXE[-1].read_text(encoding="utf-8"))
    result = browser.driver.execute_async_script("axe.run().then(arguments[0])")
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in result["violations"]] == []
    # nor anything that axe could not decide, such as text on a background that it cannot tell
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in result["incomplete"]] == []
    assert any(rule["id"] == "color-contrast" for rule in result["passes"])
    scrolled = browser.driver.execute_script("return document.documentElement.scrollWidth")
    assert scrolled <= size[0]
    if ip == "10.0.0.1":
        browser.console()  # Chromium's own line for the status, which a test above reads


# --- answers that a service cannot be made to give


@pytest.mark.parametrize("size", [PHONE, LAPTOP, PROJECTOR], ids=["phone", "laptop", "projector"])
@pytest.mark.parametrize(
    ("latitude", "longitude"), [(37.40599, -122.078514), (0.0, 0.0), (-90, 180), (90, -180), (-33.86, 151.2)]
)
def test_marker_is_where_the_coordinates_say(
    browser: Browser, rehearsal: Rehearsal, size: tuple[int, int], latitude: float, longitude: float
) -> None:
    rehearsal.answers[None] = answer(latitude=latitude, longitude=longitude)
    browser.resize(size)
    browser.open(rehearsal.url)
    assert browser.marker() == pytest.approx(on_map(browser.box("map"), latitude, longitude), abs=2)


@pytest.mark.parametrize(
    ("latitude", "longitude", "land"),
    [
        (37.4, -122.0, True),  # Mountain View
        (51.5, -0.5, True),  # west of London
        (-33.8, 150.9, True),  # west of Sydney
        (-26.2, 28.0, True),  # Johannesburg
        (-80, 0, True),  # Antarctica
        (-89.5, 170, True),
        (66.5, 179.5, True),  # Chukotka, which lies on both sides of the antimeridian
        (66.5, -175, True),
        (71, 0, False),  # Norwegian Sea
        (75, 40, False),  # Barents Sea
        (72, -140, False),  # Beaufort Sea
        (0, -30, False),  # Atlantic
        (0, -160, False),  # Pacific
        (43.0, 34.0, False),  # Black Sea
        (20.0, -90.5, True),  # Yucatan
        (25.0, -90.5, False),  # Gulf of Mexico
    ],
)
def test_land_is_drawn_where_it_is(
    browser: Browser, rehearsal: Rehearsal, latitude: float, longitude: float, land: bool
) -> None:
    """Through a point on the screen, as the marker is placed."""
    browser.open(rehearsal.url)
    x, y = on_map(browser.box("map"), latitude, longitude)
    script = """
    const path = document.getElementById("land");
    return path.isPointInFill(new DOMPoint(arguments[0], arguments[1]).matrixTransform(path.getScreenCTM().inverse()));
    """
    assert browser.driver.execute_script(script, x, y) is land


def test_own_address_is_called_so(browser: Browser, rehearsal: Rehearsal) -> None:
    browser.open(rehearsal.url)
    assert (browser.text("kind"), browser.text("address")) == ("Your address", "8.8.8.8")
    assert browser.text("command") == f"curl '{rehearsal.url}/'"
    assert browser.element("map").get_attribute("aria-label") == (
        "World map, marked at Mountain View, California, United States: "
        "37.4060°\N{NO-BREAK SPACE}N, 122.0785°\N{NO-BREAK SPACE}W"
    )
    assert browser.facts() == {
        "Coordinates": "37.4060° N, 122.0785° W = 37.40599, -122.078514",
        "City": "Mountain View",
        "Region": "California",
        "Country": "United States",
        "Postal code": "94043",
        "Time zone": "America/Los_Angeles",
        "AS number": "AS15169",
        "Source": "ipwhois",
    }


def test_empty_field_asks_for_the_own_address(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.answers["1.1.1.1"] = answer(ip="1.1.1.1")
    browser.open(rehearsal.url + "/?ip=1.1.1.1")
    browser.look_up(Keys.DELETE)
    browser.wait_for_address("8.8.8.8")
    assert browser.driver.current_url == rehearsal.url + "/"


def test_links_look_up_without_leaving_the_page(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.answers |= {"1.1.1.1": answer(ip="1.1.1.1"), "8.8.8.8": answer(isp="the example")}
    browser.open(rehearsal.url + "/?ip=1.1.1.1")
    browser.driver.execute_script("window.same = true")
    browser.driver.find_element(By.LINK_TEXT, "8.8.8.8").click()
    browser.wait_for_address("8.8.8.8")
    assert (browser.text("kind"), browser.text("isp")) == ("Address", "the example")
    browser.driver.find_element(By.LINK_TEXT, "geoip").click()
    browser.wait(lambda: browser.text("kind") == "Your address")
    assert browser.driver.current_url == rehearsal.url + "/"
    assert browser.driver.execute_script("return window.same")


def test_hostile_strings_are_text(browser: Browser, rehearsal: Rehearsal) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    names = ("isp", "city", "region", "country", "postal_code", "timezone", "source")
    rehearsal.answers[None] = answer(**dict.fromkeys(names, hostile))
    browser.open(rehearsal.url)
    assert browser.text("isp") == hostile
    assert browser.facts()["City"] == hostile
    assert browser.driver.title.startswith("8.8.8.8 · <img")
    assert browser.driver.find_elements(By.TAG_NAME, "img") == []


def test_policy_stops_a_script_that_got_in_all_the_same(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.page = rehearsal.page.replace(b"</body>", b"<script>document.title = 'taken'</script></body>")
    browser.open(rehearsal.url)
    assert browser.driver.title == "8.8.8.8 · Google LLC · geoip"
    [line] = browser.console()
    assert "violates the following Content Security Policy directive" in line


@pytest.mark.parametrize("missing", [{"latitude": None, "longitude": None}, {"longitude": None}, {"latitude": "37.4"}])
def test_answer_without_coordinates_marks_nothing_and_says_so(
    browser: Browser, rehearsal: Rehearsal, missing: dict[str, object]
) -> None:
    rehearsal.answers[None] = answer(**missing)
    browser.open(rehearsal.url)
    assert browser.text("isp") == "Google LLC"
    assert browser.marker() is None
    assert browser.element("map").get_attribute("aria-label") == "World map"
    assert "coordinates are not known" in browser.text("place")
    assert "Coordinates" not in browser.facts()


def test_null_fields_are_left_out(browser: Browser, rehearsal: Rehearsal) -> None:
    names = ("isp", "city", "region", "country", "country_code", "postal_code", "timezone", "asn")
    rehearsal.answers[None] = answer(**dict.fromkeys(names))
    browser.open(rehearsal.url)
    assert browser.text("isp") == "Its ISP is not known"
    assert set(browser.facts()) == {"Coordinates", "Source"}
    assert "null" not in browser.driver.find_element(By.TAG_NAME, "body").text


def test_country_code_stands_in_for_the_name(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.answers[None] = answer(country=None)
    browser.open(rehearsal.url)
    assert browser.facts()["Country"] == "US"


def test_problem_says_when_to_come_back_and_who_was_asked(browser: Browser, rehearsal: Rehearsal) -> None:
    sources = [{"source": "ipwhois", "code": "quota-exhausted"}, {"source": "ipapi", "code": "upstream-timeout"}]
    rehearsal.answers[None] = problem(
        503, "quota-exhausted", "ipwhois says that its quota is used up", retry_after=60, sources=sources
    )
    browser.open(rehearsal.url)
    assert browser.text("problem").splitlines() == [
        "Too many lookups for now: ipwhois says that its quota is used up.",
        "Asked in turn: ipwhois (quota exhausted), ipapi (upstream timeout).",
        "Try again in 60 s.",
    ]
    assert browser.driver.title == "Too many lookups for now · geoip"
    assert len(browser.console()) == 1


def test_broken_connection_is_a_sentence_and_can_be_tried_again(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.answers["8.8.8.8"] = None
    browser.open(rehearsal.url + "/?ip=8.8.8.8")
    assert browser.text("problem").startswith("The server cannot be reached:")
    assert all("net::ERR_EMPTY_RESPONSE" in line for line in browser.console())

    rehearsal.answers["8.8.8.8"] = answer()
    browser.element("retry").send_keys(Keys.ENTER)
    browser.wait(lambda: browser.text("isp") == "Google LLC")
    assert browser.text("problem") == ""
    assert browser.focus() == "address"  # the button that had the keyboard is gone


@pytest.mark.parametrize(("status", "lines"), [(200, 0), (502, 1)])
def test_what_is_not_an_answer_of_the_service_is_a_sentence(
    browser: Browser, rehearsal: Rehearsal, status: int, lines: int
) -> None:
    rehearsal.answers[None] = Reply(b"<h1>Nothing to see</h1>", status, {"Content-Type": "text/html"})
    browser.open(rehearsal.url)
    assert browser.text("problem").startswith(f"Not an answer: The server answered with status {status},")
    assert len(browser.console()) == lines


def test_says_that_it_is_looking_up(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.answers["1.1.1.1"] = replace(answer(ip="1.1.1.1"), after=1.5)
    browser.open(rehearsal.url)
    browser.look_up("1.1.1.1")
    browser.wait(lambda: browser.text("kind") == "Looking up")
    assert browser.text("address") == "1.1.1.1"
    browser.settle()
    assert browser.text("kind") == "Address"


def test_last_question_wins(browser: Browser, rehearsal: Rehearsal) -> None:
    rehearsal.answers["1.1.1.1"] = replace(answer(ip="1.1.1.1", isp="slow"), after=1)
    rehearsal.answers["9.9.9.9"] = answer(ip="9.9.9.9", isp="fast")
    browser.open(rehearsal.url)
    browser.look_up("1.1.1.1")
    browser.look_up("9.9.9.9")
    browser.wait_for_address("9.9.9.9")
    time.sleep(1.2)
    assert (browser.text("address"), browser.text("isp")) == ("9.9.9.9", "fast")


def test_works_behind_a_path_prefix(browser: Browser, rehearsal: Rehearsal) -> None:
    browser.open(rehearsal.url + "/geo/")
    rehearsal.answers["1.1.1.1"] = answer(ip="1.1.1.1")
    browser.look_up("1.1.1.1")
    browser.wait_for_address("1.1.1.1")
    assert browser.driver.current_url == rehearsal.url + "/geo/?ip=1.1.1.1"
    assert set(browser.requests()) >= {rehearsal.url + "/geo/", rehearsal.url + "/geo/?ip=1.1.1.1"}
    browser.open(rehearsal.url + "/geo/")


def test_says_what_to_do_without_javascript(browser: Browser, rehearsal: Rehearsal) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(rehearsal.url)
        body = browser.driver.find_element(By.TAG_NAME, "body").text
        assert "curl localhost:8080" in body
        assert "Looking up" not in body
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
