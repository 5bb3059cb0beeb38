// What the lab can be set to, and how a setting is written into the address of the page.
// PRESETS, DEFAULTS and ENGINE are put before this text by asintrovae.figures.lab.
const MODELS = {
  vae: "VAE",
  intro: "IntroVAE",
  soft_intro: "S-IntroVAE",
  as_intro: "AS-IntroVAE (paper)",
  "as_intro-official": "AS-IntroVAE (published code)",
  wgan_gp: "WGAN-GP",
};
const DATASETS = {
  "8gaussians": "8 Gaussians",
  "25gaussians": "25 Gaussians",
  checkerboard: "checkerboard",
  "2spirals": "two spirals",
  rings: "rings",
  drawn: "your own drawing",
};
const SOFT = ["beta_rec", "beta_kl", "beta_neg", "alpha", "gamma_r"];
const DISTANCE = ["distance_weight", "kernel", "bandwidth", "pairing", "c", "c_schedule"];
const WEIGHTS = { // of each model, in the order of the page
  vae: ["beta_rec", "beta_kl"],
  intro: ["beta_rec", "beta_kl", "beta_neg", "margin"],
  soft_intro: SOFT,
  as_intro: [...SOFT, ...DISTANCE],
  "as_intro-official": [...SOFT, "kernel", "bandwidth", "c", "c_schedule"],
  wgan_gp: ["gradient_penalty", "critic_steps"],
};
const EVERY_WEIGHT = [...new Set(Object.values(WEIGHTS).flat())];
const OFFICIAL = { // book/training/params/model/as_intro-official.yaml
  model: "as_intro",
  squash: true,
  squash_kl: true,
  distance_reduction: "sum",
  distance_weight_decoder: 0.5,
  detach_fakes: false,
};
const AFRESH = ["model", "dataset", "points", "width", "depth", "batch_size", "seed"]; // a change of these starts a new run

// What the engine is given: RunConfig's parameters, and those that only a published code has.
function engineConfig(config) {
  const official = { "as_intro-official": OFFICIAL, wgan_gp: { adam_betas: [0, 0.9] } }[config.model] ?? {};
  const points = config.dataset === "drawn" ? scattered(centersOf(config.points)) : undefined;
  return { ...config, data: config.dataset, points, ...official };
}

// --- drawn points: a text of two hexadecimal digits for each coordinate in [-2, 2]

const HALF = 2, MOST = 160;
const hex = (value) => Math.round(((Math.max(-HALF, Math.min(HALF, value)) + HALF) / (2 * HALF)) * 255).toString(16).padStart(2, "0");
const hexOf = (centers) => centers.slice(-MOST).flat().map(hex).join("");
const EIGHT = hexOf(Array.from({ length: 40 }, (_, k) => {
  const t = (2 * Math.PI * k) / 40;
  return [1.5 * Math.sin(t), 1.1 * Math.sin(2 * t)];
}));

function centersOf(text) {
  const bytes = (text || EIGHT).match(/[0-9a-f]{2}/g) ?? [];
  const values = bytes.map((byte) => (parseInt(byte, 16) / 255) * 2 * HALF - HALF);
  return Array.from({ length: Math.floor(values.length / 2) }, (_, i) => values.slice(2 * i, 2 * i + 2));
}

// A generator of uniform numbers that a seed fixes (mulberry32).
function uniform(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// Points of a drawing, [x, y, x, y, …]: its centers in turn with Gaussian noise.
function scattered(centers, count = 2048, std = 0.04) {
  const next = uniform(1), points = new Float32Array(2 * count);
  for (let i = 0; i < count; i += 1) {
    const radius = std * Math.sqrt(-2 * Math.log(1 - next())), angle = 2 * Math.PI * next();
    const [x, y] = centers[i % centers.length];
    points.set([x + radius * Math.cos(angle), y + radius * Math.sin(angle)], 2 * i);
  }
  return points;
}

// --- settings and addresses

function settingOf(preset) {
  const { config = {}, compare = {} } = PRESETS[preset] ?? {};
  return { config: { ...DEFAULTS, ...config }, compare: { ...compare } };
}

const same = (a, b) => a === b || String(a) === String(b);

// "#lab=preset:collapse,beta_kl:2.5,compare.model:intro": a preset and what differs from it.
function addressOf({ preset, config, compare }) {
  const base = settingOf(preset), parts = [`preset:${preset}`];
  for (const [key, value] of Object.entries(config)) if (!same(value, base.config[key])) parts.push(`${key}:${value}`);
  for (const [key, value] of Object.entries(compare)) if (!same(value, base.compare[key])) parts.push(`compare.${key}:${value}`);
  if (base.compare.model && !compare.model) parts.push("compare:none");
  return `#lab=${parts.join(",")}`;
}

// The setting of such an address, or null; what it does not know it leaves out.
export function settingIn(hash) {
  if (!hash.startsWith("#lab=")) return null;
  const given = decodeURIComponent(hash.slice(5)).split(",").map((part) => part.split(":"));
  const named = given.find(([key, value]) => key === "preset" && PRESETS[value]);
  const preset = named ? named[1] : "c1", { config, compare } = settingOf(preset);
  const setting = { preset, config, compare };
  for (const [name, text] of given) {
    const other = name.startsWith("compare."), key = other ? name.slice(8) : name;
    if (name === "compare") setting.compare = {};
    else if (key in DEFAULTS && text !== undefined && permitted(key, parsed(text))) {
      setting[other ? "compare" : "config"][key] = parsed(text);
    }
  }
  return setting;

  function parsed(text) {
    if (text === "null") return null;
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  }
}

// True where a value is one that the page can show.
function permitted(key, value) {
  if (key === "points") return /^([0-9a-f]{4})*$/.test(String(value));
  if (key === "model") return value in MODELS;
  if (key === "dataset") return value in DATASETS;
  if (key in CHOICES) return key in CHOICES && CHOICES[key].some(([choice]) => choice === value);
  if (value === null) return key === "c";
  const { stops, min = stops[0], max = stops.at(-1) } = DIALS[key] ?? { min: 0, max: 1e6 };
  return typeof value === "number" && value >= min && value <= max;
}

const CHOICES = {
  kernel: [["mean", "mean of axes"], ["product", "product"], ["prior", "weight p(z)"], ["tempered", "tempered"]],
  pairing: [["reconstructed", "reconstructed"], ["real", "real"]],
  c_schedule: [["linear", "linear, first fifth"], ["tanh", "tanh"]],
  width: [[32, "2 × 32"], [64, "2 × 64"], [128, "2 × 128"]],
  batch_size: [[32, "32"], [64, "64"], [128, "128"], [256, "256"]],
};
const DIALS = { // label in parts (a list is a subscript), meaning, range
  beta_rec: { label: ["β", ["rec"]], about: "reconstruction", min: 0, max: 2, step: 0.05 },
  beta_kl: { label: ["β", ["kl"]], about: "KL of real points", min: 0, max: 4, step: 0.05 },
  beta_neg: { label: ["β", ["neg"]], about: "KL of fakes", min: 0, max: 4, step: 0.05 },
  margin: { label: ["m"], about: "margin in nats", stops: [0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 32, 64] },
  alpha: { label: ["α"], about: "sharpness", stops: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32] },
  gamma_r: { label: ["γ", ["r"]], about: "reconstruction of fakes", stops: [0, 1e-8, 1e-3, 0.01, 0.1, 0.3, 1] },
  distance_weight: { label: ["weight of D"], about: "", stops: [0, 0.1, 0.3, 1, 3, 10, 30, 40, 100] },
  bandwidth: { label: ["h"], about: "bandwidth of k", stops: [0, 0.01, 0.03, 0.1, 0.3, 1, 3] },
  c: { label: ["c"], about: "share of KL", min: 0, max: 1, step: 0.05 },
  gradient_penalty: { label: ["λ", ["gp"]], about: "gradient penalty", stops: [0, 0.1, 0.3, 1, 3, 10, 30] },
  critic_steps: { label: ["critic steps"], about: "", min: 1, max: 10, step: 1 },
  learning_rate: { label: ["learning rate"], about: "", stops: [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1] },
};

// --- the guided tour: six settings with a sentence or two each

const TOUR = [
  ["A VAE blurs", "vae", "This VAE learns eight clusters (blue). Press Play: its samples (orange) fill the disc between the clusters. A VAE has no way to notice that these samples look wrong."],
  ["Look at the energy", "vae", "The shades show KL(x), the energy that the encoder gives to every point of the plane; light is low. The VAE gives a low energy to the empty middle, too."],
  ["IntroVAE objects", "introvae", "IntroVAE trains the encoder as a critic. Press Play, and Pause at once. Press Step twice: first the encoder changes the energy at the generated points (triangles), then the decoder moves these points to lower energy (arrows). Press Play again and see the middle turn dark."],
  ["The margin", "margin", "The encoder stops pushing at the margin m. Here m is 1 nat, less than eight clusters need. Play, then move m to 3 in the middle of the run, then to 32: which modes are lost?"],
  ["S-IntroVAE has no margin", "c1", "S-IntroVAE replaces the margin by a push that fades as a sample is recognised. Play to 1,000 iterations. Then move β_kl to 1.2 and watch I(x; z) fall and R(x) rise: the codes no longer tell the points apart, although samples still lie on some modes."],
  ["What D does in the first fifth", "with-and-without", "Both are AS-IntroVAE, which pushes with c KL + (1 − c) D. D is a distance between the codes of generated points and of reconstructions; c rises from 0 to 1 in the first fifth of the run. On the right D has the weight 0. Play, and compare the two parts of the push on the left. Then look for a difference at the end. Two runs can differ by three modes by chance, so try the seeds 1 and 2, too."],
];
