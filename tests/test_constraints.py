"""What is pinned: every extra resolves from constraints.txt, and nothing falls back to an old major version."""

import re
from importlib import metadata

from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
}


def wanted():
    """All requirements of all extras, and of what they require, by the metadata of what is installed."""
    text = (ROOT / "settings.ini").read_text()
    words = [w for line in re.findall(r"^\w*requirements = (.*)$", text, re.M) for w in line.split()]
    left, seen = [Requirement(word) for word in words], set()
    while left:
        one = left.pop()
        yield one
        key = (canonicalize_name(one.name), tuple(sorted(one.extras)))
        if key in seen:
            continue
        seen.add(key)
        for told in metadata.requires(one.name) or []:
            below = Requirement(told)
            if below.marker is None or any(below.marker.evaluate({"extra": e}) for e in ("", *one.extras)):
                below.marker = None
                left.append(below)


def test_all_extras_resolve_together_from_the_constraints():
    """Each requirement, direct or not, admits the version that is pinned, which is the one installed."""
    asked = list(wanted())
    assert {"mlflow-skinny", "evidently", "fastapi", "torch", "nbdev"} <= {canonicalize_name(one.name) for one in asked}
    for one in asked:
        name = canonicalize_name(one.name)
        if name in ("setuptools", "wheel", "pip"):
            continue
        there = metadata.version(one.name)
        assert one.specifier.contains(there, prereleases=True), f"{one} and {there}"
        assert name in PINS, f"{one.name} is not pinned in constraints.txt"
        assert there.split("+")[0] == PINS[name], f"{one.name} {there} is installed, {PINS[name]} is pinned"


def test_floors_keep_pip_from_old_major_versions():
    """MLflow and Prefect once fell back to 1.x in silence where a newer one did not fit."""
    others = (ROOT / "tests" / "requirements-orchestrators.txt").read_text()
    assert (
        PINS["mlflow-skinny"].startswith("3.")
        and re.search(r"^mlflow==3\.", others, re.M)
        and re.search(r"^prefect==3\.", others, re.M)
    )
    assert any(one.name == "mlflow-skinny" and not one.specifier.contains("2.99") for one in wanted())
