"""The service with a bundle as large as the published log: memory, start, latency and throughput over loopback, and drawn requests.

The load comes from this process; the server has processes of its own, within a memory limit of 512 MB where this machine lets one set
it (a control group; needs root on Linux). A hybrid is fitted first (minutes), and kept in `build/serving` for the next time; or name the
bundle of a run: `python benchmarks/serving.py bundle`.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from recsys_lab import loading
from recsys_lab.files import DataError
from recsys_lab.ranking.hybrid import HybridTuned
from recsys_lab.serving.bundle import Bundle, pack, verify
from recsys_lab.serving.lean import server_process

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "serving"
WIDTHS = {  # of the sources, so that about 200 candidates are ranked
    "revisits": 20,
    "session_walk": 90,
    "session_knn": 60,
    "item_knn": 60,
    "als": 60,
    "taxonomy": 60,
    "popularity": 40,
}
LIMIT_MB, WORKERS = 512, 2
Answer = tuple[int, float, bytes]


def bundle(given: str = "") -> tuple[Path, dict[str, Any]]:
    """The bundle at a place, or one of the full shop; made anew where the code of candidates, features or scores has changed."""
    if given:
        return Path(given), verify(Path(given))
    folder = PLACE / "bundle"
    with suppress(DataError):
        return folder, verify(folder)
    log = loading.load("shop", size="full")
    began = time.time()
    fit = HybridTuned(sources=WIDTHS, alpha=0.1).fit(log)
    print(f"fitted in {time.time() - began:.0f} s", flush=True)
    manifest = pack(fit.save(PLACE / "fit"), log, folder, about={"dataset": "shop", "size": "full"})
    shutil.rmtree(PLACE / "fit")
    return folder, manifest


class Limit:
    """A control group with a memory limit, or none where it cannot be made."""

    def __init__(self, mb: int):
        self.folder: Path | None = None
        for parent, name in (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
            (Path("/sys/fs/cgroup"), "memory.max"),
        ):
            try:
                folder = parent / f"recsys-lab-{os.getpid()}"
                folder.mkdir()
                (folder / name).write_text(str(mb * 2**20))
                self.folder = folder
                return
            except OSError:
                with suppress(OSError):
                    folder.rmdir()

    def enter(self) -> None:
        """Put the calling process into it."""
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def told(self, name: str) -> int | None:
        """A number of its accounts."""
        return int((self.folder / name).read_text()) if self.folder and (self.folder / name).exists() else None

    def holds(self) -> bool | None:
        """Whether a process that takes more is really ended; None without a limit."""
        if not self.folder:
            return None
        take = f"x = bytearray({2 * LIMIT_MB} * 2**20)\nfor i in range(0, len(x), 4096): x[i] = 1"
        return subprocess.run([sys.executable, "-c", take], preexec_fn=self.enter).returncode == -signal.SIGKILL

    def remove(self) -> None:
        """Take it away."""
        if self.folder:
            with suppress(OSError):
                self.folder.rmdir()


@contextmanager
def server(folder: Path, limit: Limit, *more: str) -> Iterator[tuple[int, int, float]]:
    """(port, process id, seconds from start to ready) of a server with `WORKERS` workers, and `more` words of its command."""
    words, began = ("--workers", str(WORKERS), "--quiet", *more), time.perf_counter()
    with server_process(folder, *words, cwd=ROOT, preexec_fn=limit.enter) as (url, done):
        ready = time.perf_counter() - began
        time.sleep(2)  # until the other worker is ready too
        yield int(url.rpartition(":")[2]), done.pid, ready


# The load: HTTP/1.1 over kept connections, written by hand, for a client library would take more of the machine than the server


async def ask(reader: Any, writer: Any, path: str, body: Any = None) -> tuple[int, bytes]:
    """(status, body) of one request."""
    if body is None:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    else:
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
    return int(head[9:12]), await reader.readexactly(length)


async def as_fast_as_it_goes(
    port: int, asked: Sequence[Any], connections: int, seconds: float
) -> tuple[list[Answer], float]:
    """(answers, seconds) of requests on some connections, each sending the next when it has its answer."""
    answers: list[Answer] = []
    waiting, end = iter(asked), time.perf_counter() + seconds

    async def go() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for one in waiting:
            if time.perf_counter() > end:
                break
            began = time.perf_counter()
            status, data = await ask(reader, writer, *one)
            answers.append((status, time.perf_counter() - began, data))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(go() for _ in range(connections)))
    return answers, time.perf_counter() - began


async def at_a_rate(port: int, asked: Sequence[Any], rate: float, connections: int = 32) -> list[Answer]:
    """Answers to requests that are sent at their time whatever became of those before; latency counts from that time."""
    answers: list[Answer] = []
    due: asyncio.Queue[Any] = asyncio.Queue()

    async def go() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (one := await due.get()) is not None:
            status, data = await ask(reader, writer, *one[1])
            answers.append((status, time.perf_counter() - one[0], data))
        writer.close()

    tasks = [asyncio.create_task(go()) for _ in range(connections)]
    began = time.perf_counter()
    for n, one in enumerate(asked):
        at = began + n / rate
        await asyncio.sleep(max(0, at - time.perf_counter()))
        due.put_nowait((at, one))
    for _ in tasks:
        due.put_nowait(None)
    await asyncio.gather(*tasks)
    return answers


def told(answers: list[Answer]) -> dict[str, Any]:
    """Percentiles of the latency in milliseconds, and how many answers were no 200."""
    taken = sorted(seconds for _, seconds, _ in answers)
    at = {f"p{int(q * 100)}_ms": round(taken[int(len(taken) * q)] * 1000, 2) for q in (0.5, 0.9, 0.99)}
    return {"requests": len(answers), **at, "errors": sum(status != 200 for status, _, _ in answers)}


def mixed(rng: random.Random, users: Sequence[int], items: Sequence[int], n: int) -> list[Any]:
    """Requests of all kinds."""
    kinds = [
        lambda: (f"/recommend/{rng.choice(users)}?n=10",),
        lambda: (f"/recommend/{rng.choice(users)}?n=20&alpha=0.3",),
        lambda: ("/recommend", {"history": rng.choices(items, k=5), "k": 10}),
        lambda: ("/recommend/explain", {"user_id": rng.choice(users), "k": 10}),
        lambda: (f"/recommend/nobody{rng.random()}",),
        lambda: (f"/recommend/als/{rng.choice(users)}",),
        lambda: (f"/recommend/knn/{rng.choice(users)}",),
        lambda: (f"/similar/{rng.choice(items)}",),
        lambda: ("/matrix_factor/similar", {"item_id": rng.choice(items), "n": 10}),
        lambda: ("/search", {"query": str(rng.choice(items)), "top_k": 10}),
        lambda: (f"/user/{rng.choice(users)}/stats",),
        lambda: ("/status",),
    ]
    return [kinds[n % len(kinds)]() for n in range(n)]


def unshared(parent: int) -> list[int]:
    """`RssAnon` of each worker in MB (kB / 1024)."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout.split()
    found = []
    for pid in children:
        status = Path(f"/proc/{pid}/status").read_text()
        threads, anon = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("Threads", "RssAnon"))  # type: ignore[index]
        found += [round(anon / 1024)] if threads and anon > 20_000 else []  # not the tracker of shared resources
    return found


def known_ids(folder: Path) -> tuple[list[int], list[int]]:
    """(users, items) that the models of a bundle know."""
    opened = Bundle(folder)
    return [np.asarray(ids[np.arange(len(ids))]).tolist() for ids in (opened.users, opened.items)]  # type: ignore[return-value]


def drawn_requests(cases: int) -> dict[str, Any]:
    """Requests drawn from the OpenAPI description, by the test that asks for none to break the service; routes without parameters
    have fewer than their share of `cases`.
    """
    words = ["-q", "-s", "-p", "no:randomly", "tests/serving/test_schemas.py", "-k", "whatever_fits_the_schema"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env=os.environ | {"RECSYS_LAB_CASES": str(cases)},
        capture_output=True,
        text=True,
    )
    found = re.search(r"(\d+) cases", done.stdout)
    return {"cases": int(found[1]) if found else 0, "passed": done.returncode == 0}


def main() -> None:
    """Measure and record."""
    folder, manifest = bundle(*sys.argv[1:2])
    limit, rng = Limit(LIMIT_MB), random.Random(0)
    result: dict[str, Any] = {
        "limit_mb": LIMIT_MB if limit.folder else None,
        "limit_holds": limit.holds(),
        "workers": WORKERS,
    }
    result |= {name: manifest["facts"][f"unique_{name}"] for name in ("users", "items")}
    result |= {"near": manifest["near"], "bundle_mb": round(sum(f["bytes"] for f in manifest["files"].values()) / 1e6)}
    users, items = known_ids(folder)
    try:
        with server(folder, limit) as (port, pid, ready):
            result["ready_seconds"] = round(ready, 2)
            hybrid = [(f"/recommend/{rng.choice(users)}?n=10",) for _ in range(30_000)]
            asyncio.run(as_fast_as_it_goes(port, hybrid[:500], 4, 30))  # the pages that are read first
            answers = asyncio.run(at_a_rate(port, hybrid[500:3500], 50))
            result["at_50_a_second"] = told(answers)
            scored = [json.loads(data)["total_candidates_scored"] for status, _, data in answers if status == 200]
            result["candidates"] = round(sum(scored) / len(scored), 1)
            answers, seconds = asyncio.run(as_fast_as_it_goes(port, hybrid[3500:], 8, 20))
            result["hybrid"] = {"a_second": round(len(answers) / seconds), **told(answers)}
            strangers = [(f"/recommend/stranger-{n}",) for n in range(100_000)]
            answers, seconds = asyncio.run(as_fast_as_it_goes(port, strangers, 16, 15))
            result["strangers"] = {"a_second": round(len(answers) / seconds), **told(answers)}
            answers, seconds = asyncio.run(as_fast_as_it_goes(port, mixed(rng, users, items, 10_000), 8, 600))
            result["mixed"] = {"a_second": round(len(answers) / seconds), **told(answers)}
            result["unshared_mb"] = unshared(pid)
            for name in ("memory.max_usage_in_bytes", "memory.peak"):
                if (most := limit.told(name)) is not None:
                    result["peak_with_cache_mb"] = round(most / 2**20)
    finally:
        limit.remove()
    record("serving", result | {"drawn": drawn_requests(22_000)})


if __name__ == "__main__":
    main()
