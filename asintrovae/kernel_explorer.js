// Explorer of the expected-likelihood kernel over one latent axis (asintrovae.widgets.KernelExplorer).
const LOG_2PI = Math.log(2 * Math.PI);
const logNormal = (x, variance) => -0.5 * ((x * x) / variance + Math.log(variance) + LOG_2PI);

// The three kernels of the chapter, from the closed forms: Eq. 6, Eqs. 3/5 with w = p(z), and the per-axis mean.
export function kernels({ mu_a, var_a, mu_b, var_b, n }) {
  const sum = var_a + var_b;
  const log_k = logNormal(mu_a - mu_b, sum);
  const center = (mu_a * var_b + mu_b * var_a) / sum;
  const log_prior = log_k + logNormal(center, 1 + (var_a * var_b) / sum);
  return {
    log10_product: (n * log_k) / Math.LN10,
    log10_prior: (n * log_prior) / Math.LN10,
    mean: Math.exp(log_k + 0.5 * LOG_2PI),
  };
}

const SLIDERS = [
  ["mu_a", "mean μ of a", -4, 4, 0.05],
  ["var_a", "variance λ of a", 0.05, 4, 0.05],
  ["mu_b", "mean μ′ of b", -4, 4, 0.05],
  ["var_b", "variance λ′ of b", 0.05, 4, 0.05],
  ["n", "latent axes n", 1, 256, 1],
];
const WIDTH = 560, HEIGHT = 200, RANGE = 8;

const GRID = Array.from({ length: 481 }, (_, i) => -RANGE + (RANGE * i) / 240);

// Polyline of f over GRID, with `top` at the upper edge.
function curve(f, top) {
  return GRID.map((z, i) => `${((WIDTH * i) / 480).toFixed(1)},${(HEIGHT * (1 - f(z) / top)).toFixed(1)}`).join(" ");
}

function scientific(log10) {
  const exponent = Math.floor(log10);
  return `${(10 ** (log10 - exponent)).toFixed(3)} × 10<sup>${exponent}</sup>`;
}

function render({ model, el }) {
  el.innerHTML = `
    <div class="kernel-explorer" style="max-width:${WIDTH}px;background:#fff;color:#222;padding:8px">
      <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" width="100%" role="img"
           aria-label="Densities of posteriors a and b and the area under their product, which is the kernel">
        <polygon class="product" fill="#009E73" fill-opacity="0.5" />
        <polyline class="a" fill="none" stroke="#0072B2" stroke-width="2" />
        <polyline class="b" fill="none" stroke="#D55E00" stroke-width="2" stroke-dasharray="6 3" />
        <line x1="0" x2="${WIDTH}" y1="${HEIGHT}" y2="${HEIGHT}" stroke="#222" />
      </svg>
      <p style="margin:4px 0;font-size:0.85em">
        <span style="color:#0072B2">━ a(z)</span> &nbsp; <span style="color:#D55E00">╌ b(z)</span> &nbsp;
        <span style="color:#009E73">■ a(z) b(z): its area is k for n = 1 and w = 1</span></p>
      <div class="controls" style="display:grid;grid-template-columns:max-content 1fr 4em;gap:2px 10px"></div>
      <output style="display:block;margin-top:6px" aria-live="polite"></output>
    </div>`;
  const find = (selector) => el.querySelector(selector);
  for (const [name, text, min, max, step] of SLIDERS) {
    const label = document.createElement("label"), input = document.createElement("input"), shown = document.createElement("span");
    label.append(text);
    Object.assign(input, { type: "range", min, max, step, value: model.get(name), name });
    input.setAttribute("aria-label", text);
    input.addEventListener("input", () => { model.set(name, Number(input.value)); model.save_changes(); });
    model.on(`change:${name}`, () => { input.value = model.get(name); draw(); });
    shown.className = `value-${name}`;
    find(".controls").append(label, input, shown);
  }
  function draw() {
    const state = Object.fromEntries(SLIDERS.map(([name]) => [name, model.get(name)]));
    const a = (z) => Math.exp(logNormal(z - state.mu_a, state.var_a));
    const b = (z) => Math.exp(logNormal(z - state.mu_b, state.var_b));
    const product = (z) => a(z) * b(z);
    const top = 1.05 * Math.max(...GRID.map((z) => Math.max(a(z), b(z), product(z)))); // the tallest curve fits
    find(".a").setAttribute("points", curve(a, top));
    find(".b").setAttribute("points", curve(b, top));
    find(".product").setAttribute("points", `0,${HEIGHT} ${curve(product, top)} ${WIDTH},${HEIGHT}`);
    for (const [name] of SLIDERS) find(`.value-${name}`).textContent = name === "n" ? state[name] : state[name].toFixed(2);
    const k = kernels(state);
    find("output").innerHTML = `product, w = 1: <b>${scientific(k.log10_product)}</b> · product, w = p(z): ` +
      `<b>${scientific(k.log10_prior)}</b> · per-axis mean: <b>${k.mean.toFixed(3)}</b>`;
  }
  draw();
}

export default { render };
