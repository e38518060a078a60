"""Fixtures of the live page's tests: a browser, and a scripted recognizer with the page beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.live_page import SPOKEN, LivePage, chromium
from tests.scripted_funasr import TWO_SENTENCES, ScriptedServer, scripted_server


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[Chrome]:
    with chromium(SPOKEN, downloads) as running:
        yield running


@pytest.fixture
def page(driver: Chrome, scripted: ScriptedServer) -> LivePage:
    """The page as a new visitor sees it; the recognizer beside it says :data:`TWO_SENTENCES`."""
    scripted.script = TWO_SENTENCES
    scripted.sessions.clear()
    return LivePage(driver, scripted.url)
