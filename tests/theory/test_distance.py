import math

import pytest
import torch
from torch.func import grad, vmap

from asintrovae import as_distance, expected_likelihood_kernel
from asintrovae.theory.distance import KERNELS as WEIGHT_AND_REDUCTION
from asintrovae.theory.tiled_distance import TILE
from asintrovae.threads import torch_threads
from benchmarks.measuring import LiveBytes

KERNELS = ["mean", "product", "prior", "tempered"]
SETTINGS = [
    *((kernel, 0.0) for kernel in KERNELS),
    ("mean", 0.7),
    ("product", (0.5, 3.0)),
    ("prior", 0.7),
    ("tempered", (0.5, 3.0)),
]
each_setting = pytest.mark.parametrize(("kernel", "bandwidth"), SETTINGS)


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
    """For the tempered kernel, where all posteriors share their variances."""
    weight, reduction = WEIGHT_AND_REDUCTION[kernel]
    for _ in range(20):
        mu_r, var_r, mu_g, var_g = clouds(generator)
        if kernel == "tempered":
            var_r, var_g = (var_r[:1].expand(mu.shape) for mu in (mu_r, mu_g))
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
@pytest.mark.parametrize("reduction", ["product", "mean", "tempered"])
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


@each_setting
@pytest.mark.parametrize("estimator", ["v", "u"])
def test_gradient_against_finite_differences(generator, kernel, bandwidth, estimator):
    inputs = tuple(t.requires_grad_() for t in clouds(generator, 4, 3, 2))

    def distance(*inputs):
        return as_distance(*inputs, kernel, estimator, bandwidth)

    assert torch.autograd.gradcheck(distance, inputs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_agrees_with_float64(generator, kernel):
    double = clouds(generator, 64, 64, 8)
    single = as_distance(*(t.float() for t in double), kernel)
    assert single.dtype == torch.float32
    weight, reduction = WEIGHT_AND_REDUCTION[kernel]
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
        ({"kernel": "rbf"}, "kernel='rbf' is not one of 'mean', 'product', 'prior', 'tempered'"),
        ({"estimator": "w"}, "estimator='w' is not one of 'v', 'u'"),
        ({"bandwidth": -1}, "bandwidth=-1: -1 is not a finite number of at least 0"),
        ({"bandwidth": [1, math.nan]}, "nan is not a finite number of at least 0"),
        ({"bandwidth": ()}, "is empty; give one number or more, 0 for none"),
        ({"bandwidth": "1"}, "bandwidth='1': '1' is not a finite number"),
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


def from_grams(mu_r, var_r, mu_g, var_g, kernel, estimator, bandwidth=0.0):
    """D by its definition, from whole Gram matrices of the convolved posteriors."""
    weight, reduction = WEIGHT_AND_REDUCTION[kernel]
    distances = []
    for h in bandwidth if isinstance(bandwidth, tuple) else (bandwidth,):
        r, g, total = (mu_r, var_r + h / 2), (mu_g, var_g + h / 2), 0
        for a, b, sign in ((r, r, 1), (g, g, 1), (r, g, -2)):
            k = expected_likelihood_kernel(*a, *b, weight, reduction)
            alike = estimator == "u" and a is b
            total = total + sign * (k[~torch.eye(len(k), dtype=torch.bool)] if alike else k).mean()
        distances.append(total)
    return torch.stack(distances).mean()


@each_setting
@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("sizes", [(2, 3, 1), (1, 40, 6), (33, 20, 40), (70, 50, 4)])
def test_no_size_of_tile_changes_the_distance(
    generator, monkeypatch, kernel, bandwidth, estimator, sizes
):
    """Nor does the number of threads that share the tiles."""
    if estimator == "u" and 1 in sizes[:2]:
        sizes = (2, *sizes[1:])
    inputs = [t.requires_grad_() for t in clouds(generator, *sizes)]
    options = kernel, estimator, bandwidth
    expected = from_grams(*inputs, *options)
    expected = [expected.detach(), *torch.autograd.grad(expected, inputs)]
    for tile in (64 if sum(sizes) > 50 else 1, 1000, 2**20):
        monkeypatch.setitem(TILE, "cpu", tile)
        monkeypatch.setitem(TILE, "shared", tile)
        for threads in (1, 3):
            with torch_threads(threads):
                found, again = (value_and_gradients(inputs, *options) for _ in range(2))
                assert torch.get_num_threads() == threads
            for mine, twice, theirs in zip(found, again, expected, strict=True):
                torch.testing.assert_close(
                    mine, theirs, rtol=1e-12, atol=1e-12 * float(theirs.abs().max())
                )
                assert torch.equal(mine, twice)
            with torch.inference_mode(), torch_threads(threads):
                torch.testing.assert_close(
                    as_distance(*inputs, *options), expected[0], rtol=1e-12, atol=1e-14
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


@each_setting
@pytest.mark.parametrize("threads", [1, 2])
def test_transforms_of_torch_func_commute_with_it(
    generator, monkeypatch, kernel, bandwidth, threads
):
    monkeypatch.setitem(TILE, "cpu", 100)
    monkeypatch.setitem(TILE, "shared", 50)
    each = [[t.requires_grad_() for t in clouds(generator, 7, 5, 3)] for _ in range(4)]
    stacked = [torch.stack([t.detach() for t in column]) for column in zip(*each, strict=True)]
    expected = [
        torch.stack(column)
        for column in zip(
            *(value_and_gradients(t, kernel, "v", bandwidth) for t in each), strict=True
        )
    ]
    every = (0, 1, 2, 3)

    def distance(*inputs):
        return as_distance(*inputs, kernel, "v", bandwidth)

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


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_bandwidth_of_zero_is_none_and_several_are_averaged(generator, kernel):
    """Bit for bit."""
    inputs = clouds(generator)
    plain = value_and_gradients(inputs, kernel)
    for none in (0.0, 0, (0.0,), [0.0]):
        found = value_and_gradients(inputs, kernel, "v", none)
        assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    one, two = (value_and_gradients(inputs, kernel, "v", h) for h in (0.5, 3.0))
    both = value_and_gradients(inputs, kernel, "v", (0.5, 3.0))
    torch.testing.assert_close(both, [(a + b) / 2 for a, b in zip(one, two, strict=True)])


BEFORE_THE_BANDWIDTH = {
    ("mean", "v"): (0.08704470844731017, -0.026120069039972545),
    ("mean", "u"): (-0.09514989534122657, -0.026120069039972556),
    ("product", "v"): (0.012800846927997147, -0.0015101614799053005),
    ("product", "u"): (-0.0018580747064665627, -0.0015101614799053007),
    ("prior", "v"): (0.0002496433244731646, -1.978632179806398e-05),
    ("prior", "u"): (-5.8985274832887004e-05, -2.065109592389625e-05),
}


@pytest.mark.parametrize(("kernel", "estimator"), list(BEFORE_THE_BANDWIDTH))
def test_values_are_those_from_before_there_was_a_bandwidth(kernel, estimator):
    """D and the sum of its gradient in mu_g; vector units round differently, hence 1e-14."""
    r, g = torch.arange(12.0, dtype=torch.float64).reshape(4, 3), torch.arange(3.0).double()
    inputs = (r.sin(), 0.2 + r.cos() ** 2, (r + g).cos(), 0.3 + r.sin() ** 2)
    D, _, _, slope, _ = value_and_gradients(inputs, kernel, estimator)
    expected = BEFORE_THE_BANDWIDTH[kernel, estimator]
    assert (D.item(), slope.sum().item()) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kernel", ["product", "prior", "mean"])
def test_a_bandwidth_convolves_both_aggregates_with_a_normal_of_half_of_it(kernel):
    """One axis by the trapezoidal rule; the convolution, too, is done on the grid."""
    h, step = 0.6, 0.01
    z = torch.arange(-1200, 1201, dtype=torch.float64) * step
    mu_r, var_r = torch.tensor([[-1.0, 0.3, 1.2], [0.1, 0.4, 0.2]], dtype=torch.float64)
    mu_g, var_g = torch.tensor([[0.5, 0.9], [0.3, 0.05]], dtype=torch.float64)

    def normal(x, var):
        return torch.exp(-(x**2) / (2 * var)) / math.sqrt(2 * math.pi * var)

    def convolved(mu, var):
        Q = sum(normal(z - m, v) for m, v in zip(mu.tolist(), var.tolist(), strict=True)) / len(mu)
        return torch.stack([(Q * normal(z - at, h / 2)).sum() * step for at in z[::10]])

    square = (convolved(mu_r, var_r) - convolved(mu_g, var_g)) ** 2
    weight = {"product": 1.0, "prior": normal(z[::10], 1.0), "mean": math.sqrt(2 * math.pi)}
    expected = (weight[kernel] * square).sum().item() * 10 * step
    given = (t[:, None] for t in (mu_r, var_r, mu_g, var_g))
    assert as_distance(*given, kernel, bandwidth=h).item() == pytest.approx(expected, rel=1e-10)


def test_variances_of_zero_leave_a_squared_mmd_of_points(generator):
    """With exp(-|x - y|²/2h) as kernel, times (2πh)^(-n/2); the tempered one has h in the place of
    nh and the n-th root of that factor."""
    mu_r, _, mu_g, _ = clouds(generator, 7, 5, 3)
    zero_r, zero_g = torch.zeros_like(mu_r), torch.zeros_like(mu_g)

    def mmd(h):
        def mean(a, b):
            return torch.exp(-torch.cdist(a, b).square() / (2 * h)).mean()

        return mean(mu_r, mu_r) + mean(mu_g, mu_g) - 2 * mean(mu_r, mu_g)

    h = 0.8
    for kernel, expected in (
        ("product", mmd(h) * (2 * math.pi * h) ** -1.5),
        ("tempered", mmd(3 * h) * (2 * math.pi * h) ** -0.5),
    ):
        D, *gradients = value_and_gradients((mu_r, zero_r, mu_g, zero_g), kernel, "v", h)
        torch.testing.assert_close(D, expected)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    with pytest.raises(ValueError, match="var_r holds 0: variances must be positive"):
        as_distance(mu_r, zero_r, mu_g, zero_g)
    with pytest.raises(ValueError, match=r"var_g holds -0\.1: variances must be positive"):
        as_distance(mu_r, zero_r, mu_g, zero_g - 0.1, bandwidth=1.0)


def test_a_large_bandwidth_sees_the_difference_of_the_centres_alone(generator):
    """D h (2πh)^(n/2) -> |E μ_r - E μ_g|², as the first term of the exponential's series."""
    mu_r, var_r, mu_g, var_g = clouds(generator)
    var_r, var_g = var_r[:1].expand_as(mu_r), var_r[:1].expand_as(mu_g)
    gap = (mu_r.mean(0) - mu_g.mean(0)).square().sum()
    for kernel, scale in (("product", (2 * math.pi) ** -1.5), ("tempered", 1 / 3)):
        h = 1e5
        size = h * (h**1.5 if kernel == "product" else math.sqrt(2 * math.pi * h))
        D = as_distance(mu_r, var_r, mu_g, var_g, kernel, bandwidth=h)
        torch.testing.assert_close(D * size, gap * scale, rtol=1e-3, atol=0)


@pytest.mark.parametrize("n", [2, 64, 1024])
def test_the_tempered_kernel_keeps_its_scale_in_float32(n):
    """k(x, x) = (4π)^(-1/2) whatever n, and a step of 1 on every axis costs exp(-1/4)."""
    zero, one = torch.zeros(2, n), torch.ones(2, n)
    alike, apart = (
        expected_likelihood_kernel(zero, one, mean, one, reduction="tempered")[0, 0].item()
        for mean in (zero, one)
    )
    assert alike == pytest.approx((4 * math.pi) ** -0.5, rel=1e-6)
    assert apart / alike == pytest.approx(math.exp(-0.25), rel=1e-6)
    D, *gradients = value_and_gradients((zero, one, one, one), "tempered")
    assert D.item() == pytest.approx(2 * (alike - apart), rel=1e-5)
    slope = math.exp(-0.25) / (2 * n * math.sqrt(4 * math.pi))  # of D in each mean, B = 2
    torch.testing.assert_close(gradients[2], torch.full((2, n), slope), rtol=1e-4, atol=0)


def test_the_tempered_distance_falls_below_zero_where_variances_differ():
    """It is no squared distance there: equal means and wider posteriors make it negative.

    A kernel with all of the prefactor, as the product, is positive definite; a root of it is not.
    """
    axis = torch.linspace(-2, 2, 5, dtype=torch.float64)
    mu = torch.cartesian_prod(axis, axis)
    narrow, wide = torch.full_like(mu, 0.1), torch.full_like(mu, 1.0)
    assert as_distance(mu, narrow, mu, wide, "tempered") < -0.03
    assert as_distance(mu, narrow, mu, wide, "product") > 0
    assert as_distance(mu, narrow, mu, wide, "mean") > 0
    assert as_distance(mu, narrow, mu, wide, "tempered", bandwidth=4.0) > 0


def gap_after_descent(kernel, n=64, bandwidth=0.0, steps=150, B=32):
    """Distance of the centres, per axis, after Adam on mu_g has lowered D, as in chapter 5."""
    generator = torch.Generator().manual_seed(2)
    mu_r, mu_g = torch.randn(2, B, n, generator=generator, dtype=torch.float64)
    mu_g = (mu_g + 1.5).requires_grad_()
    var = torch.ones_like(mu_r)
    start = as_distance(mu_r, var, mu_g, var, kernel, "v", bandwidth).item()
    optimizer = torch.optim.Adam([mu_g], lr=0.05, eps=1e-60)
    for _ in range(steps):
        D = as_distance(mu_r, var, mu_g, var, kernel, "v", bandwidth) / start
        (mu_g.grad,) = torch.autograd.grad(D, mu_g)
        optimizer.step()
    return (mu_g - mu_r).detach().mean(0).norm().item() / math.sqrt(n)


def test_kernels_that_move_a_cloud_in_64_dimensions():
    """From 1.47 per axis; the product with a bandwidth of 2n arrives, too."""
    assert gap_after_descent("product") > 1.5
    assert 0.2 < gap_after_descent("mean") < 0.35
    assert gap_after_descent("tempered") == pytest.approx(0.010, abs=0.002)
    assert gap_after_descent("product", bandwidth=128.0) < 0.02


def test_the_tempered_kernel_sees_crossed_clouds():
    corner = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    crossed = corner * torch.tensor([1.0, -1.0], dtype=torch.float64)
    var = torch.full((2, 2), 0.15, dtype=torch.float64)
    assert as_distance(corner, var, crossed, var, "tempered").item() == pytest.approx(
        0.68, abs=0.01
    )
    assert abs(as_distance(corner, var, crossed, var, "mean").item()) < 1e-15


def test_the_tempered_kernel_tells_dependence_from_independence_in_64_dimensions():
    """All axes correlated with ρ = 0.5 against none, in standard deviations of D without any."""
    generator = torch.Generator().manual_seed(1)
    B, n, rho = 64, 64, 0.5
    var = torch.full((B, n), 0.1, dtype=torch.float64)

    def cloud(rho):
        own = torch.randn(B, n, generator=generator, dtype=torch.float64)
        shared = torch.randn(B, 1, generator=generator, dtype=torch.float64)
        return math.sqrt(1 - rho) * own + math.sqrt(rho) * shared

    pairs = {share: [(cloud(share), cloud(0.0)) for _ in range(20)] for share in (0.0, rho)}

    def deviations(kernel):
        null, found = (
            torch.stack([as_distance(a, var, b, var, kernel, "u") for a, b in pairs[share]])
            for share in (0.0, rho)
        )
        return ((found.mean() - null.mean()) / null.std()).item()

    assert deviations("tempered") > 25
    assert abs(deviations("mean")) < 3


@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize(("kernel", "power"), [("mean", 1), ("product", 3)])
def test_clouds_that_shrink_as_a_whole_raise_the_distance_without_bound(
    generator, kernel, power, estimator
):
    """Means times t and variances times t² multiply D by t^-n, or by 1/t for the mean kernel."""
    mu_r, var_r, mu_g, var_g = clouds(generator)
    before = as_distance(mu_r, var_r, mu_g, var_g, kernel, estimator)
    t = 0.25
    after = as_distance(t * mu_r, t**2 * var_r, t * mu_g, t**2 * var_g, kernel, estimator)
    torch.testing.assert_close(after, before / t**power)


def test_two_forces_act_on_the_mean_of_a_generated_posterior(generator):
    """Repulsion by generated posteriors, which adds up to zero, and attraction by real ones."""
    mu_r, var_r, mu_g, var_g = clouds(generator, 5, 5, 3)
    mu_g.requires_grad_()
    (slope,) = torch.autograd.grad(as_distance(mu_r, var_r, mu_g, var_g, "product"), mu_g)

    def force(mu, var, sign):
        """(2/B²) Σ_j k(g_i, y_j) (μ_i - μ_j) / (λ_i + λ_j), with a sign: (B, n)."""
        apart, width = mu_g[:, None] - mu[None], var_g[:, None] + var[None]
        k = expected_likelihood_kernel(mu_g, var_g, mu, var)
        return sign * 2 / 25 * (k[..., None] * apart / width).sum(1)

    repulsion, attraction = force(mu_g, var_g, 1), force(mu_r, var_r, -1)
    torch.testing.assert_close(repulsion + attraction, -slope)
    assert repulsion.sum(0).abs().max() < 1e-12 < attraction.sum(0).abs().max()


@pytest.mark.parametrize("shift", [0.05, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("var", [0.02, 0.3, 1.0])
def test_the_distance_of_two_kinds_of_fake_is_bounded_by_the_mismatch_of_their_codes(shift, var):
    """D <= k_max KL(Q || p), exactly: codes of data N(shift, 1), codes of the prior N(0, 1), a
    decoder that changes nothing, and an encoder with posteriors N(x, var)."""
    width = 2 * (1 + var)  # of the difference of a draw of either aggregate
    distance = (1 - math.exp(-(shift**2) / (2 * width))) * 2 / math.sqrt(2 * math.pi * width)
    k_max = 1 / math.sqrt(4 * math.pi * var)
    assert distance <= k_max * shift**2 / 2
    z = torch.linspace(-8, 14, 1601, dtype=torch.float64)[:, None]
    of_data, of_prior = (torch.exp(-((z[:, 0] - at) ** 2) / 2) for at in (shift, 0.0))
    signed = of_data / of_data.sum() - of_prior / of_prior.sum()
    width = torch.full_like(z, var)
    by_sum = signed @ expected_likelihood_kernel(z, width, z, width) @ signed
    assert by_sum.item() == pytest.approx(distance, rel=1e-3)
