"""The variants of an ablation: which values are tried, and errors in genes and architectures."""

from typing import Any

import pytest

from nas.common.errors import ArgumentError
from nas.models.fusion.clip_zero_shot.architecture import CLIPZeroShotArchitecture
from nas.models.fusion.maple.architecture import MaPLeArchitecture
from nas.models.fusion.mmbt.architecture import MMBTArchitecture
from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.run.ablation.rows import GeneRequest, ablation_rows, base_architecture, digest_of, space_of_rows
from nas.search.space import Architecture, EncoderSizes, SearchSpace

SIZES = EncoderSizes(image_layers=4, text_layers=3, image_hidden_size=8, text_hidden_size=12)
SPACE = SearchSpace(
    PMFArchitecture,
    {
        "fusion_layer": (0, 2),
        "query_prompts": (1, 2),
        "query_context_prompts": (2,),
        "fusion_context_prompts": (1, 2),
        "mapping_width": (4, 8),
    },
)
BASE = PMFArchitecture.default(SIZES)


def values_of(base: Architecture, *texts: str, space: SearchSpace = SPACE) -> dict[str, list[str]]:
    rows = ablation_rows(base, [GeneRequest.parse(text) for text in texts], space, SIZES)
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.gene, []).append(f"{row.value}*" if row.is_default else row.value)
        others = {gene: value for gene, value in row.architecture.values().items() if gene != row.gene}
        assert others == {gene: value for gene, value in base.values().items() if gene != row.gene}
        assert row.is_default == (row.architecture == base)
    return found


def test_every_gene_is_varied_over_the_choices_of_the_file_the_default_and_nothing() -> None:
    found = values_of(BASE)
    assert list(found) == list(PMFArchitecture.gene_names())
    assert found["fusion_layer"] == ["0", "1*", "2"]
    assert found["query_prompts"] == ["0", "1", "2", "4*"]
    assert found["query_context_prompts"] == ["0", "2", "4*", "8"], "one choice is none: the usual values"
    assert found["fusion_context_prompts"] == ["0", "1", "2", "4*"]
    assert found["image_readout"] == ["pooled*", "mean"], "all alternatives"


def test_named_genes_have_the_asked_values_in_the_asked_order() -> None:
    assert values_of(BASE, "mapping_width=3, 9", "text_readout=mean", "mapping_width=1") == {
        "mapping_width": ["1", "3", "6*", "9"],
        "text_readout": ["pooled*", "mean"],
    }


def test_architecture_with_a_value_for_each_layer_is_a_row_of_its_own() -> None:
    base = base_architecture(PMFArchitecture, SIZES, {"query_prompts": [[1, 2], [3, 4]]})
    assert values_of(base, "query_prompts", "mapping_width=5") == {
        "query_prompts": ["1/2,3/4*", "0", "1", "2"],
        "mapping_width": ["5", "6*"],
    }
    rows = ablation_rows(base, [GeneRequest("query_prompts")], SPACE, SIZES)
    space = space_of_rows(rows, 3)
    assert all(row.architecture in space for row in rows)
    with pytest.raises(ArgumentError, match=r"fusion_layer: cannot be varied, since other genes .* for each layer"):
        values_of(base, "fusion_layer")


def test_space_holds_every_variant_and_has_no_other_values() -> None:
    rows = ablation_rows(BASE, [GeneRequest("fusion_layer"), GeneRequest("mapping_width", ("2",))], SPACE, SIZES)
    space = space_of_rows(rows, 3)
    assert all(row.architecture in space for row in rows)
    assert space.choices["fusion_layer"] == (0, 1, 2) and space.choices["mapping_width"] == (2, 6)
    assert space.choices["query_prompts"] == (4,)


def test_digest_identifies_an_architecture() -> None:
    rows = ablation_rows(BASE, [], SPACE, SIZES)
    digests = {digest_of(row.architecture) for row in rows}
    assert len(digests) == len({row.architecture for row in rows}) < len(rows)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fusion", "prompts=3"], r"--gene: unknown gene 'fusion', 'prompts'; expected any of fusion_layer, query_pr"),
        (["mapping_width=0.5"], r"--gene mapping_width: wrong value; expected whole numbers, got '0.5'"),
        (
            ["mapping_width=70000"],
            r"value of mapping_width out of range; expected . to 65,536, got 7",
        ),
        (["query_prompts=-1"], r"--gene query_prompts: value of query_prompts out of range; expected . to .*, got -1"),
        (["fusion_layer=3"], r"--gene fusion_layer: value of fusion_layer out of range; expected 0 to 2, got 3"),
        (["image_readout=top"], r"--gene image_readout: wrong value; expected one of pooled, mean, got 'top'"),
        (["fusion_layer=1"], r"--gene fusion_layer: only one value, 1; expected several"),
    ],
)
def test_wrong_gene_is_one_error(texts: list[str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        values_of(BASE, *texts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 3}, "--architecture: unknown gene 'depth'; expected any of fusion_layer"),
        ({"family": "mbt"}, "--architecture: wrong family; expected pmf"),
        ({"fusion_layer": 3}, "--architecture: value of fusion_layer out of range; expected 0 to 2, got 3"),
        ({"mapping_width": "wide"}, "--architecture: mapping_width: expected a whole number"),
        ({"query_prompts": [[1, 2]]}, "--architecture: wrong number of layers; expected 2, got 1"),
    ],
)
def test_wrong_architecture_is_one_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        base_architecture(PMFArchitecture, SIZES, given)


def test_genes_are_varied_where_they_have_a_meaning_and_up_to_the_layers_of_the_encoders() -> None:
    sizes = EncoderSizes(image_layers=4, text_layers=3, image_hidden_size=8, text_hidden_size=12)
    space = SearchSpace(MaPLeArchitecture, {gene.name: (gene.smallest,) for gene in MaPLeArchitecture.genes})
    coupled, vision = (
        base_architecture(MaPLeArchitecture, sizes, {"branches": name}) for name in ("coupled", "vision")
    )
    found = {row.gene for row in ablation_rows(coupled, [], space, sizes)}
    assert found == {"prompt_depth", "prompt_length", "branches", "coupling", "initial_text", "sample_text"}
    rows = ablation_rows(vision, [], space, sizes)
    assert {row.gene for row in rows} == found - {"coupling", "initial_text"}
    assert sum(row.is_default for row in rows) == 4 and all(row.architecture.depth <= 3 for row in rows)  # type: ignore[attr-defined]
    message = "--gene coupling: cannot be varied with branches vision; expected an architecture with branches coupled"
    with pytest.raises(ArgumentError, match=message):
        ablation_rows(vision, [GeneRequest("coupling")], space, sizes)
    with pytest.raises(ArgumentError, match=r"value of prompt_depth out of range; expected 1 to 3, got 4"):
        ablation_rows(coupled, [GeneRequest("prompt_depth", ("4",))], space, sizes)


def test_models_for_retrieval_keep_the_values_that_they_need() -> None:
    base = base_architecture(CLIPZeroShotArchitecture, SIZES, None, is_retrieval=True)
    assert base == CLIPZeroShotArchitecture(sample_text=1)
    space = SearchSpace(CLIPZeroShotArchitecture, {"sample_text": (1,)})
    with pytest.raises(ArgumentError, match="no gene of the family clip_zero_shot can be varied"):
        ablation_rows(base, [], space, SIZES, is_retrieval=True)
    with pytest.raises(ArgumentError, match=r"--gene sample_text: cannot be varied with data\.task: retrieval"):
        ablation_rows(base, [GeneRequest("sample_text")], space, SIZES, is_retrieval=True)


def test_family_without_genes_has_no_ablation() -> None:
    with pytest.raises(ArgumentError, match="ablate: the family mmbt has no genes"):
        values_of(MMBTArchitecture(), space=SearchSpace(MMBTArchitecture, {}))
