// The distribution at which S-IntroVAE’s decoder arrives, on a few states (asintrovae.figures.widgets.EntropyGame).
const UNEQUAL = [0.4, 0.25, 0.2, 0.1, 0.05];

export const data = (unequal) => (unequal ? UNEQUAL : Array(8).fill(1 / 8));
export const divergence = (p, q) => p.reduce((sum, share, i) => sum + share * Math.log(share / q[i]), 0);
export const entropy = (p) => -p.reduce((sum, share) => sum + share * Math.log(share), 0);
export const objective = (p, pi, gamma) => divergence(pi, p) + gamma * entropy(p);

// A lower point p of the same sum. H lies below its tangent at p, and KL(π‖p) plus γ times the tangent is least at p_i = π_i / (ν − γ log p_i);
// Newton's method finds ν from below, as the sum of these shares is convex in ν. For a sum of 1 and a p that stays, ν = 1 − γ H(p).
function step(p, pi, gamma, total) {
  const slopes = p.map((share) => gamma * Math.log(share));
  const shares = (nu) => pi.map((share, i) => share / (nu - slopes[i]));
  let nu = Math.max(...pi.map((share, i) => share / total + slopes[i]));
  for (let k = 0; k < 100; k++) {
    const next = shares(nu), excess = next.reduce((sum, share) => sum + share, -total);
    if (excess < 1e-14) break;
    nu += excess / next.reduce((sum, share, i) => sum + (share * share) / pi[i], 0);
  }
  return shares(nu);
}

function descend(p, pi, gamma, total = 1) {
  for (let k = 0; k < 5000; k++) {
    const next = step(p, pi, gamma, total);
    if (next.every((share, i) => Math.abs(share - p[i]) < 1e-11)) break;
    p = next;
  }
  return p;
}

// The minimum reached from nearly all mass on state j.
const from = (j, pi, gamma) => descend(pi.map((_, i) => (i === j ? 0.99 : 0.01 / (pi.length - 1))), pi, gamma);

// The lowest of the minima reached from π and from each state; of equally low ones the first.
export function minimiser(pi, gamma) {
  const found = [descend(pi, pi, gamma), ...pi.map((_, j) => from(j, pi, gamma))].map((p) => ({ p, F: objective(p, pi, gamma) }));
  return found.reduce((best, other) => (other.F < best.F - 1e-10 ? other : best)).p;
}

const proportional = (pi, a) => pi.map((share, i) => (i ? (share * (1 - a)) / (1 - pi[0]) : a));

// The shares where state 1 has the share a and F is least near equal proportions of the others: (a, (1 − a)/7, …) for equal states.
export const path = (pi, gamma, a) => [a, ...descend(proportional(pi, a).slice(1), pi.slice(1), gamma, 1 - a)];

// The γ above which another point than equal shares u is lower: F(p) < F(u) is γ > KL(u‖p) / KL(p‖u).
export function critical(states) {
  const u = Array(states).fill(1 / states);
  const points = Array.from({ length: 1000 }, (_, i) => proportional(u, 1 / states + ((1 - 1 / states) * (i + 1)) / 1001));
  return Math.min(...points.map((p) => divergence(u, p) / divergence(p, u)));
}

const TIED = critical(8);
const STEPS = Array.from({ length: 197 }, (_, i) => (i + 2) / 200);

// The points (a, F(p) − F(π)) of the curve.
export function landscape(pi, gamma) {
  const level = objective(pi, pi, gamma);
  return STEPS.map((a) => [a, objective(path(pi, gamma, a), pi, gamma) - level]);
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
const nats = (x) => `${Number(x.toPrecision(2))}\u00a0nats`;
const weight = (gamma) => `γ\u00a0=\u00a0${gamma.toFixed(3)}`;

// What holds at this γ, in words.
export function words(unequal, gamma) {
  const pi = data(unequal), p = minimiser(pi, gamma), at = `At ${weight(gamma)}`;
  if (unequal) return `${at} the most frequent state, ${percent(pi[0])} of the data, holds ${percent(p[0])} of p*. Its share grows with γ without a jump.`;
  const other = from(0, pi, gamma), rise = Math.abs(objective(other, pi, gamma) - objective(pi, pi, gamma));
  if (p[0] - p[1] < 1e-6) {
    if (other[0] - other[1] < 1e-6) return `${at} all eight states stay equal. F has no other valley yet; one becomes equally deep at ${weight(TIED)}.`;
    return `${at} all eight states stay equal. A second valley, at a = ${other[0].toFixed(2)}, lies ${nats(rise)} higher. Both are equally deep at ${weight(TIED)}.`;
  }
  const equal = gamma < 1 ? `are still a valley, ${nats(rise)} higher` : "are no longer a minimum"; // F'' there is 8 (1 − γ)
  return `${at} one state, which could be any of the eight, holds ${percent(p[0])}; the other seven hold ${percent(p[1])} each. Equal shares ${equal}. Both kinds of solution have the same F at ${weight(TIED)}.`;
}

const WIDTH = 340, HEIGHT = 220;

// Multiples in [-half, half] of 1, 2 or 5 times a power of ten, at least two on each side of 0.
function ticks(half) {
  const power = 10 ** Math.floor(Math.log10(half / 2)), unit = power * [5, 2, 1].find((m) => 2 * m * power <= half);
  const n = Math.floor(half / unit);
  return Array.from({ length: 2 * n + 1 }, (_, i) => [(i - n) * unit, String(Number(((i - n) * unit).toPrecision(2))).replace("-", "−")]);
}

function render({ model, el }) {
  const bars = axes({ width: WIDTH, height: HEIGHT, right: 1, bottom: 0, top: 1, left: 38 });
  const figure = (label, ...children) => h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, ...children);
  const shares = h("g"), numerals = h("g", { "font-size": 11, "text-anchor": "middle" });
  const left = figure("Bars of the shares of the states in the data π and in the minimiser p*",
    bars.frame([], [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${100 * share} %`])), shares, numerals);
  const curve = h("path", { class: "curve", fill: "none", stroke: "currentColor", "stroke-width": 2 });
  const level = h("path", { stroke: "currentColor", "stroke-dasharray": "2 2", opacity: 0.6 });
  const frame = h("g");
  const best = h("circle", { r: 4.5, fill: ORANGE, class: "best" });
  const start = h("circle", { r: 7, fill: "none", stroke: BLUE, "stroke-width": 2.5, class: "start" });
  const right = figure("F against the share of the first state, relative to F at p = π, with a ring at p = π and a dot at the minimiser p*",
    frame, level, curve, start, best);
  const controls = h("div", { class: "controls" },
    slider(model, "gamma", "weight γ of the entropy", { min: 0, max: 1.2, step: 0.005, show: fixed(3) }),
    checkbox(model, "unequal", `unequal data: ${UNEQUAL.join(", ")}`));
  const [numbers, fill] = table(["", "p = π", "p = p*"], ["largest share", "KL(π‖p), nats", "entropy H(p), nats", "F(p) = KL(π‖p) + γ H(p)"]);
  const text = h("p", { class: "words" }), rest = h("p", {});
  const [spoken, say] = speaker();

  follow(model, ["gamma", "unequal"], () => {
    const gamma = model.get("gamma"), unequal = model.get("unequal");
    const pi = data(unequal), p = minimiser(pi, gamma), points = landscape(pi, gamma);
    const place = (i) => bars.x((i + 0.5) / pi.length), reach = 0.36 * (bars.x(1 / pi.length) - bars.x(0));
    const bar = (share, i, attributes) => h("rect", { x: place(i) - reach, width: 2 * reach, y: bars.y(share), height: bars.y(0) - bars.y(share), ...attributes });
    shares.replaceChildren(...p.map((share, i) => bar(share, i, { fill: ORANGE, class: "p" })),
      ...pi.map((share, i) => bar(share, i, { fill: "none", stroke: BLUE, "stroke-width": 2.5 })));
    numerals.replaceChildren(...p.flatMap((share, i) => [
      h("text", { x: place(i), y: bars.y(Math.max(share, pi[i])) - 5 }, `${fixed(1)(100 * share)} %`),
      h("text", { x: place(i), y: HEIGHT - 5 }, String(i + 1))]));
    const depth = objective(p, pi, gamma) - objective(pi, pi, gamma), half = Math.max(0.012, -1.25 * depth);
    const { x, y, line, ...plot } = axes({ width: WIDTH, height: HEIGHT, right: 1, bottom: -half, top: half, left: 42 });
    frame.replaceChildren(plot.frame([0, 0.25, 0.5, 0.75, 1].map((a) => [a, String(a)]), ticks(half)));
    set(level, { d: `M${x(0)},${y(0)}H${x(1)}` });
    set(curve, { d: line(points.filter(([, F]) => F < 2 * half)) });
    set(best, { cx: x(p[0]), cy: y(depth) });
    set(start, { cx: x(pi[0]), cy: y(0) });
    const row = (of) => [of(pi), of(p)].map(fixed(3));
    fill([row((p) => Math.max(...p)), row((p) => divergence(pi, p)), row(entropy), row((p) => objective(p, pi, gamma))]);
    rest.textContent = `The other states share the rest ${unequal ? "so that F is least" : "equally"}.`;
    text.textContent = words(unequal, gamma);
    say(text.textContent);
  });
  mount(el, "entropy-game",
    controls,
    h("div", { class: "columns" },
      h("div", {}, h("p", {}, "shares of the states"), left, legend([BLUE, "□", "data π"], [ORANGE, "■", "p*, where F is least"])),
      h("div", {}, h("p", {}, "F(p) − F(π), in nats, against the share a of state 1"), right, legend([BLUE, "○", "p = π"], [ORANGE, "●", "p*"]),
        rest)),
    text, numbers, spoken);
}

export default { render };
