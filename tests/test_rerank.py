import json
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import tiny_rag
import torch
from tiny_reranker import save_reranker
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BlenderbotSmallConfig,
    FunnelConfig,
    FunnelModel,
)

from rag_finetune.encoders import encode
from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.retrieval.rerank import fit_logits, load_reranker, passage_text

FACTS = tiny_rag.facts()
PAIRS = [(FACTS[i]["question"], passage_text(FACTS[j])) for i in range(3) for j in range(4)]
PAIRS += [("who ?", "ada"), ("what is the house of ada ?", "the dog " * 12)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("rerankers")
    return {n: save_reranker(folder / str(n), n) for n in (1, 2, 3)}


@pytest.mark.parametrize("n_logits", [1, 2])
def test_scores_of_a_batch_are_those_of_each_pair_alone(folders, n_logits):
    model = AutoModelForSequenceClassification.from_pretrained(folders[n_logits]).eval()
    tokenizer = tiny_rag.word_tokenizer("bert")
    alone = []
    for pair in PAIRS:
        with torch.no_grad():
            logits = model(**tokenizer(*pair, return_tensors="pt")).logits[0].tolist()
        alone.append(logits[0] if n_logits == 1 else logits[1] - logits[0])
    scores = load_reranker(folders[n_logits]).score(PAIRS)
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx(alone, abs=1e-5)
    assert np.ptp(scores) > 0.1


def test_a_processor_scores_a_few_pairs_at_a_time(folders, monkeypatch):
    reranker = load_reranker(folders[1])
    expected = reranker.score(PAIRS)
    shapes = []
    reranker.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(given["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(encode, "CPU_NUMBERS_PER_BATCH", 60 * reranker.model.config.hidden_size)
    np.testing.assert_allclose(reranker.score(PAIRS), expected, rtol=1e-5, atol=1e-6)
    assert len(shapes) > 2
    assert max(shapes) <= 60


def test_two_logits_are_the_logit_of_the_second_classs_probability():
    logits = torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    share = logits.softmax(1)[:, 1]
    assert torch.allclose(fit_logits(logits), (share / (1 - share)).log())
    assert fit_logits(torch.tensor([[3.0], [4.0]])).tolist() == [3.0, 4.0]


def test_the_title_stands_before_the_text():
    assert passage_text({"title": "T", "text": "x"}) == "T x"
    assert passage_text({"title": "", "text": "x"}) == "x"


def test_a_long_passage_loses_its_end_and_the_question_stays(folders):
    reranker = load_reranker(folders[1], max_length=12)
    (short,), (long,) = (
        reranker.tokenize([("who is ada ?", "the house of ada " * n)]) for n in (1, 50)
    )
    assert len(long["input_ids"]) == 12
    assert long["input_ids"][:6] == short["input_ids"][:6]
    assert len(load_reranker(folders[1]).tokenize([("a", "ada " * 99)])[0]["input_ids"]) == 66


def test_the_first_passages_are_put_in_the_order_of_their_scores(folders):
    reranker = load_reranker(folders[1])
    questions = [FACTS[0]["question"], FACTS[1]["question"]]
    passages = [[dict(fact) for fact in FACTS[:6]], [dict(fact) for fact in FACTS[3:5]]]
    orders = reranker.order(questions, passages, 4)
    scores = reranker.score([(questions[0], passage_text(fact)) for fact in FACTS[:4]])
    assert orders[0] == [*np.argsort(-scores, kind="stable").tolist(), 4, 5]
    assert orders[0] != [0, 1, 2, 3, 4, 5]
    assert sorted(orders[1]) == [0, 1]
    found = [passage.get("reranker_score") for passage in passages[0]]
    assert found[:4] == pytest.approx(scores.tolist(), abs=1e-5)
    assert found[4:] == [None, None]


def test_a_passage_that_was_not_found_stays_behind(folders):
    nothing = {"title": "", "text": ""}
    passages = [[dict(FACTS[0]), dict(nothing), dict(FACTS[1])], [dict(nothing)]]
    orders = load_reranker(folders[1]).order(["who ?", "who ?"], passages, 3)
    assert orders[0][-1] == 1 and orders[1] == [0]
    assert "reranker_score" not in passages[0][1]


def test_what_is_no_cross_encoder_is_refused(folders, tmp_path):
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"expected a cross-encoder \(a model ForSequenceClassif"):
        load_reranker(bare)
    with pytest.raises(
        ValueError, match="expected a cross-encoder with one or two logits, found 3"
    ):
        load_reranker(folders[3])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_reranker(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="max_length must be from 8 to 66, found 67"):
        load_reranker(folders[1], max_length=67)


def test_a_bare_network_gets_a_head_to_be_trained(tmp_path):
    reranker = load_reranker(tiny_encoders.save_bare(tmp_path / "bare"), new_head=True)
    assert reranker.model.config.num_labels == 1
    assert reranker.score(PAIRS).shape == (len(PAIRS),)


@pytest.fixture(params=["cls", "mean"])
def saved_encoder(request, tmp_path) -> str:
    """An encoder as we leave one, a DPR model or a PooledEncoder: of 12 tokens, with a prefix."""
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    encoder = load_context_encoder(bare, pooling=request.param, prefix="the house ")
    encoder.tokenizer.model_max_length = 12
    encoder.save(tmp_path / "saved")
    kind = json.loads((tmp_path / "saved/config.json").read_text())["model_type"]
    assert (kind == "dpr") == (request.param == "cls")
    return str(tmp_path / "saved")


def test_an_encoder_that_we_left_gets_a_head_on_the_same_weights(saved_encoder):
    reranker = load_reranker(saved_encoder, new_head=True)
    assert reranker.model.config.num_labels == 1
    wanted = AutoModel.from_pretrained(Path(saved_encoder).parent / "bare").state_dict()
    found = reranker.model.base_model.state_dict()
    same = [name for name in wanted if torch.equal(wanted[name], found[name])]
    assert {*wanted} - {*same} <= {"pooler.dense.weight", "pooler.dense.bias"}


def test_a_question_encoder_gets_one_too(tmp_path):
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    load_question_encoder(bare, pooling="cls").save(tmp_path / "saved")
    reranker = load_reranker(str(tmp_path / "saved"), new_head=True)
    assert type(reranker.model).__name__ == "BertForSequenceClassification"


@pytest.mark.parametrize("family", tiny_encoders.FAMILIES)
def test_networks_of_every_family_get_one(tmp_path, family):
    size = len(tiny_rag.word_tokenizer("bert"))
    bare = tiny_encoders.save_bare(tmp_path / "bare", tiny_encoders.network(family, size))
    load_question_encoder(bare, pooling="mean").save(tmp_path / "saved")
    reranker = load_reranker(str(tmp_path / "saved"), new_head=True)
    assert np.isfinite(reranker.score(PAIRS)).all()


def test_length_and_prefix_of_its_vectors_are_not_those_of_pairs(saved_encoder):
    reranker = load_reranker(saved_encoder, new_head=True)
    assert reranker.max_length == 66
    plain = tiny_rag.word_tokenizer("bert")("who is ada ?", "the dog")["input_ids"]
    assert reranker.tokenize([("who is ada ?", "the dog")])[0]["input_ids"] == plain


def test_what_was_made_of_an_encoder_loads_as_any_other(saved_encoder, tmp_path):
    reranker = load_reranker(saved_encoder, new_head=True)
    reranker.model.save_pretrained(tmp_path / "reranker")
    reranker.tokenizer.save_pretrained(tmp_path / "reranker")
    again = load_reranker(str(tmp_path / "reranker"))
    assert again.score(PAIRS).tolist() == pytest.approx(reranker.score(PAIRS).tolist())
    assert again.max_length == reranker.max_length


def test_an_encoder_is_no_cross_encoder_before_that(saved_encoder):
    with pytest.raises(ValueError, match="expected a cross-encoder"):
        load_reranker(saved_encoder)


def test_a_network_that_its_classifier_does_not_have_is_refused(tmp_path):
    config = FunnelConfig(
        vocab_size=len(tiny_rag.word_tokenizer("bert")),
        d_model=16,
        n_head=2,
        d_head=8,
        d_inner=32,
        block_sizes=[1, 1],
    )
    bare = tiny_encoders.save_bare(tmp_path / "bare", FunnelModel(config))
    load_question_encoder(bare, pooling="mean").save(tmp_path / "saved")
    with pytest.raises(
        ValueError, match=r"saved: its network is not that of a FunnelForSeq.*: dec"
    ):
        load_reranker(str(tmp_path / "saved"), new_head=True)


def test_a_kind_of_network_that_has_no_classifier_is_refused_in_one_line(tmp_path):
    BlenderbotSmallConfig(architectures=["BlenderbotSmallModel"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r'"blenderbot-small" cannot be a cross-encoder\. Give an'):
        load_reranker(str(tmp_path), new_head=True)


def test_weights_without_a_classifier_are_refused(folders, tmp_path):
    model = tiny_encoders.bert()
    model.config.architectures = ["BertForSequenceClassification"]
    model.config.num_labels = 1
    tiny_encoders.save_bare(tmp_path / "bare", model)
    text = (
        (tmp_path / "bare/config.json")
        .read_text()
        .replace('"BertModel"', '"BertForSequenceClassification"')
    )
    (tmp_path / "bare/config.json").write_text(text)
    with pytest.raises(ValueError, match=r"has no weights for .*: its scores would be random"):
        load_reranker(str(tmp_path / "bare"))
