import copy
import dataclasses
import math

import pytest
import torch
from conftest import MODELS, build, tiny_config
from torch.func import functional_call, stack_module_state, vmap

from asintrovae import ASIntroVAE, Gaussian, annealing_weight, as_distance, build_objective
from asintrovae.randomness import generator_for
from asintrovae.running.loop import Loop, only_learning
from asintrovae.theory.networks import mlp_autoencoder, mlp_gan
from asintrovae.theory.objectives import VAE, IntroVAE, Noise, SoftIntroVAE
from asintrovae.theory.objectives.base import above_rounding


def noise_for(batch, n=2, seed=3):
    return Noise.draw(batch, n, generator_for(seed, "noise"))


@pytest.mark.parametrize("model_name", MODELS)
def test_gradients_reach_exactly_the_half_that_learns(tmp_path, model_name):
    data, model, objective = build(tiny_config(tmp_path, model=model_name))
    for phase in objective.phases:
        with only_learning(model, phase.learns):
            phase.loss(model, data.batch(0), noise_for(32), 0.05)[0].backward()
        for half, module in model.named_children():
            moved = [
                p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()
            ]
            # The last bias of a critic that enters as a difference has gradient 0 in its own phase.
            assert any(moved) == (half in phase.learns), (phase.name, half)
            assert half in phase.learns or all(p.grad is None for p in module.parameters())
        model.zero_grad(set_to_none=True)
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("model_name", MODELS)
def test_loss_is_blind_to_the_order_of_the_batch_and_pure(tmp_path, model_name):
    data, model, objective = build(tiny_config(tmp_path, model=model_name))
    model, x = model.double(), data.batch(0).double()
    noise = Noise(*(t.double() for t in noise_for(32)))
    order = torch.randperm(32, generator=generator_for(0, "evaluation"))
    for phase in objective.phases:
        loss = phase.loss(model, x, noise, 0.05)[0]
        assert torch.equal(loss, phase.loss(model, x, noise, 0.05)[0])
        torch.testing.assert_close(
            loss, phase.loss(model, x[order], Noise(*(t[order] for t in noise)), 0.05)[0]
        )


def test_fakes_do_not_move_the_decoder_in_the_encoder_phase(tmp_path):
    """sg(x_s): with β_rec = 0 nothing but the fakes ties the encoder's loss to the decoder."""
    _, model, _ = build(tiny_config(tmp_path, model="soft_intro"))
    objective = SoftIntroVAE(beta_rec=0.0)
    x = torch.randn(8, 2, generator=generator_for(0, "data"))
    loss, _ = objective.encoder_loss(model, x, noise_for(8), 0.0)
    grads = torch.autograd.grad(loss, list(model.decoder.parameters()), allow_unused=True)
    assert all(g is None or not g.any() for g in grads)


def decoder_gradient(trained, objective, x, gamma_r, dtype):
    """Of a copy of the model in this dtype, all parameters in one vector."""
    model, objective = (
        copy.deepcopy(trained).to(dtype),
        dataclasses.replace(objective, gamma_r=gamma_r),
    )
    loss, _ = objective.decoder_loss(
        model, x.to(dtype), Noise(*(t.to(dtype) for t in noise_for(len(x)))), 0.5
    )
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(model.decoder.parameters()))]
    ).double()


@pytest.mark.parametrize(
    ("dataset", "widths"), [("8gaussians", (16, 16)), ("mnist-subset", (4, 4))]
)
@pytest.mark.parametrize("model_name", ["soft_intro", "as_intro"])
def test_reconstructing_fakes_at_the_published_weight_is_below_rounding(
    tmp_path, model_name, dataset, widths
):
    """γ_r = 1e-8 moves the decoder's gradient less than rounding to float32, at the start and
    later: there it is left out."""
    small = {"latent_dim": 2, "widths": widths, "iterations": 60, "warmup": 0, "c": 0.5}
    weights = {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9}
    config = tiny_config(tmp_path, model=model_name, dataset=dataset, **small, **weights)
    data, model, objective = build(config)
    loop = Loop(model, objective, data, config)
    for start in (0, 30):
        for i in range(start):
            loop.iterate(i)
        x = data.batch(start)
        exact, tiny, large = (
            decoder_gradient(model, objective, x, weight, torch.float64)
            for weight in (0.0, 1e-8, 1e-2)
        )
        single, left_out = (
            decoder_gradient(model, objective, x, weight, torch.float32) for weight in (1e-8, 0.0)
        )
        assert 0 < 2 * (tiny - exact).norm() < (single - tiny).norm() < (large - exact).norm()
        assert torch.equal(single, left_out)
    assert not torch.equal(
        decoder_gradient(model, objective, x, 1e-6, torch.float32), left_out
    )  # what counts is not left out


def test_a_weight_that_members_differ_in_is_never_left_out():
    assert above_rounding(torch.tensor(0.0), torch.float32)
    assert [above_rounding(w, torch.float32) for w in (0.0, 1e-8, 1e-6)] == [False, False, True]
    assert [above_rounding(w, torch.float64) for w in (0.0, 1e-8)] == [False, True]


def test_the_distance_is_evaluated_only_where_it_counts(tmp_path):
    """At c = 1, in the last four fifths of a run, loss and terms are those of Soft-IntroVAE."""
    data, model, objective = build(tiny_config(tmp_path, model="as_intro"))
    soft = SoftIntroVAE(
        objective.beta_rec,
        objective.beta_kl,
        objective.beta_neg,
        objective.alpha,
        objective.gamma_r,
    )
    for phase, expected in zip(objective.phases, soft.phases, strict=True):
        assert "distance" in phase.loss(model, data.batch(0), noise_for(32), 0.1)[1]
        loss, terms = phase.loss(model, data.batch(0), noise_for(32), 0.2)
        other, other_terms = expected.loss(model, data.batch(0), noise_for(32), 0.2)
        assert torch.equal(loss, other)
        assert terms.keys() == other_terms.keys()


def test_the_published_code_s_squash(tmp_path):
    """D of posteriors whose means and log-variances went through tanh; the KL divergences do not
    change."""
    data, model, plain = build(tiny_config(tmp_path, model="as_intro"))
    _, _, squashed = build(tiny_config(tmp_path, model="as_intro", squash=True))
    q, q_g = (Gaussian(2 * torch.randn(32, 2), torch.randn(32, 2)) for _ in range(2))
    by_hand = as_distance(
        q.mean.tanh(), q.logvar.tanh().exp(), q_g.mean.tanh(), q_g.logvar.tanh().exp()
    )
    torch.testing.assert_close(squashed.distance(q, q, q_g), by_hand)
    assert not torch.isclose(plain.distance(q, q, q_g), by_hand)
    one, other = (
        o.encoder_loss(model, data.batch(0), noise_for(32), 0.1)[1] for o in (plain, squashed)
    )
    assert torch.equal(one["kl_g"], other["kl_g"])


def test_c_by_the_published_code_s_schedule(tmp_path):
    """c = tanh(5 i / T): below the paper's everywhere, 0.76 where that is 1 already."""
    assert annealing_weight(0, 100, "tanh") == 0
    assert annealing_weight(20, 100, "tanh") == pytest.approx(math.tanh(1))
    _, _, objective = build(tiny_config(tmp_path, model="as_intro", c_schedule="tanh"))
    assert objective.weight(0.2) == pytest.approx(0.7616, abs=1e-4)
    progress = torch.linspace(0, 1, 50)
    found = annealing_weight(progress, 1, "tanh")
    assert torch.equal(found, (5 * progress).tanh())
    assert (found[1:] < annealing_weight(progress, 1)[1:]).all()
    with pytest.raises(ValueError, match="schedule='cosine' is not one of 'linear', 'tanh'"):
        annealing_weight(1, 2, "cosine")


@pytest.mark.parametrize(
    ("kernel", "terms"),
    [("mean", 32**2 * 2), ("product", 32**2), ("prior", 32**2), ("tempered", 32**2)],
)
def test_the_summed_distance_counts_its_terms_in_the_encoder_phase_alone(tmp_path, kernel, terms):
    """Pairs, and where the kernel is a mean over the axes, axes."""
    q, q_g = (Gaussian(2 * torch.randn(32, 2), torch.randn(32, 2)) for _ in range(2))
    config = tiny_config(tmp_path, model="as_intro", kernel=kernel, distance_weight=3.0)
    mean = build_objective(config)
    total = dataclasses.replace(mean, distance_reduction="sum", distance_weight_decoder=0.5)
    D = as_distance(q.mean, q.var, q_g.mean, q_g.var, kernel)
    for objective, phase, expected in (
        (mean, "encoder", 3 * D),
        (mean, "decoder", 3 * D),
        (total, "encoder", 3 * terms * D),
        (total, "decoder", 0.5 * D),
    ):
        torch.testing.assert_close(objective.distance(q, q, q_g, phase), expected)


def test_a_batch_s_hinge_is_zero_where_single_examples_are_still_pushed():
    """KL 0 and 8 at m = 3: the mean, 4, is past the margin; by examples the first counts."""
    q = Gaussian(torch.tensor([[0.0], [4.0]]), torch.zeros(2, 1))
    assert IntroVAE(margin=3.0).shortfall(q).tolist() == [3.0, 0.0]
    assert IntroVAE(margin=3.0, hinge="batch").shortfall(q).item() == 0
    assert IntroVAE(margin=5.0, hinge="batch").shortfall(q).item() == 1


@pytest.mark.parametrize("model_name", ["vae", "intro", "soft_intro", "as_intro"])
def test_an_annealed_beta_kl_is_another_beta_kl_until_its_share_is_over(tmp_path, model_name):
    parameters = {"model": model_name, "beta_kl": 0.5}
    data, model, objective = build(tiny_config(tmp_path, **parameters, kl_annealing=0.5))
    for progress, beta_kl in ((0.0, 0.05), (0.25, 0.275), (0.5, 0.5), (0.9, 0.5)):
        _, _, constant = build(tiny_config(tmp_path, **parameters | {"beta_kl": beta_kl}))
        for phase, expected in zip(objective.phases, constant.phases, strict=True):
            loss, other = (
                p.loss(model, data.batch(0), noise_for(32), progress)[0] for p in (phase, expected)
            )
            torch.testing.assert_close(loss, other)


def test_the_warm_up_is_annealed_with_the_run(tmp_path):
    small = {"model": "soft_intro", "warmup": 10, "beta_kl": 0.5}
    data, model, objective = build(tiny_config(tmp_path / "0", **small, kl_annealing=0.8))
    loop = Loop(model, objective, data, tiny_config(tmp_path / "0", **small, kl_annealing=0.8))
    assert loop.phases(9)[0].name == "joint"
    by_hand = VAE(0.2, 0.5 * (0.1 + 0.9 * 0.45 / 0.8)).phases[0]
    losses = [
        phase.loss(model, data.batch(0), noise_for(32), 0.45)[0]
        for phase in (loop.phases(9)[0], by_hand)
    ]
    torch.testing.assert_close(*losses)


class PhaseLoss(torch.nn.Module):
    """A phase as a module, so that torch.func can call it with other parameters."""

    def __init__(self, model, objective, phase_index):
        super().__init__()
        self.model, self.objective, self.phase_index = model, objective, phase_index

    def forward(self, x, noise, progress, parameters):
        objective = dataclasses.replace(self.objective, **parameters)
        return objective.phases[self.phase_index].loss(self.model, x, noise, progress)[0]


@pytest.mark.parametrize("model_name", MODELS)
def test_a_stack_of_models_under_vmap_equals_the_models_one_by_one(tmp_path, model_name):
    config = tiny_config(tmp_path, model=model_name)
    data, _, objective = build(config)
    make = mlp_gan if model_name == "wgan_gp" else mlp_autoencoder
    models = [make(2, 2, (8,)) for _ in range(3)]
    names = ["gradient_penalty"] if model_name == "wgan_gp" else ["beta_rec", "beta_kl"]
    names += {
        "as_intro": ["beta_neg", "distance_weight", "distance_weight_decoder", "c"],
        "intro": ["margin", "beta_rec_decoder", "beta_neg_decoder", "reconstruction_hinge"],
    }.get(model_name, [])
    hyper = {name: torch.tensor([0.5, 0.7, 1.0]) for name in names}
    x = torch.stack([data.batch(i) for i in range(3)])
    noise = Noise(*map(torch.stack, zip(*(noise_for(32, seed=s) for s in range(3)), strict=True)))
    for index, phase in enumerate(objective.phases):
        losses = [PhaseLoss(m, objective, index) for m in models]
        params, buffers = stack_module_state(losses)

        def total(params, losses=losses, buffers=buffers):
            def one(p, b, x, noise, hyper):
                return functional_call(losses[0], (p, b), (x, noise, 0.05, hyper))

            return vmap(one)(params, buffers, x, noise, hyper)

        stacked = total(params)
        stacked.sum().backward()
        for m, loss in enumerate(losses):
            single = loss(
                x[m], Noise(*(t[m] for t in noise)), 0.05, {name: hyper[name][m] for name in names}
            )
            torch.testing.assert_close(stacked[m], single)
            learner = getattr(loss.model, phase.learns[0])
            expected = torch.autograd.grad(single, list(learner.parameters()), allow_unused=True)
            for (key, _), gradient in zip(learner.named_parameters(), expected, strict=True):
                got = params[f"model.{phase.learns[0]}.{key}"].grad[m]
                expected_gradient = torch.zeros_like(got) if gradient is None else gradient
                torch.testing.assert_close(got, expected_gradient, rtol=1e-4, atol=1e-6)


def test_penalty_is_finite_where_the_critic_is_flat():
    """∇‖g‖ at g = 0 is NaN when the norm is written as a plain square root."""
    from asintrovae import WGANGP

    model = mlp_gan(2, 2, (8,))
    torch.nn.init.zeros_(model.critic[0][0].weight)
    loss, terms = WGANGP().critic_loss(
        model, torch.randn(4, 2, generator=generator_for(0, "data")), noise_for(4), 0.0
    )
    loss.backward()
    assert terms["penalty"] == 1.0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class Collapsed:
    """A decoder that ignores z, and an encoder with one mean for real images and one for fakes.

    Attributes:
        means: of the posteriors of real and of generated images on the first latent axis, (2,).
        n: number of latent axes; the others are at the prior.
    """

    def __init__(self, means, n):
        self.means, self.n = means, n

    def decode(self, z):
        return torch.zeros(len(z), 2, dtype=z.dtype)

    def encode(self, x):
        first = torch.where(x.any(1, keepdim=True), self.means[0], self.means[1])
        mean = torch.nn.functional.pad(first, (0, self.n - 1))
        return Gaussian(mean, torch.zeros_like(mean))


def hessian_at_collapse(objective, n=1):
    """Second derivatives of the encoder's loss in the two means of one of n axes, by differences
    of its gradient."""
    x, noise = torch.ones(4, 2).double(), Noise(*torch.zeros(5, 4, n).double())

    def gradient(means):
        means = means.clone().requires_grad_()
        loss, _ = objective.encoder_loss(Collapsed(means, n), x, noise, 0.0)
        return torch.autograd.grad(loss, means)[0]

    steps = 1e-4 * torch.eye(2, dtype=torch.float64)
    return torch.stack([(gradient(step) - gradient(-step)) / 2e-4 for step in steps])


def test_collapse_is_a_saddle_in_which_d_parts_real_from_generated_images():
    """At C1 and c = 0 both move, apart; at c = 1 real images are held, only fakes move."""
    real = {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9, "pairing": "real"}
    values, vectors = torch.linalg.eigh(hessian_at_collapse(ASIntroVAE(**real, c=0.0)))
    assert values.tolist() == pytest.approx([-0.570, 0.084], abs=1e-3)
    apart = vectors[:, 0] * vectors[1, 0].sign()
    assert apart.tolist() == pytest.approx([-0.62, 0.78], abs=5e-3)
    at_one = hessian_at_collapse(ASIntroVAE(**real, c=1.0))
    torch.testing.assert_close(at_one, torch.diag(torch.tensor([0.15, -0.45]).double()))
    paired = hessian_at_collapse(ASIntroVAE(0.2, 0.3, 0.9, c=0.0))  # with reconstructions
    torch.testing.assert_close(paired, torch.diag(torch.tensor([0.15, 0.0]).double()))
    after_warm_up = hessian_at_collapse(ASIntroVAE(0.2, 0.3, 0.9, c=5 / 16))
    assert torch.linalg.eigvalsh(after_warm_up)[0].item() == pytest.approx(-0.141, abs=1e-3)
    apart = torch.linalg.eigvalsh(hessian_at_collapse(ASIntroVAE(**real, c=5 / 16)))
    assert apart[0].item() == pytest.approx(-0.477, abs=1e-3)
    for c, expected in ((0.0, -0.260), (5 / 16, -0.287)):  # D is a mean over axes, KL a sum
        two_axes = hessian_at_collapse(ASIntroVAE(**real, c=c), n=2)
        assert torch.linalg.eigvalsh(two_axes)[0].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("bandwidth", "weight", "c"), [(0.0, 1.0, 0.0), (1.0, 10.0, 0.5)])
def test_the_hessian_at_collapse_in_closed_form(bandwidth, weight, c):
    """D of two shifts is 2 (2 + h)^(-1/2) (1 - exp(-δ²/(4 + 2h))), of slope 2 (2 + h)^(-3/2) δ."""
    kappa, beta_kl, beta_neg = 0.5, 0.5, 0.9
    push = beta_neg * (1 - c) * weight * 2 * (2 + bandwidth) ** -1.5
    expected = [[beta_kl - push, push], [push, -push - c * beta_neg]]
    objective = ASIntroVAE(
        0.2, beta_kl, beta_neg, pairing="real", distance_weight=weight, c=c, bandwidth=bandwidth
    )
    found = hessian_at_collapse(objective)
    torch.testing.assert_close(found, kappa * torch.tensor(expected).double(), rtol=1e-5, atol=1e-6)
