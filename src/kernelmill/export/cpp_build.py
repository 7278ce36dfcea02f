"""How a C++ winner is compiled again outside kernelmill."""

from __future__ import annotations

from pathlib import Path

from kernelmill.export.winner import Build
from kernelmill.languages._compile import header_of
from kernelmill.languages._scan import parameters
from kernelmill.languages._toolchain import LINK_FLAGS, Compiler, extra_flags
from kernelmill.schema import Candidate


def cpp_build(candidate: Candidate, compiler: Compiler) -> Build:
    """The command of the `cpp` language in one line: same flags, same header, the knobs as definitions."""
    values = {knob.name: candidate.point.get(knob.name, knob.default) for knob in parameters(candidate.source)}
    knobs = [f"-D{name}={int(value) if isinstance(value, bool) else value}" for name, value in values.items()]
    flags = [*compiler.flags(extra_flags(candidate.source)), *knobs, "-include", "{folder}/kernelmill.h"]
    command = (Path(compiler.path).name, *flags, "{source}", "-o", "{output}", *LINK_FLAGS)
    return Build(f"{compiler.kind} {compiler.version}", command, {"kernelmill.h": header_of(candidate.source)})
