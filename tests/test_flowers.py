"""Oxford 102 Flowers: the official split, some classes, a download, and files that cannot be used."""

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Server, refusal
from scipy.io import savemat
from torchvision import datasets

from defectlab.data import FlowersDataModule
from defectlab.data.datamodules.flowers import FLOWERS


def flowers(root: Path, **arguments: Any) -> FlowersDataModule:
    """Set up."""
    module = FlowersDataModule(str(root), image_size=8, **arguments)
    module.prepare_data()
    module.setup()
    return module


def test_all_classes_in_the_official_split(flowers_folder: Path) -> None:
    data = flowers(flowers_folder)
    assert len(set(data.class_names)) == data.num_classes == 102
    for part, count in (("train", 1), ("val", 1), ("test", 2)):
        assert data.class_counts(part) == [count] * 102  # type: ignore[arg-type]
    assert data.data.images.shape == (408, 3, 8, 8)
    red = data.data.images[:, 0].float().mean(dim=(1, 2))
    assert (red - 2 * data.data.labels).abs().max() < 4  # JPEG is not exact
    assert all((flowers_folder / file).is_file() for file in data.data.files)
    assert data.describe()["root"] == str(flowers_folder)
    assert flowers(flowers_folder.parent, seed=3).files("test") == data.files("test")


def test_some_classes_have_the_labels_that_they_are_named_in(flowers_folder: Path) -> None:
    names = ["petunia", "passion flower", "wallflower"]
    module = FlowersDataModule(str(flowers_folder.parent / "not there yet"), classes=names)
    assert (list(module.class_names), module.num_classes) == (names, 3)
    data = flowers(flowers_folder, classes=names)
    assert data.class_counts("test") == [2, 2, 2]
    red = data.data.images[:, 0].float().mean(dim=(1, 2)) / 2
    for label, name in enumerate(names):
        assert {FLOWERS[round(float(value))] for value in red[data.data.labels == label]} == {name}
    whole = flowers(flowers_folder)
    assert set(data.files("test")) < set(whole.files("test"))
    grey = flowers(flowers_folder, classes=names, channels=1)
    assert next(iter(grey.test_dataloader()))[0].shape == (6, 1, 8, 8)


def test_classes_that_cannot_be() -> None:
    refusal(lambda: FlowersDataModule(classes=["petunia", "dandelion"]), "dandelion", "did you mean common dandelion?")
    refusal(lambda: FlowersDataModule(classes=["petunia", "xyz"]), "there is no class xyz")
    for wrong in ([], ["petunia"], ["petunia", "petunia"]):
        refusal(lambda names=wrong: FlowersDataModule(classes=names), "data.classes", "two or more")  # type: ignore[misc]


def test_it_is_downloaded_by_torchvision_once(
    flowers_folder: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchvision leaves it, checksums and all; a checksum that is wrong leaves nothing."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(flowers_folder / "jpg", "jpg")
    server.files["/102flowers.tgz"] = archive.getvalue()
    for name in ("imagelabels.mat", "setid.mat"):
        server.files[f"/{name}"] = (flowers_folder / name).read_bytes()
    kinds = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    sums = {kind: (name, hashlib.md5(server.files[f"/{name}"]).hexdigest()) for kind, name in kinds.items()}
    monkeypatch.setattr(datasets.Flowers102, "_download_url_prefix", f"{server.url}/")
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", sums)
    data = FlowersDataModule(str(tmp_path / "new"), image_size=8)
    refusal(data.setup, "prepare_data()")
    data.prepare_data()
    assert set(server.asked) == set(server.files)
    count = len(server.asked)
    data.prepare_data()
    assert len(server.asked) == count
    data.setup()
    assert data.describe()["split_hash"] == flowers(flowers_folder).describe()["split_hash"]
    assert sorted(path.name for path in (tmp_path / "new" / "flowers-102").iterdir()) == [
        "imagelabels.mat", "jpg", "setid.mat",
    ]  # fmt: skip
    other = FlowersDataModule(str(tmp_path / "other"), image_size=8)
    for wrong in (b"something else", None):
        server.files["/setid.mat"] = wrong or b""
        if wrong is None:
            del server.files["/setid.mat"]
        refusal(other.prepare_data, "could not be downloaded", "imagelabels.mat and setid.mat into", "data.root")
        assert list((tmp_path / "other").iterdir()) == []


def test_files_that_cannot_be_used(flowers_folder: Path) -> None:
    labels, split = flowers_folder / "imagelabels.mat", flowers_folder / "setid.mat"
    good = {path: path.read_bytes() for path in (labels, split)}
    damaged = io.BytesIO()
    savemat(damaged, {"labels": np.array([[103, 1]])})
    no_such_picture = io.BytesIO()
    savemat(no_such_picture, {"trnid": [[409]], "valid": [[1]], "tstid": [[2]]})
    for path, content, words in (
        (labels, b"no matlab file", ("imagelabels.mat", "replace it")),
        (labels, damaged.getvalue(), ("imagelabels.mat", "numbers from 1 to 102")),
        (split, good[labels], ("setid.mat", "no readable row trnid")),
        (split, no_such_picture.getvalue(), ("setid.mat", "numbers from 1 to 408")),
    ):
        path.write_bytes(content)
        refusal(lambda: flowers(flowers_folder), *words)
        path.write_bytes(good[path])
    data = flowers(flowers_folder).data
    (flowers_folder / data.files[0]).unlink()
    refusal(lambda: flowers(flowers_folder), data.files[0], "no such file")
    others = [name for name in FLOWERS if name != FLOWERS[data.labels[0]]]
    assert len(flowers(flowers_folder, classes=others).data.files) == 404
