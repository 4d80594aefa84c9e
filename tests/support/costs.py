"""A cost model for tests of objectives."""

from nas.search.space import Architecture


class WidthCosts:
    """Predicts the mapping width of an architecture as its parameters, and ten times as much as its memory."""

    def parameter_count(self, architecture: Architecture) -> int:
        width, _ = architecture.value_at("mapping_width", 0)
        return width

    def architecture_bytes(self, architecture: Architecture) -> int:
        return 10 * self.parameter_count(architecture)
