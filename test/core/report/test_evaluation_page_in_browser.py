"""The page of an evaluation in a real browser: the system's Chromium, without a screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from evaluated_scenes import METHODS, Evaluated, WrittenReport
from numpy.typing import NDArray

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as the system has it; nothing is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("needs Chromium: apt install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield browser
        browser.close()


class OpenPage:
    """A page, and what went wrong while it was open.

    Attributes:
        requests: to anything but the file itself and what it carries.
        complaints: of the console, and errors.
    """

    def __init__(self, browser: Browser, report: WrittenReport, width: int, scheme: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=True
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.route("**/*", self.refuse_network)
        self.page.goto(report.folder.joinpath("report.html").as_uri(), wait_until="load")

    def refuse_network(self, route: Any) -> None:
        """Let the file through, and note everything else."""
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def picture(self, selector: str) -> NDArray[np.uint8]:
        """The first element of a kind as it looks, RGB."""
        shot = self.page.locator(selector).first.screenshot()
        return np.asarray(cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1], np.uint8)

    def close(self) -> None:
        self.context.close()


LOOKS = [(1280, "light"), (1280, "dark"), (400, "light")]


@pytest.fixture(scope="module", params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def opened(request: pytest.FixtureRequest, browser: Browser, report: WrittenReport) -> Iterator[OpenPage]:
    """The report, in several widths and colour schemes."""
    opened = OpenPage(browser, report, *request.param)
    yield opened
    opened.close()


def inner_text(page: Page, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def test_the_table_is_there(opened: OpenPage, streets: Evaluated) -> None:
    table = opened.page.locator("#results table").first
    assert table.is_visible()
    first = "#results table >> nth=0 >> tbody >> nth=0 >> tr"
    rows = opened.page.locator(first)
    assert inner_text(opened.page, f"{first} >> th") == ["After 10 % warm-up · 44 frames", *METHODS]
    own = streets.result.results[3].scores
    assert own.miou is not None
    assert own.vc8 is not None
    cells = rows.nth(4).locator("td")
    assert cells.nth(0).inner_text() == f"{own.miou:.2f}★"
    assert cells.nth(2).inner_text() == f"{own.vc8:.2f}★"
    assert cells.nth(0).get_by_label("best").count() == 1
    weight = "element => getComputedStyle(element).fontWeight"
    assert int(cells.nth(0).locator("strong").evaluate(weight)) >= 600
    assert int(rows.nth(1).locator("td").nth(0).evaluate(weight)) == 400
    picture = opened.picture("#results table")
    assert picture.std() > 10


def test_every_image_is_decoded_and_shows_something(opened: OpenPage) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true; })")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    sizes = page.evaluate("[...document.images].map(image => [image.alt, image.naturalWidth, image.naturalHeight])")
    assert len(sizes) == 1 + 1 + 4 + 4 * 6 + 2  # scores, classes, curves, frames, confusions
    assert all(width > 100 and height > 50 for _, width, height in sizes), sizes
    for selector in ("#results img", "#classes img", "#curves img", "#frames img", "#confusion img"):
        picture = opened.picture(selector)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50, selector
        assert picture.std() > 5, selector


def test_the_curves_have_the_colours_of_the_methods_in_the_table(opened: OpenPage) -> None:
    curves = opened.picture("#curves img").astype(int)
    keys = opened.page.locator("#results table >> nth=0 >> tbody >> nth=0 >> .key")
    assert keys.count() == len(METHODS)
    for number, method in enumerate(METHODS):
        if method == "tent":
            continue  # one of the rest: thin and translucent
        color = keys.nth(number).evaluate("element => getComputedStyle(element).borderTopColor")
        rgb = [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
        assert (np.abs(curves - rgb).max(2) <= 12).sum() > 40, method


def test_plots_have_the_brightness_of_the_page(opened: OpenPage) -> None:
    dark = opened.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    corner = opened.picture("h1")[0, -1]
    for section in ("results", "classes", "curves", "confusion"):
        plot = opened.picture(f"#{section} .plot img")
        # It lies on the page without an edge: its corner has the page's colour.
        np.testing.assert_allclose(plot[2, 2].astype(int), corner, atol=2, err_msg=section)
    assert corner.mean() < 40 if dark else corner.mean() > 250


def test_the_page_never_scrolls_sideways(opened: OpenPage) -> None:
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(element => { element.open = true; })")
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= seen
    for section in page.locator("section").all():
        box = section.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= seen
    if seen < 500:  # what does not fit scrolls by itself
        inside, shown = page.locator("#results .scroll:has(table)").first.evaluate(
            "element => [element.scrollWidth, element.clientWidth]"
        )
        assert inside > shown


def test_nothing_is_fetched_and_nothing_complains(opened: OpenPage) -> None:
    opened.page.wait_for_load_state("networkidle")
    assert opened.requests == []
    assert opened.complaints == []
    assert opened.page.locator("script").count() == 0


def test_links_lead_to_the_sections(opened: OpenPage) -> None:
    links = opened.page.locator("nav a")
    targets = [links.nth(number).get_attribute("href") or "" for number in range(links.count())]
    assert targets == [
        "#results", "#classes", "#curves", "#frames", "#confusion", "#videos", "#protocol", "#configuration",
    ]  # fmt: skip
    for target in targets:
        assert opened.page.locator(f"section{target}").count() == 1
