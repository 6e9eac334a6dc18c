"""The files for containers and clouds: what can be told of them without one."""

import json
import re
import shutil
import socket
import subprocess
import time
from importlib import metadata
from itertools import pairwise

import pytest
import yaml
from helpers import BIN, ROOT

from recsys_lab import cli
from recsys_lab.commands.base import commands_of, parameter_rows
from recsys_lab.scale.cluster import Cluster, ClusterError
from recsys_lab.serving.lean import HEAVY

DEPLOY = ROOT / "deploy"
DOCKER_TRAIN = re.search(r"^FROM build AS trainer$(.*?)^FROM", (DEPLOY / "Dockerfile").read_text(), re.M | re.S)[1]


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
    assert set(named) == {"build", "base", "page", "trainer", "train", "api"} and re.search(
        r"^USER 10001$", named["base"], re.M
    )
    for name, port in (("api", "8000"), ("page", "8501")):
        assert "HEALTHCHECK" in named[name] and f"EXPOSE {port}" in named[name]
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", named["build"], re.M)
    assert all((ROOT / name).exists() for words in copied for name in words.split())


def test_compose_holds_together():
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    told, named = whole["services"], whole["volumes"]
    assert (
        set(told) == {"api", "page", "redis", "postgres", "prometheus", "grafana", "mlflow"}
        and told["api"]["mem_limit"] == "512m"
    )
    for service in told.values():
        assert "mem_limit" in service
        mounts = [volume.split(":")[0] for volume in service.get("volumes", [])]
        assert all((DEPLOY / m).exists() or m in named or m == "../bundle" for m in mounts)
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


def exported():
    """The names of all metrics that the service tells."""
    import prometheus_client

    from recsys_lab.serving import middleware, service  # which register theirs

    assert middleware and service
    names = set()
    for family in prometheus_client.REGISTRY.collect():
        names |= {sample.name for sample in family.samples} | {
            family.name,
            f"{family.name}_total",
            f"{family.name}_bucket",
        }
    return names | {f"recsys_drift_{name}" for name in ("distance", "threshold", "alarm", "made_seconds")}


def asked_for(expression):
    return set(re.findall(r"\brecsys_\w+", expression))


def test_alarms_ask_for_metrics_that_there_are_and_say_what_to_do():
    rules = [r for g in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for r in g["rules"]]
    assert len({r["alert"] for r in rules}) == len(rules) >= 6
    for rule in rules:
        assert asked_for(rule["expr"]) <= exported(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket") and len(rule["annotations"]["summary"]) > 30
    assert len(set().union(*(asked_for(r["expr"]) for r in rules))) >= 5


def test_the_dashboard_draws_metrics_that_there_are_and_no_panel_covers_another():
    board = json.loads((DEPLOY / "grafana" / "recsys.json").read_text())
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning-datasource.yaml").read_text())["datasources"][0]
    places = set()
    for panel in board["panels"]:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]} and panel["title"]
        for target in panel["targets"]:
            assert asked_for(target["expr"]) and asked_for(target["expr"]) <= exported(), panel["title"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24
        places |= cells
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_accepts_the_configuration_and_the_alarms_ring(tmp_path):
    def promtool(*words):
        return subprocess.run(["promtool", *words], capture_output=True, text=True)

    done = promtool("check", "config", str(DEPLOY / "prometheus.yaml"))
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stderr
    series = [
        ('up{job="recsys"}', "0x20"),
        ('recsys_drift_alarm{figure="event"}', "1x90"),
        ('recsys_feedback_records_total{kind="lists",state="dropped"}', "0+1x20"),
        ('recsys_requests_total{route="/",status="500",arm="a"}', "0+6x20"),
        ('recsys_requests_total{route="/",status="200",arm="a"}', "0+60x20"),
    ]
    rings = {"RecsysDown": "10m", "RecsysFeedbackLost": "10m", "RecsysErrors": "15m", "RecsysDrift": "75m"}
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
            for name, at in rings.items()
        ],
    }
    test = {"rule_files": [str(DEPLOY / "alerts.yaml")], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(test))
    done = promtool("test", "rules", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


MANIFESTS = [
    (path.stem, one)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for one in yaml.safe_load_all(path.read_text())
]
CLUSTERS = ("1.29", "1.31", "1.34", "1.37")  # versions of Kubernetes


@pytest.mark.parametrize("version", CLUSTERS)
def test_manifests_fit_the_schemas_of_kubernetes(version):
    """By the schemas that Kubernetes publishes, without fields that it does not know; a typo is noticed."""
    import kubernetes_validate

    for _, one in MANIFESTS:
        kubernetes_validate.validate(one, version, strict=True)
    typo = json.loads(json.dumps(MANIFESTS)).pop()[1]
    typo["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(typo, version, strict=True)


def pods():
    """(name, pod template's spec, its labels) of everything that runs pods."""
    for _, one in MANIFESTS:
        spec = one["spec"]
        if one["kind"] in ("Deployment", "CronJob", "Job"):
            template = (spec["jobTemplate"]["spec"] if one["kind"] == "CronJob" else spec)["template"]
            yield one["metadata"]["name"], template["spec"], template["metadata"]["labels"]


def test_manifests_hold_together():
    """What one names, another defines: claims, selectors, ports, and the commands that pods run."""
    kinds = {(one["kind"], one["metadata"]["name"]): one for _, one in MANIFESTS}
    assert {kind for kind, _ in kinds} == {
        *("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"),
        *("NetworkPolicy", "CronJob", "Job", "PersistentVolumeClaim"),
    }
    labels = [found for _, _, found in pods()]
    for name, spec, found in pods():
        (container,) = spec["containers"]
        claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v]
        assert all(("PersistentVolumeClaim", claim) in kinds for claim in claims)
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
        assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        assert (
            container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            and "memory" in container["resources"]["limits"]
        )
        assert not spec["automountServiceAccountToken"]
        assert any(
            p["spec"]["podSelector"]["matchLabels"] == found
            for (kind, _), p in kinds.items()
            if kind == "NetworkPolicy"
        )
        urls = [e["value"] for e in container.get("env", []) if e.get("value", "").startswith("http://")]
        urls += [word for word in container.get("args", []) if word.startswith("tcp://")]
        for url in urls:
            service, port = re.match(r"\w+://([\w-]+):(\d+)", url).groups()
            assert int(port) in [p["port"] for p in kinds["Service", service]["spec"]["ports"]], name
    for (kind, _), one in kinds.items():
        if kind in ("Service", "PodDisruptionBudget"):
            chosen = one["spec"]["selector"]
            assert (chosen.get("matchLabels") or chosen) in labels
    served = kinds["Deployment", "recsys"]["spec"]["template"]["spec"]["containers"][0]
    assert served["resources"]["limits"]["memory"] == "512Mi"
    assert all(served[f"{probe}Probe"]["httpGet"]["port"] == "http" for probe in ("startup", "readiness", "liveness"))
    for _, spec, _ in pods():
        words = spec["containers"][0].get("args", [])
        if words and words[0].endswith("/recsys-lab"):
            given = {word.partition("=")[0] for word in words[2:] if str(word).startswith("--")}
            command = next(one for path, one in commands_of(cli.app) if path == f"recsys-lab {words[1]}")
            known = {name for row in parameter_rows(command) for name in re.findall(r"--[\w-]+", row.name)}
            assert given <= known, (given - known, words)


@pytest.mark.slow
def test_the_commands_of_the_cluster_make_one_that_the_lab_can_use(tmp_path):
    """Scheduler and worker as the manifest starts them, but on loopback and free ports; the image has what they need."""
    assert "cluster" in re.search(r"\.\[([\w,]+)\]' \$\{FSSPEC_BACKEND\}\n*$", DOCKER_TRAIN)[1].split(",")
    found = {name: spec["containers"][0] for name, spec, _ in pods()}
    scheduler, worker = ([str(BIN / "dask"), *found[f"recsys-{name}"]["args"][1:]] for name in ("scheduler", "worker"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changed = {
        "0.0.0.0": "127.0.0.1",
        "8786": str(port),
        ":8787": "127.0.0.1:0",
        "9000": "0",
        "9001": "0",
        "/tmp/dask": str(tmp_path),
    }
    changed["tcp://recsys-scheduler:8786"] = address = f"tcp://127.0.0.1:{port}"
    started = []
    try:
        for words in (scheduler, worker):
            assert set(words) & set(changed)
            words = [changed.get(word, word) for word in words]
            started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path))
        until = time.monotonic() + 60
        while True:
            try:
                with Cluster(address) as cluster:
                    assert [(w["threads"], w["memory_gb"]) for w in cluster.workers.values()] == [(1, 3.22)]
                    break
            except ClusterError:
                assert time.monotonic() < until
                time.sleep(0.5)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
