"""The calls of R3 on texts: grams, tokenizers, corpora, loaded models, encoders and stored activations."""
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from r3_bad_inputs import Case
from r3_cases import rand
from r3_cases_models import IDS, NOTHING, SEEN, SETTINGS, STREAM, gen, net
from torch import nn

from atomsnb.models.causal_lm import CausalLM
from atomsnb.models.corpus import Corpus, token_stream, write_corpus
from atomsnb.models.encoder import HiddenStates
from atomsnb.models.ngram import KneserNey
from atomsnb.models.tokenizer import ByteTokenizer, train_bpe


@lru_cache(maxsize=1)
def byte_lm() -> CausalLM:
    """A causal model of bytes."""
    return CausalLM(net(vocab_size=260), ByteTokenizer(), "tiny")


@lru_cache(maxsize=1)
def counted() -> KneserNey:
    """Grams of a short stream."""
    return KneserNey(3).fit(STREAM, 12)


@lru_cache(maxsize=1)
def folder() -> tempfile.TemporaryDirectory:
    """Where files are written; it goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="r3-")


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    """Two sides of one document each."""
    return Corpus({f"bytes/code/{side}": token_stream("bytes", texts=["a = 1\n"], cache=False) for side in ("fit", "train")}, {side: ('{"a": 1}',) for side in ("fit", "train")})


@lru_cache(maxsize=1)
def corpus_file() -> Path:
    """The same on disk."""
    return write_corpus(Path(folder().name) / "corpus.safetensors", corpus())


@lru_cache(maxsize=1)
def activations_file() -> Path:
    """Activations of three sides on disk."""
    from safetensors.torch import save_file

    save_file({name: rand(5, 3, seed=k) for k, name in enumerate(("fit", "train", "heldout"))}, Path(folder().name) / "activations.safetensors")
    return Path(folder().name) / "activations.safetensors"


class Reader(nn.Module):
    """An encoder of bytes with two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(256, 4), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, n) to (B, n, 4)."""
        return self.blocks[1](self.blocks[0](self.embed(ids)))


def reading() -> dict:
    """A small call of the encoder."""
    return {"model": Reader(), "texts": ["one", "two"], "tokenizer": lambda text: list(text.encode()), "drop_sinks": True, "sink_factor": 10.0, "overflow": "split", "batch_tokens": 64, "max_length": 16, "dtype": torch.float32, "progress": False}


READING = {"texts": "texts", "sink_factor": "positive", "overflow": "choice", "batch_tokens": "count", "max_length": "count", "dtype": "floating dtype"}


def bpe() -> "list[Case]":
    """Cases that need `tokenizers`."""
    if not find_spec("tokenizers"):
        return []
    return [Case("models.tokenizer:train_bpe", lambda: {"texts": ["a text", "another text"], "vocab_size": 264}, {"texts": "texts", "vocab_size": "count"}),
            Case("models.tokenizer:BPETokenizer", lambda: {"content": train_bpe(["a text"], 262).content}, {"content": "text"}, {"content": "tokenizer.json"}),
            Case("models.tokenizer:load_tokenizer", lambda: {"name": "code-bpe"}, {"name": "text"})]


CASES = [
    Case("models.ngram:discounts", lambda: {"counts": np.array([1, 1, 1, 2, 2, 3, 4])}, {"counts": "array of counts"}, allowed={"counts": {"empty": "no gram at all: the fallback, as documented"}}),
    Case("models.ngram:KneserNey", lambda: {"order": 3, "discount": 0.5}, {"order": "count + too large", "discount": "share"}),
    Case("models.ngram:KneserNey.fit", lambda: {"self": KneserNey(3), "ids": STREAM, "vocab_size": 12}, {"ids": "token ids", "vocab_size": "count"}, {"vocab_size": "ids"}),
    Case("models.ngram:KneserNey.logprob", lambda: {"self": counted(), "ids": STREAM}, {"ids": "token ids"}),
    Case("models.ngram:KneserNey.distribution", lambda: {"self": counted(), "context": (3, 4)}, {"context": "whole numbers"}, {}, {"context": {"empty": "the default: the start of a text"}}),
    Case("models.ngram:compressed_bits_per_byte", lambda: {"train_text": ["a text"], "heldout_text": ["another text"], "method": "xz"}, {"train_text": "texts", "heldout_text": "texts", "method": "choice"}, {},
         {"train_text": {"wrong rank": "one string is documented", "empty": "only an empty held-out text is documented as refused"}, "heldout_text": {"wrong rank": "one string is documented"}}),
    Case("models.tokenizer:ByteTokenizer.encode", lambda: {"self": ByteTokenizer(), "text": "a text"}, {"text": "text"}, {}, {"text": {"empty": "the empty text has no tokens"}}),
    Case("models.tokenizer:ByteTokenizer.encode_batch", lambda: {"self": ByteTokenizer(), "texts": ["a text"]}, {"texts": "texts"}, {}, {"texts": {"empty": "no texts have no rows: as `encode` one by one"}}),
    Case("models.tokenizer:ByteTokenizer.decode", lambda: {"self": ByteTokenizer(), "ids": (97, 98)}, {"ids": "whole numbers"}, {}, {"ids": {"empty": "the empty text has no tokens"}}),
    Case("models.tokenizer:ByteTokenizer.decode", lambda: {"self": ByteTokenizer(), "ids": torch.tensor([97, 98])}, {"ids": "token ids"}, {}, {"ids": dict.fromkeys(("empty", "zero axis"), "the empty text has no tokens")}),
    Case("models.tokenizer:ByteTokenizer.token_bytes", lambda: {"self": ByteTokenizer(), "token": 97}, {"token": "token"}),
    Case("models.tokenizer:ByteTokenizer.token_text", lambda: {"self": ByteTokenizer(), "token": 97}, {"token": "token"}),
    *bpe(),
    Case("models.corpus:sides", lambda: {"split": "training"}, {"split": "choice"}),
    Case("models.corpus:code_texts", lambda: {"split": "validation", "kind": "docs"}, {"split": "choice", "kind": "choice"}),
    Case("models.corpus:token_stream", lambda: {"tokenizer": "bytes", "texts": ["a text"], "cache": False}, {"texts": "texts"}),
    Case("models.corpus:TokenStream.document", lambda: {"self": corpus().stream("bytes"), "index": 0}, {"index": "index"}),
    Case("models.corpus:TokenStream.bits_per_byte", lambda: {"self": corpus().stream("bytes"), "nats": 3.0}, {"nats": "finite"}),
    Case("models.corpus:windows", lambda: {"records": ["a text"], "length": 16, "tokenizer": "bytes"}, {"records": "texts", "length": "count"}, {"records": "texts"}),
    Case("models.corpus:Corpus.stream", lambda: {"self": corpus(), "tokenizer": "bytes", "split": "training", "kind": "code"}, {"tokenizer": "choice", "split": "choice", "kind": "choice"}, {"tokenizer": "stream", "kind": "stream"}),
    Case("models.corpus:Corpus.json", lambda: {"self": corpus(), "split": "training"}, {"split": "choice"}),
    Case("models.corpus:Corpus.json_windows", lambda: {"self": corpus(), "split": "training", "length": 16}, {"split": "choice", "length": "count"}),
    Case("models.corpus:write_corpus", lambda: {"path": Path(folder().name) / "again.safetensors", "corpus": corpus()}, {"path": "path"}),
    Case("models.corpus:read_corpus", lambda: {"path": corpus_file()}, {"path": "path"}),
    Case("models.causal_lm:CausalLM.forward", lambda: {"self": byte_lm(), "ids": IDS}, {"ids": "token ids"}),
    Case("models.causal_lm:CausalLM.encode", lambda: {"self": byte_lm(), "text": "a text"}, {"text": "text"}),
    Case("models.causal_lm:CausalLM.generate", lambda: {"self": byte_lm(), "prompt": "a text", "max_new_tokens": 2, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "generator": gen(), "overflow": "error"},
         {"prompt": "text", "max_new_tokens": "count + too large", **SETTINGS, "overflow": "choice"}, {"prompt": "text", "max_new_tokens": "new tokens"}),
    Case("models.causal_lm:load_causal_lm", lambda: {"name": "byte-lm-tiny", "dtype": torch.float32, "device": "cpu"}, {"name": "text", "dtype": "floating dtype", "device": "device"}),
    Case("models.encoder:hidden_states", lambda: {**reading(), "layer": 1}, {**READING, "layer": "index"}, {"sink_factor": "factor"}),
    Case("models.encoder:layerwise_states", lambda: {**reading(), "layers": [0, 1]}, {**READING, "layers": "words"}, {"sink_factor": "factor", "layers": "layer"}),
    Case("models.encoder:sink_mask", lambda: {"states": HiddenStates(rand(4, 3), torch.zeros(4).long(), torch.arange(4), torch.arange(4)), "special_ids": (2,), "factor": 10.0}, {"special_ids": "whole numbers", "factor": "positive"}, {},
         {"special_ids": {"empty": NOTHING}}),
    Case("models.encoder:HiddenStates.select", lambda: {"self": HiddenStates(rand(3, 3), torch.zeros(3).long(), torch.arange(3), torch.arange(3)), "rows": SEEN[0]}, {"rows": "mask"}),
    Case("models.activations:read_activations", lambda: {"path": activations_file(), "sizes": (2, 3, 4)}, {"path": "path", "sizes": "whole numbers"}),
]
