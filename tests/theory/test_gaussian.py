import torch

from asintrovae import Gaussian, kl_to_standard_normal, reparameterize


def random_gaussian(generator, batch=7, n=3, dtype=torch.float64):
    mean, logvar = torch.randn(2, batch, n, generator=generator, dtype=dtype)
    return Gaussian(mean, logvar)


def test_kl_equals_torch_distributions(generator):
    q = random_gaussian(generator)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(q.mean, q.var.sqrt()), normal(0.0, 1.0)
    ).sum(-1)
    torch.testing.assert_close(q.kl(), expected)


def test_kl_is_zero_at_the_prior_and_exact_near_it():
    assert kl_to_standard_normal(torch.zeros(2, 4), torch.zeros(2, 4)).tolist() == [0.0, 0.0]
    tiny = torch.tensor([[1e-3]])  # second order: logvar² / 4
    torch.testing.assert_close(
        kl_to_standard_normal(torch.zeros(1, 1), tiny), tiny[0].square() / 4, rtol=1e-3, atol=0
    )


def test_kl_gradient_against_finite_differences(generator):
    mean, logvar = (t.requires_grad_() for t in random_gaussian(generator))
    assert torch.autograd.gradcheck(kl_to_standard_normal, (mean, logvar))


def test_reparameterize_takes_its_noise_as_given(generator):
    q, noise = random_gaussian(generator), torch.zeros(7, 3, dtype=torch.float64)
    assert torch.equal(reparameterize(q.mean, q.logvar, noise), q.mean)


def test_log_prob_equals_torch_distributions(generator):
    q, z = random_gaussian(generator), torch.randn(7, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        q.log_prob(z), torch.distributions.Normal(q.mean, q.var.sqrt()).log_prob(z).sum(-1)
    )
