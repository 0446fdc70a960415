"""Chromium or Chrome without a window, and what a reader of the page sees and does in it."""

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

LIMIT = 10  # seconds for anything that the page should do at once

PHONE, LAPTOP, PROJECTOR = (320, 640), (1280, 800), (1920, 1080)


def on_debian() -> bool:
    """Whether Chromium is a package here. Elsewhere selenium finds or fetches Chrome; Linux on arm64 has none."""
    return platform.freedesktop_os_release()["ID"] == "debian"


@contextmanager
def start_chromium(profile: Path) -> Iterator[Chrome]:
    """Start it with an empty profile. It logs its console and its requests."""
    options = ChromeOptions()
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it may run as root, in a container
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = None  # selenium looks for Chrome and its driver
    if on_debian():
        options.binary_location = "/usr/bin/chromium"
        service = ChromeService("/usr/bin/chromedriver")
    driver = Chrome(options, service)
    try:
        driver.set_page_load_timeout(LIMIT)
        yield driver
    finally:
        driver.quit()


class Browser:
    """The things that a reader sees and does."""

    def __init__(self, driver: Chrome) -> None:
        self.driver: Any = driver  # selenium has types for half of what it does

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.settle()

    def settle(self) -> None:
        """Wait until the page says that it is done."""
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, "main[aria-busy=false]"))

    def wait(self, condition: Callable[[], object]) -> None:
        try:
            WebDriverWait(self.driver, LIMIT, poll_frequency=0.05).until(lambda _: condition())
        except TimeoutException as error:
            error.add_note(self.state())
            raise

    def state(self) -> str:
        """Where it is, what it shows and what its console says: a page that could not be opened tells why."""
        script = "return [location.href, document.readyState, document.querySelector('main')?.ariaBusy]"
        place, ready, busy = self.driver.execute_script(script)
        shown = self.driver.find_element(By.TAG_NAME, "body").text
        return f"{self.driver.current_url} ({place}, {ready}, {busy=}) shows {shown!r}; its console: {self.console()}"

    def wait_for_address(self, address: str) -> None:
        self.wait(lambda: self.text("address") == address)
        self.settle()

    def element(self, name: str) -> WebElement:
        element: WebElement = self.driver.find_element(By.ID, name)
        return element

    def text(self, name: str) -> str:
        """The visible text of an element: empty if it is hidden."""
        return str(self.element(name).text)

    def facts(self) -> dict[str, str]:
        rows = self.driver.find_elements(By.CSS_SELECTOR, "#facts > div")
        return {
            row.find_element(By.TAG_NAME, "dt").text: row.find_element(By.TAG_NAME, "dd").text.replace("\n", " = ")
            for row in rows
        }

    def look_up(self, address: str) -> None:
        """Go to the field with the keyboard alone, and ask."""
        self.driver.execute_script("document.activeElement.blur()")
        body = self.driver.find_element(By.TAG_NAME, "body")
        for _ in range(10):
            if self.focus() == "ip":
                break
            body.send_keys(Keys.TAB) if self.focus() == "" else self.driver.switch_to.active_element.send_keys(Keys.TAB)
        assert self.focus() == "ip"
        field = self.driver.switch_to.active_element
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(address, Keys.ENTER)

    def focus(self) -> str:
        """The id of the element that has the focus; empty if none has."""
        return str(self.driver.execute_script("return document.activeElement.id"))

    def marker(self) -> tuple[float, float] | None:
        """The position of the marker's centre on the screen; None without a marker."""
        if not self.element("marker").is_displayed():
            return None
        box = self.box("marker")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def box(self, name: str) -> dict[str, float]:
        script = "return document.getElementById(arguments[0]).getBoundingClientRect().toJSON()"
        box: dict[str, float] = self.driver.execute_script(script, name)
        return box

    def resize(self, size: tuple[int, int], scale: float = 1) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def console(self) -> list[str]:
        """The messages of the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The URLs that were asked since the last call."""
        log = self.driver.get_log("performance")
        events = [json.loads(entry["message"])["message"] for entry in log]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
