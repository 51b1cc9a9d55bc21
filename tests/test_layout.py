"""The repository as a whole: imports point one way, links lead somewhere, nothing belongs to one machine."""

import ast
import graphlib
import hashlib
import json
import re
import stat
import sys
import tomllib

import nbformat
import pytest
from notebook_rules import code_cells, links
from project_files import ROOT, project_files

# A module imports only from those before it; the modules of a package stand where the package stands.
ORDER = [
    "paths",
    "versions",
    "assets",
    "shapes",
    "cameras",
    "images",
    "parsing",
    "faces",
    "generators",
    "perceptual",
    "contextual",
    "identity",
    "losses",
    "warping",
    "meshes",
    "rasterisation",
    "blending",
    "voxels",
    "media",
    "datasets",
    "inversion",
    "encoders",
    "training",
    "prior",
    "pose_learning",
    "encoder_training",
    "editing",
    "metrics",
    "runs",
    "evaluation",
    "augmentation",
    "adversarial",
    "adversarial_posefree",
    "figures",
    "drawings",
    "widgets",
    "preference",
    "preference_form",
    "model_cards",
    "posefree_card",
    "encoders_card",
]

IMPORTED_AS = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "IPython": "ipython",
    "yaml": "pyyaml",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "lightning_fabric": "lightning-fabric",
}
# Started by other programs, or imported only where they are installed.
STARTED = {"pyarrow", "snakemake", "jupyterlab", "ipykernel", "nbval", "nbstripout", "ruff", "playwright"}

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".ipynb", ".json", ".lock", ".csv", ""}  # by suffix
MAX_PICTURE, MAX_PICTURES = 100_000, 16_000_000


def relative(path):
    return path.relative_to(ROOT).as_posix()


def imported_modules(tree, modules):
    """Names of the modules that a syntax tree imports, anywhere in it; those of `modules` in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from full & modules or {node.module}


# ---- imports ----------------------------------------------------------------------------------------------


def library():
    """Module name -> syntax tree, for every file of lib."""
    named = {path: relative(path).removesuffix(".py").replace("/", ".") for path in project_files("lib/*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for path, name in named.items()}


def library_imports():
    """Pairs (module, module it imports) within lib."""
    trees = library()
    for name, tree in trees.items():
        for target in imported_modules(tree, trees.keys()):
            if target.startswith("lib.") and target != name:
                yield name, target


def rank(module):
    """A program may import whatever it runs: nothing imports it."""
    return len(ORDER) if module.endswith(".__main__") else ORDER.index(module.split(".")[1])


def test_every_module_has_its_place_in_the_order():
    unplaced = {name.split(".")[1] for name in library() if name != "lib"} - set(ORDER)
    assert not unplaced, "add them to ORDER, above everything that imports them"


def test_imports_point_one_way():
    against = [f"{name} imports {target}" for name, target in library_imports() if rank(name) < rank(target)]
    assert not against


def test_imports_have_no_cycle():
    graph = {}
    for name, target in library_imports():
        graph.setdefault(name, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()


def test_library_imports_no_tests_and_nothing_relative():
    for name, tree in library().items():
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), name
        assert not any(module.split(".")[0] == "tests" for module in imported_modules(tree, set())), name


# ---- dependencies -----------------------------------------------------------------------------------------


def declared():
    """Names of distributions by group; the group of what a study needs is `study`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"study": project["dependencies"], **project["optional-dependencies"]}
    return {group: {re.split(r"[<>=\[ ]", item)[0] for item in items} for group, items in groups.items()}


def third_party(sources):
    """Distributions whose modules these sources import."""
    own = {path.stem for path in project_files("tests/*.py")} | {"lib", "tests", "benchmarks"}
    trees = [ast.parse(source) for source in sources]
    modules = {name.split(".")[0] for tree in trees for name in imported_modules(tree, set())}
    return {IMPORTED_AS.get(name, name) for name in modules - own - set(sys.stdlib_module_names)}


def notebook_sources():
    notebooks = [nbformat.read(path, as_version=4) for path in project_files("*.ipynb")]
    return [cell.source for notebook in notebooks for cell in code_cells(notebook)]


def sources(pattern):
    return [path.read_text() for path in project_files(pattern)]


def test_every_import_is_declared():
    groups = declared()
    assert third_party([*sources("lib/*.py"), *notebook_sources()]) <= set().union(
        *(groups[name] for name in ("study", "data", "heads"))
    )
    assert third_party(sources("benchmarks/*.py")) <= groups["study"]
    assert third_party(sources("tests/*.py")) <= set().union(*groups.values())


def test_every_dependency_is_used():
    used = third_party([*sources("lib/*.py"), *sources("tests/*.py"), *notebook_sources()]) | STARTED
    unused = set().union(*declared().values()) - used
    assert not unused


def test_every_dependency_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    requirements = [line for line in lines if re.match(r'    "[a-z0-9-]+[<>=]', line)]
    assert len(requirements) == sum(map(len, declared().values()))
    assert not [line for line in requirements if not re.search(r"#\s+\S", line)]


def test_lock_pins_what_is_declared_and_nothing_of_one_machine():
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, flags=re.MULTILINE))
    assert set().union(*declared().values()) <= pins.keys()
    assert not [name for name in pins if re.match("torchvision|torchaudio|nvidia|cuda|triton|lpips", name)]
    assert not [line for line in lock.splitlines() if re.search(r"://|^-|^/|\+", line.split("#")[0])]


# ---- text -------------------------------------------------------------------------------------------------


def texts():
    return [path for path in project_files() if path.suffix in TEXT]


@pytest.mark.parametrize("path", project_files("*.md"), ids=relative)
def test_links_lead_somewhere(path):
    missing = [target for target in links(path.read_text()) if not (path.parent / target).exists()]
    assert not missing


def test_no_path_of_one_machine():
    folders = "|".join(["home", "root", "work", "tmp", "Users"])
    pattern = re.compile(rf"(^|[^A-Za-z0-9_.~])/({folders})/[A-Za-z0-9_.-]", flags=re.MULTILINE)
    assert not [relative(path) for path in texts() if pattern.search(path.read_text())]


def test_no_package_registry_by_name():
    pattern = re.compile(r"\b(pypi|pythonhosted|npmjs|debian)\.(org|com)\b")
    assert not [relative(path) for path in texts() if pattern.search(path.read_text())]


def test_ci_script_can_be_started():
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


# ---- pictures and records ---------------------------------------------------------------------------------


def records():
    return {path: json.loads(path.read_text()) for path in project_files("papermill_runs/results/*.json")}


def test_pictures_are_small():
    sizes = {path: path.stat().st_size for path in project_files("*.png", "*.jpg", "*.gif")}
    assert not [relative(path) for path, size in sizes.items() if size > MAX_PICTURE]
    assert sum(sizes.values()) <= MAX_PICTURES


def test_every_committed_figure_is_the_one_that_a_record_names():
    described = [figure for record in records().values() for figure in record["figures"]]
    named = {figure["file"]: figure["sha256"] for figure in described}
    files = project_files("figures/*")
    assert {relative(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == named


def test_records_are_complete_and_lie_where_their_run_says():
    started = {path.stem for path in project_files("papermill_runs/runs/*.yaml")}
    for path, record in records().items():
        assert path.stem == record["run_id"]
        assert {"metrics", "versions", "device", "commit"} <= record.keys()
        if path.stem.rpartition("-")[0] in started:  # the runner's own, not those of a notebook run by hand
            assert {"parameters", "wall_seconds", "fingerprint"} <= record.keys()
