"""The engine of the lab, alone in a worker of a page that is opened as a file: losses and gradients
are those of the package, and a run does what the page asks of it."""

import functools
import json
import math
import shutil

import numpy
import pytest
import torch
from conftest import ROOT

from asintrovae import RunConfig, build_model, build_objective
from asintrovae.data import toy_density
from asintrovae.evaluation.measures import histogram_divergences, modes_found
from asintrovae.running.loop import only_learning
from asintrovae.theory.objectives import Noise

pytestmark = pytest.mark.xdist_group("widgets")  # one worker starts the browser once
CHROMIUM = shutil.which("chromium")
FOLDER = ROOT / "asintrovae" / "figures" / "lab"
PARTS = ("vendor/jax-js.js", "networks.js", "objectives.js", "densities.js", "engine.js")
WORKER = "\n".join((FOLDER / part).read_text(encoding="utf-8") for part in PARTS)
HELPERS = """
window.workerOf = (text) => new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
window.asked = (text, given) => new Promise((resolve, reject) => {
  const worker = workerOf(text);
  worker.onmessage = ({ data }) => {
    if (data.type === "ready") return;
    worker.terminate();
    data.type === "answer" ? resolve(data.answer) : reject(new Error(data.message));
  };
  worker.postMessage(given);
});
window.lab = (text) => {
  const worker = workerOf(text), said = [], waiting = new Set();
  worker.onmessage = ({ data }) => {
    said.push({ ...data, at: performance.now() });
    for (const look of [...waiting]) look();
  };
  const first = (fits, from = 0) => new Promise((resolve, reject) => {
    const look = () => {
      const found = said.slice(from).find(fits);
      const wrong = said.slice(from).find(({ type }) => type === "error");
      if (found || wrong) waiting.delete(look);
      if (found) resolve(found);
      else if (wrong) reject(new Error(wrong.message));
    };
    waiting.add(look);
    look();
  });
  const state = (fits = () => true, from = said.length) => first((m) => m.type === "state" && fits(m), from);
  const send = (message) => worker.postMessage(message);
  const next = (message, fits) => {
    const from = said.length;
    send(message);
    return state(fits, from);
  };
  const until = (i) => next({ type: "run", until: i }, (m) => m.i >= i && !m.running);
  return { worker, said, send, next, until, first, state, start: (config) => next({ type: "start", config }) };
};
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: `make browser` installs it where it may")
    from playwright.sync_api import sync_playwright

    file = tmp_path_factory.mktemp("lab") / "lab.html"
    file.write_text("<!doctype html><title>lab</title>")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.on("request", lambda r: pytest.fail(r.url) if r.url.startswith("http") else None)
        page.goto(file.as_uri())
        page.evaluate(HELPERS)
        yield page
        browser.close()


def in_worker(page, code, given):
    """What an expression with the engine's functions gives in a worker; it sees `given`."""
    text = f"""{WORKER}
    self.onmessage = async ({{ data: given }}) => {{
      await ready;
      try {{ postMessage({{ type: "answer", answer: ({code}) }}); }}
      catch (error) {{ postMessage({{ type: "error", message: error.stack }}); }}
    }};"""
    return page.evaluate("([text, given]) => asked(text, given)", [text, given])


def played(page, code):
    """What the body of a function returns on the page; it sees `l`, an engine."""
    script = f"async (text) => {{ const l = lab(text); {code} }}"
    return page.evaluate(script, WORKER)


# --- losses and gradients

CODE = {
    "squash": True,
    "squash_kl": True,
    "distance_reduction": "sum",
    "distance_weight_decoder": 0.5,
    "detach_fakes": False,
    "distance_weight": 0.01,
}
"""The published code's form of AS-IntroVAE, of book/training/params/model/as_intro-official.yaml."""
AS = {"model": "as_intro", "distance_weight": 100.0}  # at 1, D would be a thousandth of the gradient
CASES = {
    "vae": {"model": "vae"},
    "intro": {"model": "intro", "margin": 2.0},
    "soft_intro": {"model": "soft_intro"},
    "soft_intro, fakes reconstructed": {"model": "soft_intro", "gamma_r": 0.5, "alpha": 0.7},
    "as_intro": AS,
    "as_intro, tanh": AS | {"c_schedule": "tanh"},
    "as_intro, c = 0": AS | {"c": 0.0},
    "as_intro, c = 1": AS | {"c": 1.0},
    "as_intro, real": AS | {"pairing": "real"},
    "as_intro, unbiased": AS | {"estimator": "u"},
    "as_intro, code": AS | CODE,
    "wgan_gp": {"model": "wgan_gp"},
} | {
    f"as_intro, {kernel}": AS | {"kernel": kernel, "bandwidth": 0.3}
    for kernel in ("product", "prior", "tempered")
}
PROGRESS = 0.07  # c is 0.35, or tanh of it


@functools.cache
def given_to_both(name):
    """Configuration, model, points and noise of a case, the model with weights twice as large as
    fresh ones, so that posteriors differ."""
    config = RunConfig(**CASES[name], widths=(64, 64), batch_size=128, device="cpu", seed=3)
    model = build_model(config, (2,))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    generator = torch.Generator().manual_seed(5)
    x = toy_density(config.dataset).sample(128, generator)
    return config, model, x, Noise.draw(128, 2, generator)


def of_the_package(name, phase, dtype):
    """Loss, terms, and gradients of the halves that learn, layer by layer, weights before biases."""
    config, model, x, noise = given_to_both(name)
    model = model.to(dtype)
    drawn = Noise(*(tensor.to(dtype) for tensor in noise))
    with only_learning(model, phase.learns):
        loss, terms = phase.loss(model, x.to(dtype), drawn, PROGRESS)
        parameters = [p for half in phase.learns for p in getattr(model, half).parameters()]
        gradients = torch.autograd.grad(loss, parameters)
    model.float()
    return (
        {"loss": loss.item()} | {term: value.item() for term, value in terms.items()},
        [(g.T if g.dim() == 2 else g).double().flatten() for g in gradients],
    )


def layers_of(half):
    linear = [module for module in half.modules() if isinstance(module, torch.nn.Linear)]
    return [
        {
            "inputs": layer.in_features,
            "outputs": layer.out_features,
            "weight": layer.weight.T.flatten().tolist(),
            "bias": layer.bias.tolist(),
        }
        for layer in linear
    ]


GRADIENT = """(() => {
  const settings = settingsOf(given.config), names = [];
  const phase = OBJECTIVES[settings.model](settings)[given.phase];
  const halves = onDevice(given.halves);
  const learning = Object.fromEntries(phase.learns.map((name) => [name, halves[name]]));
  const numbers = Run.prototype.numbers.call({ settings, i: given.i, steps: {} }, phase);
  const f = jax.jit(gradientOf(phase, optionsOf(settings), names));
  const others = Object.fromEntries(Object.entries(halves).filter(([name]) => !phase.learns.includes(name)));
  const { terms, gradient } = f(learning, others, jax.numpy.array(Float32Array.from(given.draws)), jax.numpy.array(numbers));
  const values = [...terms.dataSync()];
  return {
    learns: phase.learns,
    terms: Object.fromEntries(["loss", ...names].map((name, k) => [name, values[k]])),
    gradient: phase.learns.map((name) => gradient[name].map(({ weight, bias }) => [[...weight.dataSync()], [...bias.dataSync()]])).flat(2),
  };
})()"""


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_package(page, name, place):
    """To 1e-5 of each term, and of the norm of the gradient of each half. The page computes in
    float32, the package here in float64."""
    config, model, x, noise = given_to_both(name)
    phases = build_objective(config).phases
    if place >= len(phases):
        return
    phase = phases[place]
    draws = torch.cat([x.flatten(), *(tensor.flatten() for tensor in noise)])
    halves = {half: layers_of(module) for half, module in model.named_children()}
    names = (*CASES[name], "beta_rec", "beta_kl", "beta_neg")
    given = {
        "config": {key: getattr(config, key) for key in names} | {"iterations": 1000},
        "phase": place,
        "halves": halves,
        "i": 1000 * PROGRESS,
        "draws": draws.tolist(),
    }
    found = in_worker(page, GRADIENT, given)
    terms, gradients = of_the_package(name, phase, torch.float64)
    assert found["learns"] == list(phase.learns)
    assert found["terms"].keys() == terms.keys()
    for term, value in terms.items():
        # D is a small difference of three means: 1e-5 of them
        scale = config.distance_weight if term == "distance" else 0
        assert found["terms"][term] == pytest.approx(value, rel=1e-5, abs=1e-6 * scale), term
    assert len(found["gradient"]) == len(gradients)
    mine = torch.cat([torch.tensor(part, dtype=torch.float64) for part in found["gradient"]])
    theirs = torch.cat(gradients)
    print(name, phase.name, float((mine - theirs).norm() / theirs.norm()))
    assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm())
