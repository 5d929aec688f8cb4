"""A server's heap, as the C library describes it."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="it is of glibc")
def test_all_threads_of_a_server_allocate_from_one_heap() -> None:
    heaps = {}
    for how in ("shared", "own"):
        done = subprocess.run([sys.executable, "-c", DESCRIBE, how], capture_output=True, text=True, check=True)
        heaps[how] = done.stdout.count("<heap nr=")
    assert heaps["shared"] == 1
    assert heaps["own"] > 1
