import copy
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lib.generators.discriminators import minibatch_deviation
from lib.training import (
    Phase,
    Processes,
    Schedule,
    fit,
    frozen,
    launch,
    mend_gradients,
    save_whole,
    update_average,
)

# ----------------------------------------------------------------------- schedule


def test_warm_up_is_linear_and_reaches_one():
    schedule = Schedule(steps=1000, warm_up=10, decay_fraction=0.4)
    assert [schedule.factor(step) for step in range(10)] == pytest.approx([0.1 * (i + 1) for i in range(10)])


def test_the_rate_is_constant_until_the_decay():
    schedule = Schedule(steps=1000, warm_up=10, decay_fraction=0.4)
    assert {schedule.factor(step) for step in range(10, 601)} == {1.0}
    assert schedule.factor(610) < 1


def test_the_decay_is_half_a_cosine_to_zero():
    schedule = Schedule(steps=1000, warm_up=10, decay_fraction=0.4)
    assert schedule.factor(700) == pytest.approx((1 + math.sqrt(0.5)) / 2)  # a quarter of the way
    assert schedule.factor(800) == pytest.approx(0.5)
    assert schedule.factor(1000) == pytest.approx(0, abs=1e-12)
    assert 0 < schedule.factor(999) < 1e-4


def test_no_decay_is_a_choice():
    assert Schedule(steps=50, warm_up=1, decay_fraction=0.0).factor(49) == 1


# ----------------------------------------------------------------------- average


class Scalar(nn.Module):
    """One weight and one buffer."""

    def __init__(self, value: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(value))


def test_average_halves_its_distance_in_a_half_life():
    average, model = Scalar(0.0), Scalar(1.0)
    for n in range(1, 31):
        update_average(average, model, step=10_000, half_life=10)
        assert average.weight.item() == pytest.approx(1 - 0.5 ** (n / 10))


@pytest.mark.parametrize(("step", "half_life"), [(0, 1), (20, 1), (100, 5), (4000, 200), (9000, 200)])
def test_half_life_grows_with_the_steps_to_its_limit(step, half_life):
    average = Scalar(0.0)
    update_average(average, Scalar(1.0), step, half_life=200)
    assert average.weight.item() == pytest.approx(1 - 0.5 ** (1 / half_life))


def test_without_a_ramp_the_half_life_is_whole_from_the_start():
    average = Scalar(0.0)
    update_average(average, Scalar(1.0), step=0, half_life=12.5, ramp=None)
    assert average.weight.item() == pytest.approx(1 - 0.5 ** (1 / 12.5))


def test_buffers_of_the_average_are_the_models():
    average = Scalar(0.0)
    update_average(average, Scalar(3.0), step=10_000, half_life=100)
    assert average.seen.item() == 3
    assert average.weight.item() < 0.1


# ----------------------------------------------------------------------- the loop, on a linear model


class Killed(BaseException):
    """Stands for whatever ends a process."""


class Line(nn.Linear):
    """A linear model that counts its steps in a buffer."""

    def __init__(self):
        super().__init__(3, 2)
        self.register_buffer("count", torch.zeros(()))


def step_losses(model: Line, step: int) -> dict[str, Tensor]:
    """Regression on a batch that is drawn from the step's number."""
    rng = torch.Generator().manual_seed(step)
    x = torch.randn(5, 3, generator=rng)
    target = x @ torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])
    model.count += 1
    return {"fit": (model(x) - target).square().mean(), "small": 1e-3 * model.weight.square().sum()}


def killed_at(last: int):
    def losses(model: Line, step: int) -> dict[str, Tensor]:
        if step == last:
            raise Killed
        return step_losses(model, step)

    return losses


def run(folder: Path, losses=step_losses, steps: int = 20, **settings) -> tuple[Line, Line]:
    """The model and the average after training in a folder, as a new process would: from the same start."""
    torch.manual_seed(0)
    model = Line()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.03}]
    schedule = Schedule(steps, warm_up=4, decay_fraction=0.5)
    settings = {"checkpoint_every": 6, "log_every": 2, "average_half_life": 5} | settings
    phase = Phase(lambda step: losses(model, step), torch.optim.Adam(groups))
    average = fit(model, [phase], schedule, folder, **settings)
    return model, average


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_the_loss_falls(tmp_path):
    run(tmp_path, steps=150, log_every=10)
    assert rows(tmp_path)[-1]["fit"] < 0.1 * rows(tmp_path)[0]["fit"]


@pytest.mark.parametrize("last", [3, 6, 15, 19])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, last):
    model, average = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_at(last))
    resumed, resumed_average = run(tmp_path / "killed")
    assert same(resumed, model)
    assert same(resumed_average, average)
    assert not same(average, model)


def test_a_finished_run_is_returned_without_a_step(tmp_path):
    _, average = run(tmp_path)
    again, again_average = run(tmp_path, killed_at(0))
    assert same(again_average, average)
    assert again.count == 20


def test_every_group_keeps_its_own_rate_times_the_factor(tmp_path):
    """The first step of Adam is the rate, for every parameter: here a quarter of it, by the warm-up."""
    torch.manual_seed(0)
    start = Line()
    model, _ = run(tmp_path, steps=1)
    factor = Schedule(1, warm_up=4, decay_fraction=0.5).factor(0)
    assert (model.weight - start.weight).abs().detach() == pytest.approx(0.1 * factor, rel=1e-4)
    assert (model.bias - start.bias).abs().detach() == pytest.approx(0.03 * factor, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_checkpoint(tmp_path, bad):
    def broken(model: Line, step: int) -> dict[str, Tensor]:
        losses = step_losses(model, step)
        return losses if step < 8 else losses | {"broken": bad * model.weight.sum()}

    with pytest.raises(FloatingPointError, match=r"at step 8: .*'broken'"):
        run(tmp_path, broken)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 6
    assert all(value.isfinite().all() for value in state["model"].values())
    assert same(run(tmp_path)[0], run(tmp_path / "whole")[0])  # mended, it goes on


def test_checkpoints_hand_out_the_average_on_time_and_at_the_end(tmp_path):
    seen = []
    _, average = run(tmp_path, on_checkpoint=lambda model, step: seen.append((step, copy.deepcopy(model))))
    assert [step for step, _ in seen] == [6, 12, 18, 20]
    assert same(seen[-1][1], average)
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_a_checkpoint_that_was_interrupted_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_whole({"step": 1}, path)

    def half(state, file):
        Path(file).write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        save_whole({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


# ----------------------------------------------------------------------- log


def test_log_rows_are_means_over_their_steps(tmp_path):
    """Losses that are known: twice and three times the step's number."""

    def known(model: Line, step: int) -> dict[str, Tensor]:
        zero = 0 * model.weight.sum()
        return {"two": 2.0 * step + zero, "three": 3.0 * step + zero}

    run(tmp_path, known, steps=11, log_every=4)
    table = rows(tmp_path)
    assert [row["step"] for row in table] == [4, 8, 11]
    assert [row["two"] for row in table] == [3.0, 11.0, 18.0]  # 2 * mean(0..3), (4..7), (8..10)
    assert [row["three"] for row in table] == [4.5, 16.5, 27.0]
    schedule = Schedule(11, warm_up=4, decay_fraction=0.5)
    assert [row["rate"] for row in table] == [schedule.factor(step) for step in (3, 7, 10)]
    seconds = [row["seconds"] for row in table]
    assert seconds == sorted(seconds)


def test_a_resumed_log_has_every_step_once(tmp_path):
    """Killed after step 9 and the row of step 8; the checkpoint is that of step 6."""
    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_at(9))
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 10, "sec')  # torn
    run(tmp_path / "killed")
    timeless = [[row | {"seconds": 0} for row in rows(tmp_path / name)] for name in ("whole", "killed")]
    assert timeless[0] == timeless[1]
    assert [row["step"] for row in timeless[1]] == list(range(2, 21, 2))


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(5))
    run(tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == list(range(2, 21, 2))


def test_a_row_that_was_begun_before_the_checkpoint_is_finished_after_it(tmp_path):
    """Checkpoints every 6 steps, rows every 4: the row of step 8 has two steps from before."""
    settings = {"log_every": 4, "checkpoint_every": 6, "steps": 8}
    run(tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_at(7), **settings)
    run(tmp_path / "killed", **settings)
    last = [rows(tmp_path / name)[-1] | {"seconds": 0} for name in ("whole", "killed")]
    assert last[0] == last[1]


# ----------------------------------------------------------------------- phases


class Pair(nn.Module):
    """Two players of one weight each."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)


def pair_phases(pair: Pair, seen: list) -> list[Phase]:
    """The one is pulled up, and down at every third step; the other is pulled to the one, from step 2 on."""
    up, follow = torch.optim.SGD(pair.one.parameters(), 1.0), torch.optim.SGD(pair.other.parameters(), 0.5)

    def losses(name: str, value) -> dict[str, Tensor]:
        seen.append((name, pair.one.weight.requires_grad, pair.other.weight.requires_grad))
        return {name: value, f"{name}_seen": torch.tensor(2.0)}

    def distance() -> Tensor:
        return (pair.other.weight - pair.one.weight).square().sum() / 2

    return [
        Phase(lambda step: losses("up", -pair.one.weight.sum()), up),
        Phase(lambda step: losses("down", 10 * pair.one.weight.sum()), up, every=3),
        Phase(lambda step: losses("follow", distance()), follow, first=2),
    ]


def run_pair(folder: Path, steps: int) -> tuple[Pair, list]:
    pair, seen = Pair(), []
    with torch.no_grad():
        pair.one.weight.zero_()
        pair.other.weight.zero_()
    fit(pair, pair_phases(pair, seen), Schedule(steps, 1, 0.0), folder, averaged=pair.other, log_every=4)
    return pair, seen


def test_phases_are_taken_in_order_when_they_are_due(tmp_path):
    pair, seen = run_pair(tmp_path, 4)
    names = [name for name, *_ in seen]
    assert names == ["up", "down", "up", "up", "follow", "up", "down", "follow"]
    # after the steps: -9, -8, -7 (the other: -3.5), -16 (the other: -3.5 + (-16 + 3.5) / 2)
    assert pair.one.weight.item() == -16
    assert pair.other.weight.item() == -9.75


def test_parameters_of_other_optimisers_are_frozen_during_a_phase(tmp_path):
    pair, seen = run_pair(tmp_path, 4)
    assert {tuple(flags) for name, *flags in seen if name != "follow"} == {(True, False)}
    assert {tuple(flags) for name, *flags in seen if name == "follow"} == {(False, True)}
    assert all(parameter.requires_grad for parameter in pair.parameters())


def test_values_of_rare_phases_are_means_over_their_own_steps(tmp_path):
    run_pair(tmp_path, 4)
    (row,) = rows(tmp_path)
    assert row["up"] == pytest.approx((0 + 9 + 8 + 7) / 4)
    assert row["down"] == pytest.approx(10 * (1 - 6) / 2)
    assert row["follow_seen"] == 2


def test_the_average_may_be_of_a_part(tmp_path):
    pair, _ = run_pair(tmp_path, 4)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(state["average"]) == {"weight"}
    assert state["average"]["weight"].item() > pair.other.weight.item()


def test_a_checkpoint_of_another_kind_of_run_is_refused(tmp_path):
    run(tmp_path, steps=2)
    with pytest.raises(ValueError, match="of a run with other optimisers than these 2: move its folder"):
        run_pair(tmp_path, 4)


def test_frozen_restores_what_was_free_and_leaves_what_was_not():
    free, fixed = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)
    with pytest.raises(Killed), frozen([free, fixed]):
        assert not free.requires_grad
        raise Killed
    assert free.requires_grad
    assert not fixed.requires_grad


def test_mended_gradients_are_finite():
    parameter, without = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([math.nan, math.inf, -math.inf, 3.0])
    mend_gradients([parameter, without])
    assert parameter.grad.tolist() == [0, 1e5, -1e5, 3]


# ----------------------------------------------------------------------- processes


def processes(rank: int, count: int) -> Processes:
    some = Processes()
    some.rank, some.count = rank, count
    return some


def test_shares_are_a_partition_in_strides():
    shares = [processes(rank, 3).share(list(range(6))) for rank in range(3)]
    assert shares == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ValueError, match="a batch of 7 cannot be shared evenly by 3 processes"):
        processes(0, 3).share(list(range(7)))


def test_groups_of_the_minibatch_deviation_survive_sharing():
    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = minibatch_deviation(x, 4)
    for rank in range(2):
        share = processes(rank, 2).share
        assert torch.allclose(minibatch_deviation(share(x), 4), share(whole))


def test_alone_means_are_what_they_are_of():
    value = torch.randn(3)
    assert Processes().mean(value) is value


def test_one_device_starts_no_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # importing it would fail
    seen = []
    launch(lambda *arguments, processes: seen.append((arguments, processes.count)), 1, "a", device="cpu")
    assert seen == [((1, "a"), 1)]
