"""LightningModules: what is trained, with which loss, judged how."""

from typing import TYPE_CHECKING

from defectlab.utils.lazy import lazy_names

if TYPE_CHECKING:
    from defectlab.tasks.base import ClassificationTask
    from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
    from defectlab.tasks.pretrained import PretrainedTask
    from defectlab.tasks.small_cnn import SmallCNNTask

__all__ = [
    "ClassificationTask", "OptimizerSettings", "PretrainedTask", "SchedulerSettings", "SmallCNNTask",
]  # fmt: skip

__getattr__ = lazy_names(globals(), {
    "ClassificationTask": "base",
    "OptimizerSettings": "optimization",
    "SchedulerSettings": "optimization",
    "PretrainedTask": "pretrained",
    "SmallCNNTask": "small_cnn",
})  # fmt: skip
