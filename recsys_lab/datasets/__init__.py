"""What an interaction log is, and how one is read.

`Dataset` and `Histories` are the nouns; `read` makes a log of a file or a frame, `load` finds one by its name. The modules behind them are
imported when they are asked for, so that a server that needs a log only imports no reader.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys_lab.datasets.log import *  # noqa: F403
    from recsys_lab.datasets.log import Dataset
    from recsys_lab.histories import Histories
    from recsys_lab.importing import read
    from recsys_lab.loading import load

PLACES = {  # what does not stand in `log` -> where it does
    "Histories": "recsys_lab.histories",
    "load": "recsys_lab.loading",
    "read": "recsys_lab.importing",
    "read_table": "recsys_lab.readers.shaping",
}
__all__ = ["Dataset", "Histories", "load", "read"]


def __getattr__(name: str) -> Any:
    """A name of `datasets.log`, or one of `PLACES`."""
    if name == "__path__" or (name.startswith("__") and name.endswith("__")):
        raise AttributeError(name)
    try:
        return getattr(import_module(PLACES.get(name, "recsys_lab.datasets.log")), name)
    except AttributeError:
        raise AttributeError(f"recsys_lab.datasets has no {name!r}") from None
