// Mounts the anywidgets of a built page, where there is no kernel: each brings its own module, and all it needs is a
// place to draw and a model that remembers what was set. Replaces a widget manager of several megabytes. It is no module
// itself, because a page opened as a file may not load modules from files.
const states = {}, models = {};
for (const script of document.querySelectorAll('script[type="application/vnd.jupyter.widget-state+json"]')) {
  Object.assign(states, JSON.parse(script.textContent).state);
}

const beside = document.currentScript?.src; // for the library of the lab, which only its page loads

// Text of the library that a widget asks for. A page opened as a file may not read files, but a script tells its text.
function libraryText() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("lab/library.js", beside).href;
    script.onload = () => resolve(`globalThis.labLibrary = ${globalThis.labLibrary};`);
    script.onerror = () => reject(new Error("its library is not beside this page"));
    document.head.append(script);
  });
}
let library; // once for all widgets

function memoryModel(state) {
  const listeners = {}, tell = (event, ...given) => { for (const listener of listeners[event] ?? []) listener(...given); };
  return {
    built: true, // no kernel answers
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      tell(`change:${name}`);
    },
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off: (event, listener) => { listeners[event] = (listeners[event] ?? []).filter((other) => other !== listener); },
    save_changes() {},
    send({ want }) {
      if (want !== "library") return;
      library ??= libraryText();
      library.then((text) => tell("msg:custom", { library: text }), (error) => tell("msg:custom", { missing: error.message }));
    },
  };
}

(async () => {
  for (const view of document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')) {
    const id = JSON.parse(view.textContent).model_id, state = states[id]?.state;
    if (!state?._esm) continue; // not an anywidget: nothing here can draw it
    const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    const el = document.createElement("div");
    view.after(el);
    widget.render({ model: (models[id] ??= memoryModel(state)), el }); // views of one model move together
    URL.revokeObjectURL(url);
  }
})();
