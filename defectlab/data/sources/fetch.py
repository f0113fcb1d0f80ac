"""Download published data sets: resumed, checked file by file, and complete or not there at all."""

from __future__ import annotations

import csv
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

from defectlab.data.sources.archive import MAX_BYTES, extract_archive, publish
from defectlab.data.sources.cache import alone
from defectlab.data.sources.files import natural_key
from defectlab.errors import InputError
from defectlab.utils.files import hash_file, temporary_folder
from defectlab.utils.progress import progress_bar
from defectlab.utils.text import listed

# NEU-CLS as the IMAGES and Validation_Images of the NEU-DET release; the commit pins the bytes.
NEU_URL = (
    "https://github.com/siddhartamukherjee/NEU-DET-Steel-Surface-Defect-Detection/archive/"
    "351bee21b56bbf97a1e1d18262bceb202eb7ef41.zip"
)

_CHUNK_BYTES = 64 * 2**10
_RETRIED = (408, 425, 429)  # of the 4xx answers, those that another try may change


@dataclass
class ManifestCheck:
    """Result of a comparison with a manifest, by file name; `matching` files have the published bytes."""

    matching: dict[str, Path]
    differing: list[str]
    missing: list[str]


def fetch(
    url: str,
    target: Path,
    manifest: Mapping[str, str] | None,
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
) -> Path:
    """Download the zip at an http, https or file URL and unpack it as the new folder `target`.

    With `manifest` (file name to SHA-256) the folder holds exactly those files, side by side and checked; without, the
    archive as it is. A cut download is resumed, by this call or a later one, from a hidden .part file beside the
    target. `timeout` and `pause` (before the second attempt, then doubled) are in seconds. A complete target is
    returned as it is.

    Raises:
        InputError: the server cannot be reached or refuses, the content is not that of the manifest, or the target
            has other content; no target is made then.
    """
    part = target.with_name(f".{target.name[:100]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
    with alone(part):
        if target.is_dir() and any(target.iterdir()) and manifest is not None:
            check = check_files(_all_files(target), manifest)
            if not check.differing and not check.missing:
                return target
            raise InputError(
                f"{target}: exists and is not the published set ({_summary(check, manifest)}); "
                "use it as it is by its path, or remove it to download"
            )
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise InputError(f"{target}: exists, expected a new folder to download to; remove it or choose another")
        # Bytes of an earlier call may be of another version of the file: if they do not fit, start again once.
        stale = _size(part) > 0
        while True:
            _download(url, part, target, timeout, attempts, pause)
            try:
                return _unpack(url, part, target, manifest)
            except InputError:
                if not stale:
                    raise
                stale = False
            finally:
                part.unlink(missing_ok=True)


def fetch_by_torchvision(download: Callable[[str], object], target: Path, by_hand: str) -> None:
    """Let `download(root)` of torchvision fill the folder `target`, whole or not at all; files that are there stay.

    Raises:
        InputError: that fails; `by_hand` says what to do.
    """
    try:
        with temporary_folder(target.parent) as part:
            download(str(part))
            fresh = part / target.name
            for archive in fresh.glob("*.tgz"):
                archive.unlink()
            if not target.exists():
                fresh.rename(target)
            for path in _all_files(fresh):  # none, if it was renamed
                place = target / path.relative_to(fresh)
                place.parent.mkdir(parents=True, exist_ok=True)
                path.replace(place)
    except Exception as error:  # torchvision raises what its parts do
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{target} is not there and could not be downloaded ({reason}): {by_hand}") from None


def fetch_neu(target: str | Path, url: str = NEU_URL) -> Path:
    """Download the 1,800 images of NEU-CLS (Song & Yan 2013) as files `target/crazing_1.jpg`, each one checked."""
    return fetch(url, Path(target), load_manifest())


def load_manifest() -> dict[str, str]:
    """Return the SHA-256 by file name of the 1,800 JPEG files of NEU-CLS in the NEU-DET release."""
    text = (package_files("defectlab.data") / "neu_cls_sha256.csv").read_text(encoding="utf-8")
    return {row["file"]: row["sha256"] for row in csv.DictReader(text.splitlines())}


def check_files(files: Iterable[Path], manifest: Mapping[str, str]) -> ManifestCheck:
    """Compare files with a manifest by name; of several with one name, one with the right bytes is enough."""
    check = ManifestCheck({}, [], [])
    present = set()
    for path in files:
        wanted = manifest.get(path.name)
        if wanted is not None:
            present.add(path.name)
            if path.name not in check.matching and hash_file(path) == wanted.lower():
                check.matching[path.name] = path
    for name in sorted(manifest, key=natural_key):
        if name not in check.matching:
            (check.differing if name in present else check.missing).append(name)
    return check


def _download(url: str, part: Path, target: Path, timeout: float, attempts: int, pause: float) -> None:
    """Download the URL into `part`, from the end of what it holds."""
    if not url.startswith(("http://", "https://", "file:")):
        raise InputError(f"url: found {url!r}, expected an http://, https:// or file:// address of a zip archive")
    by_hand = f"or get the files elsewhere and put them in {target} by hand"
    reason = "no attempt was made"
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            if _receive(url, part, timeout):
                return
            reason = f"the connection was cut after {_size(part):,} bytes"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # the part goes beyond the file's end, so it is of another file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in _RETRIED:
                part.unlink(missing_ok=True)
                raise InputError(f"{url}: the server answers {reason}; correct the address, {by_hand}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    if _size(part) == 0:
        part.unlink(missing_ok=True)
    raise InputError(f"{url}: cannot be downloaded ({reason}); check the network and try again, {by_hand}")


def _receive(url: str, part: Path, timeout: float) -> bool:
    """Make one request; return whether `part` is complete after it."""
    done = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "defectlab"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with urllib.request.urlopen(request, timeout=timeout) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink(missing_ok=True)  # not the range asked for: the next attempt asks for everything
            return False
        if not resumed:  # the server has sent the whole file all the same
            done = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            file = open(part, "ab" if resumed else "wb")  # noqa: SIM115  (closed by the with below)
        except OSError as error:
            raise InputError(f"{part}: {error.strerror}; expected a folder to write to, choose another") from None
        with file, progress_bar(f"downloading {part.name}", total, in_bytes=True) as advance:
            advance(done)
            while chunk := response.read(_CHUNK_BYTES):
                done += len(chunk)
                if done > MAX_BYTES:
                    break
                try:
                    file.write(chunk)
                except OSError as error:
                    raise InputError(f"{part}: {error.strerror} after {done:,} bytes; make room") from None
                advance(len(chunk))
    if done > MAX_BYTES:
        part.unlink()
        raise InputError(f"{url}: is larger than {MAX_BYTES / 2**20:,.1f} MiB; get it by hand")
    return total is None or done == total


def _unpack(url: str, part: Path, target: Path, manifest: Mapping[str, str] | None) -> Path:
    if manifest is None:
        return extract_archive(part, target)
    with temporary_folder(target.parent) as work:
        finished = work / target.name
        unpacked = extract_archive(part, work / "unpacked", only=manifest)
        check = check_files(_all_files(unpacked), manifest)
        if check.differing or check.missing:
            raise InputError(
                f"{url}: is not the published set ({_summary(check, manifest)}); nothing was kept, try "
                f"again, or get the files elsewhere and put them in {target} by hand"
            )
        finished.mkdir()
        for name, path in check.matching.items():
            path.rename(finished / name)
        publish(finished, target)
    return target


def _all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _summary(check: ManifestCheck, manifest: Mapping[str, str]) -> str:
    return ", ".join(
        f"{len(names):,} of {len(manifest):,} files {verb}: {listed(names)}"
        for names, verb in ((check.differing, "differ"), (check.missing, "are missing"))
        if names
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
