"""Tables of trained networks: each result is kept as soon as it is there, so that an interrupted table goes on."""

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from timing import heading

DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"

Runs = Callable[[str, int], Iterable[tuple[str, Callable[[], object]]]]
"""`(problem, seed) -> (name, function)` of all that is measured."""


def tabulate(title: str, problems: Mapping[str, int | None], runs: Runs, table: Callable[[dict, str], bool]) -> None:
    """Runs from the command line what the results file does not hold yet, and prints a table of each problem.

    Args:
      title: printed first.
      problems: with the number of seeds that they have, `None` for any; digits need no data beside the project.
      runs: what is measured.
      table: `(results by "problem/seed/name", problem)` -> whether the claim holds.
    """
    arguments = argparse.ArgumentParser(description=title)
    arguments.add_argument("--only", nargs="+", choices=tuple(problems), default=tuple(problems))
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--results", type=pathlib.Path, default=pathlib.Path(sys.argv[0]).with_suffix(".json").name)
    options = arguments.parse_args()
    heading(title)
    path = pathlib.Path(options.results)
    results = json.loads(path.read_text()) if path.exists() else {}
    holds = True
    for problem in options.only:
        if problem != "digits" and not DATA.is_dir():
            print(f"{problem}: left out, {DATA} is absent")
            continue
        for seed in range(min(options.seeds, problems[problem] or options.seeds)):
            for name, run in runs(problem, seed):
                key, start = f"{problem}/{seed}/{name}", time.perf_counter()
                if key not in results:
                    results[key] = run()
                    path.with_suffix(".part").write_text(json.dumps(results, indent=1))
                    os.replace(path.with_suffix(".part"), path)
                    print(f"{key}: {results[key]}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
        holds &= table(results, problem)
    if not holds:
        sys.exit("the claim does not hold")
