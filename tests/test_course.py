"""`defectlab course`: the list, the runs, and the table made of them."""

import csv
import os
import re
import signal
import time
from pathlib import Path

import pytest
from helpers import start, wait_for

from defectlab.cli.main import main
from defectlab.course.programs import PROGRAMS
from defectlab.course.run import CourseError, run_course
from defectlab.course.table import RESULTS, Row, course_table, markdown, read_rows
from defectlab.errors import InputError
from defectlab.runs import RunFolder, csv_text
from defectlab.utils.resources import shipped_configs

SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]
COURSE = Path(__file__).parents[1] / "docs" / "course.md"


def rows(folder: Path) -> dict[str, Row]:
    return {row.name: row for row in read_rows(folder / "course.csv")}


def test_every_program_has_a_shipped_config_and_a_name_of_its_own() -> None:
    assert {program.config for program in PROGRAMS} <= set(shipped_configs())
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)
    teachers = {program.teacher for program in PROGRAMS} - {None}
    assert teachers <= {program.name for program in PROGRAMS if program.teacher is None}


def test_the_list_shows_published_figures_and_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["course"]) == 0
    printed = capsys.readouterr().out
    entries = course_table()
    assert [entry.name for entry in entries] == [program.name for program in PROGRAMS]
    assert all(entry.name in printed and (entry.measured or "not measured") in printed for entry in entries)
    assert "99.04" in printed
    for row in read_rows(RESULTS):
        assert f"{row.accuracy:.2f} ± {row.sd:.2f}" in printed


def test_runs_become_a_table_that_goes_on(tmp_path: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "course"
    words = [
        "course",
        "run",
        "mnist-cnn",
        "--mnist",
        str(idx_folder),
        "--output",
        str(out),
        "--data.val_size=50",
        *SHORT,
    ]
    assert main([*words, "--seeds", "1"]) == 0
    assert rows(out)["mnist-cnn"].sd is None
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("   1 of 1  "))
    assert line.startswith(f"   1 of 1  mnist-cnn, seed 0: {rows(out)['mnist-cnn'].accuracy:.2f}% in ")
    first = RunFolder(out / "mnist-cnn" / "seed-0").metrics_json.stat().st_mtime_ns
    assert main([*words, "--seeds", "2", "--processes", "2"]) == 0
    assert RunFolder(out / "mnist-cnn" / "seed-0").metrics_json.stat().st_mtime_ns == first
    row = rows(out)["mnist-cnn"]
    metrics = [RunFolder(out / "mnist-cnn" / f"seed-{seed}").read_metrics() for seed in (0, 1)]
    scores = [100 * run["test"]["accuracy"] for run in metrics]
    assert row.accuracy == pytest.approx(sum(scores) / 2, abs=1e-3)
    assert row.sd == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5, abs=1e-3)
    assert (row.seeds, row.test_images, row.parameters) == (2, 50, 78_714)
    worst = min(
        metrics[0]["test"]["per_class"],
        key=lambda name: sum(run["test"]["per_class"][name]["accuracy"] for run in metrics),
    )
    assert row.worst_accuracy == pytest.approx(
        50 * sum(run["test"]["per_class"][worst]["accuracy"] for run in metrics), abs=0.01
    )
    assert row.command.startswith("mnist_compact.yaml --data.root DIR --data.val_size=50")
    assert [run["run"]["seed"] for run in metrics] == [0, 1]
    assert metrics[0]["data"]["split_hash"] != metrics[1]["data"]["split_hash"]
    # Another program joins the table of the same folder.
    words[2] = "mnist-lenet5"
    assert main([*words, "--seeds", "1"]) == 0
    assert list(rows(out)) == ["mnist-cnn", "mnist-lenet5"]
    text = (out / "course.md").read_text(encoding="utf-8")
    assert text == markdown(list(rows(out).values()))
    assert text in capsys.readouterr().out
    assert "mean ± sd of 1 to 2 seeds" in text


def test_other_arguments_do_not_join_the_same_row(
    tmp_path: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "course",
        "run",
        "mnist-cnn",
        "--seeds",
        "1",
        "--mnist",
        str(idx_folder),
        "--output",
        str(tmp_path / "c"),
        *SHORT,
    ]
    assert main([*words, "--data.val_size", "50"]) == 0
    before = (tmp_path / "c" / "course.csv").read_text()
    assert main([*words, "--data.val_size", "60"]) == 1
    assert "name another folder with --output" in capsys.readouterr().err
    assert (tmp_path / "c" / "course.csv").read_text() == before


def test_a_program_that_cannot_run_does_not_stop_the_others(
    tmp_path: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["course", "run", "mnist-cnn", "neu-simple", "--mnist", str(idx_folder), "--neu", str(tmp_path / "empty")]
    assert main([*words, "--seeds", "1", "--output", str(tmp_path / "c"), "--data.val_size", "50", *SHORT]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 runs could not be made, the first of them neu-simple, seed 0" in captured.err
    with pytest.raises(CourseError, match="1 of 1 runs") as caught:  # what is done is kept
        run_course(
            ["mnist-cnn", "neu-simple"], 1, mnist=str(idx_folder), neu=tmp_path / "empty", output=tmp_path / "c",
            overrides=["--data.val_size", "50", *SHORT],
        )  # fmt: skip
    assert [row.name for row in caught.value.rows] == ["mnist-cnn"]
    assert list(caught.value.errors) == ["neu-simple, seed 0"]
    assert captured.err.count("error:") == 1
    assert list(rows(tmp_path / "c")) == ["mnist-cnn"]
    assert not (tmp_path / "c" / "neu-simple" / "seed-0").exists()


def test_what_cannot_run_at_all_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["course", "run", "neu-simple", "--neu", str(tmp_path), "--seeds", "1", "--output", str(tmp_path / "c")]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_call_leaves_the_table_of_what_is_done(tmp_path: Path, idx_folder: Path) -> None:
    out = tmp_path / "c"
    common = ("--seeds", "1", "--mnist", str(idx_folder), "--output", str(out), "--trainer.accelerator", "cpu")
    short = ("--data.val_size", "50", "--trainer.limit_train_batches", "1")
    process = start("course", "run", "mnist-cnn", "mnist-lenet5", *common, *short, "--trainer.max_epochs", "400")
    wait_for("mnist-lenet5/seed-0/metrics.csv", out, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert list(rows(out)) == ["mnist-cnn"]
    assert (out / "course.md").read_text(encoding="utf-8").count("mnist-cnn") == 1


def test_workers_end_with_a_killed_parent(tmp_path: Path, idx_folder: Path) -> None:
    out = tmp_path / "c"
    process = start(
        "course", "run", "mnist-cnn", "--seeds", "2", "--processes", "2", "--mnist", str(idx_folder), "--output", str(out),
        "--data.val_size", "50", "--trainer.max_epochs", "100000", "--trainer.accelerator", "cpu",
    )  # fmt: skip
    wait_for("mnist-cnn/seed-*/metrics.csv", out, process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_lives(process.pid)


def group_lives(leader: int) -> bool:
    """Whether anybody is left of a process group."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "needs the name of a program, or all"),
        (["run", "--seeds", "1"], "needs the name of a program, or all"),
        (["run", "mnist-kears"], "did you mean mnist-keras?"),
        (["run", "all", "--seeds", "0"], "seeds is 0: expected a whole number of at least 1"),
        (["run", "all", "--processes", "-1"], "processes is -1"),
        (["run", "all", "--data.seed", "3"], "data.seed is course's own to set"),
        (["run", "all", "--mnist", "nowhere"], "mnist is nowhere, which does not exist"),
        (["list"], "unrecognized arguments: list"),
    ],
)
def test_bad_input(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["course", *words]) == 1
    captured = capsys.readouterr().err
    assert message in captured
    assert len(captured.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_table_survives_its_csv(tmp_path: Path) -> None:
    row = Row(
        name="a", title="what, it is", command="c.yaml", source="synthetic", seeds=1, test_images=10, accuracy=90.0,
        sd=None, published=92.5, worst_class="x", worst_accuracy=50.0, parameters=7, seconds=1.5, threads=2,
        hardware="cpu, 2 cores", commit="abc",
    )  # fmt: skip
    path = tmp_path / "course.csv"
    path.write_text(csv_text(Row, [row]), encoding="utf-8")
    assert read_rows(path) == [row]
    assert "90.00 (n = 1) SYNTHETIC" in markdown([row])
    path.write_text("name,title\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match="expected a table of `defectlab course run`"):
        read_rows(path)


def test_the_course_page_shows_the_shipped_table() -> None:
    assert markdown(read_rows(RESULTS)) in COURSE.read_text(encoding="utf-8")
    with RESULTS.open(newline="", encoding="utf-8") as file:
        assert {row["source"] for row in csv.DictReader(file)} == {"real"}
    assert not re.search(r"-dirty", RESULTS.read_text(encoding="utf-8"))
