"""`kernelmill doctor`."""

from __future__ import annotations

from kernelmill.cli._verb import Face, verb


@verb("measure.threads", "paths.runs")
def doctor(face: Face) -> int:
    """Say what is here and what is missing. Names the line that mends it; attacks the sandbox to see whether it holds.

    \b
    Examples:
      kernelmill doctor
      kernelmill doctor -v        every attack, also those that were stopped

    Exit code: 0 kernels can be built and judged here; 4 something they need is missing.
    """
    from dataclasses import asdict

    from kernelmill import api
    from kernelmill.cli._text import diagnosis_text
    from kernelmill.errors import ToolchainError

    face.note("looking; the first time this measures the machine for some seconds")
    found = api.doctor(face.config())
    face.result(diagnosis_text(found, verbose=face.verbose), {"able": found.able, **asdict(found)})
    return 0 if found.able else ToolchainError.exit_code
