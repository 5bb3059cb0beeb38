import math

import pytest
import torch

from asintrovae import as_distance, expected_likelihood_kernel

KERNELS = ["mean", "product", "prior"]


def clouds(generator, batch_r=6, batch_g=5, n=3, dtype=torch.float64):
    mu_r, mu_g = (torch.randn(b, n, generator=generator, dtype=dtype) for b in (batch_r, batch_g))
    var_r, var_g = (torch.rand(b, n, generator=generator, dtype=dtype) + 0.1 for b in (batch_r, batch_g))
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
    torch.testing.assert_close(value, as_distance(mu_r[order], var_r[order], mu_g, var_g, kernel, estimator))


@pytest.mark.parametrize("kernel", KERNELS)
def test_v_statistic_is_not_negative_and_grams_are_positive_semidefinite(generator, kernel):
    weight, reduction = {"mean": ("lebesgue", "mean"), "product": ("lebesgue", "product"), "prior": ("prior", "product")}[kernel]
    for _ in range(20):
        mu_r, var_r, mu_g, var_g = clouds(generator)
        assert as_distance(mu_r, var_r, mu_g, var_g, kernel, "v") >= 0
        gram = expected_likelihood_kernel(mu_r, var_r, mu_r, var_r, weight, reduction)
        assert torch.linalg.eigvalsh(gram).min() > -1e-12


def test_u_statistic_is_unbiased_where_v_is_not(generator):
    # Two batches from one distribution: the true distance is 0.
    draws = [clouds(generator, 8, 8, 1) for _ in range(4000)]
    u = torch.stack([as_distance(*d, "product", "u") for d in draws])
    v = torch.stack([as_distance(*d, "product", "v") for d in draws])
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
    scale = expected_likelihood_kernel(*double[:2], *double[:2], *{"prior": ("prior",)}.get(kernel, ()),
                                       reduction="mean" if kernel == "mean" else "product").mean()  # fmt: skip
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
        ({"mu_r": torch.zeros(6, 2)}, r"mu_r and var_r must share a non-empty shape .* got \(6, 2\) and \(6, 3\)"),
        ({"mu_r": torch.zeros(6, 2), "var_r": torch.ones(6, 2)}, "mu_r has 2 latent axes, mu_g has 3"),
        ({"mu_g": torch.zeros(0, 3), "var_g": torch.ones(0, 3)}, "non-empty shape"),
        ({"mu_g": torch.zeros(1, 3), "var_g": torch.ones(1, 3), "estimator": "u"}, "mu_g holds 1 example.*'u' needs at least 2"),
    ],
)
def test_bad_input_is_named(change, words):
    good = {"mu_r": torch.zeros(6, 3), "var_r": torch.ones(6, 3), "mu_g": torch.zeros(5, 3), "var_g": torch.ones(5, 3)}
    with pytest.raises(ValueError, match=words):
        as_distance(**{**good, **change})
