"""Rules of the house as functions of source text: each returns the faults that it finds."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("calibration", "edp_robot", "policy_server", "sim")
MAY_IMPORT = {  # a package may import these prefixes of our own modules besides itself
    "policy_server": (),
    "sim": ("policy_server.contract",),
    "calibration": ("sim", "policy_server"),
    "edp_robot": ("sim", "policy_server.contract"),
}
NEVER = {
    "policy_server": {"torch", "mujoco", "gymnasium", "gymnasium_robotics", "dm_control"},
    "sim": {"torch", "zmq"},
    "calibration": {"torch"},
    "edp_robot": set(),
}
CODE_IN_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
HEAVY = {"torch", "mujoco", "gymnasium", "onnxruntime", "scipy", "matplotlib"}
CLI = "edp_robot/cli/"
ONNX_RUNTIME = "policy_server/runtime/onnxruntime/"
ONNX_IMPORT = "policy_server/contract/onnx_import.py"  # Switches its telemetry off first.
CONTRACT = "policy_server/contract/"
DYNAMIC_IMPORT = {  # files that import a module whose name is no literal, and why
    "policy_server/contract/doors/lazy.py": "loads a public name when it is first used",
    "policy_server/contract/doors/registries.py": "resolves names and package.module:attribute",
}
PLATFORM = {"os", "select", "signal", "socket", "sys"}  # their names differ between systems
MAY_PROBE = {  # calls of hasattr and getattr that stay, and why
    "policy_server/contract/doors/registries.py: hasattr(module, attribute)": "a user's module",
    "sim/tasks/gym.py: getattr(self.unwrapped, 'dt', None)": "any Gymnasium environment",
    "sim/tasks/gym.py: getattr(env.unwrapped, 'tmp_xml_file_path', None)": "the same",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_FILE = 400
MAX_FUNCTION = 50
MAX_LINE = 100
MAX_MODULES = 16
MAX_PARAMETERS = 2  # a public function with more has an Args section

PROSE = re.compile(
    r"\b(?:whoever|whomever|somebody|someone else's|nobody|anybody|everybody|for ever)\b", re.I
)
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|work|Users|mnt)/\w+")


@functools.cache
def parsed(source: str) -> ast.Module:
    """Returns the syntax tree of a file. Every rule looks at the same one."""
    return ast.parse(source)


def imports(tree: ast.AST, path: str) -> Iterator[tuple[int, str, bool]]:
    """Yields (line, imported name, whether a function contains it) for every import.

    The name is absolute: `module` or `module.name`. It is "*" where it is no literal.
    """
    lazy = set()
    for node in ast.walk(tree):
        if isinstance(node, FUNCTION):
            lazy.update(inner for line in node.body for inner in ast.walk(line))
        elif isinstance(node, ast.Lambda):
            lazy.update(ast.walk(node.body))
    for node in ast.walk(tree):
        for name in imported_names(node, path):
            yield node.lineno, name, node in lazy


def imported_names(node: ast.AST, path: str) -> list[str]:
    """Returns the absolute names that one node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = path.split("/")[: -node.level] if node.level else []
        base = ".".join([*package, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
    if isinstance(node, ast.Call):
        function = ast.unparse(node.func).split(".")[-1]
        if function in ("import_module", "__import__"):
            literal = node.args and isinstance(node.args[0], ast.Constant)
            return [str(node.args[0].value)] if literal else ["*"]
    return []


def import_faults(source: str, path: str) -> list[str]:
    """Returns the imports that a file of ours must not have; `path` starts at the repository."""
    return [
        f"{path}:{line} imports {name}"
        for line, name, lazy in imports(parsed(source), path)
        if not _may_import(path, name, lazy)
    ]


def _may_import(path: str, name: str, lazy: bool) -> bool:
    if name == "*" and path in DYNAMIC_IMPORT:
        return True
    room = path.split("/")[0]
    top = name.split(".")[0]
    if name.startswith("policy_server.contract.onnx_import.import_") and room == "policy_server":
        return path.startswith(ONNX_RUNTIME)
    if path.startswith(CONTRACT) and not lazy:
        ours = f"{name}.".startswith("policy_server.contract.")
        return ours or top == "numpy" or top in sys.stdlib_module_names
    is_cli = path.startswith(CLI)
    allowed = ("policy_server.contract",) if is_cli else MAY_IMPORT[room]
    foreign = top in OURS and top != room and not _is_under(name, allowed)
    if is_cli:
        return lazy or not (foreign or top in HEAVY or name == "*")
    return not (foreign or top in NEVER[room] or name == "*")


def _is_under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


def onnxruntime_imports(source: str, path: str) -> list[str]:
    """Returns the imports of ONNX Runtime outside the module that switches its telemetry off."""
    return [
        f"{path}:{line} imports {name}: use {ONNX_IMPORT}"
        for line, name, _ in imports(parsed(source), path)
        if name.split(".")[0] == "onnxruntime" and path != ONNX_IMPORT
    ]


def relative_imports(source: str, path: str) -> list[str]:
    """Returns the imports that start with a dot."""
    return [
        f"{path}:{node.lineno} is a relative import"
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def code_in_data(source: str, path: str) -> list[str]:
    """Returns the places where a file could run code that it reads: pickles, eval, exec."""
    tree = parsed(source)
    faults = [
        f"{path}:{line} {name}"
        for line, name, _ in imports(tree, path)
        if name.split(".")[0] in CODE_IN_DATA
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            faults.append(f"{path}:{node.lineno} {node.func.id}")
        for keyword, bad in (("allow_pickle", True), ("weights_only", False)):
            values = [k.value for k in node.keywords if k.arg == keyword]
            if any(not isinstance(v, ast.Constant) or bool(v.value) == bad for v in values):
                faults.append(f"{path}:{node.lineno} {keyword}={bad}")
    return faults


def too_long(source: str, path: str) -> list[str]:
    """Returns the file, the functions and the lines that are too long."""
    lines = source.splitlines()
    faults = [f"{path}: {len(lines)} lines, at most {MAX_FILE}"] if len(lines) > MAX_FILE else []
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE and "://" not in line:
            faults.append(f"{path}:{number} has {len(line)} characters, at most {MAX_LINE}")
    for node in ast.walk(parsed(source)):
        if not isinstance(node, FUNCTION):
            continue
        n = (node.end_lineno or node.lineno) - node.lineno + 1
        if n > MAX_FUNCTION:
            faults.append(f"{path}:{node.lineno} {node.name}: {n} lines, at most {MAX_FUNCTION}")
    return faults


def probing(source: str, path: str) -> list[str]:
    """Returns calls of hasattr, and of getattr with a default, that MAY_PROBE does not name."""
    return [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Call)
        and _is_probe(node)
        and f"{path}: {ast.unparse(node)}" not in MAY_PROBE
    ]


def _is_probe(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    probes = function == "hasattr" or (function == "getattr" and len(call.args) == 3)
    return probes and ast.unparse(call.args[0]) not in PLATFORM


def several_assignments(source: str, path: str) -> list[str]:
    """Returns assignments of one tuple display to another, such as `a, b = x, y`."""
    display = (ast.Tuple, ast.List)
    return [
        f"{path}:{node.lineno} {ast.unparse(node)[:60]}"
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, display)
        and any(isinstance(target, display) for target in node.targets)
    ]


def missing_args(source: str, path: str) -> list[str]:
    """Returns public functions of three or more parameters without an Args section."""
    faults = []
    for node in _public_functions(parsed(source)):
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        decorators = {ast.unparse(d).split(".")[-1] for d in node.decorator_list}
        if len(names) <= MAX_PARAMETERS or decorators & {"override", "overload"}:
            continue
        if "Args:" not in (ast.get_docstring(node) or ""):
            faults.append(f"{path}:{node.lineno} {node.name}({', '.join(names)}): no Args section")
    return faults


def _public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[Function]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node)
        elif isinstance(node, FUNCTION) and not node.name.startswith("_"):
            yield node


def unclear_prose(text: str, path: str) -> list[str]:
    """Returns the lines with words that the house does not use."""
    return _found(PROSE, text, path)


def machine_paths(text: str, path: str) -> list[str]:
    """Returns the lines with paths that only one machine has."""
    return _found(MACHINE_PATH, text, path)


def _found(pattern: re.Pattern[str], text: str, path: str) -> list[str]:
    return [
        f"{path}:{number} says {word!r}"
        for number, line in enumerate(text.splitlines(), start=1)
        for word in pattern.findall(line)
    ]


def modules(paths: list[Path]) -> dict[str, Path]:
    """Returns the dotted name of each file; a package's name for its `__init__.py`."""
    return {module_name(path.relative_to(ROOT)): path for path in paths}


def module_name(path: Path) -> str:
    """Returns the dotted name of a file whose path starts at the repository."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Returns the modules that each module imports, anywhere in it, among those given.

    Args:
        sources: source text by dotted name of the module.
    """
    graph = {}
    for module, source in sources.items():
        found = {_nearest(name, sources) for _, name, _ in imports(parsed(source), f"{module}/x")}
        graph[module] = found - {module, ""}
    return graph


def _nearest(name: str, known: dict[str, str]) -> str:
    """Returns the longest prefix of `name` that is a module, "" where none is."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Returns modules that import each other in a circle, the first one again at the end, or []."""
    done: set[str] = set()
    for start in sorted(graph):
        path = _search(start, graph, [], done)
        if path:
            return path
    return []


def _search(node: str, graph: dict[str, set[str]], path: list[str], done: set[str]) -> list[str]:
    if node in path:
        return [*path[path.index(node) :], node]
    if node in done:
        return []
    for following in sorted(graph.get(node, ())):
        found = _search(following, graph, [*path, node], done)
        if found:
            return found
    done.add(node)
    return []


def leaves(graph: dict[str, set[str]], base: str) -> set[str]:
    """Returns the modules that import only modules under `base` or modules that import none."""
    pure = {module for module, imported in graph.items() if not imported}
    return {
        module
        for module, imported in graph.items()
        if all(name in pure or _is_under(name, (base,)) for name in imported)
    }


def directions(graph: dict[str, set[str]], package: str) -> set[tuple[str, str]]:
    """Returns the pairs (importing room, imported room) inside one package."""
    pairs = set()
    for module, imported in graph.items():
        here = _room(module, package)
        rooms = {_room(name, package) for name in imported}
        pairs |= {(here, room) for room in rooms if here and room and room != here}
    return pairs


def _room(module: str, package: str) -> str:
    """Returns the folder of a module directly under the package, "" for what lies elsewhere."""
    parts = module.split(".")
    return parts[1] if parts[0] == package and len(parts) > 1 else ""
