"""The retriever's own losses in RAG training, weighted and added to the likelihood."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.index.gold import gold_rows
from rag_finetune.index.store import PassageIndex
from rag_finetune.losses.lists import gold_losses, listwise_losses
from rag_finetune.losses.retrieval import (
    adist_losses,
    answer_log_likelihoods,
    emdr2_losses,
    loop_losses,
    lsr_losses,
    pdist_losses,
)
from rag_finetune.metrics.retrieval import has_answer
from rag_finetune.rag.attention import passage_attention, require_watchable
from rag_finetune.rag.causal_targets import CausalTargetLosses
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.targets import TargetLosses
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.gathering import gather_rows
from rag_finetune.training.loss_terms import parse_losses

LIKELIHOOD = "likelihood"


class RetrieverLosses:
    """What a training step adds to the likelihood of its answers.

    The passages are judged by the generator's pass over them that the step makes anyway: nothing is
    read twice, and where the generator does not learn, that pass keeps nothing for gradients. (Only
    `adist` runs its decoder once more, over all passages of a question at once, and `contrastive`
    a context encoder that learns, over gold passages that were not found.) Gradients reach the
    question encoder and a context encoder that learns; never the generator.

    Attributes:
        encode: gives vectors with gradient for rows of the index, shape (N,) to (N, dim); None
            where the context encoder does not learn.
    """

    encode: Callable[[np.ndarray], Tensor] | None = None

    def __init__(
        self,
        rag: Rag,
        args: RagTrainingArguments,
        target_losses: TargetLosses | CausalTargetLosses,
        questions: TrainingQuestions | None,
    ) -> None:
        """Look up what the losses need.

        Args:
            rag: the model with its retriever.
            args: says which losses, and how.
            target_losses: gets the likelihoods; asked to keep those of the tokens.
            questions: what is trained on.

        Raises:
            ValueError: the question encoder does not learn after all, there is one passage a
                question, or one question a batch where the others' are its negatives, no gold
                passage is known where one is needed, or the generator's attention cannot be
                watched.
        """
        assert rag.retriever is not None
        self.rag, self.args = rag, args
        self.weights = parse_losses(args.retriever_loss)
        if not rag.retriever.index.manifest.has_vectors:
            raise ValueError(
                f"retriever_loss {args.retriever_loss} teaches the question encoder, and the index "
                "holds no vectors: it has no part in p(z|x). Give an index with vectors."
            )
        comparing = [name for name in self.weights if name != "contrastive"]
        if comparing and rag.retriever.n_docs < 2:
            raise ValueError(
                f"retriever_loss {comparing[0]} compares the passages of a question, and there is "
                "only one: raise --n_docs, or give an index of more passages."
            )
        at_once = args.per_device_train_batch_size * args.world_size
        if args.contrastive_negatives == "in_batch" and at_once == 1:
            raise ValueError(
                "contrastive_negatives in_batch needs questions beside each, whose gold passages "
                "are its negatives, found a batch of 1: raise --per_device_train_batch_size."
            )
        self.target_losses = target_losses
        target_losses.seen = []
        self.golds: GoldPassages | None = None
        if "contrastive" in self.weights and questions is not None:
            self.golds = GoldPassages(questions, rag.retriever.index)
        if "adist" in self.weights:
            require_watchable(rag.model.rag.generator)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def joined(
        self, likelihood: Tensor, outputs: Any, doc_scores: Tensor, labels: Tensor, rows: Tensor
    ) -> Tensor:
        """The loss of each example, shape (B,): the weighted sum of the likelihood's and ours.

        Args:
            likelihood: its losses, shape (B,), just computed.
            outputs: the model's, with what was retrieved.
            doc_scores: inner products of question and passage, shape (B, K).
            labels: decoder input ids, shape (B, T + 1).
            rows: of the items in the training set, shape (B,).
        """
        mask = self.target_losses.mask_of(labels)
        assert self.target_losses.seen is not None
        tokens = self.target_losses.seen.pop()  # (B, K, T)
        losses = {
            name: self._loss(name, tokens, mask, outputs, doc_scores, labels, rows)
            for name in self.weights
        }
        self._note({LIKELIHOOD: likelihood, **losses})
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        if self.args.likelihood_weight:
            total = total + self.args.likelihood_weight * likelihood
        assert isinstance(total, Tensor)
        return total

    def take_means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean of each loss over the examples since it was last asked for, over all processes.

        Args:
            reduce: sums a tensor over the processes; every process must ask.
        """
        if not self._count:
            return {}
        values = torch.stack([*self._sums.values()])
        values = reduce(torch.cat([values, values.new_tensor([self._count])]))
        means = (values[:-1] / values[-1]).tolist()
        found = {f"loss_{name}": mean for name, mean in zip(self._sums, means, strict=True)}
        self._sums, self._count = {}, 0
        return found

    def _loss(
        self,
        name: str,
        tokens: Tensor,
        mask: Tensor,
        outputs: Any,
        doc_scores: Tensor,
        labels: Tensor,
        rows: Tensor,
    ) -> Tensor:
        """One of the losses, of each example, shape (B,)."""
        args = self.args
        gamma = {"retriever_temperature": args.retriever_temperature}
        both = {**gamma, "lm_temperature": args.lm_temperature}
        live = doc_scores > -torch.inf
        if name == "contrastive":
            return self._contrastive(outputs, rows)
        if name == "adist":
            return adist_losses(doc_scores, self._attention(outputs, labels, mask, live), **both)
        if name == "emdr2":
            summed = answer_log_likelihoods(tokens, mask, per_token=False)
            return emdr2_losses(doc_scores, summed, **gamma)
        known = answer_log_likelihoods(tokens, mask, args.lm_likelihood == "per_token")
        if name == "listwise":
            scores = doc_scores / args.retriever_temperature
            return listwise_losses(scores, known, live)
        if name == "lsr":
            return lsr_losses(doc_scores, known, **both, direction=args.lsr_direction)
        return {"pdist": pdist_losses, "loop": loop_losses}[name](doc_scores, known, **both)

    def _contrastive(self, outputs: Any, rows: Tensor) -> Tensor:
        """Gold against the batch's gold, and against all that it retrieved unless "in_batch"."""
        golds = self.golds
        assert golds is not None
        questions = golds.questions_of(rows.tolist())
        found = outputs.retrieved_doc_ids.flatten().to(rows.device)  # -1 for no passage
        gold = torch.tensor(golds.rows_of(questions), dtype=found.dtype, device=rows.device)
        columns, vectors = self._compared(outputs, found, gold)
        if self.args.contrastive_negatives == "in_batch":
            kept = np.isin(columns, gather_rows(gold).cpu().numpy())
            kept |= not kept.any()  # no question has gold: all losses are 0
            columns, vectors = columns[kept], vectors[torch.from_numpy(kept).to(vectors.device)]
        is_gold, excluded = golds.marks(questions, columns.tolist())
        hidden = outputs.question_encoder_last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            scores = hidden.float() @ vectors.to(hidden.device, torch.float32).T  # (B, P)
        return gold_losses(
            scores / self.args.retriever_temperature,
            is_gold.to(hidden.device),
            excluded.to(hidden.device),
        )

    def _compared(self, outputs: Any, found: Tensor, gold: Tensor) -> tuple[np.ndarray, Tensor]:
        """The passages of all processes, each once: rows of the index (P,), vectors (P, dim).

        Of a context encoder that learns the vectors are fresh, and those of a passage that stands
        at several places the first one's: it was made of the same weights as the others.
        """
        assert self.rag.retriever is not None
        if self.encode is None:
            rows = gather_rows(torch.cat([found, gold])).cpu().numpy()
            columns = np.unique(rows[rows >= 0])
            return columns, torch.from_numpy(self.rag.retriever.index.vectors_at(columns))
        more = gold[~torch.isin(gold, found)]
        of_found = outputs.retrieved_doc_embeds.flatten(0, 1).float()  # (B * K, dim)
        vectors = gather_rows(torch.cat([of_found, self.encode(more.cpu().numpy())]))
        rows = gather_rows(torch.cat([found, more])).cpu().numpy()
        columns, places = np.unique(rows, return_index=True)
        places = places[columns >= 0]
        return columns[columns >= 0], vectors[torch.from_numpy(places).to(vectors.device)]

    def _attention(self, outputs: Any, labels: Tensor, mask: Tensor, live: Tensor) -> Tensor:
        """What the decoder attends to in each passage, shape (B, K)."""
        with torch.no_grad():
            return passage_attention(
                self.rag.model.rag.generator,
                outputs.generator_enc_last_hidden_state,
                outputs.context_attention_mask,
                labels[:, :-1],
                mask,
                live,
            )

    def _note(self, losses: dict[str, Tensor]) -> None:
        """Add to what is logged."""
        for name, loss in losses.items():
            summed = loss.detach().float().sum()
            self._sums[name] = self._sums.get(name, torch.zeros_like(summed)) + summed
        self._count += len(losses[LIKELIHOOD])


class GoldPassages:
    """Which passages of an index are gold for which questions, and which are no negatives."""

    def __init__(self, questions: TrainingQuestions, index: PassageIndex) -> None:
        """Look the gold passages up.

        Raises:
            ValueError: no question has a gold passage in the index.
        """
        self.items, self.index = questions, index
        self.golds = gold_rows(questions.questions, index)
        if not any(self.golds):
            raise ValueError(
                "retriever_loss contrastive needs gold passages, and no training question has one "
                "in the index. Give positive_ids in the file, or lsr, which needs none."
            )

    def questions_of(self, rows: Sequence[int]) -> list[int]:
        """The question of each item."""
        return [self.items.question_of(row) for row in rows]

    def rows_of(self, questions: Sequence[int]) -> list[int]:
        """Rows of the index that are gold for any of the questions."""
        return sorted({row for question in questions for row in self.golds[question]})

    def marks(self, questions: Sequence[int], passages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which passages are gold, and which hold an answer and are no negatives.

        Args:
            questions: rows of questions.
            passages: rows of the index.

        Returns:
            Two tensors of shape (questions, passages).
        """
        texts = [p["text"] for p in self.index.passages_at(torch.tensor(passages).numpy())]
        gold, excluded = [], []
        for question in questions:
            known = set(self.golds[question])
            answers = self.items.questions[question]["answers"]
            gold.append([passage in known for passage in passages])
            excluded.append([has_answer(text, answers) for text in texts])
        return torch.tensor(gold), torch.tensor(excluded)
