from importlib import metadata

import pytest
from test_cli_doctor import forged

from rag_finetune.cli.installed import check_packages, installed_version


def bad():
    return [finding for finding in check_packages() if finding.state == "BAD"]


def test_what_is_installed_here_fits():
    assert bad() == []


def test_the_version_of_what_is_not_installed_is_none():
    assert installed_version("no-such-package") is None
    assert installed_version("numpy") == metadata.version("numpy")


@pytest.mark.parametrize(
    ("name", "version", "needed"),
    [
        ("transformers", "5.22.0", "<6,>=5.23"),
        ("transformers", "6.0.0", "<6,>=5.23"),
        ("datasets", "5.1.0", "<6,>=5.2"),
        ("faiss_cpu", "1.14.0", "<2,>=1.15"),
    ],
)
def test_a_version_out_of_range_is_bad(monkeypatch, name, version, needed):
    forged(monkeypatch, **{name: version})
    finding = bad()[0]
    assert (finding.name, finding.found) == (name.replace("_", "-"), f"{version}; needed: {needed}")
    assert finding.remedy == f'pip install "{finding.name}{needed}"'


def test_a_release_candidate_within_the_range_is_fine(monkeypatch):
    forged(monkeypatch, faiss_cpu="1.16.0rc1")
    assert bad() == []


def test_a_missing_dependency_is_bad(monkeypatch):
    forged(monkeypatch, sacrebleu=None)
    assert bad()[0].found == "not installed; needed: <3,>=2.6"


def test_what_a_dependency_needs_in_turn_is_looked_at(monkeypatch):
    forged(monkeypatch, tokenizers="0.1.0")
    (finding,) = bad()
    assert finding.name == "transformers and tokenizers"
    assert "found 0.1.0" in finding.found


def test_an_extra_that_is_missing_is_no_fault(monkeypatch):
    forged(monkeypatch, tensorboard=None)
    found = {finding.name: finding for finding in check_packages()}
    assert found["tensorboard"].state == "note"
    assert 'pip install "rag-finetune[tensorboard]"' in found["tensorboard"].remedy


@pytest.mark.parametrize(
    ("versions", "title"),
    [
        ({"faiss_gpu_cu12": "1.12.0"}, "faiss-cpu and faiss-gpu-cu12"),
        ({"faiss_cpu": "1.7.4", "numpy": "2.0.0"}, "faiss-cpu and numpy"),
        ({"torch": "2.2.2", "numpy": "2.1.0"}, "torch and numpy"),
    ],
)
def test_a_pair_that_is_known_not_to_work_is_bad(monkeypatch, versions, title):
    forged(monkeypatch, **versions)
    (finding,) = [finding for finding in bad() if finding.name == title]
    assert finding.remedy.startswith("pip ")


def test_a_checkout_that_was_never_installed_is_said(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (finding,) = bad()
    assert (finding.name, finding.found) == ("rag-finetune", "not installed")
