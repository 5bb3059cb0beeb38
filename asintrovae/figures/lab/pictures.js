// The pictures of the lab, on canvases that follow their place in size and the page in colour.

// Prepare a canvas and call draw(context, side), whose plane is a square of `side` by `side` units from the upper left.
function paint(canvas, draw) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = Math.min(2, globalThis.devicePixelRatio || 1);
  if (!width) return; // behind a tab
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d"), { color, fontFamily } = getComputedStyle(canvas);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  Object.assign(context, { fillStyle: color, strokeStyle: color, lineWidth: 1, globalAlpha: 1, font: `11px ${fontFamily}` });
  draw(context, width, height, color);
}

const rgb = (color) => color.match(/[\d.]+/g).slice(0, 3).map(Number);
const bright = (color) => rgb(color).reduce((sum, value) => sum + value) > 382; // of the ink: the page is dark

// Shades of an energy in nats: two for each doubling, the darkest from 64 nats on. They mean the same in every picture.
const SHADES = 14;
const shadeOf = (nats) => Math.max(0, Math.min(SHADES, Math.floor(2 * Math.log2(1 + 2 * Math.max(nats, 0)))));

// An image of `pixels` by `pixels` whose opacity is a shade of the energy (G × G, by rows from above), with a line at each step.
function landscape(energy, color, pixels = 220) {
  const G = Math.round(Math.sqrt(energy.length)), image = new ImageData(pixels, pixels), ink = rgb(color);
  const floor = Math.min(0, energy.reduce((least, value) => Math.min(least, value), 0)), strength = bright(color) ? 0.34 : 0.6;
  const above = new Int16Array(pixels);
  for (let row = 0; row < pixels; row += 1) {
    const v = ((row + 0.5) / pixels) * G - 0.5, j = Math.max(0, Math.min(G - 2, Math.floor(v))), b = Math.max(0, Math.min(1, v - j));
    let left = -1;
    for (let column = 0; column < pixels; column += 1) {
      const u = ((column + 0.5) / pixels) * G - 0.5, i = Math.max(0, Math.min(G - 2, Math.floor(u))), a = Math.max(0, Math.min(1, u - i));
      const k = j * G + i;
      const value = (1 - b) * ((1 - a) * energy[k] + a * energy[k + 1]) + b * ((1 - a) * energy[k + G] + a * energy[k + G + 1]);
      const shade = shadeOf(value - floor);
      const edge = (left >= 0 && shade !== left) || (row > 0 && shade !== above[column]);
      image.data.set([...ink, 255 * Math.min(1, strength * (shade / SHADES) + (edge ? 0.1 : 0))], 4 * (row * pixels + column));
      left = above[column] = shade;
    }
  }
  return picture(image);
}

function picture(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function heat(density) {
  const G = Math.round(Math.sqrt(density.length)), image = new ImageData(G, G), top = Math.max(1, ...density), color = rgb(hexColor(ORANGE));
  density.forEach((count, k) => image.data.set([...color, count ? 30 + 150 * Math.sqrt(count / top) : 0], 4 * k));
  return picture(image);
}

const hexColor = (text) => `rgb(${[1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)).join(",")})`;

function dots(context, points, place, radius) {
  for (let i = 0; i + 1 < points.length; i += 2) {
    const [x, y] = place(points[i], points[i + 1]);
    context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius); // faster than a circle, and looks the same
  }
}

// The data plane: the energy in shades, the decoder's density, real and generated points, the arrows of a step, a pen.
function drawPlane(canvas, { view, extent, real, layers, centers, pen }) {
  paint(canvas, (context, width, height, color) => {
    const place = (x, y) => [((x + extent) / (2 * extent)) * width, ((extent - y) / (2 * extent)) * height];
    const lighter = bright(color);
    if (view && layers.energy && view.energy) {
      if (canvas.shaded?.energy !== view.energy || canvas.shaded.color !== color) {
        canvas.shaded = { energy: view.energy, color, image: landscape(view.energy, color) };
      }
      context.drawImage(canvas.shaded.image, 0, 0, width, height);
    }
    if (view && layers.density && view.density) {
      context.drawImage(heat(view.density), 0, 0, width, height);
    }
    context.fillStyle = lighter ? LIGHTER[ORANGE] : ORANGE;
    if (view && layers.points) dots(context, view.samples, place, 1.3);
    context.fillStyle = lighter ? LIGHTER[BLUE] : BLUE;
    if (real && layers.points) dots(context, real, place, 1.6);
    if (view?.arrows && view.change) drawChanges(context, view, place, color);
    else if (view?.arrows) drawArrows(context, view.arrows, place, color);
    if (centers) {
      context.globalAlpha = 0.5;
      context.strokeStyle = BLUE;
      for (const [x, y] of centers) {
        context.beginPath();
        context.arc(...place(x, y), 4, 0, 2 * Math.PI);
        context.stroke();
      }
    }
    if (pen) {
      const [x, y] = place(...pen);
      Object.assign(context, { globalAlpha: 1, strokeStyle: color });
      context.beginPath();
      context.moveTo(x - 8, y);
      context.lineTo(x + 8, y);
      context.moveTo(x, y - 8);
      context.lineTo(x, y + 8);
      context.stroke();
    }
  });
}

function drawArrows(context, arrows, place, color) {
  Object.assign(context, { strokeStyle: color, fillStyle: color, lineWidth: 1.4 });
  for (let k = 0; k + 3 < arrows.length; k += 4) {
    const [x, y] = place(arrows[k], arrows[k + 1]), [u, v] = place(arrows[k] + arrows[k + 2], arrows[k + 1] + arrows[k + 3]);
    const length = Math.hypot(u - x, v - y), head = Math.min(5, 0.5 * length);
    if (!(length > 1.5)) continue;
    const [a, b] = [(u - x) / length, (v - y) / length];
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(u - head * a, v - head * b);
    context.stroke();
    context.beginPath();
    context.moveTo(u, v);
    context.lineTo(u - head * (a - 0.6 * b), v - head * (b + 0.6 * a));
    context.lineTo(u - head * (a + 0.6 * b), v - head * (b - 0.6 * a));
    context.fill();
  }
}

// Triangles at fakes: up where the phase raised their energy, hollow and down where it lowered it.
function drawChanges(context, { arrows, change }, place, color) {
  const most = change.reduce((top, value) => Math.max(top, Math.abs(value)), 1e-9);
  Object.assign(context, { strokeStyle: color, fillStyle: color, lineWidth: 1.2 });
  change.forEach((value, k) => {
    const [x, y] = place(arrows[4 * k], arrows[4 * k + 1]), size = 2 + 4 * Math.sqrt(Math.abs(value) / most), up = value > 0 ? 1 : -1;
    context.beginPath();
    context.moveTo(x, y - up * size);
    context.lineTo(x + size, y + up * 0.7 * size);
    context.lineTo(x - size, y + up * 0.7 * size);
    context.closePath();
    context[value > 0 ? "fill" : "stroke"]();
  });
}

// Half the width of the latent plane, from a list, so that every mean shows; it changes only when it is far off.
const HALVES = [3.6, 5, 7, 10, 14, 20, 30, 50, 100];
function latentHalf(view, before = HALVES[0]) {
  const clouds = [view?.real_posteriors, view?.generated_posteriors].filter(Boolean);
  const most = clouds.reduce((far, cloud) => cloud.reduce((top, value, k) => (k % 4 < 2 ? Math.max(top, Math.abs(value)) : top), far), 0);
  const found = HALVES.find((half) => 1.05 * most <= half) ?? HALVES.at(-1);
  return found > before || 1.8 * found < before ? found : before;
}

// The latent plane: posteriors as ellipses of one standard deviation over circles of the prior at one, two and three.
function drawLatent(canvas, view, half) {
  paint(canvas, (context, width, height, color) => {
    const scale = width / (2 * half), lighter = bright(color), place = (x, y) => [(x + half) * scale, (half - y) * scale];
    for (const radius of [1, 2, 3]) {
      context.globalAlpha = 0.45;
      context.beginPath();
      context.arc(...place(0, 0), radius * scale, 0, 2 * Math.PI);
      context.stroke();
    }
    const clouds = [[view?.real_posteriors, lighter ? LIGHTER[BLUE] : BLUE], [view?.generated_posteriors, lighter ? LIGHTER[ORANGE] : ORANGE]];
    for (const [cloud, tint] of clouds) {
      if (!cloud) continue;
      Object.assign(context, { strokeStyle: tint, fillStyle: tint });
      for (let k = 0; k + 3 < cloud.length; k += 4) {
        const [x, y] = place(cloud[k], cloud[k + 1]);
        context.beginPath();
        context.ellipse(x, y, Math.max(1.2, cloud[k + 2] * scale), Math.max(1.2, cloud[k + 3] * scale), 0, 0, 2 * Math.PI);
        context.globalAlpha = 0.08;
        context.fill();
        context.globalAlpha = 0.6;
        context.stroke();
      }
    }
    Object.assign(context, { globalAlpha: 1, fillStyle: color });
    for (const radius of [1, 2, 3]) context.fillText(`${radius}σ`, place(0, radius)[0] + 3, place(0, radius)[1] - 2);
  });
}

// --- curves

// Plots with their terms: [name, label in the plot, colour or null for ink, dashes], and a level with its name.
const ENERGIES = { title: "energy: KL in nats", terms: [["kl", "real", BLUE, []], ["kl_r", "reconstructed", BLUE, [4, 3]], ["kl_g", "generated", ORANGE, []]] };
const ERROR = { title: "R(x), error of reconstruction", terms: [["rec", "R(x)", BLUE, []]], level: ({ variance }) => [variance, "the mean"] };
const LOSSES = { title: "losses", terms: [["loss_joint", "VAE", null, []], ["loss_encoder", "encoder", null, []], ["loss_decoder", "decoder", null, [4, 3]]] };
const PUSH = { title: "push on fakes: weights", terms: [["exp_elbo_r", "reconstructed", BLUE, [4, 3]], ["exp_elbo_g", "generated", ORANGE, []]] };
const SHARES = { title: "push: c KL and (1 − c) D, log scale", log: true, moment: ({ fifth }) => [fifth, "c = 1"], terms: [["share_kl", "c KL", ORANGE, []], ["share_distance", "(1 − c) D", GREEN, []]] };
const DISTANCES = { title: "D, times its weight", terms: [["distance", "D", GREEN, []]] };
const AS_PLOTS = [ENERGIES, SHARES, DISTANCES, ERROR, PUSH];
const PLOTS = {
  vae: [ENERGIES, ERROR, LOSSES],
  intro: [{ ...ENERGIES, level: ({ margin }) => [margin, "m"] }, ERROR, LOSSES],
  soft_intro: [ENERGIES, ERROR, LOSSES, PUSH],
  as_intro: AS_PLOTS,
  "as_intro-official": AS_PLOTS,
  wgan_gp: [
    { title: "the critic", terms: [["wasserstein", "estimate of W₁", BLUE, []], ["penalty", "penalty", GREEN, []]] },
    { title: "losses", terms: [["loss_critic", "critic", null, []], ["loss_generator", "generator", null, [4, 3]]] },
  ],
};
const LIGHTER = { [BLUE]: "#4aa8e0", [ORANGE]: "#f58231", [GREEN]: "#2fc79b" };

// Curves of the last rows of a history, a list of { i, terms }, with each label at the end of its curve. `known` has the levels.
function drawCurves(canvas, { model, history, marks, known }) {
  paint(canvas, (context, width, height, color) => {
    const plots = PLOTS[model], room = (height - 8) / plots.length;
    plots.forEach((plot, index) => {
      const last = index === plots.length - 1;
      drawPlot(context, plot, history, marks, { top: index * room, width, height: room + 8 * last, color, last, level: plot.level?.(known), moment: plot.moment?.(known) });
    });
  });
}

const LEAST = 1e-3; // of a logarithmic axis
const short = (value) => (Math.abs(value) < 1e-9 ? "0" : Math.abs(value) >= 1e5 ? value.toExponential(1).replace("e+", "e") : Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 1 ? value.toFixed(1) : Math.abs(value) >= 1e-3 ? value.toPrecision(2) : value.toExponential(0)).replaceAll("-", "−");

function drawPlot(context, { title, terms, log }, history, marks, { top, width, height, color, last, level, moment }) {
  const left = 30, right = width - 104, upper = top + 18, lower = top + height - (last ? 16 : 8), lighter = bright(color);
  Object.assign(context, { fillStyle: color, strokeStyle: color, globalAlpha: 1, textAlign: "left", lineWidth: 1 });
  context.setLineDash([]);
  context.fillText(title, left, top + 11);
  context.globalAlpha = 0.5;
  context.beginPath();
  context.moveTo(left, upper);
  context.lineTo(left, lower);
  context.lineTo(right, lower);
  context.stroke();
  const present = terms.filter(([name]) => history.some(({ terms: of }) => Number.isFinite(of[name])));
  if (!present.length) return;
  const values = history.flatMap(({ terms: of }) => present.map(([name]) => of[name])).filter(Number.isFinite);
  const scale = log ? (value) => Math.log10(Math.max(value, LEAST)) : (value) => value;
  const bottom = log ? LEAST : Math.min(0, ...values), most = Math.max(...values), highest = most > bottom ? most : bottom + 1;
  const [at, name] = level ?? [], ceiling = at > highest && at <= 3 * highest ? 1.05 * at : highest; // a level far above is left out
  const first = history[0].i, span = Math.max(1, history.at(-1).i - first);
  const x = (i) => left + ((right - left) * (i - first)) / span, y = (value) => lower - ((lower - upper) * (scale(value) - scale(bottom))) / (scale(ceiling) - scale(bottom));
  context.globalAlpha = 0.9;
  context.textAlign = "right";
  context.fillText(short(ceiling), left - 3, upper + 8);
  context.fillText(log ? "10⁻³" : short(bottom), left - 3, lower);
  if (last) {
    context.textAlign = "left";
    context.fillText(String(first), left, lower + 13);
    context.textAlign = "right";
    context.fillText(String(history.at(-1).i), right, lower + 13);
  }
  context.globalAlpha = 0.4;
  context.setLineDash([2, 3]);
  for (const { i } of marks) {
    if (i < first) continue;
    context.beginPath();
    context.moveTo(x(i), upper);
    context.lineTo(x(i), lower);
    context.stroke();
  }
  const [when, what] = moment ?? [];
  if (when > first && when < first + span) {
    context.globalAlpha = 0.7;
    context.textAlign = "left";
    context.beginPath();
    context.moveTo(x(when), upper);
    context.lineTo(x(when), lower);
    context.stroke();
    context.fillText(what, x(when) + 3, lower - 4);
  }
  if (at <= ceiling) {
    context.globalAlpha = 0.7;
    context.beginPath();
    context.moveTo(left, y(at));
    context.lineTo(right, y(at));
    context.stroke();
  }
  const ends = at <= ceiling ? [{ at: y(at), text: `${name} ${short(at)}`, tint: color }] : [];
  for (const [name, label, tint, dashes] of present) {
    context.strokeStyle = tint ? (lighter ? LIGHTER[tint] : tint) : color;
    context.globalAlpha = 1;
    context.lineWidth = 1.3;
    context.setLineDash(dashes);
    context.beginPath();
    let pen = false, value;
    for (const { i, terms: of } of history) {
      if (!Number.isFinite(of[name])) continue;
      value = of[name];
      if (pen) context.lineTo(x(i), y(value));
      else context.moveTo(x(i), y(value));
      pen = true;
    }
    context.stroke();
    ends.push({ at: y(value), text: `${label} ${short(value)}`, tint: context.strokeStyle });
  }
  context.setLineDash([]);
  ends.sort((a, b) => a.at - b.at).forEach((end, index) => { end.at = Math.max(end.at, index ? ends[index - 1].at + 12 : upper + 4); });
  const over = Math.max(0, (ends.at(-1)?.at ?? 0) - lower);
  for (const { at, text, tint } of ends) {
    Object.assign(context, { fillStyle: tint, globalAlpha: 1, textAlign: "left" });
    context.fillText(text, right + 5, at - over + 3);
  }
}
