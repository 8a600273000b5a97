"""What `doctor` says about packages: versions against what is asked for, and known-bad pairs."""

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rag_finetune.cli.doctor import Finding

OURS = "rag-finetune"
NOT_FOR_USERS = ("all", "dev")  # extras that only gather others, or are for working on the package


class BadPair(NamedTuple):
    """Two packages that do not work together, each in a range of versions.

    Attributes:
        first: a requirement such as "torch<2.3".
        second: the other.
        reason: what happens.
        remedy: what to do.
    """

    first: str
    second: str
    reason: str
    remedy: str


_ONE_FAISS = "both install the module `faiss`, and overwrite parts of each other"
_FAISS_AGAIN = "pip uninstall faiss-cpu {other}, then pip install the one that you want"
BAD_PAIRS = (
    *(
        BadPair("faiss-cpu", other, _ONE_FAISS, _FAISS_AGAIN.format(other=other))
        for other in ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
    ),
    BadPair(
        "faiss-cpu<1.9",
        "numpy>=2",
        "this FAISS was compiled against numpy 1 and cannot be imported",
        'pip install "faiss-cpu>=1.15,<2"',
    ),
    BadPair(
        "torch<2.3",
        "numpy>=2",
        "this torch was compiled against numpy 1: tensors cannot be turned into arrays",
        'pip install "torch>=2.13,<3"',
    ),
)


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_packages() -> Iterator[Finding]:
    """Python, what this package asks for, what that asks for in turn, and the known-bad pairs."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    try:
        wanted = [Requirement(line) for line in metadata.requires(OURS) or ()]
    except metadata.PackageNotFoundError:
        yield Finding(OURS, "not installed", "BAD", "in its folder: pip install --editable .[all]")
        return
    yield Finding(OURS, installed_version(OURS) or "unknown")
    yield from map(_check_needed, (need for need in wanted if need.marker is None))
    yield from _check_extras(wanted)
    for need in wanted:
        if need.marker is None and installed_version(need.name):
            yield from _check_needs_of(need.name)
    yield from _check_pairs()


def _check_needed(need: Requirement) -> Finding:
    """A package that we cannot do without."""
    found = installed_version(need.name)
    remedy = f'pip install "{need}"'
    if found is None:
        return Finding(need.name, f"not installed; needed: {need.specifier}", "BAD", remedy)
    if not need.specifier.contains(found, prereleases=True):
        return Finding(need.name, f"{found}; needed: {need.specifier}", "BAD", remedy)
    return Finding(need.name, found)


def _check_extras(wanted: list[Requirement]) -> Iterator[Finding]:
    """Packages that single features need."""
    for extra in metadata.metadata(OURS).get_all("Provides-Extra") or ():
        if extra in NOT_FOR_USERS:
            continue
        for need in wanted:
            if need.marker is None or not need.marker.evaluate({"extra": extra}):
                continue
            found = installed_version(need.name)
            if found is None:
                remedy = f'for what needs it: pip install "{OURS}[{extra}]"'
                yield Finding(need.name, f"not installed (extra {extra})", "note", remedy)
            else:
                checked = _check_needed(need)
                yield checked._replace(found=f"{checked.found} (extra {extra})")


def _check_needs_of(name: str) -> Iterator[Finding]:
    """What one of our dependencies asks for and does not get; nothing where all is well."""
    for line in metadata.requires(name) or ():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(need.name)
        if found is None or not need.specifier.contains(found, prereleases=True):
            yield Finding(
                f"{canonicalize_name(name)} and {need.name}",
                f"{name} {installed_version(name)} needs {need.name}{need.specifier}, found "
                f"{found or 'nothing'}",
                "BAD",
                f'pip install "{need.name}{need.specifier}"',
            )


def _check_pairs() -> Iterator[Finding]:
    """The pairs of BAD_PAIRS that are installed."""
    for pair in BAD_PAIRS:
        needs = [Requirement(pair.first), Requirement(pair.second)]
        found = [installed_version(need.name) for need in needs]
        if all(
            version is not None and need.specifier.contains(version, prereleases=True)
            for need, version in zip(needs, found, strict=True)
        ):
            names = f"{needs[0].name} {found[0]} with {needs[1].name} {found[1]}"
            title = f"{needs[0].name} and {needs[1].name}"
            yield Finding(title, f"{names}: {pair.reason}", "BAD", pair.remedy)
