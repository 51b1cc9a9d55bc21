"""The protocol: a row for everything that can be measured, and nothing lost or computed twice on the way."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from lib import assets, paths
from lib.evaluation import (
    COLUMNS,
    MEASURES,
    Measure,
    Method,
    evaluate,
    inversion_cache,
    protocol,
    read_table,
    summarise,
    write_table,
)
from lib.generators import EG3D
from tests import tiny_scenes
from tests.tiny_generator import tiny_generator
from tests.tiny_scenes import calls, tiny_scene

METRICS = ("mse", "psnr")


@pytest.fixture(scope="module")
def generator() -> EG3D:
    return tiny_generator()


@pytest.fixture(scope="module")
def scenes(generator):
    return [tiny_scene(generator, seed) for seed in (1, 2)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def run(generator, scenes, tmp_path):
    def run(*methods, scenes=scenes, metrics=METRICS, **options):
        return evaluate(methods, scenes, generator, folder=tmp_path / "rows", metrics=metrics, **options)

    return run


def guess(name="guess", **settings):
    return Method(name, tiny_scenes.guess, settings)


# ---- what a table holds -----------------------------------------------------------------------------------


def test_a_row_for_each_method_scene_view_and_metric(run):
    table = run(guess(), Method("mean", tiny_scenes.another_guess))
    assert table.dtypes.to_dict() == pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS).dtypes.to_dict()
    assert len(table) == 2 * 2 * 2 * 2
    assert not table.duplicated(["method", "scene", "view", "metric"]).any()
    assert set(table["view"]) == {"yaw+0.0", "yaw+0.3"}  # the path for video is to be looked at
    assert (table["is_input"] == (table["view"] == "yaw+0.0")).all()
    assert table.loc[table["view"] == "yaw+0.3", "yaw"].to_numpy() == pytest.approx(0.3, abs=1e-6)
    assert (table["scene_kind"] == "tiny").all()
    assert (table["split"] == "").all()
    assert (table["seconds"] > 0).all()
    assert table["value"].notna().all()
    assert (table["failure"] == "").all()
    assert table["fraction"].isna().all()  # a plan knows it


def test_the_split_of_a_scene_is_told(run, scenes):
    development = dataclasses.replace(scenes[0], extras=dict(scenes[0].extras) | {"split": "development"})
    run(guess(), scenes=scenes[:1])  # the same rows but for the split must not be taken for these
    assert (run(guess(), scenes=[development])["split"] == "development").all()


def value(table, **where):
    chosen = np.logical_and.reduce([table[column] == wanted for column, wanted in where.items()])
    (found,) = table.loc[chosen, "value"]
    return found


def test_values_are_those_of_the_pictures(run, generator, scenes):
    table = run(guess(head_seed=7), scenes=scenes[:1], views=["ellipse00"])
    for name in ("yaw+0.0", "ellipse00"):
        view = scenes[0].views[name]
        shown = tiny_scenes.head(generator, 7, scenes[0].input.camera).render(view.camera).image.clamp(-1, 1)
        error = (shown - view.image).square().mean().item()
        assert value(table, view=name, metric="mse") == pytest.approx(error, rel=1e-5)
        assert value(table, view=name, metric="psnr") == pytest.approx(10 * np.log10(4 / error), rel=1e-5)


def test_the_head_itself_is_without_error(run, scenes):
    table = run(guess(head_seed=scenes[0].extras["seed"]), scenes=scenes[:1], metrics=["mse"])
    assert (table["value"] < 1e-10).all()


def test_what_a_scene_does_not_know_is_not_measured(run, scenes):
    views = {
        name: dataclasses.replace(view, depth=view.depth if name == "yaw+0.0" else None)
        for name, view in scenes[0].views.items()
    }
    scene = dataclasses.replace(scenes[0], views=views)
    table = run(guess(), scenes=[scene], metrics=["mse", "mean_depth_error", "painted_error"])
    assert set(table.loc[table["metric"] == "mean_depth_error", "view"]) == {"yaw+0.0"}
    assert set(table.loc[table["metric"] == "mse", "view"]) == {"yaw+0.0", "yaw+0.3"}
    assert set(table["metric"]) == {"mse", "mean_depth_error"}


def test_made_up_pixels_do_not_count(run, scenes):
    """mse is the mean over the known pixels, whatever stands in the others."""
    known = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    known[..., :9] = True

    def scene(made_up):
        views = {
            name: dataclasses.replace(view, image=view.image.where(known, made_up), known=known)
            for name, view in scenes[0].views.items()
            if name != scenes[0].input_name
        }
        return dataclasses.replace(
            scenes[0], views=dict(scenes[0].views) | views, name=f"made up {made_up.item()}"
        )

    dark, light = (scene(torch.tensor(colour)) for colour in (-1.0, 1.0))
    full, first, second = (
        run(guess(), scenes=[one], metrics=["mse", "ssim"]) for one in (scenes[0], dark, light)
    )
    view = scenes[0].views["yaw+0.3"]
    shown = tiny_scenes.head(tiny_generator(), 0, view.camera).render().image.clamp(-1, 1)
    by_hand = (shown - view.image)[known.expand_as(shown)].square().mean().item()
    assert value(first, view="yaw+0.3", metric="mse") == pytest.approx(by_hand, rel=1e-5)
    assert value(second, view="yaw+0.3", metric="mse") == pytest.approx(by_hand, rel=1e-5)
    assert value(full, view="yaw+0.3", metric="mse") != pytest.approx(by_hand, rel=1e-2)


def test_same_arguments_give_same_values(run, tmp_path, cache):
    first = run(guess())
    shutil.rmtree(tmp_path / "rows")
    shutil.rmtree(cache)
    pd.testing.assert_series_equal(run(guess())["value"], first["value"])
    assert not run(guess(), seed=1)["value"].equals(first["value"])


# ---- failures ---------------------------------------------------------------------------------------------


def test_a_method_that_fails_does_not_stop_the_others(run):
    table = run(Method("failing", tiny_scenes.failing), guess())
    failed, fine = table[table["method"] == "failing"], table[table["method"] == "guess"]
    assert len(failed) == len(fine)
    assert failed["value"].isna().all()
    assert failed["seconds"].isna().all()
    assert (failed["failure"] == "RuntimeError: no head in this picture").all()
    assert fine["value"].notna().all()


def test_failures_are_done_again_only_on_demand(run, log, tmp_path):
    needed = tmp_path / "needed"
    method = Method("failing", tiny_scenes.failing, {"log": str(log), "needed": str(needed)})
    run(method)
    needed.touch()
    assert run(method)["value"].isna().all()
    assert run(method, retry=True)["value"].notna().all()
    assert calls(log) == 4


def test_failures_are_done_again_on_demand_where_nothing_is_measured(run, log, tmp_path):
    needed = tmp_path / "needed"
    method = Method("failing", tiny_scenes.failing, {"log": str(log), "needed": str(needed)})
    for _ in range(2):
        assert run(method, metrics=[]).empty
    assert calls(log) == 2
    needed.touch()
    assert run(method, metrics=[], retry=True).empty
    assert calls(log) == 4
    assert run(method)["value"].notna().all()


def infinite(seen):
    return float("inf")


def test_infinity_is_no_value_and_stops_no_summary(run, generator, monkeypatch):
    monkeypatch.setitem(MEASURES, "infinite", Measure("infinite", infinite))
    scenes = [tiny_scene(generator, seed) for seed in (1, 2, 3)]
    table = run(guess(), scenes=scenes, metrics=["infinite", "mse"])
    infinite_rows = table[table["metric"] == "infinite"]
    assert infinite_rows["value"].isna().all()
    assert set(infinite_rows["failure"]) == {"infinite is infinite here"}
    missing = summarise(table, by=["metric"]).set_index("metric")["missing"].to_dict()
    assert missing == {"infinite": 3, "mse": 0}


def without_memory(seen):
    raise MemoryError


def test_what_the_machine_lacks_is_no_failure_of_a_metric(run, monkeypatch, tmp_path):
    monkeypatch.setitem(MEASURES, "mae", Measure("mae", without_memory))
    with pytest.raises(MemoryError):
        run(guess(), metrics=["mae"])
    assert not list((tmp_path / "rows").glob("*.parquet"))


def broken(seen):
    raise ZeroDivisionError("no such thing")


def no_face(seen):
    return float("nan")


def test_a_metric_that_fails_does_not_stop_the_others(run, monkeypatch):
    monkeypatch.setitem(MEASURES, "broken", Measure("broken", broken))
    monkeypatch.setitem(MEASURES, "no_face", Measure("no_face", no_face))
    table = run(guess(), metrics=["broken", "no_face", "mse"])
    failures = table.groupby("metric")["failure"].agg(set).to_dict()
    assert failures["broken"] == {"ZeroDivisionError: no such thing"}
    assert failures["no_face"] == {"no_face has no value here"}
    assert failures["mse"] == {""}
    assert (table["value"].isna() == (table["failure"] != "")).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["msse"]}, "no metric is called msse"),
        ({"views": ["yaw+0.6"]}, "has no view yaw\\+0.6; its views: yaw\\+0.0"),
        ({"jobs": 0}, "1 or more"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(run, log, options, message):
    with pytest.raises(ValueError, match=message):
        run(guess(log=str(log)), **options)
    assert calls(log) == 0


def test_methods_and_scenes_have_names_of_their_own(run, scenes):
    with pytest.raises(ValueError, match="methods are told apart by name"):
        run(guess(), guess(head_seed=1))
    with pytest.raises(ValueError, match="scenes are told apart by name"):
        run(guess(), scenes=[scenes[0], scenes[0]])


# ---- resuming ---------------------------------------------------------------------------------------------


def test_interrupted_run_goes_on_where_it_was(run, log, tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    later = Method(
        "interrupted", tiny_scenes.interrupted, {"log": str(tmp_path / "other"), "stop": str(stop)}
    )
    with pytest.raises(KeyboardInterrupt):
        run(guess(log=str(log)), later)
    stop.unlink()
    table = run(guess(log=str(log)), later)
    assert calls(log) == 2  # one for each scene
    assert calls(tmp_path / "other") == 3
    assert len(table) == 2 * 2 * 2 * 2


def test_finished_rows_are_read_and_not_measured_again(run, cache, log):
    first = run(guess(log=str(log)))
    shutil.rmtree(cache)
    pd.testing.assert_frame_equal(run(guess(log=str(log))), first)
    assert calls(log) == 2


def test_other_truth_is_measured_anew_on_the_same_inversion(run, scenes, log):
    before = run(guess(log=str(log)), scenes=scenes[:1])
    views = dict(scenes[0].views)
    views["yaw+0.3"] = dataclasses.replace(views["yaw+0.3"], image=torch.ones(1, 3, 16, 16))
    after = run(guess(log=str(log)), scenes=[dataclasses.replace(scenes[0], views=views)])
    where = {"view": "yaw+0.3", "metric": "mse"}
    assert value(after, **where) != pytest.approx(value(before, **where), rel=0.01)
    assert calls(log) == 1


def other_files(manifest):
    """A manifest in which the identity network has other weights."""
    asset = manifest["identity"]
    files = tuple(dataclasses.replace(member, sha256=64 * "0") for member in asset.files)
    return dict(manifest) | {"identity": dataclasses.replace(asset, files=files)}


def test_how_something_is_measured_is_part_of_what_its_rows_are_kept_under(monkeypatch):
    measure = Measure("identity", no_face, assets=("identity",))
    variants = [
        {},
        {"of": broken},
        {"needs": ("depth",)},
        {"truth": "painted/{view}"},
        {"whole_head": True},
        {"assets": ()},
    ]
    digests = {protocol.measure_digest(dataclasses.replace(measure, **change)) for change in variants}
    assert len(digests) == len(variants)
    assert protocol.measure_digest(dataclasses.replace(measure, name="other")) in digests
    manifest = other_files(assets.manifest())
    monkeypatch.setattr(inversion_cache, "_manifest", lambda: manifest)
    assert protocol.measure_digest(measure) not in digests


def test_other_metrics_use_the_same_inversions(run, log):
    run(guess(log=str(log)), metrics=["mse"])
    table = run(guess(log=str(log)), metrics=["mse", "mae"])
    assert set(table["metric"]) == {"mse", "mae"}
    assert calls(log) == 2


def test_trials_are_not_asked_for_long_before_they_are_begun(scenes, generator, tmp_path):
    """So that scenes are rendered as they are needed, and a run that stops has finished how the list begins."""
    asked = []

    def trials():
        for scene in scenes:
            asked.append(scene.name)
            yield protocol.Trial(
                method=guess(),
                scene=scene,
                generator=generator,
                views=protocol.views_measured(scene),
                measures=(MEASURES["mse"],),
                folder=tmp_path / "rows",
                base=None,
                seed=0,
                retry=False,
            )

    for trial, rows in protocol.evaluated(trials()):
        assert asked[-1] == trial.scene.name == rows["scene"].iloc[0]
    assert asked == [scene.name for scene in scenes]


def test_a_scene_of_one_view_has_no_rows_but_of_that_view(run, scenes):
    alone = dataclasses.replace(scenes[0], views={scenes[0].input_name: scenes[0].input}, name="photo")
    table = run(guess(), scenes=[alone], metrics=["mse", "mean_depth_error", "consistency_psnr"])
    assert table["is_input"].all()
    assert set(table["metric"]) == {"mse", "mean_depth_error", "consistency_psnr"}
    assert len(summarise(table)) == 3


def test_several_processes_give_the_same_table(run, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("EG3D_STUDY_CACHE", str(tmp_path / "other cache"))
    there = run(guess(), scenes=scenes, metrics=["mse"], jobs=2)
    shutil.rmtree(tmp_path / "rows")
    here = run(guess(), scenes=scenes, metrics=["mse"])
    measured = ["seconds", "peak_memory_mb"]
    pd.testing.assert_frame_equal(there.drop(columns=measured), here.drop(columns=measured))
    assert list((tmp_path / "other cache" / "inversions").glob("*.safetensors"))


# ---- tables -----------------------------------------------------------------------------------------------


def test_parquet_keeps_a_table_as_it_is(run, tmp_path):
    table = run(guess(), Method("failing", tiny_scenes.failing))
    pd.testing.assert_frame_equal(read_table(write_table(table, tmp_path / "table.parquet")), table)


def test_empty_table_has_its_columns(run, tmp_path):
    table = run(guess(), metrics=[])
    assert table.empty
    pd.testing.assert_frame_equal(read_table(write_table(table, tmp_path / "table.parquet")), table)


def test_other_files_are_no_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="makes tables"):
        read_table(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="expected the columns method, scene"):
        read_table(tmp_path / "other.parquet")


def made_up(values):
    """A table of one method and metric: for each scene its values in the input view and one other."""
    rows = [
        (
            "w",
            f"s{i}",
            "tiny",
            "test",
            f"v{j}",
            0.3 * j,
            j == 0,
            "mse",
            value,
            1.0,
            10.0,
            "" if value == value else "why",
            0.3,
        )
        for i, of_scene in enumerate(values)
        for j, value in enumerate(of_scene)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def test_a_scene_counts_once_however_many_views_it_has():
    table = made_up([(0.0, 1.0, 2.0), (4.0,), (5.0,), (6.0, np.nan)])
    (row,) = summarise(table, by=["method", "metric"]).to_dict("records")
    assert row["mean"] == pytest.approx((1 + 4 + 5 + 6) / 4)
    assert (row["n"], row["missing"]) == (4, 0)
    assert row["low"] < row["mean"] < row["high"]


def test_input_and_other_views_are_summarised_apart():
    means = summarise(made_up([(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]))
    assert dict(zip(means["is_input"], means["mean"], strict=True)) == {True: 0.0, False: 2.0}


def test_scenes_without_a_value_are_counted_and_few_have_no_interval():
    (row,) = summarise(made_up([(1.0,), (3.0,), (np.nan,)]), by=["method"]).to_dict("records")
    assert (row["mean"], row["n"], row["missing"]) == (2.0, 2, 1)
    assert np.isnan(row["low"])
    (row,) = summarise(made_up([(np.nan,)]), by=["method"]).to_dict("records")
    assert np.isnan(row["mean"])


def test_summaries_are_by_columns_that_exist():
    with pytest.raises(ValueError, match="no column kind"):
        summarise(made_up([(1.0,)]), by=["kind"])
