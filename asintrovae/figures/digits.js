// Autoencoders of digits that compute in the page (asintrovae.figures.digits.DigitExplorer).

// The numbers that `packed` wrote: little-endian int16 in base64, and parts of [count, unit].
export function unpacked({ words, parts }) {
  const bytes = Uint8Array.from(atob(words), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer), found = new Float32Array(bytes.length / 2);
  let i = 0;
  for (const [count, unit] of parts) for (const end = i + count; i < end; i++) found[i] = unit * view.getInt16(2 * i, true);
  return found;
}

// Images are { data, channels, side }: channels of side x side numbers; latents have side 1.
function convolve({ data, channels, side }, { at, bias, to, size }, weights) {
  const pad = (size - 1) / 2, wide = side + 2 * pad, padded = new Float32Array(channels * wide * wide);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < side; y++) {
      const row = (c * side + y) * side;
      padded.set(data.subarray(row, row + side), (c * wide + y + pad) * wide + pad);
    }
  }
  const out = new Float32Array(to * side * side);
  for (let o = 0; o < to; o++) {
    out.fill(weights[bias + o], o * side * side, (o + 1) * side * side);
    for (let c = 0; c < channels; c++) {
      for (let tap = 0; tap < size * size; tap++) {
        const weight = weights[at + (o * channels + c) * size * size + tap];
        const down = Math.floor(tap / size), right = tap % size;
        for (let y = 0; y < side; y++) {
          const from = (c * wide + y + down) * wide + right, into = (o * side + y) * side;
          for (let x = 0; x < side; x++) out[into + x] += weight * padded[from + x];
        }
      }
    }
  }
  return { data: out, channels: to, side };
}

function linear({ data }, { at, bias, to }, weights) {
  const out = new Float32Array(to), width = data.length;
  for (let o = 0; o < to; o++) {
    let sum = weights[bias + o];
    for (let i = 0; i < width; i++) sum += weights[at + o * width + i] * data[i];
    out[o] = sum;
  }
  return { data: out, channels: to, side: 1 };
}

// Every value of an image of another side from those of this one.
function resized({ data, channels, side }, into, value) {
  const out = new Float32Array(channels * into * into);
  for (let c = 0, i = 0; c < channels; c++) {
    for (let y = 0; y < into; y++) for (let x = 0; x < into; x++, i++) out[i] = value(c * side * side, y, x);
  }
  return { data: out, channels, side: into };
}

const rectified = (image, slope) => ({ ...image, data: image.data.map((value) => (value < 0 ? slope * value : value)) });

const OPERATIONS = {
  convolve, linear,
  relu: (image) => rectified(image, 0),
  leaky: (image) => rectified(image, 0.2),
  shape: (image, { channels, side }) => ({ data: image.data, channels, side }),
  up: (image) => resized(image, 2 * image.side, (start, y, x) => image.data[start + (y >> 1) * image.side + (x >> 1)]),
  pool(image) {
    const { data, side } = image;
    return resized(image, side / 2, (start, y, x) => {
      const i = start + 2 * y * side + 2 * x;
      return (data[i] + data[i + 1] + data[i + side] + data[i + side + 1]) / 4;
    });
  },
  block(image, { skip, body }, weights) {
    const straight = run(skip, image, weights).data, bent = run(body, image, weights);
    return rectified({ ...bent, data: bent.data.map((value, i) => value + straight[i]) }, 0.2);
  },
};
const run = (operations, image, weights) => operations.reduce((now, step) => OPERATIONS[step.op](now, step, weights), image);

// Dec(z) and μ(x), as typed arrays, of a network that browser_network wrote.
export function network({ encoder, decoder, weights: text, side }) {
  const weights = unpacked(text);
  return {
    decode: (z) => run(decoder, { data: Float32Array.from(z), channels: z.length, side: 1 }, weights).data,
    encode: (x) => run(encoder, { data: Float32Array.from(x), channels: 1, side }, weights).data,
  };
}

export const decoded = (written, z) => Array.from(network(written).decode(z));
export const encoded = (written, x) => Array.from(network(written).encode(x));

// Normal numbers that depend on the seed alone, the same for every model (mulberry32, Box and Muller).
export function normals(seed, count) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

// Where the three digits of a plane stand, and the shares of them at a point (u, v); the shares add up to 1.
export const CORNERS = [[-2, -2], [2, -2], [0, 2]];
export function shares(u, v) {
  const top = (v + 2) / 4, right = (u + 2 - 2 * top) / 4;
  return [1 - top - right, right, top];
}

// A drawing moved so that its centre of mass is in the middle, as MNIST's digits are.
export function centred(drawing, side) {
  let mass = 0, down = 0, right = 0;
  drawing.forEach((value, i) => { mass += value; down += value * Math.floor(i / side); right += value * (i % side); });
  if (mass === 0) return drawing;
  const by = [down, right].map((sum) => Math.round(side / 2 - 0.5 - sum / mass));
  return drawing.map((_, i) => {
    const y = Math.floor(i / side) - by[0], x = (i % side) - by[1];
    return y >= 0 && x >= 0 && y < side && x < side ? drawing[y * side + x] : 0;
  });
}

const EDGE = 3.5, TILES = 7, SAMPLES = 4; // half the side of the map; its digits, and those of the samples, along a side
const LAYOUT = `
  .asintrovae.digit-explorer .row { display: grid; gap: 8px; margin: 2px 0 10px; align-items: start; }
  .asintrovae.digit-explorer figure { margin: 0; }
  .asintrovae.digit-explorer figcaption { text-align: center; font-size: inherit; }
  .asintrovae.digit-explorer canvas { display: block; width: 100%; aspect-ratio: 1; background: black; box-sizing: border-box;
    border: 1px solid color-mix(in srgb, currentColor 40%, transparent); }
  .asintrovae.digit-explorer :is(.point, .board, .answer) { image-rendering: pixelated; }
  .asintrovae.digit-explorer .pen { cursor: crosshair; touch-action: none; }
  .asintrovae.digit-explorer .choice { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; margin: 4px 0; }
  .asintrovae.digit-explorer :is(select, button) { min-height: 26px; font: inherit; }
  @media (max-width: 600px) { .asintrovae.digit-explorer .planes { grid-template-columns: 2fr 1fr !important; } }
`;

// Put grey images into a canvas, so many beside each other.
function paint(canvas, images, side, columns) {
  const context = canvas.getContext("2d");
  images.forEach((image, index) => {
    if (!image) return;
    const pixels = new ImageData(side, side);
    image.forEach((value, i) => pixels.data.set([...Array(3).fill(255 * Math.min(1, Math.max(0, value))), 255], 4 * i));
    context.putImageData(pixels, (index % columns) * side, Math.floor(index / columns) * side);
  });
}

// The function that calls another once before the next picture of the page, however often it is called.
function inTime(draw) {
  let waiting = false;
  return () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  };
}

function choice(model, name, text, options) {
  const input = h("select", { name, "aria-label": text, "data-lm-suppress-shortcuts": "true" }, ...options.map((label, value) => h("option", { value }, label)));
  input.addEventListener("change", () => change(model, name, Number(input.value)));
  follow(model, [name], () => { input.value = model.get(name); });
  return h("label", {}, `${text} `, input);
}

function render({ model, el }) {
  const names = model.get("names"), colors = model.get("colors"), axes = model.get("axes"), side = model.get("networks")[0].side;
  const networks = model.get("networks").map(network);
  const pixels = unpacked(model.get("digits")), size = side * side;
  const digits = Array.from({ length: 10 }, (_, i) => Array.from(pixels.subarray(i * size, (i + 1) * size))), labels = digits.map((_, i) => String(i));
  const codes = networks.map(() => []);
  const code = (index, digit) => (codes[index][digit] ??= networks[index].encode(digits[digit]));
  const canvas = (label, width, extra = {}) => h("canvas", { width, height: width, role: "img", "aria-label": label, ...extra });
  const framed = (picture, text, color) => h("figure", {}, picture, h("figcaption", {}, h("b", { style: `color:${color}` }, "■"), ` ${text}`));
  const planes = (...children) => set(row(`${names.length},2fr 1fr`, ...children), { class: "row planes" });
  const row = (columns, ...children) => h("div", { class: "row", style: `grid-template-columns:repeat(${columns})` }, ...children);

  // The latent of a model at a point of the plane.
  function latent(index, u, v) {
    if (model.get("plane") === 0) {
      const z = new Float32Array(axes[index].length);
      z[axes[index][model.get("axis_1")]] += u;
      z[axes[index][model.get("axis_2")]] += v;
      return z;
    }
    const corners = ["digit_1", "digit_2", "digit_3"].map((name) => code(index, model.get(name))), share = shares(u, v);
    return corners[0].map((_, d) => corners.reduce((sum, corner, k) => sum + share[k] * corner[d], 0));
  }

  const [spoken, say] = speaker();
  const maps = names.map((name) => canvas(`${name}: digits decoded over the plane`, TILES * side, { class: "pen map" }));
  const points = names.map((name) => canvas(`${name}: digit decoded at the point`, side, { class: "point" }));
  const whole = maps.map((map) => map.cloneNode());
  const mark = (u, v) => maps.forEach((map, i) => {
    const context = map.getContext("2d"), scale = (TILES * side) / (2 * EDGE);
    context.drawImage(whole[i], 0, 0);
    context.strokeStyle = ORANGE;
    context.lineWidth = 2;
    context.beginPath();
    context.arc((u + EDGE) * scale, (EDGE - v) * scale, side / 3, 0, 7);
    context.stroke();
  });
  const look = inTime(() => {
    const u = model.get("u"), v = model.get("v");
    points.forEach((point, i) => paint(point, [networks[i].decode(latent(i, u, v))], side, 1));
    mark(u, v);
    report();
  });
  let newest = 0;
  function chart() { // a map takes half a second, so it is drawn row by row
    const mine = ++newest, images = maps.map(() => []);
    maps.forEach((map) => map.removeAttribute("data-done"));
    function next() {
      if (mine !== newest) return;
      const line = images[0].length / TILES;
      maps.forEach((_, i) => {
        for (let k = 0; k < TILES; k++) images[i].push(networks[i].decode(latent(i, k - 3, 3 - line)));
        paint(whole[i], images[i], side, TILES);
      });
      mark(model.get("u"), model.get("v"));
      if (line + 1 < TILES) setTimeout(next);
      else maps.forEach((map) => set(map, { "data-done": true }));
    }
    setTimeout(next);
  }
  for (const map of maps) {
    const move = (event) => {
      const box = map.getBoundingClientRect();
      const at = (share) => Math.max(-EDGE, Math.min(EDGE, Math.round(20 * EDGE * (2 * share - 1)) / 20));
      model.set("u", at((event.clientX - box.left) / box.width));
      change(model, "v", -at((event.clientY - box.top) / box.height));
    };
    map.addEventListener("pointermove", move);
    map.addEventListener("pointerdown", move);
  }

  const which = choice(model, "plane", "Plane", ["of two latent axes", "through three digits"]);
  const ranks = axes[0].map((_, i) => (i ? String(i + 1) : "1, the most active"));
  const ofAxes = h("span", { class: "choice" }, choice(model, "axis_1", "right: axis", ranks), choice(model, "axis_2", "up: axis", ranks));
  const ofDigits = h("span", { class: "choice" },
    ...["bottom left", "bottom right", "top"].map((place, k) => choice(model, `digit_${k + 1}`, place, labels)));
  const range = { min: -EDGE, max: EDGE, step: 0.05 };
  const position = h("div", { class: "controls" }, slider(model, "u", "right", range), slider(model, "v", "up", range));

  const sheets = names.map((name) => canvas(`${name}: 16 samples`, SAMPLES * side, { class: "sheet" }));
  const again = h("button", { type: "button", class: "again" }, "Draw 16 samples");
  again.addEventListener("click", () => change(model, "draw", model.get("draw") + 1));

  const board = canvas("your digit", side, { class: "pen board" });
  const pad = h("div", { class: "pad", tabindex: 0, role: "application", "data-lm-suppress-shortcuts": "true", "aria-label": "Your digit: the arrow keys move the brush, the space bar paints" }, board);
  const answers = names.map((name) => canvas(`${name}: reconstruction of your digit`, side, { class: "answer" }));
  const errors = names.map(() => h("span"));
  let squared = names.map(() => 0);
  const report = () => say(`Plane at ${fixed(2)(model.get("u"))}, ${fixed(2)(model.get("v"))}. Error of your digit: ${names.map((name, i) => `${name} ${squared[i].toFixed(3)}`).join(", ")}`);
  let drawing = digits[model.get("example")], brush = [side / 2, side / 2], last = null;
  const answer = inTime(() => {
    const x = centred(drawing, side);
    paint(board, [drawing], side, 1);
    const found = networks.map(({ encode, decode }) => decode(encode(x)));
    squared = found.map((image) => image.reduce((sum, value, i) => sum + (Math.min(1, Math.max(0, value)) - x[i]) ** 2, 0) / size);
    found.forEach((image, i) => {
      paint(answers[i], [image], side, 1);
      errors[i].textContent = `, error ${squared[i].toFixed(3)}`;
    });
    report();
  });
  function stroke([x, y]) { // ink from the last point to this one
    const from = last ?? [x, y], steps = Math.ceil(Math.hypot(x - from[0], y - from[1]) / 0.5) || 1;
    drawing = drawing.map((value, i) => {
      let ink = 0;
      for (let k = 0; k <= steps; k++) {
        const away = Math.hypot((i % side) + 0.5 - from[0] - ((x - from[0]) * k) / steps, Math.floor(i / side) + 0.5 - from[1] - ((y - from[1]) * k) / steps);
        ink = Math.max(ink, Math.min(1, 1.9 - away));
      }
      return Math.max(value, ink);
    });
    last = brush = [x, y];
    answer();
  }
  const place = (event) => {
    const box = board.getBoundingClientRect();
    return [(side * (event.clientX - box.left)) / box.width, (side * (event.clientY - box.top)) / box.height];
  };
  board.addEventListener("pointerdown", (event) => {
    board.setPointerCapture(event.pointerId);
    last = null;
    stroke(place(event));
  });
  board.addEventListener("pointermove", (event) => { if (board.hasPointerCapture(event.pointerId)) stroke(place(event)); });
  const showBrush = () => {
    const context = board.getContext("2d");
    paint(board, [drawing], side, 1);
    context.fillStyle = ORANGE;
    context.fillRect(Math.floor(brush[0]), Math.floor(brush[1]), 1, 1);
  };
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    if (step) brush = brush.map((value, d) => Math.max(0.5, Math.min(side - 0.5, value + step[d])));
    last = null;
    if (!step) stroke(brush);
    showBrush();
  });
  pad.addEventListener("blur", () => paint(board, [drawing], side, 1));
  const clear = h("button", { type: "button", class: "clear" }, "Clear");
  clear.addEventListener("click", () => { drawing = Array(size).fill(0); answer(); });
  const examples = choice(model, "example", "or begin with", labels);

  follow(model, ["plane", "axis_1", "axis_2", "digit_1", "digit_2", "digit_3"], () => {
    const through = model.get("plane") === 1;
    ofAxes.style.display = through ? "none" : "";
    ofDigits.style.display = through ? "" : "none";
    chart();
    look();
  });
  model.on("change:u", look);
  model.on("change:v", look);
  follow(model, ["draw"], inTime(() => {
    const z = normals(model.get("draw"), SAMPLES ** 2 * axes[0].length);
    sheets.forEach((sheet, i) => {
      const images = Array.from({ length: SAMPLES ** 2 }, (_, k) => networks[i].decode(z.slice(k * axes[i].length, (k + 1) * axes[i].length)));
      paint(sheet, images, side, SAMPLES);
    });
  }));
  follow(model, ["example"], () => { drawing = digits[model.get("example")]; answer(); });

  const pair = (pictures) => pictures.map((picture, i) => framed(picture, names[i], colors[i]));
  mount(el, "digit-explorer", h("style", {}, LAYOUT),
    h("div", { class: "choice" }, which, ofAxes, ofDigits),
    planes( ...names.flatMap((name, i) => [h("figure", {}, maps[i]), framed(points[i], name, colors[i])])),
    position,
    h("div", { class: "choice" }, again, "from the same latents for every model"),
    row(`${names.length},minmax(0,1fr)`, ...pair(sheets)),
    h("div", { class: "choice" }, "Draw a digit in the left square", clear, examples),
    row(`${names.length + 1},minmax(0,1fr)`, h("figure", {}, pad, h("figcaption", {}, "yours")),
      ...answers.map((picture, i) => {
        const figure = framed(picture, names[i], colors[i]);
        figure.lastChild.append(errors[i]);
        return figure;
      })),
    spoken);
}

export default { render };
