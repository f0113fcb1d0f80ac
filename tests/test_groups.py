"""Groups stay on one side of every split, fold and budget; time splits train on the past."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import striped
from helpers import read, refusal, write_config
from PIL import Image

from defectlab.cli.main import main
from defectlab.data import ImageFolderDataModule, SplitTable
from defectlab.data.pipeline.duplicates import Duplicate
from defectlab.data.pipeline.groups import Groups, looks_grouped
from defectlab.data.pipeline.splits import Split, fixed_split, fold_split, stratified_split, time_split
from defectlab.errors import InputError
from defectlab.evaluate.crossval import cross_validate
from defectlab.evaluate.mislabels import out_of_fold

PATTERN = r"coil_(\d+)_"


def drawn(seed: int) -> tuple[np.ndarray, Groups]:
    """Labels and groups of random sizes and mixtures, a few classes, some of them rare."""
    rng = np.random.default_rng(seed)
    classes, count = int(rng.integers(2, 6)), int(rng.integers(30, 80))
    sizes = rng.integers(1, rng.integers(2, 30), count)
    codes = rng.permutation(np.repeat(np.arange(count), sizes))
    own = rng.choice(classes, count, p=rng.dirichlet(np.full(classes, 3)))
    pure = rng.random() < 0.5
    labels = (
        own[codes]
        if pure
        else np.where(rng.random(len(codes)) < 0.8, own[codes], rng.integers(classes, size=len(codes)))
    )
    return labels, Groups(
        codes=codes,
        names=[f"g{code}" for code in range(count)],
        by="drawn",
        class_names=[f"c{k}" for k in range(classes)],
    )


def sides(split: Split, groups: Groups) -> list[set[int]]:
    return [set(groups.codes[part].tolist()) for part in (split.train, split.val, split.test)]


def check(split: Split, labels: np.ndarray, groups: Groups) -> None:
    """Every image once, no group twice, every class in every part."""
    assert sorted(np.concatenate((split.train, split.val, split.test)).tolist()) == list(range(len(labels)))
    train, val, test = sides(split, groups)
    assert not train & val
    assert not train & test
    assert not val & test
    for part in (split.train, split.val, split.test):
        assert set(labels[part].tolist()) == set(labels.tolist()) or not len(part)


def test_no_group_is_on_two_sides_of_any_split() -> None:
    done = 0
    for seed in range(60):
        labels, groups = drawn(seed)
        try:
            random = stratified_split(labels, 0.15, 0.2, seed, groups)
            folds = [fold_split(labels, fold, 4, 0.15, seed, groups) for fold in range(1, 5)]
        except InputError as error:
            assert "too few" in str(error)  # noqa: PT017
            continue
        done += 1
        check(random, labels, groups)
        largest = np.bincount(groups.codes).max() / len(labels)
        for part, wanted in ((random.test, 0.2), (random.val, 0.15)):
            assert abs(len(part) / len(labels) - wanted) <= largest + 0.05
        again = stratified_split(labels.copy(), 0.15, 0.2, seed, groups)
        assert all(np.array_equal(getattr(random, part), getattr(again, part)) for part in ("train", "val", "test"))
        for split in folds:
            check(split, labels, groups)
            assert abs(len(split.test) / len(labels) - 0.25) <= largest + 0.05
        assert sorted(np.concatenate([split.test for split in folds]).tolist()) == list(range(len(labels)))
        given = np.where(np.isin(groups.codes, groups.codes[random.test]), "test", "train").tolist()
        fixed = fixed_split(given, labels, 0.2, seed, groups=groups)
        check(fixed, labels, groups)
        assert np.array_equal(fixed.test, random.test)
        none = stratified_split(labels, 0.2, 0, seed, groups)
        check(none, labels, groups)
        assert not len(none.test)
    assert done > 40


def test_proportions_are_kept_and_seeds_differ() -> None:
    many = Groups(codes=np.arange(1000) // 5, names=[str(k) for k in range(200)], by="", class_names=["a", "b", "c"])
    labels = (np.arange(1000) // 5 % 20 > 13).astype(int) + (np.arange(1000) // 5 % 20 > 17)
    split = stratified_split(labels, 0.15, 0.2, 3, many)
    for part, size in ((split.test, 200), (split.val, 150)):
        np.testing.assert_allclose(np.bincount(labels[part]), np.array([0.7, 0.2, 0.1]) * size, atol=5)
    tests = [stratified_split(labels, 0.15, 0.2, seed, many).test for seed in range(4)]
    assert len({part.tobytes() for part in tests}) == 4
    assert np.array_equal(stratified_split(labels, 0.3, 0.2, 3, many).test, split.test), (
        "it hangs on its own size alone"
    )


def test_time_goes_forward_and_ties_and_groups_stay_whole() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        days = np.sort(rng.integers(0, 30, 300))
        coils = days // 2 * 3 + rng.integers(0, 3, 300)  # within two days
        order = rng.permutation(300)
        times, groups = days[order].astype(float), Groups(
            codes=np.unique(coils[order], return_inverse=True)[1], names=list(map(str, np.unique(coils))), by="", class_names=[]
        )  # fmt: skip
        for own in (None, groups):
            split = time_split(times, 0.15, 0.2, own)
            parts = [times[part] for part in (split.train, split.val, split.test)]
            assert parts[0].max() < parts[1].min() <= parts[1].max() < parts[2].min()
            assert sum(map(len, parts)) == 300
            assert abs(len(split.test) - 60) < 30
        train, val, test = sides(split, groups)
        assert not train & val | train & test | val & test
    assert not len(time_split(times, 0.2, 0).test)
    refusal(lambda: time_split(np.array([1.0, 1, 1, 2, 2, 2]), 0.2, 0.2), "2 times of 6 images leave 1 places")
    over = Groups(codes=np.arange(300) % 2, names=["a", "b"], by="coil", class_names=[])
    refusal(lambda: time_split(np.arange(300.0), 0.2, 0.2, over), "leave 0 places", "coil")


def test_pairs_join_groups() -> None:
    own = Groups(codes=np.array([0, 0, 1, 2, 3, 3]), names=list("abcd"), by="", class_names=[])
    assert own.joined([Duplicate(1, 2, 0.9), Duplicate(4, 3, 0.9)]).codes.tolist() == [0, 0, 0, 2, 2, 2]


# Through a datamodule and the front door


def surface(coil: int, index: int) -> Any:
    """A coil's own light, and stripes of its own direction and width, which say nothing of its class."""
    own, rng = np.random.default_rng(coil), np.random.default_rng((coil, index))
    angle, width, light, contrast = own.uniform((0, 3, 60, 10), (3.1, 12, 190, 60))
    y, x = np.mgrid[:32, :32]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / width + rng.uniform(0, 6))
    return (light + contrast * wave + rng.normal(0, 5, (32, 32))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def coils(tmp_path: Path) -> Path:
    """`good/coil_3_1.png`: 8 coils a class of 4 images, in which the coil shows and the class does not."""
    for coil in range(16):
        for index in range(4):
            path = tmp_path / "coils" / ("hole" if coil % 2 else "good") / f"coil_{coil}_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(surface(coil, index)).save(path)
    return tmp_path / "coils"


def folder(root: Path, **arguments: Any) -> ImageFolderDataModule:
    module = ImageFolderDataModule(str(root), image_size=32, channels=1, **arguments)
    module.setup()
    return module


def test_a_pattern_groups_and_names_that_look_grouped_are_told(coils: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = folder(coils, group_by=PATTERN)
    assert "look like" not in caplog.text
    of = {part: set(data.groups(part) or ()) for part in ("train", "val", "test")}
    assert sum(map(len, of.values())) == 16
    assert data.describe()["groups"] == {part: len(names) for part, names in of.items()}
    assert data.describe()["group_by"] == PATTERN
    alone = folder(coils)
    assert r"names look like 16 groups" in caplog.text
    assert alone.groups("train") is None
    told = caplog.text.partition("group_by '")[2].partition("'")[0]
    assert folder(coils, group_by=told).describe()["groups"] == data.describe()["groups"]


@pytest.mark.parametrize(
    "name", ["crazing_{0}.jpg", "cell{0:04}.png", "exp{1}_num_{0}.jpg", "{0}/{1}.png", "good/{0}.png", "a_{0}_{0}.png"]
)
def test_other_names_do_not_look_grouped(name: str) -> None:
    files = [name.format(index, index // 120) for index in range(600)]
    assert looks_grouped(files, np.arange(600) // 120 % 2) is None


def test_a_run_keeps_its_groups(coils: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, coils)
    assert main(["fit", "--config", str(config), "--data.group_by", PATTERN, "--trainer.max_epochs=1"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    table = SplitTable.read(run / "split.csv")
    parts: dict[str, set[str]] = {}
    for row in table.rows:
        assert row.group == row.file.split("_")[1]
        parts.setdefault(row.group, set()).add(row.part)
    assert len(parts) == 16
    assert all(len(found) == 1 for found in parts.values())
    with (run / "split.csv").open(newline="") as file:
        assert list(next(csv.DictReader(file))) == ["part", "label", "size", "hash", "file", "group"]
    again = ImageFolderDataModule(str(coils), image_size=32, channels=1)
    again.keep_split(table)
    again.setup()
    assert again.split_table() == table
    assert set(again.groups("test") or ()) == {group for group, found in parts.items() if found == {"test"}}
    before = read(run)
    assert main(["test", str(run)]) == 0
    assert read(run)["test"]["accuracy"] == before["test"]["accuracy"]
    assert main(["test", str(run), "--data.group_by", "null"]) == 0, "another split, in a folder of its own"


def test_group_duplicates_and_groups_are_joined(coils: Path) -> None:
    for coil in (0, 2, 4):  # the same image in three coils
        Image.fromarray(striped(2, 77, 32)).save(coils / "good" / f"coil_{coil}_9.png")
    data = folder(coils, group_by=PATTERN, group_duplicates=True)
    parts = [set(data.files(part)) for part in ("train", "val", "test")]
    (side,) = (part for part in parts if "good/coil_0_9.png" in part)
    assert {f"good/coil_{coil}_{index}.png" for coil in (0, 2, 4) for index in range(4)} <= side


def test_budget_and_folds_keep_groups_apart(coils: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], set[str]]] = []
    from defectlab.evaluate import budget

    original = budget.accuracy_by_labels
    monkeypatch.chdir(tmp_path)
    modules: list[ImageFolderDataModule] = []
    setup = ImageFolderDataModule.setup

    def remember(module: ImageFolderDataModule, stage: str | None = None) -> None:
        setup(module, stage)
        modules.append(module)

    monkeypatch.setattr(ImageFolderDataModule, "setup", remember)

    def spy(pool: Any, test: Any, *more: Any) -> Any:
        data = modules[-1]
        assert len(pool[1]) == len(data.files("train")) + len(data.files("val"))
        assert len(test[1]) == len(data.files("test"))
        seen.append(({*(data.groups("train") or ()), *(data.groups("val") or ())}, set(data.groups("test") or ())))
        return original(pool, test, *more)

    monkeypatch.setattr(budget, "accuracy_by_labels", spy)
    for seed in range(3):
        words = ["budget", "--config", "folder_mobilenet.yaml", "--draws", "2", "--per-class", "2", "--output", "out"]
        more = [
            "--data.root",
            str(coils),
            "--data.image_size",
            "32",
            "--data.group_by",
            PATTERN,
            "--data.seed",
            str(seed),
        ]
        assert main([*words, *more]) == 0
    assert len(seen) == 3
    assert all(pool and test and not pool & test for pool, test in seen)


def test_wrong_labels_are_looked_for_across_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    labels = groups % 2
    own = rng.normal(0, 1, (20, 30)).astype(np.float32)[groups] + rng.normal(0, 0.1, (200, 30)).astype(np.float32)
    mixed, apart = (out_of_fold(own, labels, groups=chosen).argmax(axis=1) == labels for chosen in (None, groups))
    assert mixed.mean() > 0.95
    assert apart.mean() < 0.8, "a group's own look says nothing of the class of others"
    few = out_of_fold(own, labels, groups=groups // 5)
    np.testing.assert_array_equal(few, out_of_fold(own, labels))


def test_the_difference_that_groups_make_is_measured(
    coils: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for coil in range(16):
        for index in range(4, 10):
            path = coils / ("hole" if coil % 2 else "good") / f"coil_{coil}_{index}.png"
            Image.fromarray(surface(coil, index)).save(path)
    out, config = tmp_path / "cv", "folder_mobilenet.yaml"
    cached = ["--model.cache_features", "true", "--data.augmentation", "null", "--trainer.max_epochs", "20"]
    words = ["--data.root", str(coils), "--data.image_size", "32", "--trainer.default_root_dir", str(tmp_path / "runs")]
    more = ["--compare-groups", "--folds", "2", "--repeats", "1", "--output", str(out), "--data.group_by", PATTERN]
    assert main(["crossval", "--config", config, *more, *cached, *words, "--data.val_size", "0.2"]) == 0
    assert "ungrouped" in capsys.readouterr().out
    result = cross_validate(resume=out)
    assert result.ungrouped is not None
    assert result.overstated == result.ungrouped.mean - result.mean
    assert result.overstated > 0.2
    assert result.pooled.files == result.ungrouped.pooled.files
    groups = [
        {row.group: row.part for row in SplitTable.read(run / "split.csv").rows} for run in sorted(out.glob("repeat*"))
    ]
    assert sorted(group for parts in groups for group, part in parts.items() if part == "test") == sorted(
        map(str, range(16))
    )
    for run in out.glob("repeat*"):
        rows = SplitTable.read(run / "split.csv").rows
        assert len({row.group for row in rows}) == len({(row.group, row.part) for row in rows})
    for bad, message in (
        ([], "compare_groups is for data with groups"),
        (["--data.group_by", "coil_(x)_"], "of 160 images have no group"),
    ):
        assert main(["crossval", "--config", config, "--compare-groups", *words, *bad]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_time_from_a_table(coils: Path, tmp_path: Path) -> None:
    def table(time: Any, header: str = "image,label,when,lot") -> ImageFolderDataModule:
        lines = [header]
        for file in sorted(coils.rglob("*.png")):
            coil, index = int(file.stem.split("_")[1]), int(file.stem.split("_")[2])
            lines.append(f"{file.name},{file.parent.name},{time(coil, index)},{coil // 2}")
        (tmp_path / "t.csv").write_text("\n".join(lines))
        return folder(coils, labels=str(tmp_path / "t.csv"), split="time", group_by=None if "lot" in header else "auto")

    def days(data: ImageFolderDataModule) -> list[list[int]]:
        return [sorted({int(file.split("_")[1]) for file in data.files(part)}) for part in ("train", "val", "test")]

    train, val, test = days(table(lambda coil, _: f"2024-05-{coil + 1:02}", "image,label,date,lot"))
    assert (train, val, test) == (list(range(10)), [10, 11, 12], [13, 14, 15])
    assert days(table(lambda coil, i: f"{coil}.{i}", "image,label,timestamp,lot"))[2][-1] == 15
    by_lot = days(table(lambda coil, _: f"2024/05/{coil + 1:02} 10:00", "image,label,date,group"))
    assert (by_lot[0][-1] + 1, by_lot[1][-1] + 1) == (by_lot[1][0], by_lot[2][0])
    assert by_lot[1][0] % 2 == by_lot[2][0] % 2 == 0
    mixed = lambda coil, index: "yesterday" if coil == 5 and index < 2 else coil  # noqa: E731
    refusal(lambda: table(mixed, "image,label,date,lot"), "2 (yesterday, yesterday)", "column date")
    refusal(lambda: table(lambda c, i: c if c else "2024-05-01", "image,label,date,lot"), "no times like the others")
    zone = lambda coil, index: f"2024-05-01T10:{coil:02}:00{'+02:00' if coil else ''}"  # noqa: E731
    refusal(lambda: table(zone, "image,label,date,lot"), "time zone")
    refusal(lambda: table(lambda *_: 1), "column of times")
    refusal(lambda: table(lambda *_: 1, "image,label,date,lot"), "1 times of 64 images")


@pytest.mark.parametrize(
    ("group_by", "words"),
    [
        ("coil_(", ("no regular expression",)),
        (r"coil_\d+", ("one group in parentheses",)),
        (r"(coil)_(\d+)", ("one group in parentheses",)),
        ("lott", ("such as lot",)),
        (r"plate_(\d+)", ("64 (", "of 64 images have no group")),
        (r"coil_([1-9]\d?)_", ("4 (", "of 64 images have no group")),
        ("(coil)_", ("one group coil",)),
        ("empty", ("64 (", "no group")),
        ("kind", ("too few", "good in 1 groups", "hole in 1 groups")),
    ],
)
def test_groups_that_cannot_be_used_are_told(
    group_by: str, words: tuple[str, ...], coils: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{file.name},{file.parent.name},{file.parent.name},1," for file in sorted(coils.rglob("*.png"))]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,kind,lot,empty", *rows]))
    more = ["--data.labels", str(tmp_path / "t.csv"), "--data.group_by", group_by]
    assert main(["fit", "--config", str(write_config(tmp_path, coils)), *more]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in said for word in words), said
    assert not (tmp_path / "runs").exists()


def test_a_given_split_that_parts_groups_is_refused(coils: Path, tmp_path: Path) -> None:
    files = sorted(coils.rglob("*.png"))
    rows = [f"{file.name},{file.parent.name},{'test' if '_3.' in file.name else 'train'}" for file in files]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    labels = str(tmp_path / "t.csv")
    refusal(lambda: folder(coils, labels=labels, group_by=PATTERN), "16 (0, 10, 12", "data.split random")
    assert folder(coils, labels=labels, group_by=PATTERN, split="random").describe()["groups"]["train"] > 0
    assert folder(coils, labels=labels).class_counts("test") == [8, 8]


def test_the_groups_of_a_table_are_taken_unless_told_otherwise(
    coils: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(coils.rglob("*.png"))
    rows = [f"{file.name},{file.parent.name},{file.stem.split('_')[1]}" for file in files]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,group", *rows]))
    with caplog.at_level(logging.INFO):
        assert folder(coils, labels=str(tmp_path / "t.csv")).describe()["groups"]["train"] > 5
    assert "group in column group" in caplog.text
    assert folder(coils, labels=str(tmp_path / "t.csv"), group_by=None).describe()["groups"] == dict.fromkeys(
        ("train", "val", "test"), 0
    )
