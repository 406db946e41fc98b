"""The book and its slides in a real browser: keys turn slides, a deck prints one slide a page, the search box finds."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_browser import CHROMIUM, sync_api
from test_slides import DONE, sections, text, write_notebook

from book.pages import write_book
from book.slides import write_decks

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")]
WINDOW = {"width": 1280, "height": 720}
Page = sync_api.Page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of two chapters with slides."""
    here = tmp_path_factory.mktemp("book")
    hat = text("## 1.9 The Fréchet distance\n\nBob wears a hat.")
    chapters = [write_notebook(here, [*sections(5), hat, text(DONE)], "01_one"), write_notebook(here, [*sections(5), text(DONE)], "02_two")]
    write_book(chapters, here, write_decks(chapters, here / "slides"))
    return here


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.Browser]:
    """A browser without a window."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: sync_api.Browser, folder: Path) -> Iterator[Callable[..., Page]]:
    """A function that opens a file of the book; at the end, no script may have failed and nothing may have been fetched."""
    faults, pages = [], []

    def opened(name: str, **settings: object) -> Page:
        page = chromium.new_page(viewport=WINDOW, **settings)
        pages.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(request.url))
        page.goto(folder.as_uri() + "/" + name)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not faults


def slide_on(page: Page) -> int:
    """The number of the slide that fills the window, once the address says the same."""
    page.wait_for_function("document.getElementById(location.hash.slice(1))?.getBoundingClientRect().top === 0")
    return int(page.evaluate("location.hash.slice(1)"))


def test_keys_turn_the_slides(open_page: Callable[..., Page]):
    page = open_page("slides/01_one.html#3")
    assert slide_on(page) == 3
    for key, number in [("ArrowRight", 4), ("PageDown", 5), ("ArrowDown", 6), (" ", 7), ("ArrowRight", 7), ("ArrowLeft", 6), ("PageUp", 5),
                        ("ArrowUp", 4), ("Shift+Space", 3), ("Home", 1), ("ArrowLeft", 1), ("End", 7)]:
        page.keyboard.press(key)
        page.wait_for_function(f"location.hash === '#{number}'", timeout=5000)
        assert slide_on(page) == number, key
    assert page.evaluate("document.activeElement.id") == "7"


def test_every_slide_fits_the_window(open_page: Callable[..., Page]):
    page = open_page("slides/01_one.html")
    heights = page.evaluate("[...document.querySelectorAll('section')].map(slide => slide.getBoundingClientRect().height)")
    assert heights == [WINDOW["height"]] * 7


def test_a_deck_prints_one_slide_a_page(open_page: Callable[..., Page]):
    printed = open_page("slides/01_one.html").pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type /Page\b", printed)) == 7


def test_without_scripts_a_deck_scrolls_and_the_search_box_is_hidden(open_page: Callable[..., Page]):
    with_scripts, without = open_page("index.html"), open_page("index.html", java_script_enabled=False)
    assert with_scripts.locator(".search").is_visible() and not without.locator(".search").is_visible()
    deck = open_page("slides/01_one.html", java_script_enabled=False)
    deck.mouse.wheel(0, 700)
    sync_api.expect(deck.locator("section").nth(1).locator("h2")).to_be_in_viewport()


def test_the_search_box_finds_sections_and_leads_to_them(open_page: Callable[..., Page]):
    page = open_page("index.html")
    hits, count = page.locator(".hits li"), page.locator(".search output")
    page.get_by_label("Search all chapters").fill("frechet BOB")
    sync_api.expect(count).to_have_text("1 section")
    assert hits.locator("mark").all_text_contents() == ["Fréchet", "Bob"]
    page.get_by_label("Search all chapters").fill("no such words")
    sync_api.expect(count).to_have_text("no sections")
    page.get_by_label("Search all chapters").fill("part 3")
    assert hits.count() == 2
    hits.nth(1).get_by_role("link").click()
    assert page.url.endswith("02_two.html#1.3-Part-3")
    page.goto(page.url.replace("02_two.html#1.3-Part-3", "index.html?q=fréchet"))
    sync_api.expect(hits).to_have_count(1)


def test_dark_screens_get_light_words_and_pictures_a_white_card(open_page: Callable[..., Page]):
    page = open_page("01_one.html", color_scheme="dark")
    style = "element => [getComputedStyle(element).color, getComputedStyle(element).backgroundColor, getComputedStyle(element).boxShadow]"
    (ink, ground, _), (*_, card) = page.locator("body").evaluate(style), page.locator("img").first.evaluate(style)
    assert brightness(ink) > 200 > 60 > brightness(ground) and card.startswith("rgb(255, 255, 255)")
    words = page.locator("pre.code span").first.evaluate(style)[0]
    assert brightness(words) > 100


def brightness(colour: str) -> float:
    """The mean of red, green and blue, 0 to 255."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
