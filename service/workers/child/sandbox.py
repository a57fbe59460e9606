"""The sandbox: applied before any thread starts or an untrusted file is opened."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

from service.workers.child import landlock, seccomp
from service.workers.messages import WorkerTask

PR_SET_NO_NEW_PRIVS = 38
# Files that the interpreter and the runtime read, such as shared libraries and processor data.
SYSTEM_PATHS = tuple(
    Path(path)
    for path in (
        *("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache"),
        *("/usr/share/zoneinfo", "/etc/localtime", "/dev/null", "/dev/urandom"),
        *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system"),
        *("/sys/fs/cgroup", "/proc/self"),
    )
)
OWN_PACKAGES = ("bn_ops", "service")


def apply(task: WorkerTask) -> dict[str, bool]:
    """Apply the restrictions that this machine supports; return which are in force.

    Raises:
        OSError: the kernel supports a restriction but rejects it; the task must not be done.
    """
    linux = sys.platform == "linux"
    # Its import searches the disk and starts a program, which the sandbox would deny.
    filters = seccomp.library() if linux else None
    found = {"no_new_privs": linux and _no_new_privileges()}
    found["landlock"] = linux and landlock.restrict(
        readable=(*_interpreter(), *SYSTEM_PATHS, *_inputs(task)), writable=(Path(task.output),)
    )
    found["seccomp"] = filters is not None and seccomp.restrict(filters)
    return found


def _no_new_privileges() -> bool:
    return int(ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) == 0


def _inputs(task: WorkerTask) -> list[Path]:
    return [Path(path) for path in (task.model, task.batch_folder) if path]


def _interpreter() -> list[Path]:
    """Return the folders of the interpreter and its packages, but no working folder."""
    prefixes = {Path(path) for path in (sys.prefix, sys.base_prefix)}
    packages = [importlib.util.find_spec(name) for name in OWN_PACKAGES]
    return [
        *(prefix / part for prefix in sorted(prefixes) for part in ("lib", "lib64", "bin")),
        *(Path(one.origin).parent for one in packages if one is not None and one.origin),
    ]
