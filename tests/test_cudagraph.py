"""Recorded updates: the bookkeeping with a stand-in for a CUDA graph, and, where there is a GPU, the graphs themselves."""
import pytest
import torch
from torch import nn

from atomsnb.core import cudagraph as room
from atomsnb.core import train
from atomsnb.core.cudagraph import RecordedUpdate, Tape, recordable
from atomsnb.core.train import TensorBatches, fit, make_optimizer, warmup_cosine

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True).tanh()


def network(dropout=0.1, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))


def loss(model, batch, step):
    error = model(batch[0]) - batch[1]
    return {"loss": error.square().mean(), "mae": error.abs().mean()}


def run(model, device="cpu", loss_fn=loss, **options):
    return fit(model, loss_fn, TensorBatches(X, Y, batch_size=32), **(dict(steps=60, lr=1e-2, schedule=warmup_cosine(60, warmup=5), device=device, progress=False) | options))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.fixture
def stand_in(monkeypatch):
    """CPUs can be recorded: a replay calls the update on the tensors that it holds. Optimisers stay as they are, for torch's are capturable on GPUs alone."""
    made = []

    class Again:
        def __init__(self, fn, held):
            self.fn, self.held, self.output = fn, held, {}

        def pool(self):
            return None

        def replay(self):
            self.output.update(self.fn(*self.held))

    def record(fn, held, pool=None):
        made.append(held)
        graph = Again(fn, held)
        return Tape(graph, held, graph.output)

    plain = make_optimizer
    monkeypatch.setattr(room, "_record", record)
    monkeypatch.setattr(room, "_aside", lambda fn, device: fn())
    monkeypatch.setattr(train, "recordable", lambda device: True)
    monkeypatch.setattr(train, "make_optimizer", lambda optimizer, model, lr, record: plain(optimizer, model, lr))
    return made


def test_only_gpus_can_be_recorded():
    assert not recordable(torch.device("cpu")) and not recordable(torch.device("meta"))


def test_on_a_cpu_record_changes_nothing():
    one, two = network(), network()
    a, b = run(one), run(two, record=True)
    assert same(one, two) and a.losses["loss"].tolist() == b.losses["loss"].tolist() and a.losses["mae"].tolist() == b.losses["mae"].tolist()


@pytest.mark.parametrize("options", [{}, dict(clip_norm=0.1), dict(optimizer="adamw"), dict(precision="bf16"), dict(log_every=1)])
def test_a_recorded_run_is_the_plain_run(stand_in, options):
    one, two = network(), network()
    a, b = run(one, **options), run(two, record=True, **options)
    assert same(one, two) and a.losses["loss"].tolist() == b.losses["loss"].tolist() and a.losses["mae"].tolist() == b.losses["mae"].tolist()
    assert len(stand_in) == 1


def test_a_recorded_run_goes_on_from_its_checkpoint(stand_in, tmp_path):
    whole, early, late = network(), network(), network(seed=7)
    run(whole, record=True)
    run(early, record=True, steps=25, checkpoint=tmp_path)
    assert run(late, record=True, checkpoint=tmp_path).resumed_from == 25
    assert same(whole, late)


def test_callbacks_see_every_update(stand_in):
    seen = []
    run(network(), record=True, callbacks=[lambda model, step: seen.append((step, model[0].weight.sum().item()))])
    assert [s for s, _ in seen] == list(range(60)) and len({w for _, w in seen}) == 60


def test_named_tuples_and_nests_are_batches(stand_in):
    batches = lambda k: {"pair": (X[k : k + 4], [Y[k : k + 4]]), "note": "text"}  # noqa: E731
    fn = lambda m, b, s: (m(b["pair"][0]) - b["pair"][1][0]).square().mean()  # noqa: E731
    one, two = network(), network()
    options = dict(steps=20, device="cpu", progress=False)
    fit(one, fn, batches, **options), fit(two, fn, batches, record=True, **options)
    assert same(one, two)


def test_the_step_is_withheld_on_every_device():
    with pytest.raises(TypeError, match="NoneType"):
        run(network(), loss_fn=lambda m, b, step: loss(m, b, step)["loss"] * (1 + step), record=True)


def test_numbers_are_refused_since_they_would_freeze():
    with pytest.raises(TypeError, match="float under 'share'.*record=True"):
        run(network(), loss_fn=lambda m, b, step: loss(m, b, step) | {"share": 0.5}, record=True)


def test_each_form_of_batch_has_a_recording(stand_in):
    batches = lambda k: (X[: 9 - k % 3], Y[: 9 - k % 3])  # noqa: E731
    one, two = network(), network()
    options = dict(steps=20, device="cpu", progress=False)
    fit(one, loss, batches, **options), fit(two, loss, batches, record=True, **options)
    assert same(one, two) and [len(held[0][0]) for held in stand_in] == [9, 8, 7]


def test_more_forms_than_are_kept_run_as_they_are(stand_in):
    batches = lambda k: (X[: 20 - k % 12], Y[: 20 - k % 12])  # noqa: E731
    one, two = network(), network()
    options = dict(steps=40, device="cpu", progress=False)
    fit(one, loss, batches, **options), fit(two, loss, batches, record=True, **options)
    assert same(one, two) and len(stand_in) == room._KEPT


def test_what_cannot_be_recorded_is_an_error_with_the_reason(stand_in, monkeypatch):
    def refuse(fn, held, pool=None):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(room, "_record", refuse)
    with pytest.raises(RuntimeError, match="record=False.*not permitted"):
        run(network(), record=True)


@pytest.mark.parametrize("options", [dict(compile=True), dict(accumulate=2)])
def test_pairs_of_options_that_exclude_each_other(options):
    with pytest.raises(ValueError, match="record=True"):
        run(network(), record=True, **options)


def test_optimisers_that_cannot_be_recorded():
    model = network()
    with pytest.raises(ValueError, match="sgd.*record=True"):
        make_optimizer("sgd", model, 0.1, record=True)
    assert make_optimizer("adam", model, 0.1, record=True).param_groups[0]["lr"] == 0.1  # a CPU


def test_what_is_no_tensor_belongs_to_the_form(stand_in):
    update = RecordedUpdate(lambda batch: {"loss": batch[0].sum() * batch[1]}, torch.device("cpu"))
    for _ in range(3):
        assert [float(update((torch.full((2,), float(k)), factor))["loss"]) for k in range(3) for factor in (1, 10)] == [0.0, 0.0, 2.0, 20.0, 4.0, 40.0]
    assert len(stand_in) == 2


@gpu
@pytest.mark.parametrize("options", [{}, dict(clip_norm=0.1), dict(optimizer="adamw"), dict(precision="bf16")])
def test_graphs_train_as_launches_do(options):
    one, two = network(dropout=0.0), network(dropout=0.0)
    a, b = run(one, "cuda", **options), run(two, "cuda", record=True, **options)
    for p, q in zip(one.parameters(), two.parameters()):  # the rate is a float32 tensor in one and a float64 number in the other
        assert torch.allclose(p, q, rtol=1e-3, atol=1e-4)
    assert torch.allclose(torch.tensor(a.losses["loss"]), torch.tensor(b.losses["loss"]), rtol=1e-3)


@gpu
def test_dropout_draws_anew_at_every_replay():
    fn = lambda m, b, s: {"loss": (m(b[0]) - b[1]).square().mean(), "mask": (nn.functional.dropout(torch.ones(64, device="cuda"), 0.5) * torch.arange(64, device="cuda")).sum()}  # noqa: E731
    history = run(network(), "cuda", loss_fn=fn, record=True, log_every=1)
    seen = history.losses["mask"].tolist()
    assert len(set(seen)) > 50


@gpu
def test_a_recorded_run_on_a_gpu_goes_on_from_its_checkpoint(tmp_path):
    whole, early, late = network(), network(), network(seed=7)
    run(whole, "cuda", record=True)
    run(early, "cuda", record=True, steps=25, checkpoint=tmp_path)
    assert run(late, "cuda", record=True, checkpoint=tmp_path).resumed_from == 25
    for p, q in zip(whole.parameters(), late.parameters()):
        assert torch.allclose(p, q, rtol=1e-3, atol=1e-4)


@gpu
def test_a_loss_that_waits_for_the_device_cannot_be_recorded():
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        run(network(), "cuda", loss_fn=lambda m, b, s: loss(m, b, s)["loss"] * (1.0 if float(b[0].sum()) > 0 else 2.0), record=True)
    assert float(torch.rand(1000, device="cuda").std()) > 0.2  # the generator is not left in a recording
    run(network(), "cuda", record=True)


@gpu
def test_optimisers_on_a_gpu_keep_their_numbers_there():
    model = network().cuda()
    group = make_optimizer("adam", model, 0.1, record=True).param_groups[0]
    assert group["capturable"] and group["lr"].device.type == "cuda"
    with pytest.raises(ValueError, match="capturable=True"):
        make_optimizer(lambda p: torch.optim.Adam(p, lr=0.1), model, None, record=True)


def test_what_is_no_work_on_a_gpu_is_refused():
    for wrong, said in ((lambda: room.record(torch.relu, (torch.zeros(2),)), "device is cpu"), (lambda: room.record(torch.relu, ()), "no tensor"), (lambda: room.aside(lambda: None, torch.device("cpu")), "device is cpu")):
        with pytest.raises(ValueError, match=said):
            wrong()
    with pytest.raises(TypeError, match="update is a int"):
        RecordedUpdate(3, torch.device("cpu"))
