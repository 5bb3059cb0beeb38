// Operations, posteriors, networks and Adam of the lab, as in asintrovae.theory.
// jax-js counts the references to a value, and a function uses its arguments up. The operations here hold what they
// are given, so that a value can be named as often as a formula needs it. All of them run while `jax.jit` traces,
// where a value is a symbol without memory.
const held = (x) => (Array.isArray(x) ? x.map(held) : (x?.ref ?? x));
const operation = (name) => (...given) => jax.numpy[name](...given.map(held));
const [add, subtract, multiply, divide] = ["add", "subtract", "multiply", "trueDivide"].map(operation);
const [exp, expm1, log, tanh, sqrt, square] = ["exp", "expm1", "log", "tanh", "sqrt", "square"].map(operation);
const [sum, mean, minimum, maximum, dot, reshape] = ["sum", "mean", "minimum", "maximum", "dot", "reshape"].map(operation);
const [transpose, greater] = ["transpose", "greater"].map(operation);
const positive = (x) => jax.numpy.where(greater(x, 0), 1, 0); // 1 where x > 0
const detached = (x) => jax.lax.stopGradient(held(x)); // sg
const columns = (x, from, to) => held(x).slice([], [from, to]);
const total = (...terms) => terms.reduce(add);
const product = (...factors) => factors.reduce(multiply);

// --- posteriors q = {mean, logvar}, each (B, n)

const variance = (q) => exp(q.logvar);
const draw = (q, noise) => add(q.mean, multiply(exp(multiply(0.5, q.logvar)), noise));
const kl = (q) => multiply(0.5, sum(subtract(add(square(q.mean), expm1(q.logvar)), q.logvar), 1)); // (B,)
const squashed = (q) => ({ mean: tanh(q.mean), logvar: tanh(q.logvar) });

// Clamp whose gradient is that of x, so that what is outside can come back. Python's also stops a gradient that leads
// further out.
function bounded(x, low, high) {
  return add(x, detached(subtract(minimum(maximum(x, low), high), x)));
}

// --- multilayer perceptrons: lists of layers {weight (in, out), bias (out,)}, ReLU between them

const linear = (layer, x) => add(dot(x, layer.weight), layer.bias);
const mlp = (layers, x) => layers.reduce((h, layer, k) => linear(layer, k ? maximum(h, 0) : h), x);

// Gradient of a network's single output at each x, (B, inputs), made by hand, because jax-js cannot differentiate
// within a gradient. Where ReLU is linear its slope is 0 or 1, which no weight changes.
function inputGradient(layers, x) {
  const slopes = [];
  const [last, ...before] = layers.slice().reverse();
  before.reverse().reduce((h, layer) => {
    const values = linear(layer, h);
    slopes.unshift(detached(positive(values)));
    return maximum(values, 0);
  }, x);
  const top = multiply(slopes[0], reshape(last.weight, [1, -1]));
  const back = (gradient, layer, k) => {
    const below = dot(gradient, transpose(layer.weight));
    return slopes[k + 1] ? multiply(below, slopes[k + 1]) : below;
  };
  return before.reverse().reduce(back, top);
}

// The halves as functions: an autoencoder, or for WGAN-GP a critic and a generator.
function modelOf(halves) {
  if (halves.critic) {
    const critic = (x) => reshape(mlp(halves.critic, x), [-1]);
    return { critic, slope: (x) => inputGradient(halves.critic, x), decode: (z) => mlp(halves.generator, z) };
  }
  const encode = (x) => {
    const features = mlp(halves.encoder, x);
    return { mean: columns(features, 0, 2), logvar: bounded(columns(features, 2, 4), -20, 20) };
  };
  return { encode, decode: (z) => mlp(halves.decoder, z) };
}

// Sizes of the layers of each half, for points of the plane and a latent plane.
function sizesOf(model, width, depth) {
  const hidden = Array(depth).fill(width);
  if (model === "wgan_gp") return { critic: [2, ...hidden, 1], generator: [2, ...hidden, 2] };
  return { encoder: [2, ...hidden, 4], decoder: [2, ...hidden, 2] };
}

// Fresh weights as numbers, uniform within ±1/√(inputs) as those of torch.nn.Linear.
function freshWeights(sizes, stream) {
  const values = (count, bound) => Float32Array.from({ length: count }, () => bound * (2 * stream.uniform() - 1));
  const layer = (inputs, outputs) => {
    const bound = 1 / Math.sqrt(inputs);
    return { inputs, outputs, weight: values(inputs * outputs, bound), bias: values(outputs, bound) };
  };
  const half = (list) => list.slice(1).map((outputs, k) => layer(list[k], outputs));
  return Object.fromEntries(Object.entries(sizes).map(([name, list]) => [name, half(list)]));
}

function onDevice(weights) {
  const layer = ({ inputs, outputs, weight, bias }) => ({
    weight: jax.numpy.array(weight).reshape([inputs, outputs]),
    bias: jax.numpy.array(bias),
  });
  return Object.fromEntries(Object.entries(weights).map(([name, layers]) => [name, layers.map(layer)]));
}

// --- Adam (Kingma & Ba 2015), as torch.optim.Adam

const zerosLike = (tree) => jax.tree.map((x) => jax.numpy.zeros(x.shape), tree);
const freshMoments = (weights) => ({ first: zerosLike(weights), second: zerosLike(weights) });

// One step. rate: learning rate; decay1, decay2: Adam's betas; correction1, correction2: 1 - beta^t of step t.
function adamStep(weights, moments, gradient, { rate, decay1, decay2, correction1, correction2 }) {
  const [values, structure] = jax.tree.flatten(weights);
  const [first, second, slopes] = [moments.first, moments.second, gradient].map((tree) => jax.tree.flatten(tree)[0]);
  const next = { weights: [], first: [], second: [] };
  values.forEach((value, k) => {
    const m = add(multiply(decay1, first[k]), multiply(subtract(1, decay1), slopes[k]));
    const v = add(multiply(decay2, second[k]), multiply(subtract(1, decay2), square(slopes[k])));
    const scale = add(sqrt(divide(v, correction2)), 1e-8);
    next.weights.push(subtract(value, multiply(divide(rate, correction1), divide(m, scale))));
    next.first.push(m);
    next.second.push(v);
  });
  const tree = (list) => jax.tree.unflatten(structure, list);
  return { weights: tree(next.weights), moments: { first: tree(next.first), second: tree(next.second) } };
}
