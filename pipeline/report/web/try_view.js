"use strict";
// What a circuit's page shows of one run: tokens, answers, where a head looks, and what can be changed.
//
// CircuitTryView.of(page, state, { move(place), change(name, kind, number), undo() }) → elements; the page and the
// state are those of try.js. CircuitTryView.KINDS: the kinds of change.
const CircuitTryView = (() => {
  const { make, number, sign, visible, tint } = CircuitElements;
  const ACTS = [
    ["as", "as it is"], ["off", "off"], ["scale", "times"], ["set", "set to"], ["swap", "as on the other prompt"],
  ];
  const NUMBERED = new Set(["scale", "set"]);
  const KINDS = new Set(ACTS.slice(1).map(([kind]) => kind));
  const percent = p => `${(100 * p).toFixed(p > 0.0995 || p < 0.0005 ? 0 : 1)} %`;
  const arrow = values => [...new Set(values.map(percent))].join(" → ");

  function of(page, state, act) {
    const { reply } = state;
    return [tokens(reply, act.move), page.drawing && told(page, state),
      make("div", { class: "ct-choices", "aria-live": "polite" },
        answers("The whole model", reply.model, state.answers),
        reply.circuit && answers("The circuit alone", reply.circuit, state.answers, ", calibrated"),
        attention(state)),
      ...(reply.circuit ? changes(page, state, act) : [])].filter(Boolean);
  }

  // A token, and the line's end behind it.
  const shown = (text, i) => (i ? sign(text) : "▸");
  const end = text => (text.includes("\n") ? "\n" : null);

  function tokens({ series, tokens: texts, at }, move) {
    const most = series ? Math.max(...series.now.map(Math.abs), 1e-12) : 1;
    const colour = i => (series ? `background:${tint(series.now[i] / most)}` : null);
    const title = (text, i) => visible(text) + (series ? `  ${number(series.now[i])}` : "");
    const last = texts.length - 1;
    const onkeydown = event => {
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const place = Math.max(0, Math.min(to, last));
      event.currentTarget.querySelector(`[data-focus="token ${place}"]`).focus();
      move(place);
    };
    const label = "Tokens: the answer follows the marked one; arrow keys move it";
    return make("div", { class: "ct-tokens", role: "group", "aria-label": label, onkeydown },
      texts.map((text, i) => [make("button", {
        type: "button", class: "cn-token", "aria-pressed": String(i === at), "data-focus": `token ${i}`, tabindex: i === at ? 0 : -1,
        style: colour(i), title: title(text, i), onclick: () => move(i),
      }, shown(text, i)), end(text)]));
  }

  function told({ nodes }, { node, reply }) {
    const value = reply.nodes.now[nodes.findIndex(({ name }) => name === node)];
    return make("p", { class: "dim" }, node
      ? `Colours: values of ${node}, blue above 0, orange below; ${number(value)} at the marked token.`
      : "Click a token for what comes after it; choose a node in the drawing for its values.");
  }

  function answers(title, { tokens: rows, first }, two, how = "") {
    const filled = p => make("span", { style: `width:${100 * p}%` });
    const bar = p => make("span", { class: "ct-track", "aria-hidden": "true" }, filled(p));
    const row = ([id, text, ...p]) => make("div", { class: `ct-row${two.includes(id) ? " answer" : ""}` },
      make("code", { title: visible(text) }, visible(text)), bar(p.at(-1)), make("span", { class: "num" }, arrow(p)));
    const code = id => make("code", {}, visible(rows.find(([token]) => token === id)[1]));
    return make("div", { class: "ct-choice" }, make("h4", {}, title), rows.map(row),
      first && make("p", { class: "dim" }, `Between the two${how}: `, code(two[0]), ` ${arrow(first)}, `, code(two[1]),
        ` ${arrow(first.map(p => 1 - p))}`));
  }

  // Where the chosen node's head looks from the marked token.
  function attention({ node, reply: { tokens: texts, at, look: weights } }) {
    if (!weights) return null;
    const most = Math.max(...weights, 1e-12);
    const token = (text, key) => [make("span", {
      class: "cn-token", style: `background:${tint(weights[key] / most)}`,
      title: `${visible(text)}  ${number(weights[key])}`,
    }, shown(text, key)), end(text)];
    return make("div", { class: "ct-choice" }, make("h4", {}, `The head of ${node} looks from there at`),
      make("div", { class: "ct-tokens" }, texts.slice(0, at + 1).map(token)),
      make("p", { class: "dim" }, `${percent(weights.reduce((a, b) => a + b))} of its weight is on tokens.`));
  }

  function changes({ bundle, edges: names }, state, { change, undo }) {
    const { node } = state, all = state.changes;
    const edges = node ? names.filter(name => name.split("->").includes(node)) : [];
    const named = [...new Set([...all.keys(), ...(node ? [node, ...edges] : [])])];
    const title = all.size ? `Changed: ${all.size} ` : "Change a node or an edge";
    const back = all.size > 0 && make("button", { type: "button", class: "cc-link", onclick: undo }, "undo all");
    const rows = named.map(name => row(name, all.get(name) ?? ["as", null], change));
    return [
      make("h4", {}, title, back),
      named.length ? make("div", { class: "ct-list" }, rows)
        : make("p", { class: "dim" }, "Choose a node, in the drawing or in the list beside it."),
      make("p", { class: "dim" }, `Off: ablated to ${bundle.run.ablation}. An edge is changed for its target alone.`),
    ];
  }

  function row(name, [kind, value], change) {
    const options = ACTS.map(([key, text]) => make("option", { value: key, selected: key === kind }, text));
    const picked = make("select", {
      "data-focus": name, "aria-label": `what is done to ${name}`, onchange: () => change(name, picked.value),
    }, options);
    const typed = NUMBERED.has(kind) && make("input", {
      type: "number", step: "any", value, "data-focus": `${name} number`, "aria-label": `number for ${name}`,
      onchange: () => change(name, kind, Number(typed.value)),
    });
    return make("div", { class: `ct-act${kind === "as" ? "" : " changed"}` }, make("code", {}, name), picked, typed);
  }

  return { of, KINDS };
})();
