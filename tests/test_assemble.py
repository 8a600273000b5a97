import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_encoders
import tiny_rag
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSeq2SeqLM,
    BertModel,
    DPRQuestionEncoder,
    RagTokenizer,
)

from rag_finetune.encoders.dpr import scale_vectors
from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
from rag_finetune.encoders.pooled import PooledEncoder
from rag_finetune.index.build import build_index
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag


@pytest.fixture(params=["bart", "t5"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def parts(tmp_path) -> dict[str, str]:
    return tiny_rag.save_parts(tmp_path / "parts")


def assemble(parts: dict[str, str], folder: Path, **options) -> Path:
    options = {"max_combined_length": 40, **options}
    return assemble_rag(parts["question_encoder"], parts["generator"], folder, **options)


def edit_config(folder: str, **changes) -> None:
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | changes), encoding="utf-8")


@pytest.mark.parametrize("model_type", ["rag_sequence", "rag_token"])
def test_parts_come_back_with_their_weights(tmp_path, kind, model_type):
    parts = tiny_rag.save_parts(tmp_path / "parts", kind)
    folder = assemble(parts, tmp_path / "assembled", model_type=model_type, n_docs=3)
    rag = load_rag(folder, with_index=False)
    assert (
        type(rag.model).__name__
        == {
            "rag_sequence": "RagSequenceForGeneration",
            "rag_token": "RagTokenForGeneration",
        }[model_type]
    )
    originals = {
        "question_encoder": DPRQuestionEncoder.from_pretrained(parts["question_encoder"]),
        "generator": AutoModelForSeq2SeqLM.from_pretrained(parts["generator"]),
    }
    for name, original in originals.items():
        loaded = getattr(rag.model.rag, name).state_dict()
        assert loaded.keys() == original.state_dict().keys()
        assert all(torch.equal(loaded[key], value) for key, value in original.state_dict().items())
    config = rag.model.config
    assert (config.n_docs, config.max_combined_length) == (3, 40)
    assert (config.index_name, config.retrieval_vector_size) == ("custom", 16)
    own = originals["generator"].config
    for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id", "vocab_size"):
        assert getattr(config, name) == getattr(config.generator, name) == getattr(own, name)


def test_tokenizers_are_those_of_the_parts(tmp_path, kind):
    parts = tiny_rag.save_parts(tmp_path / "parts", kind)
    rag = load_rag(assemble(parts, tmp_path / "assembled"), with_index=False)
    for name, expected in (("question_encoder", "bert"), ("generator", kind)):
        tokenizer = getattr(rag.tokenizer, name)
        text = "the house of ada is red ."
        assert tokenizer(text)["input_ids"] == tiny_rag.word_tokenizer(expected)(text)["input_ids"]
        assert tokenizer.pad_token_id == tiny_rag.word_tokenizer(expected).pad_token_id


def test_folder_holds_exactly_what_the_design_lists(tmp_path, parts):
    index = tiny_rag.tiny_index(tmp_path / "index")
    folder = assemble(parts, tmp_path / "assembled", index=index)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "generator_tokenizer",
        "model.safetensors",
        "question_encoder_tokenizer",
        "rag_index.json",
    ]
    assert json.loads((folder / "rag_index.json").read_text(encoding="utf-8")) == {
        "format_version": 1,
        "index": "../index",
        "fingerprint": index.manifest.fingerprint,
        "context_encoder": {"name": "tiny", "revision": None},
    }


def test_without_an_index_one_is_named_on_loading(tmp_path, parts):
    folder = assemble(parts, tmp_path / "assembled")
    assert not (folder / "rag_index.json").exists()
    with pytest.raises(ValueError, match=r"no index of its own. Name one: --index D"):
        load_rag(folder)
    tiny_rag.tiny_index(tmp_path / "index")
    assert len(load_rag(folder, index=tmp_path / "index").retriever.index) == 20


def test_index_is_found_through_a_linked_folder(tmp_path, parts):
    deep = tmp_path / "disk" / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "link").symlink_to(deep)
    index = tiny_rag.tiny_index(tmp_path / "index")
    folder = assemble(parts, tmp_path / "link" / "assembled", index=index)
    for path in (folder, deep / "assembled"):
        assert len(load_rag(path).retriever.index) == 20


def test_index_of_another_dimension_is_refused_and_nothing_is_left(tmp_path, parts):
    index = build_index(tiny_rag.passages(), tiny_rag.context_encoder(32), tmp_path / "index")
    with pytest.raises(ValueError, match="expected vectors of dimension 16"):
        assemble(parts, tmp_path / "assembled", index=index)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "parts"]


def test_generation_settings_replace_the_generators_own(tmp_path, parts):
    folder = Path(parts["generator"])
    path = folder / "generation_config.json"
    own = json.loads(path.read_text(encoding="utf-8")) | {"num_beams": 4, "no_repeat_ngram_size": 3}
    path.write_text(json.dumps(own), encoding="utf-8")
    rag = load_rag(
        assemble(parts, tmp_path / "assembled", generation={"num_beams": 2, "max_new_tokens": 9}),
        with_index=False,
    )
    settings = rag.model.generation_config
    assert (settings.num_beams, settings.no_repeat_ngram_size, settings.max_new_tokens) == (2, 3, 9)
    assert rag.model.rag.generator.generation_config is settings


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"num_beam": 3}, 'no setting "num_beam". Did you mean "num_beams"'),
        ({"zzz": 3}, 'no setting "zzz". See transformers.GenerationConfig'),
        ({"length_penalty": 2.0}, "GenerationConfig is invalid"),  # without beams
    ],
)
def test_generation_settings_that_do_nothing_are_refused(tmp_path, parts, generation, message):
    with pytest.raises(ValueError, match=message):
        assemble(parts, tmp_path / "assembled", generation=generation)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


# ---- Parts that cannot be joined ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "rag"}, 'model_type must be rag_sequence or rag_token, found "rag"'),
        ({"n_docs": 0}, "n_docs must be at least 1, found 0"),
        ({"max_combined_length": 0}, "max_combined_length must be at least 1, found 0"),
        ({"max_combined_length": 129}, "129 is more than the 128 positions of the generator"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, parts, options, message):
    with pytest.raises(ValueError, match=message):
        assemble(parts, tmp_path / "assembled", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_parts_in_each_others_place_are_refused(tmp_path, parts):
    swapped = {"question_encoder": parts["generator"], "generator": parts["question_encoder"]}
    with pytest.raises(ValueError, match=r'expected a question encoder, found .* "bart"'):
        assemble(swapped, tmp_path / "assembled")
    context = parts | {"question_encoder": parts["context_encoder"]}
    with pytest.raises(ValueError, match="Was the other encoder of the pair meant"):
        assemble(context, tmp_path / "assembled")


@pytest.mark.parametrize("role", ["question_encoder", "generator"])
def test_a_part_that_is_not_there_is_named(tmp_path, parts, role):
    missing = parts | {role: str(tmp_path / "nothing")}
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        assemble(missing, tmp_path / "assembled")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": 2}, "pad_token_id and eos_token_id are both 2"),
        ({"pad_token_id": 3}, "the tokenizer does not belong to the model: padding id 1 against 3"),
        ({"decoder_start_token_id": None}, "must set decoder_start_token_id and pad_token_id"),
    ],
)
def test_generator_that_could_not_learn_is_refused(tmp_path, parts, changes, message):
    edit_config(parts["generator"], **changes)
    with pytest.raises(ValueError, match=message):
        assemble(parts, tmp_path / "assembled")


def test_generator_with_missing_weights_is_refused(tmp_path, parts):
    path = Path(parts["generator"]) / "model.safetensors"
    weights = load_file(path)
    removed = next(name for name in sorted(weights) if "fc1" in name)
    del weights[removed]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf'not the weights of a generator: 1 .*"{removed}"'):
        assemble(parts, tmp_path / "assembled")


def test_larger_vocabulary_than_the_generators_is_refused(tmp_path, parts):
    tokenizer = tiny_rag.word_tokenizer("bart")
    tokenizer.add_tokens(["tokyo", "berlin"])
    tokenizer.save_pretrained(parts["generator"])
    size = len(tiny_rag.word_tokenizer("bart"))
    with pytest.raises(ValueError, match=f"{size + 2} tokens against {size}"):
        assemble(parts, tmp_path / "assembled")


def test_folder_that_holds_something_is_left_alone(tmp_path, parts):
    (tmp_path / "assembled").mkdir()
    (tmp_path / "assembled" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="already exists and is not empty"):
        assemble(parts, tmp_path / "assembled")
    assert [path.name for path in (tmp_path / "assembled").iterdir()] == ["mine.txt"]


def test_half_precision_parts_are_joined_in_float32(tmp_path, parts):
    for role, cls in (
        ("question_encoder", DPRQuestionEncoder),
        ("generator", AutoModelForSeq2SeqLM),
    ):
        cls.from_pretrained(parts[role]).to(torch.bfloat16).save_pretrained(parts[role])
    folder = assemble(parts, tmp_path / "assembled")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {
        torch.float32
    }
    dtypes = {p.dtype for p in load_rag(folder, with_index=False).model.parameters()}
    assert dtypes == {torch.float32}


# ---- Question encoders that are not DPR's ----

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()[:4]]
PROMPTS = {"prompts": {"query": "who lives in ", "document": "the "}}


def question_vectors(rag) -> torch.Tensor:
    tokens = rag.tokenizer.question_encoder(QUESTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return rag.model.question_encoder(**tokens)[0]


@pytest.fixture
def sentence_parts(tmp_path, parts) -> dict[str, str]:
    encoder = tiny_encoders.save_sentence_folder(tmp_path / "encoder", settings=PROMPTS)
    return parts | {"question_encoder": encoder}


@pytest.mark.parametrize(
    ("options", "scale"), [({}, 20.0), ({"scale": 3.0}, 3.0), ({"normalize": False}, 1.0)]
)
def test_a_normalised_encoder_is_scaled_and_keeps_that(tmp_path, sentence_parts, options, scale):
    folder = assemble(sentence_parts, tmp_path / "assembled", **options)
    rag = load_rag(folder, with_index=False)
    assert type(rag.model.question_encoder) is PooledEncoder
    assert rag.model.config.question_encoder.scale == scale
    texts = ["who lives in " + question for question in QUESTIONS]
    expected = scale * tiny_encoders.reference(
        BertModel.from_pretrained(sentence_parts["question_encoder"]),
        texts,
        pooling="mean",
        normalize=options.get("normalize", True),
    )
    assert torch.allclose(question_vectors(rag), expected, atol=1e-5 * expected.abs().max())


def test_the_scale_that_an_encoder_was_saved_with_is_kept(tmp_path, sentence_parts):
    encoder = load_question_encoder(sentence_parts["question_encoder"])
    scale_vectors(encoder.model, 7.0)
    encoder.save(tmp_path / "scaled")
    parts = {**sentence_parts, "question_encoder": str(tmp_path / "scaled")}
    rag = load_rag(assemble(parts, tmp_path / "assembled"), with_index=False)
    assert rag.model.config.question_encoder.scale == 7


@pytest.mark.parametrize("scale", [0.0, -20.0, float("nan")])
def test_a_scale_that_is_not_above_0_is_refused(tmp_path, parts, scale):
    with pytest.raises(ValueError, match="scale must be a number above 0"):
        assemble(parts, tmp_path / "assembled", scale=scale)


def test_the_scale_of_a_dpr_model_is_in_its_weights(tmp_path, parts):
    plain = load_rag(assemble(parts, tmp_path / "plain"), with_index=False)
    scaled = load_rag(assemble(parts, tmp_path / "scaled", scale=8.0), with_index=False)
    assert torch.equal(question_vectors(scaled), 8 * question_vectors(plain))


def test_a_bert_with_cls_pooling_needs_nothing_of_ours_to_load(tmp_path, parts):
    bare = parts | {"question_encoder": tiny_encoders.save_bare(tmp_path / "bert")}
    folder = assemble(bare, tmp_path / "assembled", pooling="cls")
    rag = load_rag(folder, with_index=False)
    assert type(rag.model.question_encoder) is DPRQuestionEncoder
    expected = tiny_encoders.reference(
        BertModel.from_pretrained(bare["question_encoder"]),
        QUESTIONS[:1],
        pooling="cls",
        normalize=False,
    )
    assert torch.equal(question_vectors(rag)[:1], expected)


def test_no_file_of_a_pooled_checkpoint_holds_a_path(tmp_path, sentence_parts):
    folder = assemble(sentence_parts, tmp_path / "assembled")
    load_rag(folder, with_index=False)
    for path in folder.rglob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path


def test_a_prefix_is_kept_by_plain_transformers_and_read_by_the_generator(tmp_path, parts):
    index = tiny_rag.tiny_index(tmp_path / "index")
    folder = assemble(parts, tmp_path / "assembled", index=index, question_prefix="who is ")
    tokenizer = RagTokenizer.from_pretrained(folder)
    plain = tiny_rag.word_tokenizer("bert")
    for text in QUESTIONS:
        assert dict(tokenizer.question_encoder(text)) == dict(plain("who is " + text))
    again = load_rag(assemble(parts | {}, tmp_path / "again", question_prefix=""), with_index=False)
    assert again.tokenizer.question_encoder("red")["input_ids"] == plain("red")["input_ids"]
    rag = load_rag(folder)
    ids = rag.tokenizer.question_encoder(QUESTIONS[:1], return_tensors="pt")["input_ids"]
    found = rag.retriever(ids, question_vectors(rag)[:1].numpy(), return_tensors="pt")
    contexts = rag.tokenizer.generator.batch_decode(
        found["context_input_ids"], skip_special_tokens=True
    )
    assert all(context.endswith("// who is " + QUESTIONS[0]) for context in contexts)


def test_an_encoder_is_no_generator(tmp_path, parts):
    bert = tiny_encoders.save_bare(tmp_path / "bert")
    with pytest.raises(ValueError, match=r'expected a generator, .* found model type "bert"'):
        assemble(parts | {"generator": bert}, tmp_path / "assembled")


PLAIN = """
import sys, torch
from transformers import RagRetriever, RagSequenceForGeneration, RagTokenizer
folder, index = sys.argv[1:]
try:
    RagSequenceForGeneration.from_pretrained(folder)
except KeyError as error:
    print(error)
import rag_finetune
rag_finetune.register()
torch.set_num_threads(1)
paths = {"passages_path": index + "/passages", "index_path": index + "/dense.faiss"}
retriever = RagRetriever.from_pretrained(folder, index_name="custom", **paths)
model = RagSequenceForGeneration.from_pretrained(folder, retriever=retriever).eval()
tokenizer = RagTokenizer.from_pretrained(folder)
questions = ["what is the house of ada ?", "what is the house of ben ?"]
tokens = tokenizer.question_encoder(questions, padding=True, return_tensors="pt")
target = tokenizer.generator(["old red oslo"] * 2, return_tensors="pt")["input_ids"]
labels = torch.cat([torch.full((2, 1), 2), target], dim=1)
with torch.no_grad():
    masked = model(**tokens, labels=labels).loss
    unmasked = model(tokens["input_ids"], labels=labels).loss
    sequences = model.generate(tokens["input_ids"], num_beams=2, max_new_tokens=5)
print(*masked.tolist(), *unmasked.tolist())
print(len(sequences))
"""


def test_a_pooled_checkpoint_gives_the_same_loss_in_plain_transformers(tmp_path, sentence_parts):
    encoder = load_context_encoder(sentence_parts["question_encoder"])
    index = build_index(tiny_rag.passages(), encoder, tmp_path / "old" / "index")
    assemble(sentence_parts, tmp_path / "old" / "assembled", index=index)
    (tmp_path / "old").rename(tmp_path / "new")
    shutil.rmtree(tmp_path / "encoder")
    words = [tmp_path / "new" / "assembled", tmp_path / "new" / "index"]
    command = [sys.executable, "-c", PLAIN, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unregistered, losses, count = done.stdout.splitlines()[-3:]
    assert unregistered == "'pooled_encoder'"
    rag = load_rag(tmp_path / "new" / "assembled")
    questions = ["what is the house of ada ?", "what is the house of ben ?"]
    tokens = rag.tokenizer.question_encoder(questions, padding=True, return_tensors="pt")
    target = rag.tokenizer.generator(["old red oslo"] * 2, return_tensors="pt")["input_ids"]
    labels = torch.cat([torch.full((2, 1), 2), target], dim=1)
    with torch.no_grad():
        expected = rag.model(**tokens, labels=labels).loss.tolist()
    assert [float(loss) for loss in losses.split()] == pytest.approx(expected * 2, rel=1e-5)
    assert count == "2"
    saved = load_context_encoder(str(tmp_path / "new" / "index" / "context_encoder"))
    assert saved.fingerprint() == index.manifest.fingerprint
