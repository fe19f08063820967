"""A small system-call filter, assembled by hand: the doors that no compiler needs.

What is not listed is allowed: a deny list breaks no toolchain, and the namespaces are the wall; this is the lock on
the kernel's least tested doors. Format: seccomp(2), linux/filter.h; numbers: asm/unistd_64.h.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000
CLONE_NEWUSER = 0x10000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_ARGS = 0, 4, 16

DENIED: Mapping[str, int] = {
    # keys of other sessions
    "add_key": 248, "request_key": 249, "keyctl": 250,
    # other processes' memory and descriptors
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
    # large attack surface
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "fanotify_init": 300,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    # mounts and namespaces
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "open_by_handle_at": 304,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "quotactl": 179, "quotactl_fd": 443, "swapon": 167, "swapoff": 168,
    "name_to_handle_at": 303,
    # memory and descriptor tables that no compiler asks for
    "memfd_secret": 447, "modify_ldt": 154,
    # the kernel itself
    "kexec_load": 246, "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "reboot": 169, "syslog": 103, "iopl": 172, "ioperm": 173, "settimeofday": 164, "clock_settime": 227, "acct": 163,
}  # fmt: skip
# To programs these look like calls of a newer kernel. clone3 takes its flags by pointer, which a filter cannot follow;
# every libc falls back to clone. The other two list mounts, of which mountinfo shows all that a build may see.
ABSENT: Mapping[str, int] = {"clone3": 435, "statmount": 457, "listmount": 458}
FIRST_ABSENT = 463
"""This and every higher number is absent, too: setxattrat, open_tree_attr, file_setattr, and what kernels will add."""
CLONE, UNSHARE, IOCTL, SOCKET = 56, 272, 16, 41
# A process that only reads text: no socket, no program, no process, no signal to another, no limit of another.
DENIED_TO_A_READER: Mapping[str, int] = {
    "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288,
    "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "unshare": 272,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "pidfd_send_signal": 424, "pidfd_open": 434, "shmget": 29, "shmat": 30, "memfd_create": 319,
}  # fmt: skip
INSTRUCTION_BYTES = 8
# vsock reaches the hypervisor whatever the network namespace says; the rest has no use in a build.
SOCKET_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
AF_NETLINK, NETLINK_ROUTE = 16, 0


@dataclass(frozen=True)
class Instruction:
    """One `struct sock_filter`: jumps count instructions to skip."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    def packed(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.value)


def supported(machine: str) -> bool:
    """Whether there is a filter for this machine (`os.uname().machine`)."""
    return machine == "x86_64"


def assemble(more: Mapping[str, int] = MappingProxyType({})) -> tuple[Instruction, ...]:
    """The x86_64 filter; `more` is denied too.

    Another architecture's entry kills; x32 numbers are refused (they alias the denied ones).
    """
    return (
        Instruction(LOAD, OFFSET_ARCH),
        Instruction(JUMP_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        Instruction(RETURN, KILL_PROCESS),
        Instruction(LOAD, OFFSET_NUMBER),
        Instruction(JUMP_GREATER_EQUAL, X32_BIT, 0, 1),
        Instruction(RETURN, ERRNO | errno.EPERM),
        Instruction(JUMP_GREATER_EQUAL, FIRST_ABSENT, 0, 1),
        Instruction(RETURN, ERRNO | errno.ENOSYS),
        *(line for number in (*DENIED.values(), *more.values()) for line in _refuse(number, errno.EPERM)),
        *(line for number in ABSENT.values() for line in _refuse(number, errno.ENOSYS)),
        *_flag_refused(CLONE, CLONE_NEWUSER),
        *_flag_refused(UNSHARE, CLONE_NEWUSER),
        *_only_families(),
        *_values_refused(IOCTL, 1, (TIOCSTI, TIOCLINUX)),
        Instruction(RETURN, ALLOW),
    )


@functools.cache
def program() -> bytes:
    """The filter as bubblewrap's `--seccomp` reads it."""
    return b"".join(instruction.packed() for instruction in assemble())


@functools.cache
def program_of_a_reader() -> bytes:
    """The filter of a process that reads hostile text, as prctl(2) takes it."""
    return b"".join(instruction.packed() for instruction in assemble(DENIED_TO_A_READER))


def _argument(index: int) -> int:
    """Offset of an argument's low word (little endian)."""
    return OFFSET_ARGS + 8 * index


def _refuse(number: int, code: int) -> tuple[Instruction, ...]:
    return (Instruction(JUMP_EQUAL, number, 0, 1), Instruction(RETURN, ERRNO | code))


def _flag_refused(number: int, flag: int) -> tuple[Instruction, ...]:
    return (
        Instruction(JUMP_EQUAL, number, 0, 4),
        Instruction(LOAD, _argument(0)),
        Instruction(JUMP_SET, flag, 0, 1),
        Instruction(RETURN, ERRNO | errno.EPERM),
        Instruction(RETURN, ALLOW),
    )


def _only_families() -> tuple[Instruction, ...]:
    """The address families that are allowed; of netlink only the protocol that lists addresses and routes."""
    netlink = (
        Instruction(JUMP_EQUAL, AF_NETLINK, 0, 4),
        Instruction(LOAD, _argument(2)),
        Instruction(JUMP_EQUAL, NETLINK_ROUTE, 1, 0),
        Instruction(RETURN, ERRNO | errno.EPROTONOSUPPORT),
        Instruction(RETURN, ALLOW),
    )
    families = tuple(
        line
        for family in SOCKET_FAMILIES.values()
        for line in (Instruction(JUMP_EQUAL, family, 0, 1), Instruction(RETURN, ALLOW))
    )
    body = (*families, *netlink, Instruction(RETURN, ERRNO | errno.EAFNOSUPPORT))
    return (Instruction(JUMP_EQUAL, SOCKET, 0, len(body) + 1), Instruction(LOAD, _argument(0)), *body)


def _values_refused(number: int, index: int, values: tuple[int, ...]) -> tuple[Instruction, ...]:
    body = tuple(line for value in values for line in _refuse(value, errno.EPERM))
    return (
        Instruction(JUMP_EQUAL, number, 0, len(body) + 2),
        Instruction(LOAD, _argument(index)),
        *body,
        Instruction(RETURN, ALLOW),
    )
