"""A large matrix product: the library is at the machine's limit, and the honest answer is "no gain"."""

from kernelmill import task


@task(
    inputs={"a": "float32[N, N]", "b": "float32[N, N]"},
    workloads={"main": {"N": 1024}},
)
def already_optimal(a, b):
    """KernelMill ends with exit code 1 here, and says why."""
    return a @ b
