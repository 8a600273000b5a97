"""A cross-encoder's scores of the candidates of training, taken once, before it begins."""

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rag_finetune.encoders.encode import length_batches
from rag_finetune.encoders.load import require_source
from rag_finetune.training.retriever_data import RetrieverExamples


@torch.inference_mode()
def score_candidates(
    examples: RetrieverExamples, teacher: str, device: Any, max_length: int = 512
) -> None:
    """Let a cross-encoder score each question with its positives and hard negatives.

    Args:
        examples: what is trained on; its `teacher_scores` are replaced.
        teacher: folder or Hub name of a network that gives a pair of texts one logit, or two, of
            which the second is that of a match.
        device: where it runs.
        max_length: tokens of a pair; the passage is cut.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it gives more than two logits.
    """
    require_source(teacher)
    tokenizer: Any = AutoTokenizer.from_pretrained(teacher)
    network = AutoModelForSequenceClassification.from_pretrained(teacher, dtype=torch.float32)
    if network.config.num_labels > 2:
        raise ValueError(
            f"{teacher}: expected a network of one or two logits, found "
            f"{network.config.num_labels}. Give a cross-encoder that was trained to rank."
        )
    network.to(device).eval()
    pairs = [
        (row, passage)
        for row in range(len(examples))
        for passage in (*examples.positives[row], *examples.negatives[row])
    ]
    table = examples.passages
    texts = [f"{table.titles[p]} {table.texts[p]}".strip() for _, p in pairs]
    encoded = tokenizer(
        [examples.questions[row] for row, _ in pairs],
        texts,
        truncation="only_second",
        max_length=min(max_length, tokenizer.model_max_length),
    )
    for part in length_batches([len(ids) for ids in encoded["input_ids"]]):
        rows = {key: [encoded[key][position] for position in part] for key in encoded}
        batch = tokenizer.pad(rows, return_tensors="pt").to(device)
        logits = network(**batch).logits[:, -1].tolist()
        examples.teacher_scores |= {
            pairs[position]: score for position, score in zip(part, logits, strict=True)
        }
