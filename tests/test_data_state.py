"""What a killed command leaves, and caches that are out of date: nothing stays for ever, nothing old is read."""

import json
import os
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import striped, write_class_folders
from helpers import Server, refusal, start, wait_for, write_config
from PIL import Image
from torchvision import datasets

from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule, MNISTDataModule
from defectlab.data.sources.archive import extract_archive, open_root
from defectlab.data.sources.cache import read_note, write_note
from defectlab.data.sources.fetch import fetch
from defectlab.data.sources.reading import read_images
from defectlab.errors import InputError
from defectlab.utils.files import atomic, temporary_folder
from defectlab.utils.image_format import ImageFormat

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and locks are POSIX")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Temporary folders


@posix
@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["data", "synthesize", "OUT", "--per-class", "100000"], ".defectlab-*/out/crazing/*.png"),
        (
            ["data", "augment", "--config", "CONFIG", "--output", "OUT", "--copies", "100000",
             "--data.augmentation.rotation", "9"],
            ".defectlab-*/out/train/*/*.png",
        ),
    ],
)  # fmt: skip
def test_the_next_command_removes_what_a_killed_one_left(
    class_folders: Path, tmp_path: Path, words: list[str], pattern: str
) -> None:
    config = write_config(tmp_path, class_folders)
    place = tmp_path / "place"
    filled = [word.replace("OUT", str(place / "out")).replace("CONFIG", str(config)) for word in words]
    place.mkdir()
    process = start(*filled)
    wait_for(pattern, place, process)
    with temporary_folder(place):
        assert len(hidden(place)) == 2, "what is in use stays"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (place / "out").exists()
    assert len(hidden(place)) == 1
    assert main(["data", "synthesize", str(place / "out"), "--per-class", "1"]) == 0
    assert hidden(place) == []


def test_temporary_names_are_unique_and_gone_after_an_error(tmp_path: Path) -> None:
    def stumble() -> None:
        with temporary_folder(tmp_path) as one, temporary_folder(tmp_path) as other:
            assert one != other
            (one / "x").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert list(tmp_path.iterdir()) == []
    with atomic(tmp_path / "name") as draft:
        assert draft.name == "name"
        draft.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_full_disk_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, class_folders: Path
) -> None:
    def full(self: Image.Image, path: Path, **how: Any) -> None:
        Path(path).touch()
        raise OSError(28, "No space left on device")

    config = write_config(tmp_path, class_folders)
    monkeypatch.setattr(Image.Image, "save", full)
    words = [
        "data",
        "augment",
        "--config",
        str(config),
        "--output",
        str(tmp_path / "out"),
        "--data.augmentation.rotation=9",
    ]
    assert main(words) == 1
    assert not (tmp_path / "out").exists()
    assert hidden(tmp_path) == []


# Zips


def zipped(path: Path, root: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root.parent))
    return path


def test_a_zip_of_the_same_name_size_and_time_is_unpacked_anew(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "set", 4)
    for path in root.rglob("*.png"):
        Image.fromarray(striped(0, 0)).save(path.with_suffix(".bmp"))
        path.with_suffix(".bmp").rename(path)  # of one size, whatever is in it
    archive = zipped(tmp_path / "set.zip", root)
    facts = archive.stat()
    first = open_root(archive, tmp_path / "cache")
    Image.fromarray(striped(1, 1)).save(tmp_path / "other.bmp")
    (root / "good/0.png").write_bytes((tmp_path / "other.bmp").read_bytes())
    zipped(archive, root)
    os.utime(archive, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (archive.stat().st_size, archive.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    second = open_root(archive, tmp_path / "cache")
    assert second != first
    assert (second / "set/good/0.png").read_bytes() == (root / "good/0.png").read_bytes()
    assert open_root(archive, tmp_path / "cache") == second
    for damage in (lambda: (second / "set/good/0.png").unlink(), lambda: (second / "set/good/0.png").write_bytes(b"x")):
        damage()
        assert open_root(archive, tmp_path / "cache") == second
        assert (second / "set/good/0.png").read_bytes() == (root / "good/0.png").read_bytes()


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("gbk", ("划痕/1.png", "正常/2.png")),
        ("utf-8", ("划痕/1.png", "正常/2.png")),
        ("cp437", ("größe/1.png", "höher/2.png")),
    ],
)
def test_names_in_zips_without_a_flag(tmp_path: Path, encoding: str, names: tuple[str, str]) -> None:
    raw = [name.encode(encoding) for name in names]
    blank = [f"{index}" * len(name) for index, name in enumerate(raw)]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in blank:
            archive.writestr(name, "x")
    content = (tmp_path / "set.zip").read_bytes()
    for old, new in zip(blank, raw, strict=True):  # zipfile itself would set the flag
        content = content.replace(old.encode(), new)
    (tmp_path / "set.zip").write_bytes(content)
    out = extract_archive(tmp_path / "set.zip", tmp_path / "out")
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == set(names)


# Pixels


def test_a_cache_is_of_these_very_files(tmp_path: Path) -> None:
    files = []
    for index in range(4):
        files.append(tmp_path / f"{index}.bmp")
        Image.fromarray(striped(0, index)).save(files[-1])
    cache = tmp_path / "cache" / "pixels"
    first = read_images(files, ImageFormat(image_size=24, channels=1), cache=cache)[0].clone()
    stat = files[2].stat()
    Image.fromarray(striped(1, 9)).save(files[2])
    os.utime(files[2], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert files[2].stat().st_size == stat.st_size
    second = read_images(files, ImageFormat(image_size=24, channels=1), cache=cache)[0].clone()
    assert (second[2, 0].numpy() == striped(1, 9)).all()
    assert (second[3] == first[3]).all()
    whole = cache.read_bytes()
    times = cache.stat()
    cache.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    os.utime(cache, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (read_images(files, ImageFormat(image_size=24, channels=1), cache=cache)[0] == second).all()


def test_a_cache_has_a_limit(tmp_path: Path) -> None:
    for index in range(5):
        entry = tmp_path / f"entry{index}"
        if index % 2:
            entry.mkdir()
            (entry / "file").write_bytes(bytes(10))
        else:
            entry.write_bytes(bytes(10))
        write_note(entry, {"number": index}, 10, max_bytes=35)
        old = time.time() - 10 * 24 * 3600 + index
        os.utime(tmp_path / f"entry{index}.json", (old, old))
    (tmp_path / "mine.json").write_text("{}")
    left = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".json"))
    assert left == ["entry2", "entry3", "entry4"]
    assert read_note(tmp_path / "entry4")["number"] == 4
    assert read_note(tmp_path / "entry0") == {}
    read_note(tmp_path / "entry2")  # which is used today, and stays
    (tmp_path / "new").write_bytes(bytes(100))
    write_note(tmp_path / "new", {}, 100, max_bytes=35)
    assert sorted(path.name for path in tmp_path.glob("*[!n]") if path.suffix != ".json") == ["entry2", "entry4", "new"]
    assert (tmp_path / "mine.json").exists()


@posix
def test_a_killed_build_of_the_cache_leaves_nothing(class_folders: Path, tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys, pathlib, numpy as np, time\n"
        "from defectlab.data.sources import reading\n"
        "from defectlab.utils.image_format import ImageFormat\n"
        "reading.decode = lambda *a, **k: (time.sleep(0.3), np.zeros((1, 24, 24), np.uint8))[1]\n"
        "files = sorted(pathlib.Path(sys.argv[1]).rglob('*.png'))\n"
        "reading.read_images(files, ImageFormat(image_size=24, channels=1), cache=pathlib.Path(sys.argv[2]) / 'pixels')\n"
    )
    place = tmp_path / "cache"
    place.mkdir()
    process = subprocess.Popen([sys.executable, "-c", code, str(class_folders), str(place)])
    deadline = time.monotonic() + 60
    while not list(place.glob(".defectlab-*/pixels")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(list(place.glob(".defectlab-*"))) == 1
    files = sorted(class_folders.rglob("*.png"))
    assert len(read_images(files, ImageFormat(image_size=24, channels=1), cache=place / "pixels")[0]) == 36
    assert sorted(os.listdir(place)) == ["pixels", "pixels.json"]
    assert json.loads((place / "pixels.json").read_text())["bytes"] == 36 * 24 * 24


# Downloads


def test_two_fetches_at_once(tmp_path: Path, server: Server) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", os.urandom(3_000_000))
    server.files["/a.zip"] = (tmp_path / "a.zip").read_bytes()
    target = tmp_path / "place" / "set"
    found: list[object] = []

    def run() -> None:
        try:
            found.append(fetch(f"{server.url}/a.zip", target, {"a.txt": _sum(tmp_path / "a.zip")}))
        except InputError as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [target] * 4
    assert os.listdir(target.parent) == ["set"]


def _sum(archive: Path) -> str:
    import hashlib

    with zipfile.ZipFile(archive) as source:
        return hashlib.sha256(source.read("a.txt")).hexdigest()


def test_a_failed_download_leaves_nothing(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.url}/"])
    server.files["/train-images-idx3-ubyte.gz"] = b"nothing of the kind"
    data = MNISTDataModule(str(tmp_path / "data"))
    refusal(data.prepare_data, "could not be downloaded", "data.root")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_set_that_is_read_while_it_changes(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolderDataModule(str(class_folders), image_size=24, channels=1)
    loaded = ImageFolderDataModule.load

    def load(self: ImageFolderDataModule) -> Any:
        found = loaded(self)
        (class_folders / "good/0.png").unlink()
        return found

    monkeypatch.setattr(ImageFolderDataModule, "load", load)
    refusal(data.setup, "good/0.png", "put it back")
