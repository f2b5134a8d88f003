"""An experiment made into objects, once: data, network, optimisers, and where the results go."""

import dataclasses
import functools
from typing import Any

import jax

from jaxinterp import data, models, training
from jaxinterp.app import _codec
from jaxinterp.app._config import Experiment
from jaxinterp.app._examples import Trained
from jaxinterp.app._progress import Reporter
from jaxinterp.app._workdir import Workdir
from jaxinterp.typing import Array

STAGES = ("train", "explain", "measure", "report")

_KEYS = {"params": 0, "batches": 1, "training": 2, "explain": 3, "measure": 4}
"""What the experiment's key is folded with for each purpose; adding one leaves the others as they are."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One experiment at work.

    Attributes:
      name: of the configuration.
      experiment: what is to be done.
      workdir: where the results go.
      reporter: tells people what goes on.
      command: what reproduces the run.
    """

    name: str
    experiment: Experiment
    workdir: Workdir
    reporter: Reporter
    command: str

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The data, loaded when first used."""
        return self.experiment.data.build()

    @functools.cached_property
    def network(self) -> tuple[models.Function, models.TrainingFunction]:
        """The network with its initial parameters, in evaluation and in training mode."""
        seed = int(jax.random.randint(self.key("params"), (), 0, 2**31 - 1))
        try:
            model = self.experiment.model.build(self.dataset, seed)
        except ValueError as error:
            raise _codec.ConfigError(f"model: {error}") from error
        return models.as_function(model), models.as_training_function(model)

    @functools.cached_property
    def optimizers(self) -> training.Optimizers:
        """Of the parameters and of the gates."""
        settings = self.experiment.training
        optimizer = self.experiment.optimizer.build(settings.num_steps)
        try:
            for pruning in self.experiment.pruning:
                optimizer = pruning.build(optimizer, settings.num_steps)
        except ValueError as error:
            raise _codec.ConfigError(f"pruning: {error}") from error
        return training.Optimizers(optimizer, training.adam(settings.gate_learning_rate))

    def objective(self) -> training.Objective:
        """What training minimises."""
        function, train_function = self.network
        return training.make_objective(
            train_function.apply,
            function.apply,
            [penalty.build() for penalty in self.experiment.penalties],
            [gate.regulariser() for gate in self.experiment.gates],
        )

    @property
    def checkpoints(self) -> training.Checkpoints:
        """The checkpoints of the run."""
        keep = self.experiment.training.keep_last
        return training.Checkpoints(self.workdir.checkpoints, keep, self.reporter.say)

    def key(self, purpose: str) -> Array:
        """The random key of one purpose."""
        return self.experiment.key(_KEYS[purpose])

    def initial_state(self) -> training.TrainState:
        """The state before the first step."""
        function, _ = self.network
        try:
            gates = tuple(gate.build(function.params) for gate in self.experiment.gates)
        except ValueError as error:
            raise _codec.ConfigError(f"gates: {error}") from error
        try:
            jax.eval_shape(self.optimizers.params.init, function.params)  # what is pruned is looked for here
        except ValueError as error:
            raise _codec.ConfigError(f"pruning: {error}") from error
        return training.initial_state(self.optimizers, self.key("training"), function.params, function.state, gates)

    def inputs(self, stage: str) -> str:
        """The fingerprint of what a stage depends on: the data, its part of the experiment, and the stages before."""
        plain = _codec.to_plain(self.experiment)
        parts = {"train": ("data", "model", "optimizer", "gates", "pruning", "penalties", "training", "seed")}
        own = {name: plain[name] for name in parts.get(stage, (stage,)) if name in plain}
        before: dict[str, Any] = {}
        if stage in ("explain", "measure"):
            before = {"train": self.inputs("train"), "checkpoint": self._evaluated_checkpoint()}
        if stage == "report":
            records = {name: self.finished(name) for name in ("train", "explain", "measure")}
            before = {name: [r["inputs"], r["results"], r["files"]] if r else None for name, r in records.items()}
        return _codec.digest(stage, own, before, self._data_digest)

    def finished(self, stage: str) -> dict[str, Any] | None:
        """The record of a stage, if it is finished and what it left is still there."""
        record = self.workdir.finished(stage, self.inputs(stage))
        if record and stage == "train":
            results = record["results"]
            return record if self.checkpoints.digest(results["best_step"]) == results["checkpoint"] else None
        return record

    def _evaluated_checkpoint(self) -> str | None:
        record = self.finished("train")
        return record["results"]["checkpoint"] if record else None

    @functools.cached_property
    def _data_digest(self) -> str:
        return self.dataset.digest()

    def trained(self) -> Trained:
        """The network at the checkpoint whose accuracy was reported, its gates thresholded and applied."""
        best = self.checkpoints.restore_best(self.initial_state())
        if self.checkpoints.digest(int(best.step)) != self._evaluated_checkpoint():
            raise training.CheckpointError(
                f"The checkpoint that was evaluated is no longer in {self.workdir.checkpoints}; repeat the command "
                "`jaxinterp run`, which trains on from the newest one."
            )
        return Trained(self.network[0].apply, training.final_params(best.params, best.gates), best.state)

    def results(self) -> dict[str, Any]:
        """The results of all finished stages, as in results.json."""
        records = {stage: self.finished(stage) for stage in STAGES}
        merged: dict[str, Any] = {}
        for record in records.values():
            merged |= record["results"] if record else {}
        return {"seconds": {stage: r["seconds"] for stage, r in records.items() if r}, **merged}
