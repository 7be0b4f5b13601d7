"""One module per machine-learning framework, behind one protocol (:mod:`kwdbml.frameworks.base`).

Nothing heavy is imported before :func:`framework` is called, since :mod:`kwdbml.frameworks.algorithms` is also
imported inside the database server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from kwdbml.errors import InvalidParameter

if TYPE_CHECKING:
    from kwdbml.frameworks.base import Framework

#: Name in a pipeline's or model's declaration, and the distribution to look for when it cannot be imported.
FRAMEWORKS = ("sklearn", "xgboost", "lightgbm", "tensorflow")


def framework(name: str) -> Framework:
    """The framework of that name. InvalidParameter when there is none, or when it is not installed here."""
    if name not in FRAMEWORKS:
        raise InvalidParameter(f'unknown framework "{name}"', hint=f"known ones: {', '.join(FRAMEWORKS)}")
    module = importlib.import_module(f"kwdbml.frameworks.{name}")
    return cast("Framework", module.FRAMEWORK)
