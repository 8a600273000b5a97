"""Passages found in the background: the same run, bit for bit, and errors that are heard."""

import threading

import pytest
import tiny_rag
import tiny_words
import torch
from tiny_training import logged, same, train_tiny, weights

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.training.options import PARTS
from rag_finetune.training.rag_retrieval import RagRetrieval

OPTIONS = {"trainable": ["generator"], "target": "random", "max_steps": 6}


@pytest.fixture
def threads(monkeypatch) -> list[str]:
    """Names of the threads that searched."""
    names, plain = [], RagIndexRetriever.retrieve_passages

    def retrieve_passages(self, *args):
        names.append(threading.current_thread().name)
        return plain(self, *args)

    monkeypatch.setattr(RagIndexRetriever, "retrieve_passages", retrieve_passages)
    return names


def is_running() -> bool:
    return any(thread.name.startswith("retrieval") for thread in threading.enumerate())


def without_background(monkeypatch) -> None:
    plain = super(RagRetrieval, RagRetrieval).get_train_dataloader
    monkeypatch.setattr(RagRetrieval, "get_train_dataloader", lambda self: plain(self))


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}], ids=str
)
@pytest.mark.parametrize("model_type", ["rag_sequence", "rag_token"])
def test_background_retrieval_changes_no_bit(tmp_path, monkeypatch, threads, model_type, options):
    runs = []
    for name in ("background", "within"):
        if name == "within":
            without_background(monkeypatch)
        rag = tiny_rag.tiny_rag(tmp_path / name, model_type=model_type, dropout=0.1)
        runs.append(train_tiny(tmp_path / name, rag=rag, **OPTIONS, **options))
        found = {thread.startswith("retrieval") for thread in threads}
        assert found == {name == "background"}
        threads.clear()
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    assert all(same(*(weights(trainer.rag.model) for trainer in runs)).values())
    assert not is_running()


def test_the_next_batch_is_searched_for_while_one_is_trained_on(tmp_path, monkeypatch):
    """Each search but the first waits until the step before it has begun."""
    begun, plain = threading.Semaphore(1), RagIndexRetriever.retrieve_passages

    def retrieve_passages(self, *args):
        assert begun.acquire(timeout=20)
        return plain(self, *args)

    step = RagRetrieval._forward

    def forward(self, *args):
        begun.release()
        return step(self, *args)

    monkeypatch.setattr(RagIndexRetriever, "retrieve_passages", retrieve_passages)
    monkeypatch.setattr(RagRetrieval, "_forward", forward)
    trainer = train_tiny(tmp_path, dropout=0.1, **OPTIONS)
    assert len(logged(trainer, "loss")) == 6


def test_a_resumed_run_goes_on_with_the_same_passages(tmp_path, threads):
    options = {**OPTIONS, "dropout": 0.1, "save_strategy": "steps", "save_steps": 3}
    whole = train_tiny(tmp_path / "whole", **options)
    checkpoint = str(tmp_path / "whole/run/checkpoint-3")
    resumed = train_tiny(tmp_path / "again", resume=checkpoint, **options)
    assert all(same(weights(whole.rag.model), weights(resumed.rag.model)).values())
    assert all(name.startswith("retrieval") for name in threads)


def test_evaluations_in_between_change_nothing(tmp_path, monkeypatch):
    options = {
        **OPTIONS,
        "dropout": 0.1,
        "eval_questions": tiny_rag.questions(5),
        "eval_strategy": "steps",
    }
    runs = [train_tiny(tmp_path / "a", eval_steps=2, **options)]
    without_background(monkeypatch)
    runs.append(train_tiny(tmp_path / "b", eval_steps=2, **options))
    for key in ("loss", "eval_loss", "eval_exact_match"):
        assert logged(runs[0], key) == logged(runs[1], key)


def test_an_error_in_the_background_stops_the_run_and_ends_the_thread(tmp_path, monkeypatch):
    def fail(self, *args):
        raise OSError("the index is gone")

    monkeypatch.setattr(RagIndexRetriever, "retrieve_passages", fail)
    with pytest.raises(OSError, match="the index is gone"):
        train_tiny(tmp_path, dropout=0.1, **OPTIONS)
    assert not is_running()


def test_a_question_encoder_that_learns_is_never_ahead_of_itself(tmp_path, threads):
    train_tiny(tmp_path, max_steps=2)
    assert set(threads) == {threading.main_thread().name}


@pytest.mark.parametrize(
    "options", [{"dataloader_num_workers": 1}, {"accelerator_config": {"dispatch_batches": True}}]
)
def test_batches_that_pass_between_processes_are_searched_for_within(tmp_path, threads, options):
    train_tiny(tmp_path, **OPTIONS | {"max_steps": 2}, **options)
    assert set(threads) == {threading.main_thread().name}


def test_a_vector_that_is_not_finite_is_told(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    with torch.no_grad():
        for parameter in rag.model.question_encoder.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match="gave a vector that is not finite"):
        train_tiny(tmp_path, rag=rag, trainable=["generator"])


@pytest.mark.parametrize(
    ("options", "count", "of_two"),
    [
        ({"max_steps": 2, "gradient_accumulation_steps": 3}, 2 * 3 * 4 * 5, 2 * 3 * 4 * 5),
        ({"max_steps": -1, "num_train_epochs": 2}, 2 * 16 * 5, 16 * 5),
        ({"max_steps": -1, "num_train_epochs": 0.5}, 8 * 5, 4 * 5),
    ],
)
def test_the_retriever_is_told_how_many_contexts_this_process_reads(
    tmp_path, monkeypatch, options, count, of_two
):
    told = []
    monkeypatch.setattr(RagIndexRetriever, "expect_contexts", lambda self, n: told.append(n))
    trainer = train_tiny(tmp_path, **options)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    trainer.get_train_dataloader()
    assert told == [count, of_two]


@pytest.mark.parametrize("trainable", [list(PARTS), ["generator"]])  # the latter in a thread
def test_training_from_the_token_cache_changes_no_bit(tmp_path, monkeypatch, trainable):
    runs = []
    for name in ("cache", "tokenised"):
        if name == "tokenised":
            monkeypatch.setattr(RagIndexRetriever, "expect_contexts", lambda self, count: None)
        rag = tiny_rag.tiny_rag(tmp_path / name, dropout=0.1)
        runs.append(train_tiny(tmp_path / name, rag=rag, **{**OPTIONS, "trainable": trainable}))
        assert (rag.retriever.index.folder / "tokens").is_dir() == (name == "cache")
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    assert all(same(*(weights(trainer.rag.model) for trainer in runs)).values())


# ---- Search by words ----


def words_rag(folder, **options):
    make = tiny_words.word_index if options.pop("bare", False) else tiny_words.full_index
    return load_rag(tiny_words.assembled(folder, make(folder / "index")), **options)


@pytest.mark.parametrize("way", ["bm25", "hybrid"])
def test_background_retrieval_by_words_changes_no_bit(tmp_path, monkeypatch, threads, way):
    runs = []
    for name in ("background", "within"):
        if name == "within":
            without_background(monkeypatch)
        rag = words_rag(tmp_path / name, retrieval=way, lexical_prior=0.3)
        runs.append(train_tiny(tmp_path / name, rag=rag, **OPTIONS))
        assert {t.startswith("retrieval") for t in threads} == {name == "background"}
        threads.clear()
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    assert all(same(*(weights(trainer.rag.model) for trainer in runs)).values())


@pytest.mark.parametrize("options", [{"retrieval": "bm25"}, {"lexical_prior": 0.3}], ids=str)
def test_training_and_validation_take_the_same_loss(tmp_path, options):
    rag = words_rag(tmp_path, **options)
    held = {"eval_questions": tiny_rag.questions(4), "eval_strategy": "steps", "eval_steps": 1}
    fixed = {"max_steps": 1, "train_sampling_strategy": "sequential", "eval_on_start": True}
    trainer = train_tiny(tmp_path, rag=rag, count=4, **held, **fixed)
    assert logged(trainer, "eval_loss")[0] == pytest.approx(logged(trainer, "loss")[0], rel=1e-5)


def test_gradients_reach_the_question_encoder_through_passages_found_by_words(tmp_path):
    rag = words_rag(tmp_path, retrieval="bm25", lexical_prior=0.1)
    before = weights(rag.model.question_encoder)
    train_tiny(tmp_path, rag=rag)
    after = same(before, weights(rag.model.question_encoder))
    assert not all(after.values())


@pytest.mark.parametrize("trainable", [list(PARTS), ["generator"]])  # the latter in a thread
def test_questions_are_searched_by_their_texts_and_not_by_what_tokens_keep(
    tmp_path, monkeypatch, trainable
):
    asked, plain = [], RagIndexRetriever.retrieve_passages

    def retrieve_passages(self, vectors, n_docs, questions=None):
        asked.extend(questions)
        return plain(self, vectors, n_docs, questions)

    odd = tiny_rag.questions(4).map(lambda row: {"question": row["question"] + " ZEBRA 7"})
    rag = words_rag(tmp_path, retrieval="bm25")
    monkeypatch.setattr(RagIndexRetriever, "retrieve_passages", retrieve_passages)
    monkeypatch.setattr(tiny_rag, "questions", lambda count: odd)
    train_tiny(tmp_path, rag=rag, max_steps=1, trainable=trainable)
    assert len(asked) >= 4 and all(text.endswith(" ZEBRA 7") for text in asked)


def test_without_vectors_the_generator_learns_alone_and_the_run_says_so(tmp_path):
    rag = words_rag(tmp_path, bare=True)
    before = weights(rag.model.question_encoder)
    with pytest.warns(UserWarning, match=r"p\(z\|x\) is by words, and the question encoder stays"):
        trainer = train_tiny(tmp_path, rag=rag)
    assert trainer.args.trainable == ["generator"]
    assert all(same(before, weights(rag.model.question_encoder)).values())
    assert len(logged(trainer, "loss")) == 2


@pytest.mark.parametrize(
    "options", [{"trainable": ["question_encoder"]}, {"learning_rate_question_encoder": 1e-3}]
)
def test_without_vectors_there_is_nothing_for_the_question_encoder_to_learn(tmp_path, options):
    rag = words_rag(tmp_path, bare=True)
    with pytest.raises(ValueError, match=r"the question encoder has no part in p\(z\|x\)"):
        train_tiny(tmp_path, rag=rag, **options)


def test_a_checkpoint_remembers_the_way_it_was_trained_with(tmp_path):
    rag = words_rag(tmp_path, retrieval="hybrid", lexical_prior=0.3)
    trainer = train_tiny(tmp_path, rag=rag)
    trainer.save_model()
    loaded = load_rag(tmp_path / "run").retriever.searcher.retrieval
    assert loaded == rag.retriever.searcher.retrieval
    assert (loaded.way, loaded.prior) == ("hybrid", 0.3)
    assert "| retrieval | hybrid (" in (tmp_path / "run/README.md").read_text()
