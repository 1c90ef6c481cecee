"""A linear classifier on features, by scikit-learn: its regularisation from cross-validation, its accuracy."""

import warnings
from typing import NamedTuple

import numpy as np

from util.logger import log, progress

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of LogisticRegression; smaller means more regularisation
FOLDS = 5


class Fitted(NamedTuple):
    """scores = features @ weight.T + bias."""

    weight: np.ndarray  # float64 [K, C]
    bias: np.ndarray  # float64 [K]
    strength: float  # C of LogisticRegression
    guesses: np.ndarray  # int64 [n]: the class of each photo by a classifier that was fitted without it


def fit(features, cells, labels):
    """Fitted, a multinomial logistic regression on standardised features.

    features: float [n, C], the mean over the cells of each photo, from which it learns; cells: float [n, C], of one
    cell of each; labels: int [n], with every class from 0 to K − 1 at least FOLDS times. Its C is that of STRENGTHS
    with which the cells of photos outside of the fit predict the label best (log loss), in stratified cross-validation:
    the training uses the probabilities of cells, and what is best for whole photos is overconfident for cells. Raises
    ImportError without scikit-learn.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, cells = features.astype('float64'), cells.astype('float64')
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels))
    losses, guesses, of_cells = (
        [],
        np.empty([len(STRENGTHS), len(labels)], int),
        np.empty([len(labels), labels.max() + 1]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # 500 steps are enough to compare the strengths
        for i, strength in enumerate(progress(STRENGTHS, 'strengths')):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
            for inside, outside in folds:
                model.fit(features[inside], labels[inside])
                guesses[i, outside] = model.predict(features[outside])
                of_cells[outside] = model.predict_proba(cells[outside])
            losses.append(log_loss(labels, of_cells))
            share = accuracy(guesses[i] == labels)
            log(f'C {strength:g}: {share} of the photos right, log loss of cells {losses[-1]:.4f}')
        best = int(np.argmin(losses))
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTHS[best], max_iter=500))
        model.fit(features, labels)
    return Fitted(*without_scaling(model[0], model[1]), STRENGTHS[best], guesses[best])


def without_scaling(scaler, regression):
    """(weight [K, C], bias [K]) that give the same probabilities for features that are not standardised."""
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes: the score of the second minus that of the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_


def accuracy(right):
    """'93.4 % (91.7 to 94.8)' from bool [n]: the share of the right answers and its 95 % interval (Wilson)."""
    from scipy.stats import binomtest

    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method='wilson')
    return f'{100 * right.mean():.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})'
