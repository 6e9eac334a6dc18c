"""Which chapters wait for which, and what the processes that execute them leave behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_lab.schedule import chain_lengths, ready, waiting_for, workers

NAMES = [f"{i:02d}_x" for i in range(12)]
AFTER = st.fixed_dictionaries(
    {n: st.lists(st.sampled_from([*NAMES[:i], "*"]), max_size=3) for i, n in enumerate(NAMES)}
)


@given(AFTER, st.randoms())
def test_everything_gets_its_turn_after_what_it_waits_for(after, random):
    waits, done = waiting_for(after), []
    while waits:
        able = ready(waits, set(waits))
        assert able and all(waits[n] <= set(done) for n in able)
        chapter = random.choice(able)
        del waits[chapter]
        done.append(chapter)
    assert sorted(done) == NAMES


def test_the_longest_chain_comes_first():
    waits = waiting_for({"a": [], "b": [], "c": ["b"], "d": ["c"], "e": ["a"]})
    assert chain_lengths(waits) == {"a": 2, "b": 3, "c": 2, "d": 1, "e": 1}
    assert ready(waits, set(waits)) == ["b", "a"]


def test_what_is_not_part_of_a_run_is_not_waited_for():
    assert waiting_for({"22_x": ["21_y"]}) == {"22_x": set()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_work_and_its_errors_come_back(jobs):
    with workers(jobs) as call:
        good, bad = call(sum, [1, 2]), call(int, "no")
        assert good.result() == 3
        with pytest.raises(ValueError, match="no"):
            bad.result()


@pytest.mark.slow
def test_a_worker_whose_parent_was_killed_ends():
    code = (
        "import time\nfrom recsys_lab.schedule import workers\n"
        "if __name__ == '__main__':\n"
        "    with workers(2) as call:\n"
        "        call(time.sleep, 120); call(time.sleep, 120)\n"
        "        time.sleep(120)\n"
    )
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"orphans_{os.getpid()}.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(code)
    process = subprocess.Popen([sys.executable, path])
    try:
        for _ in range(100):
            children = psutil.Process(process.pid).children(recursive=True)
            if len(children) >= 3:  # two workers and the tracker of resources
                break
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=15)
        assert not alive
    finally:
        os.unlink(path)
