"use strict";
// The panel of one node: what it is, its label, its values over the prompts and over code, its effect, its edges.
const CircuitNode = (() => {
  const { make, draw, number, sign, inCode, visible, words, tint, choice } = CircuitElements;
  const DENSE = 0.9; // density from which a node is nearly never 0, so that 0 says nothing about it

  // page: { bundle, nodes (described), select(name), source: "circuit" or "model", centre: "0", "ablated" or null }
  function panel(page, n) {
    const { bundle, nodes } = page, node = nodes[n];
    const found = bundle.explanation?.nodes[n] ?? null;
    return make("div", { class: "cn", "data-node": node.name },
      make("h3", {}, node.spoken.charAt(0).toUpperCase() + node.spoken.slice(1), " ", make("code", {}, node.name)),
      found?.task_label ? taskLabel(found.task_label) : null, found ? label(found.label) : null, facts(page, n, found), effect(page, n, found),
      found ? overPrompts(page, n, found) : null, found ? overCode(page, n, found) : null, edges(page, n));
  }

  // What it does in the task, the line that counts; a weak one is grey and says so.
  function taskLabel(found) {
    const score = found.score === null ? found.measure : `${number(found.score)} ${found.measure}`;
    return make("div", { class: found.weak ? "cn-label cn-task weak" : "cn-label cn-task" },
      make("p", {}, tag("in this task", found.weak), " ", make("b", {}, words(found.text)), make("span", { class: "dim" }, ` ${score}`)),
      make("p", { class: "cn-role" }, tag("its role", false), " ", words(found.role)));
  }

  const tag = (text, weak) => make("span", { class: "cc-tag" }, weak ? `${text}, weak` : text);

  function label(found) {
    if (!found) return make("p", { class: "dim" }, "In code at large: no rule describes what it responds to.");
    const others = found.others ?? [];
    return make("div", { class: found.weak ? "cn-label cn-large weak" : "cn-label cn-large" },
      make("p", {}, tag("in code at large, a hypothesis", found.weak), " ", words(found.text),
        make("span", { class: "dim" }, ` ${number(found.score)} ${found.measure ?? ""}`)),
      others.length ? make("details", { class: "cn-others" }, make("summary", {}, "other descriptions that fit"),
        make("ul", {}, others.map(other => make("li", {}, words(other.text), make("span", { class: "dim" }, ` ${number(other.score)}`))))) : null);
  }

  const fact = (name, value, title) => make("div", title ? { title } : {}, make("dt", {}, name), make("dd", {}, value));

  function facts({ bundle }, n, found) {
    const { bias, ablated_to } = bundle.drawing.nodes;
    return make("dl", { class: "cn-facts" },
      found ? [fact("mean", number(found.mean)), fact("standard deviation", number(found.std)),
        fact("not 0 at", `${number(100 * found.density)} % of tokens`), fact("range", `${number(found.least)} … ${number(found.most)}`)] : null,
      bias[n] ? fact("bias", number(bias[n])) : null, fact("ablation value", number(ablated_to[n])));
  }

  function effect({ bundle }, n, found) {
    const { row, certificate } = bundle;
    const removed = certificate ? certificate.nodes[n] : found?.removed_loss ?? null;
    const lines = [];
    if (removed !== null) lines.push(["the circuit", certificate?.loss ?? row.validation_loss, removed]);
    if (found?.ablated_loss !== null && found?.ablated_loss !== undefined) lines.push(["the whole model", bundle.explanation.model_loss ?? row.unpruned_loss, found.ablated_loss]);
    if (!lines.length) return null;
    const most = Math.max(...lines.flatMap(([, before, after]) => [before ?? 0, after]), 1e-12);
    const bar = (value, kind) => make("span", { class: `cn-bar ${kind}`, style: `width:${100 * value / most}%` });
    return make("section", {}, make("h4", {}, "Task loss without it (nats)"),
      make("table", { class: "cn-effect" }, make("thead", {}, make("tr", {}, make("td"), make("th", { scope: "col" }, "with"), make("th", { scope: "col" }, "without"), make("td"))),
        make("tbody", {}, lines.map(([name, before, after]) => make("tr", {},
          make("th", { scope: "row" }, name), make("td", {}, number(before)), make("td", {}, number(after)),
          make("td", { class: "bars", "aria-hidden": "true" }, bar(before ?? 0, "before"), bar(after, "after")))))));
  }

  // --- values as coloured code

  // Colours are around 0, or around the node's ablation value where the node is nearly never 0.
  const centreOf = (page, n, found) => (page.centre ?? (found.density > DENSE ? "ablated" : "0")) === "0" ? 0 : page.bundle.drawing.nodes.ablated_to[n];

  function overPrompts(page, n, found) {
    const host = make("div");
    const fill = () => {
      const centre = centreOf(page, n, found), all = [found.model, found.circuit].flat(2);
      const scale = Math.max(...all.map(value => Math.abs(value - centre)), 1e-9);
      host.replaceChildren(legend(centre, scale), ...page.bundle.explanation.prompts.map((prompt, i) =>
        promptCode(page, prompt, found[page.source][i], centre, scale)));
    };
    fill();
    const ablatedTo = page.bundle.drawing.nodes.ablated_to[n];
    const centre = found.density > DENSE ? "ablated" : "0";
    return make("section", { class: "cn-prompts" }, make("h4", {}, "Over the example prompts"),
      make("div", { class: "cc-controls" },
        choice("Values in", [["circuit", "circuit alone"], ["model", "whole model"]], page.source, value => { page.source = value; fill(); }),
        choice("Colours around", [["0", "around 0"], ["ablated", `around ${number(ablatedTo)}`]], page.centre ?? centre, value => { page.centre = value; fill(); })),
      host);
  }

  function promptCode(page, prompt, values, centre, scale) {
    const { tokens } = page.bundle.explanation;
    const code = coloured(prompt.tokens.map(token => tokens[token]), values, centre, scale, null);
    if (prompt.answer === null) return make("div", { class: "cn-prompt" }, code, make("p", { class: "cn-answer dim" }, "your own prompt"));
    const difference = prompt[page.source].logit_difference;
    const right = difference > 0;
    return make("div", { class: "cn-prompt" }, code,
      make("p", { class: "cn-answer" }, make("b", { class: right ? "yes" : "no" }, right ? "✓ " : "✗ "),
        make("code", {}, visible(prompt.answer)), " against ", make("code", {}, visible(prompt.other)),
        make("span", { class: "dim" }, ` logits ${number(difference)} apart`)));
  }

  function coloured(texts, values, centre, scale, at, oneLine = false) {
    return make("pre", { class: oneLine ? "cn-code line" : "cn-code" }, texts.map((text, i) => {
      const value = values[i];
      return make("span", {
        class: i === at ? "cn-token at" : "cn-token", title: `${visible(text)}  ${number(value)}`,
        style: `background:${tint((value - centre) / scale)}`,
      }, oneLine ? sign(text) : inCode(text));
    }));
  }

  function legend(centre, scale) {
    return make("p", { class: "cn-legend", "aria-label": `colours from ${number(centre - scale)} (orange) over ${number(centre)} (none) to ${number(centre + scale)} (blue)` },
      make("span", {}, number(centre - scale)), make("i", { "aria-hidden": "true" }),
      make("span", {}, number(centre + scale)), make("span", { class: "dim" }, `none: ${number(centre)}`));
  }

  // --- over the pretraining distribution

  function overCode(page, n, found) {
    const centre = centreOf(page, n, found), { tokens } = page.bundle.explanation;
    const scale = Math.max(Math.abs(found.most - centre), Math.abs(found.least - centre), 1e-9);
    const list = kind => make("div", { class: "cn-contexts" }, found[kind].length ? found[kind].map(context =>
      make("div", { class: "cn-context" }, make("span", { class: "num" }, number(context.values[context.at])),
        coloured(context.tokens.map(token => tokens[token]), context.values, centre, scale, context.at, true)))
      : make("p", { class: "dim" }, "none"));
    const host = make("div", {}, list("top"));
    return make("section", { class: "cn-code-section" }, make("h4", {}, "Over code that the model was not trained on"),
      histogram(found, page.bundle.drawing.nodes.ablated_to[n]),
      choice("Contexts", [["top", "largest"], ["bottom", "smallest"], ["random", "random"]], "top", kind => host.replaceChildren(list(kind))),
      host);
  }

  function histogram({ histogram: { low, high, counts }, mean }, ablatedTo) {
    const width = 320, height = 74, base = 56, most = Math.log1p(Math.max(...counts)) || 1;
    const x = value => (high > low ? (value - low) / (high - low) : 0.5) * width;
    const bars = counts.map((count, i) => {
      const from = low + (high - low) * i / counts.length, to = low + (high - low) * (i + 1) / counts.length;
      const tall = Math.log1p(count) / most * (base - 4);
      return draw("rect", { class: (from + to) / 2 < 0 ? "n" : "p", x: x(from) + 0.5, y: base - tall, width: Math.max(width / counts.length - 1, 1), height: tall },
        draw("title", {}, `${number(from)} … ${number(to)}: ${count.toLocaleString("en")} tokens`));
    });
    const line = (value, kind, text) => (value < low || value > high ? null : draw("path", { class: kind, d: `M${x(value)} 0V${base}` }, draw("title", {}, text)));
    return draw("svg", { class: "cn-histogram", viewBox: `-16 0 ${width + 32} ${height}`, role: "img", "aria-label": `Histogram of its values from ${number(low)} to ${number(high)}, logarithmic counts, mean ${number(mean)}` },
      bars, draw("path", { class: "axis", d: `M0 ${base}H${width}` }), line(0, "zero", "0"), line(ablatedTo, "ablated", `ablation value ${number(ablatedTo)}`),
      draw("text", { x: 0, y: height - 4 }, number(low)), draw("text", { x: width, y: height - 4, "text-anchor": "end" }, number(high)),
      draw("text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, "tokens per value, log scale"));
  }

  // --- edges

  function edges(page, n) {
    const { source, target, weight } = page.bundle.drawing.edges;
    const into = [], out = [];
    target.forEach((t, e) => { if (t === n) into.push([e, source[e]]); if (source[e] === n) out.push([e, t]); });
    const most = Math.max(...[...into, ...out].map(([e]) => Math.abs(weight[e])), 1e-12);
    const bySize = (a, b) => Math.abs(weight[b[0]]) - Math.abs(weight[a[0]]);
    const tables = [["in, from", into], ["out, to", out]].filter(([, list]) => list.length).map(([name, list]) =>
      table(page, name, list.sort(bySize), most));
    return make("section", { class: "cn-edges" }, make("h4", {}, "Edges"), tables.length ? tables : make("p", { class: "dim" }, "It has none: a constant, or read by nothing else in the circuit."));
  }

  function table(page, name, list, most) {
    const { bundle, nodes, select } = page, { weight } = bundle.drawing.edges, losses = bundle.certificate?.edges;
    const rows = list.map(([e, other]) => make("tr", { "data-edge": e },
      make("td", {}, make("button", { type: "button", class: "cc-link", title: nodes[other].spoken, onclick: () => select(nodes[other].name) }, nodes[other].name)),
      make("td", { class: "num" }, number(weight[e])), make("td", { class: "bars", "aria-hidden": "true" },
        make("span", { class: `cn-bar ${weight[e] < 0 ? "n" : "p"}`, style: `width:${100 * Math.abs(weight[e]) / most}%` })),
      losses ? make("td", { class: "num" }, number(losses[e])) : null));
    return make("div", { class: "cn-scroll" }, make("table", {}, make("thead", {}, make("tr", {},
      make("th", { scope: "col" }, `${name} (${list.length})`), make("th", { scope: "col" }, "weight"), make("td"),
      losses ? make("th", { scope: "col", title: "task loss of the circuit without this edge" }, "loss without") : null)), make("tbody", {}, rows)));
  }

  return { panel, coloured };
})();
