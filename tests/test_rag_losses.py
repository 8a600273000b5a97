"""The retriever's losses in training: what they are of, what moves, what is logged."""

import types
import warnings

import numpy as np
import pytest
import tiny_rag
import torch
from datasets import Dataset
from tiny_training import (
    DESCENT,
    NoDropout,
    logged,
    require_descent,
    same,
    sharp_rag,
    train_tiny,
    weights,
)

from rag_finetune.data.qa import FEATURES
from rag_finetune.index.update import load_own_encoder
from rag_finetune.losses.lists import listwise_losses
from rag_finetune.losses.retrieval import (
    adist_losses,
    emdr2_losses,
    loop_losses,
    lsr_losses,
    pdist_losses,
)
from rag_finetune.rag.attention import passage_attention
from rag_finetune.rag.scoring import score_passages
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.loss_terms import LOSSES
from rag_finetune.training.rag_trainer import RagTrainer

ALONE = {"trainable": ["question_encoder"], "likelihood_weight": 0.0}


KINDS = [("bart", "rag_token"), ("t5", "rag_sequence")]
EACH = [(name, *KINDS[number % 2]) for number, name in enumerate(LOSSES)]
EACH.append(("adist", *KINDS[0]))


@pytest.mark.parametrize(("name", "kind", "model_type"), EACH)
def test_one_step_moves_the_question_encoder_and_leaves_the_generator(
    tmp_path, name, kind, model_type
):
    rag = sharp_rag(tmp_path, kind, model_type)
    generator = weights(rag.model.rag.generator)
    before = weights(rag.model.rag.question_encoder)
    trainer = train_tiny(
        tmp_path, rag=rag, max_steps=1, retriever_loss=name, weight_decay=0.1, **ALONE
    )
    assert all(same(generator, weights(rag.model.rag.generator)).values())
    after = same(before, weights(rag.model.rag.question_encoder))
    assert {n for n in after if n.endswith("weight")} == {
        n for n, is_equal in after.items() if not is_equal and n.endswith("weight")
    }
    # Alone, the loss is the retriever's; the likelihood is shown all the same.
    assert logged(trainer, "loss")[0] == pytest.approx(logged(trainer, f"loss_{name}")[0], rel=1e-5)
    assert logged(trainer, "loss_likelihood")[0] > 1


REVERSED = {"lsr_direction": "lm_retriever"}
PER_TOKEN = {"lm_likelihood": "per_token"}
TEMPERED = {"lsr": lsr_losses, "pdist": pdist_losses, "loop": loop_losses, "adist": adist_losses}


@pytest.mark.parametrize(
    ("name", "model_type", "per_token", "options"),
    [
        ("lsr", "rag_sequence", False, {}),
        ("lsr", "rag_token", True, REVERSED),
        ("pdist", "rag_token", True, {}),
        ("loop", "rag_sequence", True, {}),
        ("emdr2", "rag_token", False, {"retriever_loss": "emdr2,pdist", **PER_TOKEN}),  # summed
        ("listwise", "rag_sequence", False, {}),
        ("adist", "rag_sequence", False, {}),
    ],
)
def test_each_loss_equals_one_passage_at_a_time(tmp_path, name, model_type, per_token, options):
    rag = sharp_rag(tmp_path, model_type=model_type)
    model, retriever = rag.model.eval(), rag.retriever
    gamma, tau = {"retriever_temperature": 0.5}, {"lm_temperature": 2.0}
    expected = 0.0
    for row in tiny_rag.questions(4):
        asked = rag.tokenizer.question_encoder(row["question"], return_tensors="pt")
        answer = rag.tokenizer.generator(row["answers"][0])["input_ids"]
        labels = torch.tensor([[2, *answer]])
        with torch.no_grad():
            hidden = model.question_encoder(**asked)[0]
            found = retriever(asked["input_ids"], hidden.numpy(), n_docs=5, return_tensors="pt")
            contexts = found["context_input_ids"], found["context_attention_mask"]
            likelihoods = []
            for k in range(5):
                logits = model.rag.generator(
                    input_ids=contexts[0][k : k + 1],
                    attention_mask=contexts[1][k : k + 1],
                    decoder_input_ids=labels[:, :-1],
                    use_cache=False,
                ).logits.double()
                each = [logits[0, t].log_softmax(-1)[token] for t, token in enumerate(answer)]
                likelihoods.append(sum(each).item() / (len(answer) if per_token else 1))
            states = model.rag.generator.get_encoder()(*contexts).last_hidden_state
        scores = score_passages(hidden, found["retrieved_doc_embeds"], found["doc_ids"])
        known, every = torch.tensor([likelihoods]), torch.ones(1, len(answer), dtype=torch.bool)
        if name == "adist":
            decoder = model.rag.generator
            live = torch.ones(1, 5, dtype=torch.bool)
            known = passage_attention(decoder, states, contexts[1], labels[:, :-1], every, live)
        if name == "listwise":
            loss = listwise_losses(scores / 0.5, known, torch.ones_like(known, dtype=torch.bool))
        elif name == "emdr2":
            loss = emdr2_losses(scores, known, **gamma)
        else:
            reverse = {"direction": options["lsr_direction"]} if "lsr_direction" in options else {}
            loss = TEMPERED[name](scores, known, **gamma, **tau, **reverse)
        expected += loss.item() / 4
    settings = {"retriever_loss": name, **ALONE, **gamma, **({} if name == "listwise" else tau)}
    settings |= options | (PER_TOKEN if per_token else {})
    trainer = train_tiny(tmp_path, rag=rag, count=4, max_steps=1, **settings)
    assert logged(trainer, f"loss_{name}")[0] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.001


def test_the_loss_is_the_weighted_sum_and_each_is_logged(tmp_path):
    trainer = train_tiny(
        tmp_path,
        rag=sharp_rag(tmp_path),
        max_steps=3,
        logging_steps=3,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        retriever_loss="lsr:0.5,contrastive:0.1",
        likelihood_weight=0.7,
        passage_loss_weight=0.2,
    )
    terms = {name: logged(trainer, f"loss_{name}") for name in ("likelihood", "lsr", "contrastive")}
    assert all(len(values) == 1 for values in terms.values())
    shares = {"likelihood": 0.7, "lsr": 0.5, "contrastive": 0.1}
    total = sum(share * terms[name][0] for name, share in shares.items())
    # 16 questions: the last step of the epoch holds 4 of 6; losses are means over steps.
    assert logged(trainer, "loss")[0] == pytest.approx(total, rel=0.1)


def test_layouts_of_one_global_batch_give_the_same_losses_and_gradients(tmp_path):
    figures = []
    for number, (batch_size, accumulation) in enumerate([(8, 1), (2, 4)]):
        folder = tmp_path / str(number)
        trainer = train_tiny(
            folder,
            rag=sharp_rag(folder),
            count=8,
            max_steps=2,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            retriever_loss="lsr:2,emdr2:0.3,loop",
        )
        names = ("loss", "loss_likelihood", "loss_lsr", "loss_emdr2", "loss_loop", "grad_norm")
        figures.append([value for name in names for value in logged(trainer, name)])
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
    assert len(figures[0]) == 12


def test_with_the_generator_trained_too_its_gradient_is_the_likelihoods_alone(tmp_path):
    norms = []
    for number, options in enumerate([{}, {"retriever_loss": "lsr:3,adist,listwise"}]):
        folder = tmp_path / str(number)
        trainer = train_tiny(folder, rag=sharp_rag(folder), max_steps=1, **options)
        norms.append(
            [logged(trainer, f"grad_norm_{part}")[0] for part in ("generator", "question_encoder")]
        )
    assert norms[0][0] == pytest.approx(norms[1][0], rel=1e-4)
    assert norms[1][1] > 1.5 * norms[0][1]


def test_the_generator_runs_once_a_step(tmp_path):
    rag, calls = sharp_rag(tmp_path), []
    rag.model.rag.generator.register_forward_hook(lambda *args: calls.append(1))
    rag.model.rag.generator.get_encoder().register_forward_pre_hook(
        lambda *args, **kwargs: calls.append(2)
    )
    calls.clear()
    train_tiny(tmp_path, rag=rag, max_steps=1, retriever_loss="lsr,pdist,loop,emdr2", **ALONE)
    with_losses = calls.copy()
    calls.clear()
    train_tiny(tmp_path, rag=rag, max_steps=1, output_dir=str(tmp_path / "plain"))
    assert with_losses == calls


def test_lsr_brings_the_retriever_to_prefer_what_the_generator_prefers(tmp_path):
    trainer = train_tiny(
        tmp_path,
        rag=sharp_rag(tmp_path),
        max_steps=15,
        learning_rate=1e-2,
        per_device_train_batch_size=16,
        n_docs=20,  # all there are: the loss is of the same passages at every step
        lm_temperature=0.3,
        retriever_loss="lsr",
        **ALONE,
    )
    losses = logged(trainer, "loss_lsr")
    assert losses[-1] < 0.8 * losses[0]


def contrastive_by_hand(rag, questions, n_docs=5, vector_of=None, negatives="all", gamma=1.0):
    """The contrastive loss of a batch, a question and a passage at a time.

    `vector_of` gives the vector of a passage; None for the index's.
    """
    index, retrieved, golds = rag.retriever.index, {}, {}
    asked, answers = {}, {}
    vector_of = vector_of or (lambda row: torch.from_numpy(index.vectors_at(np.array([row])))[0])
    for number, row in enumerate(questions):
        ids = rag.tokenizer.question_encoder(row["question"], return_tensors="pt")
        with torch.no_grad():
            asked[number] = rag.model.question_encoder(**ids)[0][0]
        _, found = index.search(asked[number].unsqueeze(0).numpy(), n_docs)
        retrieved[number], golds[number] = found[0].tolist(), int(row["positive_ids"][0]) - 1
        answers[number] = row["answers"][0]
    columns = sorted({*golds.values()}.union(*retrieved.values()))
    if negatives == "in_batch":
        columns = sorted({*golds.values()})
    texts = dict(zip(columns, index.passages_at(np.array(columns)), strict=True))
    vectors = {column: vector_of(column) for column in columns}
    total = torch.tensor(0.0, dtype=torch.float64)
    for number, question in asked.items():
        scores = {
            column: question @ vectors[column] / gamma
            for column in columns
            if column == golds[number] or f" {answers[number]} " not in f" {texts[column]['text']} "
        }
        log_probs = torch.stack([*scores.values()]).double().log_softmax(0)
        total = total - log_probs[[*scores].index(golds[number])]
    return total / len(asked)


@pytest.mark.parametrize("negatives", ["all", "in_batch"])
def test_contrastive_is_of_gold_against_what_the_batch_retrieved_or_its_gold(tmp_path, negatives):
    rag = sharp_rag(tmp_path)
    of = {"negatives": negatives, "gamma": 0.5}
    expected = contrastive_by_hand(rag, tiny_rag.questions(4), **of).item()
    trainer = train_tiny(
        tmp_path,
        rag=rag,
        count=4,
        max_steps=1,
        retriever_loss="contrastive",
        retriever_temperature=0.5,
        contrastive_negatives=negatives,
        **ALONE,
    )
    assert logged(trainer, "loss_contrastive")[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("negatives", ["all", "in_batch"])
def test_contrastive_teaches_a_context_encoder_by_gold_passages_that_were_not_found_too(
    tmp_path, negatives
):
    """One step of plain gradient descent, against passages that are encoded one by one."""
    rag = sharp_rag(tmp_path)
    encoder = load_own_encoder(tmp_path / "index")
    before = weights(encoder.model)
    encoded = []

    def vector_of(row):
        [passage] = rag.retriever.index.passages_at(np.array([row]))
        encoded.append(row)
        ids = encoder.tokenizer(passage["title"], passage["text"], return_tensors="pt")
        return encoder.model(**ids)[0][0]

    of = {"n_docs": 1, "vector_of": vector_of, "negatives": negatives}
    expected = contrastive_by_hand(rag, tiny_rag.questions(4), **of)
    # One is found for each question, and some are gold beside these.
    assert len(encoded) > 4 or negatives == "in_batch"
    expected.backward()
    trainer = train_tiny(
        tmp_path,
        rag=rag,
        count=4,
        max_steps=1,
        n_docs=1,
        retriever_loss="contrastive",
        contrastive_negatives=negatives,
        likelihood_weight=0.0,
        trainable=["context_encoder"],
        predict_with_generate=False,
        index_refresh="none",
        callbacks=[NoDropout()],
        **DESCENT,
    )
    assert logged(trainer, "loss_contrastive")[0] == pytest.approx(expected.item(), rel=1e-4)
    require_descent(encoder.model, before, weights(trainer.context_encoder.model))


def test_contrastive_without_gold_passages_is_refused(tmp_path):
    rag = sharp_rag(tmp_path)
    rows = [{**row, "positive_ids": []} for row in tiny_rag.questions(4).to_list()]
    args = RagTrainingArguments(
        str(tmp_path / "run"), retriever_loss="contrastive", eval_strategy="no"
    )
    questions = Dataset.from_list(rows, features=FEATURES)
    with pytest.raises(ValueError, match="needs gold passages, and no training question has one"):
        RagTrainer(rag, args, questions)


def test_without_gold_in_a_batch_the_contrastive_loss_is_0(tmp_path):
    """The first two questions have none, and are a batch of their own."""
    rows = tiny_rag.questions(4).to_list()
    rows[:2] = [{**row, "positive_ids": []} for row in rows[:2]]
    args = RagTrainingArguments(
        str(tmp_path / "run"),
        eval_strategy="no",
        retriever_loss="contrastive",
        contrastive_negatives="in_batch",
    )
    questions = Dataset.from_list(rows, features=FEATURES)
    losses = RagTrainer(sharp_rag(tmp_path), args, questions).retriever_losses
    found = types.SimpleNamespace(
        retrieved_doc_ids=torch.tensor([[1, 2], [3, -1]]),
        question_encoder_last_hidden_state=torch.ones(2, 16),
    )
    assert losses._contrastive(found, torch.tensor([0, 1])).tolist() == [0.0, 0.0]
    assert (losses._contrastive(found, torch.tensor([2, 3])) > 0).tolist() == [True, True]


def test_a_batch_of_one_question_has_no_negatives_in_it(tmp_path):
    args = RagTrainingArguments(
        str(tmp_path / "run"),
        eval_strategy="no",
        per_device_train_batch_size=1,
        retriever_loss="contrastive",
        contrastive_negatives="in_batch",
    )
    with pytest.raises(ValueError, match=r"in_batch needs questions beside .* found a batch of 1"):
        RagTrainer(sharp_rag(tmp_path), args, tiny_rag.questions(4))


@pytest.mark.parametrize("losses", ["lsr", "contrastive:0.1,emdr2"])
def test_one_passage_a_question_cannot_be_compared(tmp_path, losses):
    args = RagTrainingArguments(
        str(tmp_path / "run"), retriever_loss=losses, n_docs=1, eval_strategy="no"
    )
    with pytest.raises(ValueError, match=r"(lsr|emdr2) compares the passages .* raise --n_docs"):
        RagTrainer(sharp_rag(tmp_path), args, tiny_rag.questions(4))


def test_an_evaluation_keeps_nothing_and_is_the_likelihood(tmp_path):
    rag = sharp_rag(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = train_tiny(
            tmp_path,
            rag=rag,
            max_steps=1,
            retriever_loss="lsr",
            eval_questions=tiny_rag.questions(12),
            eval_strategy="steps",
            eval_steps=1,
            per_device_eval_batch_size=2,
            predict_with_generate=False,
        )
    assert logged(trainer, "eval_loss")[0] > 1
    assert len(trainer.target_losses.seen) <= 1
