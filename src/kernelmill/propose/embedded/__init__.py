"""The embedded proposer: from a traced graph to printed kernels, without a model and without a network."""

TRACER = "kernelmill.propose.embedded.tracing"
"""The module that makes the graph; it needs torch and runs in the reference's cell."""
