// What the annealing lets the encoder see along a run (asintrovae.figures.widgets.AnnealingExplorer).

// c, KL(x_s) and D at an iteration: from the sliders or the recorded run, whose rows are [iteration, KL(x_g), D].
export function at(state, iteration) {
  const { total, fixed_c, c, kl, distance, recorded, run } = state;
  const [, KL, D] = recorded ? run.findLast((row) => row[0] <= iteration) : [0, kl, distance];
  return { c: fixed_c ? c : Math.min((5 * iteration) / total, 1), KL, D };
}

// Eq. 7 for one fake with R = 0: the parts of KL_s, the exponential, and the slopes of both losses.
export function terms({ c, KL, D }, { kappa, alpha, beta_kl, beta_neg }) {
  const mixed = c * KL + (1 - c) * D;
  const push = Math.exp(-alpha * kappa * beta_neg * mixed);
  return {
    part_KL: c * KL,
    part_D: (1 - c) * D,
    mixed,
    push,
    encoder_KL: -0.5 * kappa * beta_neg * c * push,
    encoder_D: -0.5 * kappa * beta_neg * (1 - c) * push,
    decoder_KL: 0.5 * kappa * beta_kl * c,
    decoder_D: 0.5 * kappa * beta_kl * (1 - c),
  };
}

const TRAITS = ["iteration", "total", "warmup", "fixed_c", "c", "kl", "distance", "recorded", "run", "weights"];
const ROWS = {
  part_KL: "c KL(xₛ)", part_D: "(1 − c) D", mixed: "KLₛ, their sum", push: "exp(αWₛ), share of the full push",
  encoder_KL: "encoder’s slope in KL(xₛ)", encoder_D: "encoder’s slope in D",
  decoder_KL: "decoder’s slope in KL(xₛ)", decoder_D: "decoder’s slope in D",
};
const WIDTH = 340, HEIGHT = 120, LOW = -4, HIGH = 2;

function render({ model, el }) {
  const total = model.get("total");
  const upper = axes({ width: WIDTH, height: HEIGHT, right: total, bottom: 0, top: 1 });
  const lower = axes({ width: WIDTH, height: HEIGHT + 40, right: total, bottom: LOW, top: HIGH });
  const ticks = [0, total / 4, total / 2, (3 * total) / 4, total].map((value) => [value, String(value)]);
  const curve = (color, dashes) => h("path", { fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dashes });
  const curves = { c: curve("currentColor", ""), part_KL: curve(BLUE, ""), part_D: curve(ORANGE, "6 3") };
  const now = [upper, lower].map(() => h("path", { stroke: "currentColor", "stroke-dasharray": "2 2" }));
  const warm = ({ x, y }, bottom) => h("rect", { x: x(0), y: 6, width: x(model.get("warmup")) - x(0), height: y(bottom) - 6, fill: "currentColor", opacity: 0.12 });
  const powers = [-4, -2, 0, 2].map((exponent) => [exponent, `10${raised(exponent)}`]);
  const figure = (label, height, ...children) => h("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label }, ...children);
  const pictures = h("div", {},
    h("p", {}, "c against the iteration; grey: warm-up, no game"),
    figure("c along the run", HEIGHT, warm(upper, 0), upper.frame(ticks, [[0, "0"], [0.5, "½"], [1, "1"]]), curves.c, now[0]),
    legend([BLUE, "━", "c KL(xₛ)"], [ORANGE, "╌", "(1 − c) D"]),
    figure("Both parts of the mixed divergence along the run, on a logarithmic scale", HEIGHT + 40, warm(lower, LOW), lower.frame(ticks, powers), curves.part_KL, curves.part_D, now[1]));

  const controls = h("div", { class: "controls" },
    slider(model, "iteration", "iteration i", { min: 0, max: total, step: total / 80, show: String }),
    checkbox(model, "fixed_c", "c is fixed instead of annealed"),
    slider(model, "c", "fixed c", { min: 0, max: 1, step: 0.05 }),
    checkbox(model, "recorded", "KL(xₛ) and D from the recorded run"),
    slider(model, "kl", "KL(xₛ), nats", { min: 0, max: 10, step: 0.1 }),
    slider(model, "distance", "D", { min: 0, max: 1, step: 0.01 }));
  const now_text = h("p", {});
  const input = (name) => controls.querySelector(`[name=${name}]`);
  const [numbers, fill] = table(["one fake, R = 0", "AS‑IntroVAE", "c = 1"], Object.values(ROWS));
  const [spoken, say] = speaker();

  follow(model, TRAITS, () => {
    const state = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    input("c").disabled = !state.fixed_c;
    input("kl").disabled = input("distance").disabled = state.recorded;
    const every = Array.from({ length: 161 }, (_, i) => (i * total) / 160).map((i) => [i, at(state, i)]);
    set(curves.c, { d: upper.line(every.map(([i, { c }]) => [i, c])) });
    for (const part of ["part_KL", "part_D"]) {
      const logs = every.map(([i, here]) => [i, Math.log10(terms(here, state.weights)[part])]);
      set(curves[part], { d: lower.line(logs.filter(([, log]) => log >= LOW && log <= HIGH)) });
    }
    now.forEach((line, i) => set(line, { d: `M${upper.x(state.iteration)},6V${i ? HEIGHT + 22 : HEIGHT - 18}` }));
    const here = at(state, state.iteration);
    const [annealed, soft] = [here, { ...here, c: 1 }].map((values) => terms(values, state.weights));
    fill(Object.keys(ROWS).map((name) => [number(annealed[name]), number(soft[name])]));
    now_text.textContent = `Here: c = ${here.c.toFixed(3)}, KL(xₛ) = ${number(here.KL)}, D = ${number(here.D)}.`;
    const phase = state.iteration < state.warmup ? "warm-up, no game yet" : `c ${here.c.toFixed(3)}`;
    say(`Iteration ${state.iteration}, ${phase}: KL part ${number(annealed.part_KL)}, D part ${number(annealed.part_D)}, push ${number(annealed.push)}`);
  });
  mount(el, "annealing-explorer", h("div", { class: "columns" }, pictures, h("div", {}, controls, now_text)), numbers, spoken);
}

export default { render };
