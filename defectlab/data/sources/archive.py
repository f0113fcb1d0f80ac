"""Archives and shards: unpacked as a whole or not at all, and never outside their folder."""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from defectlab.data.sources.cache import default_cache, read_note, write_note
from defectlab.data.sources.shards import join_shards, write_labels
from defectlab.errors import InputError
from defectlab.utils.files import temporary_folder
from defectlab.utils.memory import bytes_text
from defectlab.utils.progress import progress_bar

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_BYTES = 20 * 2**30
MAX_FILES = 1_000_000

# Images hardly shrink in a zip, and arrays seldom beyond tenfold: more is a zip bomb.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 100 * 2**20
_CHUNK_BYTES = 2**20
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, struct.error, OverflowError,
)  # fmt: skip
_UTF8 = 0x800  # the flag of a member whose name is UTF-8


class _Member(NamedTuple):
    name: str
    parts: tuple[str, ...]
    is_folder: bool
    size: int
    stamp: object  # changes with the content: the CRC of a zip, the time of a tar
    open: Callable[[], IO[bytes] | None]


def extract_archive(archive: Path, target: Path, only: Collection[str] | None = None) -> Path:
    """Unpack an archive into the new folder `target`, through a temporary folder beside it; return `target`.

    With `only`, files of other names are left out.

    Raises:
        InputError: a member that leads outside the target, a link, an encrypted or damaged member, more than
            `MAX_BYTES` or `MAX_FILES`, a ratio as of a zip bomb, a full disk, a target in use; nothing is left behind.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target}: exists, expected a new folder to unpack {archive.name} into; remove it")
    with (
        _told(archive, f"expected a readable archive, and room in {target.parent}"),
        _members(archive, only) as members,
    ):
        total = sum(member.size for member in members)
        with (
            temporary_folder(target.parent) as place,
            progress_bar(f"unpacking {archive.name}", total, in_bytes=True) as advance,
        ):
            unpacked, left = place / target.name, MAX_BYTES
            unpacked.mkdir()
            free = shutil.disk_usage(unpacked).free
            if free < total:
                raise InputError(
                    f"{archive}: unpacks to {bytes_text(total)}, only {bytes_text(free)} are free there; make room"
                )
            for member in members:
                written = _copy(archive, member, unpacked, left)
                left -= written
                advance(written)
            write_labels(unpacked)
            publish(unpacked, target)
    return target


def open_root(root: Path, cache: Path | None = None) -> Path:
    """Return a data root as a folder: itself, or an archive unpacked into `cache`, anew if its content changes.

    A folder that holds .tar files alone is one of shards, of which each is unpacked.

    Raises:
        InputError: there is nothing at `root`, or a file that is no usable archive.
    """
    with _told(root, "expected a folder, a .zip or a .tar of images"):
        if root.is_dir():
            shards = sorted(path for path in root.iterdir() if not path.name.startswith("."))
            if not shards or not all(path.suffix == ".tar" for path in shards):
                return root
            return join_shards(root, [open_root(shard, cache) for shard in shards], cache or default_cache())
        with _members(root, None) as members:
            told = [(member.parts, member.size, member.stamp) for member in members]
    key = hashlib.sha256(repr((root.name, told)).encode(errors="surrogateescape")).hexdigest()
    target = (cache or default_cache()) / f"{root.stem[:100]}-{key[:16]}"
    if target.is_dir() and not (read_note(target) and all(_is_whole(target, member) for member in members)):
        shutil.rmtree(target, ignore_errors=True)  # a file was lost or changed since
    if not target.is_dir():
        extract_archive(root, target)
        write_note(target, {"archive": str(root)}, sum(size for _, size, _ in told))
    return target


def check_regular(path: Path) -> None:
    """Raise InputError for a pipe or a device, which may be read without end.

    Raises:
        OSError: there is nothing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: a pipe, a device or a folder; expected a file")


def _is_whole(folder: Path, member: _Member) -> bool:
    path = folder.joinpath(*member.parts)
    return path.is_dir() if member.is_folder else path.is_file() and path.stat().st_size == member.size


def publish(finished: Path, target: Path) -> None:
    """Rename a finished folder to `target`, unless another process has just done so."""
    try:
        finished.rename(target)
    except OSError:
        if not target.is_dir() or not any(target.iterdir()):
            raise


@contextmanager
def _told(archive: Path, expected: str) -> Iterator[None]:
    """Raise InputError in place of what reading an archive comes to."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{archive}: damaged, or no archive ({error}); expected a whole one, get it anew") from None
    except OSError as error:
        raise InputError(f"{archive}: {error.strerror or error}; {expected}") from None


@contextmanager
def _members(archive: Path, only: Collection[str] | None) -> Iterator[list[_Member]]:
    """Open an archive of any kind, and yield the members to unpack, checked by what it declares."""
    check_regular(archive)
    with ExitStack() as opened:
        if zipfile.is_zipfile(archive):
            found = _of_zip(archive, opened.enter_context(zipfile.ZipFile(archive)))
        elif tarfile.is_tarfile(archive):
            found = _of_tar(archive, opened.enter_context(tarfile.open(archive)))
        else:
            raise InputError(
                f"{archive}: a file that is no zip archive, nor a .tar; expected a folder, a .zip or a .tar of images"
            )
        yield _checked(archive, found, only)


def _of_zip(archive: Path, source: zipfile.ZipFile) -> Iterator[_Member]:
    encoding = _encoding(source)
    for info in source.infolist():
        name = info.filename
        if not info.flag_bits & _UTF8:
            with suppress(UnicodeError):  # else it has its name in Unicode, too
                name = name.encode("cp437").decode(encoding)
        name = name.replace("\\", "/")  # some programs on Windows write their own separator
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{archive}: member {name} is a link or a device; expected files alone, zip them anew")
        if info.flag_bits & 1:
            raise InputError(
                f"{archive}: member {name} is encrypted; expected a zip without password, unpack it by hand"
            )
        yield _Member(name, (), name.endswith("/"), info.file_size, info.CRC, partial(source.open, info))


def _of_tar(archive: Path, source: tarfile.TarFile) -> Iterator[_Member]:
    for info in source:
        if not (info.isreg() or info.isdir()):
            raise InputError(
                f"{archive}: member {info.name} is a link or a device; expected files alone, pack them anew"
            )
        yield _Member(info.name, (), info.isdir(), info.size, info.mtime, partial(source.extractfile, info))
    assert source.fileobj is not None
    source.fileobj.seek(source.offset)
    if not source.fileobj.read(1):  # tarfile takes what is cut off between two members for whole
        raise tarfile.ReadError("it ends without its mark")


def _checked(archive: Path, found: Iterable[_Member], only: Collection[str] | None) -> list[_Member]:
    """Return the members to unpack, with the parts of their paths."""
    members = []
    for member in found:
        name = member.name
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
            raise InputError(f"{archive}: member {name} leads outside the folder; expected none such, do not trust it")
        if parts and (only is None or (not member.is_folder and parts[-1] in only)):
            members.append(member._replace(parts=parts))
    total = sum(member.size for member in members)
    if len(members) > MAX_FILES:
        raise InputError(
            f"{archive}: holds {len(members):,} members, expected at most {MAX_FILES:,}; unpack it by hand"
        )
    if total > MAX_BYTES:
        raise InputError(_too_large(archive))
    packed = Path(archive).stat().st_size
    if total > max(_RATIO_FREE_BYTES, _MAX_RATIO * packed):
        raise InputError(
            f"{archive}: {bytes_text(packed)} declare {bytes_text(total)}, more than {_MAX_RATIO}-fold as in a zip bomb; "
            "unpack it by hand if you trust it"
        )
    return members


def _encoding(source: zipfile.ZipFile) -> str:
    """Return the encoding of names without a flag: UTF-8, that of a Chinese Windows, or the one of the format."""
    plain = [info.filename for info in source.infolist() if not info.flag_bits & _UTF8 and not info.filename.isascii()]
    raw = "/".join(plain).encode("cp437", "ignore")
    with suppress(UnicodeDecodeError):
        raw.decode("utf-8")
        return "utf-8"
    # Letters of one language beside one of another are no Chinese, which has two bytes above ASCII each.
    if re.fullmatch(rb"([\x00-\x7f]|[\x81-\xfe]{2})*", raw):
        with suppress(UnicodeDecodeError):
            raw.decode("gbk")
            return "gbk"
    return "cp437"


def _copy(archive: Path, member: _Member, folder: Path, left: int) -> int:
    """Write one member; return the bytes that really came out."""
    path = folder.joinpath(*member.parts)
    written = 0
    try:
        (path if member.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
        if member.is_folder or (packed := member.open()) is None:
            return 0
        with packed, open(path, "xb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > left:
                    raise InputError(_too_large(archive))
                file.write(chunk)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{archive}: member {member.name} is there twice, or as file and folder; expected it once, pack it anew"
        ) from None
    return written


def _too_large(archive: Path) -> str:
    return f"{archive}: unpacks to more than {bytes_text(MAX_BYTES)}; unpack it by hand if you trust it"
