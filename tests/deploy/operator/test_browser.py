"""The page in a real browser without a window (packages: playwright, and a Chromium or Chrome of the machine).

Run: pytest tests/deploy/operator/test_browser.py
"""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.realtime.records import text
from tests.deploy.realtime.parts import is_in, wait_for

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (extra dev)")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 30_000
CURVE = "() => [...document.querySelectorAll('path.%s')].filter(p => (p.getAttribute('d') || '').length > 20).length"


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH")
    options = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's own sandbox refuses root
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page):
    """Open the page in a browser of its own; what its console calls an error fails the test."""
    contexts, complaints = [], []

    def open_it(**options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "console",
            lambda said: "Content Security Policy" in said.text and complaints.append(said.text),
        )
        tab.goto(page.address)
        return tab

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


def shows(tab, mode):
    sync_api.expect(tab.locator("#mode")).to_have_text(mode, timeout=PATIENCE_MS)


def test_a_person_starts_tells_watches_and_stops_the_robot(visit, supervisor):
    tab = visit()
    shows(tab, "hold")
    tab.get_by_role("button", name="Start").click()
    shows(tab, "run")
    tab.wait_for_function("() => document.querySelector('.cameras img').naturalWidth === 96")
    red = tab.evaluate(
        """() => { const image = document.querySelector('.cameras img'), canvas = document.createElement('canvas');
        const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);
        return [...context.getImageData(5, 5, 1, 1).data]; }"""
    )
    assert red[0] > 180
    for curve in ("measured", "commanded", "chunk"):
        tab.wait_for_function(f"() => ({CURVE % curve})() === {supervisor.spec.robot.num_native}")

    orders = supervisor.ring("orders")
    tab.get_by_label("instruction").fill("take the red cube")
    tab.get_by_label("instruction").press("Enter")
    wait_for(lambda: text(orders.newest().value["instruction"]) == "take the red cube")
    orders.close()
    sync_api.expect(tab.locator("#told")).to_have_text("take the red cube")

    tab.get_by_role("button", name="EMERGENCY STOP").click()
    wait_for(is_in(supervisor, "fault"))
    shows(tab, "fault")
    sync_api.expect(tab.get_by_role("alert")).to_contain_text("FAULT: emergency stop")
    sync_api.expect(tab.get_by_role("button", name="Start")).to_be_disabled()
    tab.get_by_role("button", name="Reset").click()
    shows(tab, "hold")


def test_the_space_bar_stops_whatever_button_has_the_focus_but_types_in_the_instruction(visit, supervisor):
    tab = visit()
    shows(tab, "hold")
    tab.get_by_label("instruction").fill("")
    tab.get_by_label("instruction").press_sequentially("a b")
    assert tab.get_by_label("instruction").input_value() == "a b"
    tab.get_by_role("button", name="Start").focus()
    tab.keyboard.press("Space")
    shows(tab, "fault")
    assert supervisor.status()["mode"] == "fault"


def test_without_javascript_the_forms_still_stop_and_reset(visit, supervisor):
    tab = visit(java_script_enabled=False)
    tab.get_by_role("button", name="EMERGENCY STOP").click()
    wait_for(is_in(supervisor, "fault"))
    tab.reload()
    shows(tab, "fault")
    tab.get_by_role("button", name="Reset").click()
    wait_for(is_in(supervisor, "hold"))


def test_two_browsers_see_the_same_robot_and_either_stops_it(visit, supervisor):
    first, second = visit(), visit()
    first.get_by_role("button", name="Start").click()
    shows(second, "run")
    second.keyboard.press("Space")
    shows(first, "fault")
    shows(second, "fault")


def test_a_page_whose_robot_is_gone_says_that_it_is_old(visit, page):
    tab = visit()
    shows(tab, "hold")
    page.close()
    shows(tab, "unknown")
    alert = tab.get_by_role("alert")
    sync_api.expect(alert).to_contain_text("what you see is old")
    tab.keyboard.press("Space")
    sync_api.expect(alert).to_contain_text("THE EMERGENCY STOP HAS NOT ARRIVED", timeout=PATIENCE_MS)


def test_a_page_of_elsewhere_cannot_order(browser, page, supervisor, tmp_path):
    """A form of another origin, which a browser sends without asking anybody."""
    (tmp_path / "index.html").write_text(
        f'<form method="post" action="{page.address}estop"><button>Win</button></form>'
    )
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(f"http://127.0.0.1:{elsewhere.server_address[1]}/")
    tab.get_by_role("button", name="Win").click()
    sync_api.expect(tab.get_by_text("only the robot's own page")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.url == f"{page.address}estop"
    context.close()
    elsewhere.shutdown()
    elsewhere.server_close()
    assert supervisor.status()["mode"] == "hold"
