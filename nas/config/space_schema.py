"""The section `space` of the search file: its keys are the genes of the fusion family."""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, create_model, field_validator

from nas.config.section import Automatic, Expected, FromFile, Rejected, Section
from nas.config.values import Integer, OneOf, Text, ascending
from nas.search.space import MAX_LAYERS, Architecture, Gene, SearchSpace

NUM_LAYERS = "num_layers"
_CHOICES = "values around that of the default architecture"
_ALTERNATIVES = "all that differ for the encoder"


def parse_space(values: Any, architecture_class: type[Architecture]) -> SearchSpace:
    """Build the search space of a family from the content of a search file.

    Raises:
        pydantic.ValidationError: If a gene is missing, unknown or has values that the family does not allow.
    """
    section = space_section(architecture_class).model_validate(values, context=FromFile())
    genes = {gene.name: getattr(section, gene.name) for gene in architecture_class.genes}
    choices = {name: _choices(value) for name, value in genes.items()}
    per = {name: value.per for name, value in genes.items() if hasattr(value, "per")}
    return SearchSpace(architecture_class, choices, per, getattr(section, NUM_LAYERS))


def space_as_dict(space: SearchSpace) -> dict[str, Any]:
    """Return the content of a search file that `parse_space` reads back to an equal space."""
    values: dict[str, Any] = {} if space.num_layers is None else {NUM_LAYERS: space.num_layers}
    for gene in space.architecture_class.genes:
        allowed = [gene.plain(value) for value in space.choices[gene.name]]
        per = space.granularity.get(gene.name)
        values[gene.name] = allowed if per is None else {"choices": allowed, "per": per}
    return values


@cache
def space_section(architecture_class: type[Architecture]) -> type[Section]:
    """Return the schema of `space` for one family: a key per gene, and the number of layers."""
    prefix = architecture_class.__name__.removesuffix("Architecture")
    fields: dict[str, Any] = {
        gene.name: (Annotated[_names_type(gene), Automatic(_ALTERNATIVES)], Field((0,), description=_description(gene)))
        if gene.names
        else (Annotated[_gene_type(gene, prefix), Automatic(_CHOICES)], Field(description=_description(gene)))
        for gene in architecture_class.genes
    }
    fields[NUM_LAYERS] = (
        Integer | None,
        Field(
            None,
            ge=1,
            le=MAX_LAYERS,
            description=f"The number of layers {architecture_class.layers_counted}. Required if the values of a gene "
            "differ between layers or directions.",
        ),
    )
    return create_model(
        f"{prefix}Space",
        __base__=Section,
        __doc__=f"The genes of the family `{architecture_class.family}`.",
        __validators__={"check_num_layers": field_validator(NUM_LAYERS)(_num_layers_check(architecture_class))},
        **fields,
    )


def _gene_type(gene: Gene, prefix: str) -> Any:
    """Return the type of a gene's key: its choices, or a mapping if the gene can differ within a model."""
    smallest = gene.smallest
    choices = (
        f"ascending, distinct whole numbers of at least {smallest} and at most {gene.largest}, for instance "
        f"[{smallest}, {smallest + 2}]"
    )
    if gene.is_layer:
        choices += ", or all below 0 to count from the end, for instance [-2, -1]"
    plain = Annotated[tuple[int, ...], BeforeValidator(_choices_of(gene)), Expected(choices)]
    if gene.granularities == ("model",):
        return plain
    free = create_model(
        f"{prefix}{gene.name.title().replace('_', '')}",
        __base__=Section,
        __doc__="Choices of a gene that can differ within a model.",
        choices=(plain, Field(description="The allowed values.")),
        per=(
            Annotated[Text, OneOf(lambda: gene.granularities)],
            Field("model", description="The scope of one value: the model, a layer, a direction, or both."),
        ),
    )

    def parse(value: Any) -> Any:
        if isinstance(value, dict):
            return free.model_validate(value, context=FromFile())
        return value if isinstance(value, free) else _choices_of(gene)(value)

    return Annotated[tuple[int, ...] | free, BeforeValidator(parse), Expected(choices)]


def _names_type(gene: Gene) -> Any:
    """Return the type of the key of a gene whose values have names: a list of these, in any order."""

    def parse(value: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):  # the default
            return value
        if not isinstance(value, list) or not value or any(entry not in gene.names for entry in value):
            raise Rejected()
        if len(set(value)) < len(value):
            raise Rejected()
        return tuple(sorted(gene.names.index(entry) for entry in value))

    return Annotated[
        tuple[int, ...],
        BeforeValidator(parse),
        Expected(f"a list of one or more of {', '.join(gene.names)}"),
        WithJsonSchema({"type": "array", "items": {"enum": list(gene.names)}, "minItems": 1, "uniqueItems": True}),
    ]


def _choices_of(gene: Gene) -> Callable[[Any], tuple[int, ...]]:
    def is_allowed(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and gene.smallest <= value <= gene.largest

    return lambda value: ascending(value, is_allowed)


def _choices(value: Any) -> tuple[int, ...]:
    choices: tuple[int, ...] = getattr(value, "choices", value)
    return choices


def _description(gene: Gene) -> str:
    words = gene.name.replace("_", " ")
    if gene.names:
        return (
            f"The choices of {words} ({gene.symbol}). A section `space` that leaves the key out has "
            f"`[{gene.names[0]}]`."
        )
    counted = " Negative numbers count from the end: -1 is the last layer, -2 the one before." if gene.is_layer else ""
    return f"The choices of {words} ({gene.symbol}).{counted}"


def _num_layers_check(architecture_class: type[Architecture]) -> Callable[..., Any]:
    layer_gene = architecture_class.layer_gene()

    def check(cls: type[Section], value: int | None, info: ValidationInfo) -> int | None:
        del cls
        free = [name for name, entry in info.data.items() if getattr(entry, "per", "model") != "model"]
        if value is None and free:
            raise Rejected(
                f"the number of layers {architecture_class.layers_counted}, since {', '.join(free)} can differ within "
                "a model",
                problem="missing",
            )
        first_layers = () if layer_gene is None else info.data.get(layer_gene.name, ())
        if layer_gene is not None and value is not None and first_layers and value <= first_layers[-1]:
            raise Rejected(f"more than {first_layers[-1]}, the last choice of {layer_gene.name}")
        return value

    return check
