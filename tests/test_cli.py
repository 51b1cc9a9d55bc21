"""The command line, on a tiny generator and ready crops: no face has to be found, next to nothing is fetched."""

import dataclasses
import json
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lib import faces, parsing
from lib.cameras import orbit
from lib.generators import save_generator
from lib.images import save_image
from lib.inversion import Checkpoints, Inversion, anatomy, invert_w, objective, pose_opt, posefree, spi
from lib.inversion.__main__ import (
    ENCODERS,
    METHODS,
    SEARCH_STEPS,
    SETTINGS_OF_EXPORTS,
    going_on,
    is_done,
    main,
    read_label,
    replacing_folder,
)
from lib.media import EXPORTS, depth_along_axis, load_depth
from lib.meshes import shape_view
from lib.voxels import load_mrc
from tests.tiny_generator import RandomFeatures, tiny_generator, tiny_posefree

LABEL = orbit(0.2, 0.1).label()[0]
OUTPUTS = [
    "inversion.png",
    "inversion.safetensors",
    "mesh.glb",
    "orbit.mp4",
    "report.json",
    "target.png",
    "views.png",
]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with weights, a crop and its label; all networks but the generator replaced by cheap ones."""
    monkeypatch.setattr(faces, "FaceDetector", lambda: lambda photo: [])
    monkeypatch.setattr(anatomy, "FaceDetector", lambda: None)
    monkeypatch.setattr(anatomy, "detected_faces", lambda pictures, detector: [None])
    monkeypatch.setattr(parsing, "class_probabilities", all_skin)
    monkeypatch.setattr(objective, "LPIPS", lambda net, resolution: Movable())
    for module in (pose_opt, spi):
        monkeypatch.setattr(module, "VGGFeatures", MovableFeatures)
    monkeypatch.setattr(posefree, "face_network", lambda role: MovableFace())
    monkeypatch.chdir(tmp_path)
    generator = tiny_generator()
    save_generator(generator, "tiny.safetensors", dtype=torch.float32)
    save_generator(tiny_posefree(), "tiny-posefree.safetensors", dtype=torch.float32)
    code = generator.map(torch.randn(1, 16, generator=torch.Generator().manual_seed(1)), orbit(0.2, 0.1))
    save_image("crop.png", generator.synthesize(code, orbit(0.2, 0.1)).image)
    (tmp_path / "label.txt").write_text(" ".join(f"{x:.8g}" for x in LABEL.tolist()))
    return tmp_path


class Movable(RandomFeatures):
    def to(self, device):
        return self


class MovableFeatures(Movable):
    def __init__(self, layer: str = ""):
        super().__init__()

    def __call__(self, image):
        return self.target(image)


class MovableFace(Movable):
    def __call__(self, face):
        return F.normalize(self.target(face).mean(dim=(2, 3)), dim=1)


def all_skin(picture: torch.Tensor) -> torch.Tensor:
    """What the parsing network says of a picture that it takes for skin everywhere."""
    found = torch.zeros(len(picture), len(parsing.CLASSES), 32, 32)
    found[:, parsing.CLASSES.index("skin")] = 1
    return found


def arguments(*photos: str, method: str = "w", **options: object) -> list[str]:
    weights = "tiny-posefree.safetensors" if method == "posefree" else "tiny.safetensors"
    given = {"weights": weights, "label": "label.txt", "method": method, "steps": 2} | options
    given = ({"pivot-steps": 2} if method in SEARCH_STEPS else {}) | given
    return [*photos, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ENCODERS])
def test_writes_everything(work, method, capsys):
    assert main(arguments("crop.png", method=method)) == 0
    folder = work / "out" / "crop"
    assert sorted(path.name for path in folder.iterdir()) == OUTPUTS
    report = json.loads((folder / "report.json").read_text())
    assert report["method"] == method and report["seed"] == 0 and report["steps"] == 2
    inversion = Inversion.load(folder / "inversion.safetensors")
    shown = np.asarray(Image.open(folder / "inversion.png"))
    assert shown.shape == (256, 256, 3)
    assert np.asarray(Image.open(folder / "views.png")).shape == (256, 7 * 256, 3)
    image = inversion.render().image.clamp(-1, 1)
    target = torch.from_numpy(np.array(Image.open("crop.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    assert report["errors"]["mse"] == pytest.approx((image - target).square().mean().item(), rel=1e-3)
    assert abs(shown.mean() - (image.mean().item() + 1) * 127.5) < 2
    said = capsys.readouterr()
    assert "mse" in said.out
    assert "crop.png: note: no face is found" in said.err
    assert "crop.png: note: expected a photo; found nearly a single colour" in said.err
    assert "Warning" not in said.err


def test_encodes_for_the_generator_that_an_encoder_was_trained_for(work, capsys):
    crop = Image.open("crop.png").resize((64, 64))
    crop.save("small.png")
    options = ["small.png", "--label", "label.txt", "--method", "goae", "--export", ""]
    assert main(options) == 0
    report = json.loads((work / "out" / "small" / "report.json").read_text())
    assert report["method"] == "goae" and report["steps"] is None
    assert set(report["networks"]) == {"portraits64-goae", "portraits64-goae-alignment"}
    head = Inversion.load(work / "out" / "small" / "inversion.safetensors")
    assert not torch.equal(head.planes(), head.generator.planes(head.w_plus))
    assert main([*options, "--force", "--steps", "5"]) == 1
    assert "--steps belongs to methods that iterate" in capsys.readouterr().err
    assert main([*options, "--force", "--weights", "tiny.safetensors", "--out", "other"]) == 1
    assert "was trained for another generator (portraits64)" in capsys.readouterr().err


def test_a_crop_of_which_nobody_knows_the_camera(work, monkeypatch, capsys):
    options = ["--weights", "tiny-posefree.safetensors", "--method", "posefree", "--steps", "2", "--crop"]
    assert main(["crop.png", *options]) == 0
    report = json.loads((work / "out" / "crop" / "report.json").read_text())
    assert report["crop"] and report["label_sha256"] is None
    assert main(["crop.png", *options, "--label", "label.txt"]) == 1
    assert "--crop is for crops without a camera" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "expected"), [("pti", "portraits64"), ("posefree", "portraits64-posefree")]
)
def test_each_method_has_its_generator(work, monkeypatch, method, expected):
    asked = []

    def refused(name, device):
        asked.append(name)
        raise ValueError("not now")

    monkeypatch.setattr("lib.inversion.__main__.load_generator", refused)
    assert main(["crop.png", "--label", "label.txt", "--method", method]) == 1
    assert asked == [expected]


def test_method_gets_all_that_is_known_of_the_photo(work, monkeypatch):
    given = {}

    def watched(generator, target, camera, **settings):
        given.update(settings)
        return invert_w(generator, target, camera, steps=1, progress=False)

    landmarks = torch.rand(478, 3)
    monkeypatch.setitem(METHODS, "spi", watched)
    monkeypatch.setattr("lib.inversion.__main__.code_version", lambda _: "")
    found = faces.portrait_from_crop
    monkeypatch.setattr(
        "lib.inversion.__main__.portrait_from_crop",
        lambda *settings: dataclasses.replace(found(*settings), landmarks=landmarks),
    )
    assert main([*arguments("crop.png", method="spi"), "--seed", "3"]) == 0
    assert given.pop("masks")["face"].all() and given.pop("landmarks") is landmarks
    assert given.pop("checkpoints").folder.name == ".crop.unfinished"
    assert given == {"seed": 3, "steps": 2, "latent_steps": 2}


def test_skips_what_is_done_and_redoes_it_by_force(work, capsys):
    report = work / "out" / "crop" / "report.json"
    assert main(arguments("crop.png")) == 0
    first = report.stat().st_mtime_ns
    assert main(arguments("crop.png")) == 0
    assert "skipped" in capsys.readouterr().out
    assert report.stat().st_mtime_ns == first
    assert main([*arguments("crop.png"), "--force"]) == 0
    assert report.stat().st_mtime_ns > first
    assert [path.name for path in (work / "out").iterdir()] == ["crop"]


def test_refuses_to_mix_settings_or_replace_what_is_not_its_own(work, capsys):
    assert main(arguments("crop.png")) == 0
    assert main(arguments("crop.png", seed=1)) == 1
    assert "made with another seed" in capsys.readouterr().err
    (work / "mine" / "crop").mkdir(parents=True)
    (work / "mine" / "crop" / "thesis.txt").write_text("years of work")
    assert main([*arguments("crop.png", out="mine"), "--force"]) == 1
    assert "not from here" in capsys.readouterr().err
    assert (work / "mine" / "crop" / "thesis.txt").read_text() == "years of work"


def test_other_weights_of_the_same_name_are_another_generator(work, capsys):
    assert main(arguments("crop.png")) == 0
    generator = tiny_generator()
    generator.decoder.net[2].bias[0] += 1e-3
    save_generator(generator, "tiny.safetensors", dtype=torch.float32)
    assert main(arguments("crop.png")) == 1
    assert "made with another generator_sha256" in capsys.readouterr().err


def test_a_folder_that_takes_no_files_is_said_before_any_photo(work, monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "w", None)  # which cannot be called
    (work / "taken").write_text("a file")
    for out in ("taken", "taken/deeper"):
        assert main(arguments("crop.png", out=out)) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: cannot write to --out {out}: ") and said.count("\n") == 1


def test_one_bad_photo_does_not_stop_the_others(work, capsys):
    (work / "text.jpg").write_text("no picture")
    assert main(arguments("text.jpg", "absent.jpg", "crop.png")) == 1
    said = capsys.readouterr()
    assert "text.jpg: error: text.jpg is not a picture" in said.err
    assert "absent.jpg: error: there is no file absent.jpg" in said.err
    assert "2 of 3 photos failed" in said.err
    assert "Traceback" not in said.err
    assert sorted(path.name for path in (work / "out").iterdir()) == ["crop"]


def test_a_failure_leaves_nothing_half_written(work, monkeypatch, capsys):
    monkeypatch.setattr("lib.inversion.__main__.write_pictures", lambda *_: 1 / 0)
    assert main(arguments("crop.png")) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert list((work / "out").iterdir()) == []


# ----------------------------------------------------------------------- killed and gone on
def mortal(generator, target, camera, *, checkpoints, seed, steps, masks, landmarks):
    """Steps into W, noted in the file `steps`, with a checkpoint every second; Ctrl-C in the sixth, once."""

    def note(step, state):
        with Path("steps").open("a") as file:
            file.write(f"{step}\n")
        if step == 5 and not Path("killed").exists():
            Path("killed").touch()
            raise KeyboardInterrupt

    checkpoints = Checkpoints(checkpoints.folder, every=2)
    return invert_w(
        generator, target, camera, steps=8, seed=seed, checkpoints=checkpoints, progress=False, callback=note
    )


@pytest.fixture
def killed(work, monkeypatch):
    """A run was killed in its sixth step."""
    monkeypatch.setitem(METHODS, "w", mortal)
    with pytest.raises(KeyboardInterrupt):
        main(arguments("crop.png"))
    assert [path.name for path in (work / "out").iterdir()] == [".crop.unfinished"]
    assert taken(work) == [0, 1, 2, 3, 4, 5]
    return work


def taken(work) -> list[int]:
    """The steps since this was last asked."""
    found = [int(line) for line in (work / "steps").read_text().splitlines()]
    (work / "steps").unlink()
    return found


def test_a_killed_run_goes_on_from_its_checkpoint(killed):
    assert main(arguments("crop.png")) == 0
    assert taken(killed) == [4, 5, 6, 7]
    assert [path.name for path in (killed / "out").iterdir()] == ["crop"]
    assert main(arguments("crop.png", out="whole")) == 0
    found, whole = (
        Inversion.load(killed / out / "crop" / "inversion.safetensors") for out in ("out", "whole")
    )
    assert torch.equal(found.w_plus, whole.w_plus) and found.history == whole.history


def test_a_killed_run_of_other_settings_is_not_taken_up(killed, capsys):
    assert main(arguments("crop.png", seed=1)) == 0
    assert taken(killed) == list(range(8))
    assert [path.name for path in (killed / "out").iterdir()] == ["crop"]


def test_checkpoints_stay_where_the_machine_ends_and_go_where_the_method_fails(work):
    settings, state = {"method": "w", "seed": 0}, work / ".crop.unfinished"
    for error, stays in (
        (OSError, True),
        (torch.OutOfMemoryError, True),
        (KeyboardInterrupt, True),
        (ValueError, False),
        (FloatingPointError, False),
    ):
        with pytest.raises(error), going_on(work / "crop", settings):
            assert state.is_dir()
            raise error
        assert state.is_dir() == stays, error


# ----------------------------------------------------------------------- exports
def test_exports_are_those_that_are_named(work):
    assert main(arguments("crop.png", export="ply,points, normals", grid=16)) == 0
    without = {"inversion.png", "inversion.safetensors", "report.json", "target.png", "views.png"}
    assert names(work) == without | {"mesh.ply", "points.ply", "normals.png"}
    exports = json.loads((work / "out" / "crop" / "report.json").read_text())["exports"]
    assert exports == {
        "ply": {"settings": {"grid": 16, "level": None}, "files": ["mesh.ply"]},
        "points": {"settings": {}, "files": ["points.ply"]},
        "normals": {"settings": {}, "files": ["normals.png"]},
    }
    assert main(arguments("crop.png", export="", out="bare")) == 0
    assert {path.name for path in (work / "bare" / "crop").iterdir()} == without


def names(work) -> set[str]:
    return {path.name for path in (work / "out" / "crop").iterdir()}


def test_exports_are_added_without_another_inversion(work, monkeypatch, capsys):
    assert main(arguments("crop.png", export="ply", grid=16)) == 0
    written = (work / "out" / "crop" / "mesh.ply").stat().st_mtime_ns
    monkeypatch.setitem(METHODS, "w", None)  # which cannot be called
    assert main(arguments("crop.png", export="ply,depth,obj", grid=16)) == 0
    assert "has depth, obj now" in capsys.readouterr().out
    assert {"mesh.ply", "mesh.obj", "depth.png", "depth_colours.png"} < names(work)
    assert (work / "out" / "crop" / "mesh.ply").stat().st_mtime_ns == written
    assert main(arguments("crop.png", export="depth", grid=24)) == 0
    assert "skipped" in capsys.readouterr().out
    exports = json.loads((work / "out" / "crop" / "report.json").read_text())["exports"]
    assert list(exports) == ["ply", "depth", "obj"]


def test_exports_that_are_gone_are_made_again(work, capsys):
    assert main(arguments("crop.png", export="ply,depth", grid=16)) == 0
    for name in ("mesh.ply", "depth_colours.png"):
        (work / "out" / "crop" / name).unlink()
        assert main(arguments("crop.png", export="ply,depth", grid=16)) == 0
        said = capsys.readouterr().out
        assert said.endswith(f"crop has {'ply' if name == 'mesh.ply' else 'depth'} now\n")
        assert name in names(work)


def test_exports_are_redone_when_they_are_asked_for_otherwise(work, capsys):
    assert main(arguments("crop.png", export="voxels", grid=16)) == 0
    assert load_mrc(work / "out" / "crop" / "voxels.mrc").shape == (16, 16, 16)
    assert main(arguments("crop.png", export="voxels", grid=20)) == 0
    assert load_mrc(work / "out" / "crop" / "voxels.mrc").shape == (20, 20, 20)
    assert "has voxels now" in capsys.readouterr().out


def test_a_failed_export_keeps_the_inversion_and_is_made_up_for(work, capsys):
    assert main(arguments("crop.png", export="depth,ply", grid=16, level=1e9)) == 1
    assert "error: no surface at density 1e+09" in capsys.readouterr().err
    assert "inversion.safetensors" in names(work) and "mesh.ply" not in names(work)
    assert main(arguments("crop.png", export="depth,ply", grid=16)) == 0
    assert "crop has depth, ply now" in capsys.readouterr().out
    assert {"depth.png", "mesh.ply"} < names(work)


def test_maps_are_seen_from_the_camera_of_the_photo(work):
    assert main(arguments("crop.png", export="depth")) == 0
    inversion = Inversion.load(work / "out" / "crop" / "inversion.safetensors")
    view = shape_view(inversion, inversion.camera)
    expected = depth_along_axis(inversion.camera, view.depth)
    found = load_depth(work / "out" / "crop" / "depth.png")
    assert (found - expected)[~found.isnan()].abs().max() < 1e-4


def test_video_shows_what_is_asked_beside(work):
    assert main(arguments("crop.png", export="video", beside="normals")) == 0
    reader = imageio_ffmpeg.read_frames(str(work / "out" / "crop" / "orbit.mp4"))
    assert next(reader)["size"] == (512, 256)
    reader.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights": "portraits9000"}, "portraits9000"),
        ({"device": "warp9"}, "warp9"),
    ],
)
def test_wrong_settings_are_said_before_any_photo(work, capsys, wrong, message):
    assert main(arguments("crop.png", **wrong)) == 1
    said = capsys.readouterr().err
    assert said.startswith("error:") and message in said
    assert not (work / "out").exists()


def test_options_that_contradict_are_refused(work, capsys):
    assert main(arguments("crop.png", "elsewhere/crop.png")) == 1
    assert "several photos are called crop" in capsys.readouterr().err
    assert main([*arguments("crop.png", method="w"), "--pivot-steps", "3"]) == 1
    assert "--pivot-steps belongs to pti, pose_opt, spi, hfgi3d, not to w" in capsys.readouterr().err
    assert main(arguments()) == 1
    assert "no photo" in capsys.readouterr().err
    for wrong, message in (
        ({"export": "glb,stl"}, "--export does not know stl; it knows glb, ply"),
        ({"beside": "alpha"}, "--beside does not know alpha; it knows depth, normals"),
        ({"export": "glb", "beside": "depth"}, "--beside belongs to the video"),
        ({"grid": 4}, "--grid must be 16 to 1024 samples a side; got 4"),
        ({"grid": 200000}, "--grid must be 16 to 1024 samples a side; got 200000"),
        ({"steps": 0}, "--steps must be 1 or more; got 0"),
        ({"steps": -3}, "--steps must be 1 or more; got -3"),
        ({"method": "pti", "pivot-steps": -1}, "--pivot-steps must be 1 or more; got -1"),
    ):
        assert main(arguments("crop.png", **wrong)) == 1
        assert message in capsys.readouterr().err
    assert not (work / "out").exists()


def test_help_names_every_export(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    option, description = said.split("--export")[-1], said.split("--export")[0] + said.split("--export")[1]
    assert not [name for name in EXPORTS if name not in option or name not in description]


def test_every_export_has_its_settings():
    assert SETTINGS_OF_EXPORTS.keys() == set(EXPORTS)


def test_labels_in_every_form(work):
    photo = work / "crop.png"
    (work / "label.json").write_text(json.dumps(LABEL.tolist()))
    (work / "label.csv").write_text(",".join(map(str, LABEL.tolist())))
    np.save(work / "label.npy", LABEL.numpy())
    others = [["00000/other.png", orbit(0.0, 0.0).label()[0].tolist()], ["00000/crop.png", LABEL.tolist()]]
    (work / "dataset.json").write_text(json.dumps({"labels": others}))
    for name in ("label.txt", "label.json", "label.csv", "label.npy", "dataset.json"):
        assert torch.allclose(read_label(work / name, photo), LABEL), name
    with pytest.raises(ValueError, match=r"0 labels for stranger\.png"):
        read_label(work / "dataset.json", work / "stranger.png")
    for name, content in (("short.txt", "1 2 3"), ("words.txt", "left of centre"), ("empty.txt", "")):
        (work / name).write_text(content)
        with pytest.raises(ValueError, match=rf"{name}.*25 numbers"):
            read_label(work / name, photo)


def test_a_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path):
    folder = tmp_path / "head"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder) as unfinished:
        (unfinished / "new").touch()
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["old"]
    with replacing_folder(folder) as unfinished:
        (unfinished / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_done_means_exactly_this(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"seed": 1, "errors": {}}))
    assert is_done(tmp_path, {"seed": 1})
    assert not is_done(tmp_path, {"seed": 2}, force=True)
    assert not is_done(tmp_path / "absent", {"seed": 1})
    with pytest.raises(ValueError, match="another seed"):
        is_done(tmp_path, {"seed": 2})
