"""LightningModules: what is trained, with which loss, judged how."""

from defectlab.tasks.base import ClassificationTask
from defectlab.tasks.mobilenet import MobileNetTask
from defectlab.tasks.optimization import OptimizerSettings, SchedulerSettings
from defectlab.tasks.small_cnn import SmallCNNTask

__all__ = ["ClassificationTask", "MobileNetTask", "OptimizerSettings", "SchedulerSettings", "SmallCNNTask"]
