import math

import pytest
import torch
from torch.func import grad, vmap

from asintrovae import as_distance, expected_likelihood_kernel
from asintrovae.theory.tiled_distance import TILE
from asintrovae.threads import torch_threads
from benchmarks.measuring import LiveBytes

KERNELS = ["mean", "product", "prior"]


def clouds(generator, batch_r=6, batch_g=5, n=3, dtype=torch.float64):
    mu_r, mu_g = (torch.randn(b, n, generator=generator, dtype=dtype) for b in (batch_r, batch_g))
    var_r, var_g = (
        torch.rand(b, n, generator=generator, dtype=dtype) + 0.1 for b in (batch_r, batch_g)
    )
    return mu_r, var_r, mu_g, var_g


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_clouds_have_distance_zero(generator, kernel):
    mu, var, *_ = clouds(generator)
    assert abs(as_distance(mu, var, mu, var, kernel).item()) < 1e-15


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["v", "u"])
def test_distance_is_symmetric_and_blind_to_the_order_of_the_batch(generator, kernel, estimator):
    mu_r, var_r, mu_g, var_g = clouds(generator)
    value = as_distance(mu_r, var_r, mu_g, var_g, kernel, estimator)
    torch.testing.assert_close(value, as_distance(mu_g, var_g, mu_r, var_r, kernel, estimator))
    order = torch.randperm(len(mu_r), generator=generator)
    torch.testing.assert_close(
        value, as_distance(mu_r[order], var_r[order], mu_g, var_g, kernel, estimator)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_v_statistic_is_not_negative_and_grams_are_positive_semidefinite(generator, kernel):
    weight, reduction = {
        "mean": ("lebesgue", "mean"),
        "product": ("lebesgue", "product"),
        "prior": ("prior", "product"),
    }[kernel]
    for _ in range(20):
        mu_r, var_r, mu_g, var_g = clouds(generator)
        assert as_distance(mu_r, var_r, mu_g, var_g, kernel, "v") >= 0
        gram = expected_likelihood_kernel(mu_r, var_r, mu_r, var_r, weight, reduction)
        assert torch.linalg.eigvalsh(gram).min() > -1e-12


def test_u_statistic_is_unbiased_where_v_is_not(generator):
    # Two batches from one distribution: the true distance is 0.
    draws = [
        torch.stack(column)
        for column in zip(*(clouds(generator, 8, 8, 1) for _ in range(4000)), strict=True)
    ]
    u, v = (
        vmap(lambda *d, e=estimator: as_distance(*d, "product", e))(*draws) for estimator in "uv"
    )
    assert abs(u.mean()) < 4 * u.std() / math.sqrt(len(u))
    assert v.mean() > 20 * v.std() / math.sqrt(len(v))


@pytest.mark.parametrize("weight", ["lebesgue", "prior"])
@pytest.mark.parametrize("reduction", ["product", "mean"])
def test_log_is_the_logarithm(generator, weight, reduction):
    pair = clouds(generator)
    log_k = expected_likelihood_kernel(*pair, weight, reduction, log=True)
    assert log_k.shape == (6, 5)
    torch.testing.assert_close(log_k.exp(), expected_likelihood_kernel(*pair, weight, reduction))


def test_product_kernel_underflows_and_its_logarithm_does_not():
    mu, var = torch.zeros(1, 128), torch.ones(1, 128)
    assert expected_likelihood_kernel(mu, var, mu, var).item() == 0.0
    log_k = expected_likelihood_kernel(mu, var, mu, var, log=True).item()
    assert math.isclose(log_k, -64 * math.log(4 * math.pi), rel_tol=1e-6)


def test_mean_kernel_cannot_see_dependence_between_axes():
    corner = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    crossed = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    var = torch.full((2, 2), 0.1, dtype=torch.float64)
    assert abs(as_distance(corner, var, crossed, var, "mean").item()) < 1e-15
    assert as_distance(corner, var, crossed, var, "product") > 0.5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["v", "u"])
def test_gradient_against_finite_differences(generator, kernel, estimator):
    inputs = tuple(t.requires_grad_() for t in clouds(generator, 4, 3, 2))
    assert torch.autograd.gradcheck(lambda *t: as_distance(*t, kernel, estimator), inputs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_agrees_with_float64(generator, kernel):
    double = clouds(generator, 64, 64, 8)
    single = as_distance(*(t.float() for t in double), kernel)
    assert single.dtype == torch.float32
    reduction = "mean" if kernel == "mean" else "product"
    weight = "prior" if kernel == "prior" else "lebesgue"
    q = double[:2]
    scale = expected_likelihood_kernel(*q, *q, weight, reduction=reduction).mean()
    assert abs(single.double() - as_distance(*double, kernel)) < 1e-6 * scale


def test_half_precision_is_computed_in_float32(generator):
    half = [t.bfloat16() for t in clouds(generator)]
    value = as_distance(*half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, as_distance(*(t.float() for t in half)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"var_g": 1.0}, "mu_g and var_g must be tensors, got Tensor and float"),
        ({"kernel": "rbf"}, "kernel='rbf' is not one of 'mean', 'product', 'prior'"),
        ({"estimator": "w"}, "estimator='w' is not one of 'v', 'u'"),
        (
            {"mu_r": torch.zeros(6, 2)},
            r"mu_r and var_r must share a non-empty shape .* got \(6, 2\) and \(6, 3\)",
        ),
        (
            {"mu_r": torch.zeros(6, 2), "var_r": torch.ones(6, 2)},
            "mu_r has 2 latent axes, mu_g has 3",
        ),
        ({"mu_g": torch.zeros(0, 3), "var_g": torch.ones(0, 3)}, "non-empty shape"),
        (
            {"mu_g": torch.zeros(1, 3), "var_g": torch.ones(1, 3), "estimator": "u"},
            "mu_g holds 1 example.*'u' needs at least 2",
        ),
    ],
)
def test_bad_input_is_named(change, words):
    good = {
        "mu_r": torch.zeros(6, 3),
        "var_r": torch.ones(6, 3),
        "mu_g": torch.zeros(5, 3),
        "var_g": torch.ones(5, 3),
    }
    with pytest.raises(ValueError, match=words):
        as_distance(**{**good, **change})


def value_and_gradients(inputs, *options):
    """D and its gradients in all four inputs."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    distance = as_distance(*inputs, *options)
    return [distance.detach(), *torch.autograd.grad(distance, inputs)]


def from_grams(mu_r, var_r, mu_g, var_g, kernel, estimator):
    """D by its definition, from whole Gram matrices."""
    weight, reduction = {
        "mean": ("lebesgue", "mean"),
        "product": ("lebesgue", "product"),
        "prior": ("prior", "product"),
    }[kernel]
    r, g, total = (mu_r, var_r), (mu_g, var_g), 0
    for a, b, sign in ((r, r, 1), (g, g, 1), (r, g, -2)):
        k = expected_likelihood_kernel(*a, *b, weight, reduction)
        alike = estimator == "u" and a is b
        total = total + sign * (k[~torch.eye(len(k), dtype=torch.bool)] if alike else k).mean()
    return total


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("sizes", [(2, 3, 1), (1, 40, 6), (33, 20, 40), (70, 50, 4)])
def test_no_size_of_tile_changes_the_distance(generator, monkeypatch, kernel, estimator, sizes):
    """Nor does the number of threads that share the tiles."""
    if estimator == "u" and 1 in sizes[:2]:
        sizes = (2, *sizes[1:])
    inputs = [t.requires_grad_() for t in clouds(generator, *sizes)]
    expected = from_grams(*inputs, kernel, estimator)
    expected = [expected.detach(), *torch.autograd.grad(expected, inputs)]
    for tile in (64 if sum(sizes) > 50 else 1, 1000, 2**20):
        monkeypatch.setitem(TILE, "cpu", tile)
        monkeypatch.setitem(TILE, "shared", tile)
        for threads in (1, 3):
            with torch_threads(threads):
                found, again = (value_and_gradients(inputs, kernel, estimator) for _ in range(2))
                assert torch.get_num_threads() == threads
            for mine, twice, theirs in zip(found, again, expected, strict=True):
                torch.testing.assert_close(
                    mine, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max())
                )
                assert torch.equal(mine, twice)
            with torch.inference_mode(), torch_threads(threads):
                torch.testing.assert_close(
                    as_distance(*inputs, kernel, estimator), expected[0], rtol=1e-12, atol=1e-14
                )


def extra_bytes(distance, B, n):
    """Most bytes alive at once while D and its gradient are computed, those of inputs and gradients
    not counted."""
    generator = torch.Generator().manual_seed(0)
    inputs = [t.requires_grad_() for t in clouds(generator, B, B, n, torch.float32)]
    with LiveBytes() as counter:
        torch.autograd.grad(distance(*inputs), inputs)
    return counter.peak


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_does_not_grow_with_pairs_by_axis(monkeypatch, kernel):
    """Beside the tile it is some copies of the inputs; one dense array would be B / 8 of them."""
    monkeypatch.setitem(TILE, "cpu", 2**14)
    tile = 4 * 4 * TILE["cpu"]
    for B, n in ((64, 16), (192, 16), (64, 64), (128, 64)):
        copies = (extra_bytes(lambda *t: as_distance(*t, kernel), B, n) - tile) / (2 * B * n * 4)
        assert 1 < copies < 24, (B, n)
    dense = extra_bytes(
        lambda *t: from_grams(*t, kernel, "v"), 64, 64
    )  # the count sees what it has to see
    assert dense > 3 * 64**2 * 64 * 4


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_transforms_of_torch_func_commute_with_it(generator, monkeypatch, kernel, threads):
    monkeypatch.setitem(TILE, "cpu", 100)
    monkeypatch.setitem(TILE, "shared", 50)
    each = [[t.requires_grad_() for t in clouds(generator, 7, 5, 3)] for _ in range(4)]
    stacked = [torch.stack([t.detach() for t in column]) for column in zip(*each, strict=True)]
    expected = [
        torch.stack(column)
        for column in zip(*(value_and_gradients(t, kernel) for t in each), strict=True)
    ]
    every = (0, 1, 2, 3)

    def distance(*inputs):
        return as_distance(*inputs, kernel)

    def total(*inputs):
        return vmap(distance)(*inputs).sum()

    leaves = [t.clone().requires_grad_() for t in stacked]
    moved = [t.movedim(0, 1) for t in stacked]
    twice = [t.unflatten(0, (2, 2)) for t in stacked]
    with torch_threads(threads):
        found_in_each = [
            [vmap(distance)(*stacked), *vmap(grad(distance, every))(*stacked)],
            [vmap(distance)(*leaves), *torch.autograd.grad(total(*leaves), leaves)],
            [vmap(distance, 1)(*moved), *grad(total, every)(*stacked)],
            [
                t.flatten(0, 1)
                for t in (vmap(vmap(distance))(*twice), *vmap(vmap(grad(distance, every)))(*twice))
            ],
        ]
    for found in found_in_each:
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    one_for_all = vmap(distance, (0, 0, None, None))(*stacked[:2], *each[0][2:])
    torch.testing.assert_close(one_for_all[0], expected[0][0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_second_derivative_is_refused_not_left_out(generator, kernel):
    inputs = [t.requires_grad_() for t in clouds(generator)]
    gradients = torch.autograd.grad(as_distance(*inputs, kernel), inputs, create_graph=True)
    with pytest.raises(
        RuntimeError, match="differentiable once; for more build D from expected_likelihood_kernel"
    ):
        (gradients[0].square().sum() + inputs[0].sum()).backward()
    with pytest.raises(RuntimeError, match="differentiable once"):
        grad(lambda mu: grad(lambda m: as_distance(m, *inputs[1:], kernel))(mu).sum())(
            inputs[0].detach()
        )


def test_only_what_wants_a_gradient_gets_one(generator):
    mu_r, var_r, mu_g, var_g = clouds(generator)
    assert not as_distance(mu_r, var_r, mu_g, var_g).requires_grad
    for kernel in KERNELS:
        full = value_and_gradients((mu_r, var_r, mu_g, var_g), kernel)
        mu_g = mu_g.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(3 * as_distance(mu_r, var_r, mu_g, var_g, kernel), mu_g)
        torch.testing.assert_close(gradient, 3 * full[3])


def test_numbers_of_any_type_meet_in_the_widest(generator):
    mu_r, var_r, mu_g, var_g = clouds(generator)
    assert as_distance(mu_r.float(), var_r.float(), mu_g.half(), var_g).dtype == torch.float64
    assert (
        as_distance(
            torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3), mu_g.half(), var_g.half()
        ).dtype
        == torch.float32
    )
