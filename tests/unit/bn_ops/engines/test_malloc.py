from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import pytest

# Several hundred freed blocks are below one that is still in use, so the heap cannot shrink from
# its end.
_SCRIPT = """
from bn_ops.engines.malloc import trim_heap

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

pieces = [b"x" * 100_000 for _ in range(500)]
pieces.append(b"x" * 90_000)
del pieces[:-1]
before = resident()
trim_heap()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc retains freed memory")
def test_trim_heap_returns_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], check=True, capture_output=True)
    assert int(done.stdout) > 25_000_000


# Blocks of 48 MiB are returned to the system when they are freed, except from a retained heap.
_RETAINED = """
import resource
from bn_ops.engines.malloc import RetainedHeap

def faults(repeats):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        # numpy would ask for huge pages.
        bytearray(48 << 20)[::4096] = bytes(12288)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

faults(1)
heap, other = RetainedHeap(), RetainedHeap()
outside, start = faults(10), resident()
heap.acquire()
heap.acquire()
other.acquire()
inside = faults(10)
heap.release()
heap.release()
shared = faults(10)
other.release()
print(outside, inside, shared, faults(10), resident() - start)
"""


def measured(**environment: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", _RETAINED],
        check=True,
        capture_output=True,
        env=os.environ | environment,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the parameters")
def test_retained_heap_reuses_memory_until_last_release() -> None:
    outside, inside, shared, after, growth = measured()
    pages = 48 * 2**20 // resource.getpagesize()
    assert outside > 9 * pages
    assert inside < 2 * pages
    assert shared < pages
    assert after > 9 * pages
    assert growth < 16 * 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the parameters")
def test_parameters_of_the_environment_are_kept() -> None:
    outside, inside, *_ = measured(MALLOC_TOP_PAD_="131072")
    assert inside > 0.9 * outside > 0
