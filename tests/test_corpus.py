"""Laws of the corpus: whole files on one side, bytes counted before tokenising, records that parse, a file that arrives as it left."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atomsnb.core.data import SHARES, load
from atomsnb.models import corpus as room
from atomsnb.models.corpus import TRAINING, Corpus, code_texts, json_records, read_corpus, sides, token_stream, windows, write_corpus
from atomsnb.models.encoder import ModelNotFoundError, WeightsError
from atomsnb.models.tokenizer import load_tokenizer

pytest.importorskip("tokenizers")
BOTH = pytest.mark.parametrize("name", ["code-bpe", "bytes"])
TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=30), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def part():
    """A corpus of one side."""
    streams = {f"{name}/code/prompts": token_stream(name, texts=code_texts("prompts")[:4]) for name in ("code-bpe", "bytes")}
    return Corpus(streams, {"prompts": tuple(json_records("prompts")[:50])}, {"python": "x"})


@pytest.fixture(scope="module")
def written():
    """The records of every side as the code writes them now, whatever the cache holds."""
    return room._write_records()


# ---- texts and sides


def test_texts_of_a_side_are_the_files_of_core_data():
    data = load("stdlib_source")
    for side in SHARES:
        assert code_texts(side) == data.texts(side)
    assert code_texts() == code_texts("training") == data.texts("fit") + data.texts("train") == code_texts(TRAINING)
    assert len(code_texts("heldout", kind="docs")) == len(load("stdlib_docs").texts("heldout"))
    for kind in ("code", "docs"):
        for text in code_texts("training", kind=kind):
            text.encode("utf-8")  # no surrogate is left


@pytest.mark.parametrize("split, error", [("test", ValueError), ("traning", ValueError), ([], ValueError), (["train", "train"], ValueError), (["training"], ValueError), (["train", "nowhere"], ValueError)])
def test_a_side_that_does_not_exist_is_refused(split, error):
    with pytest.raises(error, match="split"):
        sides(split)
    with pytest.raises(ValueError, match="kind"):
        code_texts("train", kind="poems")


# ---- streams


@BOTH
@given(texts=TEXTS)
def test_a_stream_is_its_documents_each_closed_by_the_end(name, texts):
    tokenizer = load_tokenizer(name)
    stream = token_stream(tokenizer, texts=texts, cache=False)
    assert stream.ids.dtype == torch.int32 and stream.documents.dtype == torch.int64 and int(stream.documents[-1]) == len(stream.ids) and int(stream.documents[0]) == 0
    assert [tokenizer.decode(stream.document(k)) for k in range(len(texts))] == texts
    assert int((stream.ids == tokenizer.end_id).sum()) == len(texts) and all(int(stream.document(k)[-1]) == tokenizer.end_id for k in range(len(texts)))
    assert stream.bytes == sum(len(text.encode()) for text in texts)


@given(one=TEXTS, other=TEXTS)
def test_the_hash_of_a_stream_tells_texts_apart(one, other):
    first, second = token_stream("bytes", texts=one, cache=False), token_stream("bytes", texts=other, cache=False)
    assert (first.sha256 == second.sha256) == (one == other)


def test_bits_per_byte_of_the_uniform_model_are_its_logarithm():
    stream = token_stream("bytes", texts=["abc", "é"])
    assert stream.bytes == 5 and stream.bits_per_byte(len(stream.ids) * math.log(256)) == pytest.approx(8 * 7 / 5, rel=1e-12)  # 5 bytes and 2 ends, 8 bits each
    with pytest.raises(ValueError, match="no bits per byte"):
        token_stream("bytes", texts=[""]).bits_per_byte(1.0)


def test_the_cache_gives_back_what_was_computed_and_nothing_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path))
    fresh = token_stream("bytes", texts=["abc", "de"])
    file = next((tmp_path / "corpus").iterdir())
    stored = file.read_bytes()
    assert token_stream("bytes", texts=["abc", "de"]).sha256 == fresh.sha256
    for damaged in (b"", stored[:-3], stored[:-1] + b"\x7f"):
        file.write_bytes(damaged)
        again = token_stream("bytes", texts=["abc", "de"])
        assert torch.equal(again.ids, fresh.ids) and again.sha256 == fresh.sha256
    assert token_stream("bytes", texts=["abcd", "e"]).sha256 != fresh.sha256


def test_what_is_no_document_is_refused():
    with pytest.raises(ValueError, match="texts is empty"):
        token_stream("bytes", texts=[])
    with pytest.raises(ValueError, match="index"):
        token_stream("bytes", texts=["a"]).document(1)


# ---- records


def test_every_record_is_strict_json_in_ascii_and_fits_its_window(written):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")
    for side in SHARES:
        records = written[side]
        assert len(records) > 1000 and len(set(records)) == len(records)
        for record in records:
            value = json.loads(record, parse_constant=refuse)
            assert isinstance(value, (dict, list)) and record.isascii() and "\n" not in record and 2 <= len(record) <= 255
            assert json.dumps(value) == record or json.dumps(value, separators=(",", ":")) == record


def test_no_judging_side_holds_a_record_of_the_training_sides(written):
    training = {record for side in TRAINING for record in written[side]}
    for side in ("validation", "heldout", "prompts"):
        assert not training & set(written[side])
    assert len(training) < sum(len(written[side]) for side in TRAINING)  # the two training sides may share records; only judging sides are swept


def test_records_are_of_many_shapes(written):
    def shape(value):
        return [shape(v) for v in (value.values() if isinstance(value, dict) else value)] if isinstance(value, (dict, list)) else type(value).__name__
    records = written["validation"]
    shapes = {repr(shape(json.loads(r))) for r in records}
    assert len(shapes) > len(records) / 5
    kinds = [type(json.loads(r)) for r in records]
    assert 0.05 < kinds.count(list) / len(kinds) < 0.5
    spaced = sum(", " in r.replace('", "', "") or '": ' in r for r in records) / len(records)
    assert 0.2 < spaced < 0.6
    assert all(sum(len(r) <= n for r in records) > 0.3 * len(records) for n in (63, 127)) and max(map(len, records)) > 240


def test_the_cache_of_records_holds_what_the_code_writes_and_nothing_damaged(written, tmp_path, monkeypatch):
    assert {side: json_records(side) for side in SHARES} == written  # a cache of an older recipe would differ: RECIPE must go up with the code
    monkeypatch.setenv("ATOMSNB_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "_write_records", lambda: written)
    room._all_records.cache_clear()
    assert json_records("fit") == written["fit"]
    file = next(p for p in (tmp_path / "corpus").iterdir())
    content = json.loads(file.read_text())
    content["records"]["fit"][0] = "{}"
    file.write_text(json.dumps(content))
    room._all_records.cache_clear()
    assert json_records("fit") == written["fit"]
    room._all_records.cache_clear()


def test_facts_of_a_function_are_read_from_its_syntax():
    import ast
    node = ast.parse('@cached\nasync def f(a, b=-2, *rest, c=None, d=1e999, e=x, **more):\n    "First.\\nSecond."\n    yield g(a)\n    raise KeyError(1)\n').body[0]
    facts = room._facts(node, list(ast.walk(node)), "pkg/__init__.py", "C")
    assert facts["args"] == ["a", "b", "c", "d", "e"] and facts["defaults"] == {"b": -2, "c": None, "d": "1e309", "e": "x"}
    assert (facts["module"], facts["class"], facts["doc"], facts["async"], facts["yields"]) == ("pkg", "C", "First.", True, True)
    assert facts["decorators"] == ["cached"] and facts["raises"] == ["KeyError"] and set(facts["calls"]) == {"g", "KeyError"} and facts["star"] == {"args": "rest", "kwargs": "more"}
    json.dumps(facts, allow_nan=False)


def test_numbers_that_readers_choke_on_are_left_out():
    assert room._record({"name": "f", "constants": [2**60], "doc": "x"}, "p") is None
    assert not room._small({"a": [1, {"b": -(2**53)}]}) and room._small([2**53 - 1, True, None, "x", 0.5])


# ---- windows


@given(st.lists(st.text("abc{}", max_size=20), min_size=1, max_size=8), st.integers(2, 24))
def test_a_window_is_its_text_and_ends_to_the_edge(texts, length):
    fitting = [t for t in texts if len(t) < length]
    if not fitting:
        with pytest.raises(ValueError, match="records has no text"):
            windows(texts, length)
        return
    rows = windows(texts, length)
    assert rows.shape == (len(fitting), length) and rows.dtype == torch.int32
    for row, text in zip(rows.tolist(), fitting):
        assert row == [*text.encode(), *[257] * (length - len(text))]


# ---- the file that travels


def test_a_corpus_arrives_as_it_left(part, tmp_path):
    again = read_corpus(write_corpus(tmp_path / "c.safetensors", part))
    assert again.sha256 == part.sha256 and again.facts == part.facts and again.json("prompts") == part.json("prompts")
    for name, stream in part.streams.items():
        found = again.streams[name]
        assert torch.equal(found.ids, stream.ids) and torch.equal(found.documents, stream.documents) and (found.bytes, found.sha256) == (stream.bytes, stream.sha256)
        assert found.ids.dtype == torch.int32


def test_documents_without_text_survive_the_journey(tmp_path):
    streams = {"bytes/code/fit": token_stream("bytes", texts=["", "a", "", ""])}
    again = read_corpus(write_corpus(tmp_path / "c", Corpus(streams, {"fit": ()})))
    assert torch.equal(again.streams["bytes/code/fit"].ids, streams["bytes/code/fit"].ids) and again.json("fit") == []


def test_sides_are_joined_as_if_tokenised_together(part):
    texts = code_texts("prompts")
    two = Corpus({"code-bpe/code/fit": token_stream("code-bpe", texts=texts[:2]), "code-bpe/code/train": token_stream("code-bpe", texts=texts[2:3])}, {})
    joined, direct = two.stream("code-bpe", "training"), token_stream("code-bpe", texts=texts[:3])
    assert joined.sha256 == direct.sha256 and torch.equal(joined.documents, direct.documents)
    with pytest.raises(ValueError, match="stream"):
        part.stream("code-bpe", "heldout")
    assert np.array_equal(part.json_windows("prompts", 256).numpy(), windows(part.json("prompts"), 256).numpy())


def test_every_changed_byte_of_the_tensors_is_seen(part, tmp_path):
    file = write_corpus(tmp_path / "c.safetensors", part)
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in np.linspace(start, len(whole) - 1, 12).astype(int):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(WeightsError):
            read_corpus(file)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:100], lambda b: b"", lambda b: b"\x80\x04 pickle", lambda b: b.replace(b'corpus', b'korpus', 1)], ids=["one byte short", "header only", "empty", "pickle", "another key"])
def test_a_damaged_corpus_is_refused(damage, part, tmp_path):
    file = write_corpus(tmp_path / "c.safetensors", part)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(WeightsError, match="c.safetensors"):
        read_corpus(file)
    with pytest.raises(ModelNotFoundError, match="write_corpus"):
        read_corpus(tmp_path / "none")
