// Two posteriors in the plane, their kernels and their distance (asintrovae.figures.widgets.KernelExplorer).
const LOG_2PI = Math.log(2 * Math.PI);
const logNormal = (x, variance) => -0.5 * ((x * x) / variance + Math.log(variance) + LOG_2PI);

// log(e^a + e^b - 2 e^c), -Infinity where the three cancel.
function logDifference(a, b, c) {
  const largest = Math.max(a, b, c);
  return largest + Math.log(Math.max(0, Math.exp(a - largest) + Math.exp(b - largest) - 2 * Math.exp(c - largest)));
}

// Natural logarithms of k(a, b), k(a, a), k(b, b) and D = k(a, a) + k(b, b) - 2 k(a, b) for each kernel, over n axes: the two
// of the plane, n / 2 times each.
export function kernels({ mu_a, var_a, mu_b, var_b, n }) {
  function axis(mu, variance, mu_, variance_) {
    const sum = variance + variance_;
    const k = logNormal(mu - mu_, sum);
    const center = (mu * variance_ + mu_ * variance) / sum;
    return { k, prior: k + logNormal(center, 1 + (variance * variance_) / sum) };
  }
  function pair(mu, variance, mu_, variance_) {
    const [first, second] = [0, 1].map((d) => axis(mu[d], variance[d], mu_[d], variance_[d]));
    return {
      mean: Math.log((Math.exp(first.k) + Math.exp(second.k)) / 2) + 0.5 * LOG_2PI,
      product: (n / 2) * (first.k + second.k),
      prior: (n / 2) * (first.prior + second.prior),
    };
  }
  const ab = pair(mu_a, var_a, mu_b, var_b), aa = pair(mu_a, var_a, mu_a, var_a), bb = pair(mu_b, var_b, mu_b, var_b);
  const row = (name) => [ab[name], aa[name], bb[name], logDifference(aa[name], bb[name], ab[name])];
  return { mean: row("mean"), product: row("product"), prior: row("prior") };
}

const TRAITS = ["mu_a", "var_a", "mu_b", "var_b", "n"];
const MEAN = { min: -3, max: 3, step: 0.05 }, VARIANCE = { min: 0.05, max: 4, step: 0.05 };
const STEM = 0.5; // from the edge of an ellipse to the handle that stretches it
const onStep = (value, { min, max }) => Math.round(20 * Math.min(max, Math.max(min, value))) / 20;

function render({ model, el }) {
  const ellipse = (color, attributes) => h("ellipse", { stroke: color, fill: color, "stroke-width": 0.06, "fill-opacity": 0.15, ...attributes });
  const product = ellipse(GREEN, { class: "product", "fill-opacity": 0.5, stroke: "none" });
  const bodies = { a: ellipse(BLUE, { class: "grab body-a" }), b: ellipse(ORANGE, { class: "grab body-b", "stroke-dasharray": "0.2 0.12" }) };
  const stems = { a: h("path", { stroke: BLUE, "stroke-width": 0.04 }), b: h("path", { stroke: ORANGE, "stroke-width": 0.04 }) };
  const prior = h("circle", { r: 1, fill: "none", stroke: "currentColor", "stroke-width": 0.03, "stroke-dasharray": "0.05 0.1" });
  const svg = h("svg", { viewBox: "-5.6 -5.6 11.2 11.2", role: "img", "aria-label": "Posteriors a and b in the plane as ellipses of one standard deviation, the ellipse of their product, and the unit circle of the prior; the sliders move them" },
    h("path", { d: "M-5.6,0H5.6M0,-5.6V5.6", stroke: "currentColor", "stroke-width": 0.02, opacity: 0.5 }),
    h("text", { x: 5.1, y: -0.15, "font-size": 0.45 }, "z₁"), h("text", { x: 0.12, y: -5.1, "font-size": 0.45 }, "z₂"),
    prior, bodies.a, bodies.b, product, stems.a, stems.b);
  const handles = ["a", "b"].flatMap((who) => ["move", 0, 1].map((what) => {
    const color = who === "a" ? BLUE : ORANGE;
    const dot = h("circle", { r: 0.2, fill: color, stroke: "transparent", "stroke-width": 0.36, "pointer-events": "all", class: `grab handle-${who}-${what}` });
    svg.append(dot);
    return { who, what, dot };
  }));

  // Dragging: z is the pointer in the plane; a mean keeps its distance from the pointer, an edge follows it.
  const plane = (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [x, -y];
  };
  function drag(element, who, what) {
    let offset;
    element.addEventListener("pointerdown", (event) => {
      const z = plane(event), mu = model.get(`mu_${who}`);
      offset = mu.map((value, d) => value - z[d]);
      element.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    element.addEventListener("pointermove", (event) => {
      if (!element.hasPointerCapture(event.pointerId)) return;
      const z = plane(event), mu = model.get(`mu_${who}`);
      if (what === "move") return change(model, `mu_${who}`, mu.map((_, d) => onStep(z[d] + offset[d], MEAN)));
      const deviation = Math.max(0, z[what] - mu[what] - STEM);
      change(model, `var_${who}`, model.get(`var_${who}`).with(what, onStep(deviation ** 2, VARIANCE)));
    });
  }
  for (const { who, what, dot } of handles) drag(dot, who, what);
  for (const who of ["a", "b"]) drag(bodies[who], who, "move");

  const controls = h("div", { class: "controls" });
  for (const who of ["a", "b"]) {
    for (const index of [0, 1]) controls.append(slider(model, `mu_${who}`, `${who}: mean μ${"₁₂"[index]}`, { ...MEAN, index }));
    for (const index of [0, 1]) controls.append(slider(model, `var_${who}`, `${who}: variance λ${"₁₂"[index]}`, { ...VARIANCE, index }));
  }
  controls.append(slider(model, "n", "latent axes n", { min: 2, max: 256, step: 2, show: String }));
  const names = { mean: "mean", product: "product", prior: "prior" };
  const [numbers, fill] = table(["kernel", "k(a, b)", "k(a, a)", "k(b, b)", "D"], Object.values(names));
  const [spoken, say] = speaker();

  follow(model, TRAITS, () => {
    const state = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    for (const who of ["a", "b"]) {
      const [mu, deviation] = [state[`mu_${who}`], state[`var_${who}`].map(Math.sqrt)];
      const at = [[mu[0], mu[1]], [mu[0] + deviation[0] + STEM, mu[1]], [mu[0], mu[1] + deviation[1] + STEM]];
      set(bodies[who], { cx: mu[0], cy: -mu[1], rx: deviation[0], ry: deviation[1] });
      set(stems[who], { d: at.slice(1).map(([x, y]) => `M${mu[0]},${-mu[1]}L${x},${-y}`).join("") });
      handles.filter((handle) => handle.who === who).forEach(({ dot }, i) => set(dot, { cx: at[i][0], cy: -at[i][1] }));
    }
    const { mu_a, var_a, mu_b, var_b } = state; // the product's mean and variance, Eqs. 3 and 5
    const m = [0, 1].map((d) => (mu_a[d] * var_b[d] + mu_b[d] * var_a[d]) / (var_a[d] + var_b[d]));
    const v = [0, 1].map((d) => (var_a[d] * var_b[d]) / (var_a[d] + var_b[d]));
    set(product, { cx: m[0], cy: -m[1], rx: Math.sqrt(v[0]), ry: Math.sqrt(v[1]) });
    const rows = Object.values(kernels(state)).map((logs) => logs.map((log) => scientific(log / Math.LN10)));
    fill(rows);
    say(Object.keys(names).map((name, i) => `${name}: k(a, b) ${rows[i][0]}, D ${rows[i][3]}`).join("; "));
  });
  mount(el, "kernel-explorer",
    h("div", { class: "columns" },
      h("div", {}, svg, legend([BLUE, "━", "a"], [ORANGE, "╌", "b"], [GREEN, "■", "a(z) b(z)"], ["currentColor", "┄", "p(z)"])),
      h("div", {}, controls)),
    numbers, spoken);
}

export default { render };
