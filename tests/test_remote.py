"""Images in archives, in shards and behind addresses."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from helpers import write_config
from PIL import Image

import defectlab as dl
from defectlab.cli.main import main
from defectlab.errors import InputError

KINDS = ("good", "hole")


def png(seed: int, kind: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(90, 160, (12, 12), dtype=np.uint8)
    if kind == "hole":
        pixels[3:8, 3:8] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(start: int, count: int, label: str = "cls") -> dict[str, bytes]:
    found = {}
    for number in range(start, start + count):
        kind = KINDS[number % 2]
        found[f"{number:05}.png"] = png(number, kind)
        found[f"{number:05}.{label}"] = json.dumps({"label": kind}).encode() if label == "json" else kind.encode()
    return found


def folders(count: int) -> dict[str, bytes]:
    return {f"set/{kind}/{i}.png": png(i, kind) for i in range(count) for kind in KINDS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def module(root: Path | str) -> dl.ImageFolderDataModule:
    data = dl.ImageFolderDataModule(str(root), image_size=12, channels=1)
    data.prepare_data()
    data.setup()
    return data


def test_a_tar_of_class_folders_is_as_the_folder(tmp_path: Path) -> None:
    for name in ("set.tar", "set.tar.gz"):
        data = module(pack(tmp_path / name, folders(10)))
        assert len(data.data.files) == 20
        assert list(data.class_names) == list(KINDS)


@pytest.mark.parametrize("label", ["cls", "json"])
def test_shards_of_samples(tmp_path: Path, label: str) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        pack(tmp_path / "shards" / f"part-{shard:03}.tar", samples(0, 10, label))  # keys begin anew in each
    data = module(tmp_path / "shards")
    assert len(data.data.files) == 30
    for file, text in zip(data.data.files, data.data.label_texts, strict=True):
        assert text == KINDS[int(Path(file).stem[-5:]) % 2]
    alone = module(pack(tmp_path / "one.tar", samples(0, 20, label)))
    assert alone.data.label_texts == [KINDS[int(Path(file).stem) % 2] for file in alone.data.files]


def test_shards_that_are_named_for_parts_give_the_split(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for part, count in (("train", 12), ("val", 4), ("test", 6)):
        pack(tmp_path / "shards" / f"{part}-000.tar", samples(0, count))
    data = module(tmp_path / "shards")
    assert [len(data.files(part)) for part in ("train", "val", "test")] == [12, 4, 6]


def test_an_object_store_is_mirrored_and_followed(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, content in folders(10).items():
        store.pipe(f"/bucket/{name}", content)
    store.pipe("/bucket/set/notes.bin", b"not wanted")
    data = module("memory://bucket/set")
    assert len(data.data.files) == 20
    assert data.source == "real"
    assert not list((tmp_path / "cache").rglob("notes.bin"))
    store.pipe("/bucket/set/hole/new.png", png(99, "hole"))
    store.rm("/bucket/set/good/0.png")
    files = module("memory://bucket/set").data.files
    assert "hole/new.png" in files
    assert "good/0.png" not in files
    store.rm("/bucket", recursive=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web").mkdir()
    pack(tmp_path / "web" / "set.tar", folders(10))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_fit_and_test_from_a_web_address(server: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    config = write_config(tmp_path, f"{server}/set.tar")
    assert main(["fit", "--config", str(config), "--output", str(tmp_path / "run")]) == 0
    assert f"root: {server}/set.tar" in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["test", str(tmp_path / "run")]) == 0


def test_what_cannot_be_read_is_one_line(tmp_path: Path, server: str) -> None:
    def refused(root: Path | str, words: str) -> None:
        with pytest.raises(InputError, match=words) as told:
            module(root)
        assert "\n" not in str(told.value)

    whole = pack(tmp_path / "set.tar", folders(10)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.tar", "damaged")
    refused(pack(tmp_path / "out.tar", {"../good/1.png": b"x"}), "leads outside")
    info = tarfile.TarInfo("good/1.png")
    info.size = 3
    with tarfile.open(tmp_path / "twice.tar", "w") as twice:
        twice.addfile(info, io.BytesIO(b"abc"))
        twice.addfile(info, io.BytesIO(b"abc"))
    refused(tmp_path / "twice.tar", "there twice")
    info = tarfile.TarInfo("good/1.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as link:
        link.addfile(info)
    refused(tmp_path / "link.tar", "a link or a device")
    bare = {name: content for name, content in samples(0, 10).items() if name != "00003.cls"}
    refused(pack(tmp_path / "bare.tar", bare), r"1 samples have no class .*00003\.png")
    refused("memory://nothing/here", "cannot be read|no image")
    refused("nonsense://bucket", "cannot be read")
    refused("s3://bucket/set", "cannot be read|s3fs")
    refused("http://127.0.0.1:9/set.tar", "cannot be read")
    assert not (tmp_path / "good").exists()
