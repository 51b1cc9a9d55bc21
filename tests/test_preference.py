"""A study of preference: who is asked what, what is kept of it, and what the votes say. All answers here are made up."""

import dataclasses
import json
import multiprocessing
from itertools import product

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from analytic_head import AnalyticGenerator, AnalyticHead

from lib import paths
from lib.figures import method_label
from lib.metrics.statistics import mean_interval
from lib.preference import (
    ANSWERS,
    RATES,
    Answer,
    Answers,
    Exhibit,
    Question,
    blind_video,
    preference,
    questions,
    votes_for,
    wilson_interval,
)
from lib.preference_form import PreferenceForm

PORTRAITS = ("painted-00", "turned-00", "heads-00", "photos-00", "painted-01")
PAIRS = (("hfgi3d", "pti"), ("hfgi3d", "wplus"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Locks lie in the cache: here in one of its own."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")


def answer(participant="07", portrait="painted-00", choice="left", left="hfgi3d", baseline="pti", **changes):
    """Made up: a vote about a portrait."""
    videos = {"left_video": f"{portrait}{left}", "right_video": f"{portrait}not {left}"}
    named = {"portrait": portrait, "method": "hfgi3d", "baseline": baseline, "left": left, "choice": choice}
    return Answer(**{"participant": participant, "seed": 0, **named, **videos, **changes})


def table_of(*answers):
    return pd.DataFrame([dataclasses.asdict(each) for each in answers], columns=list(ANSWERS))


# ---- questions --------------------------------------------------------------------------------------------
def test_every_portrait_is_asked_about_with_every_pair_once():
    asked = questions(PORTRAITS, PAIRS, seed=3)
    assert sorted((each.portrait, (each.method, each.baseline)) for each in asked) == sorted(
        product(PORTRAITS, PAIRS)
    )


def test_seed_and_participant_fix_order_and_sides():
    asked = questions(PORTRAITS, PAIRS, 3, "07")
    assert asked == questions(PORTRAITS, PAIRS, 3, "07")
    orders = {questions(PORTRAITS, PAIRS, seed, who) for seed, who in product((3, 4), ("07", "08"))}
    assert len(orders) == 4


def test_sides_are_balanced_in_each_pair_and_drawn_by_chance():
    rights = set()
    for seed in range(20):
        asked = questions(PORTRAITS, PAIRS, seed)
        for pair in PAIRS:
            lefts = sum(each.left == "hfgi3d" for each in asked if (each.method, each.baseline) == pair)
            assert lefts in (2, 3)  # of five
        rights.add(next(each.right for each in asked if each.portrait == "painted-00"))
    assert rights == {"hfgi3d", "pti", "wplus"}


def test_a_question_shows_both_methods():
    assert Question("a", "hfgi3d", "pti", "pti").right == "hfgi3d"
    assert Question("a", "hfgi3d", "pti", "hfgi3d").right == "pti"
    for wrong in (("pti", "pti", "pti"), ("hfgi3d", "pti", "wplus")):
        with pytest.raises(ValueError, match="two methods, one of them at the left"):
            Question("a", *wrong)


@pytest.mark.parametrize(
    ("portraits", "pairs", "message"),
    [
        ([], PAIRS, "a portrait and a pair"),
        (PORTRAITS, [], "a portrait and a pair"),
        (["a", "a"], PAIRS, "asked about once"),
        (PORTRAITS, [("hfgi3d", "pti"), ("pti", "hfgi3d")], "asked about once"),
    ],
)
def test_impossible_studies_are_refused(portraits, pairs, message):
    with pytest.raises(ValueError, match=message):
        questions(portraits, pairs, 0)


# ---- answers ----------------------------------------------------------------------------------------------
def test_answers_come_back_as_they_were_given(tmp_path):
    answers = Answers(tmp_path / "study" / "answers.jsonl")
    assert answers.all() == () and list(answers.table()) == list(ANSWERS) and answers.table().empty
    given = [answer(), answer("p8", choice="undecided"), answer(portrait="heads-00", choice="right")]
    for each in given:
        answers.add(each)
        assert answers.all()[-1] == each  # saved at once
    assert answers.of("07") == (given[0], given[2])
    assert answers.table().equals(table_of(*given))
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["answers.jsonl"]


def test_a_second_answer_is_refused_and_the_first_stands(tmp_path):
    answers = Answers(tmp_path / "answers.jsonl")
    answers.add(answer())
    before = answers.file.read_bytes()
    other_side = answer(left="pti", left_video="painted-00not hfgi3d", right_video="painted-00hfgi3d")
    for again in (answer(choice="right"), other_side):
        with pytest.raises(ValueError, match="07 has answered this question; that answer stands"):
            answers.add(again)
    assert answers.file.read_bytes() == before
    answers.add(answer("08"))
    answers.add(answer(left_video="a later inversion"))  # other videos are another question
    assert len(answers.all()) == 3


def test_an_interrupted_write_keeps_what_was_there(tmp_path, monkeypatch):
    answers = Answers(tmp_path / "answers.jsonl")
    answers.add(answer())
    before = answers.file.read_bytes()

    def fail(*_arguments, **_options):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        answers.add(answer("08"))
    assert answers.file.read_bytes() == before


def _add(file, cache, code):
    paths.CACHE = cache
    Answers(file).add(answer(f"{code}"))


def test_people_who_click_at_the_same_time_all_keep_their_answers(tmp_path):
    file, cache = tmp_path / "answers.jsonl", tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    people = [context.Process(target=_add, args=(file, cache, code)) for code in range(8)]
    for each in people:
        each.start()
    for each in people:
        each.join()
    assert {each.participant for each in Answers(file).all()} == {f"{code}" for code in range(8)}


@pytest.mark.parametrize("name", ["Ada", "ada", "", "../07", "abc1", "07 ", "1234567"])
def test_names_are_refused(name):
    with pytest.raises(ValueError, match="a participant is a code such as 07 or p07"):
        answer(name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of answers.jsonl is no answer"),
        ("[]", "line 2 of answers.jsonl is no answer"),
        ('{"participant": "07"}', "line 2 of answers.jsonl is no answer"),
        (json.dumps(dataclasses.asdict(answer("08")) | {"choice": "both"}), "left, right, undecided"),
        (json.dumps(dataclasses.asdict(answer("08")) | {"left": "w"}), "one of them at the left"),
        (json.dumps(dataclasses.asdict(answer("08")) | {"left_video": ""}), "names two videos"),
        (json.dumps(dataclasses.asdict(answer("08")) | {"participant": 8}), "line 2 of answers.jsonl"),
        (json.dumps(dataclasses.asdict(answer(choice="right"))), "07 answers a question twice"),
    ],
)
def test_broken_files_are_refused(tmp_path, line, message):
    answers = Answers(tmp_path / "answers.jsonl")
    answers.add(answer())
    answers.file.write_text(answers.file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        answers.table()


# ---- what the votes say -----------------------------------------------------------------------------------
def test_a_vote_is_for_the_method_whichever_side_it_is_on():
    cases = {("left", "hfgi3d"): 1, ("right", "hfgi3d"): 0, ("left", "pti"): 0, ("right", "pti"): 1}
    given = table_of(*(answer(choice=choice, left=left) for choice, left in cases))
    assert votes_for(given).tolist() == list(cases.values())
    assert votes_for(table_of(answer(choice="undecided", left="pti"))).isna().all()


@pytest.mark.parametrize("wins, n", [(0, 1), (0, 9), (3, 9), (9, 9), (508, 560)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_interval_is_scipys_for_whole_votes(wins, n, level):
    expected = scipy.stats.binomtest(wins, n).proportion_ci(level, method="wilson")
    assert wilson_interval(wins, n, level) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_interval_of_half_votes_lies_between_those_of_whole_ones():
    bounds = [wilson_interval(wins, 9) for wins in (3, 3.5, 4)]
    assert np.all(np.diff(bounds, axis=0) > 0)
    assert np.isnan(wilson_interval(0, 0)).all()
    with pytest.raises(ValueError, match="between 0 and n are won"):
        wilson_interval(3, 2)


def made_up(shares, baseline="pti"):
    """Votes of people: for each a list of votes, 1 for the method, 0 against, None for neither. Sides alternate."""
    words = {1: "left", 0: "right", None: "undecided"}
    return [
        answer(f"{code}", f"head-{place}", words[vote], baseline=baseline)
        if place % 2
        else answer(
            f"{code}", f"head-{place}", words[None if vote is None else 1 - vote], "pti", baseline="pti"
        )
        for code, votes in enumerate(shares)
        for place, vote in enumerate(votes)
    ]


VOTES = [[1, 1, 1, 1], [1, 1, 0, 0], [1, None, 1, 1], [0, 0, 0, None]]


def test_rates_are_those_of_the_votes_that_count():
    (row,) = preference(table_of(*made_up(VOTES))).to_dict("records")
    assert row["rate"] == pytest.approx(9 / 14) and (row["votes"], row["undecided"], row["people"]) == (
        14,
        2,
        4,
    )
    assert (row["low"], row["high"]) == pytest.approx(wilson_interval(9, 14))
    assert row["people_rate"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    people = mean_interval([1, 0.5, 1, 0])
    assert (row["people_low"], row["people_high"]) == pytest.approx((people.low, people.high))


def test_undecided_answers_can_count_as_half():
    (row,) = preference(table_of(*made_up(VOTES)), undecided="half").to_dict("records")
    assert row["rate"] == pytest.approx(10 / 16) and (row["votes"], row["undecided"]) == (16, 2)
    assert row["people_rate"] == pytest.approx((1 + 0.5 + 3.5 / 4 + 0.5 / 4) / 4)
    with pytest.raises(ValueError, match="left_out or half"):
        preference(table_of(*made_up(VOTES)), undecided="lost")


def test_rates_by_portrait_and_pair():
    given = table_of(*made_up(VOTES), answer("0", baseline="wplus", choice="left"))
    by_pair = preference(given).set_index("baseline")
    assert by_pair.loc["wplus", ["rate", "votes", "people"]].tolist() == [1.0, 1, 1]
    assert by_pair.loc["wplus", ["people_rate", "people_low", "people_high"]].isna().all()
    by_portrait = preference(given, by=["portrait"]).set_index(["baseline", "portrait"])
    expected = {"head-0": 0.75, "head-1": 2 / 3, "head-2": 0.5, "head-3": 2 / 3}
    assert by_portrait.loc["pti", "rate"].to_dict() == pytest.approx(expected)


def test_no_answers_give_no_rates():
    found = preference(table_of(), by=["portrait"])
    assert found.empty and list(found) == ["method", "baseline", "portrait", *RATES]
    (row,) = preference(table_of(answer(choice="undecided"))).to_dict("records")
    assert row["votes"] == 0 and np.isnan(row["rate"])


def test_people_of_one_mind_make_the_interval_wider_than_independent_votes():
    """Each of twelve people always votes alike: 120 votes are worth twelve."""
    (row,) = preference(table_of(*made_up([[1] * 10] * 8 + [[0] * 10] * 4))).to_dict("records")
    assert row["people_high"] - row["people_low"] > 2.5 * (row["high"] - row["low"])


# ---- videos and the form ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exhibits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    heads = {
        name: AnalyticHead(AnalyticGenerator(sharpness=sharpness))
        for name, sharpness in (("hfgi3d", 400.0), ("pti", 60.0), ("wplus", 20.0))
    }
    return {
        portrait: Exhibit(
            torch.full((1, 3, 64, 64), level),
            {
                name: blind_video(head, f"{portrait} {name}", folder, frames=2, size=64)
                for name, head in heads.items()
            },
        )
        for portrait, level in (("painted-00", -0.5), ("turned-00", 0.5))
    }


@pytest.fixture
def answers(tmp_path):
    return Answers(tmp_path / "answers.jsonl")


@pytest.fixture
def form(exhibits, answers):
    return PreferenceForm(exhibits, PAIRS, answers, seed=5)


def begin(form, code):
    form.code.value = code
    form.begin.click()


def test_a_video_is_made_once_and_its_name_tells_head_and_orbit_apart(tmp_path):
    head = AnalyticHead()
    first = blind_video(head, "a", tmp_path, frames=1, size=64)
    written = first.stat().st_mtime_ns
    assert blind_video(head, "a", tmp_path, frames=1, size=64) == first
    assert first.stat().st_mtime_ns == written
    others = {
        blind_video(head, "b", tmp_path, frames=1, size=64),
        blind_video(head, "a", tmp_path, frames=2, size=64),
    }
    assert len(others - {first}) == 2


def test_the_form_shows_the_question_and_saves_the_answer(form, exhibits, answers):
    assert form.panel.layout.display == "none"
    begin(form, "07")
    asked = questions(list(exhibits), PAIRS, 5, "07")
    for place, (question, choice) in enumerate(
        zip(asked, ("left", "right", "undecided", "left"), strict=True)
    ):
        assert form.question == question and form.panel.layout.display == "flex"
        assert form.status.value == f"Question {place + 1} of 4"
        videos = exhibits[question.portrait].videos
        assert form.videos["left"].value == videos[question.left].read_bytes()
        assert form.videos["right"].value == videos[question.right].read_bytes()
        form.buttons[choice].click()
        saved = answers.all()[-1]
        assert (saved.question, saved.choice, saved.participant, saved.seed) == (question, choice, "07", 5)
        assert (saved.left_video, saved.right_video) == (
            videos[question.left].stem,
            videos[question.right].stem,
        )
    assert form.question is None and form.panel.layout.display == "none" and "Thank you" in form.status.value


def test_a_code_goes_on_where_it_stopped(form, exhibits, answers):
    begin(form, "07")
    form.buttons["left"].click()
    waiting = form.question
    later = PreferenceForm(exhibits, PAIRS, answers, seed=5)
    begin(later, "07")
    assert later.question == waiting and later.status.value == "Question 2 of 4"
    begin(later, "08")  # the next person begins anew
    assert later.status.value == "Question 1 of 4"


def test_errors_stand_in_the_form_and_in_the_log(form, answers, caplog):
    begin(form, "<Ada>")
    assert "never a name" in form.status.value and "&lt;Ada&gt;" in form.status.value
    form.buttons["left"].click()
    assert "no question is shown" in form.status.value
    assert answers.all() == () and "never a name" in caplog.text and "no question is shown" in caplog.text
    begin(form, "07")
    assert form.status.value == "Question 1 of 4"  # and the form lives on


def values_sent(widget):
    """All values that the browser is sent of a widget and of what is in it."""
    for child in getattr(widget, "children", ()):
        yield from values_sent(child)
    yield from widget.get_state().values()
    for name in ("layout", "style"):
        if hasattr(widget, name):
            yield from getattr(widget, name).get_state().values()


def sent(widget):
    """Texts that the browser is sent, and bytes of pictures and videos as text."""
    values = list(values_sent(widget))
    pixels = [bytes(value) for value in values if isinstance(value, bytes | memoryview)]
    texts = [repr(value) for value in values if not isinstance(value, bytes | memoryview)]
    return "\n".join(texts), b"\n".join(pixels).decode("latin-1")


def test_the_browser_is_never_told_who_made_what(form, exhibits):
    begin(form, "07")
    names = {*exhibits, *(path.stem for exhibit in exhibits.values() for path in exhibit.videos.values())}
    for pair in PAIRS:
        names |= {*pair, *map(method_label, pair)}
    for _ in range(4):
        texts, pixels = sent(form)
        assert pixels.count("ftyp") == 2 and "PNG" in pixels  # all that is shown is looked through
        assert not [name for name in names if name in texts]
        assert not [name for name in names if len(name) > 3 and name in pixels]  # two letters occur by chance
        form.buttons["undecided"].click()


def test_the_search_for_names_would_find_one(form):
    form.status.value = "PTI"
    assert "PTI" in sent(form)[0]


def test_names_of_files_hide_the_method(exhibits):
    for exhibit in exhibits.values():
        for path in exhibit.videos.values():
            assert len(path.stem) == 16 and int(path.stem, 16) >= 0


def test_missing_videos_are_refused(exhibits, answers, tmp_path):
    lacking = {"a": Exhibit(torch.zeros(1, 3, 8, 8), {"hfgi3d": tmp_path / "none.mp4"})}
    with pytest.raises(ValueError, match="a has no video of hfgi3d, pti, wplus"):
        PreferenceForm(lacking, PAIRS, answers)


def test_the_still_picture_is_that_of_the_question(form, exhibits):
    begin(form, "07")
    picture = form.static(frames=2)
    texts = [text.get_text() for text in picture.texts]
    assert texts == ["1 A", "1 B", "photo", "0/2", "1/2"]
    assert len(picture.axes) == 5 and isinstance(form, ipywidgets.VBox)
