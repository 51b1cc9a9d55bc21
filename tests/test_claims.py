"""The ledger: every claim is there and says what the papers' tables say; verdicts are right where the truth is known."""

import csv
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import yaml
from project_files import ROOT

from lib.datasets.catalogue import KINDS as SYNTHETIC
from lib.datasets.photos import KIND as PHOTOS
from lib.datasets.real import DATA_SETS
from lib.datasets.scenes import ELLIPSE, scene_cameras
from lib.evaluation import MEASURES, METHODS
from lib.metrics.statistics import mean_interval
from lib.runs import verdicts
from lib.runs.claims import (
    CLAIMS,
    KINDS,
    PAPER_TABLES,
    REAL_KINDS,
    Claim,
    ClaimError,
    Ledger,
    Test,
    paper_number,
    read_ledger,
)
from lib.runs.verdicts import (
    COSTS,
    LEVEL,
    MAX_LOST,
    MIN_IMAGES,
    STATUSES,
    as_record,
    as_rows,
    checked,
    counts,
    find,
    judge,
    slope_values,
    verdict,
)
from tests.tiny_generator import tiny_generator

REFERENCE = ROOT.parent / "shared" / "reference" / "tables"


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_ledger()


# ---- the claims themselves --------------------------------------------------------------------------------


def test_every_claim_of_the_five_papers_is_there(ledger):
    found = {paper: len(ledger.of_paper(paper)) for paper in ledger.papers}
    assert found == {"spi": 20, "hfgi3d": 17, "posefree": 11, "goae": 17, "e3dge": 23}
    assert sum(found.values()) == len(ledger.claims) == 88


def test_every_number_stands_in_the_paper_s_table(ledger):
    pairs = [pair for claim in ledger.claims for pair in claim.numbers]
    pairs += [pair for claim in ledger.claims for test in claim.tests for pair in test.paper]
    cells = [(pair, cell) for pair in pairs for cell in (pair.left, pair.right) if cell]
    wrong = [
        (pair.table, row, pair.column, value)
        for pair, (row, value) in cells
        if paper_number(ledger, pair.table, row, pair.column) != value
    ]
    assert len(cells) > 500
    assert not wrong


def test_every_table_is_used_and_every_file_is_a_table(ledger):
    pairs = [pair for claim in ledger.claims for pair in claim.numbers]
    pairs += [pair for claim in ledger.claims for test in claim.tests for pair in test.paper]
    assert {pair.table for pair in pairs} == set(ledger.tables)
    assert set(ledger.tables) == {path.stem for path in PAPER_TABLES.glob("*.csv")}


def test_keys_tell_the_rows_of_a_table_apart(ledger):
    for name, about in ledger.tables.items():
        with (PAPER_TABLES / f"{name}.csv").open(newline="") as file:
            rows = [tuple(row[key] for key in about["keys"]) for row in csv.DictReader(file)]
        assert len(rows) == len(set(rows)), name


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the tables as read from the papers are not beside the checkout"
)
def test_tables_are_those_that_were_read_from_the_papers():
    for path in PAPER_TABLES.glob("*.csv"):
        assert path.read_text() == (REFERENCE / path.name).read_text(), path.name


def test_every_name_at_the_top_is_used_or_explained(ledger):
    tests = [test for claim in ledger.claims for test in claim.tests]
    told = " ".join(claim.not_testable for claim in ledger.claims)
    assert {test.metric for test in tests} == set(ledger.metrics)
    asked = {name for test in tests for name in test.methods}
    assert {name for name in ledger.methods if name not in told} <= asked | set(
        METHODS
    )  # some no paper claims of


def test_names_are_those_under_which_results_are_recorded(ledger):
    assert set(METHODS) <= set(ledger.methods)
    measured = set(MEASURES) | set(COSTS)
    assert {name for name, meaning in ledger.metrics.items() if "(to come)" not in meaning} <= measured
    assert not {name for name, meaning in ledger.metrics.items() if "(to come)" in meaning} & measured


def test_variants_belong_to_a_method(ledger):
    bases = {name for name in ledger.methods if "-" not in name} | {"prior"}
    assert {name.partition("-")[0] for name in ledger.methods} == bases


# ---- what is refused --------------------------------------------------------------------------------------

SMALL = """
papers: {spi: {title: t, authors: a, claims: 1}}
methods: {spi: x, pti: x}
metrics: {mse: x}
tables: {spi_t1_celebahq: {where: w, on: o, keys: [method]}}
claims:
  - id: spi-01
    paper: spi
    where: table 1
    statement: s
    scenes: [samples]
    views: input
    tests:
      - {metric: mse, left: spi, expect: lower, right: pti, paper: [
          {table: spi_t1_celebahq, column: mse, left: [SPI, 0.0082], right: [PTI, 0.0084]}]}
"""

BROKEN = {
    "claim is gone": (("claims: 1}", "claims: 2}"), "2 claims spi-01 to spi-02.*'spi-02'"),
    "other number": (("id: spi-01", "id: spi-02"), "expected the 1 claims"),
    "unknown paper": (("paper: spi\n", "paper: sip\n"), "paper is spi, not 'sip'"),
    "unknown method": (("left: spi,", "left: sip,"), "method 'sip' is not among"),
    "unknown metric": (("metric: mse,", "metric: mes,"), "metric 'mes' is not among"),
    "unknown table": (("{table: spi_t1", "{table: spi_t9"), "table 'spi_t9_celebahq' is not among"),
    "unknown scenes": (("scenes: [samples]", "scenes: [sample]"), "scenes are a list of samples or"),
    "scenes are no list": (("scenes: [samples]", "scenes: samples"), "scenes are a list"),
    "unknown views": (("views: input", "views: back"), "views is input or"),
    "unknown direction": (("expect: lower", "expect: less"), "expect is lower or"),
    "unknown key": (("where: table 1", "where: table 1\n    table: 1"), "unknown: table; there are: id"),
    "no statement": (("    statement: s\n", ""), "missing: statement"),
    "no views": (("    views: input\n", ""), "missing: views"),
    "margin without need": (("right: pti,", "right: pti, margin: 0.1,"), "others have none"),
    "no margin": (("expect: lower", "expect: alike"), "need a margin"),
    "factor of zero": (("right: pti,", "right: pti, factor: 0,"), "factor is positive"),
    "nothing to compare with": (("right: pti,", ""), "without `right`"),
    "against the paper's numbers": (("expect: lower", "expect: higher"), "numbers say otherwise"),
    "no tests": (("    tests:\n", "    left_out: [\n"), "ParserError|expected"),
    "tests and a reason": (("statement: s", "statement: s\n    not_testable: r"), "and not both"),
    "one pair of a trend": (("right: pti,", "right: pti, trend: true,"), "two pairs"),
    "method's name": (("pti: x}", "PTI: x}"), "base or base-variant"),
    "claims are no list of mappings": (
        ("  - id: spi-01", "  - 1\n  - id: spi-01"),
        "expected keys and values",
    ),
}


def written(path, text):
    path.write_text(text)
    return path


def test_the_small_ledger_is_sound(tmp_path):
    assert read_ledger(written(tmp_path / "claims.yaml", SMALL)).claims[0].tests[0].scenes == ("samples",)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_ledger_says_what_is_wrong(case, tmp_path):
    (old, new), words = BROKEN[case]
    assert old in SMALL
    path = written(tmp_path / "claims.yaml", SMALL.replace(old, new))
    with pytest.raises((ClaimError, yaml.YAMLError), match=words):
        read_ledger(path)


def test_a_row_or_column_that_a_table_lacks_is_named(ledger):
    with pytest.raises(ClaimError, match="no row 'SIP'; there are: SG2; SG2W"):
        paper_number(ledger, "spi_t1_celebahq", "SIP", "mse")
    with pytest.raises(ClaimError, match="no column 'msr'; there are: method, mse"):
        paper_number(ledger, "spi_t1_celebahq", "SPI", "msr")


# ---- results with a known truth ---------------------------------------------------------------------------

YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)


def results(
    method, value, n=24, *, kind="samples", metric="mse", inputs=YAWS, noise=0.01, seconds=1.0, seed=0
):
    """A table of one method: value(input_yaw, view_yaw, is_input), how hard each image is, and noise.

    How hard an image is does not depend on the method, and pairing has to cancel it.
    """
    hard = np.random.default_rng(99).normal(0, 0.5, n)
    rng = np.random.default_rng([seed, *method.encode()])
    seen = [(i, inputs[i % len(inputs)], view) for i in range(n) for view in YAWS]
    return pd.DataFrame(
        {
            "method": method,
            "scene": [f"{kind}-{i}" for i, _, _ in seen],
            "scene_kind": kind,
            "split": "test" if kind in KINDS else "",
            "view": [f"yaw{view:+.1f}" for _, _, view in seen],
            "yaw": [view for _, _, view in seen],
            "is_input": [view == source for _, source, view in seen],
            "metric": metric,
            "value": [
                value(source, view, view == source) + hard[i] + rng.normal(0, noise)
                for i, source, view in seen
            ],
            "seconds": seconds,
            "peak_memory_mb": 100.0,
            "failure": "",
        }
    )


def flat(level):
    return lambda *_: level


def table_of(*parts):
    return pd.concat(parts, ignore_index=True)


def claim_of(*tests):
    return Claim("spi-01", "spi", "table 1", "s", tests=tests)


def a_test(expect="lower", right="b", views="input", scenes=("samples",), **more):
    return Test("mse", "a", expect, scenes, views, right, **more)


def status(test, *parts, **more):
    return verdict(claim_of(test), table_of(*parts), **more).status


A, B = results("a", flat(1.0)), results("b", flat(1.1))


def test_a_true_difference_is_found_in_its_direction():
    assert status(a_test("lower"), A, B) == "reproduced"
    assert status(a_test("higher"), A, B) == "not reproduced"


def test_the_estimate_is_the_mean_difference_and_its_interval_holds_it():
    found = verdict(claim_of(a_test("lower")), table_of(A, B))
    by_image = A[A["is_input"]]["value"].to_numpy() - B[B["is_input"]]["value"].to_numpy()
    assert found.estimate == pytest.approx(by_image.mean())
    assert found.interval[0] < found.estimate < found.interval[1] < 0
    assert found.n == 24


def test_pairing_cancels_how_hard_images_are():
    """Unpaired, the spread of 0.5 between images would hide a difference of 0.1."""
    low, high = verdict(claim_of(a_test("lower")), table_of(A, B)).interval
    assert high - low < 0.02
    assert mean_interval(A["value"]).high - mean_interval(A["value"]).low > 0.1


def test_noise_larger_than_the_difference_is_inconclusive():
    noisy = [results("a", flat(1.0), noise=1.0), results("b", flat(1.0), noise=1.0, seed=3)]
    assert status(a_test("lower"), *noisy) == status(a_test("higher"), *noisy) == "inconclusive"


def test_the_same_results_twice_are_neither_lower_nor_higher():
    twin = A.assign(method="b")
    for expect in ("lower", "higher"):
        assert status(a_test(expect), A, twin) == "inconclusive"
    assert status(a_test("alike", margin=0.01), A, twin) == "reproduced"


def test_a_missing_method_is_not_there_yet_and_named():
    found = verdict(claim_of(a_test("lower"), a_test("lower", right="c")), table_of(A, B))
    assert found.status == "method not there yet"
    assert found.reason == "no results of c; so far 1 of 2 findings as claimed, 0 against"
    assert [finding.outcome for finding in found.findings] == ["holds", "missing"]


def test_what_cannot_be_tested_says_why():
    found = verdict(Claim("spi-01", "spi", "w", "s", not_testable="40 people"), table_of(A))
    assert (found.status, found.reason, found.estimate, found.interval, found.n) == (
        "not testable here",
        "40 people",
        None,
        None,
        0,
    )


@pytest.mark.parametrize("n", [1, 2, 3, MIN_IMAGES - 1])
def test_too_few_images_are_inconclusive_however_clear(n):
    assert (
        status(a_test("lower"), results("a", flat(1.0), n=n), results("b", flat(9.0), n=n)) == "inconclusive"
    )


def test_as_many_images_as_needed_are_enough():
    enough = [results("a", flat(1.0), n=MIN_IMAGES), results("b", flat(1.1), n=MIN_IMAGES)]
    assert status(a_test("lower"), *enough) == "reproduced"


def test_what_was_not_measured_is_inconclusive():
    for part in ({"scene_kind": "heads"}, {"metric": "psnr"}):
        found = verdict(claim_of(a_test("lower")), table_of(A, B).assign(**part))
        assert (found.status, found.n) == ("inconclusive", 0)
        assert "mse was not measured there" in found.reason


def with_failures(part, count):
    """The first `count` images have no value."""
    failed = part["scene"].isin([f"samples-{i}" for i in range(count)])
    return part.assign(value=part["value"].mask(failed), failure=failed.map({True: "no face", False: ""}))


def test_a_method_that_fails_often_is_not_judged_on_the_rest():
    many, few = 1 + math.floor(MAX_LOST * 30), math.floor(MAX_LOST * 30)
    a, b = results("a", flat(1.0), n=30), results("b", flat(1.1), n=30)
    assert status(a_test("lower"), with_failures(a, many), b) == "inconclusive"
    assert status(a_test("lower"), a, with_failures(b, many)) == "inconclusive"
    found = verdict(claim_of(a_test("lower")), table_of(with_failures(a, few), b))
    assert (found.status, found.n) == ("reproduced", 30 - few)


def test_images_that_only_one_method_was_run_on_do_not_count():
    """Ablations are run on few: how a list begins, not where they succeed; a failure has rows without a value."""
    few = A[A["scene"].isin([f"samples-{i}" for i in range(21)])]
    alone, among = (verdict(claim_of(a_test("lower")), table_of(few, part)) for part in (within(B, few), B))
    assert (among.status, among.n) == ("reproduced", 21)
    assert (among.estimate, among.interval) == (alone.estimate, alone.interval)


def within(part, other):
    return part[part["scene"].isin(other["scene"])]


def test_methods_without_a_common_image_say_nothing():
    first, rest = A[A["scene"] == "samples-0"], B[B["scene"] != "samples-0"]
    found = verdict(claim_of(a_test("lower")), table_of(first, rest))
    assert (found.status, found.n) == ("inconclusive", 0)


def test_a_claim_that_nothing_decides_has_a_row_without_numbers():
    (row,) = as_rows([verdict(Claim("spi-01", "spi", "w", "s", not_testable="40 people"), table_of(A))])
    assert {name for name, value in row.items() if value is None} == {"n", "steps", "change", "low", "high"}
    assert row["why"] == "40 people"


def test_a_finding_knows_the_smallest_share_of_the_steps():
    parts = A.assign(fraction=0.5), B.assign(fraction=0.25), results("c", flat(1.0)).assign(fraction=np.nan)
    found = verdict(claim_of(a_test("lower")), table_of(*parts))
    assert (found.status, found.fraction) == ("reproduced", 0.25)
    assert "n = 24, 0.25 of the steps, holds" in str(found.findings[0])
    assert as_record([found])["spi-01"]["findings"][0]["fraction"] == 0.25
    (row,) = as_rows([found])
    assert (row["n"], row["steps"], row["status"]) == (24, 0.25, "reproduced")
    assert (row["change"], row["low"], row["high"]) == found.deciding.change
    untold = verdict(claim_of(a_test("alike", right="c", margin=0.1)), table_of(*parts))
    assert (untold.status, untold.fraction) == ("reproduced", None)
    assert "steps" not in str(untold.findings[0])


def test_an_image_counts_only_if_all_its_views_have_a_value():
    one_view = A.assign(value=A["value"].mask((A["scene"] == "samples-4") & (A["view"] == "yaw+0.3")))
    assert verdict(claim_of(a_test(views="all")), table_of(one_view, B)).n == 23
    assert verdict(claim_of(a_test(views="input")), table_of(one_view, B)).n == 24


# ---- views, yaws, losses, trends --------------------------------------------------------------------------


def only_at(chosen, inside, outside=1.0):
    """A value where `chosen(input_yaw, view_yaw, is_input)` says so, another elsewhere."""
    return lambda *where: inside if chosen(*where) else outside


def test_views_are_those_that_are_named():
    a = results("a", only_at(lambda source, view, is_input: is_input, 0.5))  # better in the input view only
    b = results("b", flat(0.9))
    assert status(a_test("lower", views="input"), a, b) == "reproduced"
    assert status(a_test("higher", views="novel"), a, b) == "reproduced"
    weights = verdict(claim_of(a_test("alike", views="all", margin=0.05)), table_of(a, b))
    assert weights.estimate == pytest.approx((0.5 + 4 * 1.0) / 5 - 0.9, abs=0.01)


def test_views_of_the_closed_path_do_not_count():
    film = A.assign(view=A["view"].str.replace("yaw", "ellipse"), is_input=False, value=99.0)
    assert (
        verdict(claim_of(a_test(views="novel")), table_of(A, B, film)).estimate
        == verdict(claim_of(a_test(views="novel")), table_of(A, B)).estimate
    )


def test_novel_views_of_real_data_are_named_otherwise():
    def as_mead(rows):
        places = dict(zip((f"yaw{yaw:+.1f}" for yaw in YAWS), ("L60", "L30", "F", "R30", "R60"), strict=True))
        return rows.assign(view=rows["view"].map(places))

    claim = claim_of(a_test("lower", views="novel", scenes=("mead",)))
    a, b = (results(name, flat(level), kind="mead") for name, level in (("a", 0.9), ("b", 1.0)))
    renamed, named = (
        verdict(claim, checked(table)) for table in (table_of(as_mead(a), as_mead(b)), table_of(a, b))
    )
    assert renamed.status == named.status == "reproduced"
    assert renamed.estimate == pytest.approx(named.estimate)


def test_the_path_for_video_is_known_by_its_name():
    names = [name for name in scene_cameras(tiny_generator(), 0.3) if name.startswith(verdicts.VIDEO_VIEWS)]
    assert len(names) == ELLIPSE


def test_a_range_of_yaw_chooses_images_by_their_input():
    a = results("a", only_at(lambda source, *_: abs(source) > 0.45, 0.5), n=60)
    b = results("b", flat(1.0), n=60)
    far = verdict(claim_of(a_test("lower", input_yaw=(0.45, 0.75))), table_of(a, b))
    assert (far.status, far.n) == ("reproduced", 24)
    middle = verdict(claim_of(a_test("alike", input_yaw=(0.15, 0.45), margin=0.05)), table_of(a, b))
    assert (middle.status, middle.n) == ("reproduced", 24)


def test_a_loss_is_novel_minus_input():
    falls = results("a", only_at(lambda source, view, is_input: is_input, 0.2, 1.0))
    stays = results("b", flat(3.0))  # worse everywhere, but the same from all sides
    assert status(a_test("higher", views="loss"), falls, stays) == "reproduced"
    alone = verdict(claim_of(a_test("higher", views="loss", right=None)), table_of(falls))
    assert alone.status == "reproduced"
    assert alone.estimate == pytest.approx(0.8, abs=0.01)


def test_a_trend_is_a_slope_over_the_yaw_of_the_input():
    parts = [results("a", lambda source, *_: 2.0 * abs(source), n=50), results("b", flat(0.0), n=50)]
    found = verdict(claim_of(a_test("higher", views="novel", trend=True)), table_of(*parts))
    assert found.status == "reproduced"
    assert found.estimate == pytest.approx(2.0, abs=0.05)
    assert status(a_test("lower", views="novel", trend=True), *parts) == "not reproduced"


def test_a_trend_needs_more_than_one_yaw():
    same = [results(name, flat(1.0), inputs=(0.3,)) for name in "ab"]
    assert status(a_test("higher", trend=True), *same) == "inconclusive"


def test_slope_values_average_to_the_slope_that_least_squares_finds():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.6, 200)
    y = 3 + 2 * x + rng.normal(0, 0.1, 200)
    assert slope_values(x, y).mean() == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-3)


def test_slope_values_are_those_of_leaving_one_out():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, 12), rng.normal(0, 1, 12)
    whole = np.polyfit(x, y, 1)[0]
    without = [np.polyfit(np.delete(x, i), np.delete(y, i), 1)[0] for i in range(12)]
    assert slope_values(x, y) == pytest.approx([12 * whole - 11 * other for other in without])


# ---- factors, margins, costs ------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "expected"), [(0.8, "not reproduced"), (1.0, "reproduced")])
def test_a_factor_scales_the_right_method(factor, expected):
    assert status(a_test("lower", factor=factor), A, B) == expected


def test_seconds_are_a_value_of_each_inversion():
    fast, slow = results("a", flat(1.0), seconds=0.2), results("b", flat(1.0), seconds=100.0)
    test = Test("seconds", "a", "lower", ("samples",), "input", "b", factor=0.01)
    assert status(test, fast, slow) == "reproduced"
    assert status(test, fast.assign(seconds=2.0), slow) == "not reproduced"


def test_margins_are_shares_of_the_baseline():
    base = results("b", flat(10.0))
    near, far = results("a", flat(10.3)), results("a", flat(11.0))
    assert status(a_test("alike", margin=0.05), near, base) == "reproduced"
    assert status(a_test("alike", margin=0.05), far, base) == "not reproduced"
    assert status(a_test("not_higher", margin=0.05), near, base) == "reproduced"
    assert status(a_test("not_higher", margin=0.05), far, base) == "not reproduced"
    assert status(a_test("not_lower", margin=0.05), far, base) == "reproduced"


def test_what_is_not_shown_to_differ_is_not_therefore_alike():
    noisy = [results("a", flat(1.0), noise=1.0), results("b", flat(1.0), noise=1.0, seed=5)]
    assert status(a_test("alike", margin=0.05), *noisy) == "inconclusive"


# ---- many tests -------------------------------------------------------------------------------------------


def test_all_tests_have_to_hold_and_one_refutes():
    worse = results("c", flat(0.5))
    both = claim_of(a_test("lower"), a_test("lower", right="c"))
    found = verdict(both, table_of(A, B, worse))
    assert found.status == "not reproduced"
    assert found.deciding.test.right == "c"
    noisy = results("c", flat(1.0), noise=1.0)
    assert verdict(both, table_of(A, B, noisy)).status == "inconclusive"


def test_each_kind_of_scene_is_judged_by_itself():
    """Pooled, the large gain on one kind would cover the small loss on the other."""
    parts = [A, B, results("a", flat(1.05), kind="heads"), results("b", flat(1.0), kind="heads")]
    found = verdict(claim_of(a_test("lower", scenes=("samples", "heads"))), table_of(*parts))
    assert found.status == "not reproduced"
    assert [finding.outcome for finding in found.findings] == ["holds", "against"]


def of_spread(method, mean, deviation, n=MIN_IMAGES):
    """Results that have, over the images, exactly this mean and standard deviation."""
    values = np.random.default_rng(7).normal(size=n)
    values = mean + deviation * (values - values.mean()) / values.std(ddof=1)
    rows = results(method, flat(0.0), n=n)
    return rows.assign(value=rows["scene"].map(dict(zip(rows["scene"].unique(), values, strict=True))))


def test_what_refutes_one_test_is_chance_among_many():
    """2.5 standard errors from zero: beyond 95 %, not beyond the 99.3 % that each of seven tests needs."""
    a = of_spread("a", 2.5 / math.sqrt(MIN_IMAGES), 1.0)
    others = [of_spread(name, 0.0, 0.0) for name in "bcdefgh"]
    many = claim_of(*(a_test("lower", right=name) for name in "bcdefgh"))
    assert verdict(claim_of(a_test("lower")), table_of(a, *others)).status == "not reproduced"
    assert verdict(many, table_of(a, *others)).status == "inconclusive"


def test_chance_seldom_reproduces_or_refutes(monkeypatch):
    """Where nothing differs, 2.5 % of one-sided tests hold and 2.5 % are against: 2.5 of 100 each.

    More than 9 would come about by chance once in thousands.
    """
    monkeypatch.setattr(verdicts, "mean_interval", partial(mean_interval, resamples=1000))
    rng, table = np.random.default_rng(0), table_of(A, B)[lambda rows: rows["is_input"]]
    noise = [table.assign(value=rng.normal(size=len(table))) for _ in range(100)]
    found = [find(a_test("lower"), "samples", rows).outcome for rows in noise]
    assert found.count("holds") <= 9
    assert found.count("against") <= 9


# ---- the whole ledger -------------------------------------------------------------------------------------


def test_every_claim_gets_one_of_the_five_statuses(ledger):
    found = judge(ledger, table_of(A, B))
    assert [verdict.claim.id for verdict in found] == [claim.id for claim in ledger.claims]
    assert {verdict.status for verdict in found} == {"method not there yet", "not testable here"}
    by_paper = counts(found)
    assert sum(sum(row.values()) for row in by_paper.values()) == 88
    assert all(tuple(row) == STATUSES for row in by_paper.values())
    assert by_paper["e3dge"]["not testable here"] == 4


def with_numbers(ledger):
    """The first test of each claim that has the paper's numbers for a difference."""
    for claim in ledger.claims:
        for test in [test for test in claim.tests if test.paper and not test.of_change][:1]:
            yield claim.id, replace(test, scenes=test.scenes[:1])


def test_a_paper_s_own_numbers_reproduce_its_claims(ledger):
    """Tables that have the printed ratio of both methods reproduce a claim; if these change places, they refute it."""
    tests = dict(with_numbers(ledger))
    assert len(tests) > 40
    for claim_id, test in tests.items():
        table = as_printed(test)
        assert status(test, table) == "reproduced", claim_id
        if test.expect in ("lower", "higher"):
            swapped = table["method"].map({test.left: test.right, test.right: test.left})
            assert status(test, table.assign(method=swapped)) == "not reproduced", claim_id


def as_printed(test):
    """Results of both methods of a test in the paper's ratio, on images within its range of yaw."""
    yaw = sum(test.input_yaw) / 2 if test.input_yaw else 0.3
    level = test.factor * (1 + test.paper_change())
    made = {"kind": test.scenes[0], "metric": test.metric, "noise": 0.0, "inputs": (0.6,)}
    left = results(test.left, flat(level), seconds=level, **made)
    rows = table_of(left, results(test.right, flat(1.0), **made))
    return rows.assign(yaw=rows["yaw"].mask(rows["is_input"], yaw))


def test_the_record_holds_every_finding_in_plain_values(ledger):
    claim = claim_of(a_test("lower"), a_test("lower", right="c"))
    record = as_record([verdict(claim, table_of(A, B))])["spi-01"]
    assert record["status"] == "method not there yet"
    (finding,) = record["findings"]  # that without results has nothing to say
    assert finding["outcome"] == "holds"
    assert finding["interval"][0] < finding["estimate"] < finding["interval"][1]
    assert as_record([verdict(claim_of(a_test(right="c")), table_of(A))])["spi-01"].keys() == {
        "status",
        "reason",
    }


def test_the_same_results_give_the_same_verdicts():
    first, second = (find(a_test(), "samples", table_of(A, B), seed=4) for _ in range(2))
    shuffled = find(a_test(), "samples", table_of(B, A).sample(frac=1, random_state=0), seed=4)
    assert first == second == shuffled
    assert first != find(a_test(), "samples", table_of(A, B), seed=5)


# ---- tables that are refused ------------------------------------------------------------------------------


def test_a_table_that_cannot_be_judged_is_refused(ledger):
    with pytest.raises(ValueError, match="no column value; it has: method"):
        judge(ledger, A.drop(columns="value"))
    with pytest.raises(
        ValueError, match=r"1 rows are there twice, such as mse of a in view yaw-0\.6 of samples-0"
    ):
        checked(table_of(A, A.iloc[:1]))
    with pytest.raises(ValueError, match="kind statues; the ledger knows samples"):
        checked(A.assign(scene_kind="statues"))
    with pytest.raises(ValueError, match="test scenes only"):
        checked(A.assign(split="development"))
    real = results("a", flat(1.0), kind="mead")
    with pytest.raises(ValueError, match="of split 'test'"):
        checked(real.assign(split="test"))
    with pytest.raises(ValueError, match="of split ''"):
        checked(A.assign(split=""))
    assert checked(table_of(A, real)) is not None


def test_kinds_are_those_of_the_data_sets():
    assert tuple(SYNTHETIC) == KINDS
    assert (*DATA_SETS, PHOTOS) == REAL_KINDS


def test_rules_are_those_that_are_told():
    assert (LEVEL, MIN_IMAGES, MAX_LOST) == (0.95, 8, 0.1)
    assert CLAIMS.is_file()
