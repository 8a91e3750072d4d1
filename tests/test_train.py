"""Laws of `core.train`, `core.runstate` and `core.batches`: a run is a function of its arguments, however it is cut up."""
import os
import random
import signal
import socket
import subprocess
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from atomsnb.core.batches import Batches, TensorBatches, permuted
from atomsnb.core.checkpoint import CheckpointError, checkpoints, load_checkpoint
from atomsnb.core.runtime import Config
from atomsnb.core.train import NonFiniteError, constant_with_warmup, fit, warmup_cosine

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True).tanh()


def network(dropout: float = 0.2, seed: int = 0, width: int = 8) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1))


def loss_fn(model, batch, step):
    return (model(batch[0]) - batch[1]).square().mean()


def data(size: int = 8, kind=torch.float32) -> TensorBatches:
    return TensorBatches(X.to(kind), Y.to(kind), batch_size=size, seed=3)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def gap(a: nn.Module, b: nn.Module) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters()))


OPTIMIZERS = {"adam": "adam", "adamw": "adamw", "sgd": "sgd", "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9), "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
              "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.5, centered=True), "adagrad": torch.optim.Adagrad, "nadam": torch.optim.NAdam, "rprop": torch.optim.Rprop,
              "adadelta": torch.optim.Adadelta, "adamax": torch.optim.Adamax, "asgd": torch.optim.ASGD, "adafactor": torch.optim.Adafactor,
              "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3))}


# ---- data


@given(n=st.integers(1, 6000), seed=st.integers(0, 2**70), epoch=st.integers(0, 2**31))
def test_each_epoch_is_a_permutation(n, seed, epoch):
    assert np.array_equal(np.sort(permuted(np.arange(n), n, seed=seed, epoch=epoch)), np.arange(n))


@given(n=st.integers(1, 300), size=st.integers(1, 300), number=st.integers(0, 5000), seed=st.integers(0, 9))
def test_any_batch_is_the_same_whichever_way_it_is_reached(n, size, number, seed):
    size = min(size, n)
    source = TensorBatches(torch.arange(n), batch_size=size, seed=seed)
    near = [source(k) for k in range(max(0, number - 3), number + 1)][-1]
    assert torch.equal(near, TensorBatches(torch.arange(n), batch_size=size, seed=seed)(number))


@given(n=st.integers(8, 200), share=st.integers(1, 4), world=st.integers(1, 4), number=st.integers(0, 100))
def test_the_shares_of_all_processes_make_the_batch(n, share, world, number):
    source = TensorBatches(torch.arange(n), batch_size=min(share * world, n // world * world), seed=1)
    assert torch.equal(torch.cat([source.shard(r, world)(number) for r in range(world)]), source(number))


@pytest.mark.parametrize("n", [2, 3, 12, 50, 1000, 4096, 4097, 70_000])
def test_places_of_samples_are_fair_coins(n):
    """Over a few hundred epochs: which of two places holds the larger row, whether a row lies in the lower half, and whether the first row follows the epoch's number.
    5 standard deviations of a fair coin: one false alarm in 1.7 million. (A hash that met itself once put row e first in epoch e.)"""
    epochs = np.arange(4000 if n < 1000 else 400)
    first, last = (permuted(np.full(len(epochs), i), n, seed=7, epoch=epochs) for i in (0, n - 1))
    limit = 5 * 0.5 / np.sqrt(len(epochs))
    assert abs((first < last).mean() - 0.5) < limit
    if n % 2 == 0:
        assert abs((first < n // 2).mean() - 0.5) < limit and abs((last < n // 2).mean() - 0.5) < limit
        assert abs(((first % 2) == (epochs % 2)).mean() - 0.5) < limit


def test_the_order_does_not_depend_on_the_platform():
    """Golden values: a change of the order would break the resume of every older checkpoint without an error."""
    assert permuted(np.arange(6), 6, seed=0).tolist() == GOLDEN[0] and permuted(np.arange(5), 10**6, seed=1, epoch=2).tolist() == GOLDEN[1]


GOLDEN = ([1, 5, 3, 0, 4, 2], [258166, 672189, 34984, 486377, 916635])


# ---- cutting a run


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_two_sittings_equal_one_bit_for_bit(tmp_path, name):
    options = {"optimizer": OPTIMIZERS[name], "schedule": warmup_cosine(30, warmup=4), "device": "cpu", "log_every": 3, "clip_norm": 1.0}
    whole, first, second = network(), network(), network(seed=9)
    a = fit(whole, loss_fn, data(), steps=30, **options)
    fit(first, loss_fn, data(), steps=13, checkpoint=tmp_path, **options)
    b = fit(second, loss_fn, data(), steps=30, checkpoint=tmp_path, **options)
    assert b.resumed_from == 13 and same(whole, second)
    kept = np.isin(b.steps, a.steps)                               # the first sitting also recorded its own last step
    assert np.array_equal(b.losses["loss"][kept], a.losses["loss"]) and np.all(np.diff(b.wall_s) > 0)


def test_generators_of_all_kinds_go_on_where_they_were(tmp_path):
    """Torch, NumPy and Python draws inside the loss, an odd number of Gaussians in each sitting so that a cached one is pending."""
    def noisy(model, batch, step):
        noise = torch.randn(()) + np.random.randn() + random.gauss(0, 1)
        return loss_fn(model, batch, step) * (1 + 0.1 * noise)
    whole, other = network(), network()
    fit(whole, noisy, data(), steps=21, device="cpu")
    fit(other, noisy, data(), steps=7, device="cpu", checkpoint=tmp_path)
    fit(other, noisy, data(), steps=21, device="cpu", checkpoint=tmp_path)
    assert same(whole, other)


def test_the_callers_generators_and_mode_are_given_back():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(()).item(), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    model = network().eval()
    fit(model, loss_fn, data(), steps=3, device="cpu")
    assert (torch.rand(()).item(), np.random.rand(), random.random()) == expected and not model.training


def test_a_finished_run_comes_back_without_training(tmp_path):
    model, again = network(), network(seed=4)
    a = fit(model, loss_fn, data(), steps=10, device="cpu", checkpoint=tmp_path)
    b = fit(again, lambda *_: pytest.fail("trained"), data(), steps=10, device="cpu", checkpoint=tmp_path)
    assert same(model, again) and np.array_equal(a.losses["loss"], b.losses["loss"]) and b.resumed_from == 10


def test_a_damaged_latest_falls_back_and_is_set_aside(tmp_path):
    whole, model = network(), network()
    fit(whole, loss_fn, data(), steps=30, device="cpu")
    fit(model, loss_fn, data(), steps=20, device="cpu", checkpoint=tmp_path, save_every=10)
    (checkpoints(tmp_path)[0] / "tensors.safetensors").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="Using checkpoint-00000001 instead"):
        history = fit(model, loss_fn, data(), steps=30, device="cpu", checkpoint=tmp_path, save_every=10)
    assert history.resumed_from == 10 and same(whole, model)
    assert len(checkpoints(tmp_path)) == 2 and list(tmp_path.glob("damaged-*"))


def test_a_folder_with_nothing_but_damage_is_never_silently_started_over(tmp_path):
    fit(network(), loss_fn, data(), steps=4, device="cpu", checkpoint=tmp_path)
    for path in checkpoints(tmp_path):
        (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        fit(network(), loss_fn, data(), steps=8, device="cpu", checkpoint=tmp_path)


@dataclass(frozen=True)
class Small(Config):
    width: int = 8


STRANGERS = {
    "shape": ({"model": lambda: network(width=9)}, r"'0.weight' is float32 \[8, 6\] in the checkpoint and float32 \[9, 6\]"),
    "dtype": ({"model": lambda: network().double(), "data": lambda: data(kind=torch.float64)}, r"'0.weight' is float32 \[8, 6\] in the checkpoint and float64"),
    "optimiser": ({"optimizer": "sgd"}, "optimizer is 'Adam' in the checkpoint and 'SGD'"),
    "learning rate": ({"lr": 0.5}, r"options\[0\].lr is 0.001 in the checkpoint and 0.5"),
    "seed": ({"seed": 8}, "seed is 0 in the checkpoint and 8"),
    "batch size": ({"data": lambda: data(16)}, "data.batch_size is 8 in the checkpoint and 16"),
    "rows": ({"data": lambda: TensorBatches(X + 1, Y, batch_size=8, seed=3)}, "data.rows"),
    "precision": ({"precision": "bf16"}, "precision is 'fp32' in the checkpoint and 'bf16'"),
    "accumulate": ({"accumulate": 2}, "accumulate is 1 in the checkpoint and 2"),
    "config": ({"config": Small(width=16)}, "config.width is 8 in the checkpoint and 16"),
    "fewer steps": ({"steps": 2}, "steps is 2, but the checkpoint"),
}


@pytest.mark.parametrize("what", list(STRANGERS))
def test_another_runs_checkpoint_is_refused_untouched(tmp_path, what):
    fit(network(), loss_fn, data(), steps=4, device="cpu", checkpoint=tmp_path, config=Small())
    changes, message = STRANGERS[what]
    model = changes.pop("model", network)()
    source = changes.pop("data", data)()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises((CheckpointError, ValueError), match=message):
        fit(model, loss_fn, source, **({"steps": 8, "device": "cpu", "checkpoint": tmp_path, "config": Small()} | changes))
    if what != "fewer steps":
        assert all(torch.equal(p, q) for p, q in zip(before, model.parameters()))


def test_never_starts_over_and_must_insists(tmp_path):
    with pytest.raises(CheckpointError, match="holds none"):
        fit(network(), loss_fn, data(), steps=4, device="cpu", checkpoint=tmp_path / "none", resume="must")
    fit(network(), loss_fn, data(), steps=4, device="cpu", checkpoint=tmp_path, lr=0.1)
    history = fit(network(), loss_fn, data(), steps=4, device="cpu", checkpoint=tmp_path, lr=0.2, resume="never")
    assert history.resumed_from is None and load_checkpoint(tmp_path, allow_nan=("history.",)).state["run"]["options"][0]["lr"] == 0.2


def test_buffers_and_callbacks_are_part_of_the_state(tmp_path):
    class Counter:
        def __init__(self): self.seen = torch.zeros(2)
        def after_step(self, model, step): self.seen += torch.tensor([1.0, step]); model.calls += 1
        def state_dict(self): return {"seen": self.seen}
        def load_state_dict(self, state): self.seen = state["seen"].clone()

    def build():
        model = network()
        model.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        return model, Counter()
    model, counter = build()
    fit(model, loss_fn, data(), steps=5, device="cpu", checkpoint=tmp_path, callbacks=[counter])
    model, counter = build()
    fit(model, loss_fn, data(), steps=9, device="cpu", checkpoint=tmp_path, callbacks=[counter])
    assert int(model.calls) == 9 and counter.seen.tolist() == [9.0, 36.0]


def test_tied_parameters_stay_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6, bias=False)
            self.b = nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight
        def forward(self, x): return self.b(self.a(x)).sum(1, keepdim=True)
    first, second = Tied(), Tied()
    fit(first, loss_fn, data(), steps=5, device="cpu", checkpoint=tmp_path)
    fit(second, loss_fn, data(), steps=5, device="cpu", checkpoint=tmp_path)
    assert second.b.weight is second.a.weight and torch.equal(first.a.weight, second.a.weight)


def test_frozen_parameters_are_not_trained_and_bfloat16_states_are_not_rounded(tmp_path):
    """A float32 momentum beside bfloat16 weights is what Optimizer.load_state_dict would cast."""
    class Wide(torch.optim.Optimizer):
        def __init__(self, params): super().__init__(params, {"lr": 0.1})
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p, dtype=torch.float32))
                m.mul_(0.9).add_(p.grad.float())
                p.data.add_(m.to(p.dtype), alpha=-0.1)
    def build():
        model = network(0.0).bfloat16()
        model[0].weight.requires_grad_(False)
        return model
    source = data(kind=torch.bfloat16)
    whole, other = build(), build()
    fit(whole, loss_fn, source, steps=12, device="cpu", optimizer=Wide)
    fit(other, loss_fn, source, steps=6, device="cpu", optimizer=Wide, checkpoint=tmp_path)
    fit(other, loss_fn, source, steps=12, device="cpu", optimizer=Wide, checkpoint=tmp_path)
    assert same(whole, other) and torch.equal(whole[0].weight, build()[0].weight)


# ---- one step


@pytest.mark.parametrize("k", [2, 3, 4])
def test_k_parts_equal_one_batch_k_times_larger(k):
    """Float64; 40 Adam updates of 1e-3, each off by rounding (1e-16) amplified by at most 1 / sqrt(v) ~ 1e2: far below 1e-12."""
    one, parts = network(0.0).double(), network(0.0).double()
    a = fit(one, loss_fn, data(24, torch.float64), steps=40, device="cpu", clip_norm=0.5)
    b = fit(parts, loss_fn, data(24 // k, torch.float64), steps=40, accumulate=k, device="cpu", clip_norm=0.5)
    assert gap(one, parts) < 1e-12 and np.allclose(a.losses["loss"], b.losses["loss"], rtol=0, atol=1e-12)


@settings(max_examples=20)
@given(scales=st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6))
def test_a_schedule_multiplies_the_learning_rate(scales):
    """Plain SGD on a linear loss moves by the sum of the rates; float64, six additions of order 0.1."""
    model = nn.Linear(1, 1, bias=False).double()
    start = model.weight.item()
    fit(model, lambda m, b, s: m.weight.sum(), lambda k: None, steps=6, optimizer="sgd", lr=0.1, schedule=lambda step: scales[step], device="cpu")
    assert abs(start - model.weight.item() - 0.1 * sum(scales)) < 1e-12


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_warmup_reaches_one_and_no_update_is_wasted(warmup):
    for schedule in (constant_with_warmup(warmup), warmup_cosine(50, warmup=warmup)):
        assert schedule(max(0, warmup - 1)) == 1.0 and schedule(0) > 0


def test_the_loss_is_looked_at_only_every_log_every_steps(monkeypatch):
    """Each look would make a GPU wait: count the conversions to Python numbers."""
    looks, real = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: looks.append(1) or real(self))
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("item() in the loop"))
    run = dict(steps=41, device="cpu", log_every=10, progress=False)
    fit(network(), loss_fn, lambda k: (X[:4], Y[:4]), **run)
    few = len(looks)
    looks.clear()
    fit(network(), loss_fn, lambda k: (X[:4], Y[:4]), **(run | {"steps": 11}))
    assert few - len(looks) == 3, "three more records, three more looks"


def test_not_a_number_names_the_step_and_the_last_good_checkpoint(tmp_path):
    def breaks(model, batch, step):
        return loss_fn(model, batch, step) * (float("inf") if step == 17 else 1.0)
    with pytest.raises(NonFiniteError, match=r"at step 20.*checkpoint-00000001") as fault:
        fit(network(), breaks, data(), steps=50, device="cpu", checkpoint=tmp_path, save_every=15)
    assert load_checkpoint(tmp_path, allow_nan=("history.",)).state["step"] == 15 and str(tmp_path) in str(fault.value)


def test_weights_that_are_nan_never_replace_a_good_checkpoint(tmp_path):
    def breaks(model, batch, step):
        return loss_fn(model, batch, step) * (float("nan") if step == 17 else 1.0)
    with pytest.raises(NonFiniteError, match="at step 20.*NaN.*checkpoint-00000001"):
        fit(network(), breaks, data(), steps=50, device="cpu", checkpoint=tmp_path, save_every=10, log_every=100)
    assert load_checkpoint(tmp_path, allow_nan=("history.",)).state["step"] == 10 and len(checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("when", [5, 29])
def test_ctrl_c_finishes_the_step_saves_and_gives_the_signal_back(tmp_path, capsys, when):
    whole, model = network(), network()
    fit(whole, loss_fn, data(), steps=30, device="cpu")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, loss_fn, data(), steps=30, device="cpu", checkpoint=tmp_path, callbacks=[lambda m, s: os.kill(os.getpid(), signal.SIGINT) if s == when else None])
    said = capsys.readouterr().err.strip()
    assert signal.getsignal(signal.SIGINT) is before and said.startswith(f"Stopped after step {when + 1} of 30: saved to") and "\n" not in said
    fit(model, loss_fn, data(), steps=30, device="cpu", checkpoint=tmp_path)
    assert same(whole, model)


def test_compiled_and_eager_agree():
    """Float64, 8 updates of 1e-3; the compiler may reorder sums of at most 24 terms."""
    plain, compiled = network(0.0).double(), network(0.0).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(plain, loss_fn, data(24, torch.float64), steps=8, device="cpu")
        fit(compiled, loss_fn, data(24, torch.float64), steps=8, device="cpu", compile=True)
    assert gap(plain, compiled) < 1e-12


def test_without_a_compiler_it_goes_on_with_one_warning(monkeypatch, tmp_path):
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    plain, fallen = network(width=7), network(width=7)
    fit(plain, loss_fn, data(), steps=6, device="cpu")
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(fallen, loss_fn, data(), steps=6, device="cpu", compile=True)
    torch._dynamo.reset()
    mine = [str(w.message) for w in caught if "torch.compile is not available" in str(w.message)]
    assert same(plain, fallen) and len(mine) == 1 and "\n" not in mine[0]


def test_an_error_of_the_loss_is_not_taken_for_the_compilers():
    def broken(model, batch, step):
        raise ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(network(), broken, data(), steps=2, device="cpu", compile=True)


@pytest.mark.parametrize("change, message", [
    ({"model": "net"}, "model is a str"), ({"loss_fn": None}, "loss_fn is a NoneType"), ({"batches": X}, "batches is a Tensor"), ({"steps": 1.5}, "steps is 1.5"), ({"seed": -1}, "seed is -1"),
    ({"log_every": 0}, "log_every is 0"), ({"save_every": 0}, "save_every is 0"), ({"optimizer": "adm"}, "did you mean 'adam'"), ({"optimizer": torch.optim.SGD, "lr": 0.1}, "lr is given together"),
    ({"config": {"a": object()}}, "config.a is a object"), ({"precision": "fp8"}, "precision is 'fp8'"), ({"model": nn.Tanh()}, "nothing to train")])
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"model": network(), "loss_fn": loss_fn, "batches": data(), "steps": 2, "device": "cpu"} | change
    with pytest.raises((TypeError, ValueError), match=message):
        fit(arguments.pop("model"), arguments.pop("loss_fn"), arguments.pop("batches"), **arguments)


# ---- several processes

SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from torch import nn
from test_train import X, Y, data, fit, loss_fn, network, same, warmup_cosine
home = Path(sys.argv[1])
class Odd(nn.Module):                                        # its loss never calls forward: plain wrapping would not synchronise it
    def __init__(self):
        super().__init__()
        self.net = network(0.0).double()
    def encode(self, x): return self.net(x)
fit(Odd(), lambda m, b, s: (m.encode(b[0]) - b[1]).square().mean(), data(8, torch.float64), steps=30, accumulate=2, device="cpu", checkpoint=home / "odd", clip_norm=0.5)
whole, parts = network(), network()                          # with dropout: every process has its own generator, and each comes back
fit(whole, loss_fn, data(), steps=20, device="cpu")
fit(parts, loss_fn, data(), steps=9, device="cpu", checkpoint=home / "parts")
fit(parts, loss_fn, data(), steps=20, device="cpu", checkpoint=home / "parts")
assert same(whole, parts), "two sittings of two processes"
try:
    fit(network(), loss_fn, lambda k: (X[:4], Y[:4]), steps=2, device="cpu")
except TypeError as fault:
    print("refused", fault)
print("world", torch.distributed.get_world_size(), torch.distributed.get_backend(), flush=True)
torch.distributed.destroy_process_group()
"""


def launch(folder, kind: str) -> "list[str]":
    """What each started command printed."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    tail, accelerate = [str(script), str(folder), os.path.dirname(__file__)], [sys.executable, "-m", "accelerate.commands.launch"]
    quiet = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    if kind == "accelerate, elastic launcher":
        commands = [([*accelerate, "--multi_gpu", "--num_processes", "2", *quiet, *tail], {})]
    elif kind == "torchrun":
        commands = [([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, *tail], {})]
    else:                                                         # what mpirun does: the CPU launcher once per rank
        commands = [([*accelerate, "--cpu", "--num_processes", "2", *quiet, *tail], {"RANK": r, "LOCAL_RANK": r, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}) for r in "01"]
    running = [subprocess.Popen(c, env=env | extra, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c, extra in commands]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(said)[-3000:]
    return said


@pytest.mark.parametrize("kind", ["accelerate --cpu, once per rank", pytest.param("accelerate, elastic launcher", marks=pytest.mark.slow), pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_agree_with_one_at_the_same_whole_batch(tmp_path, kind):
    """Float64, 30 Adam updates of 1e-3, a mean of 16 terms in another order: 1e-12 leaves three orders of magnitude."""
    said = "".join(launch(tmp_path, kind))
    assert said.count("world 2 gloo") == 2 and said.count("refused") == 2
    one = network(0.0).double()
    history = fit(one, loss_fn, data(16, torch.float64), steps=30, device="cpu", clip_norm=0.5)
    tensors = load_checkpoint(tmp_path / "odd", allow_nan=("history.",)).tensors
    error = max((tensors[f"model.net.{name}"] - p).abs().max().item() for name, p in one.named_parameters())
    assert error < 1e-12
    assert np.allclose(tensors["history.losses.loss"].numpy(), history.losses["loss"], rtol=0, atol=1e-12)


def test_the_launcher_that_starts_only_one_process_is_pointed_out(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.warns(RuntimeWarning, match="starts one process"):
        fit(network(), loss_fn, data(), steps=1, device="cpu")


def test_a_batches_subclass_is_asked_for_its_share():
    class Source(Batches):
        def __call__(self, number): return number, self.rank, self.world
    assert Source().shard(1, 3)(5) == (5, 1, 3)
    with pytest.raises(ValueError, match="rank is 3"):
        Source().shard(3, 3)
