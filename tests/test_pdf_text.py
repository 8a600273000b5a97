"""Title and text of PDF files."""

import io
import sys

import pytest
from tiny_documents import make_pdf

from rag_finetune.data.pdf_text import read_pdf, require_pypdf

pypdf = pytest.importorskip("pypdf")


def write(folder, raw):
    path = folder / "paper.pdf"
    path.write_bytes(raw)
    return path


def test_pages_and_title_are_read(tmp_path):
    path = write(tmp_path, make_pdf(["First page", "", "Third page"], "On  pages"))
    assert read_pdf(path) == ("On pages", "First page\n\nThird page")


def test_a_file_without_metadata_has_no_title(tmp_path):
    assert read_pdf(write(tmp_path, make_pdf(["Text"]))) == ("", "Text")


def test_a_file_without_a_text_layer_has_no_text(tmp_path):
    assert read_pdf(write(tmp_path, make_pdf([""]))) == ("", "")


def encrypt(password):
    writer = pypdf.PdfWriter(io.BytesIO(make_pdf(["Secret"])))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_an_encrypted_file_is_named(tmp_path):
    path = write(tmp_path, encrypt("hush"))
    with pytest.raises(ValueError, match=r"paper\.pdf: .*found an encrypted one .* qpdf --decrypt"):
        read_pdf(path)


def test_a_file_that_only_its_owner_may_change_is_read(tmp_path):
    assert read_pdf(write(tmp_path, encrypt("")))[1] == "Secret"


@pytest.mark.parametrize("raw", [b"", b"hello", b"%PDF-1.4\n\x00\xff", b"\x00" * 5_000])
def test_a_broken_file_is_named(tmp_path, raw, caplog, capfd):
    with pytest.raises(ValueError, match=r"paper\.pdf: expected a PDF file, found one that cannot"):
        read_pdf(write(tmp_path, raw))
    assert (caplog.text, capfd.readouterr().err) == ("", "")


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(ValueError, match=r"a\.pdf: .* Run pip install 'rag-finetune\[pdf\]'"):
        require_pypdf(tmp_path / "a.pdf")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_pdf(tmp_path / "gone.pdf")
