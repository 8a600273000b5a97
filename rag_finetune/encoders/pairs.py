"""Which context encoder a published question encoder was trained with; imports nothing heavy."""

import sys

# Question encoders, and RAG models that hold one, with the context encoder of the same training.
# Any other pairing of these gives vectors of two unrelated spaces.
PAIRS = {
    "facebook/dpr-question_encoder-single-nq-base": "facebook/dpr-ctx_encoder-single-nq-base",
    "facebook/dpr-question_encoder-multiset-base": "facebook/dpr-ctx_encoder-multiset-base",
    "facebook/rag-sequence-nq": "facebook/dpr-ctx_encoder-multiset-base",
    "facebook/rag-sequence-base": "facebook/dpr-ctx_encoder-multiset-base",
    "facebook/rag-token-nq": "facebook/dpr-ctx_encoder-multiset-base",
    "facebook/rag-token-base": "facebook/dpr-ctx_encoder-multiset-base",
}
_BY_LAST_PART = {name.rpartition("/")[2]: context for name, context in PAIRS.items()}


def context_encoder_of(question_encoder: str) -> str | None:
    """The context encoder that a question encoder, or a RAG model, was trained with.

    Args:
        question_encoder: Hub name, or a folder whose last part is that of a Hub name.

    Returns:
        A Hub name; None where the question encoder is none of the published ones.
    """
    return PAIRS.get(question_encoder) or _BY_LAST_PART.get(_last_part(question_encoder))


def is_known_mismatch(question_encoder: str, context_encoder: str) -> bool:
    """Whether both are published ones, and of two trainings.

    Args:
        question_encoder: Hub name or folder.
        context_encoder: the same, or the last part of one, as a manifest has it.
    """
    expected = context_encoder_of(question_encoder)
    known = {_last_part(name) for name in PAIRS.values()}
    found = _last_part(context_encoder)
    return expected is not None and found in known and found != _last_part(expected)


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


if __name__ == "__main__":  # for the scripts: the context encoder of a model, or an empty line
    print(context_encoder_of(sys.argv[1]) or "")
