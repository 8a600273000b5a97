import pytest

from rag_finetune.training.causal_arguments import CausalTrainingArguments


def arguments(tmp_path, **options):
    return CausalTrainingArguments(output_dir=str(tmp_path), eval_strategy="no", **options)


def test_the_generator_alone_learns_by_default(tmp_path):
    args = arguments(tmp_path)
    assert args.trainable == ["generator"]
    assert args.max_target_length is None  # the checkpoint's own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 0}, "lora_rank must be at least 1, found 0"),
        (
            {"lora_rank": 2, "trainable": ["question_encoder"]},
            "lora_rank is set, but the generator does not learn",
        ),
        ({"decoding": "fast"}, "--decoding fast is for RAG-Sequence"),
        ({"index_refresh": "blocking"}, "--index_refresh blocking cannot be used: the context enc"),
        ({"max_target_length": 0}, "max_target_length must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **options)


def test_processes_that_do_not_see_each_other_are_an_error(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"this one is alone.*train-causal"):
        args._check_world()
