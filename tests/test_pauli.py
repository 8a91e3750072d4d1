"""Laws of the Pauli-rotation kernels and of the fused readout layers, in torch and in Triton's interpreter."""
import os
import subprocess
import sys
import textwrap

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import interpret, need_triton

from atomsnb.kernels import launch
from atomsnb.kernels.pauli import Fused, fuse_strings, parity_signs, reference_rotate, rotate_, rotations_gradient, undo_
from atomsnb.kernels.readout_layer import layer_strings, plan_passes, readout_layers_, reference_layers, undo_readout_layers_

torch.set_num_threads(1)
X, Y, Z, I = (torch.tensor(m, dtype=torch.complex128) for m in ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]], [[1, 0], [0, 1]]))


def expm(matrix):
    """Dense exponential; torch's own loses digits, to 1e-10, on matrices of small norm."""
    return torch.from_numpy(scipy.linalg.expm(matrix.numpy()))


def masks_of(word):
    """(x, z, y) of a word, first letter most significant."""
    x = sum((a in "XY") << (len(word) - 1 - q) for q, a in enumerate(word))
    z = sum((a in "ZY") << (len(word) - 1 - q) for q, a in enumerate(word))
    return x, z, word.count("Y")


def matrix_of(word):
    out = torch.ones(1, 1, dtype=torch.complex128)
    for a in word:
        out = torch.kron(out, {"X": X, "Y": Y, "Z": Z, "I": I}[a])
    return out


def random_state(b, n, seed=0, dtype=torch.complex128):
    return torch.randn(b, 2**n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


words = st.text("IXYZ", min_size=4, max_size=4).filter(lambda w: w != "IIII")


@given(ws=st.lists(words, min_size=1, max_size=6), seed=st.integers(0, 20))
@settings(max_examples=60)
def test_fused_strings_are_the_product_of_exponentials(ws, seed):
    """Any strings, in order; float64, six 16 x 16 products."""
    angles = torch.randn(len(ws), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours = expected = random_state(2, 4, seed)
    groups = fuse_strings([masks_of(w) for w in ws])
    assert [k for group in groups for k in group.members] == list(range(len(ws)))
    for group in groups:
        ours = reference_rotate(ours, group, angles[list(group.members)])
    for w, angle in zip(ws, angles):
        expected = expected @ expm(1j * angle * matrix_of(w)).T
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)


@given(ws=st.lists(words, min_size=2, max_size=8))
@settings(max_examples=60)
def test_only_commuting_strings_with_one_flip_mask_are_fused(ws):
    for group in fuse_strings([masks_of(w) for w in ws]):
        for a in group.members:
            assert masks_of(ws[a])[0] == group.flip
            for b in group.members:
                p, q = matrix_of(ws[a]), matrix_of(ws[b])
                assert torch.equal(p @ q, q @ p)


@given(size=st.integers(1, 70), mask=st.integers(0, 127))
@settings(max_examples=30)
def test_signs_are_the_parity_of_the_common_bits(size, mask):
    assert parity_signs(size, mask, dtype=torch.float64).tolist() == [(-1.0) ** bin(i & mask).count("1") for i in range(size)]


def test_fusing_stops_at_the_limit():
    assert [len(g.members) for g in fuse_strings([(1, 2, 0)] * 7, most=3)] == [3, 3, 1]


@given(ws=st.lists(words, min_size=1, max_size=3), seed=st.integers(0, 20))
@settings(max_examples=30)
def test_undoing_gives_back_the_states_and_the_derivatives_of_autograd(ws, seed):
    (strings, *_) = fuse_strings([masks_of(w) for w in ws])
    angles = torch.randn(len(strings.signs), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    state, weight = random_state(3, 4, seed), random_state(1, 4, seed + 100).real
    after = reference_rotate(state, strings, angles)
    (slope,) = torch.autograd.grad((weight * after.abs().square()).sum(), angles)
    psi, lam = after.detach().clone(), (weight * after).detach().clone()
    found = undo_(psi, lam, strings, angles.detach(), per_state=True)
    assert found.shape == (3, len(strings.signs))
    torch.testing.assert_close(found.sum(0), slope, rtol=1e-10, atol=1e-10)  # float64, 48 terms of size 10
    torch.testing.assert_close(psi, state, rtol=0, atol=1e-13)


@given(ws=st.lists(words, min_size=1, max_size=6), read=words, seed=st.integers(0, 20))
@settings(max_examples=30)
def test_values_and_derivatives_of_a_circuit_are_those_of_dense_matrices(ws, read, seed):
    angles = torch.randn(len(ws), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    state = random_state(3, 4, seed)
    state = state / state.norm(dim=1, keepdim=True)
    before, after = state.clone(), state
    for w, angle in zip(ws, angles):
        after = torch.cos(angle) * after + 1j * torch.sin(angle) * after @ matrix_of(w).T
    exact = torch.einsum("bi,ij,bj->b", after.conj(), matrix_of(read), after).real
    jacobian = torch.stack([torch.autograd.grad(v, angles, retain_graph=True)[0] for v in exact])
    values, slopes = rotations_gradient(state, [masks_of(w) for w in ws], angles.detach(), masks_of(read), most=2)
    torch.testing.assert_close(values, exact.detach(), rtol=0, atol=1e-13)  # float64, six products
    torch.testing.assert_close(slopes, jacobian, rtol=0, atol=1e-13)
    assert torch.equal(state, before)


@pytest.mark.parametrize("masks, angles, read, word", [([(1, 0, 0)], torch.zeros(2), (0, 1, 0), "angles"), ([(8, 0, 0)], torch.zeros(1), (0, 1, 0), "bit 3"), ([(1, 0, 0)], torch.zeros(1), (0, 8, 0), "bit 3"), ([(1, 0, 0)], torch.zeros(1), (1, 1, 0), "letters Y")])
def test_a_circuit_of_masks_names_the_bad_argument(masks, angles, read, word):
    with pytest.raises((ValueError, TypeError), match=word):
        rotations_gradient(random_state(2, 3), masks, angles, read)


@pytest.mark.parametrize("masks, word", [([(1, 1, 0)], "letters Y"), ([(-1, 0, 0)], "masks"), ([(1.5, 0, 0)], "masks"), ([(3, 1, 2)], "letters Y")])
def test_masks_that_contradict_themselves_are_refused(masks, word):
    with pytest.raises((ValueError, TypeError), match=word):
        fuse_strings(masks)


STRINGS = Fused(2, (1,), (1.0,), False, (0,))


@pytest.mark.parametrize("state, strings, angles, word", [
    (torch.zeros(2, 6, dtype=torch.complex64), STRINGS, torch.zeros(1), "state"), (torch.zeros(8, dtype=torch.complex64), STRINGS, torch.zeros(1), "state"), (torch.zeros(2, 8), STRINGS, torch.zeros(1), "state"),
    (torch.zeros(8, 2, dtype=torch.complex64).T, STRINGS, torch.zeros(1), "contiguous"), (torch.zeros(2, 8, dtype=torch.complex64), STRINGS, torch.zeros(2), "angles"),
    (torch.zeros(2, 2, dtype=torch.complex64), STRINGS, torch.zeros(1), "bit 1")])
def test_rotations_name_the_bad_argument(state, strings, angles, word):
    with pytest.raises((ValueError, TypeError), match=word):
        rotate_(state, strings, angles)
    with pytest.raises((ValueError, TypeError), match=word):
        undo_(state, state.clone() if state.is_contiguous() else state, strings, angles)


def test_states_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="adjoint"):
        undo_(random_state(2, 3), random_state(3, 3), STRINGS, torch.zeros(1))
    with pytest.raises(ValueError, match="adjoint"):
        undo_readout_layers_(random_state(2, 3), random_state(2, 4), ["ZX"], torch.zeros(1, 2))


@pytest.mark.skipif(launch.interpreted(), reason="kernels can run here")
def test_kernels_on_a_cpu_are_refused_with_the_remedy():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        rotate_(random_state(1, 3, dtype=torch.complex64), STRINGS, torch.zeros(1), backend="triton")
    with pytest.raises(ValueError, match="backend"):
        rotate_(random_state(1, 3), STRINGS, torch.zeros(1), backend="cuda")


# ---- layers

@given(layers=st.lists(st.sampled_from(("ZX", "XX")), min_size=1, max_size=7), n=st.integers(1, 17), window=st.integers(1, 4))
@settings(max_examples=100)
def test_passes_do_every_gate_once_and_in_order(layers, n, window):
    """Each XX layer meets every data bit exactly once, each ZX layer one pass, and no layer is met before the one below is done."""
    done = {k: set() for k in range(len(layers))}
    for step in plan_passes(layers, n, window):
        assert len(step.window) <= window
        for layer, bits in ((step.first, step.window), (step.table, range(n)), (step.second, step.window)):
            if layer is None:
                continue
            assert layers[layer] == ("ZX" if layer == step.table else "XX")
            assert not done[layer] & set(bits)
            done[layer] |= set(bits)
            for below in range(layer):
                assert done[below] >= (set(bits) if layers[below] == layers[layer] == "XX" else set(range(n)))
    assert all(bits == set(range(n)) for bits in done.values())


def test_the_digit_circuit_takes_ten_passes():
    assert len(plan_passes(["ZX", "XX"] * 3, 16)) == 10


@given(layers=st.lists(st.sampled_from(("ZX", "XX")), min_size=1, max_size=4), n=st.integers(1, 4), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_layers_are_their_gates_and_come_undone(layers, n, seed):
    angles = torch.randn(len(layers), n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    state, expected = random_state(2, n + 1, seed), random_state(2, n + 1, seed)
    for word, row in zip(layers, angles):
        for j, angle in enumerate(row):
            letters = ["I"] * (n + 1)
            letters[j], letters[n] = word
            expected = expected @ expm(1j * angle * matrix_of("".join(letters))).T
    ours = readout_layers_(state.clone(), layers, angles)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-11)  # float64, sixteen products
    slopes = undo_readout_layers_(ours, torch.zeros_like(ours), layers, angles)
    torch.testing.assert_close(ours, state, rtol=0, atol=1e-12)
    assert slopes.shape == angles.shape and float(slopes.abs().max()) == 0.0


def test_derivatives_of_layers_are_those_of_autograd():
    layers, n = ["ZX", "XX", "ZX"], 3
    angles = torch.randn(3, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    state, weight = random_state(2, n + 1, 1), random_state(1, n + 1, 2).real
    after = reference_layers(state, layers, angles)
    (slope,) = torch.autograd.grad((weight * after.abs().square()).sum(), angles)
    found = undo_readout_layers_(after.detach().clone(), (weight * after).detach().clone(), layers, angles.detach(), per_state=True)
    torch.testing.assert_close(found.sum(0), slope, rtol=1e-10, atol=1e-10)  # float64


@pytest.mark.parametrize("layers, angles", [(["ZZ"], torch.zeros(1, 2)), ("ZX", torch.zeros(2, 2)), ([], torch.zeros(0, 2)), (["ZX"], torch.zeros(1, 3)), (["ZX"], torch.zeros(2))])
def test_layers_name_the_bad_argument(layers, angles):
    with pytest.raises((ValueError, TypeError), match="layers|angles"):
        readout_layers_(random_state(1, 3), layers, angles)


def test_a_layer_of_zx_is_one_group():
    assert len(layer_strings("ZX", 9)) == 1 and len(layer_strings("XX", 9)) == 9


# ---- the kernels, in the interpreter

def test_rotation_kernels_equal_double_precision_in_every_mode(tmp_path):
    """Diagonal, bit 0 alone, pairs with and without bit 0; even and odd; one string and several; complex64 against complex128."""
    out = interpret(tmp_path, """
        import torch
        from atomsnb.kernels import pauli as P

        g = torch.Generator().manual_seed(0)
        cases = [[(0, 5, 0), (0, 2, 0)], [(0, 1, 0)], [(1, 4, 0), (1, 6, 0), (1, 0, 0)], [(1, 3, 1), (1, 1, 1)], [(8, 1, 0), (8, 4, 0)], [(9, 0, 0), (9, 9, 2)], [(12, 8, 1), (12, 5, 1)], [(7, 7, 3)], [(16, 16, 1)], [(31, 0, 0)]]
        for masks in cases:
            (strings,) = P.fuse_strings(masks)
            state, other = (torch.randn(3, 32, generator=g, dtype=torch.complex64) for _ in range(2))
            angles = 3 * torch.randn(len(masks), generator=g)
            exact = P.reference_rotate(state.to(torch.complex128), strings, angles.double())
            for block in (4, 64):  # 64: the last program is only partly filled
                ours = P.rotate_(state.clone(), strings, angles, backend="triton", block=block)
                assert float((ours - exact).abs().max()) < 5e-6, masks
            before, after, slopes = P.reference_undo(state.to(torch.complex128), other.to(torch.complex128), strings, angles.double())
            psi, lam = state.clone(), other.clone()
            found = P.undo_(psi, lam, strings, angles, per_state=True, backend="triton", block=4)
            assert float((psi - before).abs().max()) < 5e-6 and float((lam - after).abs().max()) < 5e-6, masks
            assert float((found - slopes).abs().max()) < 1e-4, masks  # sums of 32 products of size 1
            psi, lam = state.clone(), other.clone()
            total = P.undo_(psi, lam, strings, angles, backend="triton")
            assert float((total - slopes.sum(0)).abs().max()) < 1e-4
        state = torch.randn(2, 2, generator=g, dtype=torch.complex64)  # a single qubit
        for masks in ([(1, 1, 1)], [(0, 1, 0)], [(1, 0, 0)]):
            (strings,) = P.fuse_strings(masks)
            exact = P.reference_rotate(state.to(torch.complex128), strings, torch.tensor([0.7], dtype=torch.float64))
            assert float((P.rotate_(state.clone(), strings, torch.tensor([0.7]), backend="triton") - exact).abs().max()) < 1e-6
        print("done")
        """)
    assert out.endswith("done\n")


def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    """For an H100: every mode, also with the integers that Triton turns into constants because they are 1; wide accesses, and no shared memory in the forward kernels."""
    need_triton()
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(COMPILE))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("done\n")


COMPILE = """
    import re
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from atomsnb.kernels import pauli, readout_layer
    from atomsnb.kernels.launch import jit

    def compiled(kernel, types, constants, ones):
        function, constants = jit(kernel), constants | dict.fromkeys(ones, 1)
        signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
        aligned = {(k,): [["tt.divisibility", 16]] for k, kind in enumerate(signature.values()) if kind[0] == "*" or kind == "i64"}
        return triton.compile(ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned), target=GPUTarget("cuda", 90, 32))

    one = dict(state="*fp32", signs="*i64", angles="*fp32", strings="i32", flip="i32", pivot="i32", count="i64")
    two = dict(state="*fp32", adjoint="*fp32", signs="*i64", angles="*fp32", slopes="*fp32", strings="i32", flip="i32", pivot="i32", programs="i32")
    for mode, odd, low in ((0, False, False), (1, True, True), (2, True, True)):
        for ones in ((), ("strings", "flip", "pivot")):
            code = compiled(pauli.rotate_kernel, one, dict(ODD=odd, MODE=mode, LOW=low, SINGLE=True, BLOCK=256), ones)
            assert code.metadata.shared == 0 and len(re.findall(r"\\.v4\\.b32", code.asm["ptx"])) >= 4
            compiled(pauli.undo_kernel, two, dict(ODD=odd, MODE=mode, LOW=low, BLOCK=256), ones + (("programs",) if ones else ()))
    bits = dict.fromkeys(("b0", "b1", "b2", "b3", "mask", "n_data", "programs"), "i32")
    forward = bits | dict.fromkeys(("state", "table", "first", "second"), "*fp32")
    back = forward | dict.fromkeys(("adjoint", "slopes"), "*fp32")
    for R, first, table, second in ((0, False, True, False), (3, True, True, True)):
        for ones in ((), ("b0", "mask")):
            code = compiled(readout_layer.layer_kernel, forward, dict(R=R, FIRST=first, TABLE=table, SECOND=second, BLOCK=2048 >> R), ones)
            assert code.metadata.shared == 0
            compiled(readout_layer.undo_layer_kernel, back, dict(R=R, FIRST=first, TABLE=table, SECOND=second, BLOCK=1024 >> R), ones + (("n_data", "programs") if ones else ()))
    print("done")
    """


def test_layer_kernels_equal_double_precision_for_every_window(tmp_path):
    """Windows that do not divide the number of data bits, layers that share passes, single layers, one data qubit."""
    out = interpret(tmp_path, """
        import torch
        from atomsnb.kernels import readout_layer as P

        g = torch.Generator().manual_seed(0)
        for n, layers, window in ((5, ["ZX", "XX", "ZX", "XX"], 2), (3, ["XX", "XX", "ZX"], 4), (4, ["ZX"], 3), (5, ["ZX", "ZX", "XX"], 3), (1, ["XX", "ZX"], 4), (4, ["XX"], 1)):
            state, other = (torch.randn(2, 2 ** (n + 1), generator=g, dtype=torch.complex64) for _ in range(2))
            angles = torch.randn(len(layers), n, generator=g)
            exact = P.reference_layers(state.to(torch.complex128), layers, angles.double())
            ours = P.readout_layers_(state.clone(), layers, angles, backend="triton", window=window, block=8)
            assert float((ours - exact).abs().max()) < 1e-5, (n, layers, window)
            wide = state.to(torch.complex128), other.to(torch.complex128)
            slopes = P.undo_readout_layers_(*wide, layers, angles.double(), per_state=True, backend="torch")
            psi, lam = state.clone(), other.clone()
            found = P.undo_readout_layers_(psi, lam, layers, angles, per_state=True, backend="triton", window=window, block=8)
            assert float((psi - wide[0]).abs().max()) < 1e-5 and float((lam - wide[1]).abs().max()) < 1e-5
            assert float((found - slopes).abs().max()) < 3e-4, (n, layers, window)  # sums of 64 products of size 1
        print("done")
        """)
    assert out.endswith("done\n")
