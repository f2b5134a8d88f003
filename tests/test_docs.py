"""README and docs: their Python runs, their commands exist, their links lead somewhere."""

import pathlib
import re
import tomllib

import jax
import pytest

from jaxinterp.app import METHODS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = pytest.mark.usefixtures("standard_promotion")


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_python_of_a_page_runs(path):
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    if not blocks:
        pytest.skip("the page has no Python")
    scope = {}
    for block in blocks:
        exec(compile(block, name(path), "exec"), scope)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_commands_of_the_readme_are_the_ones_that_work():
    readme = (ROOT / "README.md").read_text()
    assert "python -m pip install -e . && jaxinterp run configs/digits.py" in readme
    assert 'python -m pip install -e ".[test]" && python -m pytest' in readme
    for config in re.findall(r"configs/\w+\.py", readme):
        assert (ROOT / config).exists(), config


def test_every_room_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    rooms = {p.name for p in (ROOT / "jaxinterp").iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert not {room for room in rooms if f"`ji.{room}" not in readme}


def test_every_method_of_the_table_is_public_and_documented():
    import jaxinterp as ji

    for method in METHODS:
        docstring = getattr(ji.attribution, method).__doc__
        is_instance = "errors are those of `class_activation_map`" in docstring
        for part in ("Source:", ">>>") if is_instance else (":math:", "Source:", "Raises:", "Returns:", ">>>"):
            assert part in docstring, f"{method}: {part}"


def test_the_floor_is_what_colab_ships():
    """Installing in Colab must not replace its jax: lower bounds only, and none above what Colab has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", d).groups() for d in project["dependencies"])
    assert bounds["jax"] == "0.7.2"
    assert bounds["flax"] == "0.11.2"
    assert project["requires-python"] == ">=3.11"
    assert project["version"] == __import__("jaxinterp").__version__


def test_jax_is_at_least_the_floor():
    assert tuple(map(int, jax.__version__.split(".")[:3])) >= (0, 7, 2)
