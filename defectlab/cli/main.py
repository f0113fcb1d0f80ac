"""`defectlab`: one program, its commands. Nothing heavy is imported before a command needs it."""

import logging
import os
import sys
from collections.abc import Sequence

import defectlab
from defectlab.errors import InputError

COMMANDS = {
    "fit": "train, then test the best checkpoint once:  fit --config neu_mobilenet.yaml [--data.root DIR] ...",
    "resume": "go on where a stopped run was:              resume RUN",
    "validate": "the validation figures of a checkpoint:     validate RUN | --config C --ckpt_path FILE",
    "test": "the test figures of the best checkpoint:    test RUN | --config C --ckpt_path FILE",
    "predict": "label pictures:                             predict RUN|CKPT IMAGES... --output out.csv",
    "report": "write report.html and its figures anew:     report RUN",
    "data": "data sets:                                  data fetch [DIR] | data synthesize DIR",
    "configs": "list the shipped configs, or print one:     configs [NAME]",
}


def usage() -> str:
    """The text of `defectlab --help`."""
    lines = "\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items())
    return (
        f"defectlab {defectlab.__version__}: classify surface defects\n\nusage: defectlab COMMAND ...\n\n{lines}\n\n"
        "defectlab COMMAND --help tells more. RUN is the folder that fit leaves behind, runs/<config>/<time>."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 1 for unusable input, 2 for a usage error, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"defectlab {defectlab.__version__}")
        return 0
    logging.basicConfig(format="defectlab: %(message)s", stream=sys.stderr)
    logging.getLogger("defectlab").setLevel(logging.INFO if _is_first_process() else logging.ERROR)
    try:
        return _run(words[0], words[1:])
    except InputError as error:
        return _complain(str(error))
    except MemoryError:
        return _complain("out of memory: lower data.batch_size or data.image_size")
    except OSError as error:
        # A full disk, a folder without write permission: nothing a traceback would explain better.
        return _complain(f"{error.strerror or error}: {error.filename or 'no file named'}")
    except KeyboardInterrupt:
        print("defectlab: stopped", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    line = " ".join(message.split())
    if _is_first_process():
        print(f"defectlab: error: {line}", file=sys.stderr)
    return 1


def _is_first_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _run(command: str, words: list[str]) -> int:
    if command in ("fit", "resume", "validate", "test"):
        from defectlab.cli import training

        return training.run(command, words)
    if command == "predict":
        from defectlab.cli import predict

        return predict.run(words)
    if command == "report":
        from defectlab.cli import report

        return report.run(words)
    if command == "data":
        from defectlab.cli import data

        return data.run(words)
    if command == "configs":
        from defectlab.cli import configs

        return configs.run(words)
    from difflib import get_close_matches

    near = get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
    raise InputError(f"there is no command {command!r}: {hint}")


if __name__ == "__main__":
    sys.exit(main())
