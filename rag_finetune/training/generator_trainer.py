"""GeneratorTrainer: a RagTrainer that trains the generator alone, on given passages."""

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.scoring import Contexts
from rag_finetune.training.generator_arguments import GeneratorTrainingArguments
from rag_finetune.training.generator_contexts import (
    ChosenPassages,
    answering_rows,
    found_rows,
    with_gold,
)
from rag_finetune.training.rag_evaluator import as_items
from rag_finetune.training.rag_trainer import RagTrainer


class GeneratorTrainer(RagTrainer):
    """Trains a RAG model's generator by maximum likelihood with teacher forcing.

    A question is read with one passage, written as RAG writes it, so that the generator finds at
    work what it was trained on. The marginal likelihood over one passage is that of the generator:
    −Σ_t log p(y_t | x, z, y_<t). Evaluation is RAG's, over the passages that are retrieved.
    """

    args: GeneratorTrainingArguments

    def __init__(
        self,
        rag: Rag,
        args: GeneratorTrainingArguments,
        train_dataset: Dataset | TrainingQuestions | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs: Any,
    ) -> None:
        """Join a model with its data.

        Args:
            rag: what `load_rag` gave, with its retriever.
            args: `GeneratorTrainingArguments`.
            train_dataset: columns id, question, answers, positive_ids, as from `load_questions`;
                but for args.context "retrieved", questions without a gold passage are left out.
            eval_dataset: the same, or a dict of several.
            **kwargs: anything else that `Seq2SeqTrainer` takes: callbacks, optimizers, …

        Raises:
            ValueError: as of `RagTrainer`; or gold passages are asked for and none is known.
        """
        self._golds: list[list[int]] = []
        if rag.retriever is not None and train_dataset is not None:
            train_dataset = self._take_golds(rag, args, train_dataset)
        super().__init__(rag, args, train_dataset, eval_dataset, **kwargs)

    def describe(self) -> str:
        """A table of what trains, and what it reads."""
        args = self.args
        read = {
            "gold": "the gold passage",
            "retrieved": f"one of the {self.retriever.n_docs} found, drawn anew each epoch",
            "mixed": f"mixed, the gold one in {args.gold_probability:.0%} of the draws, else "
            f"another of the {self.retriever.n_docs} found",
        }[args.context]
        return f"{super().describe()}\nPassages read in training: {read}."

    def get_train_dataloader(self) -> DataLoader:
        """Batches to train on, each with its contexts."""
        self.retriever.expect_contexts(self._n_questions())
        collate: Any = self.data_collator
        self.data_collator = self._chosen_passages(collate)
        try:
            return self._plain_train_dataloader()
        finally:
            self.data_collator = collate

    def _chosen_passages(self, collate: Any) -> ChosenPassages:
        """What adds contexts to batches; searches for all questions once where it draws of those.

        The question encoder stays as it is, and so does what is found.
        """
        items: Any = self.train_dataset
        args, found = self.args, None
        if args.context != "gold":
            asked = items.questions["question"][:]
            found = found_rows(self.rag, asked, self.retriever.n_docs, args.max_question_length)
        probability = args.gold_probability if args.context == "mixed" else None
        return ChosenPassages(self.rag, collate, items, self._golds, found, probability, args.seed)

    def _contexts_of(self, inputs: dict[str, Any]) -> Contexts:
        """The passage that was chosen for each question."""
        ids, mask = inputs["context_input_ids"], inputs["context_attention_mask"]
        return Contexts(ids, mask, torch.zeros(len(ids), 1))

    def _take_golds(
        self, rag: Rag, args: GeneratorTrainingArguments, dataset: Any
    ) -> TrainingQuestions:
        """Look the gold passages up where they are read; leave out what has none to read."""
        items: TrainingQuestions = as_items(dataset, args.target, args.seed)
        if args.context == "retrieved":
            self._golds = [[] for _ in items.questions]
            return items
        assert rag.retriever is not None
        self._golds = answering_rows(items.questions, rag.retriever.index)
        kept = with_gold(items.questions, self._golds)
        if len(kept) == len(self._golds):
            return items
        self._golds = [self._golds[number] for number in kept]
        return TrainingQuestions(items.questions.select(kept), items.target, items.seed)
