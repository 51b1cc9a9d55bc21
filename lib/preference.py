"""A blind study of preference, as HFGI3D's table 2 (Xie et al., 2023): questions, answers on disk, and their rates.

People see the photo and two videos of the same orbit, made by two methods, and say which keeps the identity best and
flickers least. Who made which video stands in the files of answers alone: videos are named by what they were made from,
sides and order are drawn by chance. Participants are codes such as `07` or `p07`, never names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from filelock import FileLock
from torch import Tensor

from lib import paths
from lib.media import save_orbit_video
from lib.meshes import Head
from lib.metrics.statistics import FEWEST, mean_interval
from lib.paths import replacing

ASKED = "Which video keeps the identity of the person in the photo best, and flickers least?"
"""Both aspects at once, as table 2 has one rate for both."""

CHOICES = ("left", "right", "undecided")

PARTICIPANT = re.compile(r"[a-z]{0,2}[0-9]{1,6}")
"""A code has digits and at most two letters before them: a name is none."""

UNDECIDED = ("left_out", "half")
"""How "can't tell" counts: not at all, or as half a vote for each method, what a coin in place of it would give."""

RATES = ("rate", "low", "high", "votes", "undecided", "people", "people_rate", "people_low", "people_high")
"""Columns of `preference` after those that say what of."""


# -------------------------------------------------------------------- what is asked
@dataclass(frozen=True)
class Exhibit:
    """What people see of one portrait: the photo [1, 3, R, R], and each method's video."""

    photo: Tensor
    videos: Mapping[str, Path]


@dataclass(frozen=True)
class Question:
    """Two videos of a portrait side by side. The rate is that of `method` over `baseline`; one of them is left."""

    portrait: str
    method: str
    baseline: str
    left: str

    def __post_init__(self) -> None:
        if self.method == self.baseline or self.left not in (self.method, self.baseline):
            raise ValueError(f"a question shows two methods, one of them at the left; got {self}")

    @property
    def right(self) -> str:
        return self.baseline if self.left == self.method else self.method


def questions(
    portraits: Sequence[str], pairs: Sequence[tuple[str, str]], seed: int, participant: str = ""
) -> tuple[Question, ...]:
    """All portraits with all pairs (method, baseline), in an order and on sides that seed and participant fix.

    Of each pair, either method stands at the left in half of the portraits (of an odd number, one more or less), so that
    a habit of clicking one side favours nobody.
    """
    _require_different(portraits, pairs)
    digest = hashlib.sha256(f"{seed} {participant}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8]))
    asked = []
    for method, baseline in pairs:
        turn = rng.permutation((np.arange(len(portraits)) + rng.integers(2)) % 2)
        lefts = (baseline if each else method for each in turn)
        asked += [Question(name, method, baseline, left) for name, left in zip(portraits, lefts, strict=True)]
    return tuple(asked[place] for place in rng.permutation(len(asked)))


def _require_different(portraits: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    if not portraits or not pairs:
        raise ValueError(
            f"a study asks about a portrait and a pair of methods at least; got {portraits}, {pairs}"
        )
    if len(set(portraits)) < len(portraits) or len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise ValueError(f"every portrait and every pair is asked about once; got {portraits}, {pairs}")


def blind_video(
    head: Head,
    made_from: str,
    folder: str | Path,
    *,
    frames: int = 48,
    fps: int = 24,
    size: int | None = None,
) -> Path:
    """The head's orbit as a video whose name says nothing; made only where it is not there yet.

    made_from: what tells this head from all others, such as the key of its inversion. Head and orbit give the name, by
    which an answer knows what was seen: of another inversion the video has another name.
    """
    orbit = {"frames": frames, "fps": fps, "size": size}
    described = json.dumps([made_from, orbit])
    path = Path(folder) / f"{hashlib.sha256(described.encode()).hexdigest()[:16]}.mp4"
    return path if path.is_file() else save_orbit_video(head, path, **orbit)


# -------------------------------------------------------------------- what is answered
@dataclass(frozen=True)
class Answer:
    """What a participant chose: one line of a file. left, right: methods; videos: the names of what was seen."""

    participant: str
    portrait: str
    method: str
    baseline: str
    left: str
    choice: str
    left_video: str
    right_video: str
    seed: int

    def __post_init__(self) -> None:
        _require_code(self.participant)
        if self.choice not in CHOICES:
            raise ValueError(f"an answer is {', '.join(CHOICES)}; got {self.choice!r}")
        if len(self.seen - {""}) < 2:
            raise ValueError(f"an answer names two videos; got {self.left_video!r} and {self.right_video!r}")
        _ = self.question  # which checks the methods

    @property
    def question(self) -> Question:
        return Question(self.portrait, self.method, self.baseline, self.left)

    @property
    def seen(self) -> frozenset[str]:
        """The two videos, on whichever sides: what makes two answers answers to the same question."""
        return frozenset((self.left_video, self.right_video))


ANSWERS = tuple(field.name for field in fields(Answer))


def _require_code(participant: str) -> None:
    if not PARTICIPANT.fullmatch(participant):
        raise ValueError(f"a participant is a code such as 07 or p07, never a name; got {participant!r}")


@dataclass(frozen=True)
class Answers:
    """The answers of a study, in a file of JSON lines that grows with every click.

    The files of several machines are put together by joining them, line after line.
    """

    file: Path

    def all(self) -> tuple[Answer, ...]:
        """Every answer so far, in the order in which they were given."""
        path = Path(self.file)
        found = _answers_in(path) if path.is_file() else ()
        counts = Counter((answer.participant, answer.seen) for answer in found)
        if twice := [participant for (participant, _), count in counts.items() if count > 1]:
            raise ValueError(
                f"in {path.name}, participant {twice[0]} answers a question twice: keep the first of the two lines"
            )
        return found

    def of(self, participant: str) -> tuple[Answer, ...]:
        """What a participant has answered so far."""
        _require_code(participant)
        return tuple(answer for answer in self.all() if answer.participant == participant)

    def add(self, answer: Answer) -> None:
        """Save an answer at once. A second one to the same question is refused: the first impression counts."""
        path = Path(self.file)
        with _alone(path):
            known = self.all()
            if any((answer.participant, answer.seen) == (each.participant, each.seen) for each in known):
                raise ValueError(
                    f"participant {answer.participant} has answered this question; that answer stands"
                )
            lines = "".join(json.dumps(asdict(each)) + "\n" for each in (*known, answer))
            with replacing(path) as temporary:
                temporary.write_text(lines)

    def table(self) -> pd.DataFrame:
        """All answers, a row each; the columns are `ANSWERS`. Empty before the first answer."""
        return pd.DataFrame([asdict(answer) for answer in self.all()], columns=list(ANSWERS))


def _answers_in(path: Path) -> tuple[Answer, ...]:
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(Answer(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {path.name} is no answer ({error}): mend or remove it"
            ) from error
    return tuple(found)


def _alone(path: Path) -> FileLock:
    """Two people who click at the same time both keep their answers. The lock lies where it is in nobody's way."""
    locks = paths.CACHE / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.lock")


# -------------------------------------------------------------------- what that says
def preference(
    answers: pd.DataFrame,
    by: Sequence[str] = (),
    *,
    undecided: str = "left_out",
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """How often each method is preferred to its baseline: a row a pair, and each value of `by` (such as portrait).

    answers: columns ANSWERS. undecided: one of UNDECIDED. Columns: method, baseline, those of `by`, RATES.
    rate, low, high: of all votes, with Wilson's binomial interval: right where votes are independent, such as those
    about one portrait; one person's votes about several portraits are not. people_rate, people_low, people_high: the
    mean of people's own rates, each person counting once, and the interval that resamples people; NaN for fewer than
    three. votes: those that count. undecided: the answers "can't tell".
    """
    if undecided not in UNDECIDED:
        raise ValueError(f"undecided answers count as {' or '.join(UNDECIDED)}; got {undecided!r}")
    keys = ["method", "baseline", *by]
    rows = [
        dict(zip(keys, names, strict=True)) | _rates(part, undecided, level, seed)
        for names, part in answers.groupby(keys, sort=True)
    ]
    return pd.DataFrame(rows, columns=[*keys, *RATES])


def _rates(answers: pd.DataFrame, undecided: str, level: float, seed: int) -> dict[str, float]:
    """RATES of answers about one pair of methods."""
    votes = votes_for(answers)
    unsure = int(votes.isna().sum())
    votes = votes.fillna(0.5) if undecided == "half" else votes.dropna()
    low, high = wilson_interval(votes.sum(), len(votes), level)
    people = answers["participant"].loc[votes.index]
    of_people = dict.fromkeys(("people_rate", "people_low", "people_high"), math.nan)
    if people.nunique() >= FEWEST:
        interval = mean_interval(votes, groups=people.to_list(), level=level, seed=seed)
        of_people = dict(zip(of_people, (interval.mean, interval.low, interval.high), strict=True))
    return {
        "rate": votes.mean(),
        "low": low,
        "high": high,
        "votes": len(votes),
        "undecided": unsure,
        "people": people.nunique(),
        **of_people,
    }


def votes_for(answers: pd.DataFrame) -> pd.Series:
    """1 where the method was chosen, 0 where its baseline was, NaN where nobody could tell."""
    chose_left = answers["choice"].map({"left": 1.0, "right": 0.0, "undecided": math.nan})
    method_is_left = answers["left"] == answers["method"]
    return chose_left.astype(float).where(method_is_left, 1 - chose_left)


def wilson_interval(wins: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of n votes (Wilson, 1927): all rates from which wins / n is less than z deviations away.

    (p - wins / n)^2 = z^2 p (1 - p) / n, solved for p. Unlike what libraries offer, `wins` may have half votes. NaN for
    no votes.
    """
    if not 0 <= wins <= n:
        raise ValueError(f"of n votes, between 0 and n are won; got {wins} of {n}")
    if not n:
        return math.nan, math.nan
    z = scipy.stats.norm.ppf((1 + level) / 2)
    centre = (wins + z**2 / 2) / (n + z**2)
    reach = z / (n + z**2) * math.sqrt(wins * (n - wins) / n + z**2 / 4)
    return max(0.0, centre - reach), min(1.0, centre + reach)
