"""The stages of an experiment in their order, each done once."""

import json
from typing import Any

from jaxinterp.app import _codec, _environment
from jaxinterp.app._explain import explain
from jaxinterp.app._measure import measure
from jaxinterp.app._run import Run
from jaxinterp.app._train import train
from jaxinterp.app._workdir import WorkdirError

_BEFORE = {"train": (), "explain": ("train",), "measure": ("train",), "report": ("train", "explain", "measure")}
"""The stages whose results a stage needs."""


def perform(run: Run, stages: tuple[str, ...]) -> None:
    """Does the stages that are not finished yet, and brings results.json up to date after each.

    Raises:
      WorkdirError: if a stage is asked for whose results depend on one that was not done.
    """
    with run.workdir.opened(_codec.to_plain(run.experiment)):
        for stage in stages:
            inputs = run.inputs(stage)
            if run.workdir.finished(stage, inputs) and (stage != "report" or run.workdir.report.exists()):
                run.reporter.say(f"{stage}: finished before")
                continue
            missing = [b for b in _BEFORE[stage] if not run.workdir.finished(b, run.inputs(b))]
            if missing:
                raise WorkdirError(
                    f"`{stage}` needs the results of `{missing[0]}` in {run.workdir.root}; "
                    "do that first, or all with `jaxinterp run`."
                )
            with run.workdir.stage(stage, inputs) as results:
                results |= _function(stage)(run)
            run.workdir.write_json("results.json", _results(run))


def _function(stage: str) -> Any:
    if stage == "report":
        from jaxinterp.app._report import report  # brings matplotlib, which only this stage needs

        return report
    return {"train": train, "explain": explain, "measure": measure}[stage]


def _results(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "digest": _codec.digest(_codec.to_plain(run.experiment)),
        "command": run.command,
        **run.results(),
        "versions": _environment.versions(),
        "devices": _environment.devices(),
    }


def headline(run: Run) -> str:
    """The main numbers of a finished run, in a few lines."""
    results = json.loads((run.workdir.root / "results.json").read_text(encoding="utf-8"))
    lines = [f"test accuracy         {100 * results['accuracy']['mean']:.1f} %"]
    if results["sparsity"]["gated"]:
        lines.append(f"gated weights removed {100 * results['sparsity']['removed_fraction']:.1f} %")
    if "gradient_norm" in results:
        lines.append(f"gradient norm         {results['gradient_norm']['mean']:.3g}")
        lines.append(f"normalised curvature  {results['normalised_curvature']['mean']:.3g}")
        for level, statistics in results["p_robust"]["monte_carlo"].items():
            lines.append(f"p_robust, σ = {level:<6}  {statistics['mean']:.3f} ± {statistics['stderr']:.3f}")
    return "\n".join(lines)
