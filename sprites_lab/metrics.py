"""Pictures in, numbers out: how far a set of made sprites is from a set of real ones, and whether it is copied.

Features are (N, D): one row of numbers for each picture, from any extractor. All distances are 0 for equal distributions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprites_lab.errors import LabError
from sprites_lab.neighbours import nearest


class Spread(NamedTuple):
    """A number with its standard deviation."""

    mean: float
    deviation: float


def checked(*sets: Tensor, least: int = 2) -> list[Tensor]:
    """The feature sets in float64, or a LabError for shapes that do not fit, too few rows or values that are no numbers."""
    widths = {features.shape[1:] for features in sets}
    if any(features.ndim != 2 for features in sets) or len(widths) > 1:
        raise LabError(f"features have the shapes {', '.join(str(tuple(f.shape)) for f in sets)}, but must be (N, D) with one D for all")
    for features in sets:
        if len(features) < least:
            raise LabError(f"a set of features has {len(features)} rows, but this measure needs at least {least}")
        if not features.isfinite().all():
            raise LabError("features hold values that are no finite numbers; look at the pictures (or the network) that they come from")
    return [features.double() for features in sets]


def frechet(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features (N, D), (M, D): |m - m'|² + tr(C + C' - 2 (C C')^½).

    Heusel et al. 2017 (arXiv 1706.08500), equation 6. For few pictures it is too large, by about a constant / N: compare values of equal N and M only.
    LabError unless both sets have more rows than features: their covariance would be singular.
    """
    one, other = checked(one, other)
    for features in (one, other):
        if len(features) <= features.shape[1]:
            raise LabError(f"{len(features)} pictures cannot give a covariance of {features.shape[1]} features; take more than {features.shape[1]}")
    return frechet_of(one.mean(0), one.T.cov(), other.mean(0), other.T.cov())


def frechet_of(mean: Tensor, cov: Tensor, other_mean: Tensor, other_cov: Tensor) -> float:
    """Fréchet distance of two Gaussians; tr (C C')^½ is the sum of the roots of the eigenvalues of C^½ C' C^½."""
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
    return ((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * shared).item()


def frechet_extrapolated(made: Tensor, real: Tensor, generator: torch.Generator, sizes: int = 15) -> float:
    """FD∞: the Fréchet distance for endlessly many made pictures, by a line through FD against 1/N (Chong, Forsyth 2019).

    N runs from half of the made pictures to all of them; the line's value at 1/N = 0 is the answer (arXiv 1911.07023).
    """
    made, real = checked(made, real)
    if len(made) // 2 <= made.shape[1]:
        raise LabError(f"half of {len(made)} pictures must be more than the {made.shape[1]} features; make more pictures")
    counts = torch.linspace(len(made) // 2, len(made), sizes).round().long().tolist()
    values = [frechet(made[torch.randperm(len(made), generator=generator)[:n]], real) for n in counts]
    return float(np.polyfit(1 / np.array(counts, float), values, 1)[1])


def kernel_distance(one: Tensor, other: Tensor, generator: torch.Generator, subsets: int = 100, size: int = 1000) -> Spread:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y / D + 1)³, its mean and deviation over random subsets.

    Bińkowski et al. 2018 (arXiv 1801.01401). Unbiased at every size: 0 on average for equal distributions, also below 0.
    """
    one, other = checked(one, other)
    size = min(size, len(one), len(other))
    values = []
    for _ in range(subsets):
        a, b = (features[torch.randperm(len(features), generator=generator)[:size]] for features in (one, other))
        aa, bb, ab = ((x @ y.T / one.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
        within = (aa.sum() - aa.trace() + bb.sum() - bb.trace()) / (size * (size - 1))
        values.append((within - 2 * ab.mean()).item())
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if subsets > 1 else 0.0)


def sliced_wasserstein(one: Tensor, other: Tensor, generator: torch.Generator, directions: int = 1000) -> float:
    """Mean over random directions of the squared Wasserstein-2 distance of the projections; sets of equal size."""
    one, other = checked(one, other)
    if len(one) != len(other):
        raise LabError(f"sliced Wasserstein compares sets of equal size, got {len(one)} and {len(other)}")
    total = 0.0
    for _ in range(0, directions, 100):
        axes = torch.randn(one.shape[1], 100, generator=generator, dtype=torch.float64)
        axes /= axes.norm(dim=0)
        total += ((one @ axes).sort(0).values - (other @ axes).sort(0).values).square().mean().item()
    return total / -(-directions // 100)


class Neighbourhoods(NamedTuple):
    """Shares of pictures that lie near others: precision, recall, density, coverage."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(made: Tensor, real: Tensor, k: int = 5) -> Neighbourhoods:
    """Do made pictures lie among real ones (precision, density), and real ones among the made (recall, coverage)?

    A picture's ball reaches to its k-th nearest neighbour in its own set. Kynkäänniemi et al. 2019 (arXiv 1904.06991),
    Naeem et al. 2020 (arXiv 2002.09797). Copies within a set shrink its balls to nothing: take them out first.
    """
    made, real = checked(made, real, least=k + 1)
    radius_real, radius_made = (torch.cdist(x, x).kthvalue(k + 1, dim=1).values for x in (real, made))
    between = torch.cdist(made, real)
    inside = between < radius_real
    return Neighbourhoods(
        inside.any(1).double().mean().item(),
        (between < radius_made[:, None]).any(0).double().mean().item(),
        inside.sum(1).double().mean().item() / k,
        inside.any(0).double().mean().item(),
    )


COPY = 4.0  # nearer than this to a training sprite (mean absolute difference of the bytes) counts as a copy


class Copies(NamedTuple):
    """Share of near copies of training sprites, share that is authentic, and C_T: far below 0 means copying."""

    copy_rate: float
    authentic: float
    c_t: float


def copies(made: np.ndarray, made_cells: np.ndarray, train: np.ndarray, new_distance: np.ndarray, new_cells: np.ndarray) -> Copies:
    """Are made sprites nearer to the training sprites than new real ones are? uint8 (N, H, W, 3); mirror images count, shifts do not.

    new_distance (M,) is the distance of real sprites that are not in training, by `nearest`; the cells are their classes.
    copy_rate: nearer than COPY. authentic: farther from its nearest training sprite than that one is from its own nearest
    (Alaa et al. 2021, arXiv 2102.08921). c_t: z of a Mann-Whitney test against the new sprites, cell by cell, averaged with
    the new sprites' share of each cell (Meehan et al. 2020, arXiv 2004.05675).
    """
    distance, rows = nearest(made, train)
    between = nearest(train[rows], train, rows)[0]
    there = [cell for cell in np.unique(new_cells) if (made_cells == cell).any()]
    if not there:
        raise LabError("made and new sprites share no class; C_T compares them class by class")
    scores = [rank_score(distance[made_cells == cell], new_distance[new_cells == cell]) for cell in there]
    shares = [(new_cells == cell).sum() for cell in there]
    return Copies(float((distance < COPY).mean()), float((distance > between).mean()), float(np.average(scores, weights=shares)))


def rank_score(one: np.ndarray, other: np.ndarray) -> float:
    """z of the Mann-Whitney test: how many standard deviations above chance `one` is larger than `other`."""
    larger = (one[:, None] > other).sum() + 0.5 * (one[:, None] == other).sum()
    n, m = len(one), len(other)
    return float((larger - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


class Palette(NamedTuple):
    """Colours per sprite (5 bits each), share of border pixels that are white, share of equal neighbours, and colour counts."""

    colours: np.ndarray
    white_border: np.ndarray
    crispness: np.ndarray
    histogram: np.ndarray


def palette(sprites: np.ndarray) -> Palette:
    """Statistics of colour for sprites uint8 (N, H, W, 3): three numbers for each sprite, one histogram (4096,) for all."""
    fine = (sprites.astype(np.int32) >> 3) @ (1, 32, 1024)
    coarse = (sprites.astype(np.int32) >> 4) @ (1, 16, 256)
    edge = np.ones(sprites.shape[1:3], bool)
    edge[1:-1, 1:-1] = False
    same = [(sprites[:, 1:] == sprites[:, :-1]).all(3).reshape(len(sprites), -1), (sprites[:, :, 1:] == sprites[:, :, :-1]).all(3).reshape(len(sprites), -1)]
    histogram = np.bincount(coarse.ravel(), minlength=4096)
    return Palette(
        np.array([len(np.unique(sprite)) for sprite in fine], float), (sprites[:, edge] == 255).all(2).mean(1),
        np.concatenate(same, 1).mean(1), histogram / histogram.sum(),
    )


def wasserstein(one: np.ndarray, other: np.ndarray) -> float:
    """Wasserstein-1 distance of two lists of numbers: the area between their cumulative shares."""
    values = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(x), values[:-1], side="right") / len(x) for x in (one, other)]
    return float((np.abs(shares[0] - shares[1]) * np.diff(values)).sum())


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms in bits: 0 equal, 1 nothing in common."""
    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log2(p[p > 0])).sum())

    return entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2
