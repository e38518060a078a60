"""Drives the live page in a headless Chromium whose microphone is a recording."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from tests.conftest import SAMPLES

T = TypeVar("T")

PATH = "/ws/v1/asr/test"
SPOKEN = SAMPLES / "travel.wav"
"""What the microphone hears in most tests."""

SECONDS = 60
"""How long anything may take before a test fails."""

INSECURE_HOST = "asr.test"
"""Resolves to this machine, but is no secure context as ``localhost`` is one."""

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WATCH_PARTIALS = """
window.partials = [];
new MutationObserver(() => window.partials.push(document.getElementById('partial').textContent))
  .observe(document.getElementById('partial'), {childList: true});
"""


def browser_programs() -> tuple[str, str] | None:
    """Paths of Chromium and of its driver; ``None`` unless both are installed."""
    found = [path for name in _BROWSERS if (path := shutil.which(name))]
    driver = shutil.which("chromedriver")
    return (found[0], driver) if found and driver else None


needs_browser = pytest.mark.skipif(
    browser_programs() is None, reason="chromium and chromedriver are not installed on this machine"
)


@contextmanager
def chromium(microphone: Path, downloads: Path, language: str = "en-US") -> Iterator[webdriver.Chrome]:
    """A browser whose microphone plays a WAV file once, then silence."""
    programs = browser_programs()
    assert programs is not None
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--window-size=1280,900",
        f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ):
        options.add_argument(argument)
    options.add_experimental_option(
        "prefs", {"intl.accept_languages": language, "download.default_directory": str(downloads)}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()


@dataclass(frozen=True, slots=True)
class Row:
    """A final sentence on the page; times in milliseconds."""

    text: str
    begin: int
    end: int
    is_estimated: bool


class LivePage:
    """The page, opened afresh: nothing remembered from earlier visits."""

    def __init__(self, driver: webdriver.Chrome, url: str, query: str = "") -> None:
        self.driver = driver
        driver.get(url + PATH + query)
        driver.execute_script("localStorage.clear()")
        self._log()
        driver.get(url + PATH + query)
        self.wait(lambda: self.phase)
        driver.execute_script(_WATCH_PARTIALS)

    def __getitem__(self, element_id: str) -> WebElement:
        return self.driver.find_element(By.ID, element_id)

    def wait(self, condition: Callable[[], T], seconds: float = SECONDS) -> T:
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition())

    def evaluate(self, script: str, *arguments: Any) -> Any:
        """Result of an async function body, to which the page's modules can be imported by name."""
        code = (
            "const [args, done] = [[...arguments].slice(0, -1), [...arguments].at(-1)];"
            "const load = (name) => import(new URL('test/' + name, location.href));"
            f"(async () => {{ {script} }})()"
            ".then((value) => done({value}), (error) => done({error: String(error)}));"
        )
        answer = self.driver.execute_async_script(code, *arguments)
        assert "error" not in answer, answer
        return answer.get("value")

    @property
    def phase(self) -> str:
        return self["status"].get_attribute("data-phase") or ""

    @property
    def fault(self) -> str:
        """Key of the message that is shown, if one is."""
        return self["notice"].get_attribute("data-fault") or ""

    @property
    def partials(self) -> list[str]:
        """All texts that were shown in gray, in order."""
        found: list[str] = self.driver.execute_script("return window.partials")
        return [text for text in found if text]

    @property
    def rows(self) -> list[Row]:
        found = self.driver.execute_script(
            "return [...document.querySelectorAll('#sentences li')].map((row) => ["
            "row.querySelector('.text').textContent, +row.querySelector('time').dataset.begin,"
            "+row.querySelector('time').dataset.end, row.querySelector('time').matches('.estimated')])"
        )
        return [Row(*row) for row in found]

    @property
    def voices(self) -> list[tuple[str, str]]:
        """Who spoke each row, and the number of their color; the name is shown where it changes."""
        found: list[list[str]] = self.driver.execute_script(
            "return [...document.querySelectorAll('#sentences li')].map((row) => ["
            "row.querySelector('.speaker').textContent, row.dataset.voice ?? ''])"
        )
        return [(name, voice) for name, voice in found]

    @property
    def headings(self) -> list[str]:
        """The names of speakers that are to be seen."""
        found = self.driver.find_elements(By.CSS_SELECTOR, "#sentences .speaker")
        return [element.text for element in found if element.is_displayed()]

    @property
    def text(self) -> str:
        return "".join(row.text for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """What the browser complained about since the page was opened."""
        return [json.dumps(entry) for entry in self._log()]

    def _log(self) -> list[dict[str, Any]]:
        """What the browser logged since the last call."""
        entries: list[dict[str, Any]] = self.driver.execute("getLog", {"type": "browser"})["value"]
        return entries

    def choose(self, name: str, value: str) -> None:
        """Choose a source or a mode as a user does, by its label."""
        self.driver.find_element(By.XPATH, f"//label[input[@name='{name}'][@value='{value}']]").click()

    def speak(self, protocol: str) -> None:
        """Choose the protocol to speak."""
        Select(self["protocol"]).select_by_value(protocol)

    def choose_file(self, path: Path, *, fast: bool = False) -> None:
        self.choose("source", "file")
        self["file"].send_keys(str(path))
        if fast:
            self["fast"].click()

    def fill(self, element_id: str, text: str) -> None:
        self[element_id].clear()
        self[element_id].send_keys(text)

    def press(self, element_id: str) -> None:
        self[element_id].click()

    def finish(self, among: Sequence[str] = ("done",)) -> None:
        """Wait until the run is over; fail with what the page shows if it ends otherwise."""
        self.wait(lambda: self.phase in {"done", "failed", "cancelled"})
        assert self.phase in among, self["notice"].text
