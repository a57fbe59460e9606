from __future__ import annotations

import platform
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
