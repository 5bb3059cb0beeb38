"""The widgets, each alone on a page without server or network: what they compute, and how they are
driven."""

import json
import math
import re

import numpy
import pytest
import torch
from conftest import ROOT
from ipywidgets.embed import embed_data
from scipy.optimize import minimize, minimize_scalar
from scipy.special import entr, rel_entr, softmax
from traitlets import TraitError

from asintrovae import (
    ASIntroVAE,
    Gaussian,
    IntroVAE,
    annealing_weight,
    as_distance,
    expected_likelihood_kernel,
    load_pretrained,
    reconstruct,
)
from asintrovae.figures.digits import DigitExplorer, labelled_digits
from asintrovae.figures.widgets import (
    AnnealingExplorer,
    EntropyGame,
    KernelExplorer,
    MarginGame,
    TrainingPlayer,
    load_film,
)
from asintrovae.files import embedded
from asintrovae.theory.distance import KERNELS
from asintrovae.theory.objectives import Noise

pytestmark = pytest.mark.xdist_group("widgets")  # one worker starts the browser once
FOLDERS = {
    label: embedded(f"runs/training_frames/{label}-0")
    for label in ("vae", "intro", "soft_intro", "as_intro")
}
DIGIT_MODELS = {name: load_pretrained(f"{name}-mnist") for name in ("vae", "soft_intro")}
WIDGETS = {
    "kernel-explorer": KernelExplorer,
    "margin-game": MarginGame,
    "entropy-game": EntropyGame,
    "annealing-explorer": lambda **values: AnnealingExplorer(FOLDERS["as_intro"], **values),
    "training-player": lambda **values: TrainingPlayer(FOLDERS, **values),
    "digit-explorer": lambda **values: DigitExplorer(DIGIT_MODELS, **values),
}
each_widget = pytest.mark.parametrize("kind", WIDGETS)


def page_of(widget, style="", times=1):
    """What a built page holds of a notebook with this widget: its state, its places, and the script
    that mounts it."""
    found = embed_data(views=[widget], drop_defaults=False)
    state, view = (
        json.dumps(part).replace("</", "<\\/")
        for part in (found["manager_state"], found["view_specs"][0])
    )
    script = (ROOT / "book" / "static" / "static_widgets.js").read_text()
    kind = "application/vnd.jupyter.widget-"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>widget</title><style>figure {{ margin: 0 }} {style}</style>"
        f'<script type="{kind}state+json">{state}</script>'
        + times * f'<figure><script type="{kind}view+json">{view}</script></figure>'
        + f"<script>{script}</script></html>"
    )


@pytest.fixture
def show(browser, tmp_path):
    """Function that opens a widget as a file and returns its page; nothing may go wrong on it or be
    asked for from elsewhere."""
    wrong, pages = [], []

    def open_page(kind, style="", times=1, width=760, reduced_motion="no-preference", **values):
        widget = WIDGETS[kind](**values)
        file = tmp_path / f"{kind}.html"
        file.write_text(page_of(widget, style, times), encoding="utf-8")
        page = browser.new_page(
            viewport={"width": width, "height": 900}, reduced_motion=reduced_motion
        )
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith((file.as_uri(), "blob:", "data:")) else wrong.append(r.url)
            ),
        )
        page.goto(file.as_uri())
        page.wait_for_function(f"document.querySelectorAll('.{kind}').length === {times}")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def call(page, kind, function, *calls):
    """What a function that the widget's module exports returns in the browser, to the last bit, for
    each list of arguments."""
    code = """async ([text, name, calls]) => {
        const blob = new Blob([text], { type: "text/javascript" });
        const module = await import(URL.createObjectURL(blob));
        return calls.map((given) => module[name](...given));
    }"""
    return page.evaluate(code, [str(WIDGETS[kind]()._esm), function, list(calls)])


def cells(page):
    """Texts of the table's rows, without their heads."""
    return [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]


def log10(text):
    """Decimal logarithm of a number above 0 as the widgets write it."""
    mantissa, _, exponent = text.partition(" × 10")
    return math.log10(float(mantissa)) + int(
        exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0
    )


def number(text):
    return (
        0.0
        if text == "0"
        else math.copysign(10 ** log10(text.removeprefix("−")), -1 if text.startswith("−") else 1)
    )


def press(page, name, key, times=1):
    """Keys on the slider of this name."""
    page.locator(f"input[name={name}]").focus()
    for _ in range(times):
        page.keyboard.press(key)


DIGITS = 6e-4  # relative: four digits are shown

# --- kernel explorer

STATES = [
    {},
    {
        "mu_a": (0.3, -2.0),
        "var_a": (2.0, 0.35),
        "mu_b": (0.3, -2.0),
        "var_b": (2.0, 0.35),
        "n": 8,
    },  # equal
    {
        "mu_a": (-3.0, -3.0),
        "var_a": (0.05, 0.05),
        "mu_b": (3.0, 3.0),
        "var_b": (0.05, 0.05),
        "n": 256,
    },  # no overlap
    {"mu_a": (-3.0, 3.0), "var_a": (4.0, 4.0), "mu_b": (3.0, 3.0), "var_b": (0.05, 4.0), "n": 40},
    {"mu_a": (1.0, 1.0), "var_a": (0.05, 0.05), "mu_b": (1.05, 1.0), "var_b": (0.05, 0.05), "n": 2},
    {"mu_a": (3.0, 3.0), "var_a": (4.0, 4.0), "mu_b": (-3.0, -3.0), "var_b": (4.0, 4.0), "n": 128},
]


def posteriors(widget):
    """Means and variances (1, n) of a and b, over all latent axes."""
    pairs = (widget.mu_a, widget.var_a, widget.mu_b, widget.var_b)
    return [torch.tensor([pair], dtype=torch.float64).repeat(1, widget.n // 2) for pair in pairs]


@pytest.mark.parametrize("state", STATES)
def test_kernels_are_those_of_the_package(show, state):
    """Logarithms to 1e-12, D to 1e-9 where float64 holds it; what is shown to its four digits."""
    widget = KernelExplorer(**state)
    page = show("kernel-explorer", **state)
    traits = {name: getattr(widget, name) for name in ("mu_a", "var_a", "mu_b", "var_b", "n")}
    (found,) = call(page, "kernel-explorer", "kernels", [traits])
    a_mean, a_var, b_mean, b_var = posteriors(widget)
    a, b = (a_mean, a_var), (b_mean, b_var)
    for shown, kernel in zip(cells(page), ("mean", "product", "prior"), strict=True):
        weight, reduction = KERNELS[kernel]
        pairs = ((*a, *b), (*a, *a), (*b, *b))
        logs = [
            expected_likelihood_kernel(*pair, weight, reduction, log=True).item() for pair in pairs
        ]
        assert found[kernel][:3] == pytest.approx(logs, rel=1e-12)
        assert [log10(text) for text in shown[:3]] == pytest.approx(
            [log / math.log(10) for log in logs], abs=DIGITS
        )
        distance, log_distance = as_distance(*a, *b, kernel).item(), found[kernel][3]
        assert (shown[3] == "0") == (log_distance == -math.inf)
        if 1e-290 < distance < math.inf:
            assert math.exp(log_distance) == pytest.approx(distance, rel=1e-9)
            assert log10(shown[3]) == pytest.approx(math.log10(distance), abs=DIGITS)
        elif widget.mu_a == widget.mu_b:
            assert log_distance == -math.inf
        else:  # beyond float64, where one of the three terms is all that counts
            assert max(logs[1:]) > logs[0] + 50
            assert log_distance == pytest.approx(
                torch.tensor(logs[1:], dtype=torch.float64).logsumexp(0).item(), rel=1e-12
            )


def test_the_text_around_the_kernel_explorer(show):
    page = show("kernel-explorer")
    mean, before = cells(page)[0], cells(page)
    assert before[1][0].startswith("0.0200")
    page.locator("input[name=n]").fill("128")
    assert -109 < log10(cells(page)[1][0]) < -108
    assert cells(page)[0] == mean
    page.locator("input[name=n]").fill("2")
    for name in ("mu_a1", "mu_b1"):  # both away from the origin
        press(page, name, "ArrowRight", 40)
    assert cells(page)[1] == before[1]
    assert all(
        log10(now) < log10(then) for now, then in zip(cells(page)[2], before[2], strict=True)
    )
    for name in ("var_a0", "var_a1", "var_b0", "var_b1"):
        press(page, name, "Home")
    assert number(cells(page)[1][1]) > 1 > number(before[1][1])


def middle(page, selector):
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, selector, right, up):
    """Drag an element's middle by lengths of the plane."""
    unit = page.locator(".kernel-explorer svg").bounding_box()["width"] / 11.2
    x, y = middle(page, selector)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right * unit / 2, y - up * unit / 2)
    page.mouse.move(x + right * unit, y - up * unit)
    page.mouse.up()
    page.mouse.move(x, y)  # nothing follows once the button is up


def values(page, *names):
    return [float(page.locator(f"input[name={name}]").input_value()) for name in names]


def test_posteriors_are_dragged_and_stretched(show):
    page = show("kernel-explorer", mu_a=(-1.0, 0.0), var_a=(1.0, 0.25), mu_b=(2.0, 0.0))
    drag(page, ".handle-a-move", 0.5, -1.0)
    assert values(page, "mu_a0", "mu_a1", "var_a0", "var_a1") == [-0.5, -1.0, 1.0, 0.25]
    drag(page, ".body-a", -0.5, 0.5)
    assert values(page, "mu_a0", "mu_a1") == [-1.0, -0.5]
    drag(page, ".handle-a-0", 0.5, 2.0)  # only along its own axis: σ₁ from 1 to 1.5
    drag(page, ".handle-b-1", 0.0, 9.0)  # out of the picture: λ₂ ends at its largest
    assert values(page, "var_a0", "var_a1", "var_b1") == [2.25, 0.25, 4.0]
    drag(page, ".handle-a-1", 0.0, -5.0)
    assert values(page, "var_a1", "mu_a0", "mu_a1") == [0.05, -1.0, -0.5]
    shown = cells(page)
    a, b = (
        KernelExplorer(mu_a=(-1.0, -0.5), var_a=(2.25, 0.05)),
        KernelExplorer(mu_b=(2.0, 0.0), var_b=(1.0, 4.0)),
    )
    clouds = (*posteriors(a)[:2], *posteriors(b)[2:])
    for row, kernel in zip(shown, ("mean", "product", "prior"), strict=True):
        assert number(row[3]) == pytest.approx(as_distance(*clouds, kernel).item(), rel=DIGITS)


# --- digits


@pytest.mark.parametrize("index", range(len(DIGIT_MODELS)))
def test_the_page_decodes_and_encodes_as_the_package_does(show, index):
    """To a thousandth, with the weights of 16 bits that come to the page."""
    model, page = list(DIGIT_MODELS.values())[index], show("digit-explorer")
    written = DigitExplorer(DIGIT_MODELS).networks[index]
    images, _ = labelled_digits()
    z = torch.randn(20, model.latent_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = model.decode(z).flatten(1)
    found = call(page, "digit-explorer", "decoded", *([written, row] for row in z.tolist()))
    assert torch.tensor(found).sub(decoded).abs().max() < 1e-3
    x = images[:20]
    x_r, q = reconstruct(model, x)
    rows = x.flatten(1).tolist()
    means = call(page, "digit-explorer", "encoded", *([written, row] for row in rows))
    assert torch.tensor(means).sub(q.mean).abs().max() < 1e-3
    found = call(page, "digit-explorer", "decoded", *([written, row] for row in means))
    assert torch.tensor(found).sub(x_r.flatten(1)).abs().max() < 1e-3


def test_a_sample_takes_less_than_a_tenth_of_a_second(show):
    page = show("digit-explorer")
    code = """async ([text, written, z]) => {
        const blob = new Blob([text], { type: "text/javascript" });
        const { network } = await import(URL.createObjectURL(blob));
        const { decode } = network(written), times = [];
        for (let k = 0; k < 20; k++) {
          const begun = performance.now();
          decode(z);
          times.push(performance.now() - begun);
        }
        return Math.min(...times);
    }"""
    widget = DigitExplorer(DIGIT_MODELS)
    assert page.evaluate(code, [widget._esm, widget.networks[1], [0.0] * 32]) < 100


def test_a_model_that_the_page_cannot_compute_is_refused_by_its_layer():
    with pytest.raises(
        ValueError, match="models holds a Sequential, unknown in a page; give a mod"
    ):
        DigitExplorer({"vae": load_pretrained("vae-checkerboard")})


def test_points_of_a_plane_and_numbers_of_a_sheet(show):
    page = show("digit-explorer")
    corners = call(page, "digit-explorer", "shares", [-2, -2], [2, -2], [0, 2], [1, 3])
    assert corners[:3] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert sum(corners[3]) == pytest.approx(1)
    (first,), (again,), (other,) = (
        call(page, "digit-explorer", "normals", [seed, 4000]) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert torch.tensor(first).mean().abs() < 0.06
    assert torch.tensor(first).std() == pytest.approx(1, abs=0.05)
    moved = call(page, "digit-explorer", "centred", [[1, 0, 0, 0, 0, 0, 0, 0, 0], 3])
    assert moved == [[0, 0, 0, 0, 1, 0, 0, 0, 0]]


def picture(page, selector):
    """Grey values of a canvas, as the page shows them."""
    code = """element => Array.from(element.getContext("2d")
        .getImageData(0, 0, element.width, element.height).data).filter((_, i) => i % 4 === 0)"""
    return torch.tensor(page.locator(selector).first.evaluate(code)) / 255


def test_the_reader_looks_around_a_plane_and_draws_samples(show):
    page = show("digit-explorer", plane=1, u=-2.0, v=-2.0)
    page.wait_for_selector(".map[data-done]")
    images, labels = labelled_digits()
    three = images[labels.tolist().index(3)][None]
    seen = reconstruct(DIGIT_MODELS["vae"], three)[0].clamp(0, 1).flatten()
    assert picture(page, ".point").sub(seen).abs().max() < 0.01  # the corner is the 3 itself
    box = page.locator(".map").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 3 / 14)  # the 1, above
    assert values(page, "u", "v") == [0.0, pytest.approx(2.0, abs=0.06)]
    page.wait_for_timeout(200)
    one = images[labels.tolist().index(1)][None]
    seen = reconstruct(DIGIT_MODELS["vae"], one)[0].clamp(0, 1).flatten()
    assert picture(page, ".point").sub(seen).abs().mean() < 0.03
    before = picture(page, ".sheet")
    page.locator(".again").click()
    page.wait_for_timeout(500)
    assert not torch.equal(before, picture(page, ".sheet"))
    page.locator("select[name=plane]").select_option("0")
    assert page.locator("select[name=axis_1]").is_visible()
    assert not page.locator("select[name=digit_1]").is_visible()


def test_the_reader_draws_a_digit(show):
    """By hand and by keyboard, and each model answers at once."""
    page = show("digit-explorer")
    page.wait_for_selector(".map[data-done]")
    page.locator(".clear").click()
    page.wait_for_timeout(200)
    assert picture(page, ".board").max() == 0
    blank = picture(page, ".answer")
    box = page.locator(".board").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"]
    page.mouse.move(x, y + 0.25 * box["height"])
    page.mouse.down()
    page.mouse.move(x, y + 0.75 * box["height"])
    page.mouse.up()
    page.wait_for_timeout(300)
    drawn, answer = picture(page, ".board"), picture(page, ".answer")
    assert 20 < drawn.sum() < 80  # a one
    assert not torch.equal(answer, blank)
    assert answer.sub(drawn).square().mean() < 0.03
    page.locator(".pad").focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", " "):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert picture(page, ".board").sum() > drawn.sum()
    page.locator("select[name=example]").select_option("7")
    page.wait_for_timeout(300)
    images, labels = labelled_digits()
    seven = images[labels.tolist().index(7)].flatten()
    assert picture(page, ".board").sub(seven).abs().max() < 0.01


# --- the two games, against the package's own losses


class Judged:
    """A model whose encoder answers with given energies, first for real images, then for both
    fakes; R is 0."""

    def __init__(self, *energies):
        self.energies = list(energies)

    def encode(self, x):
        energy = self.energies.pop(0)
        mean = torch.stack([(2 * energy).sqrt(), torch.zeros_like(energy)])[None]
        return Gaussian(mean, torch.zeros_like(mean))

    def decode(self, z):
        return torch.zeros(1, 2, dtype=torch.float64)


def leaf(number):
    return torch.tensor(number, dtype=torch.float64, requires_grad=True)


X, NOISE = (
    torch.zeros(1, 2, dtype=torch.float64),
    Noise(*torch.zeros(4, 1, 2, dtype=torch.float64), torch.zeros(1)),
)


def slope(loss, of):
    (found,) = torch.autograd.grad(loss, of, allow_unused=True, retain_graph=True)
    return 0.0 if found is None else found.item()


GAMES = [
    {},
    {"kl_fake": 3.1},
    {"margin": 12.0, "kl_real": 12.0, "kl_fake": 0.1, "beta_neg": 1.0},
    {"margin": 0.0, "kl_fake": 12.0, "kl_real": 0.1, "beta_neg": 0.0},
    {"tied": True, "kl_fake": 2.5},
    {"tied": True, "kl_fake": 7.0, "beta_neg": 0.1},
]


@pytest.mark.parametrize("state", GAMES)
def test_the_margin_game_is_the_loss_of_the_package(show, state):
    widget, page = MarginGame(**state), show("margin-game", **state)
    fake = leaf(widget.kl_fake)
    real = fake if widget.tied else leaf(widget.kl_real)
    objective = IntroVAE(beta_kl=widget.beta_kl, beta_neg=widget.beta_neg, margin=widget.margin)
    traits = {
        name: getattr(widget, name)
        for name in ("margin", "beta_kl", "beta_neg", "kl_real", "kl_fake", "tied")
    }
    (found,) = call(page, "margin-game", "losses", [traits])
    for row, phase in zip(cells(page), objective.phases, strict=True):
        loss, _ = phase.loss(Judged(real, fake, fake), X, NOISE, 0.0)
        force = slope(loss, fake)
        assert found[phase.name] == pytest.approx(loss.item(), rel=1e-12, abs=1e-12)
        assert found[f"{phase.name}_slope"] == pytest.approx(force, abs=1e-12)
        assert [number(text) for text in row[:2]] == pytest.approx(
            [loss.item(), force], rel=DIGITS, abs=1e-9
        )
        assert row[2] == ("not at all" if force == 0 else "up" if force < 0 else "down")


def test_where_the_encoder_is_content(show):
    """In the browser by keyboard; the minimum of the loss itself is looked for on a grid."""
    page = show("margin-game", tied=True)
    state = {"margin": 3.0, "beta_kl": 0.5, "kl_real": 0.0, "tied": True}
    for beta_neg, words in ((0.5, "v = 3.0"), (0.25, "any v ≤ 3.0"), (0.2, "v = 0.0")):
        page.locator("input[name=beta_neg]").fill(str(beta_neg))
        assert page.locator("p", has_text="least at").inner_text().endswith(f"least at {words}.")
        grid = [v / 10 for v in range(121)]
        states = [[{**state, "beta_neg": beta_neg, "kl_fake": v}] for v in grid]
        loss = [found["encoder"] for found in call(page, "margin-game", "losses", *states)]
        least = [v for v, value in zip(grid, loss, strict=True) if value < min(loss) + 1e-9]
        assert (least[0], least[-1]) == {
            "v = 3.0": (3.0, 3.0),
            "any v ≤ 3.0": (0.0, 3.0),
            "v = 0.0": (0.0, 0.0),
        }[words]
    assert page.locator("input[name=kl_real]").is_disabled()
    page.locator("input[name=tied]").focus()
    page.keyboard.press("Space")
    assert (
        page.locator("p", has_text="least at").inner_text().endswith("least at any KL(xₛ) ≥ 3.0.")
    )
    press(page, "kl_fake", "End")
    assert [row[2] for row in cells(page)] == ["not at all", "down"]


class GivenDistance(ASIntroVAE):
    """D from outside, so that its slope can be asked for."""

    def distance(self, q, q_r, q_g, phase="encoder"):
        return D_GIVEN[0]


D_GIVEN = []
RUN = load_film(FOLDERS["as_intro"])
MIXTURES = [
    {},
    {"iteration": 0, "kl": 10.0, "distance": 1.0},
    {"iteration": 1500, "kl": 0.1, "distance": 1.0},
    {"iteration": 8000},
    {"fixed_c": True, "c": 0.0, "kl": 10.0},
    {"fixed_c": True, "c": 0.3, "kl": 4.0, "distance": 0.5},
    {"recorded": True, "iteration": 600},
    {"recorded": True, "iteration": 1500},
]


@pytest.mark.parametrize("state", MIXTURES)
def test_the_annealing_explorer_is_the_loss_of_the_package(show, state):
    """Parts, exponential and slopes of one fake of two that are alike; beside it
    the same fake at c = 1."""
    widget, page = (
        AnnealingExplorer(FOLDERS["as_intro"], **state),
        show("annealing-explorer", **state),
    )
    KL, D = widget.kl, widget.distance
    if widget.recorded:
        index = RUN["iteration"].tolist().index(widget.iteration)
        KL, D = RUN["kl_g"][index].item(), RUN["distance"][index].item()
    D_GIVEN[:] = [leaf(D)]
    shown = [[number(text) for text in row] for row in cells(page)]
    assert widget.weights == {
        "alpha": 2.0,
        "beta_kl": 0.3,
        "beta_neg": 0.9,
        "kappa": 1 / X[0].numel(),
    }
    for column, fixed in enumerate((widget.c if widget.fixed_c else None, 1.0)):
        c = annealing_weight(widget.iteration, 8000) if fixed is None else fixed
        objective = GivenDistance(0.2, 0.3, 0.9, gamma_r=0.0, c=fixed)
        expected = [c * KL, (1 - c) * D, c * KL + (1 - c) * D]
        for phase in objective.phases:
            kl_r, kl_g = leaf(KL), leaf(KL)
            loss, terms = phase.loss(
                Judged(leaf(1.0), kl_r, kl_g), X, NOISE, widget.iteration / 8000
            )
            expected += [terms["exp_elbo_g"].item()] if "exp_elbo_g" in terms else []
            expected += [slope(loss, kl_g), slope(loss, D_GIVEN[0]) / 2]
        (found,) = call(
            page, "annealing-explorer", "terms", [{"c": c, "KL": KL, "D": D}, widget.weights]
        )
        assert list(found.values()) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert [row[column] for row in shown] == pytest.approx(expected, rel=DIGITS, abs=1e-12)


def test_the_annealing_explorer_is_driven_by_keyboard(show):
    page = show("annealing-explorer")
    disabled = {
        name: page.locator(f"input[name={name}]").is_disabled for name in ("c", "kl", "distance")
    }
    assert [ask() for ask in disabled.values()] == [True, False, False]
    assert number(cells(page)[0][0]) == pytest.approx(
        40 * number(cells(page)[1][0])
    )  # "a fortieth"
    press(page, "iteration", "ArrowRight", 8)
    assert cells(page)[1] == ["0", "0"]
    assert [row[0] for row in cells(page)] == [row[1] for row in cells(page)]
    press(page, "fixed_c", "Space")
    press(page, "c", "Home")
    assert number(cells(page)[3][0]) == pytest.approx(0.956, abs=5e-4)
    assert (cells(page)[4][0], cells(page)[6][0]) == ("0", "0")
    press(page, "recorded", "Space")
    assert [ask() for ask in disabled.values()] == [False, True, True]
    assert number(cells(page)[0][1]) == pytest.approx(RUN["kl_g"][16].item(), rel=DIGITS)


# --- the entropy game, against scipy

EQUAL, UNEQUAL = numpy.full(8, 1 / 8), numpy.array([0.4, 0.25, 0.2, 0.1, 0.05])
GAMMAS = [0.0, 0.3, 0.7, 0.76, 0.77, 0.8, 0.9, 0.95, 1.0, 1.1, 1.2]


def objective(p, pi, gamma):
    return rel_entr(pi, p).sum() + gamma * entr(p).sum()


def broken(a):
    """Shares of eight states of which the first has a and the others are equal."""
    return numpy.array([a, *[(1 - a) / 7] * 7])


def minima(pi, gamma, starts=40):
    """(F, p) of the minima that BFGS finds on the simplex from random points, the lowest first."""

    def in_logits(t):
        p = softmax(t)
        slope = -pi / p - gamma * (numpy.log(p) + 1)
        return objective(p, pi, gamma), p * (slope - p @ slope)

    generator = numpy.random.default_rng(20220723)
    scales = numpy.linspace(0.1, 4, starts)[:, None]
    found = [
        minimize(in_logits, start, jac=True, options={"gtol": 1e-9})
        for start in scales * generator.standard_normal((starts, len(pi)))
    ]
    return sorted(((f.fun, softmax(f.x)) for f in found), key=lambda pair: pair[0])


def threshold():
    """γ at which the lower of both kinds of solution changes, and its largest share."""

    def ratio(a):
        return rel_entr(EQUAL, broken(a)).sum() / rel_entr(broken(a), EQUAL).sum()

    found = minimize_scalar(ratio, bounds=(0.2, 0.9), method="bounded", options={"xatol": 1e-10})
    return found.fun, found.x


@pytest.mark.parametrize("pi", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_the_minimiser_is_the_lowest_minimum_that_scipy_finds(show, pi):
    """From any start, with no other form assumed; in the browser the largest share comes first."""
    page = show("entropy-game")
    (data,) = call(page, "entropy-game", "data", [pi is UNEQUAL])
    assert data == pytest.approx(pi)
    shares = call(page, "entropy-game", "minimiser", *([data, gamma] for gamma in GAMMAS))
    for gamma, p in zip(GAMMAS, shares, strict=True):
        lowest, shape = minima(pi, gamma)[0]
        assert sum(p) == pytest.approx(1, abs=1e-12)
        assert objective(numpy.array(p), pi, gamma) == pytest.approx(lowest, abs=1e-8)
        assert p == pytest.approx(numpy.sort(shape)[::-1], abs=1e-4), gamma


@pytest.mark.parametrize("gamma", [0.5, 0.75, 0.8, 0.9, 0.97, 1.1])
def test_no_minimum_has_two_large_states(gamma):
    """Every minimum that scipy finds is of equal shares or of one large and seven equal ones."""
    for _, p in minima(EQUAL, gamma):
        largest, *others = numpy.sort(p)[::-1]
        assert others == pytest.approx([(1 - largest) / 7] * 7, abs=1e-4)
        assert (p > 1 / (8 * gamma)).sum() <= 1


def test_two_large_states_are_never_better_than_one():
    """The best of m equal large states, in the families that keep more of the symmetry."""
    for gamma in (0.77, 0.8, 0.9, 1.0, 1.2):
        best = []
        for m in (1, 2, 3, 4):
            grid = numpy.linspace(0.01, 0.99, 981)
            shapes = [[a / m] * m + [(1 - a) / (8 - m)] * (8 - m) for a in grid]
            best.append(min(objective(numpy.array(p), EQUAL, gamma) for p in shapes))
        assert best[0] < min(best[1:]) - 1e-3


def test_equal_states_break_apart_at_the_threshold(show):
    """Below it scipy's lowest minimum is of equal shares, above it not; the page says the same."""
    gamma, share = threshold()
    page = show("entropy-game")
    assert call(page, "entropy-game", "critical", [8]) == [pytest.approx(gamma, abs=1e-6)]
    assert objective(broken(share), EQUAL, gamma) == pytest.approx(gamma * math.log(8), abs=1e-9)
    below, above = (minima(EQUAL, gamma + side)[0][1].max() for side in (-1e-3, 1e-3))
    assert below == pytest.approx(1 / 8, abs=1e-4)
    assert above == pytest.approx(share, abs=0.01)
    step = 0.005
    under = step * math.floor(gamma / step)
    words = page.locator("p.words")
    page.locator("input[name=gamma]").fill(str(under))
    assert "all eight states stay equal. A second valley" in words.inner_text()
    assert cells(page)[0] == ["0.125", "0.125"]
    assert page.locator("rect.p").count() == 8
    press(page, "gamma", "ArrowRight")
    p = minima(EQUAL, under + step)[0][1].max()
    assert f"one state, which could be any of the eight, holds {100 * p:.0f}" in words.inner_text()
    assert "still a valley" in words.inner_text()
    assert f"{gamma:.3f}" in words.inner_text()
    assert cells(page)[0] == ["0.125", f"{p:.3f}"]
    press(page, "gamma", "End")
    assert "no longer a minimum" in words.inner_text()
    press(page, "gamma", "Home")
    assert "no other valley" in words.inner_text()


@pytest.mark.parametrize("unequal", [False, True])
def test_the_table_and_the_curve_of_the_entropy_game(show, unequal):
    pi, gamma = (UNEQUAL if unequal else EQUAL), 0.9
    page = show("entropy-game", gamma=gamma, unequal=unequal)
    lowest, p = minima(pi, gamma)[0]
    wanted = [
        [max(q), rel_entr(pi, q).sum(), entr(q).sum(), objective(q, pi, gamma)] for q in (pi, p)
    ]
    assert [[float(text) for text in row] for row in cells(page)] == pytest.approx(
        numpy.array(wanted).T, abs=6e-4
    )
    (points,) = call(page, "entropy-game", "landscape", [list(pi), gamma])
    depths = dict(points)
    assert min(depths.values()) == pytest.approx(lowest - wanted[0][3], abs=1e-3)
    for a in (0.2, 0.5, 0.8):  # the others share the rest
        rest = pi[1:] / pi[1:].sum()

        def of_the_rest(t, a=a):
            return objective(numpy.array([a, *(1 - a) * softmax(t)]), pi, gamma)

        best = minimize(of_the_rest, numpy.log(rest), options={"gtol": 1e-8}).fun
        assert depths[a] == pytest.approx(best - wanted[0][3], abs=1e-6)
    dot = [float(page.locator("circle.best").get_attribute(name)) for name in ("cx", "cy")]
    drawn = re.findall(r"([\d.]+),(-?[\d.]+)", page.locator("path.curve").get_attribute("d"))
    bottom = max(([float(x), float(y)] for x, y in drawn), key=lambda point: point[1])
    assert dot == pytest.approx(bottom, abs=2)


def test_unequal_shares_change_without_a_jump(show):
    """As the page says: by less than a hundredth at each step of the slider."""
    page = show("entropy-game", unequal=True)
    gammas = [i / 200 for i in range(241)]
    shares = call(page, "entropy-game", "minimiser", *([UNEQUAL.tolist(), g] for g in gammas))
    steps = numpy.diff([p[0] for p in shares])
    assert (steps > 0).all()
    assert steps.max() < 0.01
    assert "without a jump" in page.locator("p.words").inner_text()
    press(page, "unequal", "Space")
    assert "eight states" in page.locator("p.words").inner_text()


# --- the film


def test_the_film_decodes_to_what_was_recorded(show):
    page, widget = show("training-player"), TrainingPlayer(FOLDERS)
    code = """async ([text, data, indices]) => {
        const blob = new Blob([text], { type: "text/javascript" });
        const player = await import(URL.createObjectURL(blob));
        const pictures = indices.map((index) => player.picture(player.decode(data), index));
        return pictures.map((picture) => ({ ...picture, density: Array.from(picture.density) }));
    }"""
    frames = len(widget.iterations)
    wanted = [(which, frame) for which in range(4) for frame in (0, 7, frames - 1)]
    found = page.evaluate(
        code, [str(widget._esm), widget.data, [which * frames + frame for which, frame in wanted]]
    )
    films = [load_film(folder) for folder in FOLDERS.values()]
    for (which, frame), picture in zip(wanted, found, strict=True):
        film = films[which]
        assert picture["samples"] == (film["samples"][frame] / 1000).tolist()
        assert picture["density"] == film["density"][frame].flatten().tolist()
        assert [picture["real"], picture["generated"]] == (
            film["posteriors"][frame] / 1000
        ).tolist()


def test_density_and_samples_of_the_film_agree():
    """Counts by rows from above: the histogram has its mass where the first points of the same
    sample are."""
    for folder in FOLDERS.values():
        film = load_film(folder)
        counts, points = (
            film["density"][-1].astype(float),
            torch.from_numpy(film["samples"][-1] / 1000),
        )
        inside = points[(points.abs() < 2).all(1)]
        column, row = ((inside[:, 0] + 2) * 8).long(), ((2 - inside[:, 1]) * 8).long()
        assert (torch.from_numpy(counts)[row, column] > 0).all()


def test_one_slider_moves_all_models(show):
    page = show("training-player")
    films = [load_film(folder) for folder in FOLDERS.values()]
    slider = page.locator("input[name=frame]")
    pictures = ".model svg path, .model canvas"
    draw = "all => all.map(e => e.tagName === 'path' ? e.getAttribute('d') : e.toDataURL())"
    first = page.locator(pictures).evaluate_all(draw)
    assert first[: len(first) // 4] == first[-len(first) // 4 :]  # all begin alike
    for frame in (4, 12, 30):
        slider.focus()
        page.keyboard.press("Home")
        for _ in range(frame):
            page.keyboard.press("ArrowRight")
        iteration = films[0]["frames"][frame].item()
        assert slider.get_attribute("aria-valuetext").startswith(f"iteration {iteration}, ")
        for row, film in zip(cells(page), films, strict=True):
            at = film["iteration"].tolist().index(iteration)
            kl, kl_g = (f"{film[name][at].item():.2f}" for name in ("kl", "kl_g"))
            assert row == [
                f"{film['modes'][at]:.0f} of 8",
                f"{100 * film['between'][at].item():.0f} %",
                kl,
                kl_g,
            ]
    last = page.locator(pictures).evaluate_all(draw)
    assert all(now != then for now, then in zip(last, first, strict=True))
    for samples, film in zip(
        last[:: len(last) // 4], films, strict=True
    ):  # the first path of each model
        points = [float(coordinate) for coordinate in re.findall(r"-?[\d.]+(?=[,h])", samples)]
        assert points == pytest.approx(
            [c / 1000 for x, y in film["samples"][30].tolist() for c in (x, -y)]
        )
    x, y = middle(page, "input[name=frame]")
    page.mouse.click(x, y)
    assert page.locator("input[name=frame]").input_value() == "15"


def test_the_film_plays_on_demand_only(show):
    page = show("training-player", frame=27)
    page.wait_for_timeout(600)
    assert page.locator("input[name=frame]").input_value() == "27"
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Play").wait_for()  # it has stopped by itself
    assert page.locator("input[name=frame]").input_value() == "30"
    page.get_by_role("button", name="Play").press("Enter")  # from the beginning
    page.get_by_role("button", name="Pause").press("Enter")
    assert int(page.locator("input[name=frame]").input_value()) < 27
    quiet = show("training-player", reduced_motion="reduce")
    assert quiet.get_by_role("button", name="Play").count() == 0
    press(quiet, "frame", "End")
    assert quiet.locator("input[name=frame]").input_value() == "30"


def test_a_film_that_may_begins_when_it_is_seen_and_stops_out_of_sight(show):
    """Three screens further down it waits; scrolled to, it plays; scrolled away, it stops."""
    page = show("training-player", style="figure { margin-top: 2700px }", autoplay=True)
    frame = page.locator("input[name=frame]")
    page.wait_for_timeout(600)
    assert frame.input_value() == "0"
    page.get_by_role("button", name="Play").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('input[name=frame]').value > 1")
    page.evaluate("scrollTo(0, 0)")
    page.get_by_text("Play", exact=True).wait_for()
    stopped = frame.input_value()
    page.wait_for_timeout(600)
    assert frame.input_value() == stopped
    page.get_by_role("button", name="Play").scroll_into_view_if_needed()
    page.get_by_role("button", name="Pause").click()  # the reader's word is the last one
    paused = frame.input_value()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Play").scroll_into_view_if_needed()
    page.wait_for_timeout(600)
    assert frame.input_value() == paused
    assert 1 < int(paused) < 30


def test_a_film_does_not_begin_where_less_motion_is_asked_for(show):
    page = show("training-player", reduced_motion="reduce", autoplay=True, compact=True)
    page.wait_for_timeout(600)
    assert page.locator("input[name=frame]").input_value() == "30"
    modes = page.locator(".model > .modes").all_inner_texts()
    films = [load_film(folder) for folder in FOLDERS.values()]
    assert modes == [f"{film['modes'][-1]:.0f} of 8 modes" for film in films]


@pytest.mark.parametrize("width", [760, 390])
@pytest.mark.parametrize("compact", [True, False])
def test_nothing_moves_around_a_film_that_plays(show, width, compact):
    """Its parts keep their places and sizes from the first picture to the last."""
    page = show("training-player", width=width, compact=compact)
    places = "all => all.map(e => JSON.stringify(e.getBoundingClientRect()))"
    parts = page.locator(".training-player, svg, canvas, input, button, .value, p, table")
    before = parts.evaluate_all(places)
    for frame in (1, 12, 30):
        page.locator("input[name=frame]").fill(str(frame))
        assert parts.evaluate_all(places) == before
    assert page.locator("table, canvas").count() == (0 if compact else 5)


# --- all of them


@each_widget
def test_everything_has_a_name_and_is_reached_by_keyboard(show, kind):
    page = show(kind)
    controls = page.locator("input, button, select, [tabindex='0']")
    enabled = [
        index
        for index in range(controls.count())
        if controls.nth(index).is_enabled() and controls.nth(index).is_visible()
    ]
    for index in enabled:
        page.keyboard.press("Tab")
        assert controls.nth(index).evaluate("element => element === document.activeElement")
    assert all(
        name.strip()
        for name in page.locator("input[type=range]").evaluate_all(
            "all => all.map(e => e.ariaLabel)"
        )
    )
    assert (
        page.locator("input[type=checkbox]").count()
        == page.locator("label.check > input[type=checkbox]").count()
    )
    assert (
        page.locator(
            ":is(input, button, select, [tabindex]):not([data-lm-suppress-shortcuts])"
        ).count()
        == 0
    )
    images = page.locator("svg, canvas").evaluate_all(
        "all => all.map(e => [e.getAttribute('role'), e.ariaLabel])"
    )
    assert images
    assert all(role == "img" and len(name) > 8 for role, name in images)
    assert page.locator("th:not([scope])").count() == 0
    spoken = page.get_by_role("status")
    before = spoken.inner_text()
    assert len(before) > 20
    page.locator("input[type=range]").first.focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "text => document.querySelector('[role=status]').textContent !== text", arg=before
    )


@each_widget
def test_it_fits_a_telephone_and_reads_in_the_dark(show, kind):
    dark = "body { margin: 15px; background: #121212; color: #dddddd; color-scheme: dark }"
    page = show(kind, style=dark, width=390)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    inked = page.locator("td, th, p, label, svg text, svg path[stroke='currentColor']")
    colors = inked.evaluate_all(
        "all => all.map(e => getComputedStyle(e)[e.closest('svg') && e.tagName === 'path' ? "
        "'stroke' : 'color'])"
    )
    assert set(colors) == {"rgb(221, 221, 221)"}
    heights = page.locator("input[type=range]").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24  # a finger's


@each_widget
def test_what_the_browser_sets_python_takes(show, kind):
    """At both ends of every slider, and after every switch: the traits' limits are those of the
    page."""
    page, widget = show(kind), WIDGETS[kind]()
    for box in page.locator("input[type=checkbox]").all():
        widget.set_state({box.get_attribute("name"): True})
    for slider in page.locator("input[type=range]").all():
        name = slider.get_attribute("name")
        trait, index = (name, None) if widget.has_trait(name) else (name[:-1], int(name[-1]))
        for end in ("min", "max"):
            value = json.loads(slider.get_attribute(end))
            if index is not None:
                value = [
                    value if d == index else old for d, old in enumerate(getattr(widget, trait))
                ]
            widget.set_state({trait: value})
            assert getattr(widget, trait) == (tuple(value) if index is not None else value)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("kernel-explorer", {"n": 3}, "n=3 is odd"),
        ("kernel-explorer", {"mu_a": (0.0, 3.5)}, "mu_a"),
        ("kernel-explorer", {"var_b": (0.0, 1.0)}, "var_b"),
        ("margin-game", {"margin": -1.0}, "margin"),
        ("entropy-game", {"gamma": 1.25}, "gamma"),
        ("annealing-explorer", {"c": 1.5}, "'c'"),
        ("digit-explorer", {"digit_1": 10}, "digit_1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values, words):
    with pytest.raises(TraitError, match=words):
        WIDGETS[kind](**values)


def test_folders_without_a_film_are_refused_by_name(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"as_distance/mean-0' holds no frames\.npz; record one"
    ):
        TrainingPlayer({"AS-IntroVAE": embedded("runs/as_distance/mean-0")})
    with pytest.raises(FileNotFoundError, match=r"holds no record\.json"):
        AnnealingExplorer(tmp_path)


def test_views_of_one_model_move_together(show):
    """A notebook may show one widget twice."""
    page = show("margin-game", times=2)
    page.locator("input[name=margin]").first.fill("7")
    assert page.locator("input[name=margin]").last.input_value() == "7"
