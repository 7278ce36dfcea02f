"""One explicit step of the heat equation: a five-point stencil."""

from kernelmill import task


@task(
    inputs={"u": "float32[H, W]"},
    workloads={"grid": {"H": 2048, "W": 2048}},
)
def heat_step(u):
    """The interior after one step; eager mode makes a new grid for every one of its six operations."""
    centre = u[1:-1, 1:-1]
    north, south = u[:-2, 1:-1], u[2:, 1:-1]
    west, east = u[1:-1, :-2], u[1:-1, 2:]
    return centre + 0.2 * (north + south + west + east - 4 * centre)
