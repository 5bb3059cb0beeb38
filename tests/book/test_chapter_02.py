"""Numbers and claims of chapter 2 that no other test holds."""

import torch
from conftest import ROOT

from asintrovae import IntroVAE
from asintrovae.files import embedded
from asintrovae.randomness import generator_for
from asintrovae.running.records import load_records
from asintrovae.sweeps.grid import read_grid
from asintrovae.sweeps.status import DONE, status_of
from asintrovae.theory.networks import mlp_autoencoder
from asintrovae.theory.objectives import Noise


def test_eq_1_as_printed_is_wrong_in_either_direction():
    """Wanted: R and KL(x) down, KL(x_s) up.

    A step along either sign of the printed loss reverses one of the two.
    """

    def printed(rec, kl, kl_s):
        return -rec - kl + max(0.0, 3.0 - kl_s)

    wanted = [-1, -1, 1]
    base, h = [1.0, 1.0, 1.0], 1e-3
    slopes = [
        (printed(*[b + h * (j == i) for j, b in enumerate(base)]) - printed(*base)) / h
        for i in range(3)
    ]
    for step in (-1, 1):  # minimise, maximise
        right = [
            step * slope * direction > 0 for slope, direction in zip(slopes, wanted, strict=True)
        ]
        assert right in ([False, False, True], [True, True, False])


def test_the_hinge_on_reconstructions_needs_its_stop_gradient():
    """The package's encoder gradient, by finite differences of the hinge whose images are computed
    once and then held."""
    torch.manual_seed(0)
    model = mlp_autoencoder(2, 2, (8,)).double()
    x = torch.randn(16, 2, generator=generator_for(0, "data")).double()
    noise = Noise(*(t.double() for t in Noise.draw(16, 2, generator_for(0, "noise"))))
    held = model.decode(model.encode(x).sample(noise.eps)).detach(), model.decode(noise.z).detach()
    bias = model.encoder[1].linear.bias

    def slope(loss):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                bias[0] += step
                values.append(loss())
                bias[0] -= step
        return (values[0] - values[1]) / 2e-6

    def fakes_held():
        return sum((5 - model.encode(x_s).kl()).clamp(min=0) for x_s in held).mean()

    def fakes_move():
        x_r = model.decode(model.encode(x).sample(noise.eps))
        return sum((5 - model.encode(x_s).kl()).clamp(min=0) for x_s in (x_r, held[1])).mean()

    loss, _ = IntroVAE(0.0, 0.0, 1.0, margin=5.0).encoder_loss(model, x, noise, 0.0)
    (gradient,) = torch.autograd.grad(loss, bias)
    torch.testing.assert_close(gradient[0], slope(fakes_held), rtol=1e-5, atol=1e-7)
    assert abs(slope(fakes_move) - gradient[0]) > 1e-3


def test_a_common_energy_settles_at_the_margin_or_at_zero():
    """Minimum of β_kl v + 2 β_neg [m - v]⁺ by gradient descent, about β_neg = β_kl / 2."""
    for beta_neg, expected in ((0.3, 3.0), (0.2, 0.0)):
        v = torch.tensor(1.0, requires_grad=True)
        for _ in range(5000):
            (slope,) = torch.autograd.grad(0.5 * v + 2 * beta_neg * (3.0 - v).clamp(min=0), v)
            v = (v - 0.01 * slope).clamp(min=0).detach().requires_grad_()
        assert abs(v.item() - expected) < 0.02


def test_a_margin_chosen_from_the_nats_of_the_data_works_on_digits():
    """The margin lies above the nats of a VAE; digits get about the margin. Ahead of the soft
    models in the distance of the classifier, one seed each."""
    run = load_records(embedded("runs/mnist_intro"))["intro/0"]
    others = load_records(embedded("runs/mnist_ten_epochs"))
    assert {record["code"] for record in others.values()} == {run["code"]}
    margin, metrics = run["config"]["margin"], run["metrics"]
    assert margin > others["vae/0"]["metrics"]["kl"]
    assert abs(metrics["kl"] / margin - 1) < 0.15
    name = "frechet_mnist_classifier"
    assert round(metrics[name]) == 155
    assert all(
        others[f"{m}/0"]["metrics"][name] > metrics[name] for m in ("soft_intro", "as_intro")
    )


def test_the_recorded_run_on_digits_is_that_of_its_grid():
    run_dir, points = read_grid(ROOT / "book" / "training" / "sweeps" / "mnist_intro.yaml")
    assert run_dir.resolve() == embedded("runs/mnist_intro")
    assert {status_of(point) in DONE for point in points} == {True}
