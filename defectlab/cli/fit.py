"""`defectlab fit`: train, then evaluate the best checkpoint once."""

from pathlib import Path

from defectlab.cli.console import print_run
from defectlab.engine.configs import resolve_config_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.fit import train_and_discard
from defectlab.errors import InputError


def run(words: list[str]) -> int:
    """Train as a config says."""
    if {"-h", "--help"} & set(words):
        from defectlab.cli.help import fit_help

        print(fit_help(words))
        raise SystemExit(0)
    output, words = _take_output(words)
    words, name = resolve_config_arguments(words)
    if name is None and "--print_config" not in words:
        raise InputError("fit needs a config: defectlab fit --config neu_mobilenet.yaml (see defectlab configs)")
    print_run(train_and_discard(DefectCLI("fit", words, name=name, output=output)))
    return 0


def _take_output(words: list[str]) -> tuple[Path | None, list[str]]:
    """The path of `--output`, which is no option of Lightning's, and the other words."""
    rest: list[str] = []
    output: str | None = None
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        if option == "--output":
            output = value if equals else next(given, "")
            if not output or output.startswith("--"):
                raise InputError("--output has no value: expected the path of a new run folder")
        else:
            rest.append(word)
    return None if output is None else Path(output), rest
