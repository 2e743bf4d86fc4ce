"""A program that works on a case until it is killed: python -m tests.project.worker FOLDER SEED.

After each thing it does, it prints one line: it has been told by then that all is saved.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from segone_napari.project import EditHistory, Project
from segone_napari.project import case as case_module
from tests.project.work import do_something, facts

STEPS_BETWEEN_SYNCS = 4


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    case_module.SNAPSHOT_RECORDS = 9
    (case,) = Project(folder).cases()
    history = EditHistory.open(case)
    print(json.dumps(facts(history)), flush=True)
    rng = np.random.default_rng(seed)
    for step in range(100_000):
        what = do_something(history, rng)
        assert history.is_saved
        print(what, flush=True)
        if step % STEPS_BETWEEN_SYNCS == 0:
            history.sync()


if __name__ == "__main__":
    main()
