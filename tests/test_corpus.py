import numpy as np
import pytest
from datasets import load_from_disk
from transformers.models.rag.retrieval_rag import HFIndexBase

from rag_finetune.index.corpus import open_passages, write_passages, write_with_vectors


def rows(count: int = 5) -> list[dict[str, str]]:
    return [
        {"id": f"p{i}", "document_id": f"d{i // 2}", "title": "", "text": f"text {i}"}
        for i in range(count)
    ]


def test_passages_are_read_back_as_they_were_written(tmp_path):
    corpus = write_passages(iter(rows()), tmp_path / "p.arrow")
    assert (corpus.n_passages, corpus.n_documents) == (5, 3)
    assert list(open_passages(tmp_path / "p.arrow")) == rows()
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_batches_of_rows_lose_none(tmp_path, count):
    assert write_passages(iter(rows(count)), tmp_path / "p.arrow").n_passages == count
    assert open_passages(tmp_path / "p.arrow")["id"][:] == [f"p{i}" for i in range(count)]


def test_documents_are_counted_once_also_where_their_passages_are_apart(tmp_path):
    shuffled = [row | {"document_id": str(i % 3)} for i, row in enumerate(rows(10))]
    assert write_passages(iter(shuffled), tmp_path / "p.arrow").n_documents == 3


def test_the_digest_is_that_of_the_content(tmp_path):
    def digest(passages: list[dict[str, str]]) -> str:
        return write_passages(iter(passages), tmp_path / "p.arrow").digest

    first = digest(rows())
    assert digest([dict(reversed(row.items())) | {"more": 1} for row in rows()]) == first
    assert digest(rows()[::-1]) != first
    for name in ("id", "document_id", "title", "text"):
        changed = rows()
        changed[3][name] += "x"
        assert digest(changed) != first
    moved = rows()
    moved[0]["title"], moved[0]["text"] = "text", "0"  # the same characters, cut elsewhere
    assert digest(moved) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, r'passage 2 \(id p2\): "text" must be a string, found null'),
        ({"title": 3}, r'"title" must be a string, found the number 3'),
        ({"text": " "}, r'passage 2 \(id p2\): "text" is empty. Leave it out'),
        ({"text": "half \ud83d"}, "surrogates not allowed"),
    ],
)
def test_a_passage_that_cannot_be_kept_is_named(tmp_path, change, message):
    passages = rows()
    passages[2] |= change
    with pytest.raises(ValueError, match=message):
        write_passages(iter(passages), tmp_path / "p.arrow")


def test_a_passage_without_a_key_is_named(tmp_path):
    passages = rows()
    del passages[1]["document_id"]
    with pytest.raises(ValueError, match=r'passage 1 \(id p1\): "document_id".*no such key'):
        write_passages(iter(passages), tmp_path / "p.arrow")


def test_no_passages_are_no_error_here(tmp_path):
    assert write_passages(iter([]), tmp_path / "p.arrow")[1:] == (0, 0)


@pytest.mark.parametrize("count", [1, 1000, 1001])
def test_the_dataset_with_vectors_is_what_datasets_and_rag_read(tmp_path, count):
    write_passages(iter(rows(count)), tmp_path / "p.arrow")
    vectors = np.arange(count * 3, dtype=np.float32).reshape(count, 3) / 7
    write_with_vectors(open_passages(tmp_path / "p.arrow"), vectors, tmp_path / "passages")
    dataset = load_from_disk(str(tmp_path / "passages"))
    assert dataset.column_names == ["id", "document_id", "title", "text", "embeddings"]
    assert dataset["text"][:] == [row["text"] for row in rows(count)]
    assert np.array_equal(np.array(dataset["embeddings"][:], dtype=np.float32), vectors)
    HFIndexBase(3, dataset)  # raises where RagRetriever cannot use it
    for path in (tmp_path / "passages").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
