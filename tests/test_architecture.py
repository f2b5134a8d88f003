"""The rules of the house: who may import whom, what no file may use, and how large things may grow."""

import ast
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.core

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "jaxinterp"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up; a room imports rooms of lower floors only.
FLOORS = (
    {"typing"},
    {"checks"},
    {"tree", "batching"},
    {"interpreters"},
    {"derivatives"},
    {"local", "heads"},
    {"attribution", "geometry", "robustness", "sparsity", "penalties", "data_attribution", "representations"},
    {"training", "evaluation"},
    {"app"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
BESIDE = {"models", "data"}  # seen by the two top floors only; they see the three lowest and `derivatives`
SAME_FLOOR = {("local", "heads"), ("tree", "batching")}
ONLY_IN = {
    "optax": {"training", "sparsity", "robustness"},
    "flax": {"models", "training", "app"},
    "orbax": {"training"},
    "matplotlib": {"app"},
    "sklearn": {"data", "app"},
}
LATE_IMPORTS = {"app", "models", "data"}  # rooms where a function may import: optional or heavy packages


def room_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: a star import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def allowed(room, target):
    if target == room or room in {"__init__", "__main__"} or target == "__version__":
        return True
    if room in BESIDE:
        return target in {"typing", "checks", "tree", "derivatives"}
    if target in BESIDE:
        return FLOOR[room] >= FLOOR["training"]
    return FLOOR[target] < FLOOR[room] or (room, target) in SAME_FLOOR or (target, room) in SAME_FLOOR


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_keeps_to_the_rules(path):
    text = path.read_text(encoding="utf-8")
    tree, room = ast.parse(text), room_of(path)
    assert text.count("\n") + 1 <= 300, "a file of more than 300 lines"
    assert path.name not in {"utils.py", "common.py", "misc.py", "helpers.py"}
    for line, name in imports(tree):
        parts = name.split(".")
        where = f"line {line}: {name}"
        assert not name.startswith(("jax._src", "jax.interpreters")), where
        assert name != "jax.core", where
        assert not name.startswith("jax.extend") or path.name == "_ir.py", where
        assert room in ONLY_IN.get(parts[0], {room}), f"{where} in {room}"
        if parts[0] == "jaxinterp" and len(parts) > 1 and parts[1] in FLOOR.keys() | BESIDE:
            assert allowed(room, parts[1]), f"{where}: {room} may not see {parts[1]}"
            if parts[1] != room:
                assert not any(p.startswith("_") for p in parts[2:]), f"{where}: another room's private file"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: assert in the package"
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert node.end_lineno - first.lineno < 60, f"line {node.lineno}: {node.name} is longer than 60 lines"
            late = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not late or room in LATE_IMPORTS, f"line {node.lineno}: an import inside {node.name}"


def test_no_array_is_made_at_import():
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                calls = [ast.unparse(n.func) for n in ast.walk(node.value) if isinstance(n, ast.Call)]
                assert not any(c.startswith(("jnp.", "jax.random.")) for c in calls), f"{path}:{node.lineno}"


def test_importing_starts_no_backend_and_brings_no_heavy_package():
    code = (
        "import sys, jaxinterp as ji; ji.attribution, ji.heads, ji.sparsity\n"
        "heavy = {'matplotlib', 'sklearn', 'flax', 'orbax', 'rich', 'tyro'} & set(sys.modules)\n"
        "import jax._src.xla_bridge as bridge\n"
        "print(sorted(heavy), bridge.backends_are_initialized())\n"
        "ji.models, ji.training, ji.evaluation, ji.data, ji.app\n"
        "print('matplotlib' in sys.modules, 'sklearn' in sys.modules, bridge.backends_are_initialized())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["[] False", "False False False"]


def test_every_source_file_has_its_tests():
    missing = []
    for path in FILES:
        name = path.stem.strip("_")
        relative = path.relative_to(PACKAGE)
        if path.name.startswith("__") or name == "typing" or room_of(path) == "app":
            continue  # the application is tested by its behaviour
        mirror = ROOT / "tests" / relative.parent / f"test_{name}.py"
        if not mirror.exists():
            missing.append(str(relative))
    assert not missing, f"no test file mirrors {missing}"
