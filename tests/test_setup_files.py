import configparser
import importlib.metadata
import re
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rag_finetune


def read_setup():
    setup = configparser.RawConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def requirements(text):
    return [Requirement(line) for line in text.splitlines() if line.strip()]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def declared():
    setup = read_setup()
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    return [requirement for text in lists for requirement in requirements(text)]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_a_pin_lies_in_the_declared_range(requirement):
    if requirement.name == "rag-finetune":
        assert set(requirement.extras) <= set(read_setup()["options.extras_require"])
        return
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), f"constraints.txt pins {version}"


def test_constraints_hold_for_everything_that_is_pulled_in():
    pinned = pins()
    for name in pinned:
        try:
            found = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, found):
            # A GPU build of torch pulls in packages of its own, which it pins itself.
            if requirement.marker is None and name != "torch":
                assert canonicalize_name(requirement.name) in pinned, f"{name} needs {requirement}"


def test_the_environment_tested_is_the_one_pinned():
    for name, version in pins().items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a tool that the tests do not need
        assert found.partition("+")[0] == version, name


def test_an_upper_bound_has_its_reason_above_it():
    lines = (ROOT / "setup.cfg").read_text(encoding="utf-8").splitlines()
    bounded = [n for n, line in enumerate(lines) if re.match(r"    [A-Za-z-]+>=[\d.]+,<", line)]
    assert bounded
    for n in bounded:
        assert lines[n - 1].strip().startswith("#"), lines[n]


def test_the_version_has_one_source():
    version = read_setup()["metadata"]["version"]
    assert rag_finetune.__version__ == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version)}\]", changelog, re.MULTILINE)


def test_pyproject_holds_the_build_back_end_and_ruff_only():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(pyproject) == {"build-system", "tool"}
    assert set(pyproject["tool"]) == {"ruff"}


def test_the_minimum_python_is_the_same_everywhere():
    setup = read_setup()
    assert setup["options"]["python_requires"] == ">=3.11"
    assert setup["mypy"]["python_version"] == "3.11"
    assert "(3, 11)" in (ROOT / ".ci" / "environment.sh").read_text(encoding="utf-8")
