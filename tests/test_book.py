"""The book: formulas become MathML, money stays money, and a page needs nothing from elsewhere."""

import base64
import io
import json
import re
from pathlib import Path

import mistune
import nbformat
import pytest
from PIL import Image

from book import execute
from book.formulas import FormulaFailed, formulas, mathml
from book.pages import PageFailed, write_book

render = mistune.create_markdown(plugins=["table", formulas])


@pytest.mark.parametrize("text, shown, displayed", [
    ("noise $x_t$ here", 1, 0),
    ("$x$, $y$ and ($z$)", 3, 0),
    (r"it costs \$5 or $6 and $7", 0, 0),
    ("code `$HOME and $PATH` only", 0, 0),
    ("```\na = $x$\n```", 0, 0),
    ("$$a = b$$", 0, 1),
    ("text before\n$$\na\n= b\n$$\nand after", 0, 1),
    ("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}", 0, 1),
    ("| t | $\\bar\\alpha_t$ |\n|---|---|\n| 1 | $x_t$ |", 2, 0),
    ("*emphasis* and $a_1 * b_1 * c$", 1, 0),
])
def test_formulas_and_dollars(text: str, shown: int, displayed: int):
    page = render(text)
    assert (page.count('display="inline"'), page.count('display="block"')) == (shown, displayed)
    if not shown + displayed:
        assert page.count("$") == text.count("$")


@pytest.mark.parametrize("tex", [
    r"\begin{aligned} a &= b \\ c &= d \end{aligned}", r"\begin{cases} 1 & t > 0 \\ 0 & \text{else} \end{cases}",
    r"\lVert x \rVert^2", r"\mathcal N(0, I)", r"\underbrace{a}_{\text{noise\_scale}}", r"\operatorname{softmax}(x)", r"\log p(x|y)", r"\arg\min_c f(c)",
])
def test_formulas_of_the_chapters_are_known(tex: str):
    shown = re.sub(r'alttext="[^"]*"', "", mathml(tex, display=True))
    assert shown.startswith("<math") and "\\" not in shown


@pytest.mark.parametrize("tex", [r"\nosuchcommand x", r"\frac{a"])
def test_an_unknown_formula_is_an_error(tex: str):
    with pytest.raises(FormulaFailed):
        mathml(tex, display=False)


def write_notebook(path: Path, text: str) -> Path:
    """A notebook with a text, a code cell and a picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), "red").save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    code = nbformat.v4.new_code_cell("show(bob)", id="b", execution_count=1)
    code.outputs = [nbformat.v4.new_output("display_data", {"image/png": png}, metadata={"image/png": {"alt": 'Bob "red"'}})]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="a"), code])
    nbformat.write(notebook, path)
    return path


def test_pages(tmp_path: Path):
    one = write_notebook(tmp_path / "01_one.ipynb", "# One $x$\n\nWhy?\n\n## A & B\n\nGo on in [two](02_two.ipynb#Part-1).")
    two = write_notebook(tmp_path / "02_two.ipynb", "# Two\n\nHow?\n\n## Part 1\n\nText.")
    first, second, index = (path.read_text("utf-8") for path in write_book([one, two], tmp_path))
    assert 'href="02_two.html#Part-1"' in first and 'id="Part-1"' in second and 'href="#A-%26-B"' in first
    assert 'rel="next" href="02_two.html"' in first and 'rel="prev" href="01_one.html"' in second
    assert 'width="32" height="16" alt="Bob &#34;red&#34;"' in first or 'width="32" height="16" alt="Bob &quot;red&quot;"' in first
    assert re.findall(r"<p>(\w+\?)</p>", index) == ["Why?", "How?"] and index.count("<img") == 2
    for page in (first, second, index):
        assert not re.search(r"<script[^>]* src|<link|@import|@font-face|url\(|(?:src|href)=\"(?:https?:)?//", page)
    assert "<script" not in first + second


def test_every_figure_says_what_it_shows(tmp_path: Path):
    page = write_book([write_notebook(tmp_path / "01_one.ipynb", "# One")], tmp_path)[0].read_text("utf-8")
    assert re.findall(r"<figure><img [^>]*><figcaption[^>]*>(.*?)</figcaption></figure>", page) == ["Bob &quot;red&quot;"]


def test_a_solution_is_hidden_and_its_inside_is_markdown(tmp_path: Path):
    text = "# One\n\n<details><summary>Solution</summary>\n\nIt is **three**, $x_t$.\n\n- a\n- b\n\n```python\nx = 1\n\ny = 2\n```\n\n</details>\n\nAfter."
    page = write_book([write_notebook(tmp_path / "01_one.ipynb", text)], tmp_path)[0].read_text("utf-8")
    inside = re.search(r"<details><summary>Solution</summary>(.*?)</details>\s*<p>After.</p>", page, re.DOTALL)[1]
    assert "<strong>three</strong>, <math" in inside and inside.count("<li>") == 2 and inside.count("<pre") == 1


def entries(index: str) -> list[dict[str, str]]:
    """What the search box of an index looks through."""
    return json.loads(re.search(r'<script type="application/json" id="entries">(.*?)</script>', index, re.DOTALL)[1])


def test_search_finds_headings_and_text_but_no_code(tmp_path: Path):
    text = "# One - \"Why?\"\n\nFirst **bold**ly, $x_t$.\n\n## A & B `c`\n\n`</script>` in text.\n\n```python\nhidden = 1\n```\n\n### C\n"
    index = write_book([write_notebook(tmp_path / "01_one.ipynb", text)], tmp_path)[-1].read_text("utf-8")
    first, second, third = entries(index)
    assert first == {"page": "01_one.html#One---%22Why%3F%22", "chapter": "One", "title": 'One - "Why?"', "text": "First boldly, x_t."}
    assert (second["page"], second["title"], second["text"]) == ("01_one.html#A-%26-B-c", "A & B c", "</script> in text.")
    assert third["text"] == 'Bob "red"', "the caption of the picture below"


def test_the_search_box_waits_for_its_script(tmp_path: Path):
    index = write_book([write_notebook(tmp_path / "01_one.ipynb", "# One")], tmp_path)[-1].read_text("utf-8")
    assert re.search(r'<form class="search"[^>]* hidden>', index) and "[hidden] { display: none; }" in index


def test_a_bad_formula_names_its_cell(tmp_path: Path):
    with pytest.raises(PageFailed, match="01_one.ipynb, cell 0"):
        write_book([write_notebook(tmp_path / "01_one.ipynb", r"# One $\nosuchcommand$")], tmp_path)


def test_a_failing_cell_leaves_the_notebook_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("SPRITES_LAB_SCALE", "SPRITES_LAB_STATIC", "OMP_NUM_THREADS", "PYTEST_CURRENT_TEST", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED"):
        monkeypatch.setenv(name, "")
    path = write_notebook(tmp_path / "01_one.ipynb", "# One")
    before = path.read_bytes()
    with pytest.raises(execute.CellFailed, match="(?s)01_one.ipynb, cell 1 .*NameError: name 'show' is not defined"):
        execute.refresh(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
