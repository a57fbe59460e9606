"""seccomp: which system calls a process may make, given up for good.

A list of what is refused, not of what is allowed: numerical libraries differ in what they call, and
none of these. A refused call fails with EPERM, so that a library that only tries gives up in good
order.
"""

from __future__ import annotations

import errno
import os
from types import ModuleType

CLONE_THREAD = 0x00010000

REFUSED = (
    # another program
    *("execve", "execveat", "fork", "vfork"),
    # the network, and sockets of any kind
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd"),
    *("pidfd_send_signal", "kcmp", "process_madvise"),
    # other worlds
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "fsopen", "move_mount"),
    *("open_tree", "open_by_handle_at", "name_to_handle_at", "mknod", "mknodat"),
    # the kernel's larger doors
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter"),
    *("io_uring_register", "keyctl", "add_key", "request_key", "init_module", "finit_module"),
    *("delete_module", "kexec_load", "reboot", "swapon", "swapoff", "acct", "quotactl"),
    *("iopl", "ioperm", "personality", "syslog", "settimeofday", "clock_settime"),
)


def library() -> ModuleType | None:
    """Return the library that writes filters; None where it or libseccomp is missing."""
    try:
        import pyseccomp  # noqa: PLC0415 - looks for the shared library while it is imported
    except (ImportError, OSError, RuntimeError):
        return None
    return pyseccomp  # type: ignore[no-any-return]  # untyped package


def restrict(found: ModuleType) -> bool:
    """Give up the system calls of `REFUSED`, new processes, and signals to others.

    Args:
        found: what `library` returned.

    Raises:
        OSError: the kernel refuses the filter.
    """
    filters = found.SyscallFilter(found.ALLOW)
    refuse = found.ERRNO(errno.EPERM)
    for name in REFUSED:
        _refuse(found, filters, refuse, name)
    # A new thread is allowed, a new process is not.
    process = found.Arg(0, found.MASKED_EQ, CLONE_THREAD, 0)
    filters.add_rule(refuse, "clone", process)
    # clone3 hides its flags behind a pointer; libc falls back to clone.
    _refuse(found, filters, found.ERRNO(errno.ENOSYS), "clone3")
    itself = found.Arg(0, found.NE, os.getpid())
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        filters.add_rule(refuse, name, itself)
    filters.add_rule(refuse, "tkill")
    filters.add_rule(refuse, "prlimit64", found.Arg(0, found.NE, 0))
    filters.load()
    return True


def _refuse(found: ModuleType, filters: object, action: object, name: str) -> None:
    """Add a rule; an older library does not know every call, an older kernel neither."""
    if found.resolve_syscall(found.system_arch(), name) >= 0:
        filters.add_rule(action, name)  # type: ignore[attr-defined]  # untyped package
