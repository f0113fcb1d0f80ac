"""Import the classes and networks of a user's own that a config names."""

import importlib.util
import inspect
import re
import sys
import sysconfig
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from defectlab.engine.configs import Arguments
from defectlab.errors import InputError
from defectlab.tasks.hparams import NetworkSpec, named_classes

_CLASS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"
_FIRST = ["num_classes", "in_channels", "image_size"]


def import_folders(config: Any) -> list[str]:
    """Return the folders that a config's own modules were imported from, without those of installed packages."""
    installed = {Path(folder).resolve() for folder in sysconfig.get_paths().values()}
    found: list[str] = []
    for path in sorted(named_classes(config)):
        file = getattr(sys.modules.get(path.split(".")[0]), "__file__", None)
        if file is None or path.split(".")[0] in ("defectlab", "__main__"):
            continue
        folder = Path(file).resolve().parents[1 if Path(file).name == "__init__.py" else 0]
        if not {folder, *folder.parents} & installed and str(folder) not in found:
            found.append(str(folder))
    return found


def check_imports(arguments: Arguments) -> None:
    """Raise InputError with the error, file and line of an own module that a command names and that fails to import."""
    values = [word.rpartition("=")[2] for word in arguments.words]
    classes = {value for value in values if re.fullmatch(_CLASS, value)} | named_classes(arguments.sections)
    for path in sorted(classes):
        module = path.rpartition(".")[0]
        try:
            if module and module not in sys.modules and importlib.util.find_spec(module.split(".")[0]):
                import_module(module)
        except Exception as error:  # whatever a module of somebody's raises
            if isinstance(error, ModuleNotFoundError) and error.name and module.startswith(error.name):
                continue
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename}, line {last.lineno}"
            if isinstance(error, SyntaxError):
                place = f"{error.filename}, line {error.lineno}"
            raise InputError(f"{module} cannot be imported: {type(error).__name__}: {error} ({place})") from None


def own_network(value: Any) -> NetworkSpec:
    """Parse the network that a config names for `build_network`; ValueError for what the parser builds itself."""
    spec: dict[str, Any] = value if isinstance(value, dict) else {"class_path": value}
    path = str(spec.get("class_path"))
    module, _, name = path.rpartition(".")
    if not module or module.split(".")[0] == "defectlab":
        raise ValueError("one of defectlab's networks")
    found = getattr(import_module(module), name)
    if inspect.isclass(found) and list(inspect.signature(found).parameters)[:3] == _FIRST:
        raise ValueError("the same three first arguments")
    return NetworkSpec(path, spec.get("init_args"))
