"""ContextTraining: the part of the trainer that trains the context encoder, and its index."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import staged_folder
from rag_finetune.index.store import CONTEXT_ENCODER, open_index
from rag_finetune.index.update import load_own_encoder
from rag_finetune.rag.checkpoint import INDEX, place_index
from rag_finetune.rag.index_choice import OWN
from rag_finetune.rag.reference import load_index_reference, note_own_encoder
from rag_finetune.training.callbacks import SaveOnSigterm
from rag_finetune.training.fresh_vectors import FreshSearcher, fresh_vectors
from rag_finetune.training.index_refresh import IndexRefresh
from rag_finetune.training.index_versions import index_of_checkpoint, record_version
from rag_finetune.training.rag_retrieval import RagRetrieval


class ContextTraining(RagRetrieval):
    """A RagRetrieval whose context encoder may learn.

    The passages that the index finds are encoded again, with gradient, and p(z|x) is that of
    these vectors. In training the context encoder stands in the place that Transformers' RagModel
    has for one, so that whatever wraps the model, or steps through its parameters, has it too; it
    is saved by itself.

    Attributes:
        context_encoder: the one that the index's vectors are from; None where it does not learn.
        refresh: encodes the passages anew; None likewise.
    """

    sigterm: SaveOnSigterm
    context_encoder: TextEncoder | None = None
    refresh: IndexRefresh | None = None

    def __init__(self, **kwargs: Any) -> None:
        """Load the context encoder where it learns; the arguments are `Seq2SeqTrainer`'s.

        Raises:
            ValueError: the index holds vectors of an encoder that is not to be had any more, or
                fresh_top does not go with n_docs or the way of retrieval.
        """
        args = kwargs["args"]
        if "context_encoder" in args.trainable:
            # Trained, it is not that of the Hub any more: an index has to hold its weights.
            self.context_encoder = replace(
                load_own_encoder(self.retriever.index.folder),
                name=CONTEXT_ENCODER,
                revision=None,
                local=True,
            )
            self.context_encoder.model.config._name_or_path = ""  # a path of this machine
            if args.resume_from_checkpoint is None:
                self._warn_about_another()
        if args.fresh_top is not None and args.fresh_top <= self.retriever.n_docs:
            raise ValueError(
                f"fresh_top must be more than n_docs, which is {self.retriever.n_docs}, found "
                f"{args.fresh_top}: all that are found would be read."
            )
        way = self.retriever.searcher.retrieval.way
        if args.fresh_top is not None and way != "dense":
            raise ValueError(
                f"fresh_top puts passages in order by their vectors, and retrieval is {way}, whose "
                "order is another. Leave one of them out."
            )
        super().__init__(**kwargs)
        self.add_callback(self.sigterm)  # the refresh, which comes after, shall know of it
        if self.context_encoder is not None:
            network: Any = self.context_encoder.model
            network.to(args.device)
            self.refresh = IndexRefresh(
                self.retriever, self.context_encoder, args, self._log_refresh
            )
            self.add_callback(self.refresh)

    def _warn_about_another(self) -> None:
        """Warn where the model's folder has a context encoder that is not its index's."""
        name, index = getattr(self.rag.model.config, "_name_or_path", ""), self.retriever.index
        own = load_index_reference(Path(name)).get(OWN) if name else None
        if own not in (None, index.manifest.fingerprint):
            warnings.warn(
                f"{name}/{CONTEXT_ENCODER} is not the encoder of {index.folder} and is not trained "
                "on: that of the index is. To go on from it, build an index by it (rag-finetune "
                f"index --context_encoder {name}/{CONTEXT_ENCODER}) and give it as --index.",
                stacklevel=4,
            )

    # ---- The training step ----

    def _forward(
        self, model: nn.Module, inputs: dict[str, Any], labels: Tensor
    ) -> tuple[Any, Tensor]:
        """As without a context encoder; its vectors are taken within the model's own pass."""
        if self.context_encoder is None:
            return super()._forward(model, inputs, labels)
        hook = self.rag.model.register_forward_hook(self._encode_again)
        searcher = self.retriever.searcher
        if self.args.fresh_top is not None:
            chosen: Any = FreshSearcher(searcher, self.context_encoder, self.args.fresh_top)
            self.retriever.searcher = chosen
        try:
            return super()._forward(model, inputs, labels)
        finally:
            hook.remove()
            self.retriever.searcher = searcher

    def _encode_again(self, model: nn.Module, args: Any, outputs: Any) -> None:
        """Put vectors with gradient in the place of the index's."""
        assert self.refresh is not None
        asked = outputs.question_encoder_last_hidden_state.detach().float().cpu().numpy()
        self.refresh.measure_overlap(asked, self.state.global_step)
        rows = outputs.retrieved_doc_ids.cpu().numpy()
        outputs.retrieved_doc_embeds = self._fresh_vectors(rows)  # (batch, K, dim)

    def _fresh_vectors(self, rows: np.ndarray) -> Tensor:
        """Vectors with gradient for rows of the index, shape (*rows.shape, dim)."""
        assert self.context_encoder is not None
        with self.accelerator.autocast():
            return fresh_vectors(self.retriever.index, self.context_encoder, rows)

    def _passage_vectors(self, outputs: Any, rows: np.ndarray) -> Tensor:
        """Vectors of the passages that were found, shape (batch, K, dim)."""
        if self.context_encoder is None:
            return super()._passage_vectors(outputs, rows)
        vectors: Tensor = outputs.retrieved_doc_embeds
        return vectors

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the steps since the index's encoder."""
        if self.refresh is not None and "loss" in logs:
            logs["index_staleness"] = self.state.global_step - self.refresh.index_step
        super().log(logs, start_time)

    def _log_refresh(self, figures: dict[str, float]) -> None:
        """Log the figures of a refresh, and the step itself as if nothing had been logged."""
        should_log = self.control.should_log
        self.log(figures)
        self.control.should_log = should_log

    # ---- The run ----

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train; at the end the index is that of the context encoder as it is then."""
        if self.refresh is None or self.context_encoder is None:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        if resume_from_checkpoint is not None:
            self._take_index(Path(resume_from_checkpoint))
        elif self.refresh.is_first:
            self.refresh.versions.prune(self.retriever.index)
        try:
            with standing_in(self.rag.model, self.context_encoder.model):
                output = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.refresh.stop()
        if not self.sigterm.stopped:
            self.refresh.refresh_last(self.state.global_step)
        return output

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the finished model; the indexes on the way to it are removed."""
        super().finish(metrics)
        self._leave_versions()

    def _upload(self) -> None:
        """Upload the finished folder, and no index on the way to it."""
        self._leave_versions()
        super()._upload()

    def _leave_versions(self) -> None:
        """Search the index of the finished folder; remove those that nothing needs."""
        if self.refresh is None:
            return
        self.accelerator.wait_for_everyone()
        folder = Path(str(self.args.output_dir))
        if self._index_mode() == "copy" and (folder / INDEX).is_dir():
            self.refresh.take(open_index(folder / INDEX), self.refresh.index_step)

    def _take_index(self, checkpoint: Path) -> None:
        """Search the index that training had when a checkpoint was written."""
        assert self.refresh is not None
        index, step = index_of_checkpoint(checkpoint)
        if self.refresh.is_first:
            self.refresh.versions.adopt(checkpoint, index, step)
        self.accelerator.wait_for_everyone()
        self.refresh.take(self.refresh.versions.adopted(index, step), step)

    def _take_over_if_finished(self, checkpoint: Path) -> bool:
        """As without a context encoder; then its index too is the checkpoint's, brought up."""
        if not super()._take_over_if_finished(checkpoint):
            return False
        if self.refresh is not None:
            self._take_index(checkpoint)
            self.refresh.refresh_last(self.state.global_step)
        return True

    # ---- Saving and loading ----

    def _wins_tie(self, loss: float, best_loss: float) -> bool:
        """As without a context encoder; where the losses are equal too, the later is.

        Validation goes by the index: until the next one, no figure sees the context encoder.
        """
        is_unseen = self.refresh is not None and loss == best_loss
        return is_unseen or super()._wins_tie(loss, best_loss)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the folder, and in it the context encoder, unless its index holds it already."""
        if self.refresh is None or self.context_encoder is None or not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or str(self.args.output_dir))
        with standing_in(self.rag.model, None):
            super()._save(output_dir, state_dict)
        index = self.retriever.index
        if self.context_encoder.fingerprint() == index.manifest.fingerprint:
            shutil.rmtree(folder / CONTEXT_ENCODER, ignore_errors=True)
        else:
            with staged_folder(folder / CONTEXT_ENCODER) as staged:
                self.context_encoder.save(staged)
            note_own_encoder(folder, self.context_encoder.fingerprint())
        if folder != Path(str(self.args.output_dir)):  # whose index is the last one
            record_version(folder, index, self.refresh.index_step)

    def _index_mode(self) -> str:
        """How the index goes with a checkpoint: one that was made here is copied by hard links."""
        if self.refresh is not None and self.refresh.versions.holds(self.retriever.index):
            return self.args.save_index or "copy"
        return super()._index_mode()

    def _place_index(self, folder: Path) -> None:
        """Put the index into a folder that is saved."""
        index = self.retriever.index
        if self.refresh is None or not self.refresh.versions.holds(index):
            super()._place_index(folder)
            return
        self._placed_index = None  # of an earlier state
        way = self.retriever.searcher.retrieval
        place_index(index, folder, self._index_mode(), ours=True, retrieval=way)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Load the weights of a checkpoint, the context encoder's too."""
        with standing_in(self.rag.model, None):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_context_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint, the context encoder's too."""
        with standing_in(self.rag.model, None):
            super()._load_best_model()
        self._load_context_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_context_weights(self, checkpoint: Path) -> None:
        """Give the context encoder the weights that a checkpoint has for it."""
        encoder = self.context_encoder
        if encoder is None:
            return
        folder = checkpoint / CONTEXT_ENCODER
        if folder.is_dir():
            loaded = load_context_encoder(str(folder), encoder.max_length)
        else:
            loaded = load_own_encoder(index_of_checkpoint(checkpoint)[0].folder)
        encoder.model.load_state_dict(loaded.model.state_dict())


@contextmanager
def standing_in(model: Any, context_encoder: nn.Module | None) -> Iterator[None]:
    """Let a RAG model have a context encoder, or none, for a while.

    Its forward pass does not use it. A model that is saved, or loaded, has none.
    """
    before, model.rag.ctx_encoder = model.rag.ctx_encoder, context_encoder
    try:
        yield
    finally:
        model.rag.ctx_encoder = before
