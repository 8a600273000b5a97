"""Plain Transformers without the faults that would hide whether ours agrees with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from rag_finetune.rag.decoding import _pad_after_end


@contextmanager
def mended_generate(model: Any) -> Iterator[None]:
    """Transformers' RagSequence.generate without two faults of release 5.23.

    It hands the generator no attention mask, so that candidates are read off the padding of
    shorter contexts too; and beam search fills T5's shorter candidates up with EOS, which
    are then scored as tokens of the answer (huggingface/transformers#47286).
    """
    generator = model.rag.generator
    generate = generator.generate

    def mended(input_ids: Tensor, **kwargs: Any) -> Tensor:
        kwargs["attention_mask"] = (input_ids != generator.config.pad_token_id).long()
        return _pad_after_end(model, generate(input_ids, **kwargs), {})

    generator.generate = mended
    try:
        yield
    finally:
        del generator.generate
