import os
import re
import subprocess
import sys
import types

import pytest
from light_imports import assert_imports_none_of

import rag_finetune
from rag_finetune.__main__ import COMMANDS, main


@pytest.fixture
def search(monkeypatch):
    """Put a function in the place of the command `search`."""

    def install(function):
        module = types.ModuleType("rag_finetune.cli.search")
        module.main = function
        monkeypatch.setitem(sys.modules, "rag_finetune.cli.search", module)

    return install


def failing(error):
    def run(argv):
        raise error

    return run


def test_a_command_gets_the_words_after_its_name(search):
    seen = []
    search(lambda argv: seen.append(argv) or 0)
    assert main(["search", "--index", "i", "who?"]) == 0
    assert seen == [["--index", "i", "who?"]]


def test_the_exit_code_is_the_commands(search):
    search(lambda argv: 1)
    assert main(["search"]) == 1


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, help_line in COMMANDS.items():
        assert re.search(rf"^  {name} +{help_line}$", text, re.MULTILINE)


def test_no_command_is_wrong_usage(capsys):
    assert main([]) == 2
    assert "usage: rag-finetune COMMAND" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rag-finetune {rag_finetune.__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error.startswith('rag-finetune: error: unknown command "trian". Did you mean "train"?')
    assert error.count("\n") == 1


def test_a_users_error_is_one_line(search, capsys):
    search(failing(ValueError("qa.jsonl:3: expected a string,\n   found 7")))
    assert main(["search"]) == 1
    assert capsys.readouterr().err == (
        "rag-finetune search: error: qa.jsonl:3: expected a string, found 7\n"
    )


def test_a_missing_file_is_named_without_its_error_number(search, capsys):
    search(lambda argv: open("nowhere.json"))
    assert main(["search"]) == 1
    assert capsys.readouterr().err == (
        "rag-finetune search: error: nowhere.json: No such file or directory\n"
    )


@pytest.mark.parametrize("words", [["search", "--debug"], ["--debug", "search"]])
def test_debug_shows_the_traceback(search, capsys, words):
    search(failing(ValueError("wrong")))
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("ValueError: wrong\n")


def test_an_error_of_ours_is_not_hidden(search):
    search(failing(KeyError("bug")))
    with pytest.raises(KeyError):
        main(["search"])


def test_an_interrupt_ends_with_130(search):
    search(failing(KeyboardInterrupt()))
    assert main(["search"]) == 130


def test_wrong_usage_of_a_command_ends_with_2(search):
    search(failing(SystemExit(2)))
    with pytest.raises(SystemExit) as left:
        main(["search"])
    assert left.value.code == 2


def test_help_is_instant():
    heavy = {"torch", "transformers", "datasets", "faiss", "numpy", "yaml"}
    assert_imports_none_of(heavy, "from rag_finetune.__main__ import main; main(['--help'])")


def a_search_that(does: str) -> str:
    """Code of a process in which `search` does this alone."""
    return (
        "import sys, types; module = types.ModuleType('x');"
        f"module.main = lambda argv: {does};"
        "sys.modules['rag_finetune.cli.search'] = module;"
        "from rag_finetune.__main__ import main; sys.exit(main(['search']))"
    )


def test_a_reader_who_leaves_is_no_error():
    code = a_search_that("print('word ' * 100000) or 0")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_ends_with_1_and_one_line():
    code = a_search_that("print('word') or 0")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
    assert done.returncode == 1
    assert done.stderr == "rag-finetune search: error: [Errno 28] No space left on device\n"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "rag_finetune", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"rag-finetune {rag_finetune.__version__}\n"


def test_a_warning_is_one_line_without_the_place_in_the_code(monkeypatch):
    import warnings

    from rag_finetune.cli import search

    before, lines = warnings.formatwarning, []

    def warn(words):
        lines.append(warnings.formatwarning("mind this", UserWarning, "code.py", 1))

    monkeypatch.setattr(search, "main", warn)
    assert main(["search"]) == 0
    assert lines == ["rag-finetune search: warning: mind this\n"]
    assert warnings.formatwarning is before
