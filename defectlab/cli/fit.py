"""`defectlab fit`: train, then judge the best checkpoint once."""

from defectlab.cli.console import print_run
from defectlab.engine.configs import resolve_config_arguments
from defectlab.engine.experiment import DefectCLI
from defectlab.engine.fit import train_and_test
from defectlab.engine.warnings import quieten
from defectlab.errors import InputError
from defectlab.runs import RunFolder

__all__ = ["run"]


def run(words: list[str]) -> int:
    """Train as a config says."""
    quieten()
    words, name = resolve_config_arguments(words)
    if name is None and not {"-h", "--help", "--print_config"} & set(words):
        raise InputError("fit needs a config: defectlab fit --config neu_mobilenet.yaml (see defectlab configs)")
    cli = DefectCLI("fit", words, name=name or "run")
    try:
        print_run(train_and_test(cli))
    except (InputError, OSError):
        if cli.trainer.global_step == 0:
            cli.discard()
        raise
    finally:
        if cli.run is not None and not RunFolder(cli.run).config.is_file():
            cli.discard()
    return 0
