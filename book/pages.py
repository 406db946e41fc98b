"""Executed notebooks as HTML: one page per chapter, and an index that can be searched; readable from a folder, offline."""

import base64
import html
import json
import mimetypes
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jinja2
import mistune
import nbformat
from markupsafe import Markup
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from book.formulas import FormulaFailed, formulas

TEMPLATES = Path(__file__).parent / "templates"
COLUMN = 800  # width of the text in pixels, as in style.css
CODE = HtmlFormatter(nowrap=True)
LIGHT, DARK = "friendly", "github-dark"  # the colours of code


class PageFailed(Exception):
    """A chapter that cannot become a page."""


class Heading(NamedTuple):
    """An entry of the table of contents."""

    level: int
    anchor: str
    text: Markup


class Picture(NamedTuple):
    """A PNG of a notebook: base64, size in pixels, and the text that says what it shows."""

    data: str
    width: int
    height: int
    alt: str

    @property
    def src(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/png;base64,{self.data}"


class Chapter(NamedTuple):
    """A page and what the index shows of it."""

    name: str
    title: Markup
    question: Markup
    picture: Picture | None
    contents: list[Heading]
    body: Markup


def write_book(notebooks: list[Path], folder: Path, decks: list[Path] | None = None) -> list[Path]:
    """Pages for the executed notebooks, linked in this order and to those slide decks, and index.html; their paths."""
    chapters = [read_chapter(path) for path in notebooks]
    shared = {"style": inline("colours.css", "style.css") + code_colours(), "decks": [path.stem for path in decks or []]}
    written = []
    for i, chapter in enumerate(chapters):
        before, after = chapters[i - 1] if i else None, chapters[i + 1] if i + 1 < len(chapters) else None
        page = template("page.html").render(chapter=chapter, before=before, after=after, **shared)
        written.append(write(folder / f"{chapter.name}.html", page))
    entries = json.dumps([entry for chapter in chapters for entry in search_entries(chapter)], ensure_ascii=False)
    entries = Markup(entries.replace("<", r"\u003c"))  # no text may end the script element that holds it
    index = template("index.html").render(chapters=chapters, entries=entries, script=inline("search.js"), **shared)
    return [*written, write(folder / "index.html", index)]


def template(name: str) -> jinja2.Template:
    """One of our templates; what it is given is escaped unless it is Markup."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(name)


def inline(*names: str) -> Markup:
    """Style sheets or scripts from the folder of templates, to be written into a page."""
    return Markup("".join((TEMPLATES / name).read_text("utf-8") for name in names))


def code_colours() -> Markup:
    """The colours of code for light and dark screens; our own sheet says the rest of how code looks."""
    def rules(name: str) -> str:
        return "\n".join(line for line in HtmlFormatter(style=name).get_style_defs("pre.code").splitlines() if line.startswith("pre.code ."))
    return Markup(
        f"@media print, (prefers-color-scheme: light) {{\n{rules(LIGHT)}\n}}\n"
        f"@media screen and (prefers-color-scheme: dark) {{\n{rules(DARK)}\n}}\n"
    )


def search_entries(chapter: Chapter) -> list[dict[str, str]]:
    """What the index finds: the text below each heading of a chapter, without code and outputs, and where it stands."""
    _, *parts = re.split(r'<h[1-6] id="([^"]*)">(.*?)</h[1-6]>', chapter.body)
    name = plain(chapter.title).partition(" - ")[0]  # without its question
    return [
        {"page": f"{chapter.name}.html#{quote(html.unescape(anchor))}", "chapter": name, "title": plain(title), "text": plain(text)}
        for anchor, title, text in zip(parts[::3], parts[1::3], parts[2::3])
    ]


def plain(text: str) -> str:
    """HTML as words: formulas about as they were typed, no code, no outputs, no tags."""
    text = re.sub(r'<math alttext="([^"]*)".*?</math>', lambda tex: " ".join(re.sub(r"[\\{}]", " ", tex[1]).split()), text, flags=re.DOTALL)
    text = re.sub(r"</?(?:a|code|del|em|strong|sub|sup)\b[^>]*>", "", text)
    text = re.sub(r"<pre.*?</pre>|<[^>]+>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(text).split())


def write(path: Path, text: str) -> Path:
    """Write a page; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def read_chapter(path: Path) -> Chapter:
    """All cells of an executed notebook as HTML."""
    notebook = nbformat.read(path, as_version=4)
    body, contents, opening = [], [], ""
    for number, cell in enumerate(notebook.cells):
        try:
            if cell.cell_type == "markdown":
                text = markdown_cell(cell, path, contents)
                opening = opening or text
                body.append(f'<section class="text">\n{text}</section>')
            elif cell.cell_type == "code":
                body.append(code_cell(cell.source, [output_html(output) for output in cell.outputs]))
        except FormulaFailed as failure:
            raise PageFailed(f"{path.name}, cell {number}: the formula {failure}") from failure
    title = next((heading.text for heading in contents), Markup(html.escape(path.stem)))
    question = re.search(r"<p>.*?</p>", opening, re.DOTALL)
    picture = next((picture for cell in notebook.cells for picture in pictures(cell)), None)
    return Chapter(path.stem, title, Markup(question[0] if question else ""), picture, contents, Markup("\n".join(body)))


def code_cell(source: str, shown: list[str]) -> str:
    """A code cell above its outputs."""
    code = highlight(source, get_lexer_by_name("ipython3"), CODE).rstrip("\n")
    outputs = "\n".join(part for part in shown if part)
    return f'<section class="cell">\n<pre class="code">{code}</pre>\n' + (f'<div class="outputs">{outputs}</div>\n' if outputs else "") + "</section>"


def output_html(output: NotebookNode) -> str:
    """One output: picture, formula, text or error; nothing for stderr."""
    if output.output_type == "stream":
        return pre(output.text) if output.name == "stdout" else ""
    if output.output_type == "error":
        return pre(f"{output.ename}: {output.evalue}", "error")
    data = output.data
    if "image/png" in data:
        return figure(picture_of(output))
    if "text/markdown" in data:
        return str(mistune.create_markdown(plugins=["table", formulas])(data["text/markdown"]))
    return pre(data.get("text/plain", ""))


def pre(text: str, kind: str = "output") -> str:
    """Plain text, without terminal colours."""
    text = html.escape(re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip("\n"))
    return f'<pre class="{kind}">{text}</pre>' if text else ""


def pictures(cell: NotebookNode) -> list[Picture]:
    """All pictures that a cell shows."""
    return [picture_of(output) for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]


def picture_of(output: NotebookNode) -> Picture:
    """The PNG of an output."""
    encoded = "".join(output.data["image/png"].split())
    return Picture(encoded, *png_size(base64.b64decode(encoded)), output.metadata.get("image/png", {}).get("alt", "figure"))


def figure(picture: Picture) -> str:
    """A picture above what it shows. One that fits is never scaled down, so its pixels may stay squares on fine screens."""
    kind = "exact" if picture.width <= COLUMN else "large"
    alt = html.escape(picture.alt)
    image = f'<img class="{kind}" width="{picture.width}" height="{picture.height}" alt="{alt}" src="{picture.src}">'
    return f'<figure>{image}<figcaption aria-hidden="true">{alt}</figcaption></figure>'  # hidden: a reader that speaks has read alt


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height, from the header of a PNG."""
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def markdown_cell(cell: NotebookNode, path: Path, contents: list[Heading]) -> str:
    """Text as HTML; its headings are added to the contents."""
    renderer = Prose(cell.get("attachments", {}), path, contents)
    render = mistune.create_markdown(renderer=renderer, plugins=["table", "strikethrough", "footnotes", formulas])
    return str(render(cell.source))


class Prose(mistune.HTMLRenderer):
    """Links to notebooks become links to pages, pictures move into the page, headings get anchors."""

    def __init__(self, attachments: dict, path: Path, contents: list[Heading]):
        super().__init__(escape=False)
        self.attachments, self.path, self.contents = attachments, path, contents

    def heading(self, text: str, level: int, **_attributes: object) -> str:
        """A heading with the anchor that JupyterLab gives it (spaces become hyphens)."""
        plain = html.unescape(re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", text))
        base = anchor = plain.strip().replace(" ", "-")
        taken = {heading.anchor for heading in self.contents}
        count = 1
        while anchor in taken:
            anchor, count = f"{base}-{count}", count + 1
        self.contents.append(Heading(level, anchor, Markup(text)))
        return f'<h{level} id="{html.escape(anchor)}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link; to a notebook beside this one it leads to its page."""
        local = re.fullmatch(r"(?:\./)?([\w.-]+)\.ipynb(#.*)?", url)
        return super().link(text, f"{local[1]}.html{local[2] or ''}" if local else url, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture from an attachment or a file, inside the page."""
        name = url.removeprefix("attachment:")
        if name in self.attachments:
            kind, data = next(iter(self.attachments[name].items()))
            return f'<img alt="{html.escape(text)}" src="data:{kind};base64,{"".join(data.split())}">'
        file = self.path.parent / url
        file = file if file.is_file() else Path("notebooks", url)
        if not file.is_file():
            raise PageFailed(f"{self.path.name}: there is no picture {url}")
        kind = mimetypes.guess_type(file.name)[0] or "image/png"
        return f'<img alt="{html.escape(text)}" src="data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}">'

    def block_code(self, code: str, info: str | None = None) -> str:
        """Code in the text, coloured if its language is named."""
        try:
            shown = highlight(code, get_lexer_by_name((info or "text").split()[0]), CODE).rstrip("\n")
        except ClassNotFound:
            shown = html.escape(code.rstrip("\n"))
        return f'<pre class="code">{shown}</pre>\n'
