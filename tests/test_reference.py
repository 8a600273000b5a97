import json

import pytest
import tiny_rag

from rag_finetune.rag.reference import load_index_reference, relative_path, write_index_reference


def test_what_was_written_is_read(tmp_path):
    index = tiny_rag.tiny_index(tmp_path / "index")
    assert load_index_reference(tmp_path) == {}
    write_index_reference(tmp_path, index, "index")
    reference = load_index_reference(tmp_path)
    assert reference["index"] == "index"
    assert reference["fingerprint"] == index.manifest.fingerprint


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_format_is_refused(tmp_path, version):
    data = {"format_version": version, "index": "index", "fingerprint": "ab"}
    (tmp_path / "rag_index.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=r"rag_index.json: expected format_version 1, found"):
        load_index_reference(tmp_path)


def test_the_way_to_another_folder_follows_links(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep")
    assert relative_path(tmp_path / "index", tmp_path / "link") == "../../index"
