"""scikit-learn: one pickle of an estimator or Pipeline."""

from __future__ import annotations

from kwdbml.frameworks.base import Estimators, Framework

FRAMEWORK: Framework = Estimators()
