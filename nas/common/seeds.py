"""Seeds derived from parts."""

import numpy as np


def seed_from(*parts: int | str) -> int:
    """Return a seed that depends only on the parts; the same on every machine and in every process."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode(), "big") for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
