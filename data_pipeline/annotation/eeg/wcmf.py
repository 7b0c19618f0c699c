"""The weight-based channel-model matrix (WCMF) as a scikit-learn estimator (spec eeg_wcmf.md sections 2.2 and 3.1).

One small model for each channel reads that channel's bands alone. Their logits are summed with a weight for each
channel and class, so that a person's own emotional pattern is said by the weights and needs no training. Inputs are
(sample, channel, band) everywhere: weights and models meet in that layout and are never flattened.

`source` and `target` are the published fusion rules. `agreement` and `signed` are this project's, and `equal` is none.

What is not here: weights that are trained, and networks deeper than the published 5-15-10. Needs the extra `eeg`.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import numpy as np

from data_pipeline.annotation.eeg.weights import class_weights, pair_weights, subsampled_weights
from data_pipeline.schema.registry import unknown_name

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning, NotFittedError
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils.validation import check_array, check_is_fitted, check_X_y
except ImportError as error:
    raise ModuleNotFoundError(f"reading EEG needs scikit-learn ({error}): pip install 'rdt-stack[eeg]'") from error

Fusion = Literal["equal", "source", "target", "agreement", "signed"]
CALIBRATED: tuple[Fusion, ...] = ("target", "agreement", "signed")
"""Fusions that want labelled samples of the person."""

HIDDEN, EPOCHS = (15, 10), 50
"""Of the published channel model, 5 -> 15 -> 10 -> classes; theirs has LeakyReLU, scikit-learn's has ReLU. How long
theirs is trained is not published.
"""


def fuse(fusion: Fusion, source: np.ndarray, target: np.ndarray | None) -> np.ndarray:
    """Weights (pair, channel, band) of signed ones of the source data and of the person.

    equal: 1. source: |CT_s|. target: |CT_t|. agreement: sqrt(max(0, CT_s CT_t)), a feature counts where both have one
    direction. signed: sign(CT_s CT_t) sqrt(|CT_s CT_t|), one that runs the other way in this person votes reversed.
    """
    if fusion == "equal":
        return np.ones_like(source)
    if fusion == "source":
        return np.abs(source)
    if target is None:
        raise ValueError(f"fusion {fusion!r} weighs channels by labelled samples of the person: there are none")
    if fusion == "target":
        return np.abs(target)
    product = source * target
    return np.sqrt(np.maximum(0, product)) if fusion == "agreement" else np.sign(product) * np.sqrt(np.abs(product))


class ChannelModelMatrix(ClassifierMixin, BaseEstimator):
    """A model for each channel, fused by weights. `fit` on source people, `calibrate` on a few trials of a new one.

    Classes are ordered: the first is negative, the last positive. `groups` are the trials of the samples, by which
    weights are subsampled; without them weights are taken of all samples at once. Features should be z-scored within
    each person and session (`personal_zscore`).
    """

    def __init__(
        self,
        fusion: Fusion = "source",
        model: Literal["logistic", "mlp"] = "logistic",
        weight: str = "ct",
        num_subsamples: int = 50,
        segments_per_trial: int = 30,
        C: float = 1.0,
        random_state: int = 0,
    ) -> None:
        """`weight` is of `weights.METHODS`; `C` the inverse regularisation of the logistic models."""
        self.fusion = fusion
        self.model = model
        self.weight = weight
        self.num_subsamples = num_subsamples
        self.segments_per_trial = segments_per_trial
        self.C = C
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> ChannelModelMatrix:
        """Train the channel models on `X` (sample, channel, band) and weigh them; forgets any person."""
        if self.fusion not in get_args(Fusion):
            raise ValueError(unknown_name("fusion", self.fusion, get_args(Fusion)))
        X, y = _labelled(X, y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"samples of two classes or more are needed, got only {self.classes_.tolist()}")
        self.n_features_in_ = X.shape[1] * X.shape[2]
        self.shape_in_ = X.shape[1:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the MLP's epochs are a number that was chosen
            self.models_ = [self._channel_model().fit(X[:, channel], y) for channel in range(X.shape[1])]
        self.source_weights_ = self._weigh(X, y, groups)
        self.target_weights_: np.ndarray | None = None
        self.num_calibrations_ = 0
        self.sharpness_ = 1.0
        if self.fusion not in CALIBRATED:
            self._sharpen(X, y)
        return self

    def calibrate(
        self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, *, update: bool = False
    ) -> ChannelModelMatrix:
        """Weigh the channels by labelled samples of one person. `update` averages them with what was known of the
        person before: a further session.
        """
        check_is_fitted(self, "models_")
        X, y = _labelled(X, y)
        self._check_shape(X)
        foreign = sorted(set(np.unique(y).tolist()) - set(self.classes_.tolist()))
        if foreign:
            raise ValueError(f"labels {foreign} are none of the classes that were fitted, {self.classes_.tolist()}")
        found = self._weigh(X, y, groups)
        if update and self.target_weights_ is not None:
            self.num_calibrations_ += 1
            self.target_weights_ = self.target_weights_ + (found - self.target_weights_) / self.num_calibrations_
        else:
            self.num_calibrations_, self.target_weights_ = 1, found
        self._sharpen(X, y)
        return self

    def channel_weights(self) -> np.ndarray:
        """W (channel, class); the absolute weights of a class sum to 1, or are all 0 where nothing tells it apart."""
        check_is_fitted(self, "models_")
        if self.fusion in CALIBRATED and self.target_weights_ is None:
            raise NotFittedError(
                f"fusion {self.fusion!r} needs labelled samples of the person: call calibrate(X, y) first, or use "
                "fusion='source'"
            )
        W = class_weights(fuse(self.fusion, self.source_weights_, self.target_weights_), len(self.classes_))
        total = np.abs(W).sum(axis=0, keepdims=True)
        return np.divide(W, total, out=np.zeros_like(W), where=total > 0)

    def channel_logits(self, X: np.ndarray) -> np.ndarray:
        """What each channel's model says alone, (sample, channel, class), of mean 0 over the classes."""
        check_is_fitted(self, "models_")
        X = check_array(X, allow_nd=True)
        self._check_shape(X)
        logits = np.stack([_logits(model, X[:, channel]) for channel, model in enumerate(self.models_)], axis=1)
        return logits - logits.mean(axis=2, keepdims=True)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """sum over channels of W[channel, class] logit[channel, class], (sample, class) for two classes, too."""
        return np.einsum("nck,ck->nk", self.channel_logits(X), self.channel_weights())

    def predict(self, X: np.ndarray) -> np.ndarray:
        scores = self.decision_function(X)
        return self.classes_[scores.argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Softmax of the sums, as sharp as the labelled samples had it: one number, fitted to their likelihood."""
        return _softmax(self.sharpness_ * self.decision_function(X))

    def valence(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P(last class) - P(first class) in [-1, 1], confidence in [0, 1]) of each sample.

        The confidence is 1 - entropy / log(classes): 0 where all are alike. It says how sure the model is of its
        answer, not how good the model is.
        """
        p = self.predict_proba(X)
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        return p[:, -1] - p[:, 0], np.clip(1 - entropy / np.log(len(self.classes_)), 0, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def _channel_model(self) -> Any:
        if self.model == "logistic":
            return LogisticRegression(C=self.C, max_iter=500)
        if self.model == "mlp":
            return MLPClassifier(HIDDEN, activation="relu", max_iter=EPOCHS, random_state=self.random_state)
        raise ValueError(unknown_name("channel model", self.model, ("logistic", "mlp")))

    def _weigh(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        if groups is None:
            return pair_weights(X, y, self.classes_, self.weight)
        if len(groups) != len(X):
            raise ValueError(f"groups name the trial of each sample: {len(X)} samples, {len(groups)} groups")
        return subsampled_weights(
            X,
            y,
            np.asarray(groups),
            self.classes_,
            np.random.default_rng(self.random_state),
            method=self.weight,
            num_subsamples=self.num_subsamples,
            segments_per_trial=self.segments_per_trial,
        )

    def _sharpen(self, X: np.ndarray, y: np.ndarray) -> None:
        """The factor of the sums under which the labels are likeliest."""
        from scipy.optimize import minimize_scalar

        scores = self.decision_function(X)
        labels = np.searchsorted(self.classes_, y)

        def cost(log_factor: float) -> float:
            p = _softmax(np.exp(log_factor) * scores)
            return -float(np.log(np.maximum(p[np.arange(len(p)), labels], 1e-300)).mean())

        self.sharpness_ = float(np.exp(minimize_scalar(cost, bounds=(-5, 5), method="bounded").x))

    def _check_shape(self, X: np.ndarray) -> None:
        if X.ndim != 3 or X.shape[1:] != self.shape_in_:
            channels, bands = self.shape_in_
            raise ValueError(
                f"the matrix was fitted to {channels} channels x {bands} bands, got samples of shape {X.shape[1:]}"
            )


def _labelled(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    X, y = check_X_y(X, y, allow_nd=True)
    if X.ndim != 3:
        raise ValueError(f"X must be (sample, channel, band), got shape {X.shape}")
    return X, y


def _logits(model: Any, X: np.ndarray) -> np.ndarray:
    """(sample, class) up to a constant."""
    if isinstance(model, MLPClassifier):
        return model.predict_log_proba(X)
    scores = model.decision_function(X)
    return scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1) / 2


def _softmax(scores: np.ndarray) -> np.ndarray:
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)
