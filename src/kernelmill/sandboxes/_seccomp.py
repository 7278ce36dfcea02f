"""Two seccomp filters as classic BPF programs: one for entering the sandbox, one for tightening it later.

The field order of the data a filter reads and the meaning of its return values are in seccomp(2).
Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from kernelmill.sandboxes._kernel import SYSCALLS, call

_DENIED = (
    # other processes' memory, registers and descriptors
    "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp "
    "pidfd_open pidfd_getfd pidfd_send_signal "
    # another view of the machine
    "unshare setns mount umount2 pivot_root chroot open_tree open_tree_attr move_mount mount_setattr "
    "fsopen fsconfig fsmount fspick open_by_handle_at fanotify_init "
    # the machine itself
    "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff "
    "sethostname setdomainname acct quotactl quotactl_fd syslog vhangup iopl ioperm modify_ldt "
    "clock_settime clock_adjtime adjtimex settimeofday "
    # large kernel surfaces that no kernel candidate needs
    "bpf keyctl add_key request_key perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd "
    # memory that the parent could not read
    "memfd_secret "
    # more cores than the parent gave, and the baseline has
    "sched_setaffinity "
    # Landlock does not govern connecting to a socket file, such as that of a container daemon
    "connect"
)

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
_CLONE_THREAD = 0x10000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX = 1
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 5, 0xF

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

# BPF instruction classes: load word at offset; jump if equal, at or above, any bit set; and; return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16

_SET_MODE_FILTER = 1
# TSYNC: all threads at once. SPEC_ALLOW: before Linux 5.16 a filter otherwise switches a
# speculation mitigation on that slows the kernels we are about to time.
_FLAGS = 1 | 4

_Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true, to skip if false, operand."""


def _refuse(number: int) -> _Instruction:
    return (_RETURN, 0, 0, 0x00050000 | number)


_ALLOW: _Instruction = (_RETURN, 0, 0, 0x7FFF0000)
_KILL: _Instruction = (_RETURN, 0, 0, 0x80000000)
_DENY = _refuse(errno.EPERM)


def _argument(index: int) -> _Instruction:
    # The low half of a 64-bit argument: both machines are little-endian.
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * index)


def _deny_values(index: int, *values: int) -> list[_Instruction]:
    rules = [rule for value in values for rule in ((_EQUAL, 0, 1, value), _DENY)]
    return [_argument(index), *rules, _ALLOW]


def _socket_rule() -> list[_Instruction]:
    # Local stream sockets only: a datagram can be sent to any socket file without connecting.
    return [
        _argument(0),
        (_EQUAL, 1, 0, _AF_UNIX),
        _DENY,
        _argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_EQUAL, 2, 0, _SOCK_STREAM),
        (_EQUAL, 1, 0, _SOCK_SEQPACKET),
        _DENY,
        _ALLOW,
    ]


def _clone_rule(*, processes: bool) -> list[_Instruction]:
    if processes:
        return [_argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _DENY, _ALLOW]
    return [_argument(0), (_ANY_BIT, 0, 3, _CLONE_THREAD), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _DENY, _ALLOW, _DENY]


def _program(machine: str, rules: dict[str, list[_Instruction]]) -> bytes:
    """Assemble: rules by call name; a call not named is allowed, one this machine lacks is left out."""
    code: list[_Instruction] = [(_LOAD, 0, 0, _ARCH_OFFSET), (_EQUAL, 1, 0, _ARCHITECTURE[machine]), _KILL]
    code.append((_LOAD, 0, 0, _NUMBER_OFFSET))
    if machine == "x86_64":  # the x32 numbers are a second door to the same calls
        code += [(_AT_LEAST, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    for name, rule in rules.items():
        number = SYSCALLS[machine].get(name)
        if number is not None:
            code += [(_EQUAL, 0, len(rule), number), *rule]
    code.append(_ALLOW)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _entry_rules(*, processes: bool) -> dict[str, list[_Instruction]]:
    rules = {name: [_DENY] for name in _DENIED.split()}
    rules |= {
        "socket": _socket_rule(),
        "socketpair": _socket_rule(),
        "clone": _clone_rule(processes=processes),
        # Its flags lie behind a pointer that a filter cannot read; at ENOSYS the C library falls back to clone.
        "clone3": [_refuse(errno.ENOSYS)],
        "prctl": _deny_values(0, _PR_SET_PDEATHSIG, _PR_SET_DUMPABLE),
        "ioctl": _deny_values(1, _TIOCSTI, _TIOCLINUX),
        "prlimit64": [_argument(0), (_EQUAL, 1, 0, 0), _DENY, _ALLOW],
    }
    if not processes:
        rules |= {"fork": [_DENY], "vfork": [_DENY]}
    return rules


def _tight_rules() -> dict[str, list[_Instruction]]:
    return {
        "execve": [_DENY],
        "execveat": [_DENY],
        "fork": [_DENY],
        "vfork": [_DENY],
        "clone": _clone_rule(processes=False),
        "clone3": [_refuse(errno.ENOSYS)],
        # A filter of the candidate's own could answer calls in the name of the kernel.
        "seccomp": [_DENY],
        "prctl": _deny_values(0, _PR_SET_SECCOMP),
    }


def entry_program(machine: str, *, processes: bool) -> bytes:
    """The filter for entering, as packed BPF instructions of 8 bytes each."""
    return _program(machine, _entry_rules(processes=processes))


def tight_program(machine: str) -> bytes:
    """The filter for after loading: no process, no other program, no further filter; threads go on."""
    return _program(machine, _tight_rules())


def install(program: bytes) -> None:
    """Put a filter on all threads of this process, for good; OSError where the kernel refuses."""
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    call("seccomp", _SET_MODE_FILTER, _FLAGS, head)


def install_entry(*, processes: bool) -> None:
    """Enter the first filter on this machine; needs no-new-privileges."""
    install(entry_program(platform.machine(), processes=processes))


def install_tight() -> None:
    """Enter the second filter on this machine."""
    install(tight_program(platform.machine()))
