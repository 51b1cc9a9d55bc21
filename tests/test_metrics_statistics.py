import math

import numpy as np
import pytest
import scipy.stats

from lib.metrics.statistics import FEW, FEWEST, mean_interval, paired_difference


def sample(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


# ----------------------------------------------------------------------- one mean


def coverage(draw, n: int, trials: int = 400, **options) -> float:
    """Share of trials whose interval holds the true mean, 0."""
    rng = np.random.default_rng(0)
    intervals = [mean_interval(draw(rng, n), resamples=1000, seed=i, **options) for i in range(trials)]
    return float(np.mean([not interval.excludes(0.0) for interval in intervals]))


@pytest.mark.parametrize("n", [8, 40])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_an_interval_holds_the_truth_as_often_as_it_says(n, level):
    found = coverage(lambda rng, n: rng.standard_normal(n), n, level=level)
    assert found == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 400))


def test_an_interval_of_skewed_values_is_not_far_off():
    """Errors of inversions are skewed: many good, few bad."""
    found = coverage(lambda rng, n: rng.exponential(size=n) - 1, 40)
    assert 0.90 < found < 0.98


def test_of_many_values_it_is_that_of_student():
    values = sample(3000) * 2 + 5
    interval = mean_interval(values, resamples=20_000)
    low, high = scipy.stats.t.interval(0.95, 2999, values.mean(), scipy.stats.sem(values))
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_few_values_get_the_tails_of_student_too():
    """Where the plain percentile interval is too narrow by a third."""
    values = sample(5, seed=3)
    interval = mean_interval(values, resamples=50_000)
    low, high = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    plain = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    assert interval.high - interval.low > 1.3 * (plain.high - plain.low)
    assert interval.high - interval.low < high - low


def test_a_higher_level_is_wider_and_equal_values_have_no_width():
    values = sample(30)
    narrow, wide = mean_interval(values, level=0.8), mean_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert mean_interval([0.25] * 5).low == mean_interval([0.25] * 5).high == 0.25


def test_the_same_call_gives_the_same_interval_and_another_seed_another():
    values = sample(30)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values).low != mean_interval(values, seed=1).low


def test_resampling_in_parts_is_resampling(monkeypatch):
    values = sample(30)
    whole = mean_interval(values)
    monkeypatch.setattr("lib.metrics.statistics.CHUNK", 7 * 30)
    assert mean_interval(values) == whole


def test_failures_are_left_out_and_counted():
    values = sample(30)
    with_failures = np.insert(values, [0, 10, 30], np.nan)
    interval = mean_interval(with_failures)
    assert (interval.n, interval.missing) == (30, 3)
    assert (interval.mean, interval.low, interval.high) == pytest.approx(
        (lambda i: (i.mean, i.low, i.high))(mean_interval(values))
    )


def test_values_of_one_image_count_once():
    """Ten copies of every value know no more than one."""
    values = sample(12)
    copies, images = np.repeat(values, 10), np.repeat([f"image{i}" for i in range(12)], 10)
    grouped = mean_interval(copies, groups=images)
    assert (grouped.n, grouped.low, grouped.high) == (12, *_ends(mean_interval(values)))
    assert mean_interval(copies).high - mean_interval(copies).low < 0.5 * (grouped.high - grouped.low)


def _ends(interval) -> tuple[float, float]:
    return pytest.approx(interval.low), pytest.approx(interval.high)


def test_groups_are_averaged_over_what_is_known():
    values = [1.0, 3.0, 5.0, math.nan, math.nan, 7.0, 9.0]
    interval = mean_interval(values, groups=["a", "a", "b", "b", "c", "d", "d"])
    assert interval.mean == pytest.approx((2 + 5 + 8) / 3)
    assert (interval.n, interval.missing) == (3, 1)


def test_few_images_are_flagged_and_fewer_refused():
    assert mean_interval(sample(FEW - 1)).few
    assert "few" in str(mean_interval(sample(FEW - 1)))
    assert not mean_interval(sample(FEW)).few
    with pytest.raises(ValueError, match=f"at least {FEWEST} images; got {FEWEST - 1} and 4 without"):
        mean_interval([1.0] * (FEWEST - 1) + [math.nan] * 4)


def test_what_has_no_mean_is_refused():
    with pytest.raises(ValueError, match="1 of 4 values are infinite"):
        mean_interval([1.0, 2.0, math.inf, 3.0])
    with pytest.raises(ValueError, match=r"shape \[2, 3\]"):
        mean_interval(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval(sample(5), level=95)
    with pytest.raises(ValueError, match="at least 1000 resamples"):
        mean_interval(sample(5), resamples=10)
    with pytest.raises(ValueError, match="got 2 for 5 values"):
        mean_interval(sample(5), groups=["a", "b"])


# ----------------------------------------------------------------------- two methods


def test_a_difference_is_found_that_unpaired_intervals_hide():
    """Images differ a lot, the methods a little: 0.1 for every image, give or take 0.05."""
    difficulty = sample(50)
    better, worse = difficulty, difficulty + 0.1 + 0.05 * sample(50, seed=1)
    difference = paired_difference(better, worse)
    assert difference.mean == pytest.approx(np.mean(better - worse))
    assert difference.high < 0
    assert difference.excludes(0.0)
    assert mean_interval(better).high > mean_interval(worse).low


def test_a_difference_changes_its_sign_with_the_order():
    a, b = sample(40), sample(40, seed=1)
    there, back = paired_difference(a, b), paired_difference(b, a)
    width = there.high - there.low
    assert there.mean == -back.mean
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.05 * width)


def test_an_image_that_failed_for_one_method_counts_for_none():
    a, b = sample(30), sample(30, seed=1)
    a_failed, b_failed = a.copy(), b.copy()
    a_failed[3], b_failed[[3, 8]] = np.nan, np.nan
    interval = paired_difference(a_failed, b_failed)
    assert (interval.n, interval.missing) == (28, 2)
    assert interval.mean == pytest.approx(np.delete(a - b, [3, 8]).mean())


def test_unequal_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="same images in the same order; got 3 and 4"):
        paired_difference([1.0] * 3, [1.0] * 4)
