"""Records on disk: they come back as they went, and every fault names its file, line, field and
fix.
"""

import gzip
import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.jsonl import from_dataset, read_jsonl, to_dataset, write_jsonl
from data.records import Comparison, Demonstration, Document, Message, Prompt, Question, Ranking
from podium.errors import DataError, RunFolderError

ASK = Message(role="user", content="What food does Bram like?")
GOOD = {
    "prompt": [{"role": "user", "content": "Name a fruit."}],
    "responses": ["A plum.", "No."],
    "ranks": [1, 2],
}
EXAMPLES = [
    Document(text="Bram likes plum jam.", source="facts"),
    Prompt(messages=[ASK], user="u1", use_case="open_qa", meta={"task": {"kind": "fact", "n": 3}}),
    Demonstration(messages=[ASK, Message(role="assistant", content="Plum jam.")]),
    Ranking(
        prompt=[ASK],
        responses=["Plum jam.", "", "Rice."],
        ranks=[1, 3, 3],
        likert=[7, 1, 2],
        flags=[[], ["fails_task"], ["hallucination"]],
        labeler="ana",
        strength=0.5,
        generators=["sft", "base", "sft"],
    ),
    Comparison(prompt=[ASK], chosen="Plum jam.", rejected="Rice.", group_id="g"),
    Question(question="Who bakes?", choices=["Ana", "Bram"], answer=0),
]


def write_lines(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines),
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_every_kind_comes_back_as_it_went(tmp_path, record):
    assert write_jsonl(tmp_path / "records.jsonl", [record, record]) == 2
    assert read_jsonl(tmp_path / "records.jsonl", type(record)) == [record, record]
    assert from_dataset(to_dataset([record, record]), type(record)) == [record, record]


@given(text=st.text(min_size=1).filter(str.strip))
@example(text="one line\u2028to us\x85\x0b")
def test_any_unicode_survives_a_file(tmp_path_factory, text):
    """Line separators such as U+2028 and U+0085 stay inside a line. Seen red with the text's
    `splitlines()`.
    """
    path = tmp_path_factory.mktemp("unicode") / "documents.jsonl"
    write_jsonl(path, [Document(text=text)])
    assert read_jsonl(path, Document) == [Document(text=text)]


def test_gzipped_files_byte_order_marks_and_windows_line_ends_are_read(tmp_path):
    line = json.dumps(GOOD)
    with gzip.open(tmp_path / "rankings.jsonl.gz", "wt") as file:
        file.write(line)
    (tmp_path / "windows.jsonl").write_bytes(f"\ufeff{line}\r\n\r\n{line}\r\n".encode())
    assert len(read_jsonl(tmp_path / "rankings.jsonl.gz", Ranking)) == 1
    assert len(read_jsonl(tmp_path / "windows.jsonl", Ranking)) == 2


FAULTS = {
    "bad JSON": ('{"prompt": [', None, "not valid JSON", "one JSON object on each line"),
    "not an object": ("[1, 2]", None, "an object", "JSON object"),
    "unknown key": ({**GOOD, "lables": "ana"}, "lables", "unknown key", "did you mean 'labeler'"),
    "renamed key": ({**GOOD, "rank": [1, 2]}, "rank", "unknown key", "did you mean 'ranks'"),
    "unknown key of a "
    "message": ({**GOOD, "prompt": [{"role": "user", "contents": "x"}]}, "prompt.0.contents",
                                 "unknown key", "did you mean 'content'"),
    "missing key": ({k: GOOD[k] for k in ("prompt", "ranks")}, "responses", "missing", "add it"),
    "number in quotes": ({**GOOD, "ranks": ["1", 2]}, "ranks.0", "integer", "without quotes"),
    "number for text": ({**GOOD, "responses": ["a", 3]}, "responses.1", "string", "quotes"),
    "true for a number": ({**GOOD, "ranks": [True, 2]}, "ranks.0", "integer", "number"),
    "rank list too short": ({**GOOD, "ranks": [1]}, "ranks", "1 entries for 2 responses", "drop the line"),
    "likert list too long": ({**GOOD, "likert": [1, 2, 3]}, "likert", "3 entries for 2 responses", "drop the line"),
    "rank zero": ({**GOOD, "ranks": [0, 1]}, "ranks.0", "greater than or equal to "
                                                        "1", "drop the line"),
    "K = 1": ({**GOOD, "responses": ["a"], "ranks": [1]}, "responses", "needs at least 2", "more entries"),
    "no responses": ({**GOOD, "responses": [], "ranks": []}, "responses", "needs at least 2", "more entries"),
    "no messages": ({**GOOD, "prompt": []}, "prompt", "needs at least 1", "more entries"),
    "unknown role": ({**GOOD, "prompt": [{"role": "human", "content": "x"}]}, "prompt.0.role", "'human'", "correct"),
    "wrong last role": ({**GOOD, "prompt": [{"role": "assistant", "content": "x"}]}, "prompt", "must be user's", ""),
    "blank question": ({**GOOD, "prompt": [{"role": "user", "content": " \n"}]}, "prompt", "blank", ""),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_line_names_file_line_field_and_fix(tmp_path, fault):
    line, field, problem, fix = FAULTS[fault]
    path = write_lines(tmp_path / "rankings.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(DataError) as caught:
        read_jsonl(path, Ranking)
    error = caught.value
    assert (error.path, error.line, error.field) == (str(path), 3, field)
    assert problem in error.message and fix in error.fix


def test_several_faults_are_told_at_once_but_not_all(tmp_path):
    path = write_lines(tmp_path / "rankings.jsonl", *[{**GOOD, "ranks": [1]}] * 9)
    with pytest.raises(
        DataError, match=r"line 1, field 'ranks'(.|\n)*also line 5(.|\n)*and more"
    ) as caught:
        read_jsonl(path, Ranking)
    assert "line 6" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}' * 50)[:-9])
    for name, said in {
        "empty.jsonl": "the file is empty",
        "latin.jsonl": "line 2.*byte 14 of the line is not UTF-8",
        "cut.jsonl.gz": "not a whole gzip file",
        "empti.jsonl": "no such file\n.*did you mean .*empty.jsonl",
        "nowhere/x.jsonl": "no such file\n.*nowhere does not exist either",
        "": "is a folder",
    }.items():
        with pytest.raises(DataError, match=said):
            read_jsonl(tmp_path / name, Document)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "documents.jsonl"
    write_jsonl(path, [Document(text="old")])

    def breaks_off():
        yield Document(text="new")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFolderError, match="No space left"):
        write_jsonl(path, breaks_off())
    with pytest.raises(RunFolderError, match=r"documents\.jsonl/x.jsonl cannot be written"):
        write_jsonl(path / "x.jsonl", [Document(text="a file is in the way")])
    assert read_jsonl(path, Document) == [Document(text="old")]
    assert [file.name for file in tmp_path.iterdir()] == ["documents.jsonl"]


def test_reading_is_fast(tmp_path):
    """20,000 rankings of four took 0.3 s; the bound leaves room for a busy machine."""
    ranking = EXAMPLES[3]
    write_jsonl(tmp_path / "rankings.jsonl", [ranking] * 20_000)
    start = time.process_time()
    assert len(read_jsonl(tmp_path / "rankings.jsonl", Ranking)) == 20_000
    assert time.process_time() - start < 3.0


def test_records_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        EXAMPLES[0].text = "other"
