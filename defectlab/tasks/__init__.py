"""LightningModules: what is trained, with which loss, judged how."""

from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.pretrained import PretrainedTask
from defectlab.tasks.small_cnn import SmallCNNTask

__all__ = [
    "ClassificationTask", "OptimizerSettings", "PretrainedTask", "SchedulerSettings", "SmallCNNTask",
]  # fmt: skip
