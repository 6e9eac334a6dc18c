"""How long the help of the command line takes beside a bare interpreter and beside pandas, and what an explanation costs beside a list."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from common import paired, record

from recsys_lab import loading, splits
from recsys_lab.models.base import model_class

COMMAND = str(Path(sys.executable).parent / "recsys-lab")
MODELS = ("item_knn", "user_knn", "session_knn", "session_walk", "ease", "als")


def start(*words: str) -> Any:
    """A whole process, quietly."""
    return lambda: subprocess.run(words, check=True, capture_output=True)


def help_pages() -> dict[str, Any]:
    """Whole processes, in turn: the help against a bare interpreter, and against one that imports pandas."""
    bare, pandas = start(sys.executable, "-c", "pass"), start(sys.executable, "-c", "import pandas")
    pages = {
        "--help": (COMMAND, "--help"),
        "run --help": (COMMAND, "run", "--help"),
        "--version": (COMMAND, "--version"),
    }
    found = {name: {"bare": paired(start(*words), bare, 9)} for name, words in pages.items()}
    found["--help"]["import pandas"] = paired(start(COMMAND, "--help"), pandas, 9)
    return found


def explanations() -> dict[str, Any]:
    """For 50 known users of the small shop: explaining their first item against making their list, one at a time."""
    known = splits.make(loading.load("shop", size="small")).known("test")
    users = [u for u in known.users[:400] if len(known.histories([u]).items) > 3][:50]
    found = {}
    for name in MODELS:
        model = model_class(name)().fit(known)
        requests = [(model.histories([u]), model.recommend([u], k=1).frame()["item_id"][0]) for u in users]
        explain = lambda model=model, requests=requests: [model.explain(history, item) for history, item in requests]  # noqa: E731
        lists = lambda model=model, requests=requests: [model.rank(history, 10) for history, _ in requests]  # noqa: E731
        found[name] = paired(explain, lists, 5) | {"users": len(users)}
    return found


if __name__ == "__main__":
    record("command_line", {"help": help_pages(), "explain": explanations()})
