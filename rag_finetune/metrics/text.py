"""How well answers match the gold ones: exact match, F1, BLEU and ROUGE as `evaluate` metrics.

Source:
    Exact match and F1: SQuAD's evaluation script (Rajpurkar et al. 2018, arXiv:1806.03822).
    BLEU: sacrebleu (Post 2018, arXiv:1804.08771). ROUGE: rouge-score (Lin 2004).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

import datasets
import evaluate
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics import BLEU

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower the case, drop ASCII punctuation and English articles, collapse white space.

    Args:
        text: a predicted or gold answer.

    Returns:
        What is compared; "" for an answer of articles and punctuation only.
    """
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match_score(prediction: str, answers: Sequence[str]) -> float:
    """Tell whether a prediction equals a gold answer once both are normalised.

    Args:
        prediction: the predicted answer.
        answers: the gold answers, at least one.

    Returns:
        1.0 or 0.0.

    Raises:
        ValueError: there is no gold answer.
    """
    _check_answers(answers, "answers")
    predicted = normalize_answer(prediction)
    return float(any(predicted == normalize_answer(answer) for answer in answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall, best over the gold answers.

    Args:
        prediction: the predicted answer.
        answers: the gold answers, at least one.

    Returns:
        A fraction. An answer that is empty once normalised matches only another such one, with 1.

    Raises:
        ValueError: there is no gold answer.
    """
    _check_answers(answers, "answers")
    predicted = normalize_answer(prediction).split()
    return max(_token_f1(predicted, normalize_answer(answer).split()) for answer in answers)


def _token_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = (Counter(predicted) & Counter(gold)).total()
    return 2 * common / (len(predicted) + len(gold))


class _TextMetric(evaluate.Metric):
    """A metric of predictions against one or more references each, which leaves no files.

    Rows are checked before any is stored, so that a refused batch does not linger in the next one.
    """

    summary = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**(kwargs | {"keep_in_memory": True}))

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description="predictions: strings. references: for each, a list of strings.",
            features=datasets.Features(
                {"predictions": texts, "references": datasets.Sequence(texts)}
            ),
        )

    def _build_data_dir(self) -> str:
        return ""  # evaluate would make a folder in the cache, which may be read-only

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Store predictions with their references until `compute`."""
        _check_rows(predictions, references)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Store one prediction with its references until `compute`."""
        # evaluate.combine hands a single row on under the names of the batch.
        row = {"predictions": prediction, "references": reference, **kwargs}
        self.add_batch(**{name: [value] for name, value in row.items()})

    def _finalize(self) -> None:
        if self.writer is None:
            raise ValueError(NOTHING_TO_SCORE)
        super()._finalize()


class ExactMatch(_TextMetric):
    """Share of predictions that equal a gold answer, as the fraction `exact_match`."""

    summary = "SQuAD's exact match, best over the references."

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"exact_match": fmean(map(exact_match_score, predictions, references))}


class F1(_TextMetric):
    """Mean token F1 against the best gold answer, as the fraction `f1`."""

    summary = "SQuAD's token F1, best over the references."

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"f1": fmean(map(f1_score, predictions, references))}


class Bleu(_TextMetric):
    """Corpus BLEU of sacrebleu as `bleu`, from 0 to 100.

    With orders up to 4 and no smoothing of absent orders, as published: a corpus whose predictions
    all have fewer than four tokens scores 0.
    """

    summary = "sacrebleu's corpus BLEU, 0 to 100."

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        # None stands for a missing reference; "" would count as a reference of length 0.
        streams = list(zip_longest(*references))
        # force: no warning about answers that end in " ."; the score is the same.
        return {"bleu": BLEU(force=True).corpus_score(predictions, streams).score}


class Rouge(_TextMetric):
    """Mean ROUGE F-measures, best over references, as fractions `rouge1`, `rouge2`, `rougeL`.

    Tokens are runs of a-z and 0-9, as in the original script: text in other scripts scores 0.
    """

    summary = "rouge-score's F-measures without stemming, best over the references."

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        names = ["rouge1", "rouge2", "rougeL"]
        # A tokenizer given explicitly is not logged.
        scorer = RougeScorer(names, tokenizer=DefaultTokenizer(use_stemmer=False))
        scores = list(map(scorer.score_multi, references, predictions))
        return {name: fmean(float(score[name].fmeasure) for score in scores) for name in names}


def load_text_metrics() -> evaluate.CombinedEvaluations:
    """Combine exact match, F1, BLEU and ROUGE; needs neither the network nor a cache folder.

    Returns:
        An object whose `compute(predictions=[…], references=[[…], …])` returns `exact_match`, `f1`,
        `rouge1`, `rouge2`, `rougeL` as fractions and `bleu` from 0 to 100.
    """
    return evaluate.combine([ExactMatch(), F1(), Bleu(), Rouge()])


NOTHING_TO_SCORE = (
    "predictions must hold at least one answer, found none. "
    "Check that the file of questions is not empty."
)


def _check_rows(predictions: Any, references: Any) -> None:
    if predictions is None or references is None:
        raise ValueError("expected predictions and references, found only one. Give both.")
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must be of one length, found {len(predictions)} and "
            f"{len(references)}. Give a list of references for each prediction."
        )
    if len(predictions) == 0:
        raise ValueError(NOTHING_TO_SCORE)
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise ValueError(
                f"predictions[{row}] must be a string, found {prediction!r}. Decode it first."
            )
        _check_answers(answers, f"references[{row}]")


def _check_answers(answers: Any, name: str) -> None:
    is_list = isinstance(answers, Sequence) and not isinstance(answers, str)
    if not is_list or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(
            f"{name} must be a non-empty list of strings, found {answers!r}. "
            f"Write one gold answer as a list of one."
        )
