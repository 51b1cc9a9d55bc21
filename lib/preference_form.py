"""The form of a preference study in JupyterLab: the photo between two unnamed videos, and three buttons."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
from PIL import Image

from lib.drawings.preference import SIDES, as_seen
from lib.figures import Picture, to_picture
from lib.media import shown
from lib.preference import ASKED, Answer, Answers, Exhibit, Question, questions

BUTTONS = {"left": f"{SIDES[0]} is better", "undecided": "can't tell", "right": f"{SIDES[1]} is better"}
WELCOME = "Choose a code of digits, with a letter or two before them if you like: 07, p07. Then click begin."
THANKS = "All is answered. Thank you! The next person may write a code and begin."


class PreferenceForm(ipywidgets.VBox):
    """A code, then question after question; each click is saved at once, and a code goes on where it stopped.

    exhibits: name of the portrait -> its photo and each method's video. pairs: (method, baseline). Neither their names
    nor those of files reach the browser: it gets pixels. Several people can use one form, one after the other.
    """

    def __init__(
        self,
        exhibits: Mapping[str, Exhibit],
        pairs: Sequence[tuple[str, str]],
        answers: Answers,
        *,
        seed: int = 0,
        size: int = 256,
    ) -> None:
        _require_videos(exhibits, pairs)
        self._exhibits, self._pairs, self._answers, self._seed = exhibits, pairs, answers, seed
        self._participant, self._asked, self._waiting = "", (), []
        self.code = ipywidgets.Text(placeholder="your code", layout={"width": "9em"})
        self.begin = _button("begin", self._guarded(self.start))
        self.status = ipywidgets.HTML(WELCOME).add_class("preference-status")
        self.photo = ipywidgets.Image(format="png", width=size, height=size)
        self.videos = {side: _video(size) for side in ("left", "right")}
        self.buttons = {
            choice: _button(text, self._guarded(self.answer, choice)) for choice, text in BUTTONS.items()
        }
        columns = {
            "left": (SIDES[0], self.videos["left"]),
            "undecided": ("photo", self.photo),
            "right": (SIDES[1], self.videos["right"]),
        }
        self.panel = ipywidgets.HBox(
            [_column(title, seen, self.buttons[choice]) for choice, (title, seen) in columns.items()]
        )
        self.panel.layout.display = "none"
        super().__init__(
            [
                ipywidgets.HTML(f"<b>{ASKED}</b>"),
                ipywidgets.HBox([self.code, self.begin]),
                self.status,
                self.panel,
            ],
            _dom_classes=("preference",),
        )

    @property
    def question(self) -> Question | None:
        """What is asked now, if anything is."""
        return self._waiting[0] if self._waiting else None

    def start(self) -> None:
        """Ask the participant whose code stands in the field what that participant has not answered yet."""
        participant = self.code.value.strip()
        done = {answer.seen for answer in self._answers.of(participant)}
        self._participant = participant
        self._asked = questions(list(self._exhibits), self._pairs, self._seed, participant)
        self._waiting = [each for each in self._asked if frozenset(self._names(each)) not in done]
        self._show()

    def answer(self, choice: str) -> None:
        """Save the choice, and show the next question."""
        if self.question is None:
            raise RuntimeError("no question is shown: write your code and click begin")
        left, right = self._names(self.question)
        self._answers.add(
            Answer(
                participant=self._participant,
                portrait=self.question.portrait,
                method=self.question.method,
                baseline=self.question.baseline,
                left=self.question.left,
                choice=choice,
                left_video=left,
                right_video=right,
                seed=self._seed,
            )
        )
        del self._waiting[0]
        self._show()

    def static(self, frames: int = 6) -> Picture:
        """The question that is shown, or else the first of all, as a picture for readers of the saved notebook."""
        question = self.question or questions(list(self._exhibits), self._pairs, self._seed)[0]
        exhibit = self._exhibits[question.portrait]
        left, right = (exhibit.videos[method] for method in (question.left, question.right))
        return as_seen([(exhibit.photo, left, right)], frames)

    def _names(self, question: Question) -> tuple[str, str]:
        """Of the videos at the left and at the right."""
        videos = self._exhibits[question.portrait].videos
        return videos[question.left].stem, videos[question.right].stem

    def _show(self) -> None:
        """The question that waits, or thanks."""
        question = self.question
        self.panel.layout.display = "none" if question is None else "flex"
        if question is None:
            self.status.value = THANKS
            return
        exhibit = self._exhibits[question.portrait]
        self.photo.value = _png(exhibit)
        self.videos["left"].value = exhibit.videos[question.left].read_bytes()
        self.videos["right"].value = exhibit.videos[question.right].read_bytes()
        self.status.value = f"Question {len(self._asked) - len(self._waiting) + 1} of {len(self._asked)}"

    def _guarded(self, act: Callable[..., None], *arguments: str) -> Callable[[object], None]:
        """What a click does; errors are told where the eyes are, as Jupyter sends them to a log nobody has open."""

        def on_click(_button: object) -> None:
            try:
                act(*arguments)
            except Exception as error:
                self.status.value = f'<span style="color: #c0392b">{html.escape(str(error))}</span>'
                raise

        return on_click


def _require_videos(exhibits: Mapping[str, Exhibit], pairs: Sequence[tuple[str, str]]) -> None:
    needed = {method for pair in pairs for method in pair}
    for portrait, exhibit in exhibits.items():
        missing = sorted(needed - {name for name, path in exhibit.videos.items() if path.is_file()})
        if missing:
            raise ValueError(f"{portrait} has no video of {', '.join(missing)}: make them by blind_video")


def _button(text: str, act: Callable[[object], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=text)
    button.on_click(act)
    return button


def _video(size: int) -> ipywidgets.Video:
    return ipywidgets.Video(format="mp4", width=size, height=size, autoplay=True, loop=True)


def _column(title: str, seen: ipywidgets.Widget, button: ipywidgets.Button) -> ipywidgets.VBox:
    """A title, what is looked at, and the button below it."""
    return ipywidgets.VBox(
        [ipywidgets.HTML(f"<b>{title}</b>"), seen, button],
        layout={"align_items": "center", "margin": "0 8px"},
    )


def _png(exhibit: Exhibit) -> bytes:
    """The photo, enlarged as the frames of videos are."""
    encoded = io.BytesIO()
    Image.fromarray(to_picture(shown(exhibit.photo))).save(encoded, format="png")
    return encoded.getvalue()
