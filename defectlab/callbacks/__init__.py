"""Lightning callbacks for `trainer.callbacks` of a config."""

from defectlab.callbacks.averaging import EMA, SWA

__all__ = ["EMA", "SWA"]
