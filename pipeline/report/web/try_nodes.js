"use strict";
// The nodes of a circuit on one prompt: their values at the marked token, and by how much the answer changes when each one
// goes off.
//
// CircuitTryNodes.of(page, state, weigh) → an element; the page and the state are those of try.js; weigh(): asks for the
// effects, which take a run a node
const CircuitTryNodes = (() => {
  const { make, number, visible } = CircuitElements;
  let open = false; // it is made anew with every answer

  function of(page, state, weigh) {
    const { nodes: { now, before, largest }, effects } = state.reply;
    const rows = page.nodes.map(({ name, spoken }, n) => ({
      name, spoken, now: now[n], before: before[n], share: Math.abs(now[n]) / (largest[n] || 1), effect: effects?.of[n],
    }));
    const size = row => (effects ? Math.abs(row.effect) : row.share);
    rows.sort((a, b) => size(b) - size(a));
    const firing = now.filter(value => value !== 0).length;
    const button = make("button", { type: "button", class: "cc-link", "data-focus": "weigh", onclick: weigh }, "by how much does the answer change without each?");
    return make("details", { class: "ct-other", open, ontoggle: event => { open = event.currentTarget.open; } },
      make("summary", {}, `All nodes at the marked token: ${firing} of ${rows.length} are not 0`),
      make("p", { class: "dim" }, effects ? told(effects) : ["The strongest in this text first; ", button]),
      make("div", { class: "ct-list" }, rows.map(row => line(page, row))));
  }

  function told({ tokens: [first, second] }) {
    const what = second === undefined ? `the log probability of ${visible(first)}` : `the logit of ${visible(first)} less that of ${visible(second)}`;
    return `Last: by how much ${what} changes when this node alone goes off; the largest change first.`;
  }

  function line(page, { name, spoken, now, before, effect }) {
    const value = now === before ? number(now) : `${number(before)} → ${number(now)}`;
    return make("div", { class: "ct-node" },
      make("button", { type: "button", class: "cc-link", title: spoken, "data-focus": `node ${name}`, onclick: () => page.select(name) }, name),
      make("span", { class: "num" }, value),
      effect !== undefined && make("span", { class: "num" }, (effect > 0 ? "+" : "") + number(effect)));
  }

  return { of };
})();
