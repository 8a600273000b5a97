"""What options of training, and reasons for refusing some, are held to."""

from collections.abc import Mapping


def require_reason(refused: Mapping[str, str], name: str) -> None:
    """A reason fits into a sentence, and one that points elsewhere points at another refusal."""
    reason = refused[name]
    assert reason
    assert not reason.endswith(".")
    if reason.startswith("see --"):
        assert reason.removeprefix("see --") in refused
