"""Training question encoder and context encoder to find the passage with the answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from networks import new_encoders, parameters_of, say
from sheets import Author, World
from torch import Tensor
from transformers import PreTrainedTokenizerFast, get_cosine_schedule_with_warmup
from writer import Passage


@dataclass(frozen=True)
class Lesson:
    """A part of the encoders' training.

    Attributes:
        steps: batches.
        subjects: things that a batch is about.
        low: words of the shortest passage.
        high: words of the longest passage.
        facts: of each thing, at most.
        similar: share of names that are like another one but for their end.
        rhyming: share of the other names that end in one of two ways.
        reverse: share of questions that ask for the name.
        parts: passages about one thing.
    """

    steps: int
    subjects: int
    low: int
    high: int
    facts: int
    similar: float
    rhyming: float
    reverse: float = 0.08
    parts: int = 1


LESSONS = (  # first which thing a passage is about, then which facts about it
    Lesson(1800, 64, 5, 20, 3, similar=0.2, rhyming=0.6),
    Lesson(600, 30, 40, 120, 14, similar=0.2, rhyming=0.6, parts=2),
    Lesson(1100, 14, 40, 110, 24, similar=0.2, rhyming=0.6, parts=4),
)


def retrieval_batches(
    author: Author, tokenizer: PreTrainedTokenizerFast, lesson: Lesson
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
    """Questions, passages, and which passage holds the answer to which question (bool matrix)."""
    while True:
        questions: list[str] = []
        found: list[tuple[World, Passage]] = []
        facts: list[tuple[World, tuple[str, str]]] = []
        worlds = author.pick([1, 1, 2])
        for _ in range(worlds):
            world = author.world(
                lesson.subjects // worlds,
                author.random.randint(lesson.facts // 2 + 1, lesson.facts),
                lesson.similar,
                lesson.rhyming,
            )
            passages = [
                passage
                for subject in world.subjects
                for passage in world.passages(subject, lesson.parts, lesson.low, lesson.high)
            ]
            for passage in passages:
                fact = author.pick(sorted(passage.facts))
                questions.append(world.question(fact, author.chance(lesson.reverse)).text)
                facts.append((world, fact))
            found += [(world, passage) for passage in passages]
        holds = torch.tensor(
            [
                [w is world and fact in passage.facts for w, passage in found]
                for world, fact in facts
            ]
        )
        asked = tokenizer(questions, padding=True, return_tensors="pt")
        pages = tokenizer(
            [passage.title for _, passage in found],
            [passage.text for _, passage in found],
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        yield dict(asked), dict(pages), holds


def train_encoders(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    lessons: Sequence[Lesson] = LESSONS,
    learning_rate: float = 2e-3,
) -> tuple[Any, Any]:
    """Train both encoders: the passages with the answer against all others of the batch."""
    torch.manual_seed(seed)
    question_encoder, context_encoder = new_encoders(len(tokenizer))
    models = (question_encoder, context_encoder)
    say(f"encoders: {parameters_of(*models):,} parameters")
    weights = [parameter for model in models for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
    total = sum(lesson.steps for lesson in lessons)
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, int(total * 1.03))
    author, losses, hits = Author(seed + 2), [], []
    author.wide = True
    for lesson in lessons:
        batches = retrieval_batches(author, tokenizer, lesson)
        for _ in range(lesson.steps):
            questions, passages, holds = next(batches)
            scores = question_encoder(**questions)[0] @ context_encoder(**passages)[0].T
            chances = scores.log_softmax(dim=1).masked_fill(~holds, -torch.inf)
            loss = -chances.logsumexp(dim=1).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            hits.append(holds.gather(1, scores.topk(5).indices).any(1).float().mean().item())
            if len(losses) % 100 == 0:
                say(
                    f"encoders: step {len(losses)}, {lesson.high} words, loss "
                    f"{fmean(losses[-100:]):.3f}, recall@5 {fmean(hits[-100:]):.3f}"
                )
    return question_encoder.eval(), context_encoder.eval()
