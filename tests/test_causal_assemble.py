"""What a decoder-only generator is joined with, and what cannot work."""

import json

import pytest
import tiny_causal
import tiny_rag

from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.causal_assemble import Prompting, check_positions
from rag_finetune.rag.checkpoint import load_rag


def test_a_joined_prompt_has_room_for_each_passage_as_far_as_there_is(tmp_path):
    for positions, expected in ((128, 120), (4000, 900)):
        folder = tmp_path / str(positions)
        parts = tiny_rag.save_parts(folder / "parts")
        tiny_causal.network("gpt2", positions=positions).save_pretrained(folder / "gpt2")
        tiny_causal.tokenizer().save_pretrained(folder / "gpt2")
        prompting = Prompting("joined", max_target_length=8)
        made = assemble_rag(
            *(parts["question_encoder"], str(folder / "gpt2"), folder / "made"),
            prompting=prompting,
            n_docs=3,
        )
        model = load_rag(made, with_index=False).model
        assert model.config.max_combined_length == expected


def test_the_chat_template_is_used_and_goes_along(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, chat_template=tiny_causal.CHAT)
    assert rag.model.template.chat is True
    docs = {"title": [""], "text": ["ada has a dog"]}
    ids, _ = rag.retriever.postprocess_docs([docs], ["who ?"], None, 1, "pt")
    assert rag.tokenizer.generator.decode(ids[0]) == (
        "<user> ada has a dog Answer in a few words: who ? </s> <assistant>"
    )


def test_answers_are_not_drawn_unless_that_is_asked_for(tmp_path):
    parts = tiny_rag.save_parts(tmp_path / "parts")
    decoder = tiny_causal.save_generator(tmp_path / "decoder")
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 5]}
    (tmp_path / "decoder/generation_config.json").write_text(json.dumps(settings))
    made = assemble_rag(
        parts["question_encoder"], decoder, tmp_path / "made", max_combined_length=9
    )
    found = load_rag(made, with_index=False).model.generation_config
    assert (found.do_sample, found.temperature, found.top_p) == (False, None, None)
    assert found.eos_token_id == [1, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_combined_length": 125}, r"125 and max_target_length 8 .* the 128 positions"),
        ({"answer": 1}, r"max_target_length counts the answer and its end: at least 2, found 1"),
        ({"reading": "joint"}, r'reading must be ensemble or joined, found "joint"'),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(tmp_path, options, message):
    parts = tiny_rag.save_parts(tmp_path / "parts")
    decoder = tiny_causal.save_generator(tmp_path / "decoder")
    prompting = Prompting(options.pop("reading", None), max_target_length=options.pop("answer", 8))
    with pytest.raises(ValueError, match=message):
        assemble_rag(
            *(parts["question_encoder"], decoder, tmp_path / "made"), prompting=prompting, **options
        )
    assert not (tmp_path / "made").exists()


def test_an_encoder_decoder_has_no_prompt(tmp_path):
    parts = tiny_rag.save_parts(tmp_path / "parts")
    with pytest.raises(ValueError, match=r"--reading is for decoder-only generators"):
        assemble_rag(
            *(parts["question_encoder"], parts["generator"], tmp_path / "made"),
            max_combined_length=40,
            prompting=Prompting("joined"),
        )


def test_positions_that_are_not_known_are_not_counted():
    check_positions("a", object(), 10**6, 10)
