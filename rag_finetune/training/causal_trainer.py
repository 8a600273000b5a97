"""CausalRagTrainer: trains a decoder-only generator to answer from retrieved passages."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import load_state_dict_from_file, save_torch_state_dict
from torch import Tensor, nn

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.metrics.health import ADVISED
from rag_finetune.rag.causal_assemble import check_positions
from rag_finetune.rag.causal_checkpoint import load_generator
from rag_finetune.rag.causal_model import IGNORED, CausalRag
from rag_finetune.rag.causal_targets import CausalTargetLosses
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.four_bits import compute_in, to_four_bits
from rag_finetune.rag.generation import Retrieved
from rag_finetune.rag.packing import require_packing
from rag_finetune.training.causal_arguments import NEEDS_ENCODER, CausalTrainingArguments
from rag_finetune.training.lora import add_adapters
from rag_finetune.training.rag_saver import ARGUMENTS
from rag_finetune.training.rag_trainer import RagTrainer

ADAPTERS = "adapters.safetensors"  # in a checkpoint midway: what training goes on from


class CausalRagTrainer(RagTrainer):
    """A RagTrainer for models with a decoder-only generator.

    The loss is that of the answer's tokens and its end alone. Where each passage has a prompt of
    its own it is −log Σ_z p(z|x) p(y|x,z), which may also teach the question encoder; in a joined
    prompt −log p(y|x, all passages).

    Source:
        Lin et al. 2023, arXiv:2310.01352, section 2.2; Lewis et al. 2020, arXiv:2005.11401.
    """

    args: CausalTrainingArguments
    advised_losses = tuple(name for name in ADVISED if name not in NEEDS_ENCODER)

    def __init__(
        self,
        rag: Rag,
        args: CausalTrainingArguments,
        train_dataset: Dataset | TrainingQuestions | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs: Any,
    ) -> None:
        """Join a model with its data; the arguments are those of `RagTrainer`.

        Raises:
            ValueError: the model has no decoder-only generator or was loaded without a retriever, a
                length is out of range, the question encoder cannot learn, an option has no
                meaning in a joined prompt, or the generator cannot read packed prompts or be kept
                in four bits.
        """
        if not isinstance(rag.model, CausalRag):
            raise ValueError(
                "Expected a model with a decoder-only generator, found "
                f"{type(rag.model).__name__}. Train it with RagTrainer: rag-finetune train."
            )
        _set_lengths(rag.model, args)
        if rag.model.template.reading == "joined" and "question_encoder" in args.trainable:
            raise ValueError(
                "In a joined prompt no gradient reaches the question encoder: p(z|x) has no part "
                "in the loss. Take it out of --trainable, or assemble with --reading ensemble."
            )
        for flag in ("passage_loss_weight", "doubt_weight"):
            if rag.model.template.reading == "joined" and getattr(args, flag):
                raise ValueError(
                    f"{flag} weighs passages against each other, and a joined prompt is read as "
                    "one. Leave it out, or assemble with --reading ensemble."
                )
        rag.model.packing = require_packing(rag.model.generator) if args.packing else None
        if args.load_in_4bit:
            to_four_bits(rag.model.generator, args.device)
        super().__init__(rag, args, train_dataset, eval_dataset, **kwargs)
        if args.lora_rank is not None:
            add_adapters(rag.model.generator, args.lora_rank)
        if args.bf16:
            compute_in(rag.model.generator, torch.bfloat16)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[None, None, None]:
        """As RagEvaluator's; token ids of answers end with their ends, whatever their batch."""
        found = super().prediction_step(model, inputs, *args, **kwargs)
        ends = self.rag.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        for row in inputs["rows"].tolist():
            entry = self._evaluated[row]
            places = [at for at, token in enumerate(entry.token_ids) if token in ends]
            entry.token_ids = entry.token_ids[: places[0] + 1] if places else entry.token_ids
        return found

    def _target_losses_of(self, model: Any) -> CausalTargetLosses:
        """What takes the losses of answers."""
        return CausalTargetLosses(model)

    @property
    def _pad_token_id(self) -> int:
        """What fills up labels: the padding id may be that of the end, which is learnt."""
        return IGNORED

    def _forward(
        self, model: nn.Module, inputs: dict[str, Any], labels: Tensor
    ) -> tuple[Any, Tensor]:
        """The model's outputs on a batch, and its doc_scores, shape (batch, K)."""
        given: dict[str, Any]
        contexts = self._contexts_of(inputs)
        if contexts is not None:
            given = contexts.as_inputs(labels.device)
        else:
            items: Any = self.train_dataset
            given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            given["questions"] = [items[row]["question"] for row in inputs["rows"].tolist()]
        with self.target_losses.watch():
            outputs = model(labels=labels, n_docs=self.retriever.n_docs, **given)
        if outputs.retrieved_doc_ids is not None:
            self.health.note(outputs.retrieved_doc_ids.cpu().numpy(), outputs.doc_scores)
        return outputs, outputs.doc_scores

    def _losses_of(self, retrieved: Retrieved, labels: Tensor) -> tuple[Retrieved, Tensor]:
        """The losses of answers, (batch,), and what was retrieved."""
        given = retrieved.contexts.as_inputs(labels.device)
        with self.target_losses.watch():
            outputs = self.rag.model(labels=labels, **given)
        return retrieved, self._example_losses(outputs.logits, labels, outputs.doc_scores)

    # ---- Saving, and going on ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write one movable folder; midway also the adapters, to go on from."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or str(self.args.output_dir))
        if not self.args.should_save or self.args.lora_rank is None:
            return
        if folder != Path(str(self.args.output_dir)):
            state = {
                name: tensor
                for name, tensor in self.rag.model.generator.state_dict().items()
                if "lora_" in name
            }
            pattern = ADAPTERS.replace(".", "{suffix}.")
            save_torch_state_dict(state, folder, filename_pattern=pattern)

    def _card_metrics(self, is_final: bool) -> dict[str, float]:
        """As RagSaver's; none where what was validated, in four bits, is not what is saved."""
        return {} if self.args.load_in_4bit else super()._card_metrics(is_final)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take the weights of a checkpoint midway.

        Raises:
            ValueError: it was written without adapters and the run has some, or the reverse; or
                beside weights in 4 bits, and the run has whole ones, or the reverse.
        """
        folder, ours = Path(resume_from_checkpoint), self.rag.model
        encoder: Any = load_question_encoder(str(folder / "question_encoder")).model
        ours.question_encoder.load_state_dict(encoder.state_dict())
        has_adapters = (folder / ADAPTERS).is_file()
        if has_adapters is not (self.args.lora_rank is not None):
            found = "with" if has_adapters else "without"
            raise ValueError(
                f"{folder}: was trained {found} adapters. Go on with the same --lora_rank."
            )
        then = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
        if then["lora_rank"] != self.args.lora_rank:
            raise ValueError(
                f"{folder}: was trained with --lora_rank {then['lora_rank']}, found "
                f"{self.args.lora_rank}. Go on with the same one."
            )
        if then["load_in_4bit"] is not self.args.load_in_4bit:
            found = "weights in 4 bits" if then["load_in_4bit"] else "whole weights"
            raise ValueError(
                f"{folder}: was trained on {found}. Go on with the same --load_in_4bit."
            )
        if has_adapters:
            state: Any = load_state_dict_from_file(folder / ADAPTERS)
            ours.generator.load_state_dict(state, strict=False)
        else:
            generator, _ = load_generator(str(folder / "generator"))
            ours.generator.load_state_dict(generator.state_dict())

    def _load_best_model(self) -> None:
        """Take the weights of the best checkpoint."""
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def _set_lengths(model: CausalRag, args: CausalTrainingArguments) -> None:
    """Give the model the lengths of the arguments, and the reverse where they say nothing.

    Raises:
        ValueError: they are more than the generator can take.
    """
    if args.max_target_length is None:
        args.max_target_length = model.max_target_length
    model.max_target_length = args.max_target_length
    prompt = args.max_combined_length or model.config.max_combined_length
    check_positions("the generator", model.generator.config, prompt, args.max_target_length)
