"""How tests and notebooks run here: one thread, quick scale, untouched random states, and outputs compared with tolerance.

nbval runs every code cell of notebooks/ and compares its fresh output with the stored one. It compares text to the letter
and ignores pictures; below, numbers may differ as they do from one CPU to the next, and pictures are compared too.
"""

import os

# Before torch starts its threads. The kernels of the notebooks inherit this.
os.environ.update(SPRITES_LAB_SCALE="quick", SPRITES_LAB_STATIC="1", OMP_NUM_THREADS="1")

import base64  # noqa: E402
import io  # noqa: E402
import random  # noqa: E402
import re  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams  # noqa: E402
from PIL import Image, ImageSequence  # noqa: E402

hypothesis.settings.register_profile("ci", derandomize=True, max_examples=200, deadline=None, database=None)
hypothesis.settings.register_profile("nightly", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# --- unit tests -------------------------------------------------------------------------------------------------------


def random_states() -> dict[str, object]:
    """The state of every global random generator, as something to compare."""
    _, key, *rest = np.random.get_state()
    states = {"random": random.getstate(), "numpy.random": (key.tobytes(), rest), "torch": torch.get_rng_state().tolist()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["torch.cuda"] = [state.tolist() for state in torch.cuda.get_rng_state_all()]
    return states


@pytest.fixture(autouse=True)
def global_random_states_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that moves a global random state: randomness is handed over as a torch.Generator."""
    before = random_states()
    yield
    after = random_states()
    moved = [name for name, state in before.items() if after[name] != state]
    if moved:
        pytest.fail(f"{request.node.name} moved the global random state of: {', '.join(moved)}", pytrace=False)


# --- notebooks --------------------------------------------------------------------------------------------------------

FLOAT = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?![\w.])")


def same_text(new: str, old: str) -> bool:
    """Whether words and integers are equal and floats within 0.001 + 2 %. Spaces that align columns do not count."""
    mine, theirs = ([float(x) for x in FLOAT.findall(text)] for text in (new, old))
    words = [re.sub(r"[ \t]+", " ", FLOAT.sub("#", text)).replace(" #", "#") for text in (new, old)]
    return (
        words[0] == words[1]
        and len(mine) == len(theirs)
        and all(abs(a - b) <= 1e-3 + 2e-2 * abs(b) for a, b in zip(mine, theirs))
    )


def picture_fault(new: str, old: str) -> str | None:
    """What is wrong with a PNG (base64) beside the stored one, or None: size, frames, and colours averaged over a grid."""
    (size, frames), (old_size, old_frames) = read_picture(new), read_picture(old)
    if size != old_size or len(frames) != len(old_frames):
        return f"{size} with {len(frames)} frames, stored {old_size} with {len(old_frames)}"
    difference = np.abs(np.stack(frames) - np.stack(old_frames))
    if difference.mean() > 0.02 or difference.max() > 0.15:
        return f"colours differ by {difference.mean():.3f} on average, {difference.max():.3f} at most"
    return None


def read_picture(encoded: str) -> tuple[tuple[int, int], list[np.ndarray]]:
    """Size of a PNG and its frames, each averaged over at most 32 x 32 boxes, as colours in [0, 1]."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    boxes = [min(32, side) for side in picture.size]
    frames = ImageSequence.Iterator(picture)
    return picture.size, [np.asarray(f.convert("RGB").resize(boxes, Image.Resampling.BOX), float) / 255 for f in frames]


def pictures(outputs: list) -> list[str]:
    """All PNGs among the outputs of a cell, in order."""
    return [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def texts(outputs: list) -> list[tuple[dict, str]]:
    """Where the texts of a cell stand: first what it printed, then its results, each in order."""
    printed = [(output, "text") for output in outputs if output.output_type == "stream" and output.name == "stdout"]
    return printed + [(output["data"], "text/plain") for output in outputs if "text/plain" in output.get("data", {})]


def compare_outputs(self: IPyNbCell, test: list, ref: list, skip_compare: tuple | None = None) -> bool:
    """nbval's comparison, after pictures were compared and texts that are close enough were made equal."""
    ref = coalesce_streams(ref)
    new, old = pictures(test), pictures(ref)
    faults = [fault for fault in map(picture_fault, new, old) if fault]
    if len(new) != len(old):
        faults.append(f"{len(new)} pictures, stored {len(old)}")
    if faults:
        self.comparison_traceback = [f"image/png: {fault}" for fault in faults]
        return False
    for (fresh, key), (stored, _) in zip(texts(test), texts(ref)):
        if same_text(self.sanitize(fresh[key]), self.sanitize(stored[key])):
            fresh[key] = stored[key]
    return compare_to_the_letter(self, test, ref, skip_compare)


def start_without_gpu(self: IPyNbFile) -> None:
    """Start a notebook's kernel where CUDA is hidden: stored outputs are made on the CPU."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        start(self)
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


compare_to_the_letter, IPyNbCell.compare_outputs = IPyNbCell.compare_outputs, compare_outputs
start, IPyNbFile.setup = IPyNbFile.setup, start_without_gpu


@pytest.fixture
def comparison() -> SimpleNamespace:
    """The two comparisons, for their own tests."""
    return SimpleNamespace(same_text=same_text, picture_fault=picture_fault)


def pytest_configure(config: pytest.Config) -> None:
    """nbval reads its list of replacements relative to the current folder; make it independent of that."""
    config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "nbval.cfg")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What drivers and libraries write to stderr is no result; a real fault is an exception and fails anyway."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr",)
