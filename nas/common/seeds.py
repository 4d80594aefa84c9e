"""Seeds that depend on their parts alone."""

import numpy as np


def seed_from(*parts: int | str) -> int:
    """A seed that depends on every part and on nothing else; the same on every machine and in every process."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "big") for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
