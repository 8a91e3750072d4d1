"""Laws of the tokenizers: every text comes back, nothing forges a special token, and the same texts give the same file."""
import hashlib
import json
import pickle
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from atomsnb.core.data import load
from atomsnb.core.runtime import MissingExtraError
from atomsnb.models import registry
from atomsnb.models.encoder import ModelNotFoundError, WeightsError
from atomsnb.models.tokenizer import PATTERN, ROLES, SPECIALS, BPETokenizer, ByteTokenizer, TransformersTokenizer, load_tokenizer, train_bpe

tokenizers = pytest.importorskip("tokenizers")

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
CODE = st.lists(st.sampled_from(["    ", "\n", "\t", " ", "def ", "self", "_x1", "(", "):", "é", "e\u0301", "\r\n", "\u2028", "漢字", "👩‍🚀", "<|end|>", "1024", "\x00", "\ufeff"])).map("".join)
BOTH = pytest.mark.parametrize("name", ["code-bpe", "bytes"])


@BOTH
@given(text=TEXT | CODE)
@example(text="")
@example(text="<|pad|><|end|><|mask|><|fill|>")
@example(text=" \n \n\t x")
def test_every_text_comes_back_exactly(name, text):
    tokenizer = load_tokenizer(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text == tokenizer.decode(ids, skip_special=False)
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.encode_batch([text, "x", text]) == [ids, tokenizer.encode("x"), ids] and tokenizer(text) == ids
    assert not set(ids) & set(tokenizer.special_ids.values()) and all(0 <= i < tokenizer.vocab_size for i in ids)


@BOTH
@given(text=TEXT, role=st.sampled_from(ROLES))
def test_special_tokens_are_read_only_when_allowed(name, text, role):
    tokenizer, spelled = load_tokenizer(name), SPECIALS[ROLES.index(role)]
    text = text.replace("<", "")
    ids = tokenizer.encode(text + spelled + text, allow_special=True)
    assert ids == [*tokenizer.encode(text), tokenizer.special_ids[role], *tokenizer.encode(text)]
    assert tokenizer.decode(ids) == text + text and tokenizer.decode(ids, skip_special=False) == text + spelled + text


@BOTH
@given(data=st.data())
def test_any_sequence_of_numbers_decodes_to_its_bytes_with_replacements(name, data):
    tokenizer = load_tokenizer(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert tokenizer.decode(ids) == b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", errors="replace") == tokenizer.decode(torch.tensor(ids, dtype=torch.int64))


@BOTH
def test_half_a_letter_is_replaced_and_the_whole_one_comes_back(name):
    tokenizer = load_tokenizer(name)
    letter = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) in (b"\xf0", b"\x9f", b"\x92", b"\xa9")]
    pieces = {tokenizer.token_bytes(i): i for i in letter}
    ids = [pieces[bytes([b])] for b in "💩".encode()]
    assert tokenizer.decode(ids) == "💩" and tokenizer.decode(ids[:2]) == "�" == tokenizer.decode(ids[:1])


def test_numbers_of_the_specials_are_those_promised():
    bpe, letters = load_tokenizer(), load_tokenizer("bytes")
    assert [bpe.pad_id, bpe.end_id, bpe.mask_id, bpe.fill_id, bpe.vocab_size] == [0, 1, 2, 3, 4096]
    assert [letters.pad_id, letters.end_id, letters.mask_id, letters.fill_id, letters.vocab_size] == [256, 257, 258, 259, 260]
    assert all(letters.token_bytes(b) == bytes([b]) for b in range(256))
    assert all(t.token_bytes(i) == b"" and t.token_text(i) == SPECIALS[ROLES.index(role)] for t in (bpe, letters) for role, i in t.special_ids.items())
    assert len({bpe.token_bytes(i) for i in range(4, 4096)}) == 4092  # no two tokens stand for the same bytes
    assert {bytes([b]) for b in range(256)} <= {bpe.token_bytes(i) for i in range(4, 4096)}


def test_code_is_cut_where_code_has_its_joints():
    bpe = load_tokenizer()
    assert len(bpe.encode("\n" + 8 * " ")) == 1 and len(bpe.encode("\n\n" + 4 * " ")) == 1  # a line end with its indentation
    assert [bpe.token_bytes(i) for i in bpe.encode("1024")] == [b"1", b"0", b"2", b"4"]
    ids = [bpe.token_bytes(i) for i in bpe.encode("return self.append(x)")]
    assert b" self" in ids and b"." in ids and b"(" in ids  # punctuation apart from words
    letters_and_marks = [t for t in (bpe.token_bytes(i).decode(errors="ignore") for i in range(4, 4096)) if re.search(r"[A-Za-z]", t) and re.search(r"[()\[\].,:=]", t)]
    assert not letters_and_marks
    assert all(len([c for c in bpe.token_bytes(i) if 48 <= c < 58]) <= 1 for i in range(4096))


def test_a_prompt_that_ends_in_punctuation_is_a_prefix_of_its_continuation():
    bpe = load_tokenizer()
    for prompt, rest in (("def f(", "self):\n    pass"), ("x = [", "1, 2]"), ("    def __init__", "(self)"), ("a.", "append(1)"), ("if x:", "\n        y")):
        whole, head = bpe.encode(prompt + rest), bpe.encode(prompt)
        assert whole[: len(head)] == head


def test_training_is_deterministic_and_ignores_the_order_of_texts():
    texts = load("stdlib_source").texts("fit")[:6]
    first, second, turned = train_bpe(texts, 600), train_bpe(texts, 600), train_bpe(iter(reversed(texts)), 600)
    assert hashlib.sha256(first.content.encode()).hexdigest() == hashlib.sha256(second.content.encode()).hexdigest() == hashlib.sha256(turned.content.encode()).hexdigest()
    code = ("import hashlib\nfrom atomsnb.core.data import load\nfrom atomsnb.models.tokenizer import train_bpe\n"
            "print(hashlib.sha256(train_bpe(load('stdlib_source').texts('fit')[:6], 600).content.encode()).hexdigest())")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(first.content.encode()).hexdigest()
    assert first.vocab_size == 600 and train_bpe(texts[1:], 600).content != first.content


def test_a_text_too_small_for_its_vocabulary_gives_fewer_tokens():
    tiny = train_bpe(["ab ab"], 4096)
    assert 260 < tiny.vocab_size < 270 and tiny.decode(tiny.encode("ab 漢")) == "ab 漢"


def test_the_shipped_file_was_learned_on_the_training_sides_alone():
    data = load("stdlib_source")
    card = registry.read_manifest(registry.weights_dir())["code-bpe/tokenizer.json"]
    again = train_bpe(data.texts("fit") + data.texts("train"), 4096)
    if data.sha256 != "81ec5ffda0897d6da1f73fbd5c6d63b6f53a8be0ae09f2d1351205ec78c438b1":
        pytest.skip("another standard library than the one that the shipped tokenizer was learned on")
    assert hashlib.sha256(again.content.encode()).hexdigest() == card["sha256"]


def test_saved_and_loaded_again_it_is_the_same(tmp_path):
    bpe = train_bpe(["x = 1\n" * 50], 300)
    file = bpe.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert file.name == "tokenizer.json" and isinstance(again, BPETokenizer) and again.content == bpe.content and again.sha256 == bpe.sha256
    assert pickle.loads(pickle.dumps(load_tokenizer())).encode("def") == load_tokenizer().encode("def")
    assert load_tokenizer().sha256 != load_tokenizer("bytes").sha256 and load_tokenizer("code-bpe") is load_tokenizer()


def test_a_folder_that_names_its_tokenizer_is_followed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"atomsnb": {"tokenizer": "bytes"}}))
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer) and isinstance(load_tokenizer(str(tmp_path)), ByteTokenizer)


@given(text=TEXT | CODE)
def test_transformers_reads_the_shipped_folder_with_the_same_numbers(text):
    pytest.importorskip("transformers")
    from atomsnb.models.tokenizer import _backend
    peer = TransformersTokenizer(_peer_backend(_backend), "peer")
    ours = load_tokenizer()
    assert peer.encode(text) == ours.encode(text) and peer.decode(peer.encode(text)) == text
    assert peer.sha256 == ours.sha256 and dict(peer.special_ids) == dict(ours.special_ids)


def _peer_backend(make, held={}):  # noqa: B006 - read once for all examples
    if not held:
        held["it"] = make(str(registry.weights_dir() / "code-bpe"))
    return held["it"]


def test_a_sentencepiece_like_tokenizer_of_transformers_stands_behind_the_same_face(tmp_path):
    """Words marked by U+2581 and byte fallback, as Llama 2 and Gemma have them."""
    transformers = pytest.importorskip("transformers")
    pieces = ["<pad>", "<eos>", "<mask>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁the", "the", "▁sea"]
    merges = [("▁", "the"), ("▁", "sea")]
    engine = tokenizers.Tokenizer(tokenizers.models.BPE({p: i for i, p in enumerate([*pieces, "sea"])}, merges, byte_fallback=True, ignore_merges=True))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    engine.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()])
    transformers.PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<pad>", eos_token="<eos>", mask_token="<mask>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, TransformersTokenizer) and dict(tokenizer.special_ids) == {"pad": 0, "end": 1, "mask": 2}
    assert tokenizer.token_bytes(tokenizer.encode("the sea")[0]) == b" the" and tokenizer.token_bytes(3 + 0xC3) == b"\xc3" and tokenizer.token_bytes(1) == b""
    assert not set(tokenizer.encode("<eos>")) & {0, 1, 2} and tokenizer.encode("<eos>", allow_special=True)[-1] == 1
    with pytest.raises(AttributeError, match="no fill token"):
        _ = tokenizer.fill_id
    assert getattr(tokenizer, "fill_id", None) is None


# ---- refusals


@BOTH
@pytest.mark.parametrize("bad, error, words", [(b"abc", TypeError, "bytes"), (None, TypeError, "NoneType"), ("a\ud800b", ValueError, "lone surrogate")])
def test_what_is_no_text_is_refused(name, bad, error, words):
    with pytest.raises(error, match=words):
        load_tokenizer(name).encode(bad)
    with pytest.raises(error, match=re.escape("texts[1]")):
        load_tokenizer(name).encode_batch(["fine", bad])


@BOTH
@pytest.mark.parametrize("bad, error", [([-1], ValueError), ([4096], ValueError), ([1.5], TypeError), ([True], TypeError), ("12", TypeError), (torch.zeros(2, 2, dtype=torch.long), ValueError), ([[1]], ValueError), (3, TypeError)])
def test_numbers_that_are_no_tokens_are_refused(name, bad, error):
    with pytest.raises(error):
        load_tokenizer(name).decode(bad)


def test_names_that_lead_nowhere_say_what_to_do(tmp_path):
    with pytest.raises(ModelNotFoundError, match="hf download nobody/nothing"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(ModelNotFoundError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    for bad, error in ((3, TypeError), ("", ValueError), ("  ", ValueError)):
        with pytest.raises(error):
            load_tokenizer(bad)


@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"model": 1})])
def test_a_damaged_tokenizer_file_is_named(content, tmp_path):
    with pytest.raises(WeightsError, match="somewhere is no tokenizer.json"):
        BPETokenizer(content, "somewhere")


def test_a_tokenizer_without_our_specials_is_not_ours():
    engine = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(WeightsError, match="byte-level"):
        BPETokenizer(engine.to_str(), "other")


def test_a_shipped_tokenizer_that_was_changed_is_refused(tmp_path, monkeypatch):
    import shutil
    shutil.copytree(registry.weights_dir() / "code-bpe", tmp_path / "code-bpe")
    shutil.copy(registry.weights_dir() / "manifest.json", tmp_path / "manifest.json")
    file = tmp_path / "code-bpe" / "tokenizer.json"
    file.write_text(file.read_text().replace("return", "retürn", 1))
    monkeypatch.setattr(registry, "weights_dir", lambda: tmp_path)
    with pytest.raises(WeightsError, match="code-bpe/tokenizer.json"):
        registry.shipped_file("code-bpe/tokenizer.json")


@pytest.mark.parametrize("texts, size, error", [("one string", 300, TypeError), ([], 300, ValueError), (["", ""], 300, ValueError), ([b"x"], 300, TypeError), (["x"], 259, ValueError), (["x"], 300.5, TypeError), (["\ud800"], 300, ValueError)])
def test_training_refuses_what_it_cannot_learn_from(texts, size, error):
    with pytest.raises(error):
        train_bpe(texts, size)


def test_without_the_library_bytes_still_work_and_the_extra_is_named(monkeypatch):
    from atomsnb.models import tokenizer as room
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    room._code_bpe.cache_clear()
    assert load_tokenizer("bytes").encode("ab") == [97, 98]
    for call in (load_tokenizer, lambda: train_bpe(["x"], 300)):
        with pytest.raises(MissingExtraError, match=re.escape("atomsnb[models]")):
            call()


def test_the_pattern_leaves_no_character_out():
    regex = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "removed")
    for text in ("a b\n  c", "\r\n\t x", "1２٣", "e\u0301", "!?", " ", "\u3000", "\x00\x1b"):
        assert regex.pre_tokenize_str(text) == []  # what a match covers is removed: nothing may be left
