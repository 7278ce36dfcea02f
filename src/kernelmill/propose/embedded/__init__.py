"""The embedded proposer: from a traced graph to printed kernels, without a model and without a network."""

TRACER = "kernelmill.propose.embedded.tracing"
"""The module that makes the graph; it needs torch and runs in the reference's cell."""


def graph_file(number: int) -> str:
    """Name of the file with a workload's graph in the folder of a run; the first workload has number 1."""
    return "graph.json" if number == 1 else f"graph-{number}.json"
