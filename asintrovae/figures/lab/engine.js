// The worker of the lab: trains one model on points, and tells the page what it looks like.
// It is put together from the text of the library, networks.js, objectives.js, densities.js and this file.
//
// From the page: {type: "start", config}, {type: "set", config}, {type: "run", until}, "pause", "step" (one phase), "view",
// "stop". To the page: "ready", "data" once for each start, "state" at most 30 times a second, and "error".
const DEFAULTS_OF_A_RUN = {
  data: "8gaussians", points: null, model: "soft_intro",
  beta_rec: 0.2, beta_kl: 0.3, beta_neg: 0.9, margin: 10, alpha: 2, gamma_r: 1e-8,
  c: null, c_schedule: "linear", kernel: "mean", bandwidth: 0, estimator: "v", pairing: "reconstructed",
  squash: false, squash_kl: false, distance_weight: 1, distance_weight_decoder: null, distance_reduction: "mean",
  detach_fakes: true, gradient_penalty: 10, critic_steps: 5,
  learning_rate: 1e-3, adam_betas: [0.9, 0.999], width: 64, depth: 2, batch_size: 128,
  iterations: 3000, warmup: null, seed: 0,
};
const CHOICES = {
  data: [...Object.keys(DENSITIES), "drawn"],
  model: Object.keys(OBJECTIVES),
  c_schedule: ["linear", "tanh"],
  kernel: ["mean", "product", "prior", "tempered"],
  estimator: ["v", "u"],
  pairing: ["reconstructed", "real"],
  distance_reduction: ["mean", "sum"],
};
const FIXED = ["data", "points", "model", "width", "depth", "batch_size", "seed"]; // during a run
const WHOLE = ["critic_steps", "width", "depth", "batch_size", "iterations"]; // at least 1
const MAY_BE_NULL = ["c", "distance_weight_decoder", "warmup", "points"];
// What a compiled step takes as numbers, so that a change costs nothing; all else is compiled in.
const NUMBERS = [
  "beta_rec", "beta_kl", "beta_neg", "margin", "alpha", "gamma_r", "c", "bandwidth", "distance_weight",
  "distance_weight_decoder", "gradient_penalty", "progress", "rate", "decay1", "decay2", "correction1", "correction2",
];
const FLOAT32_EPS = 2 ** -23;
const SAMPLES = 500, POSTERIORS = 24, CODES = 256, MANY = 5000, GRID = 48, ARROWS = 64;
const MESSAGE_MS = 34, PICTURE_MS = 330, SPEED_MS = 500, SLICE_MS = 10;

// --- settings

// The settings of a run from what the page sends; throws one sentence that names what does not fit.
function settingsOf(config) {
  const settings = { ...DEFAULTS_OF_A_RUN };
  for (const name of Object.keys(settings)) {
    if (config[name] !== undefined) settings[name] = checked(name, config[name]);
  }
  settings.warmup ??= Math.floor(settings.iterations / 16);
  if (settings.data === "drawn" && !(settings.points?.length >= 2)) throw new Error("points is empty: draw some points");
  return settings;
}

function checked(name, value) {
  const refuse = (needed) => {
    throw new Error(`${name}=${JSON.stringify(value)}: ${needed}`);
  };
  if (value === null && MAY_BE_NULL.includes(name)) return value;
  if (name === "points" || name === "adam_betas") return value;
  if (CHOICES[name] && !CHOICES[name].includes(value)) refuse(`must be one of ${CHOICES[name].join(", ")}`);
  if (CHOICES[name]) return value;
  if (typeof DEFAULTS_OF_A_RUN[name] === "boolean") return Boolean(value);
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) refuse("must be a number of at least 0");
  if (WHOLE.includes(name) && !(Number.isInteger(value) && value > 0)) refuse("must be a whole number of at least 1");
  if (["alpha", "learning_rate"].includes(name) && value === 0) refuse("must be above 0");
  if (name === "c" && value > 1) refuse("must be at most 1");
  return value;
}

// Options that are compiled into a step.
function optionsOf(s) {
  const { kernel, estimator, pairing, squash, squash_kl, c_schedule, distance_reduction, detach_fakes } = s;
  const chosen = { kernel, estimator, pairing, squash, squash_kl, c_schedule, distance_reduction, detach_fakes };
  return { ...chosen, fixed: s.c !== null, distance: s.c !== 1, reconstructs: s.gamma_r > FLOAT32_EPS };
}

// --- compiled functions

// Batch and noise as one array, x, eps, z, eps_r, eps_g (B, 2) and mix (B,), and back.
function drawsOf(density, settings, i, step, noiseStream) {
  const count = settings.batch_size;
  const draws = new Float32Array(11 * count);
  draws.set(pointsOf(density, count, streamFor(settings.seed, "data", i * mostSteps(settings, i) + step)));
  for (let k = 2 * count; k < 10 * count; k++) draws[k] = noiseStream.normal();
  for (let k = 10 * count; k < 11 * count; k++) draws[k] = noiseStream.uniform();
  return draws;
}

const mostSteps = (settings, i) => Math.max(...phasesAt(i, settings).map((phase) => phase.steps ?? 1));

function unpackedDraws(draws) {
  const count = draws.shape[0] / 11;
  const part = (k) => reshape(held(draws).slice([2 * k * count, 2 * (k + 1) * count]), [count, 2]);
  const [x, eps, z, eps_r, eps_g] = [0, 1, 2, 3, 4].map(part);
  return { x, noise: { eps, z, eps_r, eps_g, mix: held(draws).slice([10 * count, 11 * count]) } };
}

function unpackedNumbers(numbers, options) {
  const given = Object.fromEntries(NUMBERS.map((name, k) => [name, held(numbers).slice(k)]));
  return { ...options, ...given, c: options.fixed ? given.c : null };
}

// Loss and terms of a phase as a vector, the loss first, and the gradient in the learning halves. `names` gets the terms'.
function gradientOf(phase, options, names) {
  return (learning, others, draws, numbers) => {
    const weights = unpackedNumbers(numbers, options), { x, noise } = unpackedDraws(draws);
    const lossOf = (halves) => {
      const found = phase.loss(modelOf({ ...others, ...halves }), x, noise, weights.progress, weights);
      names.splice(0, Infinity, ...Object.keys(found.terms));
      return [found.loss, Object.values(found.terms)];
    };
    const [[loss, terms], gradient] = jax.valueAndGrad(lossOf, { hasAux: true })(jax.tree.ref(learning));
    return { terms: jax.numpy.stack(held([loss, ...terms])), gradient };
  };
}

// Step of a phase: (learning halves, their moments, other halves, draws, numbers) -> {weights, moments, terms}.
function compiledStep(phase, options, names) {
  const gradientAt = gradientOf(phase, options, names);
  return jax.jit((learning, moments, others, draws, numbers) => {
    const { terms, gradient } = gradientAt(learning, others, draws, numbers);
    return { ...adamStep(learning, moments, gradient, unpackedNumbers(numbers, options)), terms };
  });
}

// Minus the gradient of a phase's loss at each fake (at each reconstruction where a VAE learns), times the batch size.
function compiledPull(phase, options) {
  return jax.jit((halves, draws, numbers) => {
    const weights = unpackedNumbers(numbers, options), { x, noise } = unpackedDraws(draws);
    const model = modelOf(halves);
    const lossOf = (shift) => {
      const decode = (z) => (z === noise.z || phase.name === "joint" ? add(model.decode(z), shift) : model.decode(z));
      return phase.loss({ ...model, decode }, x, noise, weights.progress, weights).loss;
    };
    return multiply(-x.shape[0], jax.grad(lossOf)(jax.numpy.zeros(x.shape)));
  });
}

const energyOf = (model, x) => (model.critic ? multiply(-1, model.critic(x)) : kl(model.encode(x)));
const LOOKS = {
  decode: (model, z) => model.decode(z),
  reconstruct: (model, x) => model.decode(model.encode(x).mean),
  energy: energyOf,
  posterior: (model, x) => {
    const q = model.encode(x);
    return jax.numpy.concatenate([q.mean, exp(multiply(0.5, q.logvar))], 1);
  },
  downhill: (model, x) => multiply(-1, jax.grad((points) => sum(energyOf(model, points)))(held(x))),
};

// What a compiled phase depends on, but for the shapes.
const keyOf = (settings, phase) => JSON.stringify([settings.model, phase.name, optionsOf(settings)]);

// Functions compiled so far; jax-js itself compiles anew for another shape.
const compiled = new Map();
function once(key, make) {
  if (!compiled.has(key)) compiled.set(key, make());
  return compiled.get(key);
}

// --- a run

// Halves that are among those named, or are not.
function chosen(halves, names, among) {
  return Object.fromEntries(Object.entries(halves).filter(([name]) => names.includes(name) === among));
}

class Run {
  constructor(settings) {
    this.settings = settings;
    this.density = settings.data === "drawn" ? drawnDensity(settings.points) : DENSITIES[settings.data]();
    const sizes = sizesOf(settings.model, settings.width, settings.depth);
    this.halves = onDevice(freshWeights(sizes, streamFor(settings.seed, "init")));
    this.moments = freshMoments(this.halves);
    this.steps = Object.fromEntries(Object.keys(this.halves).map((name) => [name, 0])); // of each half's Adam
    this.i = 0;
    this.place = 0; // of the phase to come within its iteration
    this.terms = {};
    this.diverged = false;
    this.prepareLooks();
  }

  get phases() {
    return phasesAt(this.i, this.settings);
  }

  // What the next step of a phase computes with, in the order of NUMBERS.
  numbers(phase) {
    const s = this.settings, [decay1, decay2] = s.adam_betas, t = this.steps[phase.learns[0]] + 1;
    const given = {
      ...s, c: s.c ?? 0, distance_weight_decoder: s.distance_weight_decoder ?? s.distance_weight,
      progress: Math.min(this.i / s.iterations, 1), rate: s.learning_rate, decay1, decay2,
      correction1: 1 - decay1 ** t, correction2: 1 - decay2 ** t,
    };
    return Float32Array.from(NUMBERS, (name) => given[name]);
  }

  // Batch and noise of a step of the phase to come, functions of seed and iteration alone.
  draws(step) {
    const stream = streamFor(this.settings.seed, "noise", 1000 * this.i + 100 * this.place + step);
    return drawsOf(this.density, this.settings, this.i, step, stream);
  }

  // Take all steps of the phase to come.
  phase() {
    const phase = this.phases[this.place], options = optionsOf(this.settings);
    const { step, names } = once(`step ${keyOf(this.settings, phase)}`, () => {
      const names = [];
      return { step: compiledStep(phase, options, names), names };
    });
    for (let k = 0; k < (phase.steps ?? 1); k++) {
      const learning = chosen(this.halves, phase.learns, true), others = chosen(this.halves, phase.learns, false);
      const [first, second] = ["first", "second"].map((kind) => chosen(this.moments[kind], phase.learns, true));
      const draws = jax.numpy.array(this.draws(k)), numbers = jax.numpy.array(this.numbers(phase));
      const next = step(learning, { first, second }, jax.tree.ref(others), draws, numbers);
      Object.assign(this.halves, next.weights);
      Object.assign(this.moments.first, next.moments.first);
      Object.assign(this.moments.second, next.moments.second);
      for (const name of phase.learns) this.steps[name]++;
      const values = next.terms.dataSync();
      ["loss", ...names].forEach((name, place) => (this.terms[`${phase.name}/${name}`] = values[place]));
      if (!values.every(Number.isFinite)) this.diverged = true;
    }
    this.done = phase.name;
    this.place++;
    if (this.place === this.phases.length) {
      this.place = 0;
      this.i++;
      if (this.i === this.settings.warmup) this.terms = {}; // curves of another objective follow
    }
  }

  // --- what it looks like

  prepareLooks() {
    const { seed } = this.settings, { density } = this, [low, high] = density.extent;
    const evaluation = streamFor(seed, "evaluation");
    this.real = pointsOf(density, MANY, evaluation);
    this.binned = binnedDensity(this.real, density.extent);
    this.floor = protocolScores(this.binned, pointsOf(density, MANY, evaluation), density.extent);
    this.z = normals(2 * MANY, streamFor(seed, "samples"));
    this.eps = normals(2 * CODES, streamFor(seed, "codes"));
    const at = (k) => low + ((k + 0.5) / GRID) * (high - low);
    this.plane = Float32Array.from({ length: 2 * GRID * GRID }, (_, k) => {
      const cell = k >> 1;
      return k % 2 ? at(GRID - 1 - Math.floor(cell / GRID)) : at(cell % GRID);
    });
  }

  // Values of one of LOOKS at points (2 N numbers).
  look(name, points) {
    const seen = (halves, x) => held(LOOKS[name](modelOf(halves), x));
    const f = once(`look ${name} ${this.hasEncoder}`, () => jax.jit(seen));
    const x = jax.numpy.array(points).reshape([points.length / 2, 2]);
    return f(jax.tree.ref(this.halves), x).dataSync();
  }

  get hasEncoder() {
    return Boolean(this.halves.encoder);
  }

  // Density, energy and scores, which cost more than the rest.
  picture() {
    const { extent, centers } = this.density, many = this.look("decode", this.z);
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const counts = histogram(many, extent, GRID);
    const density = Uint8Array.from(counts, (_, k) => {
      const row = GRID - 1 - Math.floor(k / GRID);
      return Math.min(counts[row * GRID + (k % GRID)], 255);
    });
    const energy = this.look("energy", this.plane);
    const klOf = (points) => (this.hasEncoder ? mean(this.look("energy", points.slice(0, 2 * SAMPLES))) : null);
    const scores = {
      ...modeScores(many, centers, extent), ...protocolScores(this.binned, many, extent),
      kl_real: klOf(this.real), kl_generated: klOf(many),
      information: this.hasEncoder ? informationOf(this.look("posterior", this.real.slice(0, 2 * CODES)), this.eps) : null,
    };
    return { density, energy, scores };
  }

  view(picture, arrows) {
    const samples = this.look("decode", this.z.slice(0, 2 * SAMPLES));
    const posteriors = (points) => (this.hasEncoder ? this.look("posterior", points.slice(0, 2 * POSTERIORS)) : null);
    return {
      samples, real_posteriors: posteriors(this.real), generated_posteriors: posteriors(samples),
      extent: this.density.extent, grid: GRID, ...picture, arrows: null, change: null, ...arrows,
    };
  }

  // Take the phase to come, and return who pulls which fake where.
  steppedWithArrows() {
    const phase = this.phases[this.place];
    return ["encoder", "critic"].includes(phase.name) ? this.judged() : this.pulled(phase);
  }

  // After a phase of the encoder or the critic: where the new energy falls at fakes, and how it changed there.
  judged() {
    const fakes = this.look("decode", this.z.slice(0, 2 * ARROWS)), before = this.look("energy", fakes);
    this.phase();
    const change = this.look("energy", fakes).map((after, k) => after - before[k]);
    return { arrows: this.arrowsOf(fakes, this.look("downhill", fakes)), change };
  }

  // Before a phase of the decoder or the generator: where its loss pulls the fakes of its batch.
  pulled(phase) {
    const size = this.settings.batch_size, draws = this.draws(0);
    const pull = once(`pull ${keyOf(this.settings, phase)}`, () => compiledPull(phase, optionsOf(this.settings)));
    const given = [jax.numpy.array(draws), jax.numpy.array(this.numbers(phase))];
    const slopes = pull(jax.tree.ref(this.halves), ...given).dataSync();
    const [x, z] = [draws.slice(0, 2 * size), draws.slice(4 * size, 6 * size)];
    const fakes = phase.name === "joint" ? this.look("reconstruct", x) : this.look("decode", z);
    this.phase();
    return { arrows: this.arrowsOf(fakes, slopes), change: null };
  }

  // x, y, dx, dy of each of the first points; the longest is 0.12 of the plane's width.
  arrowsOf(points, slopes) {
    const [low, high] = this.density.extent, count = Math.min(ARROWS, points.length / 2);
    const longest = Math.max(...Array.from({ length: count }, (_, k) => Math.hypot(slopes[2 * k], slopes[2 * k + 1])));
    const scale = longest > 0 ? (0.12 * (high - low)) / longest : 0;
    return Float32Array.from({ length: 4 * count }, (_, k) => {
      const place = 2 * (k >> 2) + (k & 1);
      return (k & 2) ? scale * slopes[place] : points[place];
    });
  }

  free() {
    jax.tree.dispose([this.halves, this.moments]);
  }
}

// Sum of the variances of both axes: the error R of a decoder that answers the mean.
function varianceOf(points) {
  const count = points.length / 2, mean = [0, 0];
  points.forEach((value, k) => (mean[k % 2] += value / count));
  return points.reduce((total, value, k) => total + (value - mean[k % 2]) ** 2 / count, 0);
}

// --- messages

let run = null, running = false, until = Infinity, picture = null;
let messageDue = 0, pictureDue = 0; // on a slow machine later, so that most of the time is left to the training
let speed = 0, spent = 0, taken = 0; // iterations a second, milliseconds and iterations since it was measured
const channel = new MessageChannel(); // gives way to messages, without the pause of setTimeout
channel.port1.onmessage = () => guarded(train);
const now = () => performance.now();

function tell(arrows, fresh = !running || now() > pictureDue) {
  const begin = now();
  if (fresh || !picture) {
    picture = run.diverged && picture ? picture : run.picture();
    pictureDue = now() + Math.max(PICTURE_MS, 10 * (now() - begin));
  }
  const { settings, i } = run, annealed = 5 * Math.min(i / settings.iterations, 1);
  const c = settings.c ?? (settings.c_schedule === "tanh" ? Math.tanh(annealed) : Math.min(annealed, 1));
  postMessage({
    type: "state", i, iterations: settings.iterations, phase: run.done ?? null, next: run.phases[run.place].name,
    warming: run.phases[0].name === "joint" && settings.model !== "vae", running, its_per_second: speed,
    diverged: run.diverged, terms: { ...run.terms }, c: settings.model === "as_intro" ? c : null,
    view: run.view(picture, arrows),
  });
  messageDue = begin + Math.max(MESSAGE_MS, 4 * (now() - begin));
}

// A slice of training, then way for messages.
function train() {
  if (!running) return;
  const begin = now(), first = run.i;
  while (run.i < until && !run.diverged && now() - begin < SLICE_MS) run.phase();
  running = run.i < until && !run.diverged;
  if (!running || now() > messageDue) tell();
  [spent, taken] = [spent + now() - begin, taken + run.i - first];
  if (spent > SPEED_MS) [speed, spent, taken] = [(1000 * taken) / spent, 0, 0];
  if (running) channel.port2.postMessage(null);
}

const ON = {
  start({ config }) {
    const settings = settingsOf(config);
    run?.free();
    [run, running, picture, speed, spent, taken] = [new Run(settings), false, null, 0, 0, 0];
    const { centers, extent } = run.density;
    postMessage({
      type: "data", real: run.real.slice(0, 2 * SAMPLES), centers: centers && Float32Array.from(centers.flat()), extent,
      floor: run.floor, variance: varianceOf(run.real), phases: OBJECTIVES[settings.model](settings).map((phase) => phase.name),
    });
    tell();
  },
  set({ config }) {
    const differs = (name) => config[name] !== undefined && String(config[name]) !== String(run.settings[name]);
    const fixed = FIXED.find(differs);
    if (fixed) throw new Error(`${fixed} cannot change during a run: start a new one`);
    const { warmup } = run.settings;
    run.settings = settingsOf({ ...run.settings, ...config, warmup: config.warmup ?? warmup });
    run.place = Math.min(run.place, run.phases.length - 1);
  },
  run(message) {
    if (run.diverged) return tell();
    until = message.until ?? (run.i < run.settings.iterations ? run.settings.iterations : Infinity);
    if (!running) {
      running = true;
      channel.port2.postMessage(null);
    }
  },
  pause() {
    running = false;
    while (run.place) run.phase(); // to the end of the iteration
    if (picture) tell(null, false); // at once, the newest picture behind it
    tell();
  },
  step() {
    running = false;
    tell(run.diverged ? null : run.steppedWithArrows());
  },
  view: () => tell(),
  stop: () => close(),
};

function guarded(act) {
  try {
    act();
  } catch (error) {
    running = false;
    postMessage({ type: "error", message: error.message });
  }
}

const ready = (async () => {
  if (typeof WebAssembly === "undefined") throw new Error("this browser has no WebAssembly, which the training needs");
  self.SharedArrayBuffer = undefined; // one thread: jax-js would share work that is too small for it
  labLibrary();
  await jax.init("wasm");
  jax.defaultDevice("wasm");
  postMessage({ type: "ready", backend: "wasm", simd: true });
  return true;
})().catch((error) => postMessage({ type: "error", message: error.message }));

self.onmessage = async ({ data }) => {
  if (!(await ready)) return;
  guarded(() => {
    if (data.type !== "start" && data.type !== "stop" && !run) throw new Error("nothing has been started");
    ON[data.type](data);
  });
};
