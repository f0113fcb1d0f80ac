"""`defectlab fit`: train, then evaluate the best checkpoint once."""

from pathlib import Path

from defectlab.cli.arguments import take_option
from defectlab.cli.console import print_run
from defectlab.engine.fit import run_fit


def run(words: list[str]) -> int:
    """Train as a config says."""
    if {"-h", "--help"} & set(words):
        from defectlab.cli.help import fit_help

        print(fit_help(words))
        raise SystemExit(0)
    output, words = take_option("output", words)
    print_run(run_fit(words, None if output is None else Path(output))[1])
    return 0
