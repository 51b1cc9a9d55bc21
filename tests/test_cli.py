"""The command line, on a tiny generator and ready crops: no face has to be found, nothing is fetched."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib import faces
from lib.cameras import orbit
from lib.generators import save_generator
from lib.images import save_image
from lib.inversion import Inversion, objective
from lib.inversion.__main__ import is_done, main, read_label, replacing_folder
from tests.tiny_generator import RandomFeatures, tiny_generator

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
    """A folder with weights, a crop and its label; faces and perceptual network replaced by cheap ones."""
    monkeypatch.setattr(faces, "FaceDetector", lambda: lambda photo: [])
    monkeypatch.setattr(objective, "LPIPS", lambda net, resolution: Movable())
    monkeypatch.chdir(tmp_path)
    generator = tiny_generator()
    save_generator(generator, "tiny.safetensors", dtype=torch.float32)
    code = generator.map(torch.randn(1, 16, generator=torch.Generator().manual_seed(1)), orbit(0.2, 0.1))
    save_image("crop.png", generator.synthesize(code, orbit(0.2, 0.1)).image)
    (tmp_path / "label.txt").write_text(" ".join(f"{x:.8g}" for x in LABEL.tolist()))
    return tmp_path


class Movable(RandomFeatures):
    def to(self, device):
        return self


def arguments(*photos: str, method: str = "w", **options: object) -> list[str]:
    given = {"weights": "tiny.safetensors", "label": "label.txt", "method": method, "steps": 2} | options
    given |= {"pivot-steps": 2} if method == "pti" else {}
    return [*photos, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


@pytest.mark.parametrize("method", ["w", "wplus", "pti"])
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
    monkeypatch.setattr("lib.inversion.__main__.save_glb", lambda *_: 1 / 0)
    assert main(arguments("crop.png")) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert list((work / "out").iterdir()) == []


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
    assert "--pivot-steps belongs to pti" in capsys.readouterr().err
    assert main(arguments()) == 1
    assert "no photo" in capsys.readouterr().err


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
