// The lab: introspective autoencoders train in a worker of the page (asintrovae.figures.lab.Lab).
const TINTS = { vae: "currentColor", intro: "#CC79A7", soft_intro: BLUE, as_intro: ORANGE, "as_intro-official": "#882255", wgan_gp: GREEN };
const PANELS = { data: "Points", latent: "Codes", curves: "Curves", scores: "Scores" };

const LAB_STYLE = `
  .asintrovae.lab { max-width: none; container-type: inline-size; }
  .lab [hidden] { display: none !important; }
  .lab button, .lab select, .lab input[type=number] { font: inherit; color: inherit; background: transparent; padding: 3px 9px; min-height: 30px;
    border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: 5px; box-sizing: border-box; max-width: 100%; }
  .lab select option { color: black; background: white; }
  .lab button { cursor: pointer; }
  .lab button:disabled { opacity: 0.45; cursor: default; }
  .lab button.main { background: ${BLUE}; border-color: ${BLUE}; color: white; min-width: 5.6em; }
  .lab button[aria-pressed=true] { background: color-mix(in srgb, currentColor 16%, transparent); }
  .lab :is(button, select, input, canvas, summary):focus-visible { outline: 3px solid color-mix(in srgb, ${BLUE} 75%, currentColor); outline-offset: 1px; }
  .lab .bar { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; margin: 4px 0; }
  .lab .bar .field { display: inline-flex; gap: 5px; align-items: center; max-width: 100%; }
  .lab .bar .push { margin-left: auto; }
  .lab .about { min-height: 2.8em; }
  .lab .clock { font-variant-numeric: tabular-nums; min-height: 2.8em; }
  .lab .tabs { display: none; gap: 4px; margin: 6px 0; }
  .lab .tabs button { flex: 1; padding: 3px 2px; }
  .lab .tour { border: 1px solid ${BLUE}; border-radius: 6px; padding: 8px 12px; margin: 6px 0; min-height: 7.2em; display: grid; align-content: space-between; }
  .lab .sides { display: grid; gap: 10px 22px; grid-template-columns: minmax(0, 1fr); }
  .lab .side > .head { display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: center; min-height: 32px; margin-bottom: 4px; padding-left: 8px; border-left: 4px solid var(--tint); }
  .lab .found { font-variant-numeric: tabular-nums; }
  .lab .panels { display: grid; gap: 8px 14px; grid-template-columns: minmax(0, 1fr); }
  .lab .panel { margin: 0; min-width: 0; }
  .lab .panel canvas { display: block; width: 100%; box-sizing: border-box; }
  .lab .panel.data canvas, .lab .panel.latent canvas { aspect-ratio: 1; border: 1px solid color-mix(in srgb, currentColor 35%, transparent); }
  .lab .panel.curves canvas { height: 390px; }
  .lab .panel .caption { font-size: 0.78rem; display: flex; flex-wrap: wrap; gap: 0 10px; min-height: 3.2em; align-content: flex-start; align-items: center; margin: 2px 0; }
  .lab .panel .caption label { white-space: nowrap; display: inline-flex; align-items: center; gap: 3px; }
  .lab .panel .caption input { margin: 0; }
  .lab .panel .caption .break { flex-basis: 100%; }
  .lab .panel.scores table { margin: 0; font-size: 0.8rem; table-layout: fixed; }
  .lab .panel.scores th:first-child { width: 46%; }
  .lab .pen canvas { cursor: crosshair; touch-action: none; }
  .lab .dials { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 4px 18px; margin: 6px 0; }
  .lab .dial { display: grid; grid-template-columns: minmax(0, 1fr) max-content; align-items: baseline; align-content: start; }
  .lab .dial .value { font-variant-numeric: tabular-nums; }
  .lab .dial :is(input[type=range], select, input[type=number]) { grid-column: 1 / -1; width: 100%; }
  .lab .dial .switch { grid-column: 1 / -1; white-space: nowrap; }
  .lab sub { font-size: 0.72em; }
  .lab summary { cursor: pointer; padding: 4px 0; }
  .lab .error { border-left: 4px solid ${ORANGE}; padding-left: 8px; }
  .lab.compact .panels { max-width: 400px; }
  @container (min-width: 620px) {
    .lab:not(.compact) .side:only-child .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
    .lab:not(.compact) .sides:has(.side + .side:not([hidden])) { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  }
  @container (min-width: 900px) {
    .lab:not(.compact) .sides .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
    .lab:not(.compact) .side:only-child { display: grid; gap: 4px 14px; grid-template-columns: minmax(0, 1.12fr) minmax(0, 1fr) minmax(0, 1fr); grid-template-rows: auto auto 1fr; }
    .lab:not(.compact) .side:only-child > .panels { display: contents; }
    .lab:not(.compact) .side:only-child > .head { grid-column: 1 / 4; }
    .lab:not(.compact) .side:only-child > .dials { grid-column: 1 / 3; grid-row: 3; align-content: start; }
    .lab:not(.compact) .side:only-child .panel.scores { grid-column: 3; grid-row: 3; }
    .lab .about, .lab .clock { min-height: 1.4em; }
  }
  @container (max-width: 899.9px) {
    .lab:has(.side + .side) .tabs { display: flex; }
    .lab .side:not(:only-child) .panels > .panel:not(.chosen) { display: none; }
  }
  @container (max-width: 619.9px) {
    .lab:not(.compact) .tabs { display: flex; }
    .lab .panels > .panel:not(.chosen) { display: none; }
  }
`;

const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");
const plain = (value) => (value === 0 ? "0" : Math.abs(value) < 1e-3 ? scientific(Math.log10(value)).replace("1.000 × ", "") : String(value)).replace("-", "−");
const withSubscripts = (text) => text.split(/(?<=[βγ])_(\w+)/).map((part, k) => (k % 2 ? h("sub", {}, part) : part));
const element = (parts) => parts.map((part) => (Array.isArray(part) ? h("sub", {}, part[0]) : part));
const words = (parts) => parts.map((part) => (Array.isArray(part) ? `_${part[0]}` : part)).join("");
const button = (text, name, press) => {
  const made = h("button", { type: "button", "data-name": name }, text);
  made.addEventListener("click", press);
  return made;
};

function chooser(name, label, options, choose) {
  const select = h("select", { name, "aria-label": label }, ...options.map(([value, text]) => h("option", { value }, text)));
  select.addEventListener("change", () => choose(options.find(([value]) => String(value) === select.value)[0]));
  return select;
}

// A slider, menu or number of one parameter: { element, show(config) }. `write(key, value)` is told of a change.
function dial(key, prefix, write) {
  const name = prefix + key;
  if (CHOICES[key]) {
    const text = { c_schedule: "schedule of c", batch_size: "batch size" }[key] ?? key;
    const select = chooser(name, text, CHOICES[key], (value) => write(key, value));
    return { element: h("label", { class: "dial" }, h("span", {}, text), select), show: (config) => { select.value = config[key]; } };
  }
  const { label, about, stops, min = 0, max = stops.length - 1, step = 1 } = DIALS[key];
  const meaning = about ? `${words(label)}, ${about}` : words(label);
  const input = h("input", { type: "range", name, min, max, step, "aria-label": meaning }), value = h("span", { class: "value" });
  input.addEventListener("input", () => write(key, stops ? stops[input.value] : Number(input.value)));
  const parts = [h("label", { class: "dial" }, h("span", {}, ...element(label), about ? ` ${about}` : ""), value, input)];
  let free;
  if (key === "c") {
    free = h("input", { type: "checkbox", name: `${prefix}annealed` });
    free.addEventListener("change", () => write("c", free.checked ? null : 1));
    parts.push(h("label", {}, free, " c is annealed"));
  }
  function show(config) {
    const now = config[key], nearest = (list) => list.reduce((best, stop, i) => (Math.abs(stop - now) < Math.abs(list[best] - now) ? i : best), 0);
    if (free) free.checked = now === null;
    input.disabled = now === null;
    input.value = now === null ? 0 : stops ? nearest(stops) : now;
    value.textContent = now === null ? "annealed" : plain(now);
    input.setAttribute("aria-valuetext", value.textContent);
  }
  return { element: parts.length === 1 ? parts[0] : h("div", {}, ...parts), show };
}

// A whole number, taken when it is finished.
function numeral(key, text, { min, max }, write) {
  const input = h("input", { type: "number", name: key, min, max, step: 1, "aria-label": text });
  input.addEventListener("change", () => {
    const value = Math.round(Number(input.value));
    write(key, Number.isFinite(value) ? Math.max(min, Math.min(max, value)) : DEFAULTS[key]);
  });
  return { element: h("label", { class: "dial" }, h("span", {}, text), input), show: (config) => { input.value = config[key]; } };
}

const SCORES = [
  ["modes found", ({ modes, modes_total: total }) => (total ? `${modes} of ${total}` : "–"), ({ modes_total: total }) => (total ? String(total) : "–")],
  ["between the modes", ({ share_between: share, modes_total: total }) => (total ? `${Math.round(100 * share)} %` : "–"), ({ modes_total: total }) => (total ? "0 %" : "–")],
  ["protocol KL", ({ kl }) => digits(kl), (_, floor) => digits(floor?.kl)],
  ["protocol JSD", ({ jsd }) => digits(jsd), (_, floor) => digits(floor?.jsd)],
  ["KL real, nats", ({ kl_real: kl }) => digits(kl), () => ""],
  ["KL generated, nats", ({ kl_generated: kl }) => digits(kl), () => ""],
  ["I(x; z), nats", ({ information }) => digits(information), ({ modes_total: total }) => (total ? digits(Math.log(total)) : "")],
];
const digits = (value) => (Math.abs(value) >= 1e5 && Number.isFinite(value) ? scientific(Math.log10(Math.abs(value))) : Number.isFinite(value) ? value.toFixed(Math.abs(value) < 10 ? 2 : 1).replace(/^-(?=[0.]+$)/, "").replace("-", "−") : "–");
const partsOf = (terms) => (terms?.share_distance > 0 ? `c KL is ${digits(terms.share_kl / terms.share_distance)} times (1 − c) D` : "");
const modesOf = (scores) => (scores?.modes_total ? `${scores.modes} of ${scores.modes_total} modes` : "");

// One model with its worker, panels and weights. `write` is told of changes, `report` of every state that arrives.
function makeSide({ title, prefix, compact, write, report, layers, paired }) {
  const canvas = (kind) => h("canvas", { role: "img", class: kind, "aria-label": `${title}: ${PANELS[kind]}` });
  const views = { data: canvas("data"), latent: canvas("latent"), curves: canvas("curves") };
  const [scores, fillScores] = table(["score", "now", "ideal sampler"], SCORES.map(([name]) => name));
  const shade = h("span", { class: "shade" });
  const mark = (color, text) => h("span", {}, h("b", { style: `color:${color}` }, "●"), ` ${text}`);
  const captions = {
    data: [mark(BLUE, "real"), mark(ORANGE, "generated"), shade, h("span", { class: "break" }), ...(compact ? [] : layers.boxes())],
    latent: [mark(BLUE, "codes of real points"), mark(ORANGE, "of generated ones"), h("span", {}, "circles: the prior")],
    curves: [],
  };
  const panel = (kind, content) => h("div", { class: `panel ${kind}` }, content, ...(captions[kind]?.length ? [h("div", { class: "caption" }, ...captions[kind])] : []));
  const kinds = compact ? ["data"] : Object.keys(PANELS);
  const panels = kinds.map((kind) => panel(kind, kind === "scores" ? scores : views[kind]));
  const choice = chooser(`${prefix}model`, `model, ${title}`, Object.entries(MODELS), (model) => write("model", model));
  const found = h("span", { class: "found" }), differs = h("b", {}), dials = compact ? [] : EVERY_WEIGHT.map((key) => [key, dial(key, prefix, write)]);
  const root = h("section", { class: "side", "aria-label": title },
    h("div", { class: "head" }, choice, differs, found), h("div", { class: "panels" }, ...panels), h("div", { class: "dials" }, ...dials.map(([, { element: part }]) => part)));
  const side = {
    root, views, panels, worker: null, config: null, state: null, busy: false, goal: Infinity, history: [], marks: [], pen: null, data: null, waiting: 0,
    half: undefined, show, draw, tellDifference, open, apply, post, close, startOver,
  };

  function post(message) {
    side.worker?.postMessage(message);
  }

  // Begin to work with a worker made from this text.
  function open(text) {
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    side.worker = new Worker(url);
    side.worker.addEventListener("error", (event) => report(side, { type: "error", message: event.message || "the worker stopped" }));
    side.worker.addEventListener("message", ({ data }) => {
      if (data.type === "ready") {
        URL.revokeObjectURL(url);
        startOver();
      }
      if (data.type === "data") Object.assign(side, { data, waiting: side.waiting - 1 });
      if (data.type === "state" && (side.waiting || (data.running && paired()))) return; // of the run before, or within a share of two models
      if (data.type === "state") receive(data);
      report(side, data);
    });
  }

  function close() {
    side.worker?.terminate();
    side.worker = null;
  }

  function startOver() {
    if (!side.worker) return;
    Object.assign(side, { history: [], marks: [], busy: false, stopping: false, half: undefined, waiting: side.waiting + 1 });
    post({ type: "start", config: engineConfig(side.config) });
  }

  function receive(state) {
    if (!state.running && (state.i >= side.goal || side.stopping || state.diverged)) side.busy = false;
    if (!state.running) side.stopping = false;
    side.state = { ...state, view: { ...side.state?.view, arrows: null, ...state.view } };
    if (state.terms && Object.keys(state.terms).length) {
      const terms = termsOf(state.terms);
      if ("distance" in terms) Object.assign(terms, { share_kl: state.c * terms.kl_g, share_distance: (1 - state.c) * terms.distance });
      if (side.history.at(-1)?.i === state.i) side.history.pop();
      side.history.push({ i: state.i, terms });
      if (side.history.length > 1000) side.history = side.history.filter((_, k) => k % 2 === 0 || k === side.history.length - 1);
    }
  }

  // Take over a setting: weights in the middle of the run, all else from a new start.
  function apply(config) {
    const before = side.config, changed = Object.keys(config).filter((key) => !before || !same(before[key], config[key]));
    side.config = config;
    show();
    if (!changed.length || !side.worker) return;
    if (changed.some((key) => AFRESH.includes(key))) {
      startOver();
      return;
    }
    const full = engineConfig(config);
    post({ type: "set", config: Object.fromEntries(changed.map((key) => [key, full[key]])) });
    const apart = side.state?.i - (side.marks.at(-1)?.i ?? -Infinity); // one line for a slider that is dragged
    if (apart > config.iterations / 100) side.marks.push({ i: side.state.i });
  }

  function show() {
    const { model } = side.config;
    choice.value = model;
    root.style.setProperty("--tint", TINTS[model]);
    for (const [key, { element: part, show: display }] of dials) {
      part.hidden = !WEIGHTS[model].includes(key);
      display(side.config);
    }
  }

  // Say what sets this model apart from the other one.
  function tellDifference(other) {
    const keys = other?.model === side.config.model ? WEIGHTS[other.model].filter((key) => !same(other[key], side.config[key])) : [];
    differs.replaceChildren(...keys.flatMap((key) => [...element(DIALS[key]?.label ?? [key]), ` ${side.config[key] === null ? "annealed" : plain(side.config[key])} `]));
  }

  function draw(half) {
    const { state, config } = side, view = state?.view, gan = config.model === "wgan_gp";
    const extent = view?.extent?.[1] ?? 2, real = side.strokes ?? side.data?.real;
    shade.textContent = !layers.energy.checked && !compact ? "" : gan ? "shade: low score of the critic" : "shades: 0 to 64 nats";
    const shown = { energy: layers.energy.checked, density: layers.density.checked && !compact, points: layers.points.checked };
    const drawn = config.dataset === "drawn" ? centersOf(config.points) : null;
    drawPlane(views.data, { view, extent, real, layers: shown, centers: drawn, pen: side.pen });
    found.textContent = [modesOf(view?.scores), partsOf(side.history.at(-1)?.terms)].filter(Boolean).join(" · ");
    if (compact) return;
    drawLatent(views.latent, view, half);
    drawCurves(views.curves, { model: config.model, history: side.history, marks: side.marks, known: { ...config, variance: side.data?.variance, fifth: config.c === null && config.c_schedule === "linear" ? config.iterations / 5 : undefined } });
    fillScores(SCORES.map(([, now, ideal]) => (view?.scores ? [now(view.scores), ideal(view.scores, side.data?.floor)] : ["–", ""])));
  }

  return side;
}

// The library's text, from the kernel or from the file beside the built pages.
function libraryOf(model) {
  return new Promise((resolve, reject) => {
    const answer = (message, buffers) => {
      if (message.library) resolve(buffers?.length ? new TextDecoder().decode(buffers[0]) : message.library);
      else if (message.missing) reject(new Error(message.missing));
    };
    model.on("msg:custom", answer);
    setTimeout(() => reject(new Error("the library did not arrive")), 30_000);
    model.send({ want: "library" });
  });
}

const describe = ({ config, state }) => {
  if (!state) return "";
  const { scores = {} } = state.view ?? {};
  const parts = [MODELS[config.model], modesOf(scores)];
  if (Number.isFinite(scores.kl_real)) parts.push(`KL of real points ${digits(scores.kl_real)} nats, of generated ones ${digits(scores.kl_generated)}`);
  return parts.filter(Boolean).join(", ");
};

function render({ model, el }) {
  const compact = model.get("compact"), still = matchMedia("(prefers-reduced-motion: reduce)");
  const linked = model.built && !compact ? settingIn(location.hash) : null;
  const given = settingOf(model.get("preset"));
  let setting = linked ?? { preset: model.get("preset"), config: { ...given.config, ...model.get("config") }, compare: { ...given.compare, ...model.get("compare") } };
  let playing = false, beyond = false, loading = null, lastDraw = 0, cost = 0, drawTimer = null, spokenAt = 0, chosen = "data", seen = false, saving = false, stepDue = false;

  // --- what is set
  function save(next) {
    setting = { ...setting, ...next };
    saving = true;
    for (const [name, value] of Object.entries(setting)) model.set(name, value);
    model.save_changes();
    saving = false;
    applySetting();
  }
  const writeFirst = (key, value) => save({ config: { ...setting.config, [key]: value, ...(key === "model" ? modelDefaults(value) : {}) } });
  const writeSecond = (key, value) => save({ compare: { ...setting.compare, [key]: value, ...(key === "model" ? modelDefaults(value) : {}) } });
  const modelDefaults = (name) => (name === "as_intro-official" ? { c: null, c_schedule: "tanh" } : {});
  const configs = () => [setting.config, ...(setting.compare.model ? [{ ...setting.config, ...setting.compare }] : [])];

  const layers = { energy: h("input", { type: "checkbox", checked: "" }), density: h("input", { type: "checkbox", checked: "" }), points: h("input", { type: "checkbox", checked: "" }) };
  layers.boxes = () => ["energy", "density", "points"].map((name) => {
    const box = h("input", { type: "checkbox", name: `show_${name}`, checked: "" });
    box.addEventListener("change", () => {
      layers[name].checked = box.checked;
      for (const other of root().querySelectorAll(`input[name=show_${name}]`)) other.checked = box.checked;
      drawSoon(true);
    });
    return h("label", {}, box, ` ${name}`);
  });
  const paired = () => sides.length === 2;
  const sides = [makeSide({ title: "first model", prefix: "", compact, write: writeFirst, report, layers, paired })];
  const sidesBox = h("div", { class: "sides" }, sides[0].root);
  const root = () => el.querySelector(".lab") ?? sidesBox;

  // --- the buttons
  const play = button("Play", "play", () => run(!playing));
  play.classList.add("main");
  const step = button("Step", "step", () => takeStep());
  const restart = button("Restart", "restart", () => {
    beyond = stepDue = false;
    stepping.textContent = "";
    for (const side of sides) side.startOver();
  });
  const preset = chooser("preset", "preset", Object.entries(PRESETS).map(([id, { label }]) => [id, label]), (id) => choosePreset(id));
  const dataset = chooser("dataset", "data set", Object.entries(DATASETS), (name) => writeFirst("dataset", name));
  const compare = h("input", { type: "checkbox", name: "compare" });
  compare.addEventListener("change", () => save({ compare: compare.checked ? { model: setting.config.model === "vae" ? "soft_intro" : "vae" } : {} }));
  const share = button("Copy link", "share", async () => {
    const link = location.href.split("#")[0] + addressOf(setting);
    try {
      await navigator.clipboard.writeText(link);
      share.textContent = "Copied";
    } catch {
      share.textContent = "See the address";
    }
    setTimeout(() => { share.textContent = "Copy link"; }, 1500);
  });
  share.hidden = !model.built;
  const erase = button("Clear drawing", "erase", () => writeFirst("points", hexOf([[0, 0]])));
  const about = h("p", { class: "about" }), time = h("span", {}), stepping = h("b", { class: "stepping" }), clock = h("p", { class: "clock" }, time, " ", stepping);
  const trouble = h("p", { class: "error", role: "alert", hidden: "" });
  const spoken = h("div", { class: "spoken", role: "status" });

  const more = [
    dial("learning_rate", "", writeFirst), dial("width", "", writeFirst), dial("batch_size", "", writeFirst),
    numeral("iterations", "T, iterations", { min: 100, max: 100_000 }, writeFirst),
    numeral("warmup", "warm-up as a VAE", { min: 0, max: 10_000 }, writeFirst),
    numeral("seed", "seed", { min: 0, max: 999_999 }, writeFirst),
  ];
  const tabs = Object.entries(PANELS).map(([kind, text]) => button(text, kind, () => choosePanel(kind)));

  function choosePanel(kind) {
    chosen = kind;
    tabs.forEach((tab) => tab.setAttribute("aria-pressed", tab.dataset.name === kind));
    for (const side of sides) for (const panel of side.panels) panel.classList.toggle("chosen", panel.classList.contains(chosen));
    drawSoon(true);
  }

  function choosePreset(id) {
    beyond = false;
    save({ preset: id, ...settingOf(id) });
    for (const side of sides) if (!side.waiting) side.startOver();
  }

  // --- the tour
  let stage = 0;
  const tourTitle = h("b", {}), tourText = h("p", {}), tourBack = button("Back", "tour-back", () => visit(stage - 1)), tourNext = button("Next", "tour-next", () => (stage === TOUR.length - 1 ? endTour() : visit(stage + 1)));
  const tour = h("section", { class: "tour", "aria-label": "Guided tour", hidden: "" },
    h("div", { "aria-live": "polite" }, tourTitle, tourText), h("div", { class: "bar" }, tourBack, tourNext, button("Close", "tour-close", () => endTour())));
  const guide = button("Tour in six steps", "tour", () => visit(0));
  tour.addEventListener("keydown", (event) => { if (event.key === "Escape") endTour(); });

  function visit(next) {
    stage = Math.max(0, Math.min(TOUR.length - 1, next));
    const [title, id, text] = TOUR[stage];
    tourTitle.textContent = `${stage + 1} of ${TOUR.length}: ${title}`;
    tourText.replaceChildren(...withSubscripts(text));
    tourBack.disabled = stage === 0;
    tourNext.textContent = stage === TOUR.length - 1 ? "Done" : "Next";
    tour.hidden = false;
    const stays = stage === 1 && setting.preset === id && sides[0].state?.i > 0; // the second step looks at the model of the first
    if (!stays) {
      run(false);
      choosePreset(id);
    }
    tourNext.focus();
  }

  function endTour() {
    tour.hidden = true;
    guide.focus();
  }

  // --- training
  function load() {
    loading ??= (async () => {
      if (typeof WebAssembly === "undefined") throw new Error("no WebAssembly");
      const text = `${await libraryOf(model)}\n${ENGINE}`;
      for (const side of sides) side.open(text);
      return text;
    })();
    loading.catch((error) => {
      const missing = error.message === "no WebAssembly";
      fail(missing ? "This browser has no WebAssembly, so no model can train here. The recorded runs on this page show the same models." : `The lab cannot start: ${error.message}.`);
      for (const control of [play, step, restart]) control.disabled = true;
    });
    return loading;
  }

  function fail(text) {
    run(false);
    trouble.textContent = text;
    trouble.hidden = false;
  }

  function run(on) {
    stepDue = false;
    if (on === playing) return;
    playing = on;
    play.textContent = on ? "Pause" : "Play";
    if (!on) {
      for (const side of sides.filter(({ busy }) => busy && sides.length === 1)) { // two models finish their share, and stop together
        side.stopping = true;
        side.post({ type: "pause" });
      }
      return;
    }
    stepping.textContent = "";
    trouble.hidden = true;
    beyond = sides.every(({ state, config }) => state && state.i >= config.iterations);
    load().then(advance, () => {});
  }

  // Give every model its next share of iterations once all have done the last one: one clock.
  function advance() {
    if (!playing || sides.some((side) => side.busy || !side.state || side.waiting)) return;
    if (sides.some(({ state }) => state.diverged)) {
      fail("The run diverged: a loss is no longer a finite number. Restart with smaller weights or a smaller learning rate.");
      return;
    }
    const least = Math.min(...sides.map(({ state }) => state.i)), T = setting.config.iterations;
    if (least >= T && !beyond) {
      run(false);
      say(true);
      return;
    }
    const speed = Math.min(...sides.map(({ state }) => state.its_per_second || 20));
    const share = sides.length === 1 ? Infinity : Math.max(1, Math.round(speed / 5)), goal = Math.min(least + share, beyond ? Infinity : T);
    for (const side of sides.filter(({ state }) => state.i < goal)) {
      Object.assign(side, { busy: true, goal });
      side.post(goal === Infinity ? { type: "run" } : { type: "run", until: goal });
    }
  }

  function takeStep() {
    run(false);
    stepDue = true;
    load().then(stepWhenStopped, () => {});
  }

  // Two models finish their share first, and one its iteration.
  function stepWhenStopped() {
    if (!stepDue || playing || sides.some(({ busy }) => busy)) return;
    stepDue = false;
    for (const side of sides) side.post({ type: "step" });
  }

  function report(side, message) {
    if (message.type === "error") fail(`The training stopped: ${message.message}`);
    if (message.type !== "state") return;
    root().lab.count += 1;
    if (message.view?.arrows && side === sides[0]) stepping.textContent = said(message);
    drawSoon(!message.running);
    say(!message.running && !playing);
    stepWhenStopped();
    advance();
  }

  // Pictures follow the states, at most 30 times a second, with a third of the time at most; once a second where less motion is asked for.
  function drawSoon(now = false) {
    if (drawTimer !== null && !now) return;
    const wait = now ? 0 : Math.max(0, lastDraw + Math.max(still.matches ? 1000 : 33, 3 * cost) - performance.now());
    clearTimeout(drawTimer);
    drawTimer = setTimeout(() => requestAnimationFrame(() => {
      drawTimer = null;
      lastDraw = performance.now();
      if (sides.length === 2 && sides[0].state?.i !== sides[1].state?.i && playing) return; // until both are there
      for (const side of sides) side.half = latentHalf(side.state?.view, side.half);
      for (const side of sides) side.draw(Math.max(...sides.map(({ half }) => half)));
      tell();
      cost = performance.now() - lastDraw; // on a slow machine more time is left to the training
    }), wait);
  }

  function tell() {
    const { state, config } = sides[0];
    if (!state) return;
    const c = sides.map((side) => side.state?.c).find((value) => Number.isFinite(value));
    const T = count(config.iterations), parts = [`iteration ${count(state.i)}${state.i > config.iterations ? `, beyond T = ${T}` : ` of ${T}`}`];
    if (state.warming) parts.push("warm-up as a VAE");
    if (c !== undefined) parts.push(`c = ${c.toFixed(2)}`);
    if (!playing && state.i >= config.iterations) parts.push("Play goes on");
    if (state.running && state.its_per_second) parts.push(`${Math.round(state.its_per_second)} iterations a second`);
    time.textContent = `${parts.join(" · ")}.`;
  }

  // What a screen reader hears: at a stop, and every ten seconds of a run.
  function say(now) {
    if (!now && performance.now() - spokenAt < 10_000) return;
    spokenAt = performance.now();
    const { state } = sides[0];
    if (state) spoken.textContent = `${playing ? "Training" : "Paused"} at iteration ${state.i}. ${sides.map(describe).join("; ")}. ${stepping.textContent}`;
    for (const side of sides) side.views.data.setAttribute("aria-label", `Real and generated points over the energy. ${describe(side)}`);
  }

  // --- the setting on the page and in its address
  let addressTimer = null;
  function applySetting() {
    const wanted = configs();
    if (wanted.length === 2 && sides.length === 1) {
      sides.push(makeSide({ title: "second model", prefix: "compare.", compact, write: writeSecond, report, layers, paired }));
      sidesBox.append(sides[1].root);
      suppress(sides[1].root);
      sides[1].config = wanted[1];
      if (loading) loading.then((text) => sides[1]?.open(text), () => {});
      sides[0].config && sides[0].worker && sides[0].startOver();
    } else if (wanted.length === 1 && sides.length === 2) {
      const [gone] = sides.splice(1);
      gone.close();
      gone.root.remove();
    }
    const starts = sides.map(({ config }, k) => config && AFRESH.some((key) => !same(config[key], wanted[k][key])));
    sides.forEach((side, k) => side.apply(wanted[k]));
    sides.forEach((side, k) => side.tellDifference(wanted[1 - k]));
    if (sides.length === 2 && starts[0] !== starts[1]) sides[starts[0] ? 1 : 0].startOver(); // one clock
    preset.value = setting.preset;
    const { label, about: words } = PRESETS[setting.preset], changed = addressOf(setting) !== `#lab=preset:${setting.preset}`;
    about.replaceChildren(...withSubscripts(changed ? `Changed from the preset “${label}”.` : words));
    dataset.value = setting.config.dataset;
    compare.checked = wanted.length === 2;
    erase.hidden = setting.config.dataset !== "drawn";
    for (const side of sides) side.root.classList.toggle("pen", setting.config.dataset === "drawn");
    if (drawing()) set(plane, { tabindex: 0, role: "application", "aria-roledescription": "drawing plane: arrow keys move the pen, space draws" });
    else for (const name of ["tabindex", "aria-roledescription"]) plane.removeAttribute(name);
    if (!drawing()) set(plane, { role: "img" });
    for (const { show } of more) show(setting.config);
    choosePanel(chosen);
    if (!model.built || compact || !ready) return;
    clearTimeout(addressTimer);
    addressTimer = setTimeout(() => history.replaceState(history.state, "", addressOf(setting)), 300);
  }

  const suppress = (part) => {
    for (const control of part.querySelectorAll("input, button, select, summary, canvas")) set(control, { "data-lm-suppress-shortcuts": "true" });
  };

  // --- drawing
  const plane = sides[0].views.data;
  const drawing = () => setting.config.dataset === "drawn";
  const stroke = [];
  const spot = (event) => {
    const box = plane.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * 4 - 2, 2 - ((event.clientY - box.top) / box.height) * 4];
  };
  const put = (point) => {
    const [x, y] = stroke.at(-1) ?? [9, 9];
    if (Math.hypot(point[0] - x, point[1] - y) > 0.06) stroke.push(point);
  };
  const finish = () => {
    sides[0].strokes = null;
    if (!stroke.length) return;
    const old = setting.config.points === hexOf([[0, 0]]) || !setting.config.points ? [] : centersOf(setting.config.points);
    writeFirst("points", hexOf([...old, ...stroke.splice(0)]));
  };
  plane.addEventListener("pointerdown", (event) => {
    if (!drawing()) return;
    plane.setPointerCapture(event.pointerId);
    put(spot(event));
  });
  plane.addEventListener("pointermove", (event) => {
    if (!stroke.length) return;
    put(spot(event));
    sides[0].strokes = Float32Array.from(stroke.flat());
    drawSoon();
  });
  plane.addEventListener("pointerup", finish);
  plane.addEventListener("pointercancel", finish);
  plane.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (!drawing() || !(event.key in moves || event.key === " ")) return;
    event.preventDefault();
    sides[0].pen ??= [0, 0];
    if (event.key === " ") {
      stroke.push(sides[0].pen);
      finish();
    } else sides[0].pen = sides[0].pen.map((value, d) => Math.max(-2, Math.min(2, value + moves[event.key][d])));
    drawSoon(true);
  });
  plane.addEventListener("blur", () => {
    sides[0].pen = null;
    drawSoon(true);
  });

  // --- the page
  let ready = false;
  const field = (text, control) => h("label", { class: "field" }, text, control);
  const bar = compact
    ? [h("div", { class: "bar" }, play, restart, clock)]
    : [
        h("div", { class: "bar" }, play, step, restart, field("Preset", preset), field("Data", dataset), erase, field("Second model", compare), guide, share),
        about, tour,
        h("div", { class: "tabs", role: "group", "aria-label": "Panel" }, ...tabs),
      ];
  mount(el, compact ? "lab compact" : "lab", h("style", {}, LAB_STYLE), ...bar, trouble, ...(compact ? [] : [clock]), sidesBox,
    ...(compact ? [] : [h("details", { class: "more" }, h("summary", {}, "More: learning rate, width, batch, length, seed"), h("div", { class: "dials" }, ...more.map(({ element: part }) => part)))]),
    spoken);
  suppress(root());
  applySetting();
  ready = true;
  root().lab = { sides, count: 0, setting: () => setting, address: () => addressOf(setting) }; // for tests and the curious
  model.on("change:preset", outside);
  model.on("change:config", outside);
  model.on("change:compare", outside);

  // Python has set a trait, or another view has.
  function outside() {
    const [name, config, other] = ["preset", "config", "compare"].map((trait) => model.get(trait));
    if (saving || (config === setting.config && other === setting.compare && name === setting.preset)) return;
    const base = settingOf(name), moved = name !== setting.preset;
    setting = { preset: name, config: { ...base.config, ...(moved && config === setting.config ? {} : config) }, compare: moved && other === setting.compare ? base.compare : other };
    applySetting();
  }

  const follows = () => {
    const found = settingIn(location.hash);
    if (found && addressOf(found) !== addressOf(setting)) save(found);
  };
  // A link on the page to a setting brings the reader to the lab, also where the setting is the same.
  const comes = (event) => {
    const link = event.target.closest?.('a[href*="#lab="]');
    if (link && link.pathname === location.pathname) el.scrollIntoView({ block: "start" });
  };
  if (model.built && !compact) {
    addEventListener("hashchange", follows);
    addEventListener("click", comes);
  }
  const watcher = new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting && !seen) load().catch(() => {});
    seen ||= entry.isIntersecting;
    if (!entry.isIntersecting) run(false);
  });
  watcher.observe(el);
  const sizes = new ResizeObserver(() => drawSoon(true));
  sizes.observe(el);
  drawSoon(true);
  return () => {
    watcher.disconnect();
    sizes.disconnect();
    removeEventListener("hashchange", follows);
    removeEventListener("click", comes);
    clearTimeout(drawTimer);
    for (const side of sides) side.close();
  };
}

// What a step has done, in words.
function said({ phase, view: { change } }) {
  const up = change ? change.filter((value) => value > 0).length : 0, of = change?.length;
  return {
    encoder: `Encoder: energy up (▲) at ${up} of ${of} fakes, down (▽) at the rest.`,
    decoder: "Decoder: it moves each generated point along its arrow.",
    joint: "VAE: its loss pulls each reconstruction along its arrow.",
    critic: `Critic: score down (▲) at ${up} of ${of} fakes, up (▽) at the rest.`,
    generator: "Generator: it moves each generated point along its arrow.",
  }[phase];
}

// Terms by the names of the curves: those of the encoder's phase before those of the decoder's.
function termsOf(terms) {
  const found = {};
  for (const [path, value] of Object.entries(terms)) {
    const [phase, name] = path.split("/");
    if (name === "loss") found[`loss_${phase}`] = value;
    else if (phase !== "decoder" || !(name in found)) found[name] = value;
  }
  return found;
}

export default { render };
