"""The files for containers and clouds: what can be told of them without one."""

import json
import re
from importlib import metadata
from itertools import pairwise

import pytest
import yaml
from helpers import ROOT

from recsys_lab import cli
from recsys_lab.commands.base import commands_of, parameter_rows
from recsys_lab.serving.lean import HEAVY

DEPLOY = ROOT / "deploy"


def needed(names, seen=None):
    """All distributions that some need, by the metadata of those that are installed."""
    seen = set() if seen is None else seen
    for name in names:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            told = metadata.requires(key) or []
        except metadata.PackageNotFoundError:
            continue
        needed([re.match(r"[A-Za-z0-9._-]+", r)[0] for r in told if "extra ==" not in r], seen)
    return seen


def requirements(extra):
    text = (ROOT / "settings.ini").read_text()
    words = re.search(rf"^{extra} = (.*)$", text, re.M)[1].split()
    return [re.match(r"[A-Za-z0-9._-]+", w)[0] for w in words]


def test_the_image_of_the_service_holds_no_torch():
    there = needed(
        requirements("requirements") + requirements("serve_requirements") + requirements("postgres_requirements")
    )
    assert {"fastapi", "lightgbm", "faiss-cpu", "uvicorn"} <= there
    assert not {"torch", "sentence-transformers", "torch-geometric"} & there
    assert "torch" in HEAVY


def test_the_image_runs_as_nobody_and_tells_its_health():
    text = (DEPLOY / "Dockerfile").read_text()
    stages = re.split(r"^FROM .* AS (\w+)$", text, flags=re.M)
    named = dict(zip(stages[1::2], stages[2::2], strict=True))
    assert set(named) == {"build", "base", "page", "api"} and re.search(r"^USER 10001$", named["base"], re.M)
    for name, port in (("api", "8000"), ("page", "8501")):
        assert "HEALTHCHECK" in named[name] and f"EXPOSE {port}" in named[name]
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", named["build"], re.M)
    assert all((ROOT / name).exists() for words in copied for name in words.split())


def test_compose_holds_together():
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(told) == {"api", "page", "redis", "postgres"} and told["api"]["mem_limit"] == "512m"
    for service in told.values():
        assert set(service.get("depends_on", {})) <= set(told)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
            assert service["read_only"] and service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", ["compose.yaml", "render.yaml"])
def test_the_commands_are_ones_that_the_lab_has(name, monkeypatch):
    from recsys_lab.serving.api import arguments

    found = yaml.safe_load((DEPLOY / name).read_text())["services"]
    commands = [
        s.get("command") or s.get("dockerCommand") for s in (found.values() if isinstance(found, dict) else found)
    ]
    ours = [c if isinstance(c, list) else c.split() for c in commands if c and "recsys-lab" in str(c)]
    assert ours
    for words in ours:
        assert words[:2] == ["/opt/api/bin/recsys-lab", "serve"] and arguments(words[2:]).workers == 2


def test_the_task_fits_into_512_mb_and_names_no_secret():
    from recsys_lab.serving.api import arguments

    task = json.loads((DEPLOY / "ecs-task.json").read_text())
    (container,) = task["containerDefinitions"]
    assert task["memory"] == "512" and container["user"] == "10001" and container["readonlyRootFilesystem"]
    assert arguments(container["command"][2:]).bundle == "s3://BUCKET/bundle"
    assert all("TOKEN" not in e["name"] for e in container["environment"])


def test_the_workflow_tests_builds_and_asks_for_its_health():
    told = yaml.safe_load((ROOT / ".github" / "workflows" / "service.yaml").read_text())["jobs"]
    assert told["image"]["needs"] == "test"
    runners = told["test"]["strategy"]["matrix"]["runner"]  # the same tests on two architectures
    assert told["test"]["runs-on"] == "${{ matrix.runner }}" and [r.endswith("-arm") for r in runners] == [False, True]
    assert [s["run"] for s in told["test"]["steps"] if "run" in s] == [".ci/run"]
    script = "\n".join(step.get("run", "") for step in told["image"]["steps"])
    steps = [
        "make install",
        "recsys-lab run",
        "recsys-lab bundle create",
        "docker build",
        "docker run -d",
        "/ready",
        "/health",
    ]
    places = [script.index(words) for words in steps]
    assert places == sorted(places)  # each needs what the one before it makes
    [start] = [line for line in script.splitlines() if "docker run -d" in line]
    assert {"--memory 512m", "--read-only"} <= {" ".join(pair) for pair in pairwise(start.split())} | set(start.split())


def test_the_commands_of_the_workflow_are_ones_that_the_lab_has():
    told = yaml.safe_load((ROOT / ".github" / "workflows" / "service.yaml").read_text())["jobs"]["image"]["steps"]
    ours = [line.split()[1:] for s in told for line in s.get("run", "").splitlines() if "bin/recsys-lab" in line]
    assert [words[0] for words in ours] == ["run", "bundle"]
    commands = {path.removeprefix("recsys-lab "): command for path, command in commands_of()}
    assert cli.app.registered_commands  # which importing it registers
    for words in ours:
        command = commands.get(words[0]) or commands[" ".join(words[:2])]
        taken = {w for row in parameter_rows(command) for w in row.name.replace("`", "").split(", ")}
        assert {w for w in words if w.startswith("-")} <= taken
