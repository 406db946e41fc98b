"""JupyterLab in a real browser, started as `make lab` starts it: how every chapter looks, and whether its panels move."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: run .venv/bin/python -m pip install playwright")
expect, Page, Locator = sync_api.expect, sync_api.Page, sync_api.Locator

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SCREENSHOTS = ROOT / "build" / "screenshots"
UNSET = re.compile(r"\$\$|\\(?:bar|frac|left|mathbb|sqrt|text)\b")  # TeX that was not turned into a formula
PATIENCE = 60_000  # milliseconds for whatever takes the page one
expect.set_options(timeout=PATIENCE)
WINDOW = {"width": 1440, "height": 900}  # a usual laptop: pictures up to 1000 wide are shown as they are
SETTINGS = {  # a chapter can be seen as a whole, and ends where it ends
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
}
OURS = ("SPRITES_LAB_STATIC", "PYTEST_CURRENT_TEST", "JUPYTER", "JPY")  # what a reader's environment does not have


def find_chromium() -> str | None:
    """The first Chromium here that starts (Ubuntu has one that only says where to find another)."""
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    return next((path for path in found if subprocess.run([path, "--version"], capture_output=True).returncode == 0), None)


CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: run sudo apt install chromium fonts-dejavu-core"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where JupyterLab answers: book/lab.sh on a copy of the notebooks, with empty settings, and nothing of it left behind."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / ".venv").symlink_to(sys.prefix)
    for name, setting in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(setting), "utf-8")
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
              "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment |= {"SPRITES_LAB_SCALE": "quick", "CUDA_VISIBLE_DEVICES": ""} | {name: str(folder / place) for name, place in places.items()}
    with open(folder / "log", "wb") as log:
        server = psutil.Popen(["bash", ROOT / "book" / "lab.sh", "--no-browser"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield wait_for_address(server, folder)
    finally:
        if server.is_running():
            family = [*server.children(recursive=True), server]
            server.terminate()  # it ends its kernels, too
            for left in psutil.wait_procs(family, 30)[1]:
                left.kill()


def wait_for_address(server: psutil.Popen, folder: Path) -> str:
    """The address with its token, as the running server writes it down."""
    until = time.monotonic() + 120
    while not (written := list((folder / "runtime").glob("jpserver-*.json"))):
        assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text("utf-8")
        time.sleep(0.1)
    info = json.loads(written[0].read_text("utf-8"))
    return f"{info['url']}lab?token={info['token']}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[sync_api.BrowserContext]:
    """A browser whose pages share what they have loaded."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # which root and containers lack; all pages are our own
        yield browser.new_context(viewport=WINDOW)
        browser.close()


@pytest.fixture
def page(chromium: sync_api.BrowserContext, address: str) -> Iterator[Page]:
    """An empty page; the test fails if a script on it fails, or if it asks another computer for anything."""
    page, faults, home = chromium.new_page(), [], address.partition("lab?")[0]
    page.on("pageerror", lambda error: faults.append(f"page: {error}"))
    page.on("console", lambda message: faults.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith((home, "blob:", "data:")) else faults.append(f"asks {request.url}"))
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()
    assert not faults, faults


def choose(page: Page, *items: str) -> None:
    """Click through a menu and its submenus."""
    for item in items:
        page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel").filter(has_text=re.compile(f"^{item}$")).click()


def open_chapter(page: Page, address: str, chapter: str) -> Locator:
    """A chapter with its formulas and pictures, as it is stored."""
    page.goto(address.replace("?", f"/tree/{chapter}.ipynb?reset&"))
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    expect(page.locator(".jp-RenderedMarkdown mjx-container").first).to_be_visible()
    expect(page.locator(".jp-RenderedMarkdown").filter(has_text=UNSET)).to_have_count(0)
    return page.locator(".jp-NotebookPanel")


def errors_in(notebook: Locator) -> list[str]:
    """Error outputs, which JupyterLab shows like anything else that went to stderr."""
    shown = notebook.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    return [text for text in shown if re.search("Traceback|Error", text)]


def misshown(notebook: Locator) -> list[str]:
    """Pictures that are not loaded, or shown with another width than their own, which blurs pixels: too wide for the window, or stretched."""
    code = "all => all.map(e => [e.complete && e.naturalWidth, e.getBoundingClientRect().width])"
    widths = enumerate(notebook.locator("img").evaluate_all(code), start=1)
    return [f"picture {number}: {own} wide, shown {shown} wide" for number, (own, shown) in widths if own != shown]


def photograph(page: Page, notebook: Locator, path: Path) -> None:
    """The whole chapter as one picture: the window becomes as high as it."""
    hidden = notebook.locator(".jp-WindowedPanel-outer").evaluate("e => e.scrollHeight - e.clientHeight")
    page.set_viewport_size(WINDOW | {"height": page.viewport_size["height"] + hidden})
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook.screenshot(path=path)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_is_shown_in_both_themes(page: Page, address: str, chapter: str):
    notebook = open_chapter(page, address, chapter)
    for theme in ("Light", "Dark"):
        choose(page, "Settings", "Theme", f"JupyterLab {theme}")
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
        photograph(page, notebook, SCREENSHOTS / f"{chapter}-{theme.lower()}.png")
    stored = page.request.get(address.replace("lab?", f"files/{chapter}.ipynb?")).json()["cells"]
    outputs = [output for cell in stored if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert notebook.locator(".jp-OutputArea-output").count() == len(outputs)
    assert notebook.locator("img").count() >= sum("image/png" in output.get("data", {}) for output in outputs) > 0
    assert not misshown(notebook) and not errors_in(notebook) and notebook.locator("mjx-merror").count() == 0


def run_all(page: Page, notebook: Locator) -> None:
    """Clear all outputs, run all cells, and wait until none is left; each must have run, in order and without an error."""
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible()
    choose(page, "Edit", "Clear Outputs of All Cells")
    prompts = notebook.locator(".jp-CodeCell .jp-InputPrompt")
    expect(prompts.last).to_have_text("[ ]:")
    choose(page, "Run", "Run All Cells")
    expect(prompts.first).to_have_text("[1]:")
    expect(prompts.filter(has_text="[*]")).to_have_count(0, timeout=5 * PATIENCE)
    assert not errors_in(notebook)
    assert prompts.all_inner_texts() == [f"[{number}]:" for number in range(1, prompts.count() + 1)]
    expect(page.get_by_role("button", name="Python 3 (ipykernel) | Idle")).to_be_visible()


def press(panel: Locator, *keys: str) -> bytes:
    """Press keys on the first slider, wait until the line below tells its new value, and return the picture then shown."""
    slider, picture, name = panel.get_by_role("slider").first, panel.locator("img.widget-image"), panel.locator(".widget-slider > label").first
    before = picture.get_attribute("src")
    for key in keys:
        slider.press(key)
    value = slider.get_attribute("aria-valuetext")
    expect(panel.get_by_role("status")).to_contain_text(f"{name.inner_text()}={value}")
    expect(slider).to_have_attribute("aria-valuetext", value)
    expect(picture).not_to_have_attribute("src", before)
    code = "async e => btoa(String.fromCharCode(...new Uint8Array(await (await fetch(e.src)).arrayBuffer())))"
    return base64.b64decode(picture.evaluate(code))


def test_chapter_5_runs_and_its_mixer_moves(page: Page, address: str):
    notebook = open_chapter(page, address, "05_controlling")
    run_all(page, notebook)
    panel = notebook.locator(".jp-OutputArea-output:has([role=slider]):has(img.widget-image)")
    expect(panel).to_have_count(1)
    first = press(panel, "ArrowRight")
    last = press(panel, *["ArrowRight"] * 12)  # faster than the network draws: the value that counts is the last one
    assert first != last != press(panel, "ArrowLeft")
    assert last == press(panel, "ArrowRight")
    assert not misshown(notebook) and not page.get_by_text("Jupyter news").count()
