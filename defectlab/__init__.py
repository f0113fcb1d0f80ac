"""Classify surface defects with small CNNs and MobileNets.

Every command is a function here. A name is imported when it is first used, so that `import defectlab` and
`defectlab --help` need no torch.
"""

import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from defectlab.utils.lazy import lazy_names, name_places, resolve
from defectlab.utils.typed import typed

if TYPE_CHECKING:
    from defectlab.callbacks import EMA, SWA, RateFinder
    from defectlab.course.run import run_course as course
    from defectlab.data import (
        Augmentation,
        FashionMNISTDataModule,
        FlowersDataModule,
        ImageFolderDataModule,
        MNISTDataModule,
        NEUDataModule,
    )
    from defectlab.data.sources.fetch import fetch_neu as fetch
    from defectlab.data.synthesis.strip import synthesize
    from defectlab.data.tools.offline import augment_to_folder
    from defectlab.data.tools.preview import preview
    from defectlab.deploy.benchmark import benchmark
    from defectlab.deploy.export import Export, export
    from defectlab.deploy.runtime import Runtime
    from defectlab.deploy.verify import verify
    from defectlab.engine.adapt import adapt_weights
    from defectlab.engine.evaluate import Evaluation, test, validate
    from defectlab.engine.fit import fit, resume
    from defectlab.engine.record import record_run
    from defectlab.engine.start import choose_start
    from defectlab.engine.start_choice import Start, StartChoice
    from defectlab.errors import InputError
    from defectlab.evaluate.budget import label_budget
    from defectlab.evaluate.comparison import compare
    from defectlab.evaluate.crossval import cross_validate
    from defectlab.evaluate.ensemble import ensemble
    from defectlab.evaluate.harden import harden
    from defectlab.evaluate.inspection import inspect_data
    from defectlab.evaluate.leave_class_out import leave_class_out
    from defectlab.evaluate.robustness import robustness
    from defectlab.explain.kernels import explain_kernels
    from defectlab.explain.run import explain
    from defectlab.inference.flagging import Flagging
    from defectlab.inference.predict import predict
    from defectlab.inference.predictor import Predictor, load
    from defectlab.report import write_report as report
    from defectlab.runs import RunFolder
    from defectlab.runs.folder import open_run
    from defectlab.summary.compare import compare_networks
    from defectlab.summary.trace import summarize
    from defectlab.tasks import (
        ClassificationTask,
        OptimizerSettings,
        PretrainedTask,
        SchedulerSettings,
        SmallCNNTask,
    )
    from defectlab.tasks.checkpoint import load_task
    from defectlab.utils.card import DataCard

    Run = RunFolder

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 (by use)
    "fit", "resume", "choose_start", "adapt_weights", "test", "validate", "record_run", "open_run", "report",
    "predict", "load", "load_task", "export", "verify", "benchmark",
    "cross_validate", "leave_class_out", "compare", "ensemble", "robustness", "harden", "label_budget",
    "explain", "explain_kernels", "summarize", "compare_networks", "course",
    "fetch", "synthesize", "inspect_data", "preview", "augment_to_folder",
    "RunFolder", "Run", "Start", "StartChoice", "Evaluation", "Predictor", "Export", "Runtime", "Flagging", "DataCard", "InputError",
    "NEUDataModule", "MNISTDataModule", "FashionMNISTDataModule", "ImageFolderDataModule", "FlowersDataModule",
    "Augmentation", "ClassificationTask", "SmallCNNTask", "PretrainedTask", "OptimizerSettings", "SchedulerSettings",
    "EMA", "SWA", "RateFinder",
]  # fmt: skip

_PLACES = name_places({
    "engine.fit": "fit resume", "engine.evaluate": "test validate Evaluation", "engine.record": "record_run", "engine.start": "choose_start", "engine.start_choice": "Start StartChoice",
    "engine.adapt": "adapt_weights",
    "runs.folder": "open_run", "runs": "RunFolder Run=RunFolder", "report": "report=write_report",
    "inference.predict": "predict", "inference.flagging": "Flagging", "inference.predictor": "load Predictor",
    "deploy.export": "Export export", "deploy.runtime": "Runtime", "deploy.verify": "verify",
    "deploy.benchmark": "benchmark",
    "evaluate.crossval": "cross_validate", "evaluate.leave_class_out": "leave_class_out", "evaluate.comparison": "compare", "evaluate.ensemble": "ensemble",
    "evaluate.robustness": "robustness", "evaluate.harden": "harden", "evaluate.budget": "label_budget", "evaluate.inspection": "inspect_data",
    "explain.run": "explain", "explain.kernels": "explain_kernels",
    "summary.trace": "summarize", "summary.compare": "compare_networks", "course.run": "course=run_course",
    "data.sources.fetch": "fetch=fetch_neu", "data.synthesis.strip": "synthesize",
    "data.tools.preview": "preview", "data.tools.offline": "augment_to_folder",
    "utils.card": "DataCard", "errors": "InputError", "callbacks": "EMA SWA RateFinder",
    "data": "NEUDataModule MNISTDataModule FashionMNISTDataModule ImageFolderDataModule FlowersDataModule Augmentation",
    "tasks": "ClassificationTask SmallCNNTask PretrainedTask OptimizerSettings SchedulerSettings",
    "tasks.checkpoint": "load_task",
})  # fmt: skip


def _checked(name: str, value: Any) -> Any:
    return typed(value, __name__, name) if isinstance(value, FunctionType) else value


__getattr__ = lazy_names(globals(), _PLACES, together=False, wrap=_checked)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Room(ModuleType):
    """A package that is called as the function of its name: `defectlab.report(run)`, beside `defectlab.report.page`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function of the same name."""
        return _function(self)(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        """Return its signature."""
        import inspect

        return inspect.signature(_function(self))


def _function(room: ModuleType) -> Any:
    name = room.__name__.rpartition(".")[2]
    return _checked(name, resolve(__name__, _PLACES[name]))


class _Face(ModuleType):
    """This package: Python sets each room as an attribute when it is imported, whichever import comes first."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Make a package callable that has the name of a function."""
        if name in _PLACES and type(value) is ModuleType:
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
