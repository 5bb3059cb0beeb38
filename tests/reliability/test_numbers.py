"""Bad numbers: the AS-Distance, its kernels and the encoder's log-variance at the ends of their
range, and beyond."""

import itertools
import math

import mpmath
import pytest
import torch
from conftest import build, tiny_config
from torch.func import grad, vmap

from asintrovae import Gaussian, as_distance, expected_likelihood_kernel
from asintrovae.theory.gaussian import bounded
from asintrovae.theory.networks import LOGVAR_RANGE

KERNELS = {
    "mean": ("lebesgue", "mean"),
    "product": ("lebesgue", "product"),
    "prior": ("prior", "product"),
    "tempered": ("lebesgue", "tempered"),
}


def limit(dtype):
    """Largest product kernel, as documented: the square root of the dtype's largest number."""
    return math.sqrt(torch.finfo(dtype).max)


def extreme(generator, count, n, dtype):
    """Means of up to 1e4, some of them close together, and variances 1e-12 to 1e12; (count, n)."""
    size, near = torch.rand(2, generator=generator, dtype=torch.float64)
    mean = 10 ** (8 * size - 4) * torch.randn(
        count, n, generator=generator, dtype=torch.float64
    ).clamp(-1, 1)
    middle = 24 * torch.rand(1, n, generator=generator, dtype=torch.float64) - 12
    spread = near * torch.randn(count, n, generator=generator, dtype=torch.float64)
    return mean.to(dtype), 10 ** (middle + spread).clamp(-12, 12).to(dtype)


def exact_log_axis(mu_a, var_a, mu_b, var_b, weight):
    """Log of ∫ w q q' of one axis by the covariance of the two means, which is not how the package
    writes it."""
    if weight == "lebesgue":
        s = var_a + var_b
        return -((mu_a - mu_b) ** 2 / s + mpmath.log(2 * mpmath.pi * s)) / 2
    determinant = (1 + var_a) * (1 + var_b) - 1  # of [[1 + λ, 1], [1, 1 + λ']]
    square = ((1 + var_b) * mu_a**2 - 2 * mu_a * mu_b + (1 + var_a) * mu_b**2) / determinant
    return -(square + mpmath.log(determinant)) / 2 - mpmath.log(2 * mpmath.pi)


def exact_kernel(a, b, kernel, largest):
    """k of two posteriors, each a list of (mean, variance) by axis."""
    weight, reduction = KERNELS[kernel]
    logs = [exact_log_axis(*p, *q, weight) for p, q in zip(a, b, strict=True)]
    if reduction == "mean":
        return mpmath.fsum(map(mpmath.exp, logs)) * mpmath.sqrt(2 * mpmath.pi) / len(logs)
    power = mpmath.mpf(1) / (len(logs) if reduction == "tempered" else 1)
    return min(mpmath.exp(power * mpmath.fsum(logs)), mpmath.mpf(largest))


def exactly(mean, var):
    """(count, n) twice -> for each example a list of (mean, variance) by axis."""
    pairs = zip(mean.tolist(), var.tolist(), strict=True)
    return [[(mpmath.mpf(m), mpmath.mpf(v)) for m, v in zip(*pair, strict=True)] for pair in pairs]


def rounded(examples, eps):
    """The same with means that are off by a rounding error, every other one upwards."""
    return [
        [(m * (1 + eps * (-1) ** i), v) for m, v in example] for i, example in enumerate(examples)
    ]


def pair_weights(N, M, estimator):
    """Weight of k(x_i, x_j) in D for each pair of the N + M examples: a list of (i, j, weight)."""
    for i, j in itertools.product(range(N + M), repeat=2):
        if (i < N) != (j < N):
            yield i, j, -mpmath.mpf(1) / (N * M)
        elif estimator == "v" or i != j:
            size = N if i < N else M
            yield i, j, mpmath.mpf(1) / (size * (size - (estimator == "u")))


def draws(count, sizes):
    """Seeded cases: kernel, estimator, and the four inputs of as_distance."""
    generator = torch.Generator().manual_seed(20220724)
    for case in range(count):
        kernel, estimator = list(KERNELS)[case % 4], "vu"[case // 4 % 2]
        n = sizes[(case + case // 4) % len(sizes)]  # each kernel meets each size
        N, M = (int(torch.randint(2, 5, (), generator=generator)) for _ in range(2))
        yield case, kernel, estimator, generator, N, M, n


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distance_is_that_of_arbitrary_precision(dtype):
    """As near as rounding lets it be: of the exponent, which is a sum over the axes, and with the
    prior of the means."""
    eps, seen = torch.finfo(dtype).eps, []
    for case, kernel, estimator, generator, N, M, n in draws(48, (1, 2, 5, 24)):
        r, g = extreme(generator, N, n, dtype), extreme(generator, M, n, dtype)
        if case % 2:  # batches that meet
            near = r[0][torch.arange(M) % N], r[1][torch.arange(M) % N]
            g = near[0] + g[0] * r[1].sqrt().amin() / g[0].abs().amax(), near[1]
        with mpmath.workdps(40):

            def terms(examples, kernel=kernel, sizes=(N, M, estimator)):
                pairs = pair_weights(*sizes)
                return [
                    w * exact_kernel(examples[i], examples[j], kernel, limit(dtype))
                    for i, j, w in pairs
                ]

            examples = exactly(*r) + exactly(*g)
            exact = terms(examples)
            expected, size = mpmath.fsum(exact), mpmath.fsum(map(abs, exact))
            allowed = eps * (100 + 200 * n) * size + torch.finfo(dtype).tiny
            if kernel == "prior":
                allowed += mpmath.fsum(
                    abs(p - q)
                    for p, q in zip(exact, terms(rounded(examples, 2 * eps)), strict=True)
                )
            found = as_distance(*r, *g, kernel, estimator)
            assert found.dtype == dtype
            assert abs(mpmath.mpf(found.item()) - expected) <= allowed, case
            assert kernel == "prior" or allowed < 1e-3 * size + 1e-37
        seen.append(float(size))
    assert (
        sum(1e-30 < size < limit(dtype) for size in seen) > 20
    )  # most of the draws are not simply 0
    assert len(set(seen)) > 40


def test_gradient_is_that_of_arbitrary_precision():
    """One coordinate of each input against the derivative of the closed forms, pair by pair."""
    compared = 0
    for case, kernel, estimator, generator, N, M, n in draws(24, (1, 2, 6)):
        r, g = extreme(generator, N, n, torch.float64), extreme(generator, M, n, torch.float64)
        inputs = [t.requires_grad_() for t in (*r, *g)]
        gradients = torch.autograd.grad(as_distance(*inputs, kernel, estimator), inputs)
        examples = exactly(*r) + exactly(*g)
        with mpmath.workdps(60):
            for which, gradient in enumerate(gradients):
                row, axis, of_var = case % len(gradient), case % n, which % 2
                i = row + N * (which > 1)

                def moved(x, i=i, axis=axis, of_var=of_var, examples=examples):
                    place = list(examples[i][axis])
                    place[of_var] = x
                    return [*examples[i][:axis], tuple(place), *examples[i][axis + 1 :]]

                def along(x, j, i=i, moved=moved, kernel=kernel, examples=examples):
                    one = moved(x)
                    return exact_kernel(
                        one, one if j == i else examples[j], kernel, limit(torch.float64)
                    )

                x = examples[i][axis][of_var]
                step = (
                    2 * mpmath.sqrt(examples[i][axis][1]) * mpmath.mpf("1e-20")
                    if not of_var
                    else x * mpmath.mpf("1e-20")
                )
                terms = []
                for a, j, w in pair_weights(N, M, estimator):
                    if a == i:
                        slope = (along(x + step, j) - along(x - step, j)) / (2 * step)
                        terms.append((1 if j == i else 2) * w * slope)
                expected, size = mpmath.fsum(terms), mpmath.fsum(map(abs, terms))
                error = abs(mpmath.mpf(gradient[row, axis].item()) - expected)
                assert error <= 1e-9 * size + mpmath.mpf("1e-290"), (case, kernel, which)
                compared += size > 1e-200
    assert compared > 48


@pytest.mark.parametrize("weight", ["lebesgue", "prior"])
def test_log_kernel_is_that_of_arbitrary_precision(weight):
    generator = torch.Generator().manual_seed(20220725)
    for n in (1, 3, 16, 256):
        a, b = extreme(generator, 2, n, torch.float64), extreme(generator, 2, n, torch.float64)
        found = expected_likelihood_kernel(*a, *b, weight, log=True).tolist()
        with mpmath.workdps(40):
            for (i, one), (j, other) in itertools.product(
                enumerate(exactly(*a)), enumerate(exactly(*b))
            ):
                logs = [exact_log_axis(*p, *q, weight) for p, q in zip(one, other, strict=True)]
                assert abs(found[i][j] - mpmath.fsum(logs)) <= 1e-13 * mpmath.fsum(map(abs, logs))


EXTREMES = [(0.0, 1.0), (0.0, 1e-12), (0.0, 1e12), (1e4, 1e-12), (1e4, 1.0), (1e4, 1e12)]


def corner(B, n, dtype, mean, var):
    """Two batches; the second sits at the extreme, the first between it and the prior."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(B, n, generator=generator)
    r = noise * mean / 2, torch.full((B, n), math.sqrt(var))
    g = mean * torch.sign(noise), torch.full((B, n), var)
    return [t.to(dtype).requires_grad_() for t in (*r, *g)]


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 64, 1024])
def test_values_and_gradients_stay_finite(kernel, dtype, n):
    weight, reduction = KERNELS[kernel]
    for (mean, var), B in itertools.product(EXTREMES, (1, 4)):
        for estimator in "vu"[: 1 + (B > 1)]:
            inputs = corner(B, n, dtype, mean, var)
            distance = as_distance(*inputs, kernel, estimator)
            log_k = expected_likelihood_kernel(*inputs, weight, reduction, log=True)
            k = expected_likelihood_kernel(*inputs, weight, reduction)
            for value in (distance, log_k, k):
                gradients = torch.autograd.grad(value.sum(), inputs, retain_graph=True)
                assert all(bool(found.isfinite().all()) for found in (value, *gradients)), (
                    mean,
                    var,
                    B,
                    estimator,
                )


def test_product_is_held_at_its_limit_with_no_slope_there():
    """The integral is 1e5600 or so: no float holds it.

    Far pairs of the same batch are as they were.
    """
    for dtype in (torch.float32, torch.float64):
        inputs = corner(3, 1024, dtype, 1e4, 1e-12)
        distance = as_distance(*inputs, "product")
        assert distance.item() == pytest.approx(2 * limit(dtype) / 3, rel=1e-5)
        assert all(not gradient.any() for gradient in torch.autograd.grad(distance, inputs))
        k = expected_likelihood_kernel(*inputs[2:], *inputs[2:])
        assert k.diagonal().tolist() == pytest.approx([limit(dtype)] * 3, rel=1e-5)


def test_float16_is_computed_in_float32_and_its_zero_is_no_variance():
    """1e-12 is 0 in float16, and 1e12 infinite."""
    inputs = corner(3, 4, torch.float16, 2.0, 0.5)
    assert as_distance(*inputs).dtype == torch.float32
    with pytest.raises(ValueError, match="var_g holds 0: variances must be positive"):
        as_distance(*corner(3, 4, torch.float16, 2.0, 1e-12))
    for kernel in KERNELS:
        inputs = corner(3, 4, torch.float16, 2.0, 1e12)
        distance = as_distance(*inputs, kernel)
        assert bool(distance.isfinite())
        assert all(
            bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(distance, inputs)
        )


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("value", [0.0, -1.5, -4.0])
def test_what_is_no_variance_is_named(generator, kernel, value):
    mean, var = torch.randn(
        2, 3, 4, 2, generator=generator
    ).unbind()  # (3, 4, 2): a stack of batches
    var = var.exp()
    wrong = var.clone()
    wrong[1, 2, 1] = value
    with pytest.raises(
        ValueError,
        match=f"var_g holds {value:g}: variances must be positive; pass q.var, not q.logvar",
    ):
        as_distance(mean[1], var[1], mean[1], wrong[1], kernel)
    with pytest.raises(ValueError, match=f"var_r holds {value:g}"):
        vmap(lambda *given: as_distance(*given, kernel))(mean, wrong, mean, var)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("which", range(4))
def test_nan_in_is_nan_out(kernel, which):
    """No error: a run that diverges is stopped, and named, by the loop."""
    inputs = [t.detach() for t in corner(3, 2, torch.float32, 1.0, 1.0)]
    inputs[which][1, 1] = float("nan")
    assert as_distance(*inputs, kernel).isnan()


def test_bound_of_the_log_variance_alters_nothing_within(tmp_path):
    """Values and gradients of a loss, bit for bit, are those without it; at the ends of the range
    too."""
    _, model, _ = build(tiny_config(tmp_path, model="vae"))
    x = torch.randn(32, 2)
    head = model.encoder[-1].linear

    def loss(q):
        return q.kl().mean() + model.decode(q.sample(x)).square().sum()

    parameters = list(model.parameters())
    with_bound = loss(model.encode(x))
    without = loss(Gaussian(*head(model.encoder[:-1](x)).chunk(2, -1)))
    assert torch.equal(with_bound, without)
    for one, other in zip(
        *(torch.autograd.grad(value, parameters) for value in (with_bound, without)), strict=True
    ):
        assert torch.equal(one, other)
    edge = torch.tensor(LOGVAR_RANGE, requires_grad=True)
    (gradient,) = torch.autograd.grad(bounded(edge, *LOGVAR_RANGE).sum(), edge)
    assert bounded(edge, *LOGVAR_RANGE).tolist() == list(LOGVAR_RANGE)
    assert gradient.tolist() == [1.0, 1.0]


def test_an_encoder_beyond_the_bound_comes_back():
    """Descent on the KL divergence of a log-variance that starts outside; a plain clamp stays there
    for ever."""
    ends = {}
    for name, clamp in (("bounded", bounded), ("clamp", torch.clamp)):
        raw = torch.tensor([[-30.0, -21.0, 21.0, 30.0]], requires_grad=True)
        optimizer = torch.optim.Adam([raw], 0.5)
        for _ in range(60):
            optimizer.zero_grad()
            Gaussian(torch.zeros(1, 4), clamp(raw, *LOGVAR_RANGE)).kl().sum().backward()
            optimizer.step()
        ends[name] = raw.detach()
    assert bool((ends["bounded"].abs() < 20).all())
    assert bool((ends["clamp"].abs() > 20).all())


def test_the_bound_lets_nothing_further_out_and_works_under_vmap():
    raw = torch.tensor([-25.0, 0.0, 25.0])
    outwards, inwards = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0])

    def slope(weights):
        return grad(lambda x: (weights * bounded(x, *LOGVAR_RANGE)).sum())(raw)

    found = vmap(slope)(torch.stack((outwards, inwards)))
    assert found.tolist() == [[0.0, 1.0, 0.0], [-1.0, -1.0, 1.0]]
    assert bounded(torch.tensor([float("nan"), float("inf")]), *LOGVAR_RANGE).isnan().tolist() == [
        True,
        False,
    ]
