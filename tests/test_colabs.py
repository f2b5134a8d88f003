"""The notebooks: each pair says the same, holds no output, and runs to its end."""

import pathlib

import jupytext
import nbclient
import pytest

from tests.app.tiny import environment

COLABS = sorted((pathlib.Path(__file__).parents[1] / "colabs").glob("*.ipynb"))


def sources(notebook):
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def test_there_are_notebooks():
    assert COLABS


@pytest.mark.parametrize("path", COLABS, ids=lambda p: p.stem)
def test_the_notebook_and_its_text_are_the_same(path):
    text = jupytext.read(path.with_suffix(".py"))
    assert sources(jupytext.read(path)) == sources(text), f"run `jupytext --sync {path.with_suffix('.py').name}`"


@pytest.mark.parametrize("path", COLABS, ids=lambda p: p.stem)
def test_the_notebook_holds_no_output(path):
    for cell in jupytext.read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert path.stat().st_size < 50_000


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem == "quickstart" else pytest.mark.slow) for path in COLABS],
    ids=lambda p: p.stem,
)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    notebook = jupytext.read(path)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert printed
    assert "nan" not in printed.lower()
