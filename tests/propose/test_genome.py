"""Genomes: pure data, one round trip, one program."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from kernelmill.propose.embedded.cpp_printer import CppPrinter
from kernelmill.propose.embedded.genome import Genome
from kernelmill.propose.embedded.render import default_genome, parts_of, render
from tests.propose.printed import Apply, graph_of


def _softmax() -> tuple[Apply, list[torch.Tensor]]:
    return Apply(lambda x: torch.softmax(x, -1)), [torch.randn(40, 3000)]


def test_a_genome_survives_the_trip_through_json() -> None:
    genome = Genome(
        rewrites=("channels-last@3",),
        cuts=(4, 9),
        library=(2,),
        kernels={"k0": {"chunk": 256, "split": True, "reciprocal": False}, "file": {"vector": 256}},
        strides="same",
    )
    back = Genome.model_validate_json(genome.model_dump_json())
    assert back == genome
    assert back.kernels["k0"]["split"] is True
    assert back.kernels["k0"]["chunk"] == 256


def test_a_genome_refuses_words_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="layout"):
        Genome.model_validate({"layout": {"conv": "nhwc"}})


def test_the_same_genome_renders_the_same_candidate() -> None:
    graph = graph_of(*_softmax())
    genome = default_genome([graph], "same").turned("k0", "chunk", 256)
    first, second = (render([graph], genome, CppPrinter()) for _ in range(2))
    assert first == second
    assert first.genome is not None
    assert Genome.model_validate_json(first.genome) == genome


def test_a_candidate_declares_its_knobs_at_their_present_values() -> None:
    graph = graph_of(*_softmax())
    candidate = render([graph], default_genome([graph], "same").turned("k0", "chunk", 256), CppPrinter())
    knobs = {p.name: p for p in candidate.parameters}
    assert knobs["k0.chunk"].default == 256
    assert knobs["k0.chunk"].ordered
    assert knobs["k0.keep"].values == (True, False)
    assert "file.vector" not in knobs
    assert "file.vector" in {p.name for p in render([graph], Genome(), CppPrinter(widths=(256, 512))).parameters}


def test_a_point_turns_the_knobs_it_names_and_no_others() -> None:
    genome = Genome(kernels={"k0": {"keep": False}}).at({"k0.chunk": 256, "k1.lanes": 64})
    assert genome.kernels == {"k0": {"keep": False, "chunk": 256}, "k1": {"lanes": 64}}
    with pytest.raises(ValueError, match="kernel\\.knob"):
        genome.at({"chunk": 1})


def test_a_printed_kernel_claims_another_order_of_the_sums() -> None:
    graph = graph_of(*_softmax())
    assert render([graph], default_genome([graph], "same"), CppPrinter()).claims == ("reordered",)


def test_a_graph_with_nothing_to_fuse_is_rendered_as_library_calls() -> None:
    graph = graph_of(Apply(torch.mm), [torch.randn(4, 5), torch.randn(5, 6)])
    candidate = render([graph], default_genome([graph], "same"), CppPrinter())
    assert "aten.mm.default" in candidate.source
    assert 'extern "C"' not in candidate.source
    assert candidate.claims == ()


def test_workloads_that_only_their_constants_tell_apart_are_refused() -> None:
    double, triple = (graph_of(Apply(lambda x, n=n: x * n), [torch.ones(4, 8)]) for n in (2, 3))
    assert len(parts_of([double, double], Genome())) == 2
    with pytest.raises(ValueError, match="workloads 1 and 2 have the same shapes but compute different things"):
        parts_of([double, triple], Genome())
