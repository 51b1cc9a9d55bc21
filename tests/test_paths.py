"""A file takes its place whole, or not at all."""

from pathlib import Path

import pytest

from lib.paths import replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "folder" / "head.glb"
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert names(path.parent) == ["head.glb"]


def test_until_then_the_old_file_is_there(tmp_path):
    path = tmp_path / "head.glb"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [[], ["head.glb"]])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, failure, before):
    path = tmp_path / "head.glb"
    for name in before:
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(failure), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert names(tmp_path) == before
    assert all((tmp_path / name).read_bytes() == b"old" for name in before)


def test_a_failed_rename_leaves_no_litter(tmp_path):
    (tmp_path / "head.glb").mkdir()  # a folder of that name cannot be replaced by a file
    with pytest.raises(OSError), replacing(tmp_path / "head.glb") as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == ["head.glb"]


@pytest.mark.parametrize("name", ["head.glb", "no_suffix", ".hidden", "weights.tar.gz", "x" * 240 + ".glb"])
def test_the_name_to_write_to_is_beside_hidden_and_of_the_same_suffix(tmp_path, name):
    path = tmp_path / name
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, path.suffix)
        assert temporary.name.startswith(".") and temporary != path
        temporary.touch()
    assert names(tmp_path) == [name]


def test_two_writers_do_not_meet(tmp_path):
    path = str(tmp_path / "log.txt")
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert Path(path).read_text() == "first"  # whoever ends last
    assert names(tmp_path) == ["log.txt"]
