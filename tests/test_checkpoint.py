import os
import shutil
import signal
import tempfile
import traceback
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
import torch
from safetensors.torch import load_file
from transformers import (
    RagRetriever,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from rag_finetune.data.passages import load_passages
from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.build import build_index
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.index.update import update_index
from rag_finetune.rag import checkpoint
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import (
    Rag,
    index_mode,
    load_index_reference,
    load_rag,
    place_index,
    save_rag,
)
from rag_finetune.rag.generation import generate_answers

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()[:4]]
HEADS = {"rag_sequence": RagSequenceForGeneration, "rag_token": RagTokenForGeneration}
MODEL_TYPES = pytest.mark.parametrize("model_type", HEADS)
KINDS = pytest.mark.parametrize("kind", ["bart", "t5"])
SETTINGS = {"num_beams": 3, "no_repeat_ngram_size": 2, "length_penalty": 1.5, "max_new_tokens": 6}


def labels_of(tokenizer: RagTokenizer, model) -> torch.Tensor:
    ids = tokenizer.generator(["old black quito"] * 4, return_tensors="pt")["input_ids"]
    start = ids.new_full((4, 1), model.config.generator.decoder_start_token_id)
    return torch.cat([start, ids], dim=1)


def outputs(rag: Rag) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Logits, losses and answers; what must be the same after saving and moving."""
    tokens = rag.tokenizer.question_encoder(QUESTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = rag.model(**tokens, labels=labels_of(rag.tokenizer, rag.model))
    return found.logits, found.loss, generate_answers(rag, QUESTIONS, num_beams=2, max_new_tokens=5)


def assert_same(first: tuple, second: tuple) -> None:
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[2] == second[2]


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def whole_job(folder: Path, kind: str = "bart", model_type: str = "rag_sequence") -> Rag:
    """Parts, passages, index and checkpoint, all read from files of the folder."""
    parts = tiny_rag.save_parts(folder / "parts", kind)
    lines = [f"{f['id']}\t{f['text']}\t{f['title']}" for f in tiny_rag.facts()]
    (folder / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]), encoding="utf-8")
    index = build_index(
        load_passages([folder / "passages.tsv"]),
        load_context_encoder(parts["context_encoder"]),
        folder / "index",
    )
    assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        folder / "assembled",
        model_type=model_type,
        index=index,
        max_combined_length=40,
    )
    return load_rag(folder / "assembled")


# ---- One movable folder ----


@MODEL_TYPES
@KINDS
def test_moved_checkpoint_gives_the_same_from_another_working_directory(
    tmp_path, monkeypatch, kind, model_type
):
    before = outputs(whole_job(tmp_path / "old", kind, model_type))
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_same(outputs(load_rag(tmp_path / "new" / "assembled")), before)
    assert_same(outputs(load_rag("../new/assembled")), before)


def test_checkpoint_with_its_index_moves_alone(tmp_path):
    rag = whole_job(tmp_path / "old")
    before = outputs(rag)
    place_index(rag.retriever.index, tmp_path / "old" / "assembled", "copy", ours=False)
    (tmp_path / "old" / "assembled").rename(tmp_path / "alone")
    shutil.rmtree(tmp_path / "old")
    assert_same(outputs(load_rag(tmp_path / "alone")), before)


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_no_file_that_is_loaded_holds_a_path(tmp_path, mode):
    rag = whole_job(tmp_path / "old")
    folder = tmp_path / "old" / "saved"
    save_rag(rag.model, rag.tokenizer, folder)
    place_index(rag.retriever.index, folder, mode, ours=False)
    loaded = load_rag(folder)
    save_rag(loaded.model, loaded.tokenizer, folder)  # as training from it would
    read = files_of(folder) + files_of(loaded.retriever.index.folder)
    assert {path.name for path in read} >= {"config.json", "dense.faiss", "state.json"}
    assert not [path for path in read if str(tmp_path).encode() in path.read_bytes()]
    assert not [path for path in read if path.suffix in (".bin", ".pkl", ".pt", ".pickle")]


def test_read_only_checkpoint_loads(tmp_path):
    rag = whole_job(tmp_path)
    before = outputs(rag)
    place_index(rag.retriever.index, tmp_path / "assembled", "copy", ours=False)
    folders = [tmp_path / "assembled", *(tmp_path / "assembled").rglob("*")]
    for path in folders:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        listing = sorted(folders)
        assert_same(outputs(load_rag(tmp_path / "assembled")), before)
        assert sorted([folders[0], *folders[0].rglob("*")]) == listing
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="needs to be root")
def test_another_user_loads_a_folder_that_it_cannot_write():
    # Not tmp_path, which only its owner may enter.
    folder = Path(tempfile.mkdtemp())
    try:
        rag = whole_job(folder)
        place_index(rag.retriever.index, folder / "assembled", "copy", ours=False)
        folder.chmod(0o755)
        loaded = load_rag(folder / "assembled")  # all that is imported lazily, too
        logits = loaded.model(**contexts_of(loaded)).logits.detach()
        child = os.fork()
        if child == 0:
            _load_as_nobody(folder / "assembled", logits)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        shutil.rmtree(folder)


def contexts_of(rag: Rag) -> dict[str, torch.Tensor]:
    """A forward pass without a search."""
    contexts = rag.tokenizer.generator(["red oslo"] * 5, return_tensors="pt")
    return {
        "context_input_ids": contexts["input_ids"],
        "context_attention_mask": contexts["attention_mask"],
        "doc_scores": torch.zeros(1, 5),
        "decoder_input_ids": torch.zeros(1, 3, dtype=torch.long),
    }


def _load_as_nobody(folder: Path, logits: torch.Tensor) -> None:
    """In a child process: exit code 0 when another user can load the folder and not write it."""
    code = 1
    try:
        signal.alarm(120)  # a child that hangs must not outlive the test
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        torch.set_num_threads(1)
        assert not os.access(folder, os.W_OK)
        rag = load_rag(folder)
        with torch.no_grad():  # without a search: FAISS hangs in a forked child
            found = rag.model(**contexts_of(rag))
        torch.testing.assert_close(found.logits, logits)
        assert rag.retriever.index.gather(torch.arange(3).numpy())[0][0]["text"]
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# ---- Plain Transformers ----


@MODEL_TYPES
@KINDS
def test_plain_transformers_loads_the_folder_and_gives_the_same_loss(tmp_path, kind, model_type):
    rag = whole_job(tmp_path, kind, model_type)
    folder, index = tmp_path / "assembled", rag.retriever.index.folder
    model = HEADS[model_type].from_pretrained(folder).eval()
    tokenizer = RagTokenizer.from_pretrained(folder)
    retriever = RagRetriever.from_pretrained(
        folder,
        index_name="custom",
        passages_path=str(index / "passages"),
        index_path=str(index / "dense.faiss"),
    )
    model.set_retriever(retriever)
    tokens = tokenizer.question_encoder(QUESTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        loss = model(**tokens, labels=labels_of(tokenizer, model)).loss
    torch.testing.assert_close(loss, outputs(rag)[1], rtol=1e-5, atol=0)


@MODEL_TYPES
@KINDS
def test_plain_generate_works_after_reloading(tmp_path, kind, model_type):
    whole_job(tmp_path, kind, model_type)
    rag = load_rag(tmp_path / "assembled")
    save_rag(rag.model, rag.tokenizer, tmp_path / "again")
    rag = load_rag(tmp_path / "again", index=tmp_path / "index")
    tokens = rag.tokenizer.question_encoder(QUESTIONS[:1], return_tensors="pt")
    sequences = rag.model.generate(**tokens, num_beams=2, max_length=6)
    assert sequences.shape[0] == 1 and 2 <= sequences.shape[1] <= 6
    assert sequences[0, 0] == rag.model.config.generator.decoder_start_token_id


# ---- Settings ----


@MODEL_TYPES
@KINDS
def test_generation_settings_survive_saving_and_loading(tmp_path, kind, model_type):
    parts = tiny_rag.save_parts(tmp_path / "parts", kind)
    red = tiny_rag.word_tokenizer(kind).get_vocab()["red"]
    wanted = SETTINGS | {"forced_bos_token_id": red}
    assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        tmp_path / "assembled",
        model_type=model_type,
        index=tiny_rag.tiny_index(tmp_path / "index"),
        max_combined_length=40,
        generation=wanted,
    )
    rag = load_rag(tmp_path / "assembled")
    save_rag(rag.model, rag.tokenizer, tmp_path / "again")
    again = load_rag(tmp_path / "again", index=tmp_path / "index")
    for loaded in (rag, again):
        for settings in (loaded.model.generation_config, loaded.model.generator.generation_config):
            assert {name: getattr(settings, name) for name in wanted} == wanted
        answer = generate_answers(loaded, QUESTIONS[:1])[0][0].text.split()
        assert answer[0] == "red" and len(answer) <= SETTINGS["max_new_tokens"]
        assert len(set(pairwise(answer))) == len(answer) - 1  # no pair twice


def test_settings_set_on_a_loaded_model_are_saved(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    rag.model.generation_config.num_beams = 7
    save_rag(rag.model, rag.tokenizer, tmp_path / "again")
    assert load_rag(tmp_path / "again", with_index=False).model.generation_config.num_beams == 7


def test_the_head_can_be_changed_on_loading(tmp_path):
    tiny_rag.tiny_rag(tmp_path, generation=SETTINGS)
    rag = load_rag(tmp_path / "assembled", model_type="rag_token")
    assert isinstance(rag.model, RagTokenForGeneration)
    assert rag.model.generation_config.num_beams == 3
    save_rag(rag.model, rag.tokenizer, tmp_path / "token")
    again = load_rag(tmp_path / "token", index=tmp_path / "index")
    assert isinstance(again.model, RagTokenForGeneration)
    assert_same(outputs(again), outputs(rag))
    weights = load_file(tmp_path / "assembled" / "model.safetensors")
    same = load_file(tmp_path / "token" / "model.safetensors")
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_checkpoint_of_the_hub_keeps_its_generation_settings(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    rag = tiny_rag.tiny_rag(tmp_path, generation=SETTINGS)
    tiny_rag.publish(tmp_path / "assembled", "org/rag", tmp_path / "cache")
    loaded = load_rag("org/rag", index=tmp_path / "index")
    assert loaded.model.generation_config.num_beams == 3
    assert_same(outputs(loaded), outputs(rag))
    with pytest.raises(
        ValueError, match=r"org/rag: .* a model of the Hub has no index\. .* --index D"
    ):
        load_rag("org/rag")


# ---- Saving ----


def test_saving_again_replaces_the_weights_and_leaves_nothing_else(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    save_rag(rag.model, rag.tokenizer, tmp_path / "saved")
    names = sorted(path.name for path in files_of(tmp_path / "saved"))
    with torch.no_grad():
        next(rag.model.parameters()).add_(1)
    save_rag(rag.model, rag.tokenizer, tmp_path / "saved")
    assert sorted(path.name for path in files_of(tmp_path / "saved")) == names
    loaded = load_rag(tmp_path / "saved", with_index=False)
    assert torch.equal(next(loaded.model.parameters()), next(rag.model.parameters()))


def test_saved_weights_may_be_read_by_whoever_may_read_the_configuration(job):
    (mode,) = {path.stat().st_mode for path in files_of(job / "bare")}
    assert mode == (job / "bare" / "config.json").stat().st_mode


def test_failure_while_saving_leaves_the_old_files(tmp_path, monkeypatch):
    rag = tiny_rag.tiny_rag(tmp_path)
    save_rag(rag.model, rag.tokenizer, tmp_path / "saved")
    before = {path: path.read_bytes() for path in files_of(tmp_path / "saved")}

    def full_disk(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(RagTokenizer, "save_pretrained", full_disk)
    with torch.no_grad():
        next(rag.model.parameters()).add_(1)
    with pytest.raises(OSError, match="disk full"):
        save_rag(rag.model, rag.tokenizer, tmp_path / "saved")
    assert {path: path.read_bytes() for path in files_of(tmp_path / "saved")} == before


# ---- Where the index is ----


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A folder with an index and a checkpoint without one, which tests leave as they are."""
    return tiny_rag.bare_rag(tmp_path_factory.mktemp("job"))


@pytest.fixture
def bare(job, tmp_path) -> Path:
    """A copy of the checkpoint without an index."""
    return shutil.copytree(job / "bare", tmp_path / "checkpoint")


@pytest.fixture
def index(job) -> PassageIndex:
    return open_index(job / "index")


def test_copied_index_is_inside_and_whole(bare, index):
    place_index(index, bare, "copy", ours=False)
    reference = load_index_reference(bare)
    assert (reference["index"], reference["fingerprint"]) == ("index", index.manifest.fingerprint)
    for path in files_of(index.folder):
        copy = bare / "index" / path.relative_to(index.folder)
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_ino != path.stat().st_ino
    assert load_rag(bare).retriever.index.folder == bare / "index"


def test_copy_of_our_own_index_shares_its_bytes(bare, index, tmp_path):
    place_index(index, bare, "copy", ours=False)
    other = shutil.copytree(bare, tmp_path / "other", ignore=shutil.ignore_patterns("index"))
    place_index(open_index(bare / "index"), other, "copy", ours=True)
    for name in ("dense.faiss", "manifest.json"):
        first, second = bare / "index" / name, other / "index" / name
        assert first.stat().st_ino == second.stat().st_ino
    shutil.rmtree(bare)
    assert len(load_rag(other).retriever.index) == 20


def test_the_same_index_is_copied_once(bare, index):
    place_index(index, bare, "copy", ours=False)
    before = (bare / "index" / "dense.faiss").stat().st_ino
    place_index(index, bare, "copy", ours=False)
    place_index(open_index(bare / "index"), bare, "copy", ours=True)  # onto itself
    assert (bare / "index" / "dense.faiss").stat().st_ino == before
    assert load_rag(bare)


def test_token_caches_are_no_part_of_the_copy_and_its_size(bare, index, monkeypatch):
    place_index(index, bare, "copy", ours=False)
    before = (bare / "index" / "dense.faiss").stat().st_ino
    monkeypatch.setattr(checkpoint, "COPY_LIMIT", 10_000_000)
    (index.folder / "tokens").mkdir()
    (index.folder / "tokens" / "a.bin").write_bytes(bytes(10_000_001))
    try:
        assert index_mode(index, None) == "copy"
        place_index(index, bare, "copy", ours=False)
        assert (bare / "index" / "dense.faiss").stat().st_ino == before
        shutil.rmtree(bare / "index")
        place_index(index, bare, "copy", ours=False)
    finally:
        shutil.rmtree(index.folder / "tokens")
    assert not (bare / "index" / "tokens").exists() and load_rag(bare)


def test_only_the_token_caches_themselves_are_left_out_of_a_copy(bare, index):
    deeper = index.folder / "more" / "tokens"
    deeper.mkdir(parents=True)
    try:
        place_index(index, bare, "copy", ours=False)
    finally:
        shutil.rmtree(deeper.parent)
    assert (bare / "index" / "more" / "tokens").is_dir()


def test_a_checkpoint_gets_one_version_of_an_index_that_is_updated_while_it_is_copied(
    bare, index, tmp_path, monkeypatch
):
    source = shutil.copytree(index.folder, tmp_path / "source")
    opened, plain, done = open_index(source), shutil.copy2, []

    def late(*arguments, **options):
        if not done:
            done.append(update_index(source, remove=["1"]))
        return plain(*arguments, **options)

    monkeypatch.setattr(shutil, "copy2", late)
    place_index(opened, bare, "copy", ours=False)
    placed = load_rag(bare).retriever.index
    assert placed.passages["id"][:] == [str(number) for number in range(2, 21)]
    vectors = placed.vectors_at(np.arange(19))
    best = (vectors @ vectors.T).max(axis=1)
    np.testing.assert_allclose(placed.search(vectors, 1)[0][:, 0], best, rtol=1e-5)
    assert (bare / "index/dense.faiss").read_bytes() == (source / "dense.faiss").read_bytes()


def test_another_index_takes_the_place_of_the_copy(bare, index, tmp_path):
    place_index(index, bare, "copy", ours=False)
    smaller = build_index(
        tiny_rag.passages().select(range(7)), tiny_rag.context_encoder(), tmp_path / "smaller"
    )
    place_index(smaller, bare, "copy", ours=False)
    assert len(load_rag(bare).retriever.index) == 7
    assert sorted(p.name for p in bare.iterdir() if p.name.startswith(".")) == []


def test_linked_index_is_a_relative_path_that_moves_along(index, bare, tmp_path):
    inside = shutil.copytree(index.folder, tmp_path / "index")
    place_index(open_index(inside), bare, "link", ours=False)
    assert load_index_reference(bare)["index"] == "../index"
    assert not (bare / "index").exists()
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)
    try:
        assert len(load_rag(moved / "checkpoint").retriever.index) == 20
        shutil.rmtree(moved / "index")
        with pytest.raises(FileNotFoundError, match=r"was at \.\./index.*no longer.*--index D"):
            load_rag(moved / "checkpoint")
    finally:
        moved.rename(tmp_path)


def test_linked_index_is_found_through_links(index, bare, tmp_path):
    deep = tmp_path / "disk" / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "link").symlink_to(deep)
    checkpoint_folder = tmp_path / "link" / "checkpoint"
    shutil.copytree(bare, checkpoint_folder)
    place_index(index, checkpoint_folder, "link", ours=False)
    assert load_rag(checkpoint_folder) and load_rag(deep / "checkpoint")


def test_no_index_keeps_the_fingerprint(index, bare, job, tmp_path):
    place_index(index, bare, "none", ours=False)
    assert load_index_reference(bare)["index"] is None
    with pytest.raises(ValueError, match="no index of its own"):
        load_rag(bare)
    assert len(load_rag(bare, index=job / "index").retriever.index) == 20
    assert len(load_rag(bare, index=index).retriever.index) == 20
    other = build_index(tiny_rag.passages(), tiny_rag.context_encoder(seed=9), tmp_path / "other")
    for wrong in (other, other.folder):
        with pytest.raises(ValueError, match=r"expected vectors of the encoder with fingerprint"):
            load_rag(bare, index=wrong)


def test_an_opened_index_is_found_from_another_working_directory(job, bare, tmp_path, monkeypatch):
    monkeypatch.chdir(job)
    opened = open_index("index")
    monkeypatch.chdir(tmp_path)
    place_index(opened, bare, "link", ours=False)
    assert len(load_rag(bare).retriever.index) == len(load_rag(bare, index=opened).retriever.index)


def test_small_index_is_copied_and_a_large_one_linked(index, bare, monkeypatch):
    size = sum(path.stat().st_size for path in files_of(index.folder))
    monkeypatch.setattr(checkpoint, "COPY_LIMIT", size - 1)
    place_index(index, bare, None, ours=False)
    assert not (bare / "index").exists()
    monkeypatch.setattr(checkpoint, "COPY_LIMIT", size)
    place_index(index, bare, None, ours=False)
    assert load_index_reference(bare)["index"] == "index" and (bare / "index").is_dir()


def test_unknown_way_to_place_an_index_is_refused(index, bare):
    with pytest.raises(ValueError, match='must be copy, link, none or None, found "copyy"'):
        place_index(index, bare, "copyy", ours=False)
    assert not (bare / "rag_index.json").exists()


# ---- What cannot be loaded ----


def test_smaller_index_lowers_n_docs_with_a_warning(bare, tmp_path):
    small = build_index(
        tiny_rag.passages().select(range(3)), tiny_rag.context_encoder(), tmp_path / "small"
    )
    with pytest.warns(UserWarning, match="n_docs 5 is more than the 3 passages"):
        rag = load_rag(bare, index=small)
    assert rag.model.config.n_docs == rag.retriever.n_docs == 3
    assert outputs(rag)[0].shape[0] == 4 * 3


def test_folder_that_is_not_there_is_not_sought_on_the_hub(tmp_path):
    for path in (tmp_path / "nothing", "./nothing", "../nothing"):
        with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
            load_rag(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"index": ', r"rag_index.json:\d: not JSON"),
        ("[]", "expected an object, found an empty"),
        ('{"format_version": 2}', "expected format_version 1, found 2"),
    ],
)
def test_damaged_reference_to_the_index_is_an_error_that_names_it(bare, text, message):
    (bare / "rag_index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_rag(bare)
    assert load_rag(bare, with_index=False).retriever is None


def test_a_checkpoint_that_the_hub_does_not_give_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="nobody/here: no such folder, nor to be had of the Hub"):
        load_rag("nobody/here", with_index=False)
