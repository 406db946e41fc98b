"""The rules of the package's structure, read from its syntax trees: who may import whom, and what must not be in it.

Every rule below takes a module's name and its tree and yields faults as text. The rules are tried on small pieces of
forbidden code at the end, so that a rule that sees nothing is noticed.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sprites_lab"

# A module imports only from levels below its own, and `errors` from anywhere. A new module gets its level here.
LEVELS = [
    {"errors", "chance"},
    {"gates", "pickle_program", "settings", "quiz"},
    {"schedule", "muon", "unet", "predictors", "data", "neighbours", "figures", "team", "png", "grids", "splits"},
    {"spacing", "start", "levers", "charts"},
    {"samplers", "training", "checkpoints", "observer", "likelihood", "metrics", "runtime", "own_sprites", "original_sprites"},
    {"classifier", "solvers", "distillation", "original_lab", "locks", "editing", "audit"},
    {"extractors"},
    {"recipes", "walks"},
    {"lab"},
    {"stream", "knobs"},
    {"panels"},
    {"runs", "sampling", "students"},  # the working parts of commands
    {"evaluation", "speed", "probabilities"},
    {"ablation", "bench", "sweep"},
    {"commands"},
    {"__main__"},
]
WITHIN_LEVEL = {("predictors", "schedule")}  # the one exception: a predictor is converted with a schedule's scales
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
EDGE = {"recipes", "distillation", "lab", "knobs", "panels", "runs", "sampling", "students", "evaluation", "ablation", "bench", "sweep", "commands", "__main__"}  # who may import figures and training
IDEAS = {"schedule", "unet", "predictors", "samplers", "training"}  # to be read in half an hour
NO_NAMES = {"utils", "util", "helpers", "misc", "common", "tools"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every imported name with its full path, such as torch.nn or sprites_lab.unet.ContextUnet, and whether it is lazy."""
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, Function) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            base = "sprites_lab" if node.level else ""
            for alias in node.names:
                yield ".".join(part for part in (base, node.module, alias.name) if part), id(node) in inside


def own_imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """The modules of the package that are imported ('' for the package itself), and whether lazily."""
    for path, lazy in imports(tree):
        parts = path.split(".")
        if parts[0] == "sprites_lab":
            name = parts[1] if len(parts) > 1 else ""
            yield name if name in LEVEL or name == "drawing" or (PACKAGE / f"{name}.py").exists() else "", lazy


def dotted(node: ast.AST) -> str:
    """The text of a chain of names such as torch.nn.Module; '' for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def has_level(name: str, tree: ast.Module) -> Iterator[str]:
    """Each module has a telling name and a level."""
    leaf = name.split(".")[-1]
    if leaf in NO_NAMES:
        yield "is named after what is left over"
    elif "." not in name and name not in LEVEL and name != "__init__":
        yield "has no level: add it to LEVELS in tests/test_structure.py"


def imports_go_down(name: str, tree: ast.Module) -> Iterator[str]:
    """Only from lower levels; `errors` from anywhere; `drawing` stands alone."""
    if name.startswith("drawing"):
        yield from (f"imports {other or 'the package itself'}" for other, _ in own_imports(tree) if other not in ("errors", "drawing"))
    elif name == "__init__":
        yield from (f"imports {other}" for other, _ in own_imports(tree) if other in {"figures", "charts", "drawing"} | EDGE)
    else:
        for other, lazy in own_imports(tree):
            if other == "drawing":
                if name != "commands" or not lazy:
                    yield "imports drawing" + (" at the top" if name == "commands" else "")
            elif other == "":
                if name not in EDGE:
                    yield "imports the package itself, not the module it needs"
            elif LEVEL.get(other, 99) >= LEVEL.get(name, 99) and (name, other) not in WITHIN_LEVEL:
                yield f"imports {other}, which is not below it"


def keeps_to_its_part(name: str, tree: ast.Module) -> Iterator[str]:
    """Samplers and training know no network; figures and training are used at the edge; libraries have one owner."""
    for other, _ in own_imports(tree):
        if name in ("samplers", "training") and other == "unet":
            yield "imports unet: it must work with any predictor"
        if other in ("figures", "charts") and name not in EDGE | {"charts"} or other == "training" and name not in EDGE | {"__init__"}:
            yield f"imports {other}, so {other} could no longer be deleted"
    for path, _ in imports(tree):
        library = path.split(".")[0]
        if library in ("matplotlib", "pylab") and name != "charts":
            yield "imports matplotlib"
        if path.startswith("torchvision.utils") and name != "figures":
            yield "imports torchvision.utils"
        if library in ("IPython", "ipywidgets") and name not in ("figures", "lab", "knobs") or library == "tqdm" and name not in EDGE:
            yield f"imports {library}"


def touches_nothing_global(name: str, tree: ast.Module) -> Iterator[str]:
    """No output, no global randomness, no pickle."""
    for path, _ in imports(tree):
        if path.split(".")[0] in ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
            yield f"imports {path}"
        if path.startswith("numpy.random") or path in ("torch.save", "torch.load", "torch.manual_seed"):
            yield f"imports {path}"
        if path.startswith("random.") and path != "random.Random":
            yield f"imports {path}"
    for node in ast.walk(tree):
        text = dotted(node)
        if text.startswith(("np.random.", "numpy.random.")) or text in ("torch.save", "torch.manual_seed", "torch.seed"):
            yield f"uses {text}"
        if text.startswith(("torch.cuda.manual_seed", "torch.random.", "random.")) and text not in ("torch.random.fork_rng", "random.Random"):
            yield f"uses {text}"
        if isinstance(node, ast.Call):
            yield from call_faults(node, may_print=name in ("commands", "__main__"))


def call_faults(call: ast.Call, may_print: bool) -> Iterator[str]:
    """print, torch.load without its two literal arguments, allow_pickle."""
    given = {keyword.arg: keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)}
    if dotted(call.func) == "print" and not may_print:
        yield f"prints in line {call.lineno}"
    if dotted(call.func) == "torch.load" and (given.get("weights_only") is not True or given.get("map_location") != "cpu"):
        yield 'calls torch.load without weights_only=True and map_location="cpu"'
    if any(keyword.arg == "allow_pickle" for keyword in call.keywords) and given.get("allow_pickle") is not False:
        yield "allows pickle"


def hands_on_no_kwargs(name: str, tree: ast.Module) -> Iterator[str]:
    """A function's settings are in its signature: no **kwargs that are only passed on."""
    for function in ast.walk(tree):
        if isinstance(function, Function) and function.args.kwarg:
            mine = function.args.kwarg.arg
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and dotted(node.func) != "dict"]
            passed = [keyword for call in calls for keyword in call.keywords if keyword.arg is None]
            if any(dotted(keyword.value) == mine for keyword in passed):
                yield f"{function.name} passes **{mine} on"


def is_explained(name: str, tree: ast.Module) -> Iterator[str]:
    """Modules, public classes and public functions have docstrings; public functions and methods full type hints."""
    if not ast.get_docstring(tree) and tree.body:
        yield "has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield f"class {node.name} has no docstring"
            for method in node.body:
                if isinstance(method, Function) and (not method.name.startswith("_") or method.name in ("__init__", "__call__")):
                    yield from hint_faults(method, f"{node.name}.{method.name}", skip=not static(method))
                    if not ast.get_docstring(method) and method.name not in ("__init__", "__call__", "forward"):
                        yield f"{node.name}.{method.name} has no docstring"
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield from hint_faults(node, node.name, skip=False)
            if not ast.get_docstring(node):
                yield f"{node.name} has no docstring"


def static(method: Function) -> bool:
    """Whether a method has no self."""
    return any(dotted(decorator) == "staticmethod" for decorator in method.decorator_list)


def hint_faults(function: Function, label: str, skip: bool) -> Iterator[str]:
    """Parameters (`skip` the first: self) and result without a type."""
    spec = function.args
    parameters = [*spec.posonlyargs, *spec.args][int(skip):] + [p for p in (*spec.kwonlyargs, spec.vararg, spec.kwarg) if p]
    bare = [parameter.arg for parameter in parameters if parameter.annotation is None]
    if bare:
        yield f"{label} has no type for {', '.join(bare)}"
    if function.returns is None and function.name != "__init__":
        yield f"{label} has no type for its result"


def is_short(name: str, tree: ast.Module) -> Iterator[str]:
    """No function over 30 lines (40 in drawing), no file of the five ideas over 200."""
    longest = 40 if name.startswith("drawing") else 30
    for function in ast.walk(tree):
        if isinstance(function, Function):
            lines = function.end_lineno - function.lineno + 1
            if lines > longest:
                yield f"{function.name} has {lines} lines, at most {longest}"
    lines = tree.body[-1].end_lineno if tree.body else 0
    if name in IDEAS and lines > 200:
        yield f"has {lines} lines, at most 200"


RULES = [has_level, imports_go_down, keeps_to_its_part, touches_nothing_global, hands_on_no_kwargs, is_explained, is_short]
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable, name: str):
    faults = list(rule(name, ast.parse(MODULES[name].read_text("utf-8"))))
    assert not faults, "\n".join(f"sprites_lab/{name.replace('.', '/')}.py {fault}" for fault in faults)


@pytest.mark.parametrize("rule, name, code", [
    (has_level, "utils", ""),
    (has_level, "drawing.helpers", ""),
    (has_level, "surprise", ""),
    (imports_go_down, "schedule", "from sprites_lab.samplers import ddim"),
    (imports_go_down, "schedule", "from .samplers import ddim"),
    (imports_go_down, "schedule", "from . import samplers"),
    (imports_go_down, "schedule", "import sprites_lab.samplers"),
    (imports_go_down, "schedule", "def f():\n    from sprites_lab import samplers"),
    (imports_go_down, "samplers", "from sprites_lab.observer import Observer"),
    (imports_go_down, "unet", "from sprites_lab.schedule import at"),
    (imports_go_down, "samplers", "from sprites_lab import ddim"),
    (imports_go_down, "lab", "def f():\n    from sprites_lab.drawing import artist"),
    (imports_go_down, "commands", "from sprites_lab.drawing import artist"),
    (imports_go_down, "drawing.canvas", "from sprites_lab import data"),
    (imports_go_down, "__init__", "from sprites_lab import lab"),
    (keeps_to_its_part, "training", "from sprites_lab.unet import ContextUnet"),
    (keeps_to_its_part, "metrics", "from sprites_lab import figures"),
    (keeps_to_its_part, "samplers", "from sprites_lab import charts"),
    (keeps_to_its_part, "likelihood", "from sprites_lab.training import train"),
    (keeps_to_its_part, "metrics", "import matplotlib.pyplot as plt"),
    (keeps_to_its_part, "metrics", "from torchvision.utils import make_grid"),
    (keeps_to_its_part, "samplers", "from tqdm import tqdm"),
    (keeps_to_its_part, "sampling", "import ipywidgets as W"),
    (touches_nothing_global, "lab", "print(1)"),
    (touches_nothing_global, "lab", "torch.save(x, f)"),
    (touches_nothing_global, "lab", "import pickle"),
    (touches_nothing_global, "lab", "np.load(f, allow_pickle=True)"),
    (touches_nothing_global, "lab", "np.load(f, allow_pickle=setting)"),
    (touches_nothing_global, "lab", "np.random.default_rng(0)"),
    (touches_nothing_global, "lab", "from numpy.random import default_rng"),
    (touches_nothing_global, "lab", "random.shuffle(x)"),
    (touches_nothing_global, "lab", "torch.manual_seed(0)"),
    (touches_nothing_global, "lab", "torch.load(f)"),
    (touches_nothing_global, "lab", 'torch.load(f, map_location="cpu", weights_only=safe)'),
    (touches_nothing_global, "lab", "torch.load(f, weights_only=True)"),
    (hands_on_no_kwargs, "lab", "def f(x, **kw):\n    return g(x, **kw)"),
    (is_explained, "lab", "x = 1"),
    (is_explained, "lab", '"m"\ndef f() -> int: return 1'),
    (is_explained, "lab", '"m"\ndef f(x) -> int:\n    "d"'),
    (is_explained, "lab", '"m"\ndef f(x: int):\n    "d"'),
    (is_explained, "lab", '"m"\nclass A:\n    "d"\n    def f(self, x) -> None:\n        "d"'),
    (is_short, "lab", "def f():\n" + "    x\n" * 30),
    (is_short, "schedule", "x\n" * 201),
])
def test_rule_sees_its_fault(rule: Callable, name: str, code: str):
    assert len(list(rule(name, ast.parse(code)))) >= 1


@pytest.mark.parametrize("rule, name, code", [
    (imports_go_down, "samplers", "from sprites_lab.schedule import at\nfrom sprites_lab.errors import LabError\nimport torch"),
    (imports_go_down, "commands", "def f():\n    from sprites_lab.drawing import artist"),
    (imports_go_down, "drawing.canvas", "from sprites_lab.drawing.palettes import rgb\nfrom sprites_lab.errors import LabError"),
    (touches_nothing_global, "commands", "print(1)"),
    (touches_nothing_global, "lab", 'torch.load(f, map_location="cpu", weights_only=True)'),
    (touches_nothing_global, "lab", "with torch.random.fork_rng(devices=[]):\n    pass"),
    (hands_on_no_kwargs, "lab", "def f(**more):\n    return dict(a=1, **more)"),
    (hands_on_no_kwargs, "lab", "def f(**controls):\n    return g(**{k: v for k, v in controls.items()})"),
    (is_explained, "lab", '"m"\ndef f(x: int, *rest: int) -> int:\n    "d"\ndef _g(x): pass'),
])
def test_rule_leaves_good_code_alone(rule: Callable, name: str, code: str):
    assert not list(rule(name, ast.parse(code)))
