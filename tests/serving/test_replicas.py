"""Two replicas behind nginx, as deploy/ starts them, with one Redis: no request is lost when one of them dies."""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from helpers import ROOT, packed, redis_server

from recsys_lab.serving.lean import answers, free_port, server_process

pytest.importorskip("fastapi_offline")


@contextmanager
def nginx(place, port, upstreams):
    """nginx with deploy/nginx.conf in front of servers on loopback."""
    if not (program := shutil.which("nginx") or shutil.which("/usr/sbin/nginx")):
        pytest.skip("no nginx")
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for name, url in zip(("api:8000", "api2:8000"), upstreams, strict=True):
        assert f"server {name} " in text
        text = text.replace(f"server {name} ", f"server {url.removeprefix('http://')} ")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{place}/")
    (place / "nginx.conf").write_text(text)
    done = subprocess.Popen([program, "-c", str(place / "nginx.conf"), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 20
        while not answers(f"{url}/ready"):
            assert done.poll() is None and time.monotonic() < end, "nginx does not answer"
            time.sleep(0.05)
        yield url
    finally:
        done.terminate()
        done.wait(10)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
        return answer.read().decode()


def counted(base: str, pattern: str) -> int:
    """The sum of a figure of a replica over its labels."""
    return sum(
        int(float(value))
        for value in re.findall(f"^{pattern}" + r"(?:\{.*\})? ([\d.e+]+)$", read(f"{base}/metrics"), re.M)
    )


@pytest.mark.slow
def test_two_replicas_share_the_load_and_what_they_know(fits, shop, tmp_path):
    packed(fits, shop, tmp_path / "b")
    redis_port, users = free_port(), [int(u) for u in shop.users[:40]]
    env = {**os.environ, "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0"}
    with (
        redis_server(redis_port, tmp_path),
        server_process(tmp_path / "b", "--quiet", env=env) as (first, _),
        server_process(tmp_path / "b", "--quiet", env=env) as (second, dying),
        nginx(tmp_path, free_port(), (first, second)) as front,
        ThreadPoolExecutor(8) as pool,
    ):
        direct = [read(f"{first}/recommend/{user}") for user in users]
        hits = counted(second, r'recsys_cache_total\{found="yes"\}')
        assert [read(f"{second}/recommend/{user}") for user in users] == direct
        known = counted(second, r'recsys_cache_total\{found="yes"\}') - hits
        assert (
            known > len(users) / 2
        )  # what one has answered the other knows; a cache that is slow to answer is passed over
        before = [counted(base, "recsys_requests_total") for base in (first, second)]
        found = list(pool.map(lambda n: read(f"{front}/recommend/{users[n % 40]}"), range(400)))
        assert found == [direct[n % 40] for n in range(400)]
        shares = [counted(base, "recsys_requests_total") - n for base, n in zip((first, second), before, strict=True)]
        assert min(shares) > 100  # both have worked
        waiting = [pool.submit(read, f"{front}/recommend/{users[n % 40]}") for n in range(600)]
        os.kill(dying.pid, signal.SIGKILL)
        assert [w.result() for w in waiting] == [direct[n % 40] for n in range(600)]  # none is lost


def test_the_front_asks_the_services_that_compose_starts():
    """The names in nginx.conf are those of services, which wait for each other, with limits of memory."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads compose's `!override` as what it stands before."""

    Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))
    front = (ROOT / "deploy" / "nginx.conf").read_text()
    services = yaml.load((ROOT / "deploy" / "compose.replicas.yaml").read_text(), Loader)["services"]
    named = re.findall(r"server (\w+):8000 ", front)
    assert set(named) == set(services["front"]["depends_on"]) == {"api", "api2"}
    assert services["page"]["environment"]["RECSYS_LAB_API"] == "http://front:8080" and "listen 8080;" in front
    assert services["front"]["mem_limit"] and services["api2"]["volumes"] != ["../bundle:/bundle:ro", "served:/served"]
