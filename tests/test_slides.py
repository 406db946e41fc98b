"""The slides: which cells become slides and what they say, how many a deck has, and that a deck needs nothing from elsewhere."""

import base64
import html
import io
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from book import __main__ as commands
from book.pages import PageFailed, plain, read_chapter, write_book
from book.slides import introduction, read_deck, sentence, write_decks

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
COLOURS = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "grey", "white", "black"]
DONE = "## What you can now do\n\n- Count to\n  three.\n- Use `ddim` and $x_t$.\n\n## Exercises\n\n- None."
Cell = nbformat.NotebookNode


def text(source: str) -> Cell:
    """A markdown cell."""
    return nbformat.v4.new_markdown_cell(source)


def png(*colours: str) -> str:
    """A small picture in base64, animated if it is given several colours."""
    first, *rest = [Image.new("RGB", (32, 16), colour) for colour in colours]
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=bool(rest), append_images=rest)
    return base64.b64encode(buffer.getvalue()).decode()


def code(*colours: str, marked: bool = False) -> Cell:
    """A code cell that shows one picture after another."""
    cell = nbformat.v4.new_code_cell("show()", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", text="a number: 1\n")]
    for colour in colours:
        cell.outputs.append(nbformat.v4.new_output("display_data", {"image/png": png(colour)}, metadata={"image/png": {"alt": f"All {colour}"}}))
    if marked:
        cell.metadata["slideshow"] = {"slide_type": "slide"}
    return cell


def write_notebook(folder: Path, cells: list[Cell], name: str = "01_one") -> Path:
    """A notebook of these cells, below a title that asks."""
    title = text('# 01 One - "Why & so?"\n\nIt *matters*. More of it.')
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[title, *cells]), path)
    return path


def sections(count: int, marked: int = 0) -> list[Cell]:
    """As many sections with two pictures each; of some, the second one is marked."""
    cells = []
    for i, colour in enumerate(COLOURS[:count]):
        cells += [text(f"## 1.{i} Part {i}"), code(colour), text("Here."), code("teal", marked=i < marked), text(f"See **{colour}**. And more.")]
    return cells


def titles(path: Path) -> list[str]:
    """The titles of a notebook's slides."""
    return [plain(slide.title) for slide in read_deck(path).slides]


def test_marked_cells_are_the_slides(tmp_path: Path):
    deck = read_deck(write_notebook(tmp_path, [*sections(6, marked=4), text(DONE)]))
    first, *middle, last = deck.slides
    assert (plain(first.title), plain(first.sentence)) == ("01 One", "Why & so?") and first.picture is None
    assert [plain(slide.title) for slide in middle] == [f"1.{i} Part {i}" for i in range(4)]
    assert [slide.sentence for slide in middle] == [f"See <strong>{colour}</strong>." for colour in COLOURS[:4]]
    assert {(slide.picture.alt, slide.picture.data) for slide in middle} == {("All teal", png("teal"))}
    assert middle[1].link == "../01_one.html#1.1-Part-1"
    assert plain(last.title) == "What you can now do" and [plain(point) for point in last.points] == ["Count to three.", "Use ddim and x_t."]


def test_the_picture_is_the_first_of_its_cell_and_its_text_stands_in_for_a_sentence(tmp_path: Path):
    cells = [text("## Part\n\n### Deeper"), code("navy", "teal", marked=True), text("## Next"), *sections(3, marked=3), text(DONE)]
    slide = read_deck(write_notebook(tmp_path, cells)).slides[1]
    assert (plain(slide.title), slide.picture.alt, slide.picture.data, slide.sentence) == ("Deeper", "All navy", png("navy"), "All navy")


def test_without_marks_each_section_shows_its_first_picture(tmp_path: Path):
    deck = read_deck(write_notebook(tmp_path, [*sections(5), text("## Without"), code(), text(DONE)]))
    assert [slide.picture.alt for slide in deck.slides[1:-1]] == [f"All {colour}" for colour in COLOURS[:5]]
    assert len(titles(write_notebook(tmp_path, [*sections(12), text(DONE)]))) == 10


@pytest.mark.parametrize("marked, closing, fits", [
    (3, True, False), (4, True, True), (4, False, False), (5, False, True), (8, True, True), (9, True, False),
])
def test_a_deck_has_six_to_ten_slides(tmp_path: Path, marked: int, closing: bool, fits: bool):
    path = write_notebook(tmp_path, sections(10, marked) + [text(DONE)] * closing)
    if fits:
        assert len(titles(path)) == 1 + marked + closing
    else:
        with pytest.raises(PageFailed, match=f"^01_one.ipynb: {1 + marked + closing} slides, but a deck has 6 to 10, with the title and"):
            read_deck(path)


@pytest.mark.parametrize("kind", ["code", "text"])
def test_a_slide_needs_a_picture(tmp_path: Path, kind: str):
    cell = code() if kind == "code" else text("Text")
    cell.metadata["slideshow"] = {"slide_type": "slide"}
    with pytest.raises(PageFailed, match=r"01_one.ipynb, cell 2: it is marked as a slide, but shows no picture"):
        read_deck(write_notebook(tmp_path, [text("## Part"), cell, *sections(6, marked=5)]))


def test_a_notebook_that_was_not_run_has_no_slides(tmp_path: Path):
    with pytest.raises(PageFailed, match=r"01_one.ipynb: it shows no picture, so it cannot become slides"):
        read_deck(write_notebook(tmp_path, [text("## Part"), code()]))


def test_a_picture_needs_a_heading_above(tmp_path: Path):
    path = tmp_path / "01_one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[code("red"), text("# One")]), path)
    with pytest.raises(PageFailed, match="01_one.ipynb, cell 0: a picture above the first heading"):
        read_deck(path)


def test_a_formula_that_is_not_known_names_the_notebook(tmp_path: Path):
    with pytest.raises(PageFailed, match=r"01_one.ipynb: the formula \\nosuchcommand"):
        read_deck(write_notebook(tmp_path, [*sections(6), text(r"$\nosuchcommand$")]))


@pytest.mark.parametrize("source, expected", [
    ("One. Two.", "One."),
    ("No full stop", "No full stop"),
    ("Over two\nlines. Two.", "Over two\nlines."),
    ("Is it? Yes.", "Is it?"),
    ("At t = 0.5 it is 3.1, e.g. Bob. Two.", "At t = 0.5 it is 3.1, e.g. Bob."),
    ("In chapter 02. 25 calls.", "In chapter 02."),
    ('He asks "why?" and goes. Two.', 'He asks "why?" and goes.'),
    ('He says "no." Then two.', 'He says "no."'),
    ("**A name. With** a stop. Two.", "<strong>A name. With</strong> a stop."),
    ("*Emphasis.* Two.", "<em>Emphasis.</em>"),
    ("Call `f. G` now. Two.", "Call <code>f. G</code> now."),
    ("One. `Two` it is.", "One."),
    ("See [3.1 The. Way](03_network.ipynb#3.1) here. Two.", "See 3.1 The. Way here."),
    ("(An aside.) One. Two.", "One."),
    ("# A heading", ""),
    ("- a list. B", ""),
    ("", ""),
])
def test_first_sentence(source: str, expected: str):
    assert html.unescape(sentence(source, Path("01_one.ipynb"))) == expected


def test_a_formula_in_a_sentence_is_mathml():
    shown = sentence(r"With $\frac{a. B}{2}$ and $x_t$. Two.", Path("01_one.ipynb"))
    assert shown.count("<math") == 2 and shown.endswith("</math>.") and "$" not in shown


def write_chapters(folder: Path, count: int) -> list[Path]:
    """Chapters that all look alike; the second one ends in a film."""
    paths = [write_notebook(folder, [*sections(5), text(DONE)], f"{i:02}_c{i}") for i in range(1, count + 1)]
    film = code("red")
    film.outputs[1].data["image/png"] = png("red", "blue")
    write_notebook(folder, [*sections(5), film, text(DONE)], paths[0].stem)
    return paths


def test_the_introduction_takes_a_picture_of_each_chapter(tmp_path: Path):
    deck = introduction([read_deck(path) for path in write_chapters(tmp_path, 7)])
    shown = [(plain(slide.title), plain(slide.sentence), slide.picture and slide.picture.data) for slide in deck.slides]
    assert shown[1] == ("Why diffusion models matter", "It matters.", png("red", "blue"))
    assert shown[2:9] == [("01 One", "Why & so?", png("red"))] * 7
    assert "in 7 chapters" in shown[0][1] and len(shown) == 10
    assert [plain(point) for point in deck.slides[-1].points] == ["Count to three."] * 7


def test_decks_are_pages_that_need_nothing_from_elsewhere(tmp_path: Path):
    decks = write_decks(write_chapters(tmp_path, 7), tmp_path / "slides")
    assert [path.stem for path in decks] == ["00_intro", *(f"{i:02}_c{i}" for i in range(1, 8))]
    for path in decks:
        page = path.read_text("utf-8")
        count = len(re.findall("<section", page))
        assert re.findall(r'<section id="(\d+)"', page) == [str(i + 1) for i in range(count)] and f"<span>1 / {count}</span>" in page
        assert not re.search(r"<script[^>]|<link|@import|@font-face|url\(|(?:src|href)=\"(?:https?:)?//|<img(?![^>]*alt=\"[^\"])", page)
        for link in re.findall(r'href="(?!#)([^"#]*)', page):
            assert link == "../index.html" or (path.parent / link).exists() or (tmp_path / "slides" / link).with_suffix(".ipynb").exists(), link
    assert 'href="02_c2.html">Next slides: 01 One' in decks[1].read_text("utf-8") and "Next slides" not in decks[-1].read_text("utf-8")


def test_only_the_first_chapter_brings_an_introduction(tmp_path: Path):
    chapters = write_chapters(tmp_path, 2)
    assert [path.stem for path in write_decks(chapters[1:], tmp_path)] == ["02_c2"]


def test_chapters_and_index_link_to_their_slides(tmp_path: Path):
    chapters = write_chapters(tmp_path, 2)
    decks = write_decks(chapters, tmp_path / "slides")
    first, second, index = (path.read_text("utf-8") for path in write_book(chapters, tmp_path, decks))
    assert 'href="slides/01_c1.html"' in first and 'href="slides/02_c2.html"' in second
    assert re.findall(r'href="slides/(\w+).html"', index) == ["00_intro", "01_c1", "02_c2"]
    assert "slides/" not in write_book(chapters, tmp_path)[0].read_text("utf-8")


def test_make_chapters_writes_the_slides_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    monkeypatch.setattr(commands, "BUILD", tmp_path / "build")
    commands.chapters(write_chapters(tmp_path, 2))
    written = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "build").rglob("*.html"))
    names = ["01_c1", "02_c2", "index", "slides/00_intro", "slides/01_c1", "slides/02_c2"]
    assert written == [f"build/{name}.html" for name in names]
    assert sorted(line for line in capsys.readouterr().out.splitlines() if line.startswith("build/")) == written
    assert 'href="slides/00_intro.html"' in (tmp_path / "build" / "index.html").read_text("utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebooks_become_pages_and_slides(path: Path):
    assert read_chapter(path).picture
    deck = read_deck(path)
    assert deck.title and deck.question.endswith("?") and plain(deck.slides[-1].title) == "What you can now do"
