"""Kernels that are copies of a process: what they see, how they end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from recsys_lab.kernels import fork_kernels, kernel_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are copies on Linux only")


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


def test_a_kernel_is_a_main_module_of_its_own():
    manager, client = start()
    assert (
        ask(client, "x = 1", "(__name__, 'x' in vars(__import__('sys').modules['__main__']))") == "('__main__', True)"
    )
    client.stop_channels()
    manager.shutdown_kernel()


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


def test_kernels_end_with_the_process_that_started_them():
    """Killed without a chance to clean up, it leaves nothing behind."""
    code = (
        "from jupyter_client.manager import start_new_kernel; from recsys_lab.kernels import *; import psutil, sys, time\n"
        "fork_kernels(); manager, client = start_new_kernel(kernel_name='python3')\n"
        "print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        started = [int(word) for word in parent.stdout.readline().split()]
        os.kill(parent.pid, signal.SIGKILL)
    assert len(started) >= 2  # what is copied, and the copy
    assert ended(started)
