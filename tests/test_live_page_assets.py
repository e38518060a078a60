"""The live page's files, its languages and its controls."""

import fnmatch
import re
import tomllib
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Keys

from serve_app import web
from tests.conftest import ROOT
from tests.live_page import PATH, SPOKEN, LivePage, chromium, needs_browser
from tests.scripted_funasr import ScriptedServer

pytest_plugins = ["tests.live_page_fixtures"]


WEB = Path(web.__file__).parent
ASSETS = sorted(path for path in WEB.iterdir() if path.suffix in {".css", ".html", ".js", ".svg"})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_page_and_assets_are_served_under_a_strict_policy(scripted: ScriptedServer, method: str) -> None:
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    for asset in ASSETS:
        path = PATH if asset.name == "index.html" else f"{PATH}/{asset.name}"
        answer = httpx.request(method, scripted.url + path, trust_env=False)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(types[asset.suffix])
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(
            part.split(maxsplit=1) for part in answer.headers["content-security-policy"].split("; ")
        )
        assert policy["default-src"] == "'self'"
        assert policy["connect-src"] == "'self' ws: wss:"
        assert "unsafe" not in str(policy)
        if method == "GET":
            assert answer.content == asset.read_bytes()


@pytest.mark.parametrize(
    "name", ["none.js", "router.py", "__init__.py", "index.html", "..%2Frouter.py", "%2Fetc%2Fpasswd"]
)
def test_nothing_else_is_served(scripted: ScriptedServer, name: str) -> None:
    assert httpx.get(f"{scripted.url}{PATH}/{name}", trust_env=False).status_code == 404


@pytest.mark.parametrize("asset", ASSETS, ids=lambda path: path.name)
def test_assets_name_no_outside_host_and_hold_no_inline_code(asset: Path) -> None:
    content = asset.read_text(encoding="utf-8")
    hosts = set(re.findall(r"(?:https?|wss?)://([a-z0-9-]+(?:\.[a-z0-9-]+)*)", content))
    # A namespace that nothing fetches, and what a message tells the user to open.
    assert hosts <= {"www.w3.org", "localhost"}
    assert not re.search(r"""\bsrc(?:set)?=["']?//|url\(|@import|\beval\(|new Function""", content)
    if asset.suffix == ".html":
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)|javascript:", content)


def test_assets_are_package_data() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setuptools["package-data"]["serve_app.web"]
    forgotten = [a.name for a in ASSETS if not any(fnmatch.fnmatch(a.name, pattern) for pattern in patterns)]
    assert forgotten == []


@needs_browser
def test_everything_comes_from_the_server_itself(page: LivePage, scripted: ScriptedServer) -> None:
    loaded = page.evaluate("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {Path(url).name for url in loaded} >= {"style.css", "app.js", "transcript.js"}
    assert all(url.startswith(scripted.url) for url in loaded)
    page.press("start")
    page.wait(lambda: len(page.rows) == 1)
    page.press("start")
    page.finish()
    assert page.problems == []


@needs_browser
def test_both_languages_say_everything(page: LivePage) -> None:
    texts: dict[str, dict[str, str]] = page.evaluate("return (await load('i18n.js')).LANGUAGES")
    assert texts["en"].keys() == texts["zh"].keys()
    for key, english in texts["en"].items():
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", texts["zh"][key])), key
    code = "".join(asset.read_text(encoding="utf-8") for asset in ASSETS)
    used = set(re.findall(r'data-(?:text|label)="(\w+)"', code))
    used |= {f"fault.{key}" for key in re.findall(r'new Fault\("(\w+)"', code)}
    assert used - texts["en"].keys() == set()


@needs_browser
def test_language_switch(page: LivePage) -> None:
    html = page.driver.find_element("tag name", "html")
    assert (page["start"].text, html.get_attribute("lang")) == ("Start", "en")
    page.fill("address", "nonsense")
    page.press("start")
    assert page.fault == "badAddress"
    page.driver.find_element("css selector", "[data-language=zh]").click()
    assert (page["start"].text, html.get_attribute("lang")) == ("开始", "zh-CN")
    assert "WebSocket 地址" in page["notice"].text
    page.driver.refresh()
    page.wait(lambda: page["start"].text == "开始")


@needs_browser
def test_language_of_the_browser(scripted: ScriptedServer, downloads: Path) -> None:
    with chromium(SPOKEN, downloads, language="zh-TW,en") as driver:
        assert LivePage(driver, scripted.url)["start"].text == "开始"


@needs_browser
def test_every_control_has_a_name(page: LivePage) -> None:
    page.choose("source", "file")
    controls = page.driver.find_elements(
        "css selector", "button, input, select, [role=meter], #sheet, output"
    )
    shown = [control for control in controls if control.is_displayed()]
    assert len(shown) > 12
    assert [control.get_attribute("outerHTML") for control in shown if not control.accessible_name] == []


@needs_browser
def test_keyboard_alone_starts_and_stops(page: LivePage) -> None:
    page["start"].send_keys(Keys.ENTER)
    page.wait(lambda: page.phase == "listening")
    page["start"].send_keys(Keys.SPACE)
    page.finish()


@needs_browser
def test_choices_are_remembered_but_not_the_token(page: LivePage) -> None:
    page.choose("mode", "offline")
    page.choose("source", "file")
    page.fill("chunk-interval", "5")
    page.fill("token", "secret")
    page.driver.refresh()
    page.wait(lambda: page.phase)
    assert page.driver.find_element("css selector", "[name=mode]:checked").get_attribute("value") == "offline"
    assert page["drop"].is_displayed()
    assert page["chunk-interval"].get_attribute("value") == "5"
    assert page["token"].get_attribute("value") == ""
