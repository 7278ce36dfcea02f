"""What every kernel language must keep to; a third party's plugin is tested by subclassing."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import get_args

import pytest

from kernelmill.errors import BuildError, StageError
from kernelmill.languages._base import Artifact, Language
from kernelmill.schema import Candidate, Scalar, Signature, TensorSpec, Tier


def tensor(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    """A contiguous tensor of a signature."""
    stride = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        stride[i] = stride[i + 1] * shape[i + 1]
    return TensorSpec(name=name, shape=shape, dtype=dtype, stride=tuple(stride))


SIGNATURE = Signature(
    arguments=(tensor("x", 4, 8), Scalar(name="scale", value=2.0), Scalar(name="mode", value="none")),
    state=(tensor("inner.weight", 8),),
    outputs=(tensor("out", 4, 8),),
)

GARBAGE = (
    "",
    "   \n\n",
    "\x00",
    "this is no program (",
    ")(" * 1000,
    "\ud800",
    "x" * 2_000_000,
    "(" * 20_000,
    "```\nfenced\n```",
)
"""Texts that are a source in no language."""


class LanguageContract:
    """Subclass it and give the fixture `language`: an instance that is ready to build here."""

    @pytest.fixture
    def language(self) -> Language:
        """The language under test."""
        raise NotImplementedError("override the fixture `language`")

    def name(self, language: Language) -> str:
        """The plugin's name: that of its module."""
        return type(language).__module__.rsplit(".", 1)[-1]

    def candidate(self, language: Language, source: str) -> Candidate:
        """A candidate in this language."""
        return Candidate(language=self.name(language), source=source)

    def test_its_template_builds_for_its_signature(self, language: Language) -> None:
        source = language.template(SIGNATURE)
        assert isinstance(language.build(self.candidate(language, source), SIGNATURE), Artifact)

    def test_its_template_names_every_argument_and_state_tensor(self, language: Language) -> None:
        source = language.template(SIGNATURE)
        assert "x" in source
        assert "scale" in source
        assert "inner_weight" in source or "inner.weight" in source

    def test_it_has_a_guide_with_a_complete_example(self, language: Language) -> None:
        guide = language.guide()
        assert guide.count("```") >= 2
        assert len(guide) <= 12_000, "a guide goes into every prompt; keep it short"

    @pytest.mark.parametrize("source", GARBAGE, ids=[repr(text[:12]) for text in GARBAGE])
    def test_garbage_fails_at_build_with_a_short_message(self, language: Language, source: str) -> None:
        with pytest.raises(BuildError) as caught:
            language.build(self.candidate(language, source), SIGNATURE)
        assert 0 < len(str(caught.value)) <= 2_500

    def test_building_twice_gives_the_same_artifact(self, language: Language) -> None:
        candidate = self.candidate(language, language.template(SIGNATURE))
        assert language.build(candidate, SIGNATURE) == language.build(candidate, SIGNATURE)

    def test_the_tier_is_one_of_three_and_stable(self, language: Language) -> None:
        candidate = self.candidate(language, language.template(SIGNATURE))
        assert language.tier(candidate) in get_args(Tier)
        assert language.tier(candidate) == language.tier(candidate)

    def test_the_tier_of_garbage_is_a_tier_or_a_build_error(self, language: Language) -> None:
        for source in GARBAGE:
            try:
                tier = language.tier(self.candidate(language, source))
            except StageError:
                continue
            assert tier in get_args(Tier)

    def test_the_artifact_travels_as_json_and_names_a_loader_that_exists(self, language: Language) -> None:
        artifact = language.build(self.candidate(language, language.template(SIGNATURE)), SIGNATURE)
        assert json.loads(json.dumps(artifact.payload)) == artifact.payload
        assert find_spec(artifact.loader) is not None

    def test_its_suffix_is_a_file_suffix(self, language: Language) -> None:
        assert language.suffix.startswith(".")
        assert len(language.suffix) > 1
