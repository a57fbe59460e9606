"""Landlock (Linux 5.13 and later): restrict file access of this process permanently.

Source: landlock(7) and include/uapi/linux/landlock.h. Called through ctypes, because three system
calls do not justify a dependency.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

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


def version() -> int:
    """Return the version of the kernel's interface; 0 if it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def restrict(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Deny access to all other files and to TCP; return whether the kernel supports it.

    Threads that already run are not restricted: call it before any library starts one. The process
    must have set no_new_privs.

    Raises:
        OSError: the kernel supports Landlock but rejects the ruleset.
    """
    known = version()
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
