"""The two loops of all methods: `search` moves a latent code, `tune` moves the weights of a generator.

A method says what a step minimises; the loops take the steps, keep their history, go on where a killed run left
off, and stop what diverges.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from lib.generators import EG3D
from lib.paths import replacing

History = dict[str, list[float]]
"""One list of numbers for each quantity, an entry a step."""


class Terms(NamedTuple):
    """What a step minimises, for each of B pictures."""

    image: Tensor  # [B, 3, R, R], the view from the input's camera
    losses: dict[str, Tensor]  # [B] each, unweighted
    total: Tensor  # [B], their weighted sum


@dataclass(frozen=True)
class State:
    """What a callback sees of a step, before the update: code, generator, their picture, the terms of the loss.

    The generator is the one that is being tuned, where one is: it changes with the next step.
    """

    w_plus: Tensor
    generator: EG3D
    image: Tensor
    losses: dict[str, float]


Callback = Callable[[int, State], None]


@dataclass(frozen=True)
class Checkpoints:
    """A folder for the state of a run, written after every so many steps and at the end of each stage.

    The same call with the same folder goes on from there and ends with the same result, bit for bit on the same
    machine. What is done with the folder when the run is over is the caller's.
    """

    folder: Path
    every: int = 50

    def __post_init__(self) -> None:
        require_steps(every=self.every)


class Diverged(FloatingPointError):
    """A loss that is no number any more; which, and when, is in the message."""

    def __init__(self, stage: str, step: int, losses: Mapping[str, float]):
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        term = next((name for name in wrong if name != "loss"), "loss")
        super().__init__(
            f"{stage} diverged at step {step}: {term} is {losses[term]}. Try a smaller learning_rate; "
            f"all terms: {dict(losses)}"
        )
        self.stage, self.step, self.term = stage, step, term

    def __reduce__(self) -> tuple:
        return _diverged_again, (self.args[0], self.stage, self.step, self.term)


def _diverged_again(message: str, stage: str, step: int, term: str) -> Diverged:
    """A `Diverged` as another process had it."""
    error = Diverged.__new__(Diverged, message)
    error.args = (message,)
    error.stage, error.step, error.term = stage, step, term
    return error


def require_steps(**counts: int) -> None:
    """An error where a number of steps is none."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more; got {count}")


# ----------------------------------------------------------------------- a stage: history, checkpoints, divergence
class Stage:
    """The steps of one stage: `for step in stage`, in each of them `stage.note(terms)`.

    changing: the tensors that steps change, in place. about: what else the result depends on, of which a
    checkpoint must be. histories: one for each of the pictures that are inverted together; failures: why one has
    no result, at its place.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        *,
        changing: Mapping[str, Tensor],
        optimiser: torch.optim.Optimizer,
        rngs: Sequence[torch.Generator],
        about: Mapping[str, Any],
        checkpoints: Checkpoints | None,
        progress: bool,
        pictures: int = 1,
    ):
        require_steps(**{f"steps of {name}": steps})
        self.name, self.steps, self.progress = name, steps, progress
        self.changing, self.optimiser, self.rngs = changing, optimiser, rngs
        self.histories: list[History] = [{} for _ in range(pictures)]
        self.failures: list[Diverged | None] = [None] * pictures
        self.done = 0
        self.checkpoints = checkpoints
        self.identity = "" if checkpoints is None else digest(name, steps, changing, about)

    def __iter__(self) -> Iterator[int]:
        """The numbers of the steps that are left, and checkpoints between them."""
        over = self._resume()
        bar = tqdm(
            range(self.done, self.done if over else self.steps),
            initial=self.done,
            total=self.steps,
            desc=self.name,
            disable=not self.progress,
        )
        for step in bar:
            yield step
            self.done = step + 1
            if self.checkpoints is not None and self.done % self.checkpoints.every == 0:
                self._save(over=False)
        self.finish()

    def finish(self) -> None:
        """The stage is over, perhaps before its last step."""
        if self.checkpoints is not None:
            self._save(over=True)

    def note(self, step: int, terms: Terms, **numbers: float) -> list[dict[str, float]]:
        """Add a step's losses to the histories and return them, as numbers, for each picture.

        A single picture whose loss is no number raises `Diverged`; one among several is given up (see `lost`).
        """
        columns = {"loss": terms.total, **terms.losses}
        columns = {name: value.detach().double().reshape(-1).tolist() for name, value in columns.items()}
        found = []
        for picture, history in enumerate(self.histories):
            values = {name: column[picture] for name, column in columns.items()} | numbers
            found.append(values)
            if self.failures[picture] is None and not all(map(math.isfinite, values.values())):
                self.failures[picture] = Diverged(self.name, step, values)
                if len(self.histories) == 1:
                    raise self.failures[picture]
            for name, value in values.items():
                history.setdefault(name, []).append(value)
        return found

    @property
    def lost(self) -> list[int]:
        """Places of pictures that were given up."""
        return [place for place, failure in enumerate(self.failures) if failure is not None]

    @property
    def _file(self) -> Path:
        return Path(self.checkpoints.folder) / f"{self.name.replace(' ', '_')}.pt"

    def _save(self, *, over: bool) -> None:
        state = {
            "identity": self.identity,
            "over": over,
            "step": self.done,
            "changing": {name: value.detach() for name, value in self.changing.items()},
            "optimiser": self.optimiser.state_dict(),
            "rngs": [rng.get_state() for rng in self.rngs],
            "histories": self.histories,
            "failures": [
                failure and [*failure.args, failure.step, failure.term] for failure in self.failures
            ],
        }
        with replacing(self._file) as temporary:
            torch.save(state, temporary)

    @torch.no_grad()
    def _resume(self) -> bool:
        """Take up the checkpoint, where there is one; says whether the stage was over."""
        if self.checkpoints is None or not self._file.is_file():
            return False
        try:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch names no class for what a damaged or malicious file may raise
            raise ValueError(
                f"{self._file} is no checkpoint that can be read: remove it, and the stage starts anew ({error})"
            ) from error
        if not isinstance(state, dict):
            raise ValueError(f"{self._file} is no checkpoint: remove it, and the stage starts anew")
        if state.get("identity") != self.identity:
            raise ValueError(
                f"{self._file} is of another run: other settings, weights or picture than those given now. "
                "Give another folder, or remove this one"
            )
        for name, value in self.changing.items():
            value.copy_(state["changing"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.set_state(saved)
        self.histories, self.done = state["histories"], state["step"]
        self.failures = [
            failure and _diverged_again(failure[0], self.name, *failure[1:]) for failure in state["failures"]
        ]
        return state["over"]


def digest(*things: Any) -> str:
    """SHA-256 of tensors, mappings and plain values."""
    found = hashlib.sha256()
    for thing in things:
        if isinstance(thing, Mapping):
            found.update(digest(*(part for pair in sorted(thing.items()) for part in pair)).encode())
        elif isinstance(thing, Tensor):
            array = thing.detach().cpu().contiguous().numpy()
            found.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
        else:
            found.update(f"{thing!r};".encode())
    return found.hexdigest()


NOT_SETTINGS = frozenset(
    {"target", "targets", "camera", "cameras", "initial", "progress", "callback", "checkpoints"}
)
"""Arguments of methods that are noted in their checked form, or that do not count for a result."""


def plain_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a method those that a checkpoint must be of: tensors, numbers, words and lists of such."""
    return {
        name: value
        for name, value in arguments.items()
        if name not in NOT_SETTINGS
        and isinstance(value, Tensor | bool | int | float | str | tuple | list | Mapping | None)
    }


@contextmanager
def memory_advice(generator: EG3D) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(
            f"out of memory while inverting with {generator.neural_resolution} rays a side: invert fewer pictures "
            "at once, set early='half_rays' with early_until=1.0, lpips_net='alex', or a smaller "
            f"lpips_resolution ({error})"
        ) from error


# ----------------------------------------------------------------------- cheaper pictures for the first steps
Early = Literal["full", "half_rays", "coarse"]


def early_sampling(generator: EG3D, early: Early, until: float, t: float) -> dict[str, Any]:
    """Options of rendering at progress t in [0, 1]: cheaper ones before `until`, then the generator's own.

    half_rays: half as many rays along a side. coarse: no second, finer samples along rays.
    """
    if early not in ("full", "half_rays", "coarse"):
        raise ValueError(f"early is full, half_rays or coarse; got {early!r}")
    if not 0 <= until <= 1:
        raise ValueError(f"early_until is a share of the steps, from 0 to 1; got {until}")
    if early == "full" or t >= until:
        return {}
    if early == "half_rays":
        return {"neural_resolution": generator.neural_resolution // 2}
    return {"settings": replace(generator.config.rendering, depth_resolution_importance=0)}


# ----------------------------------------------------------------------- the latent code
@dataclass(frozen=True)
class Found:
    """What `search` found for each of B pictures; failures has at its place why one has no result."""

    w: Tensor  # [B, 1 or n_layers, w_dim]
    histories: list[History]
    failures: list[Diverged | None]


def search(
    start: Tensor,
    terms: Callable[[Tensor, int], Terms],
    generator: EG3D,
    *,
    name: str,
    steps: int,
    learning_rate: float,
    shake: float,
    rngs: Sequence[torch.Generator],
    wait: int = 0,
    noises: Sequence[Tensor] = (),
    after_step: Callable[[], None] = lambda: None,
    groups: Iterable[dict[str, Any]] = (),
    ramp: Callable[[float], float] | None = None,
    about: Mapping[str, Any],
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Found:
    """Move codes [B, 1 or n_layers, w_dim] from `start` so that `terms(w_plus, step).total` gets small.

    The projector of StyleGAN2-ADA (Karras et al., 2020): the code is shaken by `shake` while the learning rate is
    high. rngs: one for each picture, so that a batch takes the same steps as its pictures by themselves. wait:
    first steps in which the code stands still and only `groups` move, parameter groups of Adam with their own rates,
    which settle to 0 in the end. noises: noise maps that are moved along. after_step: called when an update is made.
    ramp: the factor on the learning rate at progress t in [0, 1], `learning_rate_ramp` if None.
    """
    w = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([{"params": [w, *noises], "lr": learning_rate}, *groups], lr=learning_rate)
    changing = {"w": w} | {f"noise{i}": noise for i, noise in enumerate(noises)}
    changing |= {
        f"group{g}.{i}": p
        for g, group in enumerate(optimiser.param_groups[1:])
        for i, p in enumerate(group["params"])
    }
    rates = [group["lr"] for group in optimiser.param_groups[1:]]
    ramp = learning_rate_ramp if ramp is None else ramp
    stage = Stage(
        name,
        steps,
        changing=changing,
        optimiser=optimiser,
        rngs=rngs,
        about={**about, "generator": generator.state_dict()},
        checkpoints=checkpoints,
        progress=progress,
        pictures=len(w),
    )
    with memory_advice(generator):
        for step in stage:
            t = max(0.0, (step - wait) / (steps - wait))
            waiting = step < wait
            rate = 0.0 if waiting else learning_rate * ramp(t)
            optimiser.param_groups[0]["lr"] = rate
            for group, base in zip(optimiser.param_groups[1:], rates, strict=True):
                group["lr"] = base * settling(t)
            steps_aside = torch.cat([torch.randn(w[:1].shape, generator=rng) for rng in rngs]).to(w)
            size = 0.0 if waiting else shake * shake_ramp(t)
            w_plus = (w + size * steps_aside).expand(-1, generator.n_layers, -1)
            found = terms(w_plus, step)
            values = stage.note(step, found, learning_rate=rate)
            if callback is not None:
                callback(step, State(w_plus.detach(), generator, found.image.detach(), values[0]))
            optimiser.zero_grad(set_to_none=True)
            found.total.sum().backward()
            with torch.no_grad():
                w[stage.lost] = start[stage.lost].to(w)  # a code that is no number would stay none
                w.grad[stage.lost] = 0
            optimiser.step()
            after_step()
    for place in range(len(w)):
        if stage.failures[place] is None and not torch.isfinite(w[place]).all():
            stage.failures[place] = Diverged(name, steps, _last(stage.histories[place]) | {"code": math.nan})
            if len(w) == 1:
                raise stage.failures[place]
    return Found(w.detach(), stage.histories, stage.failures)


def learning_rate_ramp(t: float, rampup: float = 0.05) -> float:
    """Factor on the learning rate at progress t in [0, 1]: linear up from 0, flat, a cosine down to 0."""
    return settling(t) * min(1.0, t / rampup)


def settling(t: float, rampdown: float = 0.25) -> float:
    """Factor at progress t in [0, 1]: 1, and in the last quarter a cosine down to 0."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / rampdown))


def cosine_decay(t: float) -> float:
    """Factor at progress t in [0, 1]: half a cosine from 1 to 0 (Loshchilov & Hutter, 2017, eq. 5, one cycle)."""
    return 0.5 + 0.5 * math.cos(math.pi * t)


def shake_ramp(t: float, until: float = 0.75) -> float:
    """Factor on the random steps of the code: from 1 to 0 by a square, none from t = `until` on."""
    return max(0.0, 1 - t / until) ** 2


# ----------------------------------------------------------------------- the weights
@dataclass(frozen=True)
class Tuned:
    """What `tune` made of a generator, and the code [1, n_layers, w_dim] that belongs to it."""

    generator: EG3D
    w_plus: Tensor
    history: History
    steps_taken: int


def tune(
    original: EG3D,
    w_plus: Tensor,
    terms: Callable[[EG3D, Tensor, int], Terms],
    *,
    name: str,
    steps: int,
    learning_rate: float,
    latent_rate: float = 0.0,
    rng: torch.Generator,
    stop: Callable[[Mapping[str, float]], bool] = lambda losses: False,
    about: Mapping[str, Any],
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Tuned:
    """Move all weights of a copy of a generator so that `terms(copy, w_plus, step).total` gets small.

    Adam at constant rates (Roich et al., 2022, section 3.2). latent_rate: with which the code moves along with the
    weights; it stands still at 0. stop: asked of the losses before every update; the copy that is returned is the
    one whose losses they are.
    """
    tuned = copy.deepcopy(original).eval().requires_grad_(True)
    code = w_plus.detach().clone().requires_grad_(latent_rate > 0)
    optimiser = torch.optim.Adam(tuned.parameters(), lr=learning_rate)
    if latent_rate > 0:
        optimiser.add_param_group({"params": [code], "lr": latent_rate})
    stage = Stage(
        name,
        steps,
        changing=dict(tuned.named_parameters()) | ({"w_plus": code} if latent_rate > 0 else {}),
        optimiser=optimiser,
        rngs=[rng],
        about={**about, "generator": original.state_dict()},
        checkpoints=checkpoints,
        progress=progress,
    )
    with memory_advice(original):
        for step in stage:
            found = terms(tuned, code, step)
            (losses,) = stage.note(step, found)
            if callback is not None:
                callback(step, State(code.detach(), tuned, found.image.detach(), losses))
            if stop(losses):
                stage.finish()
                break
            optimiser.zero_grad(set_to_none=True)
            found.total.sum().backward()
            optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    _require_finite(stage)
    return Tuned(tuned.requires_grad_(False), code.detach(), stage.histories[0], stage.done)


def _require_finite(stage: Stage) -> None:
    """The last update has no loss after it that would show what it did."""
    for name, value in stage.changing.items():
        if not torch.isfinite(value).all():
            raise Diverged(stage.name, stage.done, _last(stage.histories[0]) | {f"weight {name}": math.nan})


def _last(history: History) -> dict[str, float]:
    return {term: values[-1] for term, values in history.items()}
