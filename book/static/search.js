// Sphinx appends this to its search (html_search_scorer). Rare words count more than common ones, and a page need not
// hold them all; what is shown below a hit is text of the page around it, without frame and raw TeX.
{
  const LENGTH = 240, BEFORE = 80; // characters of a summary, and of these before the first hit
  const IN_TITLE = 3, ALL_WORDS = 12; // Sphinx gives a query that equals a title 15
  const SYMBOLS = {
    alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", varepsilon: "ε", theta: "θ", kappa: "κ", lambda: "λ",
    mu: "μ", nu: "ν", pi: "π", rho: "ρ", sigma: "σ", tau: "τ", phi: "φ", varphi: "φ", psi: "ψ", omega: "ω", sum: "Σ",
    le: "≤", leq: "≤", ge: "≥", geq: "≥", approx: "≈", times: "×", cdot: "·", infty: "∞", to: "→", in: "∈", mid: "|",
    log: "log", exp: "exp", max: "max", min: "min", quad: " ",
  };
  const FONTS = /\\(mathrm|mathbf|mathbb|mathcal|operatorname|text|textstyle|displaystyle|left|right|bigl?|bigr)\b\s*/g;

  const readable = (tex) => {
    const text = tex.replace(/\\[()[\]]/g, "").replace(FONTS, "").replace(/\\[,;:! ]/g, " ").replace(/[{}]/g, "")
      .replace(/\\([a-z]+)/gi, (command, name) => SYMBOLS[name] ?? command);
    return text.includes("\\") ? "…" : text;
  };

  const pagesWith = (index, word) => {
    if (Object.hasOwn(index, word)) return [index[word]].flat();
    if (word.length < 3) return [];
    return Object.keys(index).filter((term) => term.startsWith(word)).flatMap((term) => index[term]);
  };

  // Of each word that occurs: its pages, those with it in a heading, and its weight.
  const lookUp = (words) => [...words].map((word) => {
    const { terms, titleterms, docnames } = Search._index;
    const titled = new Set(pagesWith(titleterms, word)), pages = new Set([...pagesWith(terms, word), ...titled]);
    return { word, pages, titled, weight: Math.log((docnames.length + 1) / (pages.size + 0.5)) };
  }).filter(({ pages }) => pages.size);

  Search.performTermsSearch = (searchTerms, excludedTerms) => {
    const { docnames, titles, filenames } = Search._index;
    const found = lookUp(searchTerms), total = found.reduce((sum, { weight }) => sum + weight, 0);
    const excluded = new Set(lookUp(excludedTerms).flatMap(({ pages }) => [...pages]));
    return docnames.flatMap((name, page) => {
      const held = found.filter(({ pages }) => pages.has(page));
      const share = held.reduce((sum, { weight }) => sum + weight, 0) / total;
      if (!(share >= 0.5) || excluded.has(page)) return [];
      const score = held.reduce((sum, { weight, titled }) => sum + weight * (titled.has(page) ? IN_TITLE : 1), 0);
      return [[name, titles[page], "", null, (ALL_WORDS * score) / total, filenames[page]]];
    });
  };

  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const article = page.querySelector("article.bd-article") ?? page.body;
    const part = (anchor && article.querySelector(anchor)) || article;
    for (const other of part.querySelectorAll("script, style, nav, h1, .headerlink, .times, .toctree-wrapper, .eqno")) other.remove();
    for (const formula of part.querySelectorAll(".math")) formula.replaceWith(readable(formula.textContent));
    return part.textContent.replace(/\s+/g, " ").trim();
  };

  Search.makeSearchSummary = (html, keywords, anchor) => {
    const text = Search.htmlToText(html, anchor);
    if (!text) return null;
    const hits = lookUp(keywords).flatMap(({ word, weight }) => {
      const pattern = new RegExp(`(?<![\\p{L}\\p{N}])${word}`, "giu"); // a word has letters, digits and _ alone
      return [...text.matchAll(pattern)].map(({ index }) => ({ index, word, weight }));
    }).sort((one, other) => one.index - other.index);
    let best = { index: 0, worth: 0 };
    for (const { index } of hits) {
      const near = hits.filter((hit) => hit.index >= index && hit.index < index + LENGTH - BEFORE);
      const words = new Map(near.map(({ word, weight }) => [word, weight]));
      const worth = [...words.values()].reduce((sum, weight) => sum + weight, 0);
      if (worth > best.worth) best = { index, worth };
    }
    const wanted = Math.max(0, best.index - BEFORE), start = wanted && text.indexOf(" ", wanted) + 1;
    const end = start + LENGTH >= text.length ? text.length : text.lastIndexOf(" ", start + LENGTH);
    const summary = document.createElement("p");
    summary.className = "context";
    summary.textContent = `${start ? "… " : ""}${text.slice(start, end)}${end < text.length ? " …" : ""}`;
    return summary;
  };
}
