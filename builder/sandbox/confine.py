"""Take from this process what a reader of hostile text has no need of: for ever, and for all that it may become.

As root it becomes the build user. It keeps its descriptors and the files its user may reach; it makes no socket, starts
no program and no process, sends no signal, traces nobody, and maps a bounded amount of memory more than it has now.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

from builder.sandbox import seccomp

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 15, 22, 38
SECCOMP_MODE_FILTER = 2
_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """`struct sock_fprog`; seccomp(2)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(who: tuple[int, int] | None, memory: int) -> None:
    """Confine this process, which has one thread. `who`: (uid, gid), None: as we are; `memory`: bytes more than now.

    Raises OSError where the kernel refuses any of it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = _mapped() + memory
    resource.setrlimit(resource.RLIMIT_AS, (mapped, mapped))
    _prefer_for_the_kernels_kill()
    if who is not None:
        uid, gid = who
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if seccomp.supported(os.uname().machine):
        code = seccomp.program_of_a_reader()
        program = _Program(len(code) // seccomp.INSTRUCTION_BYTES, code)
        _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def die_with(parent: int, signal_number: int) -> bool:
    """Get this signal when the thread that started this process ends; whether `parent` still lives.

    A change of the user undoes it (prctl(2)): call it afterwards.
    """
    _prctl(PR_SET_PDEATHSIG, signal_number)
    return os.getppid() == parent


def rename(name: str) -> None:
    """The name that `ps` shows; 15 bytes."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _mapped() -> int:
    """Bytes of address space that this process has by now; proc(5), statm."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _prefer_for_the_kernels_kill() -> None:
    """Where the host runs out of memory, this process goes before any other."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _prctl(option: int, value: int, more: int = 0) -> None:
    arguments = (ctypes.c_ulong(one) for one in (value, more, 0, 0))
    if _libc.prctl(option, *arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
