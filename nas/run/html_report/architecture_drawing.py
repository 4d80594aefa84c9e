"""Draw an architecture: both encoders with their layers, what fuses, and the sizes of prompts and mappings, as SVG."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nas.models.fusion.pmf.architecture import PMFArchitecture
from nas.search.space import Architecture, EncoderSizes

_WIDTH = 420
_LEFT, _RIGHT = 10, 280
"""Left edges of the columns of the image and of the text encoder."""
_BOX = 130
_FROZEN, _FUSING = 20, 62
_GAP = 8
_MAX_DOTS = 10


@dataclass(frozen=True)
class _Row:
    """A layer of both encoders that is drawn on one height; an index of None draws nothing on that side.

    Args:
        image: The index of the layer of the image encoder.
        text: That of the text encoder.
        fuses: The number of the fusing layer, from 0; None for a layer that does not fuse. Families other than PMF have
            such layers from the one on that their layer gene names.
    """

    image: int | None
    text: int | None
    fuses: int | None

    @property
    def height(self) -> int:
        return _FROZEN if self.fuses is None else _FUSING


def draw_architecture(architecture: Architecture, sizes: EncoderSizes) -> str:
    """Return an SVG element that shows an architecture, with a description for those who cannot see it.

    Of PMF it shows for each fusing layer and direction the query prompts, query context prompts and fusion context
    prompts as dots and the mapping as a bar of its width; of other families, the layers from its layer gene on.

    Args:
        architecture: The architecture.
        sizes: The sizes of the encoders.
    """
    rows = _rows(architecture, sizes)
    y, parts = 46, []
    parts.append(_text(_LEFT + _BOX / 2, 18, "image encoder", "title"))
    parts.append(_text(_RIGHT + _BOX / 2, 18, "text encoder", "title"))
    parts.append(_text(_LEFT + _BOX / 2, 35, f"{sizes.image_layers} layers, width {sizes.image_hidden_size}", "note"))
    parts.append(_text(_RIGHT + _BOX / 2, 35, f"{sizes.text_layers} layers, width {sizes.text_hidden_size}", "note"))
    widest = _widest(architecture, rows)
    bottoms = {"image": y, "text": y}
    for row in reversed(rows):  # the last layer is on top, the input below
        parts.extend(_layer(row, y, architecture, widest))
        y += (row.height if isinstance(architecture, PMFArchitecture) else _FROZEN) + _GAP
        bottoms |= {name: y for name, layer in (("image", row.image), ("text", row.text)) if layer is not None}
    parts.append(_text(_LEFT + _BOX / 2, bottoms["image"] + 10, "image", "note"))
    parts.append(_text(_RIGHT + _BOX / 2, bottoms["text"] + 10, "text", "note"))
    height = y + 20
    label = html.escape(describe_architecture(architecture, sizes))
    return (
        f'<svg class="architecture" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def describe_architecture(architecture: Architecture, sizes: EncoderSizes) -> str:
    """Return in a sentence what the drawing shows.

    Args:
        architecture: The architecture.
        sizes: The sizes of the encoders.
    """
    name = f"{architecture.title}: {architecture.summary() or 'no genes'}"
    return f"{name}. Image encoder of {sizes.image_layers} layers, text encoder of {sizes.text_layers} layers."


def _rows(architecture: Architecture, sizes: EncoderSizes) -> list[_Row]:
    """Return the layers from the input on; the last layers of both encoders are side by side."""
    count = max(sizes.image_layers, sizes.text_layers)
    chosen = 0
    if architecture.layer_gene() is not None:
        chosen = architecture.num_layers(sizes) - architecture.first_layer
    rows = []
    for index in range(count):
        image, text = index - (count - sizes.image_layers), index - (count - sizes.text_layers)
        place = index - (count - chosen)
        rows.append(_Row(image if image >= 0 else None, text if text >= 0 else None, place if place >= 0 else None))
    return rows


def _widest(architecture: Architecture, rows: Sequence[_Row]) -> int:
    if not isinstance(architecture, PMFArchitecture):
        return 1
    widths = [side.mapping_width for row in rows if row.fuses is not None for side in architecture.at(row.fuses)]
    return max(widths, default=1) or 1


def _layer(row: _Row, y: int, architecture: Architecture, widest: int) -> Iterator[str]:
    is_pmf = isinstance(architecture, PMFArchitecture)
    height = row.height if is_pmf else _FROZEN
    for left, layer, modality in ((_LEFT, row.image, "image"), (_RIGHT, row.text, "text")):
        if layer is None:
            continue
        # A gene that counts the layers of one encoder says nothing about the other one.
        is_chosen = row.fuses is not None and _OTHER[modality] not in architecture.layers_counted
        kind, words = ("fusing", " · fuses" if is_pmf else " · changed") if is_chosen else ("frozen", "")
        yield f'<rect class="{kind}" x="{left}" y="{y}" width="{_BOX}" height="{height}" rx="6"/>'
        yield _text(left + _BOX / 2, y + (16 if is_pmf and is_chosen else 14), f"layer {layer + 1}{words}", "layer")
    if row.fuses is None or not isinstance(architecture, PMFArchitecture):
        return
    to_text, to_image = architecture.at(row.fuses)
    yield from _prompts(_LEFT + 10, y + 26, to_text.query_prompts, to_text.query_context_prompts)
    yield from _prompts(_RIGHT + 10, y + 26, to_image.query_prompts, to_image.query_context_prompts)
    yield from _dots(_LEFT + 10, y + 50, to_image.fusion_context_prompts, "context-dot", "fusion context")
    yield from _dots(_RIGHT + 10, y + 50, to_text.fusion_context_prompts, "context-dot", "fusion context")
    for offset, side, forward in ((20, to_text, True), (46, to_image, False)):
        if side.query_prompts:
            yield from _mapping(y + offset, side.mapping_width, widest, forward=forward)


_OTHER = {"image": "text", "text": "image"}


def _prompts(x: float, y: float, queries: int, contexts: int) -> Iterator[str]:
    yield from _dots(x, y, queries, "query-dot", "query")
    yield from _dots(x, y + 12, contexts, "query-context-dot", "query context")


def _dots(x: float, y: float, count: int, kind: str, words: str) -> Iterator[str]:
    shown = min(count, _MAX_DOTS)
    yield f"<g><title>{count} {words} prompt{'' if count == 1 else 's'}</title>"
    for index in range(shown):
        yield f'<circle class="{kind}" cx="{x + 4 + 10 * index:g}" cy="{y}" r="3.6"/>'
    if count > shown:
        yield _text(x + 8 + 10 * shown, y + 4, f"+{count - shown}", "more")
    elif not count:
        yield f'<circle class="no-dot" cx="{x + 4:g}" cy="{y}" r="3"/>'
    yield "</g>"


def _mapping(y: float, width: int, widest: int, *, forward: bool) -> Iterator[str]:
    left, right = _LEFT + _BOX + 6, _RIGHT - 6
    middle, length = (left + right) / 2, 28 + 46 * width / widest
    start, end, head = (left, right, -7) if forward else (right, left, 7)
    yield f"<g><title>mapping of width {width} from {'image to text' if forward else 'text to image'}</title>"
    yield f'<path class="message" d="M{start} {y}H{end + head}"/>'
    yield f'<path class="head" d="M{end} {y}l{head} -4.5v9z"/>'
    yield (
        f'<rect class="mapping" x="{middle - length / 2:g}" y="{y - 9}" width="{length:g}" height="18" rx="9"/>'
        f"{_text(middle, y + 4, str(width), 'width')}</g>"
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{html.escape(words)}</text>'


def drawing_legend(architecture: Architecture) -> str:
    """Return the legend of a drawing as HTML; empty for families whose drawing explains itself.

    Args:
        architecture: The architecture that is drawn.
    """
    if not isinstance(architecture, PMFArchitecture):
        return ""
    kinds = {
        "query-dot": "query prompt",
        "query-context-dot": "query context prompt",
        "context-dot": "fusion context prompt",
    }
    dots = "".join(
        f'<li><svg class="architecture" style="display:inline;width:10px" width="10" height="10" aria-hidden="true">'
        f'<circle class="{kind}" cx="5" cy="5" r="3.6"/></svg>{words}</li>'
        for kind, words in kinds.items()
    )
    return f'<ul class="legend">{dots}<li>bar: mapping between the encoders, with its width</li></ul>'
