"""A recommender lab for implicit feedback: read a log, split it by time, fit, evaluate, compare, explain and serve.

The names below are imported when they are used, so that `import recsys_lab` is quick. A model is had by its class name
(`recsys_lab.EASE`) or by its name in tables (`recsys_lab.model("ease")`).
"""

__version__ = "0.1.0"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

if TYPE_CHECKING:
    from recsys_lab.datasets.log import Dataset
    from recsys_lab.evaluation import compare_all as compare
    from recsys_lab.evaluation import evaluate
    from recsys_lab.histories import Histories
    from recsys_lab.importing import read
    from recsys_lab.loading import load
    from recsys_lab.models.base import Recommender
    from recsys_lab.models.base import model_class as model
    from recsys_lab.splits import make as split
    from recsys_lab.testing import check_recommender
    from recsys_lab.tuning import tune

_PLACES = {
    "Dataset": "recsys_lab.datasets.log:Dataset",
    "Histories": "recsys_lab.histories:Histories",
    "Recommender": "recsys_lab.models.base:Recommender",
    "check_recommender": "recsys_lab.testing:check_recommender",
    "compare": "recsys_lab.evaluation:compare_all",
    "evaluate": "recsys_lab.evaluation:evaluate",
    "load": "recsys_lab.loading:load",
    "model": "recsys_lab.models.base:model_class",
    "read": "recsys_lab.importing:read",
    "split": "recsys_lab.splits:make",
    "tune": "recsys_lab.tuning:tune",
}
__all__ = [
    "Dataset",
    "Histories",
    "Recommender",
    "__version__",
    "check_recommender",
    "compare",
    "evaluate",
    "load",
    "model",
    "read",
    "split",
    "tune",
]


def _models() -> dict[str, str]:
    """The place of each model by its class name."""
    from recsys_lab.models.base import MODELS

    return {MODELS.place(name).partition(":")[2]: MODELS.place(name) for name in MODELS}


def __getattr__(name: str) -> _Any:
    """A name of `_PLACES`, or the class of a model."""
    if name.startswith("_"):
        raise AttributeError(f"module 'recsys_lab' has no attribute {name!r}")
    place = _PLACES.get(name) or (_models().get(name) if name[0].isupper() else None)
    if place is None:  # a module of the package is looked for here first, so this must be quick
        raise AttributeError(
            f"recsys_lab has no {name!r}; it has {', '.join(_PLACES)}, and the models by their class names"
        )
    module, _, attribute = place.partition(":")
    return getattr(_import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES, *_models()})
