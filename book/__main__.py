"""python -m book chapters | refresh [notebook ...]: all notebooks if none is named."""

import argparse
import sys
from pathlib import Path

from book import execute, pages, slides

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


def main() -> int:
    """Run one command; a failing cell ends it with its message and exit code 1."""
    parser = argparse.ArgumentParser("python -m book", description="Run the notebooks again.")
    parser.add_argument("command", choices=["chapters", "refresh"], help="make pages in build/, or new stored outputs in place")
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of notebooks/ if left out")
    options = parser.parse_args()
    everything = sorted((ROOT / "notebooks").glob("*.ipynb"))
    chosen = [path.resolve() for path in options.notebooks] or everything
    if not chosen:
        parser.error("there are no notebooks in notebooks/")
    try:
        if options.command == "refresh":
            for path in chosen:
                execute.refresh(path)
        else:
            for path in chosen:
                execute.copy(path, BUILD / "notebooks")
            executed = [BUILD / "notebooks" / path.name for path in everything]
            chapters([path for path in executed if path.exists()])
    except (execute.CellFailed, pages.PageFailed) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def chapters(executed: list[Path]) -> None:
    """A page and slides for every executed notebook, and an index in front of them."""
    decks = slides.write_decks(executed, BUILD / "slides")
    for page in [*decks, *pages.write_book(executed, BUILD, decks)]:
        print(page.relative_to(ROOT))
    print(f"Open {BUILD / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main())
