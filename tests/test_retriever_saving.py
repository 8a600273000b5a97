"""What a source says of its vectors is kept in the trained folders."""

import tiny_encoders

from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.training.biencoder import tie
from rag_finetune.training.retriever_saving import save_encoders

PROMPTS = {"prompts": {"query": "who ", "document": "the "}, "similarity_fn_name": "cosine"}


def test_pooling_normalisation_prefixes_length_and_scale_are_kept(tmp_path):
    folder = tiny_encoders.save_sentence_folder(
        tmp_path / "source", settings=PROMPTS, normalize=False, max_seq_length=20
    )
    question, context = load_question_encoder(folder), load_context_encoder(folder)
    tie(question, context)
    encoders = {"question_encoder": question, "context_encoder": context}
    save_encoders(encoders, tmp_path / "run", scale=20.0)
    assert question.model.config.scale == 1.0
    found = (
        load_question_encoder(str(tmp_path / "run/question_encoder")),
        load_context_encoder(str(tmp_path / "run/context_encoder")),
    )
    assert [encoder.prefix for encoder in found] == ["who ", "the "]
    for ours, theirs in zip((question, context), found, strict=True):
        assert theirs.max_length == ours.max_length == 20
        scale = theirs.model.config.scale
        assert scale == (20.0 if ours is question else 1.0)
        assert (theirs.encode(["ada lives"]) == scale * ours.encode(["ada lives"])).all()
        assert {**theirs.settings(), "scale": 1.0} == ours.settings()
    texts = [path.read_text() for path in (tmp_path / "run").rglob("*.json")]
    assert not any(str(tmp_path) in text for text in texts)
