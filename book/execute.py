"""Run notebooks and store their outputs so that a second run writes the same bytes."""

import os
import re
import sys
import time
from pathlib import Path

import nbclient
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
KEPT = ("tags", "slideshow")

# What every stored output is made with. nbval's kernels have PYTEST_CURRENT_TEST too: it keeps ipykernel from catching
# what is written past Python (by C++ code or child processes), so both see the same stdout.
STORED = {"SPRITES_LAB_STATIC": "1", "OMP_NUM_THREADS": "1", "PYTEST_CURRENT_TEST": "refresh", "PYTHONHASHSEED": "0"}


class CellFailed(Exception):
    """A cell raised an error or ran too long; nothing was written."""


def refresh(path: Path) -> None:
    """Execute a notebook at quick scale on the CPU and replace its stored outputs."""
    os.environ.update(STORED, SPRITES_LAB_SCALE="quick", CUDA_VISIBLE_DEVICES="")
    write(run(path, timeout=300), path)


def copy(path: Path, folder: Path) -> Path:
    """Execute a notebook at the scale the user chose; the result goes to `folder`, the notebook stays as it is."""
    os.environ.update({name: value for name, value in STORED.items() if name != "OMP_NUM_THREADS"})
    notebook = run(path, timeout=None)
    folder.mkdir(parents=True, exist_ok=True)
    write(notebook, folder / path.name)
    return folder / path.name


def run(path: Path, timeout: int | None) -> NotebookNode:
    """The notebook with new outputs, normalised; CellFailed if not all cells ran."""
    start = time.monotonic()
    print(f"{path.name} ", end="", flush=True)
    notebook = nbformat.read(path, as_version=4)
    normalise(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", store_widget_state=False, record_timing=False,
        extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print("failed")
        raise CellFailed(f"{where(notebook, path)}: {reason(error)}") from error
    notebook.metadata["language_info"] = {"name": "python"}  # without the interpreter's version
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs, f"{path.name}, cell {number}")
    print(f"{time.monotonic() - start:.0f} s")
    return notebook


def normalise(notebook: NotebookNode) -> None:
    """Drop what editors leave behind: versions, timings, folds, widget state. Cells without an id get one by position."""
    notebook.metadata = nbformat.from_dict(KERNEL)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key in KEPT})
        cell.setdefault("id", f"cell-{number:02d}")


def tidy(outputs: list[NotebookNode], place: str) -> list[NotebookNode]:
    """Join pieces of one stream, which the kernel cuts at random moments, and leave out stderr."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            print(f"\n  {place} wrote to stderr, not stored: {output.text.strip()[:300]}", file=sys.stderr)
        elif output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def where(notebook: NotebookNode, path: Path) -> str:
    """Notebook and cell that ran last, with the first line of its code."""
    ran = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.get("execution_count")]
    number, cell = ran[-1] if ran else (0, notebook.cells[0])
    return f"{path.name}, cell {number} ({cell.source.strip().splitlines()[0][:60]})"


def reason(error: Exception) -> str:
    """The traceback of an error in a cell, or what stopped the kernel, without terminal colours."""
    text = getattr(error, "traceback", None) or str(error)
    return re.sub(r"\x1b\[[0-9;]*m", "", text).split("------------------\n")[-1]


def write(notebook: NotebookNode, path: Path) -> None:
    """Replace the file in one step."""
    nbformat.validate(notebook)
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)
