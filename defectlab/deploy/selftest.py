"""Repeat the test vectors of an exported folder on the machine that is to use it."""

from __future__ import annotations

from zipfile import BadZipFile

import numpy as np

from defectlab.deploy.exported import LARGEST_DIFFERENCE
from defectlab.deploy.runtime import Runtime
from defectlab.errors import InputError
from defectlab.metrics.decisions import decide
from defectlab.utils.text import listed, read_csv


def self_test(runtime: Runtime) -> str:
    """Answer the images of vectors.npz and of vectors/ again, and say in a line what was found.

    Raises:
        InputError: a probability that differs by more than 1e-4, another decision, or vectors that are not there.
    """
    place, thresholds = runtime.folder / "vectors.npz", runtime.card.thresholds
    header, *rows = read_csv(runtime.folder / "vectors" / "expected.csv", "copy the exported folder again") or [[]]
    try:
        with np.load(place, allow_pickle=False) as stored:
            vectors = dict(stored)
        outputs = runtime.run([vectors[name] for name in runtime.input_names])
        apart = [np.abs(outputs["probabilities"] - vectors["probabilities"]).max()]
        if "novelty" in vectors:  # its scale is its own
            apart.append(
                (np.abs(outputs["novelty"] - vectors["novelty"]) / np.maximum(1, np.abs(vectors["novelty"]))).max()
            )
        sides = [decide(side["probabilities"], thresholds) for side in (outputs, vectors)]
        changed = [f"array {i}" for i in np.flatnonzero((sides[0] != sides[1]).reshape(len(sides[0]), -1).any(axis=1))]
        found = runtime.predict([runtime.folder / row[0] for row in rows])
        if found.skipped:
            raise InputError(f"self-test failed: {found.skipped[0]}; copy the exported folder again")
        for row, own in zip(rows, found.rows, strict=True):
            for name, cell in list(zip(header, row, strict=True))[1:]:
                if isinstance(own[name], str):
                    changed += [row[0]] * (own[name] != cell)
                else:
                    apart.append(abs(own[name] - float(cell)))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place} or vectors/ is damaged ({error}); copy the exported folder again") from None
    told = f"{len(rows)} images, largest difference {np.max(apart):.1e}, {len(set(changed))} decided otherwise"
    if not np.max(apart) <= LARGEST_DIFFERENCE or changed:
        raise InputError(
            f"self-test failed: {told} ({listed(list(dict.fromkeys(changed)))}): this machine does not compute what was "
            "certified; install the packages of requirements.txt anew, or use --provider cpu"
        )
    return f"self-test passed: {told}"
