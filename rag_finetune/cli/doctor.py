"""`rag-finetune doctor`: what is installed here, what the machine has, what is known to be bad."""

import argparse
import os
from collections.abc import Iterable
from typing import Literal, NamedTuple

from rag_finetune.cli.parsing import make_parser, parse

State = Literal["ok", "note", "BAD"]


class Finding(NamedTuple):
    """One line of the table.

    Attributes:
        name: what was looked at.
        found: what was found.
        state: "ok", "note" (worth knowing) or "BAD" (known not to work).
        remedy: what to do; empty where there is nothing to do.
    """

    name: str
    found: str
    state: State = "ok"
    remedy: str = ""


def make_doctor_parser() -> argparse.ArgumentParser:
    """The flags of `doctor`."""
    return make_parser(
        "doctor",
        "Show versions, FAISS build, OpenMP, threads, memory, disk and GPUs; exit code 1 where "
        "something is known not to work.",
    )


def main(argv: list[str]) -> int:
    """Run the command."""
    parse(make_doctor_parser(), argv)

    from rag_finetune.cli.installed import check_packages
    from rag_finetune.cli.machine import check_machine

    findings = [*check_packages(), *check_machine()]
    print(findings_table(findings))
    bad = sum(finding.state == "BAD" for finding in findings)
    print(f"\n{bad} known not to work." if bad else "\nNothing here is known not to work.")
    return 1 if bad else 0


def findings_table(findings: Iterable[Finding]) -> str:
    """Findings as lines of name, state and what was found, each remedy on a line below."""
    rows = list(findings)
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.name:<{width}}  {row.state:<4}  {row.found}")
        if row.remedy:
            lines.append(f"{'':<{width}}        → {row.remedy}")
    return "\n".join(lines)


def threads_available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
