import pytest
import tiny_encoders

from rag_finetune.encoders.conventions import (
    PASSAGE,
    QUESTION,
    Convention,
    agree,
    family_convention,
    folder_convention,
)


def folder(path, **options) -> str:
    return tiny_encoders.save_sentence_folder(path, **options)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_folder_says_how_it_pools(tmp_path, pooling, normalize):
    name = folder(tmp_path, pooling=pooling, normalize=normalize, max_seq_length=7)
    assert folder_convention(name, QUESTION) == Convention(pooling, normalize, None, 7)


def test_the_network_may_stand_in_a_folder_of_its_own(tmp_path):
    name = folder(tmp_path, subfolder="0_Transformer", max_seq_length=9)
    found = folder_convention(name, QUESTION)
    assert found == Convention("mean", True, None, 9, "0_Transformer", lower_case=False)


def test_a_later_release_names_its_pooling_in_one_word(tmp_path):
    name = folder(tmp_path)
    path = tmp_path / "1_Pooling" / "config.json"
    tiny_encoders.write(path, {"pooling_mode": "cls", "include_prompt": True})
    assert folder_convention(name, QUESTION).pooling == "cls"


def test_prompts_are_those_of_the_side(tmp_path):
    prompts = {"query": "query: ", "document": "passage: ", "clustering": "cluster: "}
    name = folder(tmp_path, settings={"prompts": prompts})
    assert folder_convention(name, QUESTION).prefix == "query: "
    assert folder_convention(name, PASSAGE).prefix == "passage: "


def test_the_default_prompt_serves_where_the_side_has_none_and_an_empty_one_says_nothing(tmp_path):
    settings = {"prompts": {"query": "", "all": "text: "}, "default_prompt_name": "all"}
    name = folder(tmp_path, settings=settings)
    assert folder_convention(name, PASSAGE).prefix == "text: "
    tiny_encoders.write(
        tmp_path / "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}}
    )
    assert folder_convention(name, QUESTION).prefix is None


def test_cosine_similarity_means_normalised_vectors(tmp_path):
    name = folder(tmp_path, normalize=False, settings={"similarity_fn_name": "cosine"})
    assert folder_convention(name, QUESTION).normalize is True
    tiny_encoders.write(
        tmp_path / "config_sentence_transformers.json", {"similarity_fn_name": "dot"}
    )
    assert folder_convention(name, QUESTION).normalize is False


def test_a_folder_without_modules_says_nothing(tmp_path):
    assert folder_convention(tiny_encoders.save_bare(tmp_path), QUESTION) is None


# ---- What is refused ----


def test_modules_that_change_the_vectors_are_refused_by_name(tmp_path):
    name = folder(tmp_path, normalize=False, more=("Dense",))
    with pytest.raises(
        ValueError, match=r"modules.json: expected .* found Transformer, Pooling, D"
    ):
        folder_convention(name, QUESTION)
    with pytest.raises(ValueError, match="cannot be had without Dense: choose another encoder"):
        folder_convention(name, QUESTION)


def test_another_pooling_is_refused(tmp_path):
    name = folder(tmp_path, pooling="max")
    with pytest.raises(ValueError, match='expected pooling cls or mean, found "max"'):
        folder_convention(name, QUESTION)
    path = tmp_path / "1_Pooling" / "config.json"
    both = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    tiny_encoders.write(path, both)
    with pytest.raises(ValueError, match='found "cls and mean"'):
        folder_convention(name, QUESTION)
    tiny_encoders.write(path, {"pooling_mode_mean_tokens": True, "include_prompt": False})
    with pytest.raises(ValueError, match="found one that leaves the prompt out"):
        folder_convention(name, QUESTION)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[\n{", r"modules.json:2: not JSON"),
        ("{}", "modules.json: expected a list, found an object"),
        ('["a"]', 'modules.json: expected objects with a "type"'),
        ("[]", "found nothing. Its vectors cannot be had"),
    ],
)
def test_damaged_modules_are_an_error_that_names_the_file(tmp_path, text, message):
    name = folder(tmp_path)
    (tmp_path / "modules.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        folder_convention(name, QUESTION)


# ---- Names ----


@pytest.mark.parametrize(
    ("name", "pooling", "question", "passage"),
    [
        (
            "BAAI/bge-small-en-v1.5",
            "cls",
            "Represent this sentence for searching relevant passages: ",
            None,
        ),
        ("intfloat/e5-base-v2", "mean", "query: ", "passage: "),
        ("models/multilingual-e5-large", "mean", "query: ", "passage: "),
        ("thenlper/gte-base", "mean", None, None),
    ],
)
def test_families_are_known_by_name(name, pooling, question, passage):
    assert family_convention(name, QUESTION) == Convention(pooling, True, question)
    assert family_convention(name, PASSAGE) == Convention(pooling, True, passage)


@pytest.mark.parametrize(
    "name", ["intfloat/multilingual-e5-large-instruct", "org/my-bge-small-en", "bert-base-uncased"]
)
def test_what_only_looks_like_a_family_is_none(name):
    assert family_convention(name, QUESTION) == Convention()


def test_the_caller_comes_first_then_the_folder_then_the_name():
    told = Convention("cls", None, None)
    with pytest.warns(UserWarning, match='e5-base: by its name .* with cls pooling, .*"query: "'):
        how = agree("e5-base", QUESTION, Convention(normalize=False), told)
    assert how == Convention("cls", False, "query: ")
    asked = Convention("mean", True, "ask: ")
    assert agree("e5-base", QUESTION, asked, told) == asked  # and warns of nothing


def test_where_nothing_says_how_to_pool_the_mean_is_taken_and_said():
    with pytest.warns(UserWarning, match="nothing says how .* mean pooling, not normalised"):
        how = agree("encoder", QUESTION, Convention(), None)
    assert how == Convention("mean", False, None)
