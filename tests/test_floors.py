"""What imports what: the floors of the house, from the bottom up, without a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from recsys_lab.files import imported_modules, module_file, package_folder

FLOORS = [  # a module imports from its own floor and from those before it
    ["files", "registry", "histories", "numerics", "intervals", "metrics", "schedule"],
    ["topk", "datasets.log", "readers.tables", "readers.times", "readers.staging", "readers.logs", "readers.shaping"],
    ["readers.formats", "readers.amazon"],
    ["catalogue", "simulator", "exploration", "splits", "leakage"],
    ["products", "readers.reviews", "lexical", "encoders", "search", "loading", "sniffing", "importing", "downloads"],
    ["models.*"],
    [
        "ranking.candidates",
        "ranking.features",
        "ranking.training",
        "ranking.logistic",
        "ranking.boosting",
        "ranking.hybrid",
    ],
    ["evaluation", "plots", "ope", "prequential", "protocols"],
    ["runs", "tuning", "decision", "provenance", "ranking.analysis", "budget"],
    ["lifecycle.feedback", "lifecycle.monitoring", "lifecycle.online"],
    [
        "testing",
        "serving.*",
        "lifecycle.registry",
        "lifecycle.store",
        "board",
        "published",
        "chapters",
        "batches",
        "labs",
    ],
    ["lifecycle.retraining"],
    ["book", "best", "model_pages"],
    ["scale.cluster", "scale.store", "scale.fitting", "scale.trees", "scale.running", "scale.chapters"],
    ["commands.*", "cli"],
]
ARRAYS = (
    "files",
    "histories",
    "numerics",
    "topk",
    "models.base",
    "models.config",
    "models.explanation",
    "models.factors",
    "registry",
    "models.storage",
    "models.retrieval",
)  # which need no tables
PATHS = sorted(package_folder().rglob("*.py"))
MODULES = [".".join(p.relative_to(package_folder()).with_suffix("").parts) for p in PATHS if not p.name.startswith("_")]


def imports(module: str) -> set[str]:
    return imported_modules(module_file(module).read_text(), module) - {module}


def floor(module: str) -> int:
    found = [i for i, rooms in enumerate(FLOORS) if module in rooms or module.rpartition(".")[0] + ".*" in rooms]
    assert len(found) == 1, f"{module} stands on {len(found)} floors; name it in one"
    return found[0]


def test_there_is_no_circle():
    order = list(TopologicalSorter({m: imports(m) for m in MODULES}).static_order())  # raises CycleError
    assert set(order) == set(MODULES) and len(MODULES) > 40


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_from_above(module):
    above = sorted(other for other in imports(module) if floor(other) > floor(module))
    assert not above, f"{module} imports {above}, which stand above it"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_tests_of_its_own(module):
    """The tests mirror the package: `recsys_lab/models/als.py` is tested in `tests/models/test_als.py`."""
    folder, _, name = module.replace(".", "/").rpartition("/")
    path = Path(__file__).parent / folder / f"test_{name}.py"
    assert path.exists() and "def test_" in path.read_text(), f"{path} should hold the tests of recsys_lab.{module}"


@pytest.mark.parametrize("module", ARRAYS)
def test_arrays_need_no_tables(module):
    tree = ast.parse(module_file(module).read_text())
    named = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    named |= {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
    assert not {name for name in named if name and name.partition(".")[0] in ("pandas", "pyarrow", "sqlalchemy")}


def test_what_is_hidden_from_imports_is_known():
    """Modules named by text (a model's class, say) are imported by the registry only."""
    hidden = {
        m for m in MODULES if "import_module(" in module_file(m).read_text() and m not in ("registry", "serving.lean")
    }
    assert not hidden


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported_on_windows_and_macos(module):
    """No module asks at its top for what only some systems have."""
    tree = ast.parse(module_file(module).read_text())
    named = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
    named |= {n.module for n in tree.body if isinstance(n, ast.ImportFrom)}
    assert not named & {"resource", "fcntl", "pwd", "grp", "termios", "uvloop"}
