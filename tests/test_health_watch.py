"""The watch over retrieval while a run trains."""

import warnings

import numpy as np
import pytest
import tiny_rag
import torch
from tiny_training import logged, train_tiny

from rag_finetune.training.health_watch import HealthWatch


def batch(first, count=20):
    """Questions that each retrieve two passages of their own, from a first one on."""
    ids = np.arange(first, first + 2 * count).reshape(count, 2)
    return ids, torch.tensor([[1.0, 0.0]]).expand(count, 2)


def told(watch, warn=True):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        health = watch.take(warn)
    return health, [str(warning.message) for warning in caught]


def test_a_healthy_run_is_logged_and_not_warned_about():
    watch = HealthWatch(1000)
    watch.note(*batch(0))
    health, messages = told(watch)
    assert (health["distinct_passages"], health["top1_frequency"]) == (1.0, 1 / 20)
    assert messages == []


def test_few_questions_are_kept_until_they_are_enough():
    watch = HealthWatch(1000)
    watch.note(*batch(0, 12))
    assert told(watch) == ({}, [])
    watch.note(*batch(0, 12))
    assert told(watch)[0]["distinct_passages"] == 24 / 48
    assert told(watch) == ({}, [])


def test_variety_that_falls_is_told_once():
    watch = HealthWatch(1000)
    watch.note(*batch(0))
    told(watch)
    for expected in (1, 0):
        ids, scores = batch(0)
        watch.note(ids % 16, scores)
        messages = told(watch)[1]
        assert len(messages) == expected
    watch.note(*batch(0, 60))
    assert told(watch)[1] == []  # another number of questions is not compared


def test_other_processes_log_and_are_silent():
    watch = HealthWatch(1000)
    ids, scores = batch(0)
    watch.note(np.zeros_like(ids), scores)
    health, messages = told(watch, warn=False)
    assert health["top1_frequency"] == 1.0 and messages == []


@pytest.mark.parametrize(
    ("scale", "message"),
    [(0.0, "In training, p\\(z\\|x\\) is nearly flat"), (1.0, "same first passage")],
)
def test_a_run_without_validation_says_what_is_wrong(tmp_path, scale, message):
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.0)
    with torch.no_grad():  # one vector for all questions, of length 0 or large
        last = list(rag.model.question_encoder.parameters())[-1]
        for parameter in rag.model.question_encoder.parameters():
            parameter.mul_(0.0)
        last.fill_(scale)
    with pytest.warns(UserWarning, match=message):
        trainer = train_tiny(
            tmp_path, rag=rag, trainable=["generator", "question_encoder"], max_steps=5
        )
    assert 0 < len(logged(trainer, "distinct_passages")) < 5
