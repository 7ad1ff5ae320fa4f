"use strict";
// Routes: #/ is the study, #/model/NAME a model, #/circuit/MODEL/TASK[/NODE][?text=…&by=…] a circuit, #SECTION a place in the
// study.
// Without scripts the style sheet does the same by :target; this adds the drawings, titles, focus and scroll places.
const App = (() => {
  const title = document.title;
  const places = new Map(); // route → how far it was scrolled
  let shown = null; // the page
  let fresh = true; // by a link, not by going back

  function parse(hash) {
    const [place, query = ""] = hash.replace(/^#/, "").split("?"), path = decodeURIComponent(place);
    const [, kind, ...rest] = path.split("/");
    if (path.startsWith("/") && (kind === "model" || kind === "circuit")) {
      const length = kind === "model" ? 1 : 2;
      const page = document.getElementById(`/${kind}/${rest.slice(0, length).join("/")}`);
      if (page) return { page, node: rest.slice(length).join("/") || null, query, section: null };
    }
    const page = document.querySelector("article.page"); // the study, or the only circuit
    const section = path.startsWith("/") ? null : document.getElementById(path);
    return { page, node: null, query: "", section };
  }

  // Puts what a page says into it, the first time it is shown.
  async function fill(page) {
    const packed = page.dataset.page;
    if (!packed) return;
    const html = await Packed.text(packed);
    if (!page.dataset.page) return; // filled meanwhile
    delete page.dataset.page;
    page.innerHTML = html;
    page.dataset.filled = "";
    Charts.watch(page);
  }

  // The drawing of the page's circuit, at a node if one is asked for.
  async function draw(page, node, query) {
    const host = page.querySelector("[data-bundle], [data-served]");
    if (!host) return;
    const { bundle: id, served } = host.dataset;
    if (served === undefined && !Packed.has(id)) return void (host.textContent = host.dataset.missing);
    if (host.dataset.mounted !== undefined && CircuitPage.select) return CircuitPage.select(host, node, query);
    host.setAttribute("aria-busy", "true");
    try {
      const bundle = await (served === undefined ? CircuitBundles.of(id) : CircuitEngines.served(served));
      if (shown !== page) return; // left while it was unpacked
      host.replaceChildren();
      CircuitPage.mount(host, bundle, { node, query });
      host.dataset.mounted = "";
    } catch (error) {
      host.textContent = `The circuit could not be drawn: ${error.message}`;
      throw error;
    } finally {
      host.removeAttribute("aria-busy");
    }
  }

  function release(page) {
    const host = page?.querySelector("[data-mounted]");
    if (!host) return;
    CircuitPage.unmount(host);
    delete host.dataset.mounted;
  }

  function arrive(page, section, first) {
    const heading = page.querySelector("h1");
    document.title = page.dataset.filled === undefined ? title : `${heading.textContent} · ${title}`;
    for (let part = section; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (section) return section.scrollIntoView();
    scrollTo({ top: fresh ? 0 : places.get(location.hash) ?? 0, behavior: "instant" });
    if (fresh && !first) heading.focus({ preventScroll: true });
  }

  async function go() {
    const hash = location.hash;
    const { page, node, query, section } = parse(hash);
    await fill(page);
    if (hash !== location.hash) return; // gone on meanwhile
    const other = page !== shown, first = shown === null;
    if (other) {
      release(shown);
      for (const each of document.querySelectorAll("article.page")) each.classList.toggle("shown", each === page);
      shown = page;
    }
    if (other || section) arrive(page, section, first);
    fresh = false;
    await draw(page, node, query);
  }

  // Unfolds all that is folded on the shown page; returns the folds that it opened.
  function unfold() {
    const folded = [...document.querySelectorAll(".shown details:not([open])")];
    for (const each of folded) each.open = true;
    return folded;
  }

  // On paper nothing is folded, and every chart is drawn.
  function onPaper() {
    let folded = [];
    addEventListener("beforeprint", () => {
      folded = unfold();
      Charts.drawAll(shown);
    });
    addEventListener("afterprint", () => { for (const each of folded) each.open = false; });
  }

  function start() {
    document.documentElement.classList.add("js");
    history.scrollRestoration = "manual";
    addEventListener("click", event => {
      const link = event.target.closest?.("a[href^='#']");
      if (!link) return;
      fresh = true;
      places.set(location.hash, scrollY);
      if (link.getAttribute("href") === location.hash) go();
    });
    addEventListener("hashchange", go);
    onPaper();
    document.getElementById("unfold")?.addEventListener("click", unfold);
    Charts.start();
    Frontier.start();
    TaskCurves.start();
    Matrix.start();
    go();
  }

  return { start };
})();

App.start();
