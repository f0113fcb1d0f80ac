"""Build the linear probe of frozen features."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_probe(strength: float = 1.0) -> Pipeline:
    """Build a logistic regression on standardised features; `strength` is the inverse of its penalty."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
