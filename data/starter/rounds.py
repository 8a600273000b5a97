"""What the generator reads while it learns: rounds of stages, from easy to hard."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A part of the generator's training.

    Attributes:
        steps: batches.
        size: examples a batch.
        low: words of the shortest passage.
        high: words of the longest passage; each world draws its own bound up to it.
        irrelevant: share of passages that do not hold the answer.
        continued: share of examples that ask for the rest of a sentence in place of a fact.
        labels: share of relations such as "group 8", beside those drawn anyway.
        shifted: largest number of positions by which a batch is moved, so that all are learnt.
        crowded: whether passages tell as many facts as they have room for.
        wide: whether names, values and sentences are of more kinds.
        unmasked: share of batches padded further, with the padding read like text: Transformers'
            own `RagSequenceForGeneration.generate` scores so.
        contrasts: share of sentences that one about another thing follows.
        silence: weight of having no guess about what the passage does not tell; 0 to guess as well
            as can be.
    """

    steps: int
    size: int
    low: int
    high: int
    irrelevant: float = 0.0
    continued: float = 0.0
    labels: float = 0.0
    shifted: int = 0
    crowded: bool = False
    wide: bool = False
    unmasked: float = 0.0
    contrasts: float = 0.0
    silence: float = 0.0


STAGES = (
    Stage(400, 16, 5, 12, irrelevant=0.02, continued=0.3),
    Stage(1400, 24, 8, 40, irrelevant=0.02, continued=0.05),
    Stage(6000, 24, 10, 90, irrelevant=0.03),
)
LONGER = (Stage(2500, 24, 20, 120, irrelevant=0.03, labels=0.15, shifted=120),)
CROWDED = (
    Stage(2500, 24, 40, 170, 0.03, labels=0.1, shifted=100, crowded=True, unmasked=0.1),
    Stage(7500, 24, 30, 160, 0.03, labels=0.12, shifted=100, crowded=True, unmasked=0.1, wide=True),
)
DOUBTFUL = (  # so that the passage that tells the answer is believed more than the others
    Stage(3500, 24, 30, 160, 0.3, labels=0.15, shifted=100, crowded=True, unmasked=0.1, wide=True),
)
DEEPER = (
    Stage(9000, 24, 30, 160, 0.35, labels=0.15, shifted=100, crowded=True, unmasked=0.1, wide=True),
)
WIDER = (
    Stage(6500, 24, 30, 140, 0.3, labels=0.15, shifted=100, crowded=True, unmasked=0.1, wide=True),
)
FRONTED = (  # with more sentences that begin with the value
    Stage(2000, 24, 30, 140, 0.3, labels=0.15, shifted=100, crowded=True, unmasked=0.1, wide=True),
)
CONTRASTED = (  # with the same said of other things between
    Stage(
        2000, 24, 30, 140, 0.3, labels=0.15, shifted=100, crowded=True, unmasked=0.1, wide=True,
        contrasts=0.35,
    ),
)  # fmt: skip
SILENT = (  # what a passage does not tell is no longer guessed, so that guesses outvote nothing
    Stage(
        2400, 24, 30, 140, 0.35, labels=0.15, shifted=100, crowded=True, unmasked=0.1, wide=True,
        contrasts=0.35, silence=0.5,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """Training from a warm-up to a learning rate near zero.

    Attributes:
        stages: what is read, one after the other.
        learning_rate: the highest one.
        deepened: the layers of the encoder after which a new one begins, before the first stage.
        vocabulary: tokens of a tokenizer learnt anew before the first stage; 0 for none.
    """

    stages: tuple[Stage, ...]
    learning_rate: float
    deepened: tuple[int, ...] = ()
    vocabulary: int = 0


ROUNDS = (
    Round(STAGES, 2e-3),
    Round((Stage(2500, 24, 10, 90, irrelevant=0.03),), 1e-3),
    Round(LONGER, 1e-3),
    Round(CROWDED, 1e-3),
    Round(DOUBTFUL, 7e-4),
    Round(DEEPER, 1e-3, deepened=(0, 1)),
    Round(WIDER, 1e-3, vocabulary=6000),
    Round(FRONTED, 8e-4),
    Round(CONTRASTED, 8e-4),
    Round(SILENT, 8e-4),
)
