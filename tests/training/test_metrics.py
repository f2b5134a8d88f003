"""The log of metrics."""

import pytest

from jaxinterp import training

pytestmark = pytest.mark.core


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "m.jsonl"
    records = [{"step": i, "loss": i / 3} for i in range(5)]
    for record in records:
        training.append_metrics(path, record)
    assert training.read_metrics(path) == records


def test_a_line_cut_off_in_writing_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    training.append_metrics(path, {"step": 1, "loss": 0.5})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert training.read_metrics(path) == [{"step": 1, "loss": 0.5}]


def test_cutting_back_removes_what_came_after(tmp_path):
    path = tmp_path / "m.jsonl"
    for step in (1, 2, 3, 4):
        training.append_metrics(path, {"step": step})
    with path.open("a") as file:
        file.write('{"st')
    training.cut_back_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    training.append_metrics(path, {"step": 3})
    assert [r["step"] for r in training.read_metrics(path)] == [1, 2, 3]


def test_there_may_be_no_log_yet(tmp_path):
    path = tmp_path / "m.jsonl"
    assert training.read_metrics(path) == []
    training.cut_back_metrics(path, 0)
    assert path.read_text() == ""
