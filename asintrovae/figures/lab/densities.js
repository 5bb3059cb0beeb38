// Random numbers, the two-dimensional data sets of asintrovae.data.toy, and the scores of the toy tables.

// --- streams: a function of seed, purpose and index alone, as asintrovae.randomness

const PURPOSES = ["init", "data", "noise", "evaluation", "samples", "statistics"];

// Mixes 32 bits (murmur3's finaliser).
function mixed(h) {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

// Generator sfc32 with `uniform` in [0, 1), `below` a whole number and `normal`.
function streamFor(seed, purpose, index = 0) {
  let [a, b, c, counter] = [seed, PURPOSES.indexOf(purpose), index].map((word, k) => mixed(word + 0x9e3779b9 * (k + 1)));
  counter = 1;
  const bits = () => {
    const t = (a + b + counter++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + t) | 0;
    return t >>> 0;
  };
  for (let k = 0; k < 12; k++) bits();
  const uniform = () => bits() / 2 ** 32;
  let spare = null;
  const normal = () => { // Box and Muller: two at a time
    if (spare !== null) {
      const kept = spare;
      spare = null;
      return kept;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
  return { uniform, normal, below: (n) => Math.floor(n * uniform()) };
}

// --- data sets: {extent, centers: list of [x, y] or null, point(stream) -> [x, y]}

function mixture(centers, std, extent) {
  const point = (stream) => centers[stream.below(centers.length)].map((value) => value + std * stream.normal());
  return { extent, centers, point };
}

const DENSITIES = {
  "8gaussians": () => {
    const centers = Array.from({ length: 8 }, (_, k) => {
      const angle = (k * Math.PI) / 4;
      return [Math.SQRT2 * Math.cos(angle), Math.SQRT2 * Math.sin(angle)];
    });
    return mixture(centers, 0.02 / Math.SQRT2, [-2, 2]);
  },
  "25gaussians": () => {
    const axis = [-2, -1, 0, 1, 2].map((k) => k / Math.SQRT2);
    return mixture(axis.flatMap((x) => axis.map((y) => [x, y])), 0.05 / Math.sqrt(8), [-2, 2]);
  },
  checkerboard: () => ({
    extent: [-4, 4],
    centers: null,
    point(stream) {
      const column = stream.below(4) - 2;
      const row = 2 * (stream.below(2) - 1) + (column & 1);
      return [2 * (column + stream.uniform()), 2 * (row + stream.uniform())];
    },
  }),
  "2spirals": () => ({
    extent: [-4, 4],
    centers: null,
    point(stream) {
      const angle = 3 * Math.PI * Math.sqrt(stream.uniform()), side = stream.below(2) * 2 - 1;
      const arm = [-Math.cos(angle) * angle, Math.sin(angle) * angle];
      return arm.map((value) => (side * (value + 0.5 * stream.uniform())) / 3 + 0.1 * stream.normal());
    },
  }),
  rings: () => ({
    extent: [-4, 4],
    centers: null,
    point(stream) {
      const radius = 0.75 * (1 + stream.below(4)) + 0.08 * stream.normal();
      const angle = 2 * Math.PI * stream.uniform();
      return [radius * Math.cos(angle), radius * Math.sin(angle)];
    },
  }),
};

// Points that a reader drew, each the centre of a narrow Gaussian.
function drawnDensity(points) {
  const centers = Array.from({ length: points.length / 2 }, (_, k) => [points[2 * k], points[2 * k + 1]]);
  return { ...mixture(centers, 0.03, [-2, 2]), centers: null };
}

// `count` points of a data set as x0, y0, x1, y1, …
function pointsOf(density, count, stream) {
  const points = new Float32Array(2 * count);
  for (let k = 0; k < count; k++) points.set(density.point(stream), 2 * k);
  return points;
}

function normals(count, stream) {
  return Float32Array.from({ length: count }, stream.normal);
}

// --- scores, as asintrovae.evaluation.measures

// Counts of points on extent² in bins × bins cells; rows from below, a column for each step in x.
function histogram(points, [low, high], bins) {
  const counts = new Float64Array(bins * bins);
  const cell = (value) => (value === high ? bins - 1 : Math.floor(((value - low) / (high - low)) * bins));
  for (let k = 0; k < points.length; k += 2) {
    const column = cell(points[k]), row = cell(points[k + 1]);
    if (column >= 0 && column < bins && row >= 0 && row < bins) counts[row * bins + column]++;
  }
  return counts;
}

// Density in each of 100 × 100 cells; NaN where no point lies inside.
function binnedDensity(points, extent, bins = 100) {
  const counts = histogram(points, extent, bins);
  const scale = counts.reduce((a, b) => a + b) * ((extent[1] - extent[0]) / bins) ** 2;
  return counts.map((count) => count / scale);
}

// KL and JSD of the tables' protocol, of binned real points; null where no generated point lies inside.
function protocolScores(real, generated, extent) {
  const binned = binnedDensity(generated, extent);
  if (Number.isNaN(binned[0])) return { kl: null, jsd: null };
  let kl = 0, jsd = 0;
  real.forEach((p, k) => {
    const q = binned[k], middle = (p + q) / 2;
    if (p > 0) kl += p * Math.log(p / (q + 1e-14));
    if (middle > 0) jsd += middle * (Math.log(middle / (p + 1e-14)) + Math.log(middle / (q + 1e-14)));
  });
  return { kl: kl / 100, jsd: jsd / 200 };
}

// Information in nats that codes carry about the points: E[log q(z|x) − log q(z)] with one code a point, where q(z) is the mean
// of these posteriors. `posteriors` is m₁ m₂ s₁ s₂ of each point, `noise` two standard normal numbers. At most the log of their number.
function informationOf(posteriors, noise) {
  const count = posteriors.length / 4;
  let total = 0;
  for (let i = 0; i < count; i++) {
    const [a, b, s, t] = posteriors.subarray(4 * i, 4 * i + 4), z1 = a + s * noise[2 * i], z2 = b + t * noise[2 * i + 1];
    const own = -0.5 * (noise[2 * i] ** 2 + noise[2 * i + 1] ** 2) - Math.log(s * t);
    let sum = 0;
    for (let k = 0; k < 4 * count; k += 4) {
      const u = (z1 - posteriors[k]) / posteriors[k + 2], v = (z2 - posteriors[k + 1]) / posteriors[k + 3];
      sum += Math.exp(-0.5 * (u * u + v * v) - own) / (posteriors[k + 2] * posteriors[k + 3]);
    }
    total -= Math.log(sum / count);
  }
  return total / count;
}

// Modes with at least a quarter of the points they should have, and the share of points that are near no mode.
function modeScores(points, centers, [low, high]) {
  if (!centers) return { modes: null, modes_total: null, share_between: null };
  const radius = (high - low) / 20, count = points.length / 2, near = centers.map(() => 0);
  let between = 0;
  for (let k = 0; k < count; k++) {
    let lonely = true;
    centers.forEach(([x, y], mode) => {
      if ((points[2 * k] - x) ** 2 + (points[2 * k + 1] - y) ** 2 < radius ** 2) {
        near[mode]++;
        lonely = false;
      }
    });
    between += lonely;
  }
  const modes = near.filter((found) => found >= (0.25 * count) / centers.length).length;
  return { modes, modes_total: centers.length, share_between: between / count };
}
