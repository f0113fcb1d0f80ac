"""The linear probe: what a frozen network's features are worth."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

__all__ = ["linear_probe"]


def linear_probe(strength: float = 1.0) -> Pipeline:
    """Logistic regression on standardised features, yet to be fitted; `strength` is the inverse of its penalty."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
