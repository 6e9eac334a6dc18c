"""Which chapters wait for which, kernels that are copies of a process, and what the processes that execute chapters leave behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.manager import start_new_kernel

from recsys_lab.schedule import (
    Bounds,
    apart,
    broken_bound,
    chain_lengths,
    fork_kernels,
    kernel_processes,
    ready,
    unshared_megabytes,
    waiting_for,
    watched,
    workers,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="kernels are copies on Linux only")
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
    assert chain_lengths(waits, {"d": 7})["b"] == 9 and ready(waits, set(waits), {"a": 9}) == ["a", "b"]


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


def start():
    """(manager, client) of a forked kernel."""
    fork_kernels()
    return start_new_kernel(kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=CRITICAL"])


def ask(client, code, expression):
    """What an expression is after some code."""
    reply = client.execute_interactive(code, user_expressions={"x": expression}, timeout=60, output_hook=lambda _: None)
    return reply["content"]["user_expressions"]["x"]["data"]["text/plain"]


def ended(pids, seconds=20):
    """Whether processes end within some seconds; one that nobody has waited for has ended too."""

    def runs(pid):
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until = time.time() + seconds
    while any(map(runs, pids)) and time.time() < until:
        time.sleep(0.05)
    return not any(map(runs, pids))


@linux
def test_a_kernel_has_the_environment_and_folder_of_its_start(tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THIS_KERNEL", "first")
    manager, client = start()
    assert ask(client, "import os", "os.environ['OF_THIS_KERNEL']") == "'first'"
    client.stop_channels()
    manager.shutdown_kernel()
    monkeypatch.setenv("OF_THIS_KERNEL", "second")  # the process that is copied does not pass on what it began with
    monkeypatch.chdir(tmp_path)
    manager, client = start()
    assert ask(client, "import os", "os.environ['OF_THIS_KERNEL']") == "'second'"
    assert ask(client, "import os", "os.getcwd()") == repr(str(tmp_path))
    client.stop_channels()
    manager.shutdown_kernel()


@linux
def test_a_kernel_is_a_main_module_of_its_own():
    manager, client = start()
    assert (
        ask(client, "x = 1", "(__name__, 'x' in vars(__import__('sys').modules['__main__']))") == "('__main__', True)"
    )
    client.stop_channels()
    manager.shutdown_kernel()


@linux
def test_a_killed_kernel_is_seen_as_dead_and_takes_its_children_along():
    manager, client = start()
    child = int(ask(client, "import subprocess; p = subprocess.Popen(['sleep', '60'])", "p.pid"))
    assert child in [process.pid for process in kernel_processes(psutil.Process())]
    manager.interrupt_kernel()
    assert manager.is_alive()
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    assert not manager.is_alive()
    assert ended([child])


@linux
def test_kernels_end_with_the_process_that_started_them():
    """Killed without a chance to clean up, it leaves nothing behind."""
    code = (
        "from jupyter_client.manager import start_new_kernel; from recsys_lab.schedule import *; import psutil, sys, time\n"
        "fork_kernels(); manager, client = start_new_kernel(kernel_name='python3')\n"
        "print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        started = [int(word) for word in parent.stdout.readline().split()]
        os.kill(parent.pid, signal.SIGKILL)
    assert len(started) >= 2  # what is copied, and the copy
    assert ended(started)


@linux
def test_the_kernel_begun_last_is_ended_where_all_together_hold_too_much():
    (first, one), (second, two) = start(), start()
    for client in (one, two):
        assert ask(client, "held = b'x' * 300_000_000", "len(held)") == "300000000"
    pids = [manager.provisioner.pid for manager in (first, second)]
    old, new = ([psutil.Process(pid)] for pid in pids)
    holding = unshared_megabytes(old + new)
    assert holding > 570 and abs(unshared_megabytes(old) + unshared_megabytes(new) - holding) < 5
    run = os.getpid()
    assert broken_bound(new, Bounds(run=run, megabytes=1e6)) == broken_bound(old, Bounds(run=run, megabytes=500)) == ""
    assert broken_bound(new, Bounds(run=run, megabytes=500)) == "crowded"
    assert broken_bound(new, Bounds(until=time.time() - 1, run=run)) == "time"
    one.stop_channels(), first.shutdown_kernel(now=True)
    assert ended(pids[:1]) and broken_bound(new, Bounds(run=run, megabytes=250)) == "memory"
    with watched(Bounds(run=run, megabytes=250), 0.05) as seen:
        assert ended(pids[1:])
    assert seen.ended == "memory" and seen.megabytes > 290
    two.stop_channels(), second.shutdown_kernel(now=True)


def test_what_is_done_in_a_process_of_its_own_is_given_back_and_ends_with_this_one(tmp_path):
    assert apart(os.getpid) != os.getpid() and apart(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        apart(divmod, 1, 0)
    code = "import time\nfrom recsys_lab.schedule import apart\nif __name__ == '__main__':\n    apart(time.sleep, 60)\n"
    (tmp_path / "script.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"])
    until, children = time.time() + 30, []
    while len(children) < 2 and time.time() < until:  # the one that counts resources, and the one at work
        time.sleep(0.1)
        children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    time.sleep(1.0)
    parent.kill(), parent.wait()
    assert len(children) == 2 and ended(children)
