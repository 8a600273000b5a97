"""What was met in the documents, said once."""

import logging

import pytest

from rag_finetune.data.reports import EMPTY, REPEATED, SKIPPED, Report, quiet_log


def test_one_and_many_are_said_with_their_places():
    report = Report()
    report.add(EMPTY, "a.csv:2")
    assert report.messages()[0].startswith("1 row has no text and was left out: a.csv:2. Fill")
    report.add(EMPTY, "a.csv:5")
    assert report.messages()[0].startswith("2 rows have no text and were left out: a.csv:2, a.csv")


def test_five_places_are_named_and_more_hinted_at():
    report = Report()
    for line in range(6):
        report.add(EMPTY, f"f:{line}")
    assert "6 rows" in report.messages()[0]
    assert "f:0, f:1, f:2, f:3, f:4, …. " in report.messages()[0]


def test_several_at_one_place_are_counted():
    report = Report()
    report.add(SKIPPED, "30 .docx (such as a.docx)", 30)
    report.add(REPEATED, "", 0)
    assert len(report.messages()) == 1
    assert report.messages()[0].startswith("30 files were not read: 30 .docx (such as a.docx). ")


def test_each_kind_is_one_warning():
    report = Report()
    report.add(EMPTY, "a")
    report.add(SKIPPED, "b")
    with pytest.warns(UserWarning) as caught:
        report.warn()
    assert [str(w.message) for w in caught] == report.messages()
    assert all("\n" not in message for message in report.messages())


def test_files_that_cannot_be_read_are_one_error():
    report = Report()
    report.raise_errors()
    report.add_error("a: broken.")
    with pytest.raises(ValueError, match=r"^a: broken\.$"):
        report.raise_errors()
    report.add_error("b: broken.")
    with pytest.raises(ValueError, match=r"^2 files cannot be read: a: broken\. b: broken\.$"):
        report.raise_errors()
    for _ in range(5):
        report.add_error("c.")
    with pytest.raises(ValueError, match=r"^7 files cannot be read: .* …$"):
        report.raise_errors()


def test_a_log_is_quiet_for_a_while(caplog):
    logger = logging.getLogger("some.library")
    with quiet_log("some.library"):
        logger.error("unheard")
    logger.error("heard")
    assert [record.message for record in caplog.records] == ["heard"]
