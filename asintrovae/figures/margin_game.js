// The hinge of IntroVAE between its two players (asintrovae.figures.widgets.MarginGame).

// Losses in the energies KL(x) and KL(x_s), both fakes alike and R = 0, and their slopes in KL(x_s). Tied: all have KL(x_s).
export function losses({ margin, beta_kl, beta_neg, kl_real, kl_fake, tied }) {
  const hinge = Math.max(0, margin - kl_fake);
  const real = beta_kl * (tied ? kl_fake : kl_real);
  return {
    real,
    hinges: 2 * beta_neg * hinge,
    encoder: real + 2 * beta_neg * hinge,
    decoder: 2 * beta_neg * kl_fake,
    encoder_slope: (tied ? beta_kl : 0) - (hinge > 0 ? 2 * beta_neg : 0),
    decoder_slope: 2 * beta_neg,
  };
}

// Where the encoder's loss is least, in words: Eq. (common energy) of the chapter where tied.
export function aim({ margin, beta_kl, beta_neg, tied }) {
  if (!tied) return beta_neg > 0 ? `any KL(xₛ) ≥ ${fixed(1)(margin)}` : "any KL(xₛ)";
  if (2 * beta_neg === beta_kl) return `any v ≤ ${fixed(1)(margin)}`;
  return `v = ${fixed(1)(2 * beta_neg > beta_kl ? margin : 0)}`;
}

const TRAITS = ["margin", "beta_kl", "beta_neg", "kl_real", "kl_fake", "tied"];
const WIDTH = 340, HEIGHT = 230, RIGHT = 12, TOP = 16;
const moves = (slope) => (slope === 0 ? "not at all" : slope < 0 ? "up" : "down");

function render({ model, el }) {
  const plot = axes({ width: WIDTH, height: HEIGHT, right: RIGHT, bottom: 0, top: TOP, left: 24 });
  const { x, y, line } = plot;
  const stroke = (color, attributes) => h("path", { fill: "none", stroke: color, "stroke-width": 2, ...attributes });
  const curves = { encoder: stroke(GREEN), decoder: stroke("currentColor", { "stroke-dasharray": "6 3" }) };
  const edge = stroke("currentColor", { "stroke-width": 1, "stroke-dasharray": "2 2" });
  const arrows = { encoder: stroke(GREEN, { "stroke-width": 4 }), decoder: stroke("currentColor", { "stroke-width": 4 }) };
  const dots = { encoder: h("circle", { r: 5, fill: GREEN }), decoder: h("circle", { r: 5, fill: "currentColor" }) };
  const fake = stroke("currentColor", { "stroke-width": 1, opacity: 0.4 });
  const m = h("text", { "font-size": 12, y: 16 }, "m");
  const svg = h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Losses of encoder and decoder against the KL divergence of a fake, the margin, and the direction in which each player moves the fake" },
    plot.frame([0, 3, 6, 9, 12].map((value) => [value, String(value)]), [0, 4, 8, 12, 16].map((value) => [value, String(value)])),
    edge, m, fake, curves.encoder, curves.decoder, arrows.encoder, arrows.decoder, dots.encoder, dots.decoder);
  const energy = { min: 0, max: 12, step: 0.1, show: fixed(1) };
  const controls = h("div", { class: "controls" },
    slider(model, "margin", "margin m", energy),
    slider(model, "kl_fake", "KL(xₛ) of fakes", energy),
    slider(model, "kl_real", "KL(x) of real images", energy),
    slider(model, "beta_neg", "weight β_neg", { min: 0, max: 1, step: 0.05 }),
    checkbox(model, "tied", "fakes look real: one energy v for all"));
  const [numbers, fill] = table(["player", "loss", "slope in KL(xₛ)", "moves KL(xₛ)"], ["encoder", "decoder"]);
  const content = h("p", {});
  const [spoken, say] = speaker();

  follow(model, TRAITS, () => {
    const state = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    controls.querySelector("[name=kl_real]").disabled = state.tied;
    const here = losses(state);
    const shown = Array.from({ length: 241 }, (_, i) => i / 20).map((v) => [v, losses({ ...state, kl_fake: v })]);
    for (const player of ["encoder", "decoder"]) {
      const points = shown.map(([v, loss]) => [v, loss[player]]).filter(([, loss]) => loss <= TOP);
      set(curves[player], { d: line(points) });
      set(dots[player], { cx: x(state.kl_fake), cy: y(here[player]), visibility: here[player] <= TOP ? "visible" : "hidden" });
      const slope = here[`${player}_slope`], height = player === "encoder" ? 30 : 44;
      const tip = x(state.kl_fake) - 30 * slope, back = 6 * Math.sign(slope);
      set(arrows[player], { d: slope ? `M${x(state.kl_fake)},${height}H${tip}m${back},-5l${-back},5l${back},5` : "" });
    }
    set(edge, { d: `M${x(state.margin)},6V${y(0)}` });
    set(fake, { d: `M${x(state.kl_fake)},24V${y(0)}` });
    set(m, { x: x(state.margin) + (state.margin > 11 ? -4 : 4), "text-anchor": state.margin > 11 ? "end" : "start" });
    const rows = ["encoder", "decoder"].map((player) => [number(here[player]), number(here[`${player}_slope`]), moves(here[`${player}_slope`])]);
    fill(rows);
    content.textContent = `Encoder’s loss: β_kl KL(x) = ${number(here.real)}, both hinges ${number(here.hinges)}; least at ${aim(state)}.`;
    say(`Encoder: loss ${rows[0][0]}, moves the fake’s KL divergence ${rows[0][2]}. Decoder: loss ${rows[1][0]}, ${rows[1][2]}. ${content.textContent}`);
  });
  mount(el, "margin-game",
    h("div", { class: "columns" },
      h("div", {}, svg, legend([GREEN, "━", "encoder’s loss"], ["currentColor", "╌", "decoder’s loss"]), h("p", {}, "against KL(xₛ), in nats; arrows: where each moves a fake")),
      h("div", {}, controls, content)),
    numbers, spoken);
}

export default { render };
