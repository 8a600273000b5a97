"""Training the context encoder: it moves, the rest stays, and its index follows it."""

import itertools
import json
import shutil

import numpy as np
import pytest
import tiny_rag
import torch
from test_rag_trainer import KillAtStep
from tiny_training import (
    DESCENT,
    NoDropout,
    logged,
    require_descent,
    same,
    train_tiny,
    weights,
)
from transformers import TrainerCallback

from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.index.build import build_index
from rag_finetune.index.lexical_parts import add_lexical
from rag_finetune.index.store import open_index
from rag_finetune.index.update import load_own_encoder
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.context_training import ContextTraining
from rag_finetune.training.fresh_vectors import fresh_vectors
from rag_finetune.training.options import PARTS, TRAINABLE

ALONE = {"trainable": ["context_encoder"], "index_refresh": "blocking", "index_refresh_steps": 2}
SAVED = {"save_strategy": "steps", "save_steps": 1}
CHOSEN = {  # the best of all steps, by what validation says without answering
    "eval_questions": tiny_rag.questions(4),
    "eval_strategy": "steps",
    "eval_steps": 1,
    "predict_with_generate": False,
    "load_best_model_at_end": True,
}
LATE = {"index_refresh_steps": 500}  # than the last step
# The other three of the seven subsets are those of test_rag_trainer.py.
SUBSETS = [
    list(parts)
    for size in (1, 2, 3)
    for parts in itertools.combinations(TRAINABLE, size)
    if "context_encoder" in parts
]


def sharp_rag(folder):
    """A model whose generator does not read all passages alike, and has no dropout."""
    rag = tiny_rag.tiny_rag(folder, dropout=0.0)
    tiny_rag.spread(rag.model.rag.generator, 0.7)
    return rag


def vectors(index) -> np.ndarray:
    return index.vectors_at(np.arange(20)).copy()


@pytest.mark.parametrize("trainable", SUBSETS, ids="+".join)
def test_one_step_moves_what_is_trainable_and_nothing_else(tmp_path, trainable):
    rag = tiny_rag.tiny_rag(tmp_path)
    before = {name: weights(getattr(rag.model.rag, name)) for name in PARTS}
    before["context_encoder"] = weights(load_own_encoder(tmp_path / "index").model)
    first = vectors(rag.retriever.index)
    trainer = train_tiny(tmp_path, rag=rag, max_steps=1, trainable=trainable, weight_decay=0.1)
    assert vectors(open_index(tmp_path / "index")).tolist() == first.tolist()
    for name, module in trainer.parts.items():
        equal = same(before[name], weights(module))
        if name not in trainable:
            assert all(equal.values())
            continue
        moved = {n for n, is_equal in equal.items() if not is_equal}
        unmoved = {n for n in equal if n.endswith("weight")} - moved
        assert all("final_layer_norm" in n for n in unmoved)  # BART's last ones are not read
        assert logged(trainer, f"grad_norm_{name}")[0] > 0


def test_the_gradient_is_that_of_the_passages_encoded_one_by_one(tmp_path):
    """One step of plain gradient descent, against a loop over the questions and passages."""
    rag = sharp_rag(tmp_path)
    encoder = load_own_encoder(tmp_path / "index")
    before = weights(encoder.model)
    items = tiny_rag.questions(4)
    total = torch.tensor(0.0)
    collected = []
    from rag_finetune.evaluation.evaluate import collator_for
    from rag_finetune.losses.likelihood import rag_negative_log_likelihood
    from rag_finetune.training.rag_evaluator import as_items

    batch_items = as_items(items, "first", 0)
    batch = collator_for(rag, 128, 8)([batch_items[row] for row in range(4)])
    for row in range(4):
        ids, mask = batch["input_ids"][row : row + 1], batch["attention_mask"][row : row + 1]
        labels = batch["labels"][row : row + 1]
        labels = labels.masked_fill(labels == -100, rag.model.config.generator.pad_token_id)
        with torch.no_grad():
            hidden = rag.model.question_encoder(ids, attention_mask=mask)[0]
            found = rag.retriever(ids, hidden.numpy(), n_docs=5, return_tensors="pt")
        scores = []
        for passage in rag.retriever.index.passages_at(found["doc_ids"].numpy()):
            tokens = encoder.tokenizer(passage["title"], passage["text"], return_tensors="pt")
            scores.append(hidden[0] @ encoder.model(**tokens)[0][0])
        doc_scores = torch.stack(scores).unsqueeze(0)
        logits = rag.model(
            context_input_ids=found["context_input_ids"],
            context_attention_mask=found["context_attention_mask"],
            doc_scores=doc_scores.detach(),
            decoder_input_ids=labels,
            n_docs=5,
        ).logits
        loss = rag_negative_log_likelihood(
            logits, labels, doc_scores, pad_token_id=1, per_token=False
        )
        total, collected = total + loss.sum() / 4, [*collected, doc_scores]
    total.backward()
    trainer = train_tiny(
        tmp_path,
        rag=rag,
        count=4,
        max_steps=1,
        trainable=["context_encoder"],
        index_refresh="none",
        callbacks=[NoDropout()],
        **DESCENT,
    )
    assert logged(trainer, "loss")[0] == pytest.approx(total.item(), rel=1e-5)
    after = trainer.context_encoder.model.state_dict()
    require_descent(encoder.model, before, after)


@pytest.mark.slow
def test_layouts_of_one_global_batch_give_the_same_gradient_norm(tmp_path):
    figures = []
    for number, (batch_size, accumulation) in enumerate([(8, 1), (2, 4)]):
        trainer = train_tiny(
            tmp_path / str(number),
            rag=sharp_rag(tmp_path / str(number)),
            max_steps=2,
            count=8,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            trainable=list(TRAINABLE),
            index_refresh="none",
            callbacks=[NoDropout()],
        )
        figures.append(logged(trainer, "grad_norm_context_encoder"))
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)


def test_the_finished_folder_holds_a_fresh_build_by_the_final_encoder(tmp_path):
    trainer = train_tiny(tmp_path, max_steps=3, **ALONE, **SAVED)
    trainer.finish({})
    run, encoder = tmp_path / "run", trainer.context_encoder
    index = open_index(run / "index", encoder.fingerprint())
    fresh = build_index(tiny_rag.passages(), encoder, tmp_path / "fresh")
    assert np.array_equal(vectors(index), vectors(fresh))
    assert (run / "index/dense.faiss").read_bytes() == (fresh.folder / "dense.faiss").read_bytes()
    assert trainer.retriever.index.folder == index.folder
    assert not (run / "index_versions").exists()
    assert not (run / "context_encoder").exists()  # the index has it
    rag = load_rag(run)
    assert rag.retriever.index.manifest.fingerprint == encoder.fingerprint()
    assert rag.model.rag.ctx_encoder is None
    assert logged(trainer, "index_staleness") == [1, 0, 0, 1, 0]
    assert len(logged(trainer, "index_refresh_seconds")) == 2
    assert "| trainable | context_encoder |" in (run / "README.md").read_text()


def test_a_checkpoint_midway_holds_its_encoder_and_the_index_that_was_searched(tmp_path):
    train_tiny(tmp_path, max_steps=3, **ALONE, **SAVED, save_total_limit=None)
    first, second, third = (tmp_path / f"run/checkpoint-{step}" for step in (1, 2, 3))
    steps = [json.loads((path / "index_version.json").read_text()) for path in (first, third)]
    assert [entry["index_step"] for entry in steps] == [0, 2]
    started = open_index(tmp_path / "index").manifest.fingerprint
    assert open_index(first / "index").manifest.fingerprint == started
    assert (first / "context_encoder/model.safetensors").is_file()
    assert not (second / "context_encoder").exists()
    assert (third / "context_encoder/model.safetensors").is_file()
    files = [path / "index/dense.faiss" for path in (second, third)]
    assert files[0].samefile(files[1])
    assert load_rag(third).retriever is not None


@pytest.mark.parametrize("save_index", [None, pytest.param("link", marks=pytest.mark.slow)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, save_index):
    options = {**ALONE, "trainable": list(TRAINABLE), "max_steps": 5, "save_index": save_index}
    options |= {"save_strategy": "steps", "save_steps": 3, "dropout": 0.1}
    whole = train_tiny(tmp_path / "a", **options)
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("parts"))
    checkpoint = tmp_path / "b/run/checkpoint-3"
    resumed = train_tiny(tmp_path / "b", **options, resume=str(checkpoint))
    assert resumed.state.global_step == 5
    for name, module in whole.parts.items():
        assert all(same(weights(module), weights(resumed.parts[name])).values()), name
    assert np.array_equal(vectors(whole.retriever.index), vectors(resumed.retriever.index))
    assert logged(whole, "index_staleness")[-3:] == logged(resumed, "index_staleness")[-3:]


def test_a_resumed_run_without_the_index_that_it_had_is_an_error(tmp_path):
    options = {**ALONE, **SAVED, "save_index": "link", "save_total_limit": None}
    trainer = train_tiny(tmp_path, max_steps=3, **options)
    shutil.rmtree(trainer.refresh.versions.folder)
    with pytest.raises(FileNotFoundError, match=r"its index was at .*index_versions/step-2-"):
        train_tiny(tmp_path, max_steps=5, **options, resume=str(tmp_path / "run/checkpoint-3"))


def test_a_finished_run_that_is_resumed_has_the_index_of_its_encoder(tmp_path):
    whole = train_tiny(tmp_path, max_steps=3, **ALONE, **SAVED).context_encoder.fingerprint()
    again = train_tiny(tmp_path, max_steps=3, **ALONE, resume=str(tmp_path / "run/checkpoint-3"))
    assert again.context_encoder.fingerprint() == whole
    assert again.retriever.index.manifest.fingerprint == whole


def test_sigterm_leaves_the_index_that_was_searched(tmp_path):
    trainer = train_tiny(tmp_path, max_steps=5, **ALONE, callbacks=[KillAtStep(2)])
    assert trainer.sigterm.stopped
    record = json.loads((tmp_path / "run/checkpoint-3/index_version.json").read_text())
    assert record["index_step"] == 2
    assert trainer.refresh.index_step == 2


@pytest.mark.slow
def test_the_best_checkpoint_brings_its_context_encoder_along(tmp_path):
    trainer = train_tiny(
        tmp_path,
        max_steps=4,
        **ALONE,
        **SAVED,
        **CHOSEN,
        save_total_limit=None,
        learning_rate=0.1,
    )
    best = tmp_path / f"run/checkpoint-{trainer.state.best_global_step}"
    folder = best / "context_encoder"
    folder = folder if folder.is_dir() else best / "index/context_encoder"
    from rag_finetune.encoders.load import load_context_encoder

    expected = load_context_encoder(str(folder), 64)
    assert trainer.context_encoder.fingerprint() == expected.fingerprint()
    assert trainer.retriever.index.manifest.fingerprint == expected.fingerprint()


def test_of_evaluations_that_cannot_see_the_context_encoder_the_last_is_the_best(tmp_path):
    options = {**ALONE, **LATE, **SAVED, **CHOSEN, "metric_for_best_model": "loss"}
    trainer = train_tiny(tmp_path, max_steps=3, **options)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3 and len(set(losses)) == 1
    assert trainer.state.best_global_step == 3


def test_saving_again_when_all_is_finished_leaves_model_and_index_of_one_encoder(tmp_path):
    """As an upload does. A checkpoint before the first refresh has placed the old index."""
    trainer = train_tiny(tmp_path, max_steps=2, **{**ALONE, **LATE, **SAVED})
    trainer.finish({})
    trainer.save_model()
    load_rag(tmp_path / "run")  # holds the index to the encoder that made it
    assert trainer.retriever.index.manifest.fingerprint == trainer.context_encoder.fingerprint()


def test_the_overlap_is_measured_as_it_trains_and_calls_for_a_refresh(tmp_path):
    options = {"index_refresh": "blocking", "index_refresh_overlap": 0.999, "max_steps": 12}
    trainer = train_tiny(
        tmp_path,
        rag=sharp_rag(tmp_path),
        trainable=["context_encoder"],
        learning_rate=0.1,
        **options,
    )
    overlaps = logged(trainer, "index_overlap")  # of the steps 0 and 10
    assert overlaps[0] == 1.0 and overlaps[1] < 0.999 and len(overlaps) == 2
    assert len(logged(trainer, "index_refresh_seconds")) == 2  # for the overlap, and at the end


def test_without_refresh_the_index_stays_and_the_encoder_is_left_beside_it(tmp_path):
    trainer = train_tiny(tmp_path, trainable=["context_encoder"], index_refresh="none")
    trainer.finish({})
    run = tmp_path / "run"
    assert np.array_equal(
        vectors(open_index(run / "index")), vectors(open_index(tmp_path / "index"))
    )
    assert (run / "context_encoder/model.safetensors").is_file()
    assert load_rag(run).retriever is not None


def test_the_table_says_what_trains_at_which_rate(tmp_path):
    options = {**ALONE, "learning_rate_context_encoder": 1e-5, "max_steps": 1}
    lines = train_tiny(tmp_path, **options).describe().splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TRAINABLE)
    assert [line.split()[-1] for line in lines[1:]] == ["frozen", "1e-05", "frozen"]
    assert lines[2].split()[1] == "4,304"
    plain = train_tiny(tmp_path / "plain", max_steps=1).describe()
    assert "context_encoder   in index    frozen" in plain


def test_a_rate_of_its_own_is_the_context_encoders_alone(tmp_path):
    trainer = train_tiny(
        tmp_path,
        **{**ALONE, "trainable": list(TRAINABLE), "max_steps": 1},
        learning_rate_context_encoder=1e-5,
        lr_scheduler_type="constant",
    )
    rates = {id(p): g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}
    for name, module in trainer.parts.items():
        expected = 1e-5 if name == "context_encoder" else 1e-3
        assert {rates[id(parameter)] for parameter in module.parameters()} == {expected}, name
    assert logged(trainer, "learning_rate_context_encoder") == [1e-5]


@pytest.mark.slow
def test_activations_are_recomputed_in_the_context_encoder_too(tmp_path):
    plain, recomputed = (
        train_tiny(tmp_path / name, **ALONE, activation_checkpointing=name == "b")
        for name in ("a", "b")
    )
    assert logged(recomputed, "loss") == pytest.approx(logged(plain, "loss"), rel=1e-6)
    norms = [logged(trainer, "grad_norm") for trainer in (plain, recomputed)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_an_index_of_words_has_no_context_encoder(tmp_path):
    from rag_finetune.index.lexical_parts import build_word_index

    tiny_rag.tiny_rag(tmp_path)
    words = build_word_index(tiny_rag.passages(), tmp_path / "words", {"tfidf": {}})
    rag = load_rag(tmp_path / "assembled", index=words)
    with pytest.raises(ValueError, match="has no context encoder that could learn"):
        train_tiny(tmp_path, rag=rag, trainable=["context_encoder"])


def test_one_passage_a_question_teaches_the_context_encoder_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"No gradient reaches context_encoder.*n_docs 1"):
        train_tiny(tmp_path, **ALONE, n_docs=1)


class OtherEncoder(TrainerCallback):
    """Gives the context encoder other weights than the index is from."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        other = tiny_rag.context_encoder(seed=7).model.state_dict()
        model.rag.ctx_encoder.load_state_dict(other)


@pytest.mark.parametrize("fresh_top", [None, 20])
def test_those_are_read_that_the_present_encoder_puts_first(tmp_path, monkeypatch, fresh_top):
    seen, encode_again = [], ContextTraining._encode_again

    def noted(trainer, model, args, outputs):
        index, encoder = trainer.retriever.index, trainer.context_encoder
        asked = outputs.question_encoder_last_hidden_state.detach().numpy()
        with torch.no_grad(), evaluation_mode(encoder.model):
            fresh = fresh_vectors(index, encoder, np.arange(20)).numpy()
        best = np.argsort(-(asked @ fresh.T), axis=1, kind="stable")[:, :5]
        found = index.search(asked, 5)[1]
        seen.append((outputs.retrieved_doc_ids.numpy(), best, found))
        encode_again(trainer, model, args, outputs)

    monkeypatch.setattr(ContextTraining, "_encode_again", noted)
    options = {"trainable": ["context_encoder"], "index_refresh": "none", "fresh_top": fresh_top}
    trainer = train_tiny(tmp_path, rag=sharp_rag(tmp_path), callbacks=[OtherEncoder()], **options)
    assert len(seen) == 2
    for read, best, found in seen:
        assert (best != found).any()
        assert read.tolist() == (found if fresh_top is None else best).tolist()
    searcher = trainer.retriever.searcher
    assert searcher.index is trainer.retriever.index
    assert not hasattr(searcher, "_searcher")  # evaluation goes by the index


def test_another_order_than_that_of_the_vectors_is_not_overruled(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    add_lexical(rag.retriever.index, {"bm25": {"language": "english"}})
    rag = load_rag(tmp_path / "assembled", retrieval="hybrid")
    with pytest.raises(ValueError, match="retrieval is hybrid, whose order is another"):
        train_tiny(tmp_path, rag=rag, trainable=["context_encoder"], fresh_top=20)


def test_passages_that_are_looked_at_are_more_than_those_that_are_read(tmp_path):
    with pytest.raises(ValueError, match="fresh_top must be more than n_docs, which is 5, found 5"):
        train_tiny(tmp_path, trainable=["context_encoder"], fresh_top=5)
