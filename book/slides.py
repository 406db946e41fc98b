"""Slide decks from executed notebooks: one for each chapter and an introduction in front; readable from a folder, offline.

A code cell whose metadata says {"slideshow": {"slide_type": "slide"}} is a slide: the heading above it, its first picture,
and the first sentence of the text below it. A notebook without such cells shows the first picture of each section.
"""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import mistune
import nbformat
from markupsafe import Markup
from nbformat import NotebookNode

from book.formulas import FormulaFailed, formulas
from book.pages import Heading, PageFailed, Picture, Prose, inline, markdown_cell, pictures, template, write

FEWEST, MOST = 6, 10  # slides of a deck, with the title and the closing one
CLOSING = "What you can now do"

# A sentence ends where a capital, a formula or code begins the next one; marks of emphasis and closing quotes belong to it.
END = re.compile(r"(?<!e\.g)(?<!i\.e)[.?!][\"'”)*_]*(?=\s+[\"'“(\[*_]*[A-Z0-9]|\s*$)")
ONE_PIECE = re.compile(r"`[^`]*`|\$[^$]*\$|\[[^\]]*\]\([^)]*\)")


class Slide(NamedTuple):
    """A title, and a sentence with a picture or a few points; the link says where to read on."""

    title: Markup
    link: str
    link_text: Markup
    sentence: Markup = Markup("")
    picture: Picture | None = None
    points: Sequence[Markup] = ()


class Deck(NamedTuple):
    """The slides of a notebook, and what the introduction tells of it."""

    name: str
    title: Markup
    question: Markup
    opening: Markup
    cover: Picture
    slides: list[Slide]


class Shown(NamedTuple):
    """A code cell with a picture: its number, the heading above it, the section it is in, and whether it is marked as a slide."""

    cell: int
    heading: Heading
    section: str
    picture: Picture
    marked: bool


def write_decks(notebooks: list[Path], folder: Path) -> list[Path]:
    """A deck for each executed notebook and, if the first chapter is among them, one to begin with; their paths."""
    decks = [read_deck(path) for path in notebooks]
    if decks and decks[0].name.startswith("01"):
        decks = [introduction(decks), *decks]
    written = []
    for deck, after in zip(decks, [*decks[1:], None]):
        page = template("slides.html").render(deck=deck, after=after, style=inline("colours.css", "slides.css"), script=inline("slides.js"))
        written.append(write(folder / f"{deck.name}.html", page))
    return written


def read_deck(path: Path) -> Deck:
    """The slides of one notebook; PageFailed if there are too few or too many, or one has no picture."""
    notebook = nbformat.read(path, as_version=4)
    contents: list[Heading] = []
    try:
        shown = cells_with_pictures(notebook, path, contents)
        deck = deck_of(notebook, path, contents[0].text, shown)
    except FormulaFailed as failure:
        raise PageFailed(f"{path.name}: the formula {failure}") from failure
    if not FEWEST <= len(deck.slides) <= MOST:
        raise PageFailed(
            f"{path.name}: {len(deck.slides)} slides, but a deck has {FEWEST} to {MOST}, with the title and the closing one: "
            'mark more or fewer code cells with {"slideshow": {"slide_type": "slide"}}'
        )
    return deck


def deck_of(notebook: NotebookNode, path: Path, heading: str, shown: list[Shown]) -> Deck:
    """The title, the slides that were chosen, and the closing slide."""
    title, _, question = (Markup(part.strip()) for part in heading.partition(" - "))
    opening = sentence(notebook.cells[0].source.partition("\n\n")[2], path)
    question = Markup(re.sub(r'^(?:&quot;|")|(?:&quot;|")$', "", question)) or opening
    page = f"../{path.stem}.html"
    slides = [Slide(title, page, Markup("Read the chapter"), question)]
    for cell, above, _section, picture, _marked in chosen(shown):
        text = next((below.source for below in notebook.cells[cell + 1:] if below.cell_type == "markdown"), "")
        said = sentence(text, path) or Markup(html.escape(picture.alt))
        slides.append(Slide(above.text, f"{page}#{quote(above.anchor)}", title, said, picture))
    if points := closing_points(notebook, path):
        slides.append(Slide(Markup(CLOSING), f"{page}#{quote(CLOSING.replace(' ', '-'))}", title, points=points))
    moving = (one.picture for one in shown if b"acTL" in base64.b64decode(one.picture.data).partition(b"IDAT")[0])
    return Deck(path.stem, title, question, opening, next(moving, shown[0].picture), slides)


def cells_with_pictures(notebook: NotebookNode, path: Path, contents: list[Heading]) -> list[Shown]:
    """Every code cell that shows a picture, in order; the notebook's headings are added to the contents."""
    shown = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            markdown_cell(cell, path, contents)
        marked = cell.metadata.get("slideshow", {}).get("slide_type") == "slide"
        picture = next(iter(pictures(cell)), None)
        if marked and not picture:
            raise PageFailed(f"{path.name}, cell {number}: it is marked as a slide, but shows no picture: mark the code cell that draws one")
        if picture and not contents:
            raise PageFailed(f"{path.name}, cell {number}: a picture above the first heading: begin with a markdown cell '# ...'")
        if picture:
            section = next((heading.anchor for heading in reversed(contents) if heading.level <= 2), "")
            shown.append(Shown(number, contents[-1], section, picture, marked))
    if not shown:
        raise PageFailed(f"{path.name}: it shows no picture, so it cannot become slides: run it first")
    return shown


def chosen(shown: list[Shown]) -> list[Shown]:
    """The cells that are marked; if none is, the first of each section, as many as a deck holds."""
    marked = [one for one in shown if one.marked]
    first = {one.section: one for one in reversed(shown)}
    return marked or [one for one in shown if first[one.section] is one][:MOST - 2]


def sentence(source: str, path: Path) -> Markup:
    """The first sentence of a markdown text as HTML, past an aside in parentheses; empty if the text begins with a heading, list or table."""
    paragraph = re.sub(r"^\([^()]*\)\s+", "", re.split(r"\n\s*\n", source.strip())[0])
    masked = ONE_PIECE.sub(lambda found: "A" * len(found[0]), paragraph)
    ends = (found.end() for found in END.finditer(masked))
    end = next((end for end in ends if masked[:end].count("*") % 2 == masked[:end].count("**") % 2 == 0), None)
    paragraph = re.fullmatch(r"<p>(.*)</p>\s*", in_a_line(paragraph[:end], path), re.DOTALL)
    return Markup(paragraph[1] if paragraph else "")


def closing_points(notebook: NotebookNode, path: Path) -> list[Markup]:
    """The list below the heading "What you can now do", item by item; empty if there is none."""
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    below = next((found[1] for text in texts if (found := re.search(rf"(?m)^#+ {CLOSING}[ \t]*\n\s*([-*] (?:.+\n?)+)", text))), "")
    items = (in_a_line(item, path).strip() for item in re.findall(r"(?m)^[-*] (.+(?:\n[ \t]+\S.*)*)", below))
    return [Markup(item.removeprefix("<p>").removesuffix("</p>")) for item in items]


def in_a_line(source: str, path: Path) -> str:
    """Markdown as HTML whose links are plain text."""
    return str(mistune.create_markdown(renderer=Unlinked({}, path, []), plugins=["strikethrough", formulas])(source))


class Unlinked(Prose):
    """A slide is looked at from afar: what is a link in the chapter is text here."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """The text of a link."""
        return text


def introduction(decks: list[Deck]) -> Deck:
    """Deck 00: why diffusion models matter, each chapter's question beside its first slide's picture, and what one learns in each."""
    index, all_chapters, first = "../index.html", Markup("All chapters"), decks[0]
    many = f"{len(decks)} chapters" if len(decks) > 1 else "one chapter"
    promise = Markup(f"How diffusion models draw, seen on sprites of 16x16 pixels: from noise to picture, in {many}")
    abilities = [deck.slides[-1].points[0] for deck in decks if deck.slides[-1].points]
    slides = [
        Slide(Markup("sprites_lab"), index, all_chapters, promise),
        Slide(Markup("Why diffusion models matter"), f"../{first.name}.html", first.title, first.opening, first.cover),
        *(Slide(deck.title, f"{deck.name}.html", Markup("Slides of this chapter"), deck.question, deck.slides[1].picture) for deck in decks),
        Slide(Markup("What you will be able to do"), index, all_chapters, points=abilities),
    ]
    return Deck("00_intro", slides[0].title, promise, first.opening, first.cover, slides)
