"""The system calls that the code of a model is refused, as a seccomp filter that nothing can take off again.

A process needs no privilege to put one on itself, and it holds for every program that it becomes. Refused
are sockets (so the network, whatever the cluster's policy enforces), new processes, signals and limits for
others, looking into others, and memory that outlives the process. Threads are allowed.
Source: Linux, Documentation/userspace-api/seccomp_filter.rst; numbers: asm/unistd_64.h, asm-generic/unistd.h.
"""

import ctypes
import errno
import os
import platform
from collections.abc import Iterator

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # the same calls under other numbers
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2

# AUDIT_ARCH_*, and per call its number there; a call that is not listed does not exist on that processor.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEVER: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "fork": 57, "vfork": 58, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
        "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "add_key": 248, "request_key": 249,
        "keyctl": 250, "unshare": 272, "setns": 308, "perf_event_open": 298, "bpf": 321, "userfaultfd": 323,
        "io_uring_setup": 425, "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438,
        "process_madvise": 440,
    },
    "aarch64": {
        "socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "tkill": 130,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "shmget": 194, "semget": 190, "msgget": 186,
        "mq_open": 180, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "setns": 268,
        "perf_event_open": 241, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425,
        "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440,
    },
}  # fmt: skip
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
# Calls whose first argument is a process: allowed for oneself.
_OWN_PROCESS = {"x86_64": {"kill": 62, "tgkill": 234}, "aarch64": {"kill": 129, "tgkill": 131}}
_OWN_LIMITS = {"x86_64": 302, "aarch64": 261}  # prlimit64


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def supported() -> bool:
    """Whether the numbers of the system calls are known for this processor."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def refuse_system_calls() -> None:
    """Put the filter on this process, for good; OSError when the kernel does not take it."""
    library = ctypes.CDLL(None, use_errno=True)
    instructions = [_Instruction(*given) for given in _instructions(platform.machine(), os.getpid())]
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), array)
    _checked(library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(library.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0))


def _checked(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel takes no seccomp filter ({os.strerror(number)})")


def _instructions(machine: str, process: int) -> Iterator[tuple[int, int, int, int]]:
    """Classic BPF: code, how many to skip when true and when false, and the operand."""
    refused, unknown = _REFUSE | errno.EPERM, _REFUSE | errno.ENOSYS
    yield _LOAD, 0, 0, _ARCHITECTURE_AT
    yield _EQUAL, 1, 0, _ARCHITECTURES[machine]
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER_AT
    if machine == "x86_64":
        yield _AT_LEAST, 0, 1, _X32
        yield _RETURN, 0, 0, _KILL
    for number in _NEVER[machine].values():
        yield from _when(number, [(_RETURN, 0, 0, refused)])
    # The C library tries clone3 first, whose flags no filter can see, and falls back to clone.
    yield from _when(_CLONE3, [(_RETURN, 0, 0, unknown)])
    yield from _when(_CLONE[machine], _if_first_argument(_ANY_BIT, _CLONE_THREAD, refused))
    for number in _OWN_PROCESS[machine].values():
        yield from _when(number, _if_first_argument(_EQUAL, process, refused))
    own = [(_LOAD, 0, 0, _FIRST_ARGUMENT_AT), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, process)]
    yield from _when(_OWN_LIMITS[machine], [*own, (_RETURN, 0, 0, refused), (_RETURN, 0, 0, _ALLOW)])
    yield _RETURN, 0, 0, _ALLOW


def _when(number: int, then: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    yield _EQUAL, 0, len(then), number
    yield from then


def _if_first_argument(test: int, operand: int, otherwise: int) -> list[tuple[int, int, int, int]]:
    return [
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (test, 1, 0, operand),
        (_RETURN, 0, 0, otherwise),
        (_RETURN, 0, 0, _ALLOW),
    ]
