"""A model with what stands around it: loaded where its own modules are, fed and read through the transformer."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd

from kwdbml.frameworks.base import Framework, as_array
from kwdbml.steps.bundle import Bundle
from kwdbml.steps.failure import BadReturn
from kwdbml.steps.metrics import Answers
from kwdbml.steps.transform import PredictionTransformer


class Predictor:
    """``bundle`` holds the code that the model may need; None for built-in models."""

    def __init__(
        self,
        framework: Framework,
        model: Any,
        bundle: Bundle | None = None,
        transformer: PredictionTransformer | None = None,
    ) -> None:
        self._framework = framework
        self._model = model
        self._bundle = bundle
        self._transformer = transformer

    @classmethod
    def load(
        cls, framework: Framework, bundle: Bundle, transformer: PredictionTransformer | None, threads: int
    ) -> Self:
        """From a model bundle's ``model/``; what is pickled there is user code."""
        model = bundle.call(framework.load, bundle.root / "model")
        bundle.call(framework.set_threads, model, threads)
        return cls(framework, model, bundle, transformer)

    def answers(self, frame: pd.DataFrame, *, with_scores: bool = False) -> Answers:
        """What the model says of each row, after postprocessing; as many rows as ``frame``."""
        if with_scores and self._bundle is None:
            return self._built_in(frame)
        inputs = self._transformer.before(frame) if self._transformer else frame
        values = as_array(self._run("predict", inputs))
        if values.ndim not in (1, 2) or len(values) != len(frame):
            raise BadReturn(f"the model gave an answer of shape {values.shape} for {len(frame)} rows")
        if self._transformer:
            values = self._transformer.after(values)
        if not with_scores:
            return Answers(values)
        return Answers(values, self._run("scores", inputs), self._classes(values))

    def _built_in(self, frame: pd.DataFrame) -> Answers:
        """Of our own classifiers the answer is the class with the highest score: no need to predict twice."""
        classes = self._framework.classes(self._model)
        scores = self._framework.scores(self._model, frame)
        if classes is None or scores is None:
            return Answers(self._framework.predict(self._model, frame))
        labels = np.asarray(classes)
        labels = labels.astype(object) if labels.dtype.kind == "U" else labels
        return Answers(labels[np.argmax(scores, axis=1)], scores, classes)

    def _run(self, method: str, inputs: Any) -> Any:
        function = getattr(self._framework, method)
        return self._bundle.call(function, self._model, inputs) if self._bundle else function(self._model, inputs)

    def _classes(self, values: Any) -> list[Any] | None:
        """The model's own labels, unless postprocessing has given them other names."""
        classes = self._framework.classes(self._model)
        if classes is None or (self._transformer and self._transformer.postprocesses):
            known = set(classes or [])
            return classes if known and values.ndim == 1 and set(values.tolist()) <= known else None
        return classes
