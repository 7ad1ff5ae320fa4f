"use strict";
// One pair of prompts, step by step through the forward pass: both prompts' values at each row, and what differs.
const CircuitSteps = (() => {
  const { make, number, visible, inCode, words, tint, choice } = CircuitElements;
  const SHOWN = 14; // nodes of a row, the most different first

  // page: { bundle, nodes, drawing (mounted), select, labelOf } → { bar, body } to stand above and below the drawing
  function section(page) {
    const { prompts } = page.bundle.explanation;
    const pairs = [...new Set(prompts.map(prompt => prompt.pair))].map(pair => prompts.flatMap((prompt, i) => (prompt.pair === pair ? [i] : [])));
    const whole = pairs.filter(sides => sides.length === 2);
    if (!whole.length) return null;
    const rows = page.bundle.drawing.rows;
    const state = { step: null, pair: 0, source: "circuit", where: "most" };
    const last = rows.length + 1; // step 0: the prompts; 1 … rows: a row; the last one: the answers
    const told = make("p", { class: "cs-name", role: "status" });
    const slider = make("input", { type: "range", min: 0, max: last, value: 0, "aria-label": "Step of the forward pass", oninput: () => go(Number(slider.value)) });
    const body = make("div", { class: "cs-body" });
    const back = make("button", { type: "button", onclick: () => go((state.step ?? 0) - 1) }, "‹ back");
    const next = make("button", { type: "button", class: "main", onclick: () => go((state.step ?? -1) + 1) }, "next ›");
    const off = make("button", { type: "button", onclick: () => leave() }, "close");
    const options = make("div", { class: "cc-controls" },
      whole.length > 1 ? choice("Pair", whole.map((_, i) => [i, `pair ${i + 1}`]), 0, i => { state.pair = i; again(); }) : null,
      choice("Values in", [["circuit", "circuit alone"], ["model", "whole model"]], state.source, value => { state.source = value; again(); }),
      choice("Values at", [["most", "where they differ most"], ["answer", "at the answer"]], state.where, value => { state.where = value; again(); }));
    const inside = make("section", { class: "cs", hidden: true, "aria-label": "This step of the pair" }, options, body);
    const bar = make("section", { class: "cs-bar", "aria-label": "Step through one pair of prompts" },
      make("b", {}, "Step through a pair"), back, slider, next, off, told);

    function leave() {
      state.step = null;
      inside.hidden = true;
      off.hidden = back.disabled = true;
      slider.value = 0;
      told.textContent = "from the prompts to the answer, row by row";
      page.drawing.show(null);
    }

    const again = () => go(state.step ?? 0);
    function go(step) {
      state.step = Math.min(Math.max(step, 0), last);
      slider.value = state.step;
      back.disabled = state.step === 0;
      next.disabled = state.step === last;
      off.hidden = false;
      inside.hidden = false;
      const sides = whole[state.pair], row = state.step - 1;
      const name = state.step === 0 ? "the prompts" : state.step === last ? "the answers" : `layer ${rows[row][0]}, ${rows[row][1]}`;
      told.textContent = `${state.step} of ${last}: ${name}`;
      slider.setAttribute("aria-valuetext", name);
      const differences = page.nodes.map((_, n) => compare(n, sides));
      if (state.step === 0) page.drawing.show(null);
      else {
        // Rows that the pass has not reached yet have no difference so far.
        const reached = differences.map((found, n) => (found && rowOf(n) <= row ? found.difference : 0));
        page.drawing.show(reached, { scale: Math.max(...differences.map(found => Math.abs(found?.difference ?? 0)), 1e-9), row: state.step === last ? null : row });
      }
      body.replaceChildren(...(state.step === 0 ? [bothPrompts(sides)] : state.step === last ? [outcome(sides)] : [values(row, differences)]));
    }

    const heights = new Map(rows.map(([, , y], i) => [y, i]));
    const rowOf = n => heights.get(page.bundle.drawing.nodes.y[n]);

    // A node's values for both prompts and their difference, at the answer or where it is largest; null for a node that
    // the explanation leaves out.
    function compare(n, [a, b]) {
      const found = page.bundle.explanation.nodes[n]?.[state.source];
      if (!found) return null;
      const left = found[a], right = found[b];
      let at = [left.length - 1, right.length - 1];
      if (state.where === "most") {
        for (let i = 0; i < Math.min(left.length, right.length); i++) {
          if (Math.abs(left[i] - right[i]) > Math.abs(left[at[0]] - right[at[1]])) at = [i, i];
        }
      }
      return { a: left[at[0]], b: right[at[1]], difference: left[at[0]] - right[at[1]], at };
    }

    function bothPrompts(sides) {
      const texts = sides.map(i => prompts[i].tokens.map(token => page.bundle.explanation.tokens[token]));
      return make("div", { class: "cs-prompts" }, sides.map((i, side) => make("div", {},
        make("p", {}, make("b", {}, `prompt ${prompts[i].side}`), " → ", make("code", {}, visible(prompts[i].answer))),
        make("pre", {}, texts[side].map((text, t) => make("span", { class: text === texts[1 - side][t] ? "" : "differs" }, inCode(text)))))),
        make("p", { class: "dim" }, "Marked: the tokens in which the two differ."));
    }

    function values(row, differences) {
      const found = differences.map((each, n) => ({ ...each, n })).filter(({ n }) => differences[n] && rowOf(n) === row);
      found.sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference));
      const most = Math.max(...found.flatMap(({ a, b, difference }) => [a, b, difference].map(Math.abs)), 1e-9);
      const cell = value => make("td", { class: "num", style: `background:${tint(value / most)}` }, number(value));
      const where = state.where === "most" ? [make("th", { scope: "col" }, "token")] : [];
      const [a] = whole[state.pair];
      return make("div", { class: "cn-scroll" }, make("table", { class: "cs-values" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "node"), where, ["prompt a", "prompt b", "difference"].map(text => make("th", { scope: "col" }, text)))),
        make("tbody", {}, found.slice(0, SHOWN).map(each => make("tr", {},
          make("td", {}, make("button", { type: "button", class: "cc-link", title: page.nodes[each.n].spoken, onclick: () => page.select(page.nodes[each.n].name) }, page.nodes[each.n].name),
            make("span", { class: "dim cs-label" }, words(page.labelOf(each.n)))),
          state.where === "most" ? make("td", {}, make("code", {}, visible(page.bundle.explanation.tokens[prompts[a].tokens[each.at[0]]])), make("span", { class: "dim" }, ` ${each.at[0]}`)) : null,
          cell(each.a), cell(each.b), cell(each.difference))))),
      found.length > SHOWN ? make("p", { class: "dim" }, `The ${SHOWN} that differ most, of ${found.length}.`) : null);
    }

    function outcome(sides) {
      return make("div", { class: "cn-scroll" }, make("table", { class: "cs-values" },
        make("thead", {}, make("tr", {}, ["prompt", "right answer", "against", "model: logits apart", "circuit: logits apart", "circuit: loss"].map(text => make("th", { scope: "col" }, text)))),
        make("tbody", {}, sides.map(i => prompts[i]).map(prompt => make("tr", {}, make("th", { scope: "row" }, `prompt ${prompt.side}`),
          make("td", {}, make("code", {}, visible(prompt.answer))), make("td", {}, make("code", {}, visible(prompt.other))),
          ...[prompt.model, prompt.circuit].map(({ logit_difference: apart }) => make("td", { class: "num" }, make("b", { class: apart > 0 ? "yes" : "no" }, apart > 0 ? "✓ " : "✗ "), number(apart))),
          make("td", { class: "num" }, number(prompt.circuit.loss)))))));
    }

    leave();
    return { bar, body: inside };
  }

  return { section };
})();
