"""Text files and folders of them."""

import os

import pytest
from tiny_documents import make_pdf

from rag_finetune.data.text_files import TextFolder, check_folder, read_text_file


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def walk(folder):
    return [name for _, name in TextFolder(folder).walk()]


def test_plain_text_is_called_by_its_file(tmp_path):
    path = write(tmp_path / "my notes.txt", "# no heading\n")
    assert read_text_file(path) == ("my notes", "# no heading\n")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## The *sea* ##\n# Later\n", "The *sea*"),
        ("The sea\n=======\n", "The sea"),
        ("# ##\n# C# #\n", "C#"),
        ("# #1 of C#\n", "#1 of C#"),
        ("```\n# comment\n```\n# Real\n", "Real"),
        ("~~~~\n```\n# comment\n~~~~\n# Real\n", "Real"),
        ("---\ndate: 2020\ntitle: 'The sea'\n---\n# Other\n", "The sea"),
        ("---\ndate: 2020\n---\n# Other\n", "Other"),
        ("#hashtag\n\n---\nno heading", "page"),
        ("", "page"),
    ],
)
def test_the_first_heading_of_markdown_is_the_title(tmp_path, text, title):
    path = write(tmp_path / "page.md", text)
    assert read_text_file(path) == (title, text)


def test_pages_and_pdf_files_have_their_own_titles(tmp_path):
    page = write(tmp_path / "a.HTM", "<title>T</title><p>x</p>")
    assert read_text_file(page) == ("T", "x")
    (tmp_path / "b.pdf").write_bytes(make_pdf(["x"], "P"))
    assert read_text_file(tmp_path / "b.pdf") == ("P", "x")
    assert read_text_file(write(tmp_path / "c.html", "x")) == ("c", "x")


def test_a_nul_character_is_named_with_its_line(tmp_path):
    path = write(tmp_path / "a.txt", "one\nt\0w\0o\0")
    with pytest.raises(ValueError, match=r"a\.txt:2: expected text, found a NUL character"):
        read_text_file(path)


def test_utf_16_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("text".encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.txt:1: expected UTF-8 text, found the byte 0xff"):
        read_text_file(path)


def test_a_folder_is_searched_in_order_without_hidden_files(tmp_path):
    for name in ("b.txt", "a.md", "z/a.html", "z/.git/x.txt", ".hidden.txt", "z/b/c.PDF"):
        write(tmp_path / name, "x")
    assert walk(tmp_path) == ["a.md", "b.txt", "z/a.html", "z/b/c.PDF"]


def test_other_extensions_are_counted_with_the_first(tmp_path):
    for name in ("a.txt", "b.docx", "c.docx", "d/e.png", "LICENSE"):
        write(tmp_path / name, "x")
    folder = TextFolder(tmp_path)
    assert len(list(folder.walk())) == 1
    assert folder.skipped == {
        "without extension": (1, tmp_path / "LICENSE"),
        ".docx": (2, tmp_path / "b.docx"),
        ".png": (1, tmp_path / "d/e.png"),
    }


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    write(tmp_path / "docs/a.txt", "x")
    (tmp_path / "docs/loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs/self").symlink_to("self")
    write(tmp_path / "other/b.txt", "x")
    (tmp_path / "docs/link").symlink_to(tmp_path / "other")
    assert walk(tmp_path / "docs") == ["a.txt", "link/b.txt"]


def test_a_pipe_is_not_opened(tmp_path):
    write(tmp_path / "a.txt", "x")
    os.mkfifo(tmp_path / "p.txt")
    folder = TextFolder(tmp_path)
    assert [name for _, name in folder.walk()] == ["a.txt"]
    assert folder.skipped[".txt"] == (1, tmp_path / "p.txt")


def test_a_folder_with_nothing_to_read_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder with \.txt, .* found no file\."):
        check_folder(tmp_path)
    write(tmp_path / "a/b.csv", "x")
    with pytest.raises(ValueError, match=r"found 1 \.csv\. Name the files themselves"):
        check_folder(tmp_path)
    write(tmp_path / "a/b.txt", "x")
    check_folder(tmp_path)
