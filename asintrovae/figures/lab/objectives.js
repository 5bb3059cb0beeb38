// The objectives of the book, in the shape of asintrovae.theory.objectives.
// A phase says which halves learn, and has a pure function (model, x, noise, progress, weights) -> {loss, terms}.
// noise: {eps, z, eps_r, eps_g} standard normal (B, 2), mix uniform (B,). progress: i / T in [0, 1).
// weights: the numbers and options of a run by their names in RunConfig. `distance` is false where c is fixed at 1, and
// `reconstructs` where γ_r is above rounding.
const KAPPA = 0.5; // 1 / (numbers in a point)

const reconstructionError = (x, y) => sum(square(subtract(x, y)), 1); // R, (B,)

function means(terms) {
  return Object.fromEntries(Object.entries(terms).map(([name, term]) => [name, mean(term)]));
}

const introspective = (encoderLoss, decoderLoss) => [
  { name: "encoder", learns: ["encoder"], loss: encoderLoss },
  { name: "decoder", learns: ["decoder"], loss: decoderLoss },
];

// --- VAE: E[β_rec R(x) + β_kl KL(x)]

function vaeLoss(model, x, noise, progress, { beta_rec, beta_kl }) {
  const q = model.encode(x);
  const rec = reconstructionError(x, model.decode(draw(q, noise.eps)));
  const loss = mean(add(multiply(beta_rec, rec), multiply(beta_kl, kl(q))));
  return { loss, terms: means({ rec, kl: kl(q) }) };
}

// --- IntroVAE
// encoder: E[β_rec R(x) + β_kl KL(x) + β_neg Σ_s max(0, m - KL(sg x_s))],  s = r, g
// decoder: E[β_rec R(x) + β_neg Σ_s KL(x_s)]

function introEncoderLoss(model, x, noise, progress, { beta_rec, beta_kl, beta_neg, margin }) {
  const q = model.encode(x);
  const x_r = model.decode(draw(q, noise.eps)), x_g = model.decode(noise.z);
  const rec = reconstructionError(x, x_r);
  const kl_r = kl(model.encode(detached(x_r))), kl_g = kl(model.encode(detached(x_g)));
  const hinge = add(maximum(subtract(margin, kl_r), 0), maximum(subtract(margin, kl_g), 0));
  const loss = mean(total(multiply(beta_rec, rec), multiply(beta_kl, kl(q)), multiply(beta_neg, hinge)));
  return { loss, terms: means({ rec, kl: kl(q), kl_r, kl_g }) };
}

function introDecoderLoss(model, x, noise, progress, { beta_rec, beta_neg }) {
  const x_r = model.decode(detached(draw(model.encode(x), noise.eps)));
  const x_g = model.decode(noise.z);
  const rec = reconstructionError(x, x_r);
  const kl_r = kl(model.encode(x_r)), kl_g = kl(model.encode(x_g));
  const loss = mean(add(multiply(beta_rec, rec), multiply(beta_neg, add(kl_r, kl_g))));
  return { loss, terms: means({ rec, kl_r, kl_g }) };
}

// --- S-IntroVAE, and AS-IntroVAE, which differs in `divergences` alone
// encoder: κ E[β_rec R(x) + β_kl KL(x)] + 1/(2α) Σ_s E exp(-ακ (β_rec R(sg x_s) + β_neg KL_s)),  s = r, g
// decoder: κ E[β_rec R(x) + ½ β_kl Σ_s KL_s + ½ γ_r β_rec Σ_s R(sg x_s)]

function softEncoderLoss(divergences) {
  return (model, x, noise, progress, weights) => {
    const { beta_rec, beta_kl, beta_neg, alpha, detach_fakes } = weights;
    const q = model.encode(x);
    const decoded = model.decode(draw(q, noise.eps));
    const x_r = detach_fakes ? detached(decoded) : decoded, x_g = detached(model.decode(noise.z));
    const rec = reconstructionError(x, decoded);
    const q_r = model.encode(detached(decoded)), q_g = model.encode(x_g);
    const rec_r = reconstructionError(x_r, model.decode(draw(q_r, noise.eps_r)));
    const rec_g = reconstructionError(x_g, model.decode(draw(q_g, noise.eps_g)));
    const { kl_r, kl_g, terms } = divergences("encoder", q, q_r, q_g, progress, weights);
    const expElbo = (rec_s, kl_s) =>
      exp(multiply(multiply(-KAPPA, alpha), add(multiply(beta_rec, rec_s), multiply(beta_neg, kl_s))));
    const exp_elbo_r = expElbo(rec_r, kl_r), exp_elbo_g = expElbo(rec_g, kl_g);
    const real = multiply(KAPPA, add(multiply(beta_rec, rec), multiply(beta_kl, kl(q))));
    const loss = mean(add(real, divide(add(exp_elbo_r, exp_elbo_g), multiply(2, alpha))));
    const curves = means({ rec, kl: kl(q), kl_r: kl(q_r), kl_g: kl(q_g), exp_elbo_r, exp_elbo_g });
    return { loss, terms: { ...curves, ...terms } };
  };
}

function softDecoderLoss(divergences) {
  return (model, x, noise, progress, weights) => {
    const { beta_rec, beta_kl, gamma_r, reconstructs } = weights;
    const q = model.encode(x);
    const x_r = model.decode(detached(draw(q, noise.eps))), x_g = model.decode(noise.z);
    const q_r = model.encode(x_r), q_g = model.encode(x_g);
    const rec = reconstructionError(x, x_r);
    const { kl_r, kl_g, terms } = divergences("decoder", q, q_r, q_g, progress, weights);
    let fake = product(0.5, beta_kl, add(kl_r, kl_g));
    if (reconstructs) {
      const rec_r = reconstructionError(detached(x_r), model.decode(detached(draw(q_r, noise.eps_r))));
      const rec_g = reconstructionError(detached(x_g), model.decode(detached(draw(q_g, noise.eps_g))));
      fake = add(fake, product(0.5, gamma_r, beta_rec, add(rec_r, rec_g)));
    }
    const loss = multiply(KAPPA, mean(add(multiply(beta_rec, rec), fake)));
    return { loss, terms: { ...means({ rec, kl_r: kl(q_r), kl_g: kl(q_g) }), ...terms } };
  };
}

const klAlone = (phase, q, q_r, q_g) => ({ kl_r: kl(q_r), kl_g: kl(q_g), terms: {} });

// KL_s = c KL(x_s) + (1 - c) D
function klWithDistance(phase, q, q_r, q_g, progress, weights) {
  const squashes = weights.squash_kl && phase === "decoder";
  const [kl_r, kl_g] = [q_r, q_g].map((q_s) => kl(squashes ? squashed(q_s) : q_s));
  if (!weights.distance) return { kl_r, kl_g, terms: {} };
  const c = annealingWeight(progress, weights), distance = weightedDistance(phase, q, q_r, q_g, weights);
  const mixed = (kl_s) => add(multiply(c, kl_s), multiply(subtract(1, c), distance));
  return { kl_r: mixed(kl_r), kl_g: mixed(kl_g), terms: { distance } };
}

function annealingWeight(progress, { c, c_schedule }) {
  if (c !== null) return c;
  return c_schedule === "tanh" ? tanh(multiply(5, progress)) : minimum(multiply(5, progress), 1);
}

function weightedDistance(phase, q, q_r, q_g, weights) {
  const given = [weights.pairing === "real" ? q : q_r, q_g].map((q_s) => (weights.squash ? squashed(q_s) : q_s));
  const distance = asDistance(...given, weights);
  if (phase === "decoder") return multiply(weights.distance_weight_decoder, distance);
  const [count, axes] = q_g.mean.shape;
  const pairs = count ** 2 * (weights.kernel === "mean" ? axes : 1);
  return product(weights.distance_weight, weights.distance_reduction === "sum" ? pairs : 1, distance);
}

// D = E k(r, r') + E k(g, g') - 2 E k(r, g), of two batches of one size. Added up pair by pair: in float32 a difference
// of three means would lose D. The unbiased estimator leaves out the pairs i = i of the first two.
function asDistance(q_r, q_g, options) {
  const [count] = q_g.mean.shape;
  const pairs = (a, b) => kernelOf(a, b, [count, 1], [1, count], options);
  const within = add(pairs(q_r, q_r), pairs(q_g, q_g));
  const distance = mean(subtract(within, multiply(2, pairs(q_r, q_g))));
  if (options.estimator === "v") return distance;
  const equal = (q) => kernelOf(q, q, [count], [count], options);
  return add(distance, divide(subtract(mean(within), mean(add(equal(q_r), equal(q_g)))), count - 1));
}

// Kernel of posteriors a, arranged by rows, and b, arranged across.
function kernelOf(a, b, rows, across, { kernel, bandwidth }) {
  const axes = a.mean.shape[1], smooth = multiply(0.5, bandwidth);
  const axis = (q, k, shape) => ({
    mean: reshape(columns(q.mean, k, k + 1), shape),
    var: add(reshape(columns(variance(q), k, k + 1), shape), smooth),
  });
  const logs = Array.from({ length: axes }, (_, k) => logAxisKernel(axis(a, k, rows), axis(b, k, across), kernel));
  if (kernel === "mean") return divide(total(...logs.map((l) => exp(add(l, 0.5 * LOG_2PI)))), axes);
  return exp(divide(total(...logs), kernel === "tempered" ? axes : 1));
}

const LOG_2PI = Math.log(2 * Math.PI);

function logNormal(x, v) {
  return multiply(-0.5, total(divide(square(x), v), log(v), LOG_2PI));
}

// log ∫ w(z) N(z; a) N(z; b) dz of one latent axis, w = N(0, 1) for the kernel "prior", else 1
function logAxisKernel(a, b, kernel) {
  const both = add(a.var, b.var);
  const logK = logNormal(subtract(a.mean, b.mean), both);
  if (kernel !== "prior") return logK;
  const center = divide(add(multiply(a.mean, b.var), multiply(b.mean, a.var)), both);
  return add(logK, logNormal(center, add(1, multiply(a.var, divide(b.var, both)))));
}

// --- WGAN-GP
// critic: E f(x_g) - E f(x) + λ_gp E(‖∇f(x̂)‖₂ - 1)²,  x̂ = ε x + (1 - ε) x_g;  generator: -E f(x_g)

function criticLoss(model, x, noise, progress, { gradient_penalty }) {
  const x_g = detached(model.decode(noise.z));
  const wasserstein = subtract(mean(model.critic(x)), mean(model.critic(x_g)));
  const mix = reshape(noise.mix, [-1, 1]);
  const between = add(multiply(mix, x), multiply(subtract(1, mix), x_g));
  const slope = sqrt(maximum(sum(square(model.slope(between)), 1), 1e-30)); // no slope where all is 0, as in torch
  const penalty = mean(square(subtract(slope, 1)));
  return { loss: subtract(multiply(gradient_penalty, penalty), wasserstein), terms: { wasserstein, penalty } };
}

function generatorLoss(model, x, noise) {
  const score_g = mean(model.critic(model.decode(noise.z)));
  return { loss: multiply(-1, score_g), terms: { score_g } };
}

const OBJECTIVES = {
  vae: () => [{ name: "joint", learns: ["encoder", "decoder"], loss: vaeLoss }],
  intro: () => introspective(introEncoderLoss, introDecoderLoss),
  soft_intro: () => introspective(softEncoderLoss(klAlone), softDecoderLoss(klAlone)),
  as_intro: () => introspective(softEncoderLoss(klWithDistance), softDecoderLoss(klWithDistance)),
  wgan_gp: ({ critic_steps }) => [
    { name: "critic", learns: ["critic"], loss: criticLoss, steps: critic_steps },
    { name: "generator", learns: ["generator"], loss: generatorLoss },
  ],
};

// Phases of iteration i: those of a VAE during the warm-up, which WGAN-GP has not.
function phasesAt(i, settings) {
  const warms = i < settings.warmup && settings.model !== "wgan_gp";
  return OBJECTIVES[warms ? "vae" : settings.model](settings);
}
