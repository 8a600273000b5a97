"""Title and text of HTML pages."""

import pytest

from rag_finetune.data.html_text import read_html


def read(folder, page):
    path = folder / "page.html"
    path.write_bytes(page if isinstance(page, bytes) else page.encode())
    return read_html(path)


def test_title_and_paragraphs_are_read_with_entities_decoded(tmp_path):
    page = """<!doctype html><html><head><title> Tea &amp;\n Co </title></head>
    <body><h1>Tea</h1><p>Caf&eacute; &lt;b&gt;  and
    <b>milk</b>.</p><p>Two<br>lines</p></body></html>"""
    assert read(tmp_path, page) == ("Tea & Co", "Tea\n\nCafé <b> and milk.\n\nTwo\nlines")


def test_scripts_styles_and_navigation_are_dropped(tmp_path):
    page = """<nav>Home <nav>deep</nav> more</nav><script>if (a < b) "<p>"</script>
    <style>p {}</style><noscript>no</noscript><svg><title>icon</title></svg><p>kept</p>"""
    assert read(tmp_path, page) == ("", "kept")


def test_what_is_never_closed_costs_no_text(tmp_path):
    assert read(tmp_path, "<nav>menu<p>one<p>two</div><li>three") == (
        "",
        "menu\n\none\n\ntwo\n\nthree",
    )


def test_lists_and_tables_separate_their_items(tmp_path):
    page = "<ul><li>a</li><li>b</li></ul><table><tr><th>k</th><td>v</td></tr><tr><td>x</table>"
    assert read(tmp_path, page)[1] == "a\n\nb\n\nk v\n\nx"


def test_preformatted_text_keeps_its_lines(tmp_path):
    assert read(tmp_path, "<p>so:</p><pre>a\n    b</pre>")[1] == "so:\n\na\n    b"


@pytest.mark.parametrize(
    ("head", "charset"),
    [
        ('<meta charset="windows-1251">', "cp1251"),
        ("<meta http-equiv=Content-Type content='text/html; charset=Shift_JIS'>", "shift_jis"),
        ('<?xml version="1.0" encoding="gb18030"?>', "gb18030"),
    ],
)
def test_the_charset_named_is_the_one_used(tmp_path, head, charset):
    text = {"cp1251": "Привет", "shift_jis": "東京", "gb18030": "北京"}[charset]
    assert read(tmp_path, f"{head}<p>{text}</p>".encode(charset))[1] == text


def test_latin_1_is_read_as_browsers_do(tmp_path):
    page = b'<meta charset="iso-8859-1"><p>\x93caf\xe9\x94</p>'
    assert read(tmp_path, page)[1] == "“café”"


@pytest.mark.parametrize(
    ("name", "charset", "text"),
    [("gb2312", "gbk", "朱镕基"), ("shift_jis", "cp932", "①髙橋"), ("euc-kr", "cp949", "똠방")],
)
def test_the_names_of_east_asian_charsets_mean_what_browsers_take_them_for(
    tmp_path, name, charset, text
):
    page = f'<meta charset="{name}"><p>{text}</p>'.encode(charset)
    assert read(tmp_path, page)[1] == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_wins(tmp_path, encoding):
    page = '<meta charset="windows-1251"><p>žluť</p>'.encode(encoding)
    assert read(tmp_path, page)[1] == "žluť"


def test_bytes_of_another_charset_name_their_line(tmp_path):
    with pytest.raises(ValueError, match=r"page\.html:2: expected utf-8 text, found the byte 0xe9"):
        read(tmp_path, b"<p>\ncaf\xe9</p>")


def test_an_unknown_charset_is_named(tmp_path):
    with pytest.raises(ValueError, match='expected a known charset, found "klingon"'):
        read(tmp_path, '<meta charset="klingon">')
