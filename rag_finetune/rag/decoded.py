"""What decoding gives, whatever the generator."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Decoded:
    """A answers to B questions, best first within a question.

    Beam search of RAG-Token, and of a decoder-only generator, orders them by its own measure, in
    which the length penalty counts; all else is ordered by score.

    Attributes:
        sequences: token ids, shape (A, length), padded with the generator's pad id.
        scores: log p(y|x) in nats, shape (A,). For RAG-Sequence without the score of a generated
            BOS token, as Transformers scores candidates.
        question_rows: which question each answers, shape (A,), ascending.
        posteriors: p(z|x,y) over the K passages, shape (A, K); for RAG-Token and an ensemble of
            prompts the mean over the answer's tokens of p(z|x,y_t,y_<t), for a joined prompt
            p(z|x).
    """

    sequences: Tensor
    scores: Tensor
    question_rows: Tensor
    posteriors: Tensor
