"""The page of a served policy in a real Chromium, without a screen."""

import re
import shutil
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from openpi_clients import client_of
from running import Running, picture
from test_dashboard_visitors import LOCKED
from watched import KEY, Page, png, watched

from spatialvla_client import Client, Observation

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)"),
]
playwright.expect.set_options(timeout=20_000)
HOSTILE = "<script>window.taken = 1</script><img src=x onerror='window.taken = 1'>{{7*7}}"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser) -> Iterator[playwright.Page]:
    """A tab that has, when it is closed, asked nobody but its server, and complained of nothing."""
    page = browser.new_page()
    page.set_default_timeout(20_000)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    yield page
    page.close()
    assert asked
    assert {re.match(r"\w+://[^:/]+", url)[0] for url in asked} == {"http://127.0.0.1"}
    # A browser reports an answer such as 401 by itself.
    assert [text for text in complaints if "status of 401" not in text] == []


class Sender:
    """A light client that asks until it is stopped, with a new instruction each time."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        with Client(self._running.url) as robot:
            number = 0
            while not self._stop.wait(0.05):
                number += 1
                robot.act(Observation(picture(number), f"task number {number}"))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def seen(page: Page) -> str:
    return page.origin + "/"


def is_drawn(tab: playwright.Page, selector: str) -> None:
    """Waits until a picture has come."""
    tab.wait_for_function(
        "selector => { const image = document.querySelector(selector); return image && image.naturalWidth > 0 }",
        arg=selector,
    )


def test_a_wrong_key_shows_nothing_and_a_right_one_all(tab):
    with watched(access=LOCKED) as (_, page):
        tab.goto(seen(page))
        assert tab.locator("#live").count() == 0
        tab.get_by_label("API key").fill("not-the-key-of-this-server")
        tab.get_by_role("button", name="Log in").click()
        playwright.expect(tab.get_by_role("alert")).to_contain_text("none of this server's keys")
        tab.get_by_label("API key").fill(KEY)
        tab.get_by_role("button", name="Log in").click()
        playwright.expect(tab.locator("#live")).to_contain_text("ready")
        assert KEY not in tab.url
        assert tab.evaluate("document.cookie") == "", "no script reads the cookie"
        page.service.engine.metrics.queued.set(7)
        playwright.expect(tab.locator("#live")).to_contain_text("7requests waiting")
        tab.get_by_role("button", name="Log out").click()
        playwright.expect(tab.get_by_label("API key")).to_be_visible()


def test_a_page_whose_login_ends_asks_for_the_key_again(tab):
    with watched(access=LOCKED) as (_, page):
        tab.goto(seen(page))
        tab.get_by_label("API key").fill(KEY)
        tab.get_by_role("button", name="Log in").click()
        playwright.expect(tab.locator("#live")).to_contain_text("ready")
        tab.context.clear_cookies()
        playwright.expect(tab.get_by_label("API key")).to_be_visible()


def test_the_page_follows_a_robot(tab):
    with watched() as (running, page):
        tab.goto(seen(page))
        playwright.expect(tab.locator("#live")).to_contain_text("No robot has asked yet")
        with Sender(running):
            instruction = tab.locator("#robot-1 .instruction")
            playwright.expect(instruction).to_contain_text("task number")
            is_drawn(tab, "#robot-1 img[src*='image.jpg']")
            is_drawn(tab, "#robot-1 img[src*='depth.jpg']")
            before = instruction.inner_text()
            playwright.expect(instruction).not_to_have_text(before)
        assert page.robots.watching
        assert tab.locator("#robot-1 .charts rect.sent").count() == 28
        assert tab.locator("#live").get_by_text("wait for the model").count() == 1


def test_an_image_is_tried_by_hand(tab):
    with watched() as (running, page):
        tab.goto(seen(page))
        tab.get_by_label("Picture").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": png()}
        )
        tab.get_by_label("Instruction").fill("put the spoon on the towel")
        tab.get_by_role("button", name="Ask the policy").click()
        answer = tab.locator("#answer")
        playwright.expect(answer.locator("tr")).to_have_count(5)
        playwright.expect(answer).to_contain_text("put the spoon on the towel")
        is_drawn(tab, "#answer img[src*='image.jpg']")
        is_drawn(tab, "#answer img[src*='depth.jpg']")
        assert running.value("connections") == 0
        tab.get_by_label("Picture").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": b"none"}
        )
        tab.get_by_role("button", name="Ask the policy").click()
        playwright.expect(answer.get_by_role("alert")).to_contain_text("cannot be used")
        assert tab.get_by_label("Instruction").input_value() == "put the spoon on the towel", (
            "the form is kept"
        )


def test_hostile_text_does_nothing(tab):
    with watched() as (running, page):
        tab.goto(seen(page))
        client_of(running).infer({"image": picture(1), "instruction": HOSTILE})
        playwright.expect(tab.locator("#robot-1 .instruction")).to_have_text(HOSTILE)
        tab.get_by_label("Picture").set_input_files(
            {"name": HOSTILE, "mimeType": "image/png", "buffer": png()}
        )
        tab.get_by_label("Instruction").fill(HOSTILE)
        tab.get_by_role("button", name="Ask the policy").click()
        playwright.expect(tab.locator("#answer .instruction")).to_have_text(HOSTILE)
        assert tab.evaluate("window.taken") is None
        assert tab.locator("#live img[src='x'], #answer img[src='x']").count() == 0


def test_a_page_that_nobody_sees_asks_for_nothing(tab):
    with watched() as (_, page):
        tab.goto(seen(page))
        playwright.expect(tab.locator("#live")).to_contain_text("ready")
        tab.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        tab.wait_for_timeout(500)
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.wait_for_timeout(2500)
        assert asked == []
        tab.evaluate("delete document.hidden")
        with tab.expect_request("**/live"):
            pass


def test_a_server_that_is_gone_is_told(browser):
    tab = browser.new_page()
    with watched() as (_, page):
        tab.goto(seen(page))
        playwright.expect(tab.locator("#live")).to_contain_text("ready")
        assert not tab.get_by_text("The server does not answer").is_visible()
    playwright.expect(tab.get_by_text("The server does not answer")).to_be_visible()
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window_and_its_reader(browser, scheme, width):
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    with watched() as (running, page):
        long = "pick up " + "the very long name without a space in it ".replace(" ", "_") * 8
        client_of(running).infer({"image": picture(1), "instruction": long})
        tab.goto(seen(page))
        playwright.expect(tab.locator("#robot-1")).to_be_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = np.mean([int(number) for number in re.findall(r"\d+", color)[:3]])
        assert (shade > 200) == (scheme == "light")
    tab.close()
