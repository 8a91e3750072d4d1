"""Recorded passes: the bookkeeping with a stand-in for a CUDA graph, and, where there is a GPU, the graphs themselves."""
import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from atomsnb.models.masked_sampling import sample
from atomsnb.nn import replay as room
from atomsnb.nn.replay import Replay
from atomsnb.nn.transformer import Transformer, TransformerConfig

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CONFIG = TransformerConfig(vocab_size=97, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=96, context=64, causal=False)


class Again:
    """A replay that computes anew from what lies in the inputs."""

    def __init__(self, fn, held):
        self.fn, self.held, self.output = fn, held, fn(*held)

    def pool(self):
        return None

    def replay(self):
        self.output.copy_(self.fn(*self.held))


@pytest.fixture
def stand_in(monkeypatch):
    """Every device can be recorded; what was recorded is noted."""
    made = []

    def record(fn, held, pool):
        made.append(tuple(tuple(x.shape) for x in held))
        graph = Again(fn, held)
        return room.Tape(graph, held, graph.output)

    monkeypatch.setattr(room, "recordable", lambda device: True)
    monkeypatch.setattr(room, "_record", record)
    return made


def sharp(seed=0, device="cpu", dtype=torch.float32, **changes):
    """A bidirectional transformer whose predictions are far from ties."""
    model = Transformer(CONFIG.replace(**changes), seed=seed).to(device, dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(8)
    return model


def test_nothing_is_recorded_on_a_cpu():
    assert Replay.of(nn.Linear(2, 2).eval()) is None and Replay.of(nn.ReLU().eval()) is None


def test_first_as_it_is_then_recorded_then_replayed(stand_in):
    layer = nn.Linear(3, 2).eval()
    replay, x = Replay.of(layer), torch.randn(5, 3)
    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(replay("layer", layer, (x,)), layer(x))
        assert stand_in == [((5, 3),)]
        one, two = replay("layer", layer, (x,)), replay("layer", layer, (2 * x,))
        assert torch.equal(one, layer(x)) and torch.equal(two, layer(2 * x))  # results do not share memory
        replay("other", layer, (x,)), replay("other", layer, (x,))
    assert len(stand_in) == 2  # another name, another recording


def test_with_gradients_nothing_is_replayed(stand_in):
    layer = nn.Linear(3, 2).eval()
    replay, x = Replay.of(layer), torch.randn(5, 3)
    for _ in range(3):
        assert replay("layer", layer, (x,)).requires_grad
    assert stand_in == []


@pytest.mark.parametrize("modes", [(torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)])
def test_what_was_recorded_in_inference_mode_serves_outside_it(stand_in, modes):
    layer = nn.Linear(3, 2).eval()
    replay = Replay.of(layer)
    for mode in (modes[0], modes[0], *modes):
        with mode():
            x = torch.randn(5, 3)
            assert torch.equal(replay("layer", layer, (x,)), layer(x))
    assert len(stand_in) == 1


def test_smaller_inputs_use_the_leading_corner(stand_in):
    layer = nn.Linear(3, 2).eval()
    replay = Replay.of(layer)
    with torch.no_grad():
        for n in (8, 8, 3, 1, 7):
            x = torch.randn(n, 3)
            assert torch.equal(replay("layer", layer, (x,), [(8, 3)])[:n], layer(x))
    assert stand_in == [((8, 3),)]


def test_only_the_latest_shapes_are_kept(stand_in):
    layer = nn.Linear(3, 2).eval()
    replay = Replay.of(layer)
    with torch.no_grad():
        for n in (*range(1, 11), 10, 1):
            for _ in range(2):
                replay("layer", layer, (torch.zeros(n, 3),))
    assert len(replay.tapes) == room._KEPT and [s[0][0] for s in stand_in] == [*range(1, 11), 1]


def test_what_cannot_be_recorded_runs_as_it_is(stand_in, monkeypatch):
    def refuse(fn, held, pool):
        stand_in.append("tried")
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(room, "_record", refuse)
    layer = nn.Linear(3, 2).eval()
    replay, x = Replay.of(layer), torch.randn(5, 3)
    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(replay("layer", layer, (x,)), layer(x))
    assert stand_in == ["tried"]


@pytest.mark.parametrize("change", [lambda m: m.train(), lambda m: m.lm_head.train() if m.lm_head else m.model.norm.train(), lambda m: m.model.layers[0].mlp.register_forward_hook(lambda *_: None), lambda m: m.register_forward_pre_hook(lambda *_: None)])
def test_models_that_must_not_be_recorded(stand_in, change):
    model = sharp()
    assert Replay.of(model) is not None
    change(model)
    assert Replay.of(model) is None


def test_large_models_are_not_recorded(stand_in, monkeypatch):
    monkeypatch.setattr(room, "_LARGEST", 10)
    assert Replay.of(nn.Linear(3, 2).eval()) is not None and Replay.of(nn.Linear(3, 3).eval()) is None


def test_recordings_follow_the_weights(stand_in):
    model = sharp()
    replay = Replay.of(model)
    assert Replay.of(model) is replay
    model.load_state_dict(sharp(seed=1).state_dict())
    assert Replay.of(model) is replay  # changed in place
    model.double()
    assert Replay.of(model) is not replay  # other places
    replay = Replay.of(model)
    model.model.layers[1].mlp.up_proj = nn.Linear(64, 96, bias=False).double().eval()
    assert Replay.of(model) is not replay


def test_a_model_with_recordings_can_be_copied_saved_and_forgotten(stand_in):
    model, before = sharp(), len(room._HELD)
    replay = Replay.of(model)
    with torch.no_grad():
        for _ in range(2):
            replay("layer", lambda x: x + 1, (torch.zeros(2),))
    other = copy.deepcopy(model)
    assert len(pickle.dumps(other)) and Replay.of(other) is not replay
    del model, other, replay
    gc.collect()
    assert len(room._HELD) == before


def test_sampling_with_recordings_gives_the_same_texts(stand_in):
    model = sharp()
    prompt = torch.randint(96, (3, 9), generator=torch.Generator().manual_seed(0))
    for options in (dict(length=36, block=12), dict(length=40, steps=8), dict(length=24, temperature=0.8, steps=6, end_id=5)):
        draw = lambda **more: sample(model, prompt=prompt, mask_id=96, generator=torch.Generator().manual_seed(1), **options, **more)  # noqa: B023, E731
        recorded, plain = draw(), draw(shortcuts=False)
        assert torch.equal(recorded.ids, plain.ids) and recorded.forwards == plain.forwards
    assert stand_in and all(ids[0] == positions[0] in (1, 2, 4) and positions[1] % 32 == 0 for ids, positions in stand_in)


def test_one_block_models_are_recorded_too(stand_in):
    model = sharp(n_layers=1)
    done = sample(model, length=20, mask_id=96)
    assert stand_in and torch.equal(done.ids, sample(model, length=20, mask_id=96, shortcuts=False).ids)


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_what_launches_give(dtype):
    model = sharp(device="cuda", dtype=dtype)
    ids = torch.randint(97, (5, 40), device="cuda")
    replay = Replay.of(model)
    with torch.no_grad():
        for _ in range(3):
            out = replay("logits", lambda i: model(i).logits, (ids,))
            assert torch.equal(out, model(ids).logits)
        for p in model.parameters():
            p.mul_(1.1)
        assert torch.equal(replay("logits", lambda i: model(i).logits, (ids,)), model(ids).logits)


@gpu
def test_texts_from_graphs_are_those_of_launches():
    model, g = sharp(device="cuda"), torch.Generator().manual_seed(3)
    prompt = torch.randint(96, (6, 9), generator=g)
    for _ in range(2):
        for options in (dict(length=36, block=12), dict(length=40, steps=8), dict(length=24, end_id=5)):
            with_graphs, without = sample(model, prompt=prompt, mask_id=96, **options), sample(model, prompt=prompt, mask_id=96, shortcuts=False, **options)
            assert float((with_graphs.ids == without.ids).float().mean()) > 0.95  # float32 sums in other shapes: a near-tie may fall either way
    assert Replay.of(model).tapes


@gpu
def test_a_pass_that_waits_for_the_device_is_run_as_it_is():
    layer = nn.Linear(3, 3).eval().cuda()
    replay, x = Replay.of(layer), torch.randn(4, 3, device="cuda")
    waits = lambda x: layer(x) * float(x.sum())  # noqa: E731
    with torch.no_grad():
        for _ in range(4):
            assert torch.allclose(replay("waits", waits, (x,)), waits(x))
    assert list(replay.tapes.values()) == [None]
