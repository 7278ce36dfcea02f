"""Landlock: which files, ports and signals this process and its children may reach. Standard library only.

Rights and structures: landlock(7), up to ABI 6; a newer kernel accepts the older request.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from kernelmill.sandboxes._kernel import call

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP_BIND_AND_CONNECT = 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_GET_VERSION = 1
_RULE_BENEATH_PATH = 1


def abi() -> int:
    """Version of the kernel's Landlock; OSError where it is off or absent."""
    return call("landlock_create_ruleset", None, 0, _GET_VERSION)


def _file_rights(version: int) -> int:
    """All rights over files that this version knows: 13 at first, REFER, TRUNCATE and IOCTL_DEV later."""
    count = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    return (1 << count) - 1


def _ruleset(version: int) -> int:
    fields = [_file_rights(version)]
    if version >= 4:
        fields.append(_TCP_BIND_AND_CONNECT)
    if version >= 6:
        fields.append(_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    return call("landlock_create_ruleset", attributes, len(attributes), 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # what cannot be reached cannot be allowed either
    try:
        granted = rights if os.path.isdir(f"/proc/self/fd/{beneath}") else rights & _ON_FILES
        call("landlock_add_rule", ruleset, _RULE_BENEATH_PATH, struct.pack("=Qi", granted, beneath), 0)
    finally:
        os.close(beneath)


def restrict(readable: Iterable[Path], writable: Iterable[Path], listable: Iterable[Path] = ()) -> int:
    """Deny this process every file but these, TCP, and signals and abstract sockets to the outside.

    In `listable` folders, and those below, it may see names and read nothing. Paths that do not exist are
    left out. Gives the ABI that holds: TCP from 4, device controls from 5, signals and abstract sockets
    from 6. Needs no-new-privileges; OSError where the kernel refuses.
    """
    version = abi()
    everything = _file_rights(version)
    ruleset = _ruleset(version)
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in listable:
            _allow(ruleset, path, _READ_DIR)
        for path in writable:
            _allow(ruleset, path, everything)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version
