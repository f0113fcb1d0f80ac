"""`data inspect` finds what was planted, and the split that keeps near-duplicates together."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refusal, write_config
from PIL import Image, ImageEnhance

from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule
from defectlab.data.pipeline import duplicates
from defectlab.data.pipeline.duplicates import Duplicate, exact_duplicates, groups, near_duplicates
from defectlab.data.synthesis.strip import synthesize
from defectlab.evaluate import inspection
from defectlab.evaluate.inspection import inspect_data
from defectlab.evaluate.mislabels import suspects
from defectlab.evaluate.quality import measure_quality, unusual_images
from defectlab.metrics.classification import accuracy_interval

PLANTED = 6


def write_image(path: Path, pixels: "np.ndarray") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def findings_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "findings.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def altered(path: Path, rng: np.random.Generator) -> bytes:
    """Two pixels cut off, brighter or darker, compressed."""
    picture = Image.open(path).crop((2, 2, 200, 200))
    picture = ImageEnhance.Brightness(picture).enhance(float(rng.uniform(0.85, 1.15)))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=int(rng.integers(60, 90)))
    return out.getvalue()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, set[str]]]:
    """A synthetic set with known trouble: pairs by their later name, and names of files."""
    root, rng = tmp_path_factory.mktemp("planted") / "strip", np.random.default_rng(0)
    synthesize(root, 30, seed=1)
    files = sorted(root.rglob("*.png"))
    chosen = [files[index] for index in rng.permutation(len(files))[: 3 * PLANTED]]
    truth: dict[str, set[str]] = {
        "same bytes": set(),
        "same place": set(),
        "doubtful label": set(),
        "unreadable": set(),
    }
    for path in chosen[:PLANTED]:
        copy = path.with_name(f"{path.parent.name}_9{path.stem.rpartition('_')[2]}.png")
        shutil.copy(path, copy)
        truth["same bytes"].add(copy.name)
    for path in chosen[PLANTED : 2 * PLANTED]:
        copy = path.with_name(f"{path.parent.name}_8{path.stem.rpartition('_')[2]}.jpg")
        copy.write_bytes(altered(path, rng))
        truth["same place"].add(copy.name)
    classes = sorted(folder.name for folder in root.iterdir())
    for path in chosen[2 * PLANTED :]:
        other = classes[(classes.index(path.parent.name) + int(rng.integers(1, 6))) % 6]
        moved = root / other / f"{other}_7{path.stem.rpartition('_')[2]}.png"
        path.rename(moved)
        truth["doubtful label"].add(moved.name)
    for name in ("crazing", "patches"):
        broken = root / name / f"{name}_600.png"
        broken.write_bytes(b"no image")
        truth["unreadable"].add(broken.name)
    return root, truth


def test_planted_trouble_is_found(
    planted: tuple[Path, dict[str, set[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, truth = planted
    assert main(["data", "inspect", str(root), "--output", str(tmp_path / "out")]) == 0
    rows = findings_of(tmp_path / "out")
    found = {
        kind: {
            name for row in rows if row["kind"] == kind for name in (Path(row["file"]).name, Path(row["other"]).name)
        }
        for kind in truth
    }
    assert found["unreadable"] - {""} == truth["unreadable"]
    for kind in ("same bytes", "same place"):
        pairs = [row for row in rows if row["kind"] == kind]
        assert truth[kind] <= found[kind]
        assert len(pairs) == PLANTED, "and nothing else"
    wrong = found["doubtful label"] - {""}
    assert len(wrong & truth["doubtful label"]) >= 0.8 * PLANTED
    assert len(wrong & truth["doubtful label"]) >= 0.6 * len(wrong)
    for name in ("duplicates.png", "doubtful.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
    assert "2 files" in capsys.readouterr().out


def test_leaks_and_contradictions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize(tmp_path / "set" / "train", 6, seed=1)
    synthesize(tmp_path / "set" / "test", 6, seed=2)
    train, test = tmp_path / "set" / "train", tmp_path / "set" / "test"
    shutil.copy(train / "patches" / "patches_1.png", test / "patches" / "patches_77.png")
    shutil.copy(train / "patches" / "patches_2.png", train / "crazing" / "crazing_77.png")
    assert main(["data", "inspect", str(tmp_path / "set"), "--output", str(tmp_path / "out")]) == 0
    assert "of all pairs 1 across parts of the split, 1 with two labels" in capsys.readouterr().out
    leaks = [row for row in findings_of(tmp_path / "out") if row["leak"] == "True"]
    assert [row["detail"] in ("leak: test and train", "leak: train and test") for row in leaks] == [True]
    (other,) = [row for row in findings_of(tmp_path / "out") if row["contradiction"] == "True"]
    assert other["detail"] == "contradiction: crazing and patches"


@pytest.mark.parametrize("side", [3, 40])
def test_a_small_set_is_inspected_but_for_its_labels(
    side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "good"):
        write_image(tmp_path / "set" / name / "1.png", np.random.default_rng(len(name)).integers(0, 255, (side, side)))
    assert main(["data", "inspect", str(tmp_path / "set"), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "not looked at: the smallest class has 1 images, it takes 5" in out
    assert "none: too few images of a class" in out


def test_findings_are_returned(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (class_folders / "good" / "a: b.png").write_bytes(b"no image")
    shutil.copy(class_folders / "hole" / "3.png", class_folders / "hole" / "twin.png")
    found = inspect_data(str(class_folders))
    assert capfd.readouterr().out == ""
    assert found.counts == {"good": 12, "hole": 13, "scratch": 12}
    (broken,) = [finding for finding in found.findings if finding.kind == "unreadable"]
    assert (broken.file, broken.detail) == ("good/a: b.png", "not an image, whatever its name says")
    (pair,) = [finding for finding in found.findings if finding.kind == "same bytes"]
    assert (pair.file, pair.other, pair.score) == ("hole/3.png", "hole/twin.png", 1.0)
    assert found.accuracy is not None
    assert found.folder == Path("runs/inspection/images")
    assert found.files[0] == found.folder / "findings.csv"
    assert all(file.is_file() for file in found.files)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(inspection, "_of_folder", lambda _: pytest.fail("data was read"))
    refusal(lambda: inspect_data(class_folders, output=tmp_path / "file"), "is a file")
    (tmp_path / "taken" / "findings.csv").mkdir(parents=True)
    monkeypatch.undo()
    refusal(lambda: inspect_data(class_folders, output=tmp_path / "taken"), "cannot be written")
    monkeypatch.setattr("os.access", lambda *_: False)
    refusal(lambda: inspect_data(class_folders, output=tmp_path / "out"), "cannot be written")


def test_near_duplicates_know_shifts_and_light_but_not_strangers() -> None:
    generator = torch.Generator().manual_seed(0)
    big = torch.nn.functional.interpolate(torch.rand(3, 1, 30, 30, generator=generator), 220, mode="bicubic")
    images = (big.clamp(0, 1) * 200).to(torch.uint8)
    views = [images[:, :, :200, :200], images[:, :, 2:202, 3:203], images[:, :, :200, :200] // 2 + 60]
    pairs = near_duplicates(torch.cat(views))
    assert {(pair.first, pair.second) for pair in pairs} == {
        (i + 3 * a, i + 3 * b) for i in range(3) for a, b in ((0, 1), (0, 2), (1, 2))
    }
    assert groups(pairs, 9) == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    flat = torch.full((2, 1, 64, 64), 9, dtype=torch.uint8)
    assert near_duplicates(flat) == [], "blank images show no place"


def parts_in_one_pose(count: int, seed: int = 0) -> torch.Tensor:
    """Parts of two models, each with the same edges at the same place, dust of its own, and noise."""
    generator = torch.Generator().manual_seed(seed)
    models = torch.nn.functional.interpolate(torch.rand(2, 1, 9, 14, generator=generator), (96, 150), mode="nearest")
    dust = torch.rand(count, 1, 32, 50, generator=generator) < 0.03
    dust = torch.nn.functional.interpolate(dust.float(), (96, 150), mode="bilinear")
    noise = torch.randn(count, 1, 96, 150, generator=generator)
    return (
        (60 + 130 * models.repeat_interleave(count // 2, dim=0) - 40 * dust + 2 * noise).clamp(0, 255).to(torch.uint8)
    )


def test_parts_in_one_pose_are_told_apart_and_their_copies_found() -> None:
    images = parts_in_one_pose(120)
    assert near_duplicates(images) == []
    out = io.BytesIO()
    Image.fromarray(images[90, 0].numpy()).save(out, "JPEG", quality=60)
    brighter, compressed = images[3] // 5 * 4 + 10, torch.from_numpy(np.array(Image.open(out)))[None]
    planted = torch.cat([images, torch.stack([brighter, compressed])]).expand(-1, 3, -1, -1)
    assert [(pair.first, pair.second) for pair in near_duplicates(planted)] == [(3, 120), (90, 121)]


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    images = parts_in_one_pose(40)
    images = torch.cat([images, images[5:8] // 2 + 40])
    pairs = near_duplicates(images)
    assert [(pair.first, pair.second) for pair in pairs] == [(5, 40), (6, 41), (7, 42)]
    for name, value in {"_BLOCK": 9, "_ROWS": 2, "_COLUMNS": 7}.items():
        monkeypatch.setattr(duplicates, name, value)
    assert [(pair.first, pair.second) for pair in near_duplicates(images)] == [(5, 40), (6, 41), (7, 42)]


def test_one_place_over_and_over_is_told(caplog: pytest.LogCaptureFixture) -> None:
    noise = torch.randn(24, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    near_duplicates((parts_in_one_pose(2)[:1, :, :64, :64] + 8 * noise).clamp(0, 255).to(torch.uint8))
    assert "24 of 24 images look like many others" in caplog.text


def test_findings_are_on_the_disk_when_the_search_is_stopped(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(images: torch.Tensor) -> Iterator[Duplicate]:
        yield Duplicate(0, 1, 0.9)
        raise KeyboardInterrupt

    (class_folders / "good" / "a.png").write_bytes(b"no image")
    monkeypatch.setattr(inspection, "iter_near_duplicates", stopped)
    assert main(["data", "inspect", str(class_folders), "--output", str(tmp_path / "out")]) == 130
    rows = findings_of(tmp_path / "out")
    assert (rows[0]["kind"], rows[0]["file"]) == ("unreadable", "good/a.png")
    assert (rows[-1]["kind"], rows[-1]["file"], rows[-1]["other"]) == ("same place", "good/0.png", "good/1.png")
    assert (tmp_path / "out" / "findings.csv").read_bytes().endswith(b"\n")


def test_what_is_unusual_and_what_tells_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for index in range(20):
        texture = rng.integers(90, 130, (40, 60))
        write_image(tmp_path / "set" / "good" / f"{index}.png", texture)
        write_image(tmp_path / "set" / "bad" / f"{index}.png", np.roll(texture, 7)[:, ::-1] + 50)
    write_image(tmp_path / "set" / "good" / "empty.png", np.full((40, 60), 110))
    write_image(tmp_path / "set" / "good" / "large.png", np.repeat(np.repeat(texture, 3, axis=0), 3, axis=1))
    write_image(tmp_path / "set" / "bad" / "white.png", np.where(np.arange(60) < 20, 255, texture))
    assert main(["data", "inspect", str(tmp_path / "set"), "--output", str(tmp_path / "out")]) == 0
    rows = findings_of(tmp_path / "out")
    why = {Path(row["file"]).name: row["detail"] for row in rows if row["kind"] == "unusual"}
    assert "nearly empty" in why["empty.png"]
    assert "width 180, usual 60" in why["large.png"]
    assert "at 255" in why["white.png"]
    (told,) = [row for row in rows if row["kind"] == "shortcut" and "brightness" in row["detail"]]
    assert float(told["score"]) >= 0.95
    assert "network could cheat" in capsys.readouterr().out
    with (tmp_path / "out" / "quality.csv").open(newline="") as file:
        quality = {row["name"]: row for row in csv.DictReader(file)}
    assert [quality[name]["images"] for name in ("bad", "good", "(all)")] == ["21", "22", "43"]
    assert float(quality["bad"]["brightness"]) == pytest.approx(159.5, abs=1)
    assert (quality["good"]["width"], quality["good"]["height"]) == ("60.0", "40.0")


def test_measures_by_hand() -> None:
    images = torch.full((9, 3, 8, 8), 100, dtype=torch.uint8)
    images[:, :, ::2] = 160
    images[0, :, :4], images[0, :, 4:] = 0, 255
    measures = measure_quality(images)
    assert {name: round(float(column[0]), 3) for name, column in measures.items()} == {
        "brightness": 127.5, "black": 0.5, "white": 0.5, "range": 255, "sharpness": round(255**2 / 4, 3)
    }  # fmt: skip
    assert [index for index, _ in unusual_images(measures, np.zeros(9, dtype=np.int64))] == [0]


def test_what_the_test_part_will_be_able_to_tell(
    class_folders: Path, split_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(12, 40):
        shutil.copy(class_folders / "good" / "0.png", class_folders / "good" / f"{index}.png")
    found = inspect_data(class_folders, output=tmp_path / "out")
    told = {row.name: (row.test_images, row.recall_half_width) for row in found.classes}
    module = ImageFolderDataModule(str(class_folders), image_size=16, channels=1)
    module.setup()
    for label, name in enumerate(module.class_names):
        count = int((module.data.labels[module.parts.test] == label).sum())
        low, high = accuracy_interval(count / 2, count)
        assert told[name] == (count, round((high - low) / 2, 4))
    assert told["(all)"] == (len(module.parts.test), None)
    assert main(["data", "inspect", str(split_folders), "--output", str(tmp_path / "given")]) == 0
    assert "each class: 3 test images, recall known to ± 37 points" in capsys.readouterr().out


def test_exact_duplicates() -> None:
    assert list(exact_duplicates([b"a", b"b", b"a", b"a"])) == [Duplicate(0, 2, 1.0), Duplicate(0, 3, 1.0)]


def test_the_split_of_a_config_is_inspected(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in sorted(class_folders.rglob("*.png"))[::2]:
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    config = write_config(tmp_path, class_folders)
    assert main(["data", "inspect", "--config", str(config), "--data.image_size", "64", "--output", "out"]) == 0
    out = capsys.readouterr().out
    leaks = int(out.partition("of all pairs ")[2].split()[0])
    assert leaks > 0
    assert (tmp_path / "out" / "findings.csv").read_text().count("leak: ") == leaks
    assert not (tmp_path / "runs").exists()
    words = ["data", "inspect", "--config", str(config), "--data.image_size", "64", "--data.group_duplicates", "true"]
    assert main([*words, "--output", "grouped"]) == 0
    assert "of all pairs 0 across parts" in capsys.readouterr().out


def test_groups_stay_on_one_side(class_folders: Path) -> None:
    for path in sorted(class_folders.rglob("*.png"))[::3]:
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    data = ImageFolderDataModule(str(class_folders), image_size=64, channels=1, group_duplicates=True)
    data.setup()
    parts = {file: part for part in ("train", "val", "test") for file in data.files(part)}
    for file, part in parts.items():
        if "copy_" in file:
            assert parts[file.replace("copy_", "")] == part


def test_confident_learning_by_hand() -> None:
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.3, 0.7], [0.95, 0.05]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # Thresholds: (.9 + .8 + .2) / 3 = .633 and (.9 + .7 + .05) / 3 = .55.
    found = suspects(shares, labels)
    assert [(s.index, s.label, s.suggested) for s in found] == [(5, 1, 0), (2, 0, 1)]


@pytest.mark.parametrize(
    ("words", "message"), [(["none"], "none is no folder"), (["."], ""), ([], "give a folder, or --config")]
)
def test_bad_folders(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "inspect", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
