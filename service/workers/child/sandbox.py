"""The sandbox: Landlock and seccomp, applied before any thread starts.

Also before an untrusted file is opened. What the kernel does not support is left out and reported.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from service.workers.messages import WorkerTask

PR_SET_NO_NEW_PRIVS = 38
# Files that the interpreter and the runtime read, such as shared libraries and processor data.
SYSTEM_PATHS = tuple(
    Path(path)
    for path in (
        *("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache"),
        *("/usr/share/zoneinfo", "/etc/localtime", "/dev/urandom"),
        *("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system"),
        *("/sys/fs/cgroup", "/proc/self"),
    )
)
# Libraries open it for writing: dill does at its import, and torch imports dill where installed.
NULL_DEVICE = Path("/dev/null")
OWN_PACKAGES = ("bn_ops", "service")


def apply(task: WorkerTask) -> dict[str, bool]:
    """Apply the restrictions that this machine supports; return which are in force.

    Raises:
        OSError: the kernel supports a restriction but rejects it; the task must not be done.
    """
    linux = sys.platform == "linux"
    # Its import searches the disk and starts a program, which the sandbox would deny.
    filters = seccomp_library() if linux else None
    found = {"no_new_privs": linux and _no_new_privileges()}
    found["landlock"] = linux and restrict_files(
        readable=(*_interpreter(), *SYSTEM_PATHS, *_inputs(task)),
        writable=(Path(task.output), NULL_DEVICE),
    )
    found["seccomp"] = filters is not None and deny_system_calls(filters)
    return found


def _no_new_privileges() -> bool:
    return int(ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) == 0


def _inputs(task: WorkerTask) -> list[Path]:
    return [
        Path(path)
        for path in (task.model, task.batch_folder, task.samples, task.recalibrated)
        if path
    ]


def _interpreter() -> list[Path]:
    """Return the folders of the interpreter and its packages, but no working folder."""
    prefixes = {Path(path) for path in (sys.prefix, sys.base_prefix)}
    packages = [importlib.util.find_spec(name) for name in OWN_PACKAGES]
    return [
        *(prefix / part for prefix in sorted(prefixes) for part in ("lib", "lib64", "bin")),
        *(Path(one.origin).parent for one in packages if one is not None and one.origin),
    ]


# Landlock (Linux 5.13 and later): restrict file access of this process permanently.
#
# Source: landlock(7) and include/uapi/linux/landlock.h. Called through ctypes, because three system
# calls do not justify a dependency.

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_REFER = 1 << 13
_FIRST_VERSION = (1 << 13) - 1
# Rights that later versions of the interface added.
_ADDED = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR | _EXECUTE

# TCP since version 4, abstract sockets and signals since version 6. There are no rules for them, so
# all are denied.
_NET_VERSION, _NET = 4, 0b11
_SCOPE_VERSION, _SCOPE = 6, 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def landlock_version() -> int:
    """Return the version of the kernel's interface; 0 if it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def restrict_files(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Deny access to all other files and to TCP; return whether the kernel supports it.

    Threads that already run are not restricted: call it before any library starts one. The process
    must have set no_new_privs.

    Raises:
        OSError: the kernel supports Landlock but rejects the ruleset.
    """
    known = landlock_version()
    if known == 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handled = _FIRST_VERSION | sum(bit for since, bit in _ADDED.items() if known >= since)
    ruleset = _Ruleset(
        handled_access_fs=handled,
        handled_access_net=_NET if known >= _NET_VERSION else 0,
        scoped=_SCOPE if known >= _SCOPE_VERSION else 0,
    )
    size = 8 if known < _NET_VERSION else 16 if known < _SCOPE_VERSION else 24
    handle = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0))
    try:
        for path in readable:
            _allow(libc, handle, path, _READ)
        for path in writable:
            _allow(libc, handle, path, handled & ~_IOCTL_DEV)
        _checked(libc.syscall(_RESTRICT_SELF, handle, 0))
    finally:
        os.close(handle)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # a missing file needs no rule
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                rights &= _FILE_RIGHTS
            rule = _PathBeneath(allowed_access=rights, parent_fd=parent)
            _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
        finally:
            os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# seccomp: deny system calls permanently.
#
# The list names denied calls instead of allowed ones: numerical libraries differ in the calls that
# they make, and need none of these. A denied call fails with EPERM, so that a library can
# handle it.

CLONE_THREAD = 0x00010000

DENIED = (
    # another program
    *("execve", "execveat", "fork", "vfork"),
    # the network, and sockets of any kind
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd"),
    *("pidfd_send_signal", "kcmp", "process_madvise"),
    # mounts, namespaces and devices
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "fsopen", "move_mount"),
    *("open_tree", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat"),
    # kernel interfaces with a large attack surface
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "keyctl", "add_key", "request_key", "init_module", "finit_module"),
    *("delete_module", "kexec_load", "reboot", "swapon", "swapoff", "acct", "quotactl"),
    *("iopl", "ioperm", "personality", "syslog", "settimeofday", "clock_settime"),
)


def seccomp_library() -> ModuleType | None:
    """Return the library that writes filters; None if it or libseccomp is missing."""
    try:
        import pyseccomp  # noqa: PLC0415 - looks for the shared library while it is imported
    except (ImportError, OSError, RuntimeError):
        return None
    return pyseccomp  # type: ignore[no-any-return]  # untyped package


def deny_system_calls(found: ModuleType) -> bool:
    """Deny the system calls of `DENIED`, new processes, and signals to other processes.

    Args:
        found: the result of `seccomp_library`.

    Raises:
        OSError: the kernel rejects the filter.
    """
    filters = found.SyscallFilter(found.ALLOW)
    deny = found.ERRNO(errno.EPERM)
    for name in DENIED:
        _add(found, filters, deny, name)
    # New threads are allowed, new processes are not.
    process = found.Arg(0, found.MASKED_EQ, CLONE_THREAD, 0)
    filters.add_rule(deny, "clone", process)
    # A filter cannot read the flags of clone3, behind a pointer; libc falls back to clone.
    _add(found, filters, found.ERRNO(errno.ENOSYS), "clone3")
    itself = found.Arg(0, found.NE, os.getpid())
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        filters.add_rule(deny, name, itself)
    filters.add_rule(deny, "tkill")
    filters.add_rule(deny, "prlimit64", found.Arg(0, found.NE, 0))
    filters.load()
    return True


def _add(found: ModuleType, filters: object, action: object, name: str) -> None:
    """Add a rule unless the library or kernel is too old to know the call."""
    if found.resolve_syscall(found.system_arch(), name) >= 0:
        filters.add_rule(action, name)  # type: ignore[attr-defined]  # untyped package
