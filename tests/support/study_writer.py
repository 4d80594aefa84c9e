"""A driver that the tests kill: it writes to a study as fast as it can, and prints every acknowledged write.

Run as: python -m tests.support.study_writer DIRECTORY NAME URL COUNT, with an empty URL for the journal; with a COUNT
of 0 it opens the study and holds it. It prints `open`, `started TRIAL`, `finished TRIAL SCORE` or `refused: MESSAGE`,
one per line, without buffering.
"""

import random
import sys
from pathlib import Path

from nas.common.errors import StudyError
from nas.models.fusion.pmf.architecture import GENES, PMFArchitecture
from nas.search.space import SearchSpace
from nas.storage.study import Study
from tests.support.factories import make_result

SPACE = SearchSpace(
    PMFArchitecture,
    dict.fromkeys(GENES, (1, 2, 3)),
    {"query_prompts": "layer_and_direction"},
    num_layers=4,
)


def main(directory: str, name: str, url: str, count: int) -> None:
    try:
        study = Study(Path(directory), SPACE, name=name, storage=url or None)
    except StudyError as error:
        print(f"refused: {error}", flush=True)
        return
    print("open", flush=True)
    rng = random.Random(0)
    for _ in range(count):
        architecture = SPACE.sample(rng)
        trial = study.start(architecture)
        print(f"started {trial}", flush=True)
        score = rng.random()
        study.finish(make_result(trial=trial, architecture=architecture, score=score, metrics={}))
        print(f"finished {trial} {score!r}", flush=True)
    sys.stdin.read()  # until it is killed or its parent has ended


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
