"use strict";
// The page of one circuit, from its bundle alone: the drawing, the panel of the node that is chosen, a walk through one
// pair of prompts, the attention of its heads, and prompts of one's own where the model is in the page.
//
// A bundle without a drawing is of a model without a circuit: the page has prompts alone.
//
// CircuitPage.mount(element, bundle, { node, query }), CircuitPage.select(element, node name or null, query),
// CircuitPage.unmount(element); `query`: the part of the address behind the node, "text=…"
const CircuitPage = (() => {
  const { make, number, describe } = CircuitElements;
  const mounted = new WeakMap();

  function mount(element, bundle, { node = null, query = "" } = {}) {
    if (!bundle.drawing) return mountModel(element, bundle, query);
    const nodes = describe(bundle.drawing), { source, target } = bundle.drawing.edges;
    const edges = source.map((from, e) => `${nodes[from].name}->${nodes[target[e]].name}`);
    const stage = make("div", { class: "cp-stage", style: `aspect-ratio:${bundle.drawing.width}/${bundle.drawing.height}` }), panel = make("aside", { class: "cp-panel", "aria-label": "The chosen node" });
    const page = { bundle, nodes, edges, select, labelOf, source: "circuit", centre: null, node: null, query: "", written };
    const left = make("div", { class: "cp-left" }, stage, key(bundle));
    element.replaceChildren(make("div", { class: "cp" }, left, panel));
    page.drawing = CircuitDrawing.mount(stage, bundle.drawing, { onselect: chosen, describe: labelOf });
    const steps = bundle.explanation && CircuitSteps.section(page);
    if (steps) {
      left.prepend(steps.bar);
      left.append(steps.body);
    }
    const attempt = tryOut(page, left, element.dataset);
    const attention = bundle.explanation && CircuitAttention.section(bundle);
    if (attention) element.append(attention);
    mounted.set(element, { page, show, restore: query => attempt?.restore(query) });
    show(node);
    attempt?.restore(query);
    if (!query && element.dataset.served !== undefined) attempt.begin();

    // The label in the task, before explanations had one that in code at large; a weak one says so.
    function labelOf(n) {
      const found = bundle.explanation?.nodes[n], label = found?.task_label ?? found?.label;
      if (!label) return "";
      return (label.weak ? "weak: " : "") + label.text + (label.role ? ` · ${label.role}` : "");
    }

    // A node was chosen on this page: it is drawn, described, and written into the address.
    function select(name) {
      page.drawing.select(name);
      chosen(name);
      if (stage.getBoundingClientRect().bottom < 60 || matchMedia("(max-width: 1000px)").matches) panel.scrollIntoView({ block: "nearest" });
    }
    function chosen(name) {
      describePanel(name);
      written();
    }
    function written() {
      const [, kind] = location.hash.split("/");
      const place = `#/circuit/${bundle.model}/${bundle.task}${page.node ? `/${page.node}` : ""}${page.query}`;
      if (kind === "circuit" || page.query) history.replaceState(null, "", place);
    }
    function show(name) {
      page.drawing.select(name);
      describePanel(name);
    }
    function describePanel(name) {
      page.node = name;
      attempt?.chosen(name);
      const n = nodes.findIndex(each => each.name === name);
      const close = make("button", { type: "button", class: "cc-link cp-close", onclick: () => select(null) }, "all nodes");
      panel.replaceChildren(...(n < 0 ? [overview(page)] : [close, CircuitNode.panel(page, n)]));
      panel.scrollTop = 0;
    }
  }

  // Prompts of one's own to a model without a circuit.
  function mountModel(element, bundle, query) {
    const drawing = { destroy() {} }, page = { bundle, nodes: [], edges: [], drawing: null, query: "", written };
    const attempt = CircuitTry.section(page, CircuitEngines.of(page, element.dataset));
    function written() {
      history.replaceState(null, "", `#/model/${bundle.model}${page.query}`);
    }
    element.replaceChildren(attempt.element);
    mounted.set(element, { page: { drawing }, show() {}, restore: query => attempt.restore(query) });
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
    const elsewhere = `This page has no room for the model. To type a prompt: sparse-circuits play models/${page.bundle.model}`;
    if (page.bundle.run) left.append(make("p", { class: "dim" }, elsewhere));
    return null;
  }

  function key(bundle) {
    const dot = (kind, text) => make("li", {}, make("i", { class: `cp-dot ${kind}`, "aria-hidden": "true" }), text);
    const line = (kind, text) => make("li", {}, make("i", { class: `cp-line ${kind}`, "aria-hidden": "true" }), text);
    return make("ul", { class: "cp-key" }, dot("res", "residual channel, read or written"), dot("q", "query"), dot("k", "key"), dot("v", "value"), dot("mlp", "neuron"),
      line("p", "positive weight"), line("n", "negative"), line("bias", "bias"), line("link", "query × key of one channel"),
      bundle.drawing.outputs.answers ? line("out", "towards the answers") : null);
  }

  // The panel before a node is chosen: all nodes, the most needed first.
  function overview(page) {
    const { bundle, nodes } = page, losses = bundle.certificate?.nodes ?? bundle.explanation?.nodes.map(node => node?.removed_loss ?? null);
    const order = nodes.map((_, n) => n);
    if (losses) order.sort((a, b) => losses[b] - losses[a]);
    const whole = bundle.certificate?.loss ?? bundle.row.validation_loss;
    return make("div", { class: "cn" }, make("h3", {}, "Its nodes", losses ? ", the most needed first" : ""),
      make("p", { class: "dim" }, "Choose one here or in the drawing. ",
        losses ? `Without any one of them the circuit’s loss of ${number(whole)} grows to what stands at its right. ` : "",
        bundle.explanation ? "What each does in the task is found by rule, from all test pairs." : "There is no explanation of this model’s nodes: the stage explain has not run."),
      make("div", { class: "cn-scroll" }, make("table", { class: "cp-nodes" }, make("tbody", {}, order.map(n => make("tr", {},
        make("td", {}, make("button", { type: "button", class: "cc-link", title: nodes[n].spoken, onclick: () => page.select(nodes[n].name) }, nodes[n].name),
          make("span", { class: `dim cs-label${page.labelOf(n).startsWith("weak") ? " weak" : ""}` }, page.labelOf(n))),
        losses ? make("td", { class: "num" }, number(losses[n])) : null))))));
  }

  function select(element, node, query = "") {
    const found = mounted.get(element);
    found?.show(node);
    if (found && query && `?${query}` !== found.page.query) found.restore(query);
  }

  function unmount(element) {
    mounted.get(element)?.page.drawing.destroy();
    mounted.delete(element);
    element.replaceChildren();
  }

  return { mount, select, unmount };
})();
