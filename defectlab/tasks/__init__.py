"""LightningModules: what is trained, with which loss, and how it is evaluated."""

from typing import TYPE_CHECKING

from defectlab.utils.lazy import lazy_names, name_places

if TYPE_CHECKING:
    from defectlab.tasks.base import ClassificationTask
    from defectlab.tasks.feature_distillation import FeatureDistillationTask
    from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
    from defectlab.tasks.pretrained import PretrainedTask
    from defectlab.tasks.small_cnn import SmallCNNTask

__all__ = [
    "ClassificationTask", "FeatureDistillationTask", "OptimizerSettings", "PretrainedTask", "SchedulerSettings",
    "SmallCNNTask",
]  # fmt: skip

__getattr__ = lazy_names(globals(), name_places({
    "base": "ClassificationTask",
    "feature_distillation": "FeatureDistillationTask",
    "optimization": "OptimizerSettings SchedulerSettings",
    "pretrained": "PretrainedTask",
    "small_cnn": "SmallCNNTask",
}))  # fmt: skip
