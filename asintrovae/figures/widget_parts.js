// What the widgets of the book are made of; asintrovae.figures.widgets puts this text before each one's own, as anywidget takes one module.
const BLUE = "#0072B2", ORANGE = "#D55E00", GREEN = "#009E73"; // as in asintrovae.figures.style

const STYLE = `
  .asintrovae { color: var(--pst-color-text-base, var(--jp-content-font-color1, inherit)); font-size: 0.85rem; line-height: 1.4;
    max-width: 720px; margin: 0.5em 0; text-align: left; }
  .asintrovae .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 4px 20px;
    align-items: start; }
  .asintrovae .controls { display: grid; grid-template-columns: max-content minmax(0, 1fr) max-content; gap: 2px 8px;
    align-items: center; }
  .asintrovae .controls > label { display: contents; }
  .asintrovae .controls > label.check { display: block; grid-column: 1 / -1; }
  .asintrovae .controls .value { min-width: 3.2em; text-align: right; font-variant-numeric: tabular-nums; }
  .asintrovae input[type=range] { width: 100%; min-height: 24px; margin: 0; accent-color: ${BLUE}; }
  .asintrovae svg { display: block; width: 100%; overflow: hidden; }
  .asintrovae svg text { fill: currentColor; font-family: inherit; }
  .asintrovae .grab { cursor: grab; touch-action: none; }
  .asintrovae table { width: 100%; margin: 6px 0; border-collapse: collapse; font-variant-numeric: tabular-nums; }
  .asintrovae th, .asintrovae td { padding: 1px 4px; text-align: right; font-weight: normal; background: none; color: inherit;
    border: 0; border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
  .asintrovae thead th { font-weight: bold; vertical-align: bottom; }
  .asintrovae th:first-child { text-align: left; white-space: nowrap; }
  .asintrovae .spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  .asintrovae p { margin: 2px 0; }
`;

const SVG_TAGS = ["svg", "g", "path", "ellipse", "circle", "line", "rect", "text"];

// An element with attributes and children; attributes given later go through `set`.
function h(tag, attributes = {}, ...children) {
  const svg = SVG_TAGS.includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  element.append(...children);
  return set(element, attributes);
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A digit string above the line, for powers of ten in plain text.
const raised = (exponent) => [...String(exponent)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("");

// Four digits of 10^log10, as a power of ten where it is far from 1.
function scientific(log10) {
  if (log10 === -Infinity) return "0";
  const exponent = Math.floor(log10 + 2.2e-5); // 9.9996 becomes 1.000 of the next power
  if (exponent >= -3 && exponent < 4) return (10 ** log10).toFixed(3 - exponent);
  return `${(10 ** (log10 - exponent)).toFixed(3)} × 10${raised(exponent)}`;
}

const number = (x) => (x < 0 ? "−" : "") + scientific(Math.log10(Math.abs(x)));
const fixed = (digits) => (x) => x.toFixed(digits).replace("-", "−");

function change(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

// A labelled slider of a trait, or of one entry of a trait that is a list.
function slider(model, name, text, { min, max, step, index, show = fixed(2) }) {
  const read = () => (index === undefined ? model.get(name) : model.get(name)[index]);
  const input = h("input", { type: "range", min, max, step, "aria-label": text, name: name + (index ?? "") });
  const shown = h("span", { class: "value" });
  input.addEventListener("input", () => {
    const value = Number(input.value);
    change(model, name, index === undefined ? value : model.get(name).with(index, value));
  });
  follow(model, [name], () => {
    input.value = read();
    shown.textContent = show(read());
    input.setAttribute("aria-valuetext", show(read()));
  });
  return h("label", {}, h("span", {}, text), input, shown);
}

function checkbox(model, name, text) {
  const input = h("input", { type: "checkbox", name });
  input.addEventListener("change", () => change(model, name, input.checked));
  follow(model, [name], () => { input.checked = model.get(name); });
  return h("label", { class: "check" }, input, ` ${text}`);
}

// Call `draw` now and whenever one of these traits changes.
function follow(model, names, draw) {
  for (const name of names) model.on(`change:${name}`, draw);
  draw();
}

// A table of texts and the function that fills its cells.
function table(head, rows) {
  const cells = rows.map(() => head.slice(1).map(() => h("td")));
  const body = rows.map((row, i) => h("tr", {}, h("th", { scope: "row" }, row), ...cells[i]));
  const top = h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text))));
  const fill = (texts) => texts.forEach((row, i) => row.forEach((text, j) => { cells[i][j].textContent = text; }));
  return [h("table", {}, top, h("tbody", {}, ...body)), fill];
}

// What a screen reader hears, once things have stood still for a moment.
function speaker() {
  const element = h("div", { class: "spoken", role: "status" });
  let timer;
  const say = (text) => {
    clearTimeout(timer);
    if (!element.textContent) element.textContent = text;
    else timer = setTimeout(() => { element.textContent = text; }, 400);
  };
  return [element, say];
}

// A line with a coloured mark for each [colour, mark, text].
function legend(...entries) {
  const parts = entries.map(([color, mark, text]) => h("span", { style: "margin-right:1em" }, h("b", { style: `color:${color}` }, mark), ` ${text}`));
  return h("p", {}, ...parts);
}

// Put the widget into its place; `kind` names it to style sheets and tests. JupyterLab would take keys from its controls.
function mount(el, kind, ...children) {
  const root = h("div", { class: `asintrovae ${kind}` }, h("style", {}, STYLE), ...children);
  for (const control of root.querySelectorAll("input, button")) set(control, { "data-lm-suppress-shortcuts": "true" });
  el.append(root);
}

// An x axis and a y axis, in a plot of `width` by `height` whose data range is [0, right] by [bottom, top].
function axes({ width, height, right, bottom, top, left = 34 }) {
  const x = (value) => left + ((width - left - 6) * value) / right;
  const y = (value) => height - 18 - ((height - 24) * (value - bottom)) / (top - bottom);
  const label = (at, text, anchor) => h("text", { ...at, "font-size": 11, "text-anchor": anchor }, text);
  const frame = (ticksX, ticksY) => h("g", {},
    h("path", { d: `M${left},6V${y(bottom)}H${width - 6}`, fill: "none", stroke: "currentColor" }),
    ...ticksX.map(([value, text]) => label({ x: x(value), y: height - 5 }, text, value === right ? "end" : "middle")),
    ...ticksY.map(([value, text]) => label({ x: left - 4, y: y(value) + 4 }, text, "end")));
  const line = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("");
  return { x, y, frame, line };
}
