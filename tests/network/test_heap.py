"""Heaps of servers and workers, as the C library has them."""

import subprocess
import sys

import pytest

from hansa.settings import environment_for_packages, environment_for_workers

DESCRIBE = """
import ctypes, sys, threading
from hansa.network.heap import share_heap

if sys.argv[1] == "shared":
    share_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(4)


def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()


threads = [threading.Thread(target=allocate) for _ in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
out = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""


RELEASE = """
import ctypes, os
import numpy as np
from hansa.network.heap import give_back

PAGE = os.sysconf("SC_PAGE_SIZE")

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE >> 20

blocks = [np.ones(1 << 17) for _ in range(100)]
full = resident()
del blocks
kept = resident()
give_back()
print(full - kept, full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is of glibc")
def test_a_worker_keeps_what_it_has_freed_until_its_task_is_done() -> None:
    """A hundred blocks of a megabyte."""
    done = subprocess.run(
        [sys.executable, "-c", RELEASE], capture_output=True, text=True, check=True, env=environment_for_workers()
    )
    early, late = map(int, done.stdout.split())
    assert early < 5
    assert late > 90


@pytest.mark.skipif(sys.platform != "linux", reason="it is of glibc")
def test_all_threads_of_a_server_allocate_from_one_heap() -> None:
    heaps = {}
    for how in ("shared", "own"):
        done = subprocess.run([sys.executable, "-c", DESCRIBE, how], capture_output=True, text=True, check=True)
        heaps[how] = done.stdout.count("<heap nr=")
    assert heaps["shared"] == 1
    assert heaps["own"] > 1


def test_workers_of_packages_have_the_same_heap_and_its_owner_may_have_set_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    both = [environment_for_workers(), environment_for_packages()]
    assert both[0].items() >= {name: both[1][name] for name in names}.items()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert [each["MALLOC_TRIM_THRESHOLD_"] for each in (environment_for_workers(), environment_for_packages())] == [
        "131072"
    ] * 2
