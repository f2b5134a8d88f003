"""The stages of an experiment in their order, each done once."""

import json
from typing import Any

from jaxinterp.app import _codec, _environment
from jaxinterp.app._explain import explain, require_readable, require_suitable
from jaxinterp.app._measure import measure
from jaxinterp.app._run import Run
from jaxinterp.app._train import train
from jaxinterp.app._workdir import WorkdirError

_OUTPUTS = {
    "train": (),  # its checkpoints have records of their own
    "explain": ("explanations",),
    "measure": ("measurements",),
    "report": ("report.html", "figures"),
}

_BEFORE = {"train": (), "explain": ("train",), "measure": ("train",), "report": ("train", "explain", "measure")}
"""The stages whose results a stage needs."""


def perform(run: Run, stages: tuple[str, ...]) -> None:
    """Does the stages that are not finished yet, and brings results.json up to date after each.

    Raises:
      ConfigError: if more examples are asked for than there are, or a method that cannot explain such data.
      WorkdirError: if a stage is asked for whose results depend on one that was not done.
    """
    run.workdir.require_same(_codec.to_plain(run.experiment))
    require_possible(run, stages)
    with run.workdir.opened(_codec.to_plain(run.experiment)):
        trained = run.finished("train")
        if trained:
            run.checkpoints.is_intact(trained["results"]["best_step"])  # if not, it is put aside, and train unfinished
        for stage in stages:
            if run.finished(stage):
                run.reporter.say(f"{stage}: finished before")
            else:
                require_possible(run, (stage,))
                with run.workdir.stage(stage, run.inputs(stage), _OUTPUTS[stage]) as results:
                    results |= _function(stage)(run)
            run.workdir.write_json("results.json", _results(run))


def require_possible(run: Run, stages: tuple[str, ...]) -> None:
    """Raises if a stage needs another one that is neither finished nor to be done, more examples, or other data."""
    for stage in stages:
        for before in _BEFORE[stage]:
            if before not in stages and not run.finished(before):
                raise WorkdirError(
                    f"`{stage}` needs the results of `{before}` in {run.workdir.root}; "
                    "do that first, or all with `jaxinterp run`."
                )
    there = len(run.dataset.test)
    wanted = {"explain": run.experiment.explain.num_examples, "measure": run.experiment.measure.num_examples}
    for stage, count in wanted.items():
        if stage in stages and count is not None and count > there:
            raise _codec.ConfigError(f"{stage}.num_examples: {count} is more than the {there} test examples there are.")
    if "explain" in stages:
        require_suitable(run.experiment.explain, run.dataset)
        require_readable(run)


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

    def text(value: float | None, form: str) -> str:
        return "unknown" if value is None else format(value, form)

    lines = [f"test accuracy         {100 * results['accuracy']['mean']:.1f} %"]
    if results["sparsity"]["gated"]:
        lines.append(f"weights removed       {100 * results['sparsity']['removed_fraction']:.1f} %")
    if "gradient_norm" in results:
        lines.append(f"gradient norm         {text(results['gradient_norm']['mean'], '.3g')} (mean)")
        lines.append(f"normalised curvature  {text(results['normalised_curvature']['median'], '.3g')} (median)")
        for level, statistics in results["p_robust"]["monte_carlo"].items():
            mean, stderr = (text(statistics[name], ".3f") for name in ("mean", "stderr"))
            lines.append(f"p_robust, σ = {level:<6}  {mean} ± {stderr}")
        for radius, statistics in results["pgd_accuracy"].items():
            count = f"of {statistics['num_examples']} examples"
            lines.append(f"PGD, radius {radius:<9} {100 * statistics['mean']:.1f} % {count} right after the attack")
    return "\n".join(lines)
