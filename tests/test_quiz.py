"""The reader's answers: right ones pass, wrong ones do not, and odd ones get a sentence."""

import numpy as np
import pytest
import torch

from sprites_lab.quiz import check, right


@pytest.mark.parametrize("mine, said", [
    (None, "no answer yet"), (184, "right: it is 184"), (184.0, "right: it is 184"), (185, "right: it is 184"), (np.int64(184), "right: it is 184"),
    (torch.tensor([184]), "right: it is 184"), (186, "not quite: it is 184"), (-184, "not quite: it is 184"), (float("nan"), "not quite: it is 184"),
    (float("inf"), "not quite: it is 184"), ("184", "not quite: it is 184"), (True, "not quite: it is 184"), ([184, 2], "not quite: it is 184"),
    (print, "not quite: it is 184"), (1 + 2j, "not quite: it is 184"),
])  # fmt: skip
def test_numbers(mine, said):
    assert check(mine, 184) == said
    assert right(mine, 184) == said.startswith("right")


def test_a_truth_of_zero_wants_zero():
    assert right(0, 0) and right(0.0, 0) and not right(1e-3, 0) and not right(-1e-3, 0)


def test_tolerance_is_a_share_of_the_truth():
    assert right(99.1, 100) and not right(98.9, 100) and right(90, 100, 0.1) and not right(101, 100, 0)
    assert right(-99.1, -100) and not right(99.1, -100)


def test_tensors_are_compared_as_a_whole_and_the_truth_is_kept():
    truth = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert check(None, truth) == "no answer yet"
    assert check(truth.clone(), truth) == check((1.005 * truth).double(), truth) == "right"
    assert check(truth + 0.5, truth) == "not quite: 0.5 away (rms)"
    assert check(truth[:2], truth) == "not quite: a tensor of the shape (4, 3, 16, 16) is wanted, this is of the shape (2, 3, 16, 16)"
    assert check(1.0, truth) == "not quite: a tensor of the shape (4, 3, 16, 16) is wanted, this is a float"
    assert not right(torch.full_like(truth, torch.nan), truth) and not right(-truth, truth)
    one_pixel = truth.clone()
    one_pixel[0, 0, 0, 0] += 5
    assert not right(one_pixel, truth)
