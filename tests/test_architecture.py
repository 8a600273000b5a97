"""The house rules of the package, read off its source."""

import ast
import configparser
import importlib.metadata
import sys

import pytest
from conftest import ROOT
from light_imports import assert_imports_none_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rag_finetune

PACKAGE = ROOT / "rag_finetune"

# Top to bottom as the data flows: a room may use itself and the rooms above it.
ROOMS = (
    "files data metrics encoders index retrieval losses rag evaluation training cli __main__"
).split()

# Needed although nothing imports them.
NEEDED_UNIMPORTED = {
    "accelerate": "transformers.Trainer needs it, and `accelerate launch` starts several processes",
    "tensorboard": "what --report_to tensorboard writes with",
}

# Taken from a package that always brings it along.
COMES_WITH = {
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
    "packaging": "transformers",
}

WITHOUT_BEHAVIOUR = {"rag/decoded.py"}  # what decoding gives: names, and what they hold

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return str(path.relative_to(PACKAGE))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    """Every module that a file imports, in functions too, as absolute dotted names."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*base, node.module or ""]) if node.level else node.module
            if module == "rag_finetune":
                # A room, or a public name, which stands in a room's module.
                for alias in node.names:
                    yield f"{module}.{rag_finetune._MODULES.get(alias.name, alias.name)}"
            else:
                yield module


def third_party(path):
    for module in imported_modules(path):
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "rag_finetune":
            yield top


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_point_up(path):
    if path == PACKAGE / "__init__.py":
        return  # it names what stands in every room, for type checkers only
    here = ROOMS.index(room_of(path))
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "rag_finetune" and parts[1:] != ["__version__"]:
            assert parts[1] in ROOMS, f"{module} stands in no room"
            assert ROOMS.index(parts[1]) <= here, f"{name_of(path)} must not import {module}"


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} <= {*ROOMS, "__init__"}


def test_only_the_dense_index_imports_faiss():
    users = {name_of(path) for path in FILES if "faiss" in third_party(path)}
    assert users <= {"index/dense.py", "index/dense_search.py", "index/dense_update.py"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_holds_one_idea(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{lines} lines: a file past 300 is two ideas"


def test_a_file_has_its_tests():
    missing = [
        name_of(path)
        for path in FILES
        if not path.name.startswith("__") and name_of(path) not in WITHOUT_BEHAVIOUR
        if not any(
            (ROOT / "tests" / f"test_{before}{path.stem}.py").is_file()
            for before in ("", f"{room_of(path)}_")
        )
    ]
    assert missing == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or (path.name == "__init__.py" and not text.strip())


def test_the_dependencies_are_what_is_imported():
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    lists = [setup["options"]["install_requires"], *(extras[key] for key in extras if key != "dev")]
    lines = [line for text in lists for line in text.splitlines() if line.strip()]
    declared = {canonicalize_name(Requirement(line).name) for line in lines} - {"rag-finetune"}

    distributions = importlib.metadata.packages_distributions()
    modules = {module for path in FILES for module in third_party(path)}
    modules = {COMES_WITH.get(module, module) for module in modules}
    imported = {canonicalize_name(distributions.get(module, [module])[0]) for module in modules}

    assert imported - declared == set(), "imported, but not in setup.cfg"
    assert declared - imported - set(NEEDED_UNIMPORTED) == set(), "in setup.cfg, but not imported"


def test_importing_the_package_is_light():
    heavy = {"torch", "transformers", "datasets", "faiss", "numpy"}
    assert_imports_none_of(heavy, "import rag_finetune; dir(rag_finetune)")


@pytest.mark.parametrize("name", rag_finetune.__all__)
def test_a_public_name_can_be_had(name):
    assert name in dir(rag_finetune)
    assert getattr(rag_finetune, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'load_ragg'"):
        _ = rag_finetune.load_ragg
