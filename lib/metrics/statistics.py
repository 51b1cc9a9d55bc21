"""How sure a mean is: bootstrap intervals over images, and over the differences of two methods on the same images.

The unit is the image (or the head): several values of one image, such as those of its views, are averaged to one
before anything else (`groups`), as they rise and fall together and would make an interval too narrow.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

FEW = 20
"""Below this number of images, an interval is flagged: a bootstrap knows no tail that it has not seen."""

FEWEST = 3
"""Below this number of images there is no interval."""

CHUNK = 1 << 22
"""Values drawn at once: bounds the memory that resampling takes."""


@dataclass(frozen=True)
class Interval:
    """A mean and the interval in which the mean over all such images lies, with probability `level`.

    n: images that count. missing: images that were left out as their value is NaN.
    """

    mean: float
    low: float
    high: float
    n: int
    missing: int
    level: float

    @property
    def few(self) -> bool:
        """Too few images for the level to be taken at its word."""
        return self.n < FEW

    def excludes(self, value: float = 0.0) -> bool:
        """Whether the mean differs from `value` for sure, as far as the level goes."""
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        counted = f"n = {self.n}" + (f", {self.missing} missing" if self.missing else "")
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] ({counted}{', few' if self.few else ''})"


def mean_interval(
    values: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of one value per image [n], and its bootstrap interval.

    NaN is a failure (no face was found, say): such an image is left out, and counted as missing. Infinite values
    (the PSNR of equal images) have no mean and are refused.
    groups: the image [n] of each value, where one has several; their means over what is not NaN are used.
    """
    per_image = _per_group(_checked_values(values), groups)
    known = per_image[~np.isnan(per_image)]
    if len(known) < FEWEST:
        raise ValueError(
            f"an interval takes at least {FEWEST} images; got {len(known)} and {len(per_image) - len(known)} "
            "without a value (NaN). Measure more images, or report the values themselves."
        )
    means = _resampled_means(known, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, _expanded_tails(level, len(known)))
    return Interval(
        mean=float(known.mean()),
        low=float(low),
        high=float(high),
        n=len(known),
        missing=len(per_image) - len(known),
        level=level,
    )


def paired_difference(
    values: ArrayLike,
    baseline: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of values - baseline over the same images [n], in the same order, and its bootstrap interval.

    Images are drawn together with both values, so what makes an image hard for both methods cancels. An image
    without a value (NaN) of either method is left out, and counted as missing.
    """
    values, baseline = _checked_values(values), _checked_values(baseline)
    if len(values) != len(baseline):
        raise ValueError(
            f"paired values belong to the same images in the same order; got {len(values)} and {len(baseline)}"
        )
    return mean_interval(values - baseline, groups=groups, level=level, resamples=resamples, seed=seed)


def _checked_values(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected a value per image, [n]; got an array of shape {list(values.shape)}")
    if np.isinf(values).any():
        raise ValueError(
            f"{np.isinf(values).sum()} of {len(values)} values are infinite and have no mean (the PSNR of equal "
            "images is infinite: average the MSE instead, or leave them out by name)"
        )
    return values


def _per_group(values: np.ndarray, groups: Sequence[Hashable] | None) -> np.ndarray:
    """Mean of each group over its values that are not NaN; NaN where it has none."""
    if groups is None:
        return values
    if len(groups) != len(values):
        raise ValueError(f"groups names the image of each value; got {len(groups)} for {len(values)} values")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[name] for name in groups], dtype=np.intp)
    known = ~np.isnan(values)
    totals = np.bincount(index[known], weights=values[known], minlength=len(numbers))
    counts = np.bincount(index[known], minlength=len(numbers))
    return np.divide(totals, counts, out=np.full(len(numbers), np.nan), where=counts > 0)


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means [resamples] of as many values as there are, drawn with replacement (Efron, 1979)."""
    if resamples < 1000:
        raise ValueError(f"the ends of an interval take at least 1000 resamples; got {resamples}")
    rows = max(1, CHUNK // len(values))
    drawn = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(1) for n in drawn])


def _expanded_tails(level: float, n: int) -> tuple[float, float]:
    """The quantiles of the resampled means between which the interval lies.

    Resampled means spread less than true ones by the root of (n - 1) / n, and have the tails of a normal
    distribution where n values have those of a t distribution. The expanded percentile interval (Hesterberg,
    "What teachers should know about the bootstrap", 2015) goes further out by as much: to
    Phi(sqrt(n / (n - 1)) t_{n-1}) in place of the nominal tail.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, such as 0.95; got {level}")
    t = scipy.stats.t.ppf((1 - level) / 2, n - 1)
    tail = scipy.stats.norm.cdf(np.sqrt(n / (n - 1)) * t)
    return float(tail), float(1 - tail)
