"""Lightning callbacks for `trainer.callbacks` of a config."""

from defectlab.callbacks.averaging import EMA, SWA, AveragedWeights
from defectlab.callbacks.distillation import Distillation
from defectlab.callbacks.last import LastCheckpoint
from defectlab.callbacks.rate_finder import RateFinder

__all__ = ["EMA", "SWA", "AveragedWeights", "Distillation", "LastCheckpoint", "RateFinder"]
