"""The starter model on the elements: plain Transformers answers as we do, one by one."""

from contextlib import nullcontext

import pytest
import torch
from conftest import ROOT
from mended_generate import mended_generate
from transformers import (
    RagRetriever,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.build import build_index
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.generation import generate_answers

ELEMENTS, STARTER = ROOT / "data/elements", ROOT / "data/starter"
ROOM = 31  # tokens of an answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (STARTER / "generator/config.json").exists(), reason="no starter model"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(
        load_passages(ELEMENTS / "passages.tsv"),
        load_context_encoder(str(STARTER / "context_encoder")),
        tmp_path_factory.mktemp("elements") / "index",
    )


@pytest.mark.parametrize(
    ("model_type", "head"),
    [("rag_sequence", RagSequenceForGeneration), ("rag_token", RagTokenForGeneration)],
)
def test_thirty_questions_one_at_a_time_get_the_same_answers(tmp_path, index, model_type, head):
    parts = (str(STARTER / "question_encoder"), str(STARTER / "generator"))
    folder = assemble_rag(*parts, tmp_path / "model", model_type=model_type, index=index)
    questions = load_questions(ELEMENTS / "test.json")["question"][::13][:30]
    answers = generate_answers(load_rag(folder), questions, max_new_tokens=ROOM)
    retriever = RagRetriever.from_pretrained(
        folder,
        index_name="custom",
        passages_path=str(index.folder / "passages"),
        index_path=str(index.folder / "dense.faiss"),
    )
    model = head.from_pretrained(folder).eval()
    model.set_retriever(retriever)
    tokenizer = RagTokenizer.from_pretrained(folder)
    # RagToken's generate counts the start token, and takes no max_new_tokens.
    room = {"max_length": ROOM + 1, "max_new_tokens": None}
    found = []
    with mended_generate(model) if model_type == "rag_sequence" else nullcontext(), torch.no_grad():
        for question in questions:
            asked = tokenizer.question_encoder(question, return_tensors="pt")
            ids = model.generate(asked["input_ids"], attention_mask=asked["attention_mask"], **room)
            found += tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert len(questions) == 30 and len(set(questions)) == 30
    assert [text.strip() for text in found] == [best[0].text for best in answers]
    assert len(set(found)) > 10
