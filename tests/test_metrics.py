"""Measures of quality on cases whose answers are known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import close
from small import careful, generator

from sprites_lab import LabError, metrics
from sprites_lab.metrics import (
    copies, frechet, frechet_extrapolated, frechet_of, jensen_shannon, kernel_distance, neighbourhoods, palette, rank_score, sliced_wasserstein, wasserstein,
)

from sprites_lab.neighbours import nearest


def normal(count, width=8, shift=0.0, spread=1.0, seed=0):
    return torch.randn(count, width, generator=generator(seed), dtype=torch.float64) * spread + shift


# Fréchet distance


@pytest.mark.oracle
def test_gaussians_of_one_axis_each_have_the_distance_of_their_means_and_deviations():
    mean, other = torch.tensor([1.0, -2, 0]).double(), torch.tensor([0.0, 1, 5]).double()
    a, b = torch.tensor([1.0, 2, 3]).double(), torch.tensor([4.0, 1, 3]).double()
    close(frechet_of(mean, a.square().diag(), other, b.square().diag()), (mean - other).square().sum() + (a - b).square().sum(), 1e-9)


@pytest.mark.oracle
@careful
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 6))
def test_the_root_of_the_product_is_the_one_of_the_definition(seed, width):
    """tr (C C')^½ by the roots of the eigenvalues of C C' itself, which is not symmetric."""
    rng = np.random.default_rng(seed)
    c, d = (x @ x.T / width for x in rng.normal(size=(2, width, width + 2)))
    by_hand = np.trace(c) + np.trace(d) - 2 * np.sqrt(np.linalg.eigvals(c @ d).real.clip(0)).sum()
    zero = torch.zeros(width).double()
    close(frechet_of(zero, torch.from_numpy(c), zero, torch.from_numpy(d)), by_hand, 1e-6)


def test_turning_the_features_changes_no_distance_and_doubling_them_gives_four_times_it():
    a, b = normal(300), normal(300, shift=0.5, spread=1.3, seed=1)
    turn = torch.linalg.qr(normal(8, 8, seed=2)).Q
    close(frechet(a @ turn, b @ turn), frechet(a, b), 1e-8)
    close(frechet(2 * a + 3, 2 * b + 3), 4 * frechet(a, b), 1e-8)
    close(frechet(a, b), frechet(b, a), 1e-9)


def test_equal_sets_have_no_distance_and_samples_of_one_gaussian_nearly_none():
    a = normal(4000)
    close(frechet(a, a), 0, 1e-9)
    close(frechet(a, normal(4000, seed=1)), 0, 0.05)
    close(frechet(a, normal(4000, shift=1, seed=1)), 8, 0.5)


def test_covariances_without_full_rank_are_no_obstacle():
    flat = normal(100) * torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]).double()
    close(frechet(flat, flat), 0, 1e-9)
    assert np.isfinite(frechet(flat, normal(100, seed=3)))


@pytest.mark.parametrize("measure", [frechet, lambda a, b: frechet_extrapolated(a, b, generator()), lambda a, b: kernel_distance(a, b, generator()), lambda a, b: sliced_wasserstein(a, b, generator()), neighbourhoods])
@pytest.mark.parametrize("bad, words", [
    (torch.full((20, 8), float("nan")), "no finite numbers"), (torch.full((20, 8), float("inf")), "no finite numbers"),
    (torch.zeros(20, 7), "one D for all"), (torch.zeros(20), "one D for all"), (torch.zeros(1, 8), "1 rows"),
])  # fmt: skip
def test_features_that_cannot_be_compared_are_refused(measure, bad, words):
    for pair in ((normal(20), bad), (bad, normal(20))):
        with pytest.raises(LabError, match=words):
            measure(*pair)


def test_fewer_pictures_than_features_are_refused_with_the_number_that_is_needed():
    with pytest.raises(LabError, match="8 pictures cannot give a covariance of 8 features; take more than 8"):
        frechet(normal(8), normal(100))
    with pytest.raises(LabError, match="half of 16 pictures must be more than the 8 features"):
        frechet_extrapolated(normal(16), normal(100), generator())


def test_the_extrapolated_distance_does_not_depend_on_the_number_of_pictures():
    """FD grows with 1/N; FD∞ does not. True value: 8 · 0.1² = 0.08."""
    real = normal(100_000, seed=9)
    few, many = (frechet_extrapolated(normal(n, shift=0.1, seed=n), real, generator()) for n in (400, 4000))
    assert frechet(normal(400, shift=0.1, seed=400), real) > 0.1
    close(few, 0.08, 0.05)
    close(many, 0.08, 0.02)


# Kernel distance


@pytest.mark.oracle
def test_the_kernel_distance_is_the_double_sum_of_the_definition():
    a, b = normal(6, 3), normal(6, 3, shift=1, seed=1)
    k = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within = sum(k(s[i], s[j]) for s in (a, b) for i in range(6) for j in range(6) if i != j) / 30
    between = sum(k(x, y) for x in a for y in b) / 36
    found = kernel_distance(a, b, generator(), subsets=3, size=6)
    close(found.mean, within - 2 * between, 1e-9)
    close(found.deviation, 0, 1e-9)


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average_also_for_few_pictures():
    values = [kernel_distance(normal(40, seed=2 * i), normal(40, seed=2 * i + 1), generator(), 1).mean for i in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 300**0.5 and min(values) < 0
    assert kernel_distance(normal(400), normal(400, shift=0.5, seed=1), generator()).mean > 10 * np.std(values) / 40


# Sliced Wasserstein


@pytest.mark.oracle
def test_a_shift_has_the_sliced_distance_of_its_square_over_the_number_of_axes():
    a = normal(500)
    shift = torch.tensor([3.0, 0, 0, 0, 4, 0, 0, 0]).double()
    close(sliced_wasserstein(a, a + shift, generator(), 20_000), 25 / 8, 0.1)
    close(sliced_wasserstein(a, a[torch.randperm(500, generator=generator())], generator()), 0, 1e-12)


def test_sets_of_unequal_size_are_refused():
    with pytest.raises(LabError, match="equal size, got 20 and 21"):
        sliced_wasserstein(normal(20), normal(21), generator())


# Neighbourhoods


def test_neighbourhoods_of_points_on_a_line_by_hand():
    real = torch.tensor([[0.0], [1], [2], [10]]).double()
    made = torch.tensor([[0.5], [3], [30]]).double()  # the radius of the real ones is 1, 1, 1, 8; of the made 2.5, 2.5, 27 (k = 1)
    found = neighbourhoods(made, real, k=1)
    close(found.precision, 2 / 3, 1e-9)  # 0.5 lies near 0 and 1; 3 near 10
    close(found.recall, 1, 1e-9)  # 10 lies within 27 of 30
    close(found.density, 1, 1e-9)
    close(found.coverage, 3 / 4, 1e-9)  # 2 has nothing nearer than 1


def test_a_set_is_near_itself_and_far_from_another_and_half_of_it_is_seen_as_half():
    a = normal(600, 2)
    assert neighbourhoods(a, a)[:2] == (1, 1) and neighbourhoods(a, a).coverage == 1
    assert neighbourhoods(a, a + 100) == (0, 0, 0, 0)
    halves = torch.cat([normal(300, 2), normal(300, 2, shift=50, seed=1)])
    found = neighbourhoods(normal(600, 2, seed=2), halves)
    assert found.precision > 0.95 and 0.4 < found.recall < 0.52 and 0.4 < found.coverage < 0.52
    back = neighbourhoods(halves, normal(600, 2, seed=2))
    assert 0.4 < back.precision < 0.52 and back.recall > 0.9


def test_copies_in_the_reference_shrink_its_balls_to_nothing():
    twice = normal(50, 2).repeat(6, 1)
    assert neighbourhoods(normal(300, 2, seed=1), twice).precision == 0


# Copies


def sprites(count, seed=0):
    """Blocks of colour, so that some are nearer than others."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (count, 4, 4, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)


def test_a_memoriser_is_caught_and_new_sprites_are_not():
    train, test, new = sprites(300), sprites(60, 1), sprites(60, 2)
    cells = np.arange(60) % 3
    known = nearest(test, train)[0]
    memoriser = copies(train[:60, :, ::-1] ^ 1, cells, train, known, cells)  # mirrored, every byte changed by one
    assert memoriser.copy_rate == 1 and memoriser.authentic == 0 and memoriser.c_t < -5
    honest = copies(new, cells, train, known, cells)
    assert honest.copy_rate == 0 and honest.authentic > 0.3 and abs(honest.c_t) < 3


def test_copying_in_one_class_alone_is_seen_with_the_share_of_that_class():
    train, test = sprites(200), sprites(80, 1)
    cells = np.arange(80) // 60  # 60 and 20
    made = sprites(80, 2)
    made[:60] = train[:60]
    known = nearest(test, train)[0]
    found = copies(made, cells, train, known, cells)
    close(found.copy_rate, 0.75, 1e-9)
    parts = [copies(made[cells == c], cells[cells == c], train, known[cells == c], cells[cells == c]).c_t for c in (0, 1)]
    close(found.c_t, 0.75 * parts[0] + 0.25 * parts[1], 1e-9)


def test_made_and_held_out_sprites_without_a_common_class_are_refused():
    with pytest.raises(LabError, match="no class"):
        copies(sprites(3), np.zeros(3), sprites(5), np.ones(3), np.ones(3))


@pytest.mark.oracle
def test_the_rank_score_is_that_of_the_textbook():
    assert rank_score(np.array([1.0, 2]), np.array([3.0, 4])) == pytest.approx(-2 / np.sqrt(4 * 5 / 12))
    assert rank_score(np.array([1.0, 4]), np.array([2.0, 3])) == 0
    rng = np.random.default_rng(0)
    values = [rank_score(rng.normal(size=30), rng.normal(size=40)) for _ in range(2000)]
    assert abs(np.mean(values)) < 0.1 and abs(np.std(values) - 1) < 0.06


# Colours


def test_palette_counts_what_a_person_would_count():
    picture = np.full((2, 16, 16, 3), 255, np.uint8)
    picture[1, 4:8, 4:8] = (200, 0, 0)
    picture[1, 0, :8] = 0
    found = palette(picture)
    assert found.colours.tolist() == [1, 3] and found.white_border.tolist() == [1, 52 / 60]
    assert found.crispness.tolist() == [1, 1 - (16 + 8 + 1) / 480]
    close(found.histogram.sum(), 1, 1e-12)
    close(found.histogram[4095], (512 - 24) / 512, 1e-12)


@pytest.mark.oracle
def test_distances_of_lists_and_histograms_with_known_answers():
    assert wasserstein(np.array([0.0, 1]), np.array([5.0, 6])) == 5
    assert wasserstein(np.array([0.0, 0, 4]), np.array([4.0])) == pytest.approx(8 / 3)
    assert jensen_shannon(np.array([1.0, 0]), np.array([0.0, 1])) == 1
    assert jensen_shannon(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    assert metrics.COPY == 4
