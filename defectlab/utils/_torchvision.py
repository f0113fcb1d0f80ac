"""torchvision's files of single networks, as a package of their own: `models.mobilenetv3` below this module, and so on.

torchvision's own packages import all that they have when one module of them is asked for: every network, and by the
operators of detection torch's compiler. The packages here have the same files and import nothing by themselves. Nobody
else sees them: `import torchvision` stays what it is. Only `defectlab.utils._compat` imports this.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType


def _package(name: str, folder: Path) -> ModuleType:
    spec = ModuleSpec(f"{__name__}.{name}", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return sys.modules.setdefault(spec.name, module_from_spec(spec))


_found = find_spec("torchvision")  # without importing it
if _found is None or not _found.submodule_search_locations:
    raise ImportError("torchvision is not installed as a folder")
__path__ = list(_found.submodule_search_locations)

_package("ops", Path(__path__[0], "ops"))
transforms = _package("transforms", Path(__path__[0], "transforms"))
transforms.InterpolationMode = import_module(f"{transforms.__name__}.functional").InterpolationMode  # type: ignore[attr-defined]
models = _package("models", Path(__path__[0], "models"))
for _file in ("mobilenetv2", "mobilenetv3", "resnet", "vgg", "_api"):
    import_module(f"{models.__name__}.{_file}")
for _name in ("get_model", "get_model_weights"):
    setattr(models, _name, getattr(models._api, _name))
