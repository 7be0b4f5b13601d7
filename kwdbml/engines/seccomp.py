"""The system calls a step has no business with, as a classic BPF program that bubblewrap loads before the step starts.

Namespaces hide what a job must not reach; this closes what they leave open: new user namespaces (where an unprivileged
job would be root towards most of the kernel), kernel keyrings, BPF, performance counters, io_uring (it makes sockets
behind this filter's back), and sockets other than Unix, IP and netlink ones: AF_VSOCK knows no network namespace, so a
job in a virtual machine could talk to its host. It refuses memory that nobody could count, too: System V segments and
messages, and secret memory. Everything else is allowed: this is the second wall, not the first.
"""

from __future__ import annotations

import errno
import platform
import struct
import sys

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NR, _ARCH, _ARG0 = 0, 4, 16  # offsets in struct seccomp_data; arguments are 64 bits, the low half first

_CLONE_NEWUSER = 0x10000000
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK

#: Same numbers on every architecture: io_uring, the new mount calls, pidfd_getfd, memfd_secret.
_COMMON = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442, 443, 447, 467)

#: machine: (AUDIT_ARCH, clone, socket, refused). In order: ptrace, syslog, pivot_root, acct, mount, umount2, swapon,
#: swapoff, reboot, init_module, finit_module, delete_module, quotactl, add_key, request_key, keyctl, unshare, setns,
#: perf_event_open, name_to_handle_at, open_by_handle_at, kcmp, kexec_load, kexec_file_load, bpf, userfaultfd,
#: settimeofday, clock_settime, process_vm_readv, process_vm_writev, shmget, msgget.
_MACHINES = {
    "x86_64": (
        0xC000003E, 56, 41,
        (101, 103, 155, 163, 165, 166, 167, 168, 169, 175, 313, 176, 179, 248, 249, 250, 272, 308,
         298, 303, 304, 312, 246, 320, 321, 323, 164, 227, 310, 311, 29, 68),
    ),
    "aarch64": (
        0xC00000B7, 220, 198,
        (117, 116, 41, 89, 40, 39, 224, 225, 142, 105, 273, 106, 60, 217, 218, 219, 97, 268,
         241, 264, 265, 272, 104, 294, 280, 282, 170, 112, 270, 271, 194, 186),
    ),
}  # fmt: skip
_CLONE3 = 435
_X32 = 0x40000000


def _op(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, when_true, when_false, value)


def _refuse(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)


def program() -> bytes | None:
    """The filter for this machine, or None where we have no table (then the namespaces stand alone)."""
    if sys.byteorder != "little" or (machine := _MACHINES.get(platform.machine())) is None:
        return None
    arch, clone, socket, refused = machine
    eperm = _refuse(errno.EPERM)
    code = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, arch, 1, 0),
        eperm,  # another architecture's call (32 bits) has other numbers
        _op(_LOAD, _NR),
        _op(_AT_LEAST, _X32, 0, 1),
        eperm,
        # C libraries fall back to clone, whose flags can be read here; clone3's lie in memory.
        _op(_EQUAL, _CLONE3, 0, 1),
        _refuse(errno.ENOSYS),
    ]
    for number in (*refused, *_COMMON):
        code += [_op(_EQUAL, number, 0, 1), eperm]
    code += [
        _op(_EQUAL, clone, 0, 4),
        _op(_LOAD, _ARG0),
        _op(_ANY_BIT, _CLONE_NEWUSER, 0, 1),
        eperm,
        _op(_RETURN, _ALLOW),
        _op(_EQUAL, socket, 0, 2 + len(_FAMILIES)),
        _op(_LOAD, _ARG0),
    ]
    for left, family in zip(range(len(_FAMILIES), 0, -1), _FAMILIES, strict=True):
        code.append(_op(_EQUAL, family, left, 0))
    code += [_refuse(errno.EAFNOSUPPORT), _op(_RETURN, _ALLOW)]
    return b"".join(code)
