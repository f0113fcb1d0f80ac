"""Repeat the certificate of an exported folder where the folder is, without torch."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from defectlab.deploy.certificate import MARGIN, Answers, Asked, Certificate, certify
from defectlab.deploy.runtime import Runtime
from defectlab.deploy.selftest import self_test
from defectlab.errors import InputError
from defectlab.runs.predictions import as_kept, read_prediction_table
from defectlab.utils.text import listed, read_csv


def verify(
    folder: str | PathLike[str],
    root: str | PathLike[str] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
) -> Certificate:
    """Repeat the test vectors of an exported folder, and with the run's images its certificate.

    Args:
        folder: that `export` has made.
        root: folder of the run's images; None for the twenty of the folder alone.
        provider: see `Runtime`.
        threads: see `Runtime`.

    Returns:
        The certificate of this machine.

    Raises:
        InputError: a folder, a model or images that are not those of the export, or answers that are not.
    """
    runtime = Runtime(folder, provider, threads)
    self_test(runtime)
    known = runtime.card.values.get("certificate") or {}
    table = runtime.folder / ("certificate.csv" if root is not None else "vectors/expected.csv")
    expected = read_prediction_table(table)
    place = runtime.folder if root is None else Path(root)
    files = [place / name for name in expected.files]
    gone = [str(file) for file in files if not file.is_file()]
    if gone:
        raise InputError(
            f"{len(gone)} of {len(files)} images of the certificate are not in {place}, such as {listed(gone, 2)}: give the "
            "folder that data.root was"
        )
    found = runtime.predict(files)
    if found.skipped:
        raise InputError(f"{found.skipped[0]}: expected the images of the certificate as they were")
    header, *rows = read_csv(table, "copy the exported folder again")
    parts = [row[header.index("part")] for row in rows] if "part" in header else ["given"] * len(files)
    scored = expected.novelty is not None and found.novelty is not None
    before, after = (
        Answers(
            probabilities=as_kept(one.probabilities),
            outputs={} if not scored or one.novelty is None else {"novelty": one.novelty},
        )
        for one in (expected, found)
    )
    asked = Asked(names=list(expected.files), parts=parts, labels=None if root is None else expected.labels)
    certificate = certify(
        asked, before, after, expected.class_names, expected.thresholds,
        precision="float32" if root is None else known.get("precision", "float32"), margin=known.get("margin", MARGIN),
    )  # fmt: skip
    if not certificate.passed:
        raise InputError(f"{folder} does not answer here as it did: {certificate.text}")
    return certificate
