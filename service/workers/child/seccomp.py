"""seccomp: deny system calls permanently.

The list names denied calls instead of allowed ones: numerical libraries differ in the calls that
they make, and need none of these. A denied call fails with EPERM, so that a library can handle it.
"""

from __future__ import annotations

import errno
import os
from types import ModuleType

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


def library() -> ModuleType | None:
    """Return the library that writes filters; None if it or libseccomp is missing."""
    try:
        import pyseccomp  # noqa: PLC0415 - looks for the shared library while it is imported
    except (ImportError, OSError, RuntimeError):
        return None
    return pyseccomp  # type: ignore[no-any-return]  # untyped package


def restrict(found: ModuleType) -> bool:
    """Deny the system calls of `DENIED`, new processes, and signals to other processes.

    Args:
        found: the result of `library`.

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
