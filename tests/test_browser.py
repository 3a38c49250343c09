"""The report in a real browser without a network: requests, accessibility, phone, dark mode, keyboard, printing."""

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python, of the extra dev")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
OTHERS = (DESKTOP, False), (DESKTOP, True), (PHONE, False)
LOOKS = [(PHONE, True), *(pytest.param(*look, marks=pytest.mark.long) for look in OTHERS)]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")


@pytest.fixture(scope="module")
def browser():
    root = ("--no-sandbox",) if getattr(os, "getuid", lambda: 1)() == 0 else ()  # Chromium starts for root in no other way
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """opened(file, viewport, dark) -> its page, the network cut off; ``asked`` lists its requests, ``said`` the console's lines."""
    with contextlib.ExitStack() as stack:

        def open_page(path, viewport=DESKTOP, dark=False):
            look = {"viewport": viewport, "color_scheme": "dark" if dark else "light"}
            page = stack.enter_context(browser.new_page(**look, offline=True))
            page.set_default_timeout(300_000)  # a busy machine is no fault of the page
            page.asked, page.said = [], []
            page.on("request", lambda request: page.asked.append(request.url))
            page.on("console", lambda message: "readback" in message.text or page.said.append(message.text))  # as `drawn` reads
            page.on("pageerror", lambda error: page.said.append(str(error)))
            page.goto(path.as_uri())
            return page

        yield open_page


@pytest.fixture
def visit(opened, made):
    """visit(viewport, dark) -> the page of the report."""
    return functools.partial(opened, made.pages / "index.html")


def serious(page):
    """What axe finds to be serious: (rule, where)."""
    found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]


def test_it_asks_the_network_for_nothing_and_has_nothing_to_complain(visit):
    page = visit()
    page.wait_for_load_state("networkidle")
    assert page.asked and all(url.startswith(("file:", "data:", "blob:")) for url in page.asked)
    assert page.said == []
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize(("viewport", "dark"), LOOKS)
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(visit, viewport, dark):
    page = visit(viewport, dark)
    page.evaluate("document.querySelector('#notebook-02').querySelectorAll('details').forEach(fold => fold.open = true)")
    assert serious(page) == []
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    cut = """[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth
        && !e.closest('.box, figure.wide, pre.printed')).map(e => e.outerHTML.slice(0, 200))"""
    assert page.evaluate(cut) == []


def test_dark_mode_is_dark_and_paper_is_white(visit):
    page = visit(dark=True)
    background = "getComputedStyle(document.body).backgroundColor"
    assert sum(map(int, page.evaluate(background)[4:-1].split(","))) < 150
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    pdf = page.pdf(format="A4", print_background=False)
    assert pdf.startswith(b"%PDF-") and 12 <= pdf.count(b"/Type /Page\n") < 90


def test_keys_lead_past_the_contents_and_unfold_the_code(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    fold = page.locator("details.source").first
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.get_attribute("open") is not None and fold.locator("pre").bounding_box()["height"] > 10


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_the_quiz_by_keys_and_by_touch_ends_with_answers_to_save(visit, viewport):
    page = visit(viewport)
    slices = page.evaluate("JSON.parse(document.querySelector('.quiz script').textContent).slices.map(one => one.real)")
    button, by_key = page.locator(".quiz button[value=real]"), viewport is DESKTOP
    button.focus()
    for real in slices:  # all right but the first
        right = real != (page.locator(".quiz .place").text_content().startswith("Slice 1 "))
        if by_key:
            page.keyboard.press("r" if right else "ArrowRight")
        else:
            page.click(f".quiz button[value={'real' if right else 'generated'}]")
    assert f"right in {len(slices) - 1} of {len(slices)}" in page.locator(".quiz .result").text_content()
    assert page.evaluate("document.activeElement.className").startswith("result")
    assert page.locator(".solved li").count() == len(slices)
    with page.expect_download() as download:
        page.click(".quiz .save")
    saved = json.loads(Path(download.value.path()).read_text())
    assert [one["real"] for one in saved["answers"]] == slices and len(saved["model_hash"]) >= 8
    assert sum(one["real"] == one["said_real"] for one in saved["answers"]) == len(slices) - 1
    assert axe.Axe().run(page, context=".quiz").response["violations"] == [] and page.said == []
