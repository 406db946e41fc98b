"""The comparison of notebook outputs in conftest.py: blind to another CPU, awake to a mistake."""

import base64
import io

import numpy as np
import pytest
from PIL import Image


def encode(*frames: np.ndarray) -> str:
    """Colours in [0, 1], (H, W, 3) per frame, as a PNG in base64."""
    images = [Image.fromarray((frame.clip(0, 1) * 255).round().astype(np.uint8)) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG", save_all=len(images) > 1, append_images=images[1:])
    return base64.b64encode(buffer.getvalue()).decode()


def sheet(rows: int = 4, columns: int = 8, zoom: int = 4) -> np.ndarray:
    """A sheet of mostly white 16x16 sprites, each a square in its own colour."""
    colours = np.random.default_rng(0).random((rows, columns, 3))
    cell = np.ones((rows, columns, 16, 16, 3))
    cell[:, :, 5:11, 5:11] = colours[:, :, None, None]
    return cell.transpose(0, 2, 1, 3, 4).reshape(16 * rows, 16 * columns, 3).repeat(zoom, 0).repeat(zoom, 1)


@pytest.mark.parametrize("new, old, same", [
    ("loss 0.4970", "loss 0.4971", True),
    ("loss 0.4970", "loss 0.5082", False),
    ("9.999  a", "10.001 a", True),
    ("tensor([ 0.10, 0.20])", "tensor([-0.0001, 0.20])", False),
    ("calls 500", "calls 501", False),
    ("ten times faster: True", "ten times faster: False", False),
    ("torch 2.15.0", "torch 2.16.0", False),
    ("1e-7", "3e-7", True),
    ("x 1.0 2.0", "x 1.0", False),
    ("nan", "0.5", False),
])
def test_numbers_have_tolerance_and_words_have_none(comparison, new: str, old: str, same: bool):
    assert comparison.same_text(new, old) is same


@pytest.mark.parametrize("frames", [1, 3])
def test_a_picture_passes_with_rounding_noise(comparison, frames: int):
    noise = np.random.default_rng(1).uniform(-2 / 255, 2 / 255, sheet().shape)
    assert comparison.picture_fault(encode(*[sheet() + noise] * frames), encode(*[sheet()] * frames)) is None


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("rows, columns", [(1, 1), (4, 8), (8, 16)])
def test_swapped_colours_fail(comparison, order: tuple, rows: int, columns: int):
    picture = sheet(rows, columns)
    assert comparison.picture_fault(encode(picture[..., order]), encode(picture))


def test_another_size_a_missing_frame_and_an_empty_picture_fail(comparison):
    assert comparison.picture_fault(encode(sheet(zoom=2)), encode(sheet()))
    assert comparison.picture_fault(encode(sheet()), encode(sheet(), 1 - sheet()))
    assert comparison.picture_fault(encode(sheet(), sheet()), encode(sheet(), 1 - sheet()))
    assert comparison.picture_fault(encode(np.ones_like(sheet())), encode(sheet()))
