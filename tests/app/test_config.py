"""Experiments as values: their JSON, their fingerprint, their checks, and the files of configs/."""

import dataclasses
import json

import pytest

from jaxinterp import app
from jaxinterp.app import _codec, _validate
from jaxinterp.app.cli import load_config
from tests.app import tiny

CONFIGS = sorted((tiny.ROOT / "configs").glob("*.py"))


@pytest.mark.core
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_shipped_configuration_is_valid_and_survives_json(path):
    experiment = load_config(path)
    plain = _codec.to_plain(experiment)
    assert _codec.differences(json.loads(json.dumps(plain)), plain) == []
    assert _codec.digest(json.loads(json.dumps(plain))) == _codec.digest(plain)


def test_the_digest_changes_with_every_field():
    base = tiny.experiment()
    digests = {_codec.digest(_codec.to_plain(base))}
    changes = [
        {"seed": 1},
        {"data": app.BreastCancer()},
        {"model": app.ConvNet()},
        {"gates": ()},
        {"penalties": (app.GradientNorm(weight=0.02),)},
        {"optimizer": app.SGD()},
        {"training": dataclasses.replace(base.training, num_steps=25)},
        {"explain": dataclasses.replace(base.explain, methods=("gradient",))},
        {"measure": dataclasses.replace(base.measure, stddevs=(0.2, 0.3))},
    ]
    for change in changes:
        digests.add(_codec.digest(_codec.to_plain(dataclasses.replace(base, **change))))
    assert len(digests) == len(changes) + 1


@pytest.mark.core
def test_differences_are_named_by_their_path():
    base = tiny.experiment()
    other = dataclasses.replace(
        base, seed=3, training=dataclasses.replace(base.training, num_steps=600), gates=(app.Gates(initial=0.6),)
    )
    lines = _codec.differences(_codec.to_plain(base), _codec.to_plain(other))
    assert "training.num_steps: 24 there, 600 here" in lines
    assert "seed: 0 there, 3 here" in lines
    assert "gates.0.initial: 0.7 there, 0.6 here" in lines
    assert len(lines) == 4  # and the pattern of the gates' parameters
    assert _codec.differences(_codec.to_plain(base), _codec.to_plain(base)) == []


def test_a_removed_part_is_a_difference():
    base = tiny.experiment()
    lines = _codec.differences(_codec.to_plain(base), _codec.to_plain(dataclasses.replace(base, gates=())))
    assert len(lines) == 1
    assert lines[0].startswith("gates: [{")


@pytest.mark.core
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, r"seed: must be from 0 to 4294967295; got -1"),
        ({"seed": 1.5}, r"seed: must be int; got 1.5"),
        ({"seed": True}, r"seed: must be int; got True"),
        ({"data": 3}, r"data: must be Digits or BreastCancer or Files; got 3"),
        ({"gates": [app.Gates()]}, r"gates: must be a tuple of Gates"),
        ({"gates": (1,)}, r"gates.0: must be Gates; got 1"),
        ({"gates": (app.Gates(initial=1.5),)}, r"gates.0.initial: must be from 0 to 1; got 1.5"),
        ({"model": app.MLP(widths=(0,))}, r"model.widths.0: must be at least 1; got 0"),
        ({"model": app.MLP(activation="step")}, r"model.activation: must be one of 'gelu'.*got 'step'"),
        ({"optimizer": app.AdamW(learning_rate=0.0)}, r"optimizer.learning_rate: must be greater than 0; got 0.0"),
        ({"optimizer": app.AdamW(learning_rate="fast")}, r"optimizer.learning_rate: must be float; got 'fast'"),
        (
            {"optimizer": app.AdamW(weight_decay=float("inf"))},
            r"optimizer.weight_decay: must be at least 0 and finite; got inf",
        ),
        ({"training": app.Training(num_steps=0)}, r"training.num_steps: must be at least 1; got 0"),
        ({"training": app.Training(best_after=float("nan"))}, r"training.best_after: must be from 0 to 1; got nan"),
        ({"explain": app.Explain(methods=("gradeint",))}, r"there is no method 'gradeint'; known are gradient,"),
        ({"explain": app.Explain(methods=("gradient", "gradient"))}, r"named twice"),
        ({"explain": app.Explain(head="probability")}, r"explain.head: must be one of 'logit'"),
        ({"measure": app.Measure(stddevs=(0.1, -0.1))}, r"measure.stddevs.1: must be greater than 0; got -0.1"),
        ({"measure": app.Measure(num_examples="all")}, r"measure.num_examples: must be int or NoneType; got 'all'"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_the_remedy(changes, message):
    with pytest.raises(_codec.ConfigError, match=message):
        _validate.validate(tiny.experiment(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("x = 1", "has no `get_config"),
        ("def get_config(): return 3", "must return an `Experiment`; it returned 3"),
        ("def get_config(:", "SyntaxError"),
        ("from jaxinterp import app\ndef get_config(): return app.Experiment()", "TypeError: .*required"),
        ("from jaxinterp import app\ndef get_config(): return app.Experiment(depth=3)", "unexpected keyword.*'depth'"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, text, message):
    path = tiny.write_config(tmp_path, text)
    with pytest.raises(_codec.ConfigError, match=message):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(_codec.ConfigError, match=r"no configuration .*nope\.py"):
        load_config(tmp_path / "nope.py")
