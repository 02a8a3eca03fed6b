"""Documents as token ids on disk: the same ids as in memory, made once, whatever interrupts it."""

import copy
import json
import threading
import tracemalloc
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from data import rows, tokens
from data.jsonl import numbered_lines, read_jsonl
from data.mixture import mix
from data.packing import encode_documents, pack
from data.readers import ReadReport, read_source, stream_source
from data.records import Document
from data.sources import Source
from data.tokens import content_of, open_store, open_tokenizer
from data.windows import Windows, mixed
from podium.errors import DataError, Interrupted

TEXTS = [f"Ana likes {word} and {i} jars of honey." for i, word in enumerate("abcdefghij" * 4)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Many pieces of work in few documents."""
    monkeypatch.setattr(tokens, "CHUNK", 7)
    monkeypatch.setattr(tokens, "NOTE_SECONDS", 0.0)


@pytest.fixture
def source(tmp_path) -> Source:
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return Source(path=str(path))


def stored(tmp_path, source, tokenizer, **options):
    return open_store(tmp_path / "tokens", source, content_of(source), tokenizer, **options)


def windows(documents, context):
    return Windows(documents, context, split="train", field="pretrain.context")


def in_memory(tokenizer, texts, context) -> torch.Tensor:
    ids = encode_documents(tokenizer, texts)
    return torch.from_numpy(pack(ids, context, tokenizer.bos_token_id))


@pytest.mark.parametrize("context", [5, 16, 64])
def test_windows_from_the_disk_are_those_of_memory(tmp_path, source, tokenizer, context):
    """Mutation seen red: the ends of a chunk counted from the chunk's own beginning."""
    found = windows(mixed({"a": stored(tmp_path, source, tokenizer)}, {}), context)
    expected = in_memory(tokenizer, TEXTS, context)
    assert torch.equal(found[:], expected) and len(found) == len(expected)
    picked = np.array([3, 0, 2])
    assert torch.equal(found[picked], expected[picked])


@pytest.fixture
def two(tmp_path, source) -> list[dict[str, str]]:
    """The source, and one whose documents grow."""
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": f"Bram {i}. " * i}) + "\n" for i in range(1, 9)))
    return [{"path": source.path}, {"path": str(other)}]


def same_documents(found, records, tokenizer) -> bool:
    return [found[i].tolist() for i in range(len(found))] == [
        [tokenizer.bos_token_id, *ids.tolist()]
        for ids in encode_documents(tokenizer, [record.text for record in records])
    ]


def test_sources_without_weights_follow_each_other(tmp_path, two, tokenizer):
    """Mutation seen red: a document's place in the whole taken for its place in its source."""
    stores = {part["path"]: stored(tmp_path, Source(**part), tokenizer) for part in two}
    documents, records = mixed(stores, {}), read_source(two, Document)
    assert same_documents(documents, records, tokenizer)
    expected = in_memory(tokenizer, [record.text for record in records], 16)
    assert torch.equal(windows(documents, 16)[:], expected)


@pytest.mark.parametrize("passes", [1, 3])
def test_a_mixture_gives_each_source_its_share_of_the_tokens(tmp_path, two, tokenizer, passes):
    """The order is that of `mix` over the records, each as long as its tokens with the separator.
    Seen red with documents counted by one each, and with their ends for their lengths.
    """
    weights = {two[0]["path"]: 1.0, two[1]["path"]: 3.0}
    stores = {part["path"]: stored(tmp_path, Source(**part), tokenizer) for part in two}
    documents = mixed(stores, weights, passes)

    def tokens_of(record: Document) -> int:
        return len(encode_documents(tokenizer, [record.text])[0]) + 1

    held = {part["path"]: read_source(part, Document) for part in two}
    expected = mix(held, weights, passes=passes, size=tokens_of)
    assert same_documents(documents, expected.items, tokenizer)
    whole = in_memory(tokenizer, [record.text for record in expected.items], 16)
    assert torch.equal(windows(documents, 16)[:], whole)
    read = np.bincount(documents.owner, [len(documents[i]) for i in range(len(documents))])
    longest = max(len(documents[i]) for i in range(len(documents)))
    total = passes * sum(len(store.tokens) for store in stores.values())
    assert read == pytest.approx([total / 4, total * 3 / 4], abs=longest)
    assert documents.epochs == {
        name: read[place] / len(store.tokens) for place, (name, store) in enumerate(stores.items())
    }


@pytest.mark.parametrize("chunks", range(1, 6))
def test_what_a_kill_left_is_cut_back_and_gone_on_with(tmp_path, source, tokenizer, chunks):
    """Stopped after every chunk in turn, with half a write behind what was noted. Mutation seen
    red: files not cut back to the note.
    """
    whole = stored(tmp_path / "whole", source, tokenizer)
    calls = count(1)
    with pytest.raises(Interrupted):
        stored(tmp_path, source, tokenizer, stopping=lambda: next(calls) == chunks)
    (folder,) = (tmp_path / "tokens").iterdir()
    noted = json.loads((folder / "progress.json").read_text())["documents"]
    assert noted == 7 * chunks and not (folder / "store.json").exists()
    for name in tokens.PARTS:
        with (folder / name).open("ab") as file:
            file.write(b"half a write")
    found = stored(tmp_path, source, tokenizer)
    for part in ("tokens", "ends"):
        assert np.array_equal(getattr(found, part), getattr(whole, part))


def test_a_store_is_made_once_and_for_one_content(tmp_path, source, tokenizer, monkeypatch):
    """The same content elsewhere is the same store; an edit of the same size is another."""
    stored(tmp_path, source, tokenizer)
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((tmp_path / "documents.jsonl").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "encode_documents", None)  # would be called
        again = stored(tmp_path, Source(path=str(moved), weight=2.0), tokenizer)
    assert len(again) == len(TEXTS)
    moved.write_text(moved.read_text().replace("Ana", "Bea"))
    edited = stored(tmp_path, Source(path=str(moved)), tokenizer)
    assert not np.array_equal(edited.tokens, again.tokens)
    assert len(stored(tmp_path, Source(path=str(moved), limit=3), tokenizer)) == 3


def test_processes_that_want_one_store_make_it_once(tmp_path, source, tokenizer, monkeypatch):
    """Mutation seen red: no second look after waiting, so that each makes it again."""
    made, encode = [], encode_documents

    def counted(tokenizer, texts):
        made.append(len(texts))
        return encode(tokenizer, texts)

    monkeypatch.setattr(tokens, "encode_documents", counted)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(stored(tmp_path, source, tokenizer)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == len(TEXTS) and [len(store) for store in found] == [len(TEXTS)] * 3


def test_who_waits_for_another_process_obeys_a_signal(tmp_path, source, tokenizer):
    root = tmp_path / "tokens"
    stored(tmp_path, source, tokenizer)
    (folder,) = root.iterdir()
    (folder / "store.json").unlink()
    with tokens._turn(folder, lambda: False), pytest.raises(Interrupted, match="kept"):
        stored(tmp_path, source, tokenizer, stopping=lambda: True)


def test_a_row_that_is_no_document_is_named_and_nothing_is_published(tmp_path, source, tokenizer):
    with Path(source.path).open("a") as file:
        file.write('{"text": 3}\n')
    with pytest.raises(DataError, match=f"line {len(TEXTS) + 1}"):
        stored(tmp_path, source, tokenizer)
    assert not list((tmp_path / "tokens").glob("*/store.json"))


def test_a_tokenizer_is_learned_once(tmp_path, source, monkeypatch):
    """A resumed run takes the one that was kept. Mutation seen red: the vocabulary's size not part
    of the key.
    """
    root = tmp_path / "tokens"
    first = open_tokenizer(root, [source], 300, lambda: False)
    other = open_tokenizer(root, [source], 280, lambda: False)
    monkeypatch.setattr(tokens, "learn_bpe", None)  # would be called
    again = open_tokenizer(root, [source], 300, lambda: False)
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    assert len(other) < len(first) == 300 and again.chat_template == first.chat_template


def test_a_tokenizer_of_many_entries_needs_wider_ids(tmp_path, source, tokenizer):
    """Ids of 16 bits hold 65,536 entries. Mutation seen red: 16 bits for every tokenizer."""
    tokenizer = copy.deepcopy(tokenizer)  # the others' must stay small
    tokenizer.add_tokens([f"word{i}" for i in range(70_000)])
    path = tmp_path / "words.jsonl"
    path.write_text('{"text": "word69999"}\n')
    store = stored(tmp_path, Source(path=str(path)), tokenizer)
    assert store.tokens.tolist() == [
        tokenizer.bos_token_id,
        tokenizer.convert_tokens_to_ids("word69999"),
    ]


@pytest.mark.slow
def test_a_large_file_is_read_a_line_at_a_time(tmp_path):
    """20 MB in lines, pieces and rows, with less than 6 MB in memory. Seen red: the whole file read
    and split.
    """
    line = json.dumps({"text": "honey " * 300}) + "\n"
    lines, text = tmp_path / "a.jsonl", tmp_path / "a.txt"
    lines.write_text(line * 11_000)
    text.write_text(("honey " * 300 + "<|endoftext|>") * 11_000)
    for path in (lines, text):
        tracemalloc.start()
        source = Source(path=str(path))
        assert sum(1 for _ in stream_source(source, Document, ReadReport())) >= 11_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6e6, path


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
def test_text_is_cut_at_separators_that_lie_across_blocks(tmp_path, monkeypatch, block):
    """Mutation seen red: each block cut for itself. Signs of several bytes lie across blocks too."""
    monkeypatch.setattr(rows, "BLOCK", block)
    text = "\ufeffHonig für Ana--\n--Brot 🍯--x"
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    assert list(rows._pieces(path, "--")) == text.removeprefix("\ufeff").split("--")
    path.write_bytes(b"one\ntwo\n\xff--")
    with pytest.raises(DataError, match="line 3"):
        list(rows._pieces(path, "--"))


def test_packed_files_are_read_like_plain_ones(tmp_path, source):
    import gzip

    import pyarrow

    raw = Path(source.path).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(raw))
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as file:
        file.write(raw)
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        path = tmp_path / name
        assert [record.text for record in read_jsonl(path, Document)] == TEXTS
        assert len(read_source(str(path), Document)) == len(TEXTS)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(DataError, match="is not a whole"):
            list(numbered_lines(path))
