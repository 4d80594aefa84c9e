"""The architectures of an ablation: those that differ from one architecture in the value of one gene."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from nas.common.boundary import shown
from nas.common.errors import ArgumentError
from nas.search.space import Architecture, EncoderSizes, Gene, GeneValue, SearchSpace


@dataclass(frozen=True)
class GeneRequest:
    """One `--gene`.

    Args:
        name: The name of the gene.
        values: The values to try, as text; empty for the choices of the search file.
    """

    name: str
    values: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "GeneRequest":
        """Parse `NAME` or `NAME=VALUE,VALUE`."""
        name, _, values = text.partition("=")
        return cls(name.strip(), tuple(value.strip() for value in values.split(",") if value.strip()))


@dataclass(frozen=True)
class AblationRow:
    """One value of one gene.

    Args:
        gene: The name of the gene.
        value: Its value, as text.
        architecture: The architecture with this value.
        is_default: Whether this is the value of the architecture that the others are compared with.
    """

    gene: str
    value: str
    architecture: Architecture
    is_default: bool


def digest_of(architecture: Architecture) -> str:
    """Return the digest of the stated genes of an architecture, 12 hexadecimal digits, which identifies it."""
    return hashlib.sha256(json.dumps(architecture.stated(), sort_keys=True).encode()).hexdigest()[:12]


def base_architecture(
    architecture_class: type[Architecture],
    sizes: EncoderSizes,
    given: Mapping[str, Any] | None,
    *,
    is_retrieval: bool = False,
) -> Architecture:
    """Return the architecture that genes are varied of.

    Args:
        architecture_class: The class of the family.
        sizes: The sizes of the encoders.
        given: The values of some genes, as `Architecture.as_dict` has them; the others are the default's. None for the
            default itself.
        is_retrieval: Whether models are for retrieval, for which a default may have other values.

    Raises:
        ArgumentError: If a gene is unknown or has a value that no architecture has.
    """
    default = (architecture_class.default_for_retrieval if is_retrieval else architecture_class.default)(sizes)
    values = {**(given or {})}
    if values.pop("family", default.family) != default.family:
        raise ArgumentError(f"--architecture: wrong family; expected {default.family}, got {shown(given)}")
    unknown = [name for name in values if name not in architecture_class.gene_names()]
    if unknown:
        raise ArgumentError(
            f"--architecture: unknown gene {', '.join(map(shown, unknown))}; expected any of "
            f"{', '.join(architecture_class.gene_names())}"
        )
    try:
        architecture = Architecture.from_dict({**default.as_dict(), **values})
    except ValueError as error:
        raise ArgumentError(f"--architecture: {error}") from error
    layers = architecture_class.num_layers(sizes) - architecture.first_layer
    if architecture.layer_count not in (None, layers):
        raise ArgumentError(
            f"--architecture: wrong number of layers; expected {layers}, got {architecture.layer_count}"
        )
    for gene in architecture_class.genes:
        if gene.name in values:
            _check_values(gene, _numbers(getattr(architecture, gene.name)), "--architecture", architecture_class, sizes)
    return architecture


def ablation_rows(
    base: Architecture,
    requests: Sequence[GeneRequest],
    space: SearchSpace,
    sizes: EncoderSizes,
    *,
    is_retrieval: bool = False,
) -> list[AblationRow]:
    """Return the rows of an ablation, gene by gene in the order of the requests, values in ascending order.

    Args:
        base: The architecture that genes are varied of; it is among the rows of every gene.
        requests: The genes; none for all genes that have several values.
        space: The search space of the file.
        sizes: The sizes of the encoders.
        is_retrieval: Whether models are for retrieval, for which some genes have one value.

    Raises:
        ArgumentError: If a gene is unknown, has an unknown value or a single one, or no gene can be varied.
    """
    genes = {gene.name: gene for gene in base.genes}
    if not genes:
        raise ArgumentError(f"ablate: the family {base.family} has no genes; expected a family with genes")
    names = [request.name for request in requests]
    unknown = [name for name in dict.fromkeys(names) if name not in genes]
    if unknown:
        raise ArgumentError(
            f"--gene: unknown gene {', '.join(map(shown, unknown))}; expected any of {', '.join(genes)}"
        )
    rows = []
    fixed = base.retrieval_values if is_retrieval else {}
    for name in dict.fromkeys(names or genes):
        problem = _fixed_by(name, base, fixed)
        if problem and names:
            raise ArgumentError(f"--gene {name}: cannot be varied{problem}")
        if problem:
            continue
        gene, texts = genes[name], [text for request in requests if request.name == name for text in request.values]
        values = _asked_values(gene, texts, base, sizes) if texts else _default_values(gene, base, space, sizes)
        found = _rows_of_gene(gene, values, base)
        if len(found) > 1:
            rows += found
        elif names:
            raise ArgumentError(
                f"--gene {name}: only one value, {found[0].value}; expected several (--gene {name}=VALUE,VALUE)"
            )
    if not rows:
        raise ArgumentError(f"ablate: no gene of the family {base.family} can be varied; expected one with two values")
    return rows


def _fixed_by(name: str, base: Architecture, fixed: Mapping[str, int]) -> str:
    """Return why a gene of an architecture has one value; an empty text if it may have others."""
    if name in fixed:
        return " with data.task: retrieval; expected another gene"
    if not base.has_meaning(name):
        condition = next(gene.only_with for gene in base.genes if gene.name == name)
        assert condition is not None, "the gene has a meaning beside some values of another"
        other, values = condition
        return f" with {other} {base.texts()[other]}; expected an architecture with {other} {' or '.join(values)}"
    return ""


def space_of_rows(rows: Sequence[AblationRow], num_layers: int) -> SearchSpace:
    """Return the smallest space that holds all architectures of an ablation.

    Args:
        rows: The rows.
        num_layers: The number of layers that the layer gene counts.
    """
    spaces = [SearchSpace.around(row.architecture, num_layers) for row in rows]
    choices = {
        name: tuple(sorted(set(itertools.chain(*(space.choices[name] for space in spaces)))))
        for name in spaces[0].choices
    }
    granularity = {name: value for space in spaces for name, value in space.granularity.items()}
    return SearchSpace(spaces[0].architecture_class, choices, granularity, num_layers)


def _asked_values(gene: Gene, texts: Sequence[str], base: Architecture, sizes: EncoderSizes) -> list[int]:
    values = []
    for text in texts:
        try:
            value = gene.parse(text) if gene.names else int(text)
        except ValueError as error:
            expected = f"one of {', '.join(gene.names)}" if gene.names else "whole numbers"
            raise ArgumentError(f"--gene {gene.name}: wrong value; expected {expected}, got {shown(text)}") from error
        values.append(value)
    _check_values(gene, values, f"--gene {gene.name}", type(base), sizes)
    return values


def _default_values(gene: Gene, base: Architecture, space: SearchSpace, sizes: EncoderSizes) -> list[int]:
    """Return all alternatives, or the choices of the search file, or, if that is a single one, the usual choices.

    A size that may be 0 is left out in one of the rows.
    """
    largest = _largest(gene, type(base), sizes)
    usual = [value for value in type(base).default_choices(sizes)[gene.name] if value <= largest]
    if gene.names:
        return list(usual)
    chosen = space.choices[gene.name]
    left_out = (0,) if gene.smallest == 0 and not gene.is_layer else ()
    return [*(chosen if len(chosen) > 1 else usual), *left_out]


def _rows_of_gene(gene: Gene, values: Sequence[int], base: Architecture) -> list[AblationRow]:
    own: GeneValue = getattr(base, gene.name)
    every: list[GeneValue] = [*([] if isinstance(own, int) else [own]), *sorted({*values, *_numbers(own, whole=True)})]
    rows = []
    for value in every:
        try:
            architecture = base if value == own else cast(Architecture, replace(cast(Any, base), **{gene.name: value}))
        except ValueError as error:
            raise ArgumentError(f"--gene {gene.name}: {error}") from error
        if gene.is_layer and architecture.layer_count is not None and value != own:
            raise ArgumentError(
                f"--gene {gene.name}: cannot be varied, since other genes of the architecture have a value for each "
                f"layer; expected an architecture with one value for each gene, got {base}"
            )
        rows.append(AblationRow(gene.name, gene.format(value), architecture, value == own))
    return rows


def _numbers(value: GeneValue, *, whole: bool = False) -> list[int]:
    """Return the numbers of a value; with `whole`, only of one that holds for the whole model."""
    if isinstance(value, int):
        return [value]
    return [] if whole else list(itertools.chain(*value))


def _check_values(
    gene: Gene, values: Sequence[int], where: str, architecture_class: type[Architecture], sizes: EncoderSizes
) -> None:
    largest = _largest(gene, architecture_class, sizes)
    wrong = [value for value in values if not gene.smallest <= value <= largest]
    if wrong:
        raise ArgumentError(
            f"{where}: value of {gene.name} out of range; expected {gene.smallest} to {largest:,}, got "
            f"{', '.join(map(str, wrong))}"
        )


def _largest(gene: Gene, architecture_class: type[Architecture], sizes: EncoderSizes) -> int:
    """Return the largest value of a gene with these encoders."""
    last = architecture_class.num_layers(sizes) - 1
    return architecture_class.largest_values(sizes).get(gene.name, last if gene.is_layer else gene.largest)
