"use strict";
// The page of one circuit, from its bundle alone: the drawing, the panel of the node that is chosen, a walk through one
// pair of prompts, the attention of its heads, and prompts of one's own where the model is in the page.
//
// A bundle without a drawing is of a model without a circuit: the page has prompts alone.
//
// CircuitPage.mount(element, bundle, { node, query }), CircuitPage.select(element, node name or null, query),
// CircuitPage.unmount(element); `query`: the part of the address behind the node, "text=…&by=…": of try.js and look.js
const CircuitPage = (() => {
  const { make, number, visible, words, describe } = CircuitElements;
  const mounted = new WeakMap();
  const HARDLY = 0.1; // of the largest rise in loss, below which a node is grey in the list

  function mount(element, bundle, { node = null, query = "" } = {}) {
    if (!bundle.drawing) return mountModel(element, bundle, query);
    const nodes = describe(bundle.drawing), { source, target } = bundle.drawing.edges;
    const edges = source.map((from, e) => `${nodes[from].name}->${nodes[target[e]].name}`);
    const stage = make("div", { class: "cp-stage" }), panel = make("aside", { class: "cp-panel", "aria-label": "The chosen node" });
    const options = CircuitWords.of(bundle);
    const page = { bundle, nodes, edges, options, select, labelOf, see, pin, source: "circuit", centre: null, node: null, query: "", look: CircuitLook.first, written };
    const stages = make("div", { class: "cp-stages" }, stage), drawn = make("div", { class: "cp-draw" }, stages);
    const left = make("div", { class: "cp-left" }, drawn, key(bundle)), whole = make("div", { class: "cp" }, left, panel);
    element.replaceChildren(whole);
    const core = page.core = CircuitPart.of(bundle, bundle.core, nodes, labelOf);
    const larger = page.larger = (bundle.explanation ? bundle.larger ?? [] : []).map(each => ({ ...each, ...CircuitPart.of(bundle, each.drawing, nodes, labelOf) }));
    let drawnPart;
    draw();
    page.beside = CircuitBeside.of(stages, bundle.task);
    let toolbar = null;
    document.addEventListener("keydown", leaveFull, true);
    page.leave = () => {
      document.removeEventListener("keydown", leaveFull, true);
      document.documentElement.classList.remove("cp-still");
      page.drawing.destroy();
      page.beside.clear();
    };
    const steps = bundle.explanation && CircuitSteps.section(page);
    if (steps) {
      left.prepend(steps.bar);
      left.append(steps.body);
    }
    const attempt = tryOut(page, left, element.dataset);
    left.prepend(...CircuitStory.section(page, stage));
    const attention = bundle.explanation && CircuitAttention.section(bundle);
    if (attention) element.append(attention);
    mounted.set(element, { page, show, restore });
    restore(query);
    show(node);
    if (!query && element.dataset.served !== undefined) attempt.begin();

    function leaveFull(event) {
      if (event.key !== "Escape" || !page.look.full) return;
      event.stopPropagation();
      see({ full: false });
    }

    // How the drawing is looked at has changed by a control, or is read from the address.
    function see(changes) {
      page.look = { ...page.look, ...changes };
      looked();
      written();
    }
    function restore(query) {
      page.look = CircuitLook.read(query);
      toolbar?.element.remove();
      toolbar = CircuitToolbar.section(page);
      drawn.prepend(toolbar.element);
      looked();
      attempt?.restore(query);
    }
    function looked() {
      draw();
      toolbar.told(page.drawing.see(page.look));
      whole.classList.toggle("full", page.look.full);
      document.documentElement.classList.toggle("cp-still", page.look.full);
      page.beside.show(page.look.beside, page.look);
    }
    // The whole circuit (null), the paths alone that decide in it, or a larger circuit around it.
    function partOf({ size, whole }) {
      const around = larger.findLast(({ picture }) => size >= picture.edges.source.length);
      return around ?? (whole || !core ? null : core);
    }
    function draw() {
      const part = partOf(page.look);
      if (part === drawnPart) return;
      drawnPart = part;
      const { width, height } = part?.picture ?? bundle.drawing, acts = { onselect: chosen, onpin: pin, describe: labelOf };
      page.drawing?.destroy();
      stage.style.aspectRatio = `${width}/${height}`;
      page.drawing = part ? part.mount(stage, acts) : CircuitDrawing.mount(stage, bundle.drawing, { ...options, ...acts });
      page.drawing.select(page.node);
    }
    // Pins a node, or takes its pin away.
    function pin(name) {
      const { pins } = page.look;
      see({ pins: pins.includes(name) ? pins.filter(each => each !== name) : [...pins, name] });
    }

    // The label in the task, before explanations had one that in code at large; a weak one says so.
    function labelOf(n) {
      const found = bundle.explanation?.nodes[n], label = found?.task_label ?? found?.label;
      if (!label) return "";
      return (label.weak ? "weak: " : "") + label.text + (label.role ? ` · ${label.role}` : "");
    }

    // A node was chosen on this page: it is drawn, described, and written into the address.
    function select(name) {
      drawSelected(name);
      chosen(name);
      if (stage.getBoundingClientRect().bottom < 60 || matchMedia("(max-width: 1000px)").matches) panel.scrollIntoView({ block: "nearest" });
    }
    function chosen(name) {
      describePanel(name);
      written();
    }
    function written() {
      const [, kind] = location.hash.split("/");
      const query = queryOf(page);
      const place = `#/circuit/${bundle.model}/${bundle.task}${page.node ? `/${page.node}` : ""}${query}`;
      if (kind === "circuit" || query) history.replaceState(null, "", place);
    }
    // Of a node that is not on the paths that decide, the whole circuit has to be drawn.
    function drawSelected(name) {
      if (name && core && !page.look.whole && !core.has(name)) see({ whole: true });
      page.drawing.select(name);
    }
    function show(name) {
      drawSelected(name);
      describePanel(name);
    }
    function describePanel(name) {
      page.node = name;
      attempt?.chosen(name);
      toolbar.chosen();
      const n = nodes.findIndex(each => each.name === name);
      const close = make("button", { type: "button", class: "cc-link cp-close", onclick: () => select(null) }, "all nodes");
      const panels = n >= 0 ? [close, CircuitNode.panel(page, n)] : name ? [close, added(name)] : [overview(page)];
      panel.replaceChildren(...panels);
      panel.scrollTop = 0;
    }
  }

  // "?text=…&by=…": what is typed, and how the drawing is looked at.
  function queryOf({ query, look }) {
    const parts = [query.replace(/^\?/, ""), CircuitLook.write(look)].filter(Boolean);
    return parts.length ? `?${parts.join("&")}` : "";
  }

  // Prompts of one's own to a model without a circuit.
  function mountModel(element, bundle, query) {
    const page = { bundle, nodes: [], edges: [], drawing: null, query: "", written, leave() {} };
    const attempt = CircuitTry.section(page, CircuitEngines.of(page, element.dataset));
    function written() {
      history.replaceState(null, "", `#/model/${bundle.model}${page.query}`);
    }
    element.replaceChildren(attempt.element);
    mounted.set(element, { page, show() {}, restore: query => attempt.restore(query) });
    if (query) attempt.restore(query);
    else attempt.begin();
  }

  // Prompts of one's own, above the drawing; a sentence where the model does not run for this page.
  function tryOut(page, left, where) {
    const engine = CircuitEngines.of(page, where);
    if (engine) {
      const attempt = CircuitTry.section(page, engine);
      left.prepend(attempt.element);
      return attempt;
    }
    const { run, model } = page.bundle, why = run?.why_not ?? "This page has no room for the model";
    const elsewhere = `${why}. To type a prompt: sparse-circuits play models/${model}`;
    if (run) left.append(make("p", { class: "dim" }, elsewhere));
    return null;
  }

  function key(bundle) {
    const { explanation, drawing: { outputs, tokens } } = bundle, answers = outputs.answers?.map(token => visible(tokens[token]));
    const pushes = side => `pushes ${answers ? `\`${answers[side]}\`` : `the ${["first", "second"][side]} prompt’s answer`}`;
    const [positive, negative] = explanation?.carried ? [`${pushes(0)} (their weight: positive)`, `${pushes(1)} (negative)`] : ["positive weight", "negative"];
    const dot = (kind, text) => make("li", {}, make("i", { class: `cp-dot ${kind}`, "aria-hidden": "true" }), text);
    const line = (kind, text) => make("li", {}, make("i", { class: `cp-line ${kind}`, "aria-hidden": "true" }), make("span", {}, words(text)));
    return make("ul", { class: "cp-key" }, dot("res", "residual channel, read or written"), dot("q", "query"), dot("k", "key"), dot("v", "value"), dot("mlp", "neuron"),
      line("p", positive), line("n", negative), explanation?.paths?.length ? line("bold", "on a main path") : null, line("bias", "bias"), line("link", "query × key of one channel"),
      answers ? line("out", "into the answers") : null);
  }

  // The panel of a node that only larger circuits have.
  const added = name => make("div", { class: "cn" }, make("h3", {}, name),
    make("p", {}, "Only larger circuits have this node: this one does its task without it. What it does was not read."));

  // The panel before a node is chosen: all nodes, the most needed first.
  function overview(page) {
    const { bundle, nodes } = page, whole = bundle.certificate?.loss ?? bundle.row.validation_loss ?? null;
    const losses = bundle.certificate?.nodes ?? bundle.explanation?.nodes.map(node => node?.removed_loss ?? null);
    const rises = losses && whole !== null ? losses.map(loss => (loss === null ? null : loss - whole)) : null;
    const order = nodes.map((_, n) => n), least = HARDLY * Math.max(...(rises ?? [0]));
    if (rises) order.sort((a, b) => rises[b] - rises[a]);
    const hardly = n => rises && rises[n] !== null && rises[n] < least;
    return make("div", { class: "cn" }, make("h3", {}, "Its nodes", rises ? ", the most needed first" : ""),
      make("p", { class: "dim" }, "Choose one here or in the drawing. ",
        rises ? `At the right: the rise in loss without this one node, from ${number(whole)} nats on the circuit’s validation pairs; grey where it is below a tenth of the largest. ` : "",
        bundle.explanation ? "What each does in the task is found by rule, from test pairs." : "There is no explanation of this model’s nodes: the stage explain has not run."),
      make("div", { class: "cn-scroll" }, make("table", { class: "cp-nodes" },
        rises ? make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "node"), make("th", { scope: "col", class: "num" }, "rise in loss"))) : null,
        make("tbody", {}, order.map(n => make("tr", { class: hardly(n) ? "hardly" : null },
          make("td", {}, make("button", { type: "button", class: "cc-link", title: nodes[n].spoken, onclick: () => page.select(nodes[n].name) }, nodes[n].name),
            make("span", { class: `dim cs-label${page.labelOf(n).startsWith("weak") ? " weak" : ""}` }, words(page.labelOf(n)))),
          rises ? make("td", { class: "num" }, rises[n] === null ? "–" : `${rises[n] > 0 ? "+" : ""}${number(rises[n])}`) : null))))));
  }

  function select(element, node, query = "") {
    const found = mounted.get(element);
    found?.show(node);
    if (found && (query ? `?${query}` : "") !== queryOf(found.page)) found.restore(query);
  }

  function unmount(element) {
    mounted.get(element)?.page.leave();
    mounted.delete(element);
    element.replaceChildren();
  }

  return { mount, select, unmount };
})();
