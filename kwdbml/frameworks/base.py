"""What a step asks of a machine-learning framework, and what those with scikit-learn's interface share."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from kwdbml.errors import InvalidParameter, KwdbmlError

#: What a model predicts on: a frame with named columns, an array, or TensorFlow's named tensors.
Inputs = Any
Array = npt.NDArray[Any]


class Framework(Protocol):
    """``directory`` is always the bundle's ``model/``."""

    name: str

    @property
    def files(self) -> str:
        """What ``load`` looks for, for error messages."""

    def is_model(self, value: Any) -> bool:
        """Whether ``save`` and ``predict`` know what to do with it."""

    def save(self, model: Any, directory: Path) -> None:
        """Write it the framework's usual way."""

    def find(self, directory: Path) -> Path | None:
        """The file or directory that ``load`` would read."""

    def load(self, directory: Path) -> Any:
        """The model. InvalidParameter when there is no file to load, or when it holds something else."""

    def set_threads(self, model: Any, threads: int) -> None:
        """Have a loaded model predict with that many threads."""

    def predict(self, model: Any, inputs: Inputs) -> Array:
        """The model's own answer: (rows,), or (rows, k) for several targets or class probabilities."""

    def scores(self, model: Any, inputs: Inputs) -> Array | None:
        """(rows, classes) probabilities or decision values, in the order of ``classes``; None without them."""

    def classes(self, model: Any) -> list[Any] | None:
        """The labels that the model was trained on, when it knows them."""


def require(module: str, extra: str) -> ModuleType:
    """The module; InvalidParameter with the cure when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidParameter(
            f"{module} cannot be imported where jobs run: {error}",
            hint=f"install it there: pip install 'kwdbml[{extra}]'",
        ) from error


class Estimators:
    """Models with scikit-learn's interface (``predict``, maybe ``predict_proba``), as one pickle file."""

    name = "sklearn"
    pickles: tuple[str, ...] = ("model.joblib", "model.pkl", "model.pickle")
    native: tuple[str, ...] = ()

    @property
    def files(self) -> str:
        return ", ".join(f"model/{name}" for name in (*self.pickles, *self.native))

    def is_model(self, value: Any) -> bool:
        return callable(getattr(value, "predict", None)) and not isinstance(value, type)

    def save(self, model: Any, directory: Path) -> None:
        import joblib

        joblib.dump(model, directory / self.pickles[0])

    def find(self, directory: Path) -> Path | None:
        paths = [directory / name for name in (*self.pickles, *self.native)]
        return next((path for path in paths if path.is_file()), None)

    def load(self, directory: Path) -> Any:
        path = self.find(directory)
        if path is None:
            raise InvalidParameter(f"the model bundle has none of {self.files}")
        with _explained(path, self.name):
            model = self.load_native(path) if path.name in self.native else self._unpickled(path)
        if not self.is_model(model):
            raise InvalidParameter(f"model/{path.name} holds a {type(model).__name__}, which has no predict method")
        self._check_booster(model, path)
        return model

    def _check_booster(self, model: Any, path: Path) -> None:
        """Boosters have a predict method of their own each; estimators of other libraries are like scikit-learn's."""
        library = type(model).__module__.partition(".")[0]
        if type(model).__name__ == "Booster" and library in ("xgboost", "lightgbm") and library != self.name:
            raise InvalidParameter(
                f"model/{path.name} holds a Booster of {library}, and the model is declared as one of {self.name}",
                hint=f"import it with a framework of {library}",
            )

    @staticmethod
    def _unpickled(path: Path) -> Any:
        """User code runs here. joblib reads plain pickles too, but not every protocol-0 one: those pickle reads."""
        if path.suffix == ".joblib":
            import joblib

            return joblib.load(path)
        with path.open("rb") as file:
            try:
                return pickle.load(file)  # noqa: S301 -- in the sandbox, as every model
            except (pickle.UnpicklingError, ValueError) as first:
                import joblib

                try:
                    return joblib.load(path)
                except (pickle.UnpicklingError, ValueError, KeyError, EOFError):
                    raise first from None  # what joblib says of a damaged pickle helps nobody

    def load_native(self, path: Path) -> Any:
        raise NotImplementedError(path.name)

    def set_threads(self, model: Any, threads: int) -> None:
        """Only where the model was saved with a number: None is one thread, and OpenMP's default is the job's share."""
        if not hasattr(model, "get_params") or not hasattr(model, "set_params"):
            return
        parallel = [name for name, value in model.get_params(deep=True).items() if name.endswith("n_jobs") and value]
        if parallel:
            model.set_params(**dict.fromkeys(parallel, threads))

    def predict(self, model: Any, inputs: Inputs) -> Array:
        return as_array(model.predict(self.inputs(model, inputs)))

    def inputs(self, model: Any, inputs: Inputs) -> Inputs:
        """What the model's own functions get."""
        return for_model(model, inputs)

    def scores(self, model: Any, inputs: Inputs) -> Array | None:
        for method in ("predict_proba", "decision_function"):
            if hasattr(model, method):
                values = getattr(model, method)(self.inputs(model, inputs))
                if isinstance(values, list):  # several targets: one table each
                    return None
                return as_array(values)
        return None

    def classes(self, model: Any) -> list[Any] | None:
        classes = getattr(model, "classes_", None)
        return None if classes is None or isinstance(classes, list) else list(np.asarray(classes).tolist())


@contextmanager
def _explained(path: Path, framework: str) -> Iterator[None]:
    """A model file that cannot be read, as InvalidParameter with the cure; what user code raises stays its cause."""
    try:
        yield
    except (KwdbmlError, OSError, MemoryError):
        raise
    except (ImportError, AttributeError) as error:
        raise InvalidParameter(
            f"model/{path.name} needs what is not here: {error}",
            hint="bring it in modules.zip or requirements.txt, or save the model with the versions that run here",
        ) from error
    except Exception as error:
        raise InvalidParameter(
            f"model/{path.name} cannot be read as a model of {framework}: {type(error).__name__}: {error}",
            hint="it is damaged, or was saved by another library or version",
        ) from error


def as_array(values: Any) -> Array:
    """The values as one array, without guessing a text type of fixed width."""
    array = values.to_numpy() if isinstance(values, (pd.DataFrame, pd.Series)) else np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    return array.astype(object) if array.dtype.kind == "U" else array


def for_model(model: Any, inputs: Inputs) -> Inputs:
    """The inputs as the model was fitted: its columns by name and in its order, or a plain array."""
    names = getattr(model, "feature_names_in_", None)
    if isinstance(inputs, pd.DataFrame):
        if names is None:  # an estimator fitted on an array wants an array; anything else may look at names
            return inputs.to_numpy() if hasattr(model, "n_features_in_") else inputs
        found = columns_of(inputs, list(names))
        return inputs if found is None else inputs[found]
    array = np.asarray(inputs)
    if names is not None and array.ndim == 2 and array.shape[1] == len(names):
        return pd.DataFrame(array, columns=list(names)).infer_objects()
    return array


def columns_of(frame: pd.DataFrame, names: list[str]) -> list[Any] | None:
    """The frame's columns of these names, in their order; None when one is missing."""
    for spelled in (str, _underscored):
        own = {spelled(column): column for column in frame.columns}
        if all(name in own for name in names):
            return [own[name] for name in names]
    return None


def _underscored(column: Any) -> str:
    """LightGBM writes blanks in names as underscores."""
    return str(column).replace(" ", "_")
