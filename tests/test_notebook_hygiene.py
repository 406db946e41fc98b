"""What a committed notebook must look like, so that its outputs are true, small and the same for everyone."""

import ast
import base64
import json
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import torch

from sprites_lab.figures import animate, show_grid

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CHAPTERS = ["01_intuition", "02_sampling", "03_network", "04_training", "05_controlling", "06_speeding_up", "07_summary"]
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
PERSONAL = re.compile(r"/(?:home|Users|root|tmp)/|\b[A-Za-z]:\\\\?\w")
BROKEN_TABLE = re.compile(r"^\|.*\n\s*\n(?=\|(?!.*\n\|[ :|-]+\|$))", re.MULTILINE)  # a row, a blank line, a row that heads no table
LONGEST_CELL = 20
LARGEST_FILE = 700_000


def test_the_seven_chapters_are_there():
    names = [path.stem for path in PATHS]
    assert names == CHAPTERS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook(path: Path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    faults = [*file_faults(path), *notebook_faults(notebook)]
    for number, cell in enumerate(notebook.cells):
        faults += [f"cell {number}: {fault}" for fault in cell_faults(cell)]
    assert not faults, "\n".join([path.name, *faults])


def file_faults(path: Path) -> list[str]:
    """Size and stored form."""
    size = path.stat().st_size
    faults = [f"{size:,} bytes, at most {LARGEST_FILE:,}"] if size > LARGEST_FILE else []
    stored = path.read_text("utf-8")
    if stored != json.dumps(json.loads(stored), indent=1, ensure_ascii=False, sort_keys=True) + "\n":
        faults.append("not in the form that `make refresh` writes")
    return faults


def notebook_faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What concerns the notebook as a whole."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    faults = []
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        faults.append(f"not a valid notebook: {str(error).splitlines()[0]}")
    if set(notebook.metadata) - {"kernelspec", "language_info"}:
        faults.append(f"metadata holds {sorted(set(notebook.metadata) - {'kernelspec', 'language_info'})}")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("the kernel is not python3")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        faults.append("execution counts are not 1, 2, 3, ...: it was not executed from top to bottom")
    faults += [f"two cells with the id {name}" for name, n in Counter(cell.get("id") for cell in notebook.cells).items() if n > 1]
    if not code or not only_imports(code[0].source):
        faults.append("the first code cell must hold imports and nothing else")
    tagged = [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    if tagged != [1]:
        faults.append(f"the second code cell, and no other, must be tagged `parameters` (now code cells {tagged})")
    if sum(is_animated(data["image/png"]) for cell in code for data in results(cell) if "image/png" in data) > 1:
        faults.append("more than one animation")
    return faults


def cell_faults(cell: nbformat.NotebookNode) -> list[str]:
    """What concerns one cell."""
    faults = []
    if extra := set(cell.metadata) - {"tags", "slideshow"}:
        faults.append(f"metadata {sorted(extra)}")
    tags = cell.metadata.get("tags", [])
    faults += [f"tag {tag}" for tag in tags if tag.lower().startswith("nbval") and tag != "nbval-ignore-output"]
    if cell.cell_type != "code":
        return faults + ["a table with a blank line in it, where Markdown ends it"] * bool(BROKEN_TABLE.search(cell.source))
    lines = cell.source.count("\n") + 1
    if not cell.source.strip():
        faults.append("empty")
    if lines > LONGEST_CELL:
        faults.append(f"{lines} lines, at most {LONGEST_CELL}")
    for output in cell.outputs:
        if output.output_type == "error" and "raises-exception" not in tags:
            faults.append(f"a stored error: {output.ename}")
        if output.get("name") == "stderr":
            faults.append("stored stderr")
        if PERSONAL.search(output.get("text", "") + output.get("data", {}).get("text/plain", "") + output.get("evalue", "")):
            faults.append("a path of somebody's computer in the output")
        if other := set(output.get("data", {})) - {"text/plain", "image/png"}:
            faults.append(f"output as {sorted(other)}, only text/plain and image/png are read everywhere")
        if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt", "").strip():
            faults.append("a picture without a text alternative (alt)")
    return faults


def only_imports(source: str) -> bool:
    """Whether code consists of import statements (comments are fine)."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(statements) and all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in statements)


def results(cell: nbformat.NotebookNode) -> list[dict]:
    """The data of all outputs of a cell."""
    return [output["data"] for output in cell.outputs if "data" in output]


def is_animated(encoded: str) -> bool:
    """Whether a PNG holds several frames."""
    return b"acTL" in base64.b64decode(encoded).partition(b"IDAT")[0]


def test_an_animation_is_seen_behind_a_palette():
    film = animate([torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    still = show_grid(torch.zeros(2, 3, 16, 16))
    assert is_animated(base64.b64encode(film.data).decode()) and not is_animated(base64.b64encode(still.data).decode())


GOOD = {
    "cell_type": "code", "source": "1", "execution_count": 1, "id": "a", "metadata": {},
    "outputs": [{"output_type": "display_data", "data": {"image/png": "iVBO"}, "metadata": {"image/png": {"alt": "Bob"}}}],
}
STREAM = {"output_type": "stream", "name": "stdout"}


@pytest.mark.parametrize("change, fault", [
    ({}, None),
    ({"source": "x\n" * 20 + "x"}, "lines"),
    ({"source": ""}, "empty"),
    ({"metadata": {"collapsed": True}}, "metadata"),
    ({"metadata": {"tags": ["nbval-skip"]}}, "tag"),
    ({"outputs": [{**STREAM, "text": "file /home/ann/x"}]}, "path"),
    ({"outputs": [{**STREAM, "text": r"file C:\Users\ann"}]}, "path"),
    ({"outputs": [{**STREAM, "text": "ratio a/tmp: 3"}]}, None),
    ({"outputs": [{**STREAM, "name": "stderr", "text": "w"}]}, "stderr"),
    ({"outputs": [{"output_type": "error", "ename": "NameError", "evalue": "x", "traceback": []}]}, "error"),
    ({"outputs": [{"output_type": "display_data", "data": {"text/html": "<b>"}, "metadata": {}}]}, "text/html"),
    ({"outputs": [{"output_type": "display_data", "data": {"image/png": "iVBO"}, "metadata": {}}]}, "alternative"),
])
def test_faults_of_a_cell_are_seen(change: dict, fault: str | None):
    found = cell_faults(nbformat.from_dict(GOOD | change))
    assert [fault in text for text in found] == ([True] if fault else [])


@pytest.mark.parametrize("text, broken", [
    ("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nand so on", False),
    ("| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |", True),
    ("| a | b |\n|---|---|\n| 1 | 2 |\n\n| c | d |\n|:--|--:|\n| 3 | 4 |", False),
])
def test_a_table_that_falls_in_two_is_seen(text: str, broken: bool):
    assert bool(cell_faults(nbformat.v4.new_markdown_cell(text))) == broken
