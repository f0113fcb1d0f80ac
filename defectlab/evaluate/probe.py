"""Build the linear probe of frozen features."""

from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_probe(strength: float = 1.0, several: bool = False) -> Pipeline:
    """Build a logistic regression on standardised features; `strength` is the inverse of its penalty.

    With `several` it is one for each class, for labels (N, C) of 0 and 1.
    """
    model = LogisticRegression(C=strength, max_iter=1000)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(model) if several else model)
