"""Batches of one topic: their questions' gold passages lie close together, and are told apart."""

import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed
from torch.utils.data import Sampler

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.dense import clusters_of
from rag_finetune.training.gathering import world_size
from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
from rag_finetune.training.retriever_data import RetrieverExamples

BATCHES = 6  # of a topic, where many topics make few of them


class TopicSampler(Sampler[int]):
    """All questions once an epoch, such that batches are of one topic as far as topics last.

    After the topic-aware sampling of Hofstätter et al. 2021, arXiv:2104.06967, where questions are
    clustered and drawn with replacement; here topics are of gold passages, and none is drawn twice.
    Each topic is shuffled, its questions of one gold passage far apart, and cut into whole batches.
    What is left over of all topics is shuffled together, with the batches whose questions have
    fewer gold passages than half of them. Whole batches come in any order; the one that is not
    whole, last. The draw depends on topics, seed and epoch alone, also on a resumed run.
    """

    def __init__(
        self,
        examples: RetrieverExamples,
        topics: Sequence[Sequence[int]],
        batch_size: int,
        seed: int,
    ) -> None:
        """Keep what to draw from.

        Args:
            examples: their `epoch` is asked when an epoch begins.
            topics: as from `find_topics`.
            batch_size: questions of a batch of all processes.
            seed: of the draws.
        """
        self.examples, self.topics = examples, topics
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Number of questions."""
        return sum(map(len, self.topics))

    def __iter__(self) -> Iterator[int]:
        """The rows of one epoch."""
        draw = random.Random(f"{self.seed} {self.examples.epoch}")
        batches, left = self._of_topics(draw)
        draw.shuffle(left)
        *others, rest = _cut(left, self.batch_size)
        batches += others
        draw.shuffle(batches)
        for batch in [*batches, rest]:
            yield from batch

    def describe(self) -> str:
        """One line for whoever runs it."""
        sizes = [len(topic) for topic in self.topics]
        return (
            f"Topics: {len(sizes):,}, of {min(sizes):,} to {max(sizes):,} questions; "
            f"{self.alike():,} of {len(self):,} questions are in batches of one topic."
        )

    def alike(self) -> int:
        """Number of questions in batches of one topic, in the first epoch."""
        return sum(map(len, self._of_topics(random.Random(f"{self.seed} 0"))[0]))

    def _of_topics(self, draw: random.Random) -> tuple[list[list[int]], list[int]]:
        """Whole batches of one topic, and what is left over."""
        whole, left = [], []
        for topic in self.topics:
            for batch in _cut(self._spread(topic, draw), self.batch_size):
                golds = {self._gold(row) for row in batch}
                if len(batch) == self.batch_size <= 2 * len(golds):
                    whole.append(batch)
                else:
                    left += batch
        return whole, left

    def _spread(self, topic: Sequence[int], draw: random.Random) -> list[int]:
        """A topic in any order, but the questions of each gold passage evenly from first to last.

        A passage that stands twice in a batch is a negative once.
        """
        groups: dict[int, list[int]] = {}
        for row in draw.sample(topic, len(topic)):
            groups.setdefault(self._gold(row), []).append(row)
        places: dict[int, float] = {}
        for rows in groups.values():
            start = draw.random()
            places |= {row: (turn + start) / len(rows) for turn, row in enumerate(rows)}
        return sorted(places, key=places.__getitem__)

    def _gold(self, row: int) -> int:
        return self.examples.positives[row][0]


def find_topics(
    examples: RetrieverExamples,
    context_encoder: TextEncoder,
    count: int,
    *,
    seed: int,
    device: torch.device,
    progress: str = "",
) -> list[list[int]]:
    """Topics of the questions: clusters, by k-means, of the vectors of their gold passages.

    A question with several gold passages belongs to the first one's topic. All processes do the
    same, and get what the first one found.

    Args:
        examples: what is trained on.
        context_encoder: as training begins.
        count: topics, at least 1.
        seed: of the k-means.
        device: of this process, through which the processes tell each other.
        progress: what the progress bar says; empty for none.

    Returns:
        Rows of `examples`, each in one topic; no topic is empty.

    Raises:
        ValueError: there are fewer gold passages than topics, or a vector is not finite.
    """
    golds = [rows[0] for rows in examples.positives]
    distinct = list(dict.fromkeys(golds))
    if count > len(distinct):
        raise ValueError(
            f"topics is {count:,}, and the questions have {len(distinct):,} gold passages between "
            "them. Ask for fewer topics: each is to hold several batches."
        )
    table = examples.passages
    texts, titles = ([column[row] for row in distinct] for column in (table.texts, table.titles))
    vectors = context_encoder.encode(texts, titles, progress=progress)  # (P, dim) float32
    nearest = torch.from_numpy(clusters_of(vectors, count, seed)).to(device)
    if world_size() > 1:
        distributed.broadcast(nearest, 0)
    topic_of = dict(zip(distinct, nearest.tolist(), strict=True))
    topics: dict[int, list[int]] = {}
    for row, gold in enumerate(golds):
        topics.setdefault(topic_of[gold], []).append(row)
    return list(topics.values())


def make_topics(
    examples: RetrieverExamples, args: RetrieverTrainingArguments, context_encoder: TextEncoder
) -> TopicSampler | None:
    """The order of training that the arguments ask for; None for a random one.

    Raises:
        ValueError: there cannot be so many topics; see `find_topics`.
    """
    if args.topics is None:
        return None
    network: Any = context_encoder.model
    network.to(args.device)
    seed = args.seed if args.data_seed is None else args.data_seed
    topics = find_topics(
        examples,
        context_encoder,
        args.topics,
        seed=seed,
        device=args.device,
        progress="Topics" if args.process_index == 0 and not args.disable_tqdm else "",
    )
    batch_size = args.train_batch_size * args.world_size
    sampler = TopicSampler(examples, topics, batch_size, seed)
    alike = sampler.alike()
    if 2 * alike < len(sampler):
        good = max(1, round(len(sampler) / (BATCHES * batch_size)))
        warnings.warn(
            f"--topics {args.topics}: {alike:,} of {len(sampler):,} questions are in "
            f"batches of one topic, the others in mixed ones. A topic of {BATCHES} batches of "
            f"{batch_size:,} questions would be --topics {good}; a batch has to have half as many "
            "gold passages as questions.",
            stacklevel=3,
        )
    return sampler


def _cut(rows: list[int], size: int) -> list[list[int]]:
    """Whole batches, and what follows them, which may be empty."""
    return [rows[start : start + size] for start in range(0, len(rows) + 1, size)]
