// Recorded trainings side by side, on one slider (asintrovae.figures.widgets.TrainingPlayer).
const POINTS = 300, CELLS = 32, POSTERIORS = 24;
const SIZE = 2 * 2 * POINTS + CELLS * CELLS + 2 * 2 * POSTERIORS * 4; // bytes of a picture

// Picture number `index` of the data: samples [x, y], counts of a grid by rows from above, posteriors [m, m, s, s] of two clouds.
export function picture(data, index) {
  const start = data.byteOffset + index * SIZE, buffer = data.buffer;
  const rows = (flat, length) => Array.from({ length: flat.length / length }, (_, i) => Array.from(flat.subarray(i * length, (i + 1) * length), (value) => value / 1000));
  const counts = start + 4 * POINTS, clouds = counts + CELLS * CELLS;
  const posteriors = rows(new Int16Array(buffer, clouds, 8 * POSTERIORS), 4);
  return {
    samples: rows(new Int16Array(buffer, start, 2 * POINTS), 2),
    density: new Uint8Array(buffer, counts, CELLS * CELLS),
    real: posteriors.slice(0, POSTERIORS),
    generated: posteriors.slice(POSTERIORS),
  };
}

export const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

const LAYOUT = `
  .asintrovae .controls.film { grid-template-columns: max-content minmax(0, 1fr); }
  .asintrovae .film .value { text-align: left; grid-column: 2; grid-row: 2; }
  .asintrovae .film .play { grid-column: 1; grid-row: 2; min-width: 4.5em; }
  .asintrovae.training-player table { table-layout: fixed; }
  .asintrovae .models { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 6px; }
  .asintrovae .model { display: grid; gap: 4px; align-content: start; }
  .asintrovae .model > b { text-align: center; }
  .asintrovae .model > svg, .asintrovae .model > canvas { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated;
    box-sizing: border-box; border: 1px solid color-mix(in srgb, currentColor 30%, transparent); }
  .asintrovae .model > .modes { text-align: center; }
  @media (max-width: 600px) {
    .asintrovae .film .value { min-height: 2.8em; }
    .asintrovae .models.compact { grid-template-columns: repeat(2, minmax(0, 1fr)); }
    .asintrovae .models.compact .model { grid-template-columns: minmax(0, 1fr); }
    .asintrovae .models.compact .model > b { text-align: center; }
    .asintrovae .models:not(.compact) { grid-template-columns: minmax(0, 1fr); }
    .asintrovae .models:not(.compact) .model { grid-template-columns: repeat(3, minmax(0, 1fr)); }
    .asintrovae .models:not(.compact) .model > b { grid-column: 1 / -1; text-align: left; }
  }
  @media (prefers-reduced-motion: reduce) { .asintrovae .play { display: none; } }
`;
const ELLIPSE = ([x, y, rx, ry]) => `M${x - rx},${-y}a${rx},${ry} 0 1,0 ${2 * rx},0a${rx},${ry} 0 1,0 ${-2 * rx},0`;

// The three panels of a model, of which a compact player has the first, and the function that shows a picture in them.
function panels(name, centers, compact) {
  const modes = centers.map(([x, y]) => h("circle", { cx: x, cy: -y, r: 0.2, fill: "none", stroke: BLUE, "stroke-width": 0.03 }));
  const dots = h("path", { stroke: ORANGE, "stroke-width": 0.07, "stroke-linecap": "round" });
  const clouds = [BLUE, ORANGE].map((color) => h("path", { fill: color, "fill-opacity": 0.25, stroke: color, "stroke-width": 0.05 }));
  const means = [BLUE, ORANGE].map((color) => h("path", { stroke: color, "stroke-width": 0.12, "stroke-linecap": "round" }));
  const canvas = h("canvas", { width: CELLS, height: CELLS, role: "img", "aria-label": `${name}: density of samples` });
  const figure = (label, half, ...children) => h("svg", { viewBox: `${-half} ${-half} ${2 * half} ${2 * half}`, role: "img", "aria-label": `${name}: ${label}` }, ...children);
  const found = h("span", { class: "modes" });
  const points = figure("generated points", 2, ...modes, dots);
  const others = () => [canvas, figure("posteriors of real and generated points", 3.5, ...clouds, ...means)];
  const element = h("div", { class: "model" }, h("b", {}, name), points, ...(compact ? [found] : others()));
  function show({ samples, density, real, generated }, modesFound) {
    set(dots, { d: samples.map(([x, y]) => `M${x},${-y}h0`).join("") });
    found.textContent = `${modesFound} of ${centers.length} modes`;
    if (compact) return;
    [real, generated].forEach((cloud, i) => {
      set(clouds[i], { d: cloud.map(ELLIPSE).join("") });
      set(means[i], { d: cloud.map(([x, y]) => `M${x},${-y}h0`).join("") });
    });
    const image = new ImageData(CELLS, CELLS);
    density.forEach((count, i) => image.data.set([213, 94, 0, 255 * Math.min(1, Math.sqrt(count) / 8)], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  return [element, show];
}

function render({ model, el }) {
  const names = model.get("names"), iterations = model.get("iterations"), warmup = model.get("warmup");
  const compact = model.get("compact"), still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const data = decode(model.get("data")), last = iterations.length - 1;
  const shown = names.map((name) => panels(name, model.get("centers"), compact));
  const phase = (frame) => {
    const i = iterations[frame], c = Math.min((5 * i) / iterations[last], 1);
    return `iteration ${i}, ${i < warmup ? "warm-up, all of them VAEs" : `the game, c = ${c.toFixed(2)}`}`;
  };
  const control = slider(model, "frame", "Training", { min: 0, max: last, step: 1, show: phase });
  const play = h("button", { type: "button", class: "play" });
  const [numbers, fill] = table(["model", "modes found", "between modes", "KL(x)", "KL(x_g)"], names);
  const [spoken, say] = speaker();

  let timer = null;
  function run(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => (model.get("frame") < last ? change(model, "frame", model.get("frame") + 1) : run(false)), 250) : null;
    play.textContent = on ? "Pause" : "Play";
  }
  run(false);
  let waiting = model.get("autoplay") && !still; // for the reader to see it, until it was played, paused or moved by hand
  if (model.get("autoplay") && still) change(model, "frame", last);
  control.addEventListener("input", () => { waiting = false; run(false); });
  play.addEventListener("click", () => {
    waiting = false;
    if (timer === null && model.get("frame") === last) change(model, "frame", 0);
    run(timer === null);
  });
  const seen = new IntersectionObserver(([entry]) => {
    if (waiting) run(entry.isIntersecting && model.get("frame") < last);
  }, { threshold: 0.4 });
  seen.observe(el);

  follow(model, ["frame"], () => {
    const frame = Math.min(model.get("frame"), last);
    const rows = model.get("numbers").map((of) => of[frame]);
    shown.forEach(([, show], index) => show(picture(data, index * iterations.length + frame), rows[index][0]));
    fill(rows.map(([modes, between, kl, kl_g]) => [`${modes} of 8`, `${(100 * between).toFixed(0)} %`, kl.toFixed(2), kl_g.toFixed(2)]));
    if (timer === null) say(`${phase(frame)}. ${names.map((name, i) => `${name}: ${rows[i][0]} of 8 modes`).join(", ")}`);
  });
  const models = h("div", { class: compact ? "models compact" : "models" }, ...shown.map(([element]) => element));
  const marks = [[ORANGE, "●", "generated"], ...(compact ? [] : [[BLUE, "●", "real"]]), [BLUE, "○", "modes"]];
  mount(el, "training-player", h("style", {}, LAYOUT),
    ...(compact ? [models] : []),
    h("div", { class: "controls film" }, control, play),
    ...(compact ? [] : [models]), legend(...marks), ...(compact ? [] : [numbers]), spoken);
  return () => {
    seen.disconnect();
    run(false);
  };
}

export default { render };
