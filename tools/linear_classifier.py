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
    cell of each; labels: int64 [n], with every class from 0 to K − 1 at least FOLDS times. Its C is that of STRENGTHS
    with which the cells of photos outside of the fit predict the label best: training uses the probabilities of cells,
    and what is best for whole photos is overconfident for cells.
    """
    features, cells = features.astype('float64'), cells.astype('float64')
    tried = []
    for strength in progress(STRENGTHS, 'strengths'):
        loss, guesses = cross_validate(strength, features, cells, labels)
        share = accuracy((guesses == labels).sum(), len(labels))
        log(f'C {strength:g}: {share} of the photos right, log loss of the cells {loss:.4f}')
        tried.append((loss, strength, guesses))
    _, strength, guesses = min(tried, key=lambda result: result[0])
    scaler, regression = fit_scaled(strength, features, labels)
    return Fitted(*without_scaling(scaler, regression), strength, guesses)


def cross_validate(strength, features, cells, labels):
    """(log loss of the cells, class of each photo int64 [n]) by classifiers that were fitted to the other folds."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    guesses, probabilities = np.empty_like(labels), np.empty([len(labels), labels.max() + 1])
    for inside, outside in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, labels):
        scaler, regression = fit_scaled(strength, features[inside], labels[inside])
        guesses[outside] = regression.predict(scaler.transform(features[outside]))
        probabilities[outside] = regression.predict_proba(scaler.transform(cells[outside]))
    return log_loss(labels, probabilities), guesses


def fit_scaled(strength, features, labels):
    """(StandardScaler, LogisticRegression) of scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # after 500 steps the rest does not matter here
        regression = LogisticRegression(C=strength, max_iter=500).fit(scaler.transform(features), labels)
    return scaler, regression


def without_scaling(scaler, regression):
    """(weight [K, C], bias [K]) that give the same probabilities for features that are not standardised."""
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes: the score of the second minus that of the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_


def accuracy(right, photos):
    """'93.4 % (91.7 to 94.8)': the share of the right ones among `photos`, and its 95 % interval (Wilson)."""
    from scipy.stats import binomtest

    interval = binomtest(int(right), photos).proportion_ci(method='wilson')
    return f'{100 * right / photos:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})'
