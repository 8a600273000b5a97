import json
from dataclasses import asdict, replace

import pytest

from rag_finetune.index.manifest import (
    Manifest,
    file_sizes,
    load_manifest,
    of_one_version,
    require_equal,
    require_sizes,
)

MANIFEST = Manifest(
    encoder={"name": "org/encoder", "revision": "abc", "max_length": 256},
    fingerprint="f" * 64,
    dimension=16,
    n_passages=20,
    n_documents=7,
    passage_words=100,
    library_versions={"torch": "2.13.0"},
)


def test_saved_and_loaded_manifests_are_equal(tmp_path):
    MANIFEST.save(tmp_path)
    assert load_manifest(tmp_path) == MANIFEST


def test_file_holds_what_the_design_lists(tmp_path):
    MANIFEST.save(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert data == {
        "encoder": {"name": "org/encoder", "revision": "abc", "max_length": 256},
        "fingerprint": "f" * 64,
        "dimension": 16,
        "n_passages": 20,
        "n_documents": 7,
        "passage_words": 100,
        "overlap": 0,
        "dtype": "float32",
        "index_type": "flat",
        "faiss_factory": "Flat",
        "search_parameters": {},
        "measured_recall": 1.0,
        "metric": "inner_product",
        "lexical": {},
        "retrieval": {},
        "format_version": 1,
        "library_versions": {"torch": "2.13.0"},
        "file_sizes": {},
        "tombstones": 0,
        "additions": 0,
        "last_update": "",
        "place": "",
    }


def test_a_manifest_from_before_a_key_was_added_still_opens(tmp_path):
    data = asdict(MANIFEST)
    for name in ("overlap", "dtype", "index_type", "lexical", "retrieval", "file_sizes"):
        del data[name]
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    assert load_manifest(tmp_path) == MANIFEST


def test_a_file_of_another_size_or_a_missing_one_is_named(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a").write_bytes(b"123")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    (tmp_path / "context_encoder").mkdir()
    (tmp_path / "context_encoder" / "config.json").write_bytes(b"{}")
    sizes = file_sizes(tmp_path)
    assert sizes == {"parts/a": 3}
    require_sizes(tmp_path, sizes)
    with pytest.raises(ValueError, match=r"parts/a: expected 4 bytes, found 3.*Build the index"):
        require_sizes(tmp_path, {"parts/a": 4})
    with pytest.raises(FileNotFoundError, match=r"parts/b: no such file"):
        require_sizes(tmp_path, {"parts/b": 4})


def test_missing_folder_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: no such folder.*rag-finetune index"):
        load_manifest(tmp_path / "nothing")


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "passages.tsv").write_text("id\ttext\ttitle\n")
    with pytest.raises(NotADirectoryError, match=r"passages\.tsv: expected an index folder, found"):
        load_manifest(tmp_path / "passages.tsv")


def test_folder_without_manifest_is_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not an index folder, manifest.json is missing"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "dimension": 16,\n', r"manifest.json:\d: not JSON"),
        ("[]", "manifest.json: expected an object, found an empty list"),
        ('"text"', 'manifest.json: expected an object, found the string "text"'),
        ("{}", "expected format_version 1, found None. Build the index again"),
    ],
)
def test_damaged_manifest_is_an_error_that_names_it(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_manifest(tmp_path)


def test_later_format_is_refused(tmp_path):
    replace(MANIFEST, format_version=2).save(tmp_path)
    with pytest.raises(ValueError, match="expected format_version 1, found 2"):
        load_manifest(tmp_path)


def test_missing_and_unknown_keys_are_named(tmp_path):
    data = asdict(MANIFEST) | {"colour": "red"}
    del data["dimension"]
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="missing or unknown keys: colour, dimension"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("name", ["encoder", "search_parameters", "file_sizes"])
def test_a_number_where_an_object_was_meant_is_named(tmp_path, name):
    data = asdict(MANIFEST) | {name: 64}
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=f'"{name}" must be an object, found the number 64'):
        load_manifest(tmp_path)


def test_what_does_not_fit_is_named_with_both_values(tmp_path):
    require_equal(tmp_path, "rows", 3, 3, "unused")
    with pytest.raises(ValueError, match=r"rows of x: expected 3, found 4. Do this"):
        require_equal(tmp_path, "rows of x", 3, 4, "Do this.")


def test_what_was_read_of_two_versions_is_read_again(tmp_path):
    MANIFEST.save(tmp_path)
    calls = []

    def read():
        calls.append(load_manifest(tmp_path).n_passages)
        if len(calls) == 1:
            replace(MANIFEST, n_passages=7).save(tmp_path)
        elif len(calls) == 2:
            replace(MANIFEST, n_passages=8).save(tmp_path)
            raise FileNotFoundError("it was just replaced")
        return calls[-1]

    assert of_one_version(tmp_path, read) == 8
    assert calls == [20, 7, 8]


def test_a_version_that_says_the_same_of_itself_is_another_one(tmp_path):
    MANIFEST.save(tmp_path)
    calls = []

    def read():
        if not calls:
            MANIFEST.save(tmp_path)
        calls.append(0)
        return len(calls)

    assert of_one_version(tmp_path, read) == 2


def test_what_cannot_be_read_of_one_version_is_an_error(tmp_path):
    MANIFEST.save(tmp_path)
    calls = []

    def read():
        calls.append(0)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        of_one_version(tmp_path, read)
    assert len(calls) == 1
