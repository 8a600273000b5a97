"""Batches of one topic."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_retriever
import torch

from rag_finetune.training.topics import TopicSampler, find_topics

CPU = torch.device("cpu")


class Angles:
    """An encoder whose vectors lie about as many directions as there are `centres`."""

    def __init__(self, centres):
        self.centres = centres

    def encode(self, texts, titles, progress=""):
        draw = np.random.default_rng(0)
        points = np.eye(4, dtype=np.float32)[[self.centres[text] for text in texts]]
        return points + draw.normal(0, 0.01, points.shape).astype(np.float32)


@pytest.fixture(scope="module")
def data():
    return tiny_retriever.examples(20)


def test_topics_are_the_clusters_of_the_gold_passages(data):
    centre_of = {text: row % 3 for row, text in enumerate(data.passages.texts)}
    found = find_topics(data, Angles(centre_of), 3, seed=1, device=CPU)
    expected = {
        frozenset(
            row
            for row, golds in enumerate(data.positives)
            if centre_of[data.passages.texts[golds[0]]] == centre
        )
        for centre in range(3)
    }
    assert {frozenset(topic) for topic in found} == expected
    assert sorted(row for topic in found for row in topic) == list(range(20))


def test_more_topics_than_gold_passages_are_refused(data):
    _, reads = tiny_retriever.encoders()
    with pytest.raises(ValueError, match="topics is 21, and the questions have 20 gold passages"):
        find_topics(data, reads, 21, seed=1, device=CPU)


def test_vectors_that_are_not_finite_are_refused(data):
    class Broken:
        def encode(self, texts, titles, progress=""):
            return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(ValueError, match="not finite"):
        find_topics(data, Broken(), 2, seed=1, device=CPU)


def many(golds):
    """As much of examples as a sampler looks at: of each question the row of its gold passage."""
    return SimpleNamespace(positives=[[gold] for gold in golds], epoch=0)


def batches_in(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def sampler(data, size=3, seed=1):
    return TopicSampler(data, [list(range(7)), list(range(7, 17)), [17, 18, 19]], size, seed)


def test_an_epoch_has_every_question_once_in_batches_of_one_topic(data):
    made = sampler(data)
    rows = list(made)
    assert len(made) == 20 and sorted(rows) == list(range(20))
    alike = [
        batch
        for batch in batches_in(rows, 3)
        if len(batch) == 3 and any(set(batch) <= set(topic) for topic in made.topics)
    ]
    assert len(alike) >= 6  # 2 of the first topic, 3 of the second, 1 of the third
    assert made.alike() == 18 and "18 of 20 questions" in made.describe()
    assert "3, of 3 to 10 questions" in made.describe()


def test_what_is_left_of_all_topics_makes_mixed_batches_anywhere():
    mixed, first = set(), set()
    for seed in range(10):
        made = TopicSampler(many(range(24)), batches_in(list(range(24)), 3), 2, seed)
        batches = batches_in(list(made), 2)
        assert sorted(row for batch in batches for row in batch) == list(range(24))
        places = [place for place, batch in enumerate(batches) if batch[0] // 3 != batch[1] // 3]
        first.add(min(places))
        mixed |= {tuple(row // 3 for row in batches[place]) for place in places}
        assert made.alike() == 16
    assert len(first) > 2  # not all at the end
    assert {abs(one - other) for one, other in mixed} - {1}  # in other than their order


def test_the_batch_that_is_not_whole_is_the_last():
    made = TopicSampler(many(range(11)), [list(range(6)), list(range(6, 11))], 4, 1)
    batches = batches_in(list(made), 4)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert made.alike() == 8


def test_topics_come_in_turn_and_their_questions_in_any_order(data):
    golds = many(range(400))
    made = TopicSampler(golds, batches_in(list(range(400)), 100), 10, 1)
    epochs = []
    for epoch in range(2):
        golds.epoch = epoch
        epochs.append(batches_in(list(made), 10))
    topics = [[batch[0] // 100 for batch in batches] for batches in epochs]
    assert topics[0] != topics[1]
    assert all(found != sorted(found) and sorted(found) != found[::-1] for found in topics)
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}
    assert list(sampler(data)) == list(sampler(data)) != list(sampler(data, seed=2))


def test_questions_of_one_passage_are_far_apart():
    golds = [row // 5 for row in range(200)]  # forty passages with five questions each
    made = TopicSampler(many(golds), [list(range(200))], 32, 1)
    rows = list(made)
    [*whole, rest] = batches_in(rows, 32)
    assert len({tuple(row % 5 for row in rows if golds[row] == gold) for gold in range(40)}) > 9
    assert len(rest) == 8
    for batch in whole:
        assert len({golds[row] for row in batch}) > 28  # drawn at random they are 23


def test_a_batch_that_has_hardly_another_passage_is_mixed():
    golds = [row // 8 for row in range(64)]  # topics of one passage and of two
    topics = [list(range(8)), list(range(8, 16)), *batches_in(list(range(16, 64)), 16)]
    made = TopicSampler(many(golds), topics, 8, 1)
    assert made.alike() == 0  # of two passages a batch of eight has less than four
    for batch in batches_in(list(made), 8):
        assert len({golds[row] for row in batch}) > 2
    assert TopicSampler(many(golds), topics, 4, 1).alike() == 48


def batches_of(trainer):
    """The questions of each step, as training reads them."""
    seen = []
    inner = trainer.compute_loss

    def watched(model, inputs, *args, **kwargs):
        seen.append(inputs["rows"].tolist())
        return inner(model, inputs, *args, **kwargs)

    trainer.compute_loss = watched
    trainer.train()
    return seen


def test_training_reads_batches_of_one_topic(tmp_path):
    trainer = tiny_retriever.make_trainer(
        tmp_path, topics=2, per_device_train_batch_size=4, max_steps=-1, num_train_epochs=2
    )
    topic_of = {row: n for n, topic in enumerate(trainer.topics.topics) for row in topic}
    whole = sum(len(topic) // 4 for topic in trainer.topics.topics)
    seen = batches_of(trainer)
    assert len(seen) == 10
    for epoch in (seen[:5], seen[5:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(20))
        assert sum(len({topic_of[row] for row in batch}) == 1 for batch in epoch) >= whole >= 4
    assert seen[:5] != seen[5:]
    assert "Topics: 2, of" in trainer.describe()


def test_a_run_that_goes_on_within_an_epoch_reads_the_rest_of_it(tmp_path):
    options = {
        "topics": 2, "per_device_train_batch_size": 4, "max_steps": 9, "save_strategy": "steps",
        "save_steps": 1, "save_total_limit": None,
    }  # fmt: skip
    whole = batches_of(tiny_retriever.make_trainer(tmp_path / "whole", **options))
    resumed = tiny_retriever.make_trainer(tmp_path / "resumed", **options)
    inner = resumed.train
    resumed.train = lambda: inner(str(tmp_path / "whole/run/checkpoint-7"))
    assert batches_of(resumed) == whole[7:]


def test_without_topics_the_order_is_transformers(tmp_path):
    trainer = tiny_retriever.make_trainer(tmp_path)
    assert trainer.topics is None
    assert isinstance(trainer._get_train_sampler(), torch.utils.data.RandomSampler)


def test_draws_have_the_seed_of_the_data(tmp_path):
    assert tiny_retriever.make_trainer(tmp_path, topics=1).topics.seed == 42
    assert tiny_retriever.make_trainer(tmp_path, topics=1, data_seed=7).topics.seed == 7


def test_so_many_topics_that_they_change_little_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"topics 20: 0 of 20 questions .* would be --topics 2;"):
        tiny_retriever.make_trainer(tmp_path, topics=20, per_device_train_batch_size=2)


def test_a_topic_is_that_of_the_first_gold_passage_with_its_title():
    rows = [("a", "one"), ("b", "one"), ("a", "two"), ("b", "two")]
    golds = [[0], [1, 0], [2], [3], [1]]
    data = SimpleNamespace(
        positives=golds,
        passages=SimpleNamespace(titles=[t for t, _ in rows], texts=[t for _, t in rows]),
    )

    class ByTitle:
        def encode(self, texts, titles, progress=""):
            assert len(texts) == 4  # each gold passage once
            return np.eye(2, dtype=np.float32)[["ab".index(title) for title in titles]]

    found = find_topics(data, ByTitle(), 2, seed=1, device=CPU)
    assert sorted(map(sorted, found)) == [[0, 2], [1, 3, 4]]
