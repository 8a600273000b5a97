import subprocess
import sys

import pytest

from rag_finetune.encoders.pairs import context_encoder_of, is_known_mismatch

SINGLE = "facebook/dpr-ctx_encoder-single-nq-base"
MULTISET = "facebook/dpr-ctx_encoder-multiset-base"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/dpr-question_encoder-single-nq-base", SINGLE),
        ("facebook/dpr-question_encoder-multiset-base", MULTISET),
        ("facebook/rag-sequence-nq", MULTISET),
        ("facebook/rag-token-base", MULTISET),
        ("models/rag-token-nq/", MULTISET),
        ("my/encoder", None),
        ("", None),
    ],
)
def test_a_published_encoder_has_its_counterpart(name, expected):
    assert context_encoder_of(name) == expected


@pytest.mark.parametrize(
    ("question_encoder", "context_encoder", "expected"),
    [
        ("facebook/rag-sequence-nq", SINGLE, True),
        ("facebook/rag-sequence-nq", "dpr-ctx_encoder-single-nq-base", True),
        ("facebook/rag-sequence-nq", MULTISET, False),
        ("facebook/rag-sequence-nq", "dpr-ctx_encoder-multiset-base", False),
        ("facebook/rag-sequence-nq", "my_encoder", False),
        ("my/encoder", SINGLE, False),
    ],
)
def test_only_published_encoders_of_two_trainings_are_a_mismatch(
    question_encoder, context_encoder, expected
):
    assert is_known_mismatch(question_encoder, context_encoder) is expected


def test_the_scripts_can_ask_without_torch():
    code = "import sys, runpy; sys.argv = ['x', sys.argv[1]];"
    code += "runpy.run_module('rag_finetune.encoders.pairs', run_name='__main__');"
    code += "sys.exit('torch' in sys.modules)"
    for name, expected in (("facebook/rag-token-nq", f"{MULTISET}\n"), ("my/model", "\n")):
        done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
