"use strict";
// Prompts of one's own on a circuit's page, run by the model in the page: what comes next by model and circuit, the
// nodes' values in the drawing, and nodes and edges that are off, scaled, set, or swapped with the other prompt's.
//
// CircuitTry.section(page, packed model's element) → { element, chosen(node or null), restore(query) }
//   page: { bundle, nodes (described), drawing, written() }; its `query` is the part of the address that is kept here
const CircuitTry = (() => {
  const { make, choice } = CircuitElements;
  const PAUSE = 60; // ms without a key before a text is run
  const INSIDE = [["circuit", "in the circuit alone"], ["model", "in the whole model"]];
  const FIRST = { scale: -1, set: 0 }; // numbers to begin with
  const models = new Map(); // packed model → promise of it

  function loaded(id) {
    if (!models.has(id)) {
      const ready = model => ({ model, session: EngineSession.of(model) });
      models.set(id, Packed.bytes(id).then(EngineWeights.read).then(ready));
    }
    return models.get(id);
  }

  // The page's circuit as the engine wants it.
  function circuitOf({ bundle: { task, drawing: { edges }, run } }, means, names) {
    const values = Object.entries(run.ablated_to ?? {}).map(([key, row]) => [key, Float64Array.from(row)]);
    return {
      name: task, nodes: names, calibration: run.calibration, ablatedTo: run.ablated_to ? new Map(values) : means,
      edges: edges.source.map((source, e) => `${names[source]}->${names[edges.target[e]]}`),
    };
  }

  function section(page, id) {
    const { run } = page.bundle, names = page.nodes.map(({ name }) => name);
    const state = {
      text: "", other: "", inside: "circuit", at: null, node: null, changes: new Map(), // name → [kind, number or null]
      answers: run.answers, engine: null, reply: null,
    };
    const text = area("A prompt", 3, value => Object.assign(state, { text: value, at: null }));
    const other = area("The other prompt", 2, value => { state.other = value; });
    const said = make("p", { class: "dim", role: "status" });
    const shown = make("div", { class: "ct-shown" }), inside = make("div");
    const body = make("div", { hidden: true }, inside, shown, make("details", { class: "ct-other" },
      make("summary", {}, "The other prompt, whose values can be swapped in"), other));
    const element = make("section", { class: "ct", "aria-label": "A prompt of your own" },
      make("label", { class: "ct-head" }, make("b", {}, "Type a prompt"), text), examples(), said, body);
    let timer = 0;
    sides();

    function area(label, rows, typed) {
      const oninput = () => {
        typed(field.value);
        clearTimeout(timer);
        timer = setTimeout(answer, PAUSE);
      };
      const plain = { spellcheck: "false", autocapitalize: "off", autocomplete: "off", "aria-label": label };
      const field = make("textarea", { rows, ...plain, oninput, onfocus: () => { if (!state.reply) begin(); } });
      return field;
    }

    function examples() {
      const button = (pair, side) => make("button", {
        type: "button", class: "cc-link", onclick: () => take(pair, side),
      }, `prompt ${pair + 1}${"ab"[side]}`);
      const buttons = run.pairs.flatMap((_, pair) => [button(pair, 0), " ", button(pair, 1), " "]);
      return make("p", { class: "ct-examples dim" }, buttons.length ? ["or take one of the task: ", buttons] : null);
    }

    function sides() {
      const choose = value => { state.inside = value; answer(); };
      inside.replaceChildren(choice("Values and changes in", INSIDE, state.inside, choose));
    }

    // --- running

    async function start() {
      if (!state.engine) said.textContent = "unpacking the model …";
      const { model, session } = await loaded(id);
      state.engine ??= { session, tokenizer: model.tokenizer, circuit: circuitOf(page, model.means, names) };
    }

    async function begin() {
      await start();
      if (!state.text && run.pairs.length) await take(0, 0);
      else said.textContent = "";
    }

    async function take(pair, side) {
      await start();
      const written = run.pairs[pair].map(([ids]) => ids.map(state.engine.tokenizer.text).join(""));
      Object.assign(state, { text: written[side], other: written[1 - side], answers: answersOf(pair), at: null });
      answer();
    }

    const answersOf = pair => (run.answers.length ? run.answers : run.pairs[pair]?.map(([, right]) => right) ?? []);
    const asked = () => ({
      text: state.text, other: state.other, inside: state.inside, at: state.at, node: state.node,
      answers: state.answers,
      changes: [...state.changes].map(([name, change]) => [name, ...change]),
    });

    async function answer() {
      clearTimeout(timer);
      await start();
      if (text.value !== state.text) text.value = state.text;
      if (other.value !== state.other) other.value = state.other;
      try {
        state.reply = state.engine.session.run(state.engine.circuit, asked());
      } catch (error) {
        said.textContent = error.message;
        return;
      }
      const cut = state.reply.n_left_out;
      said.textContent = cut ? `too long for this model: the first ${cut} tokens are left out` : "";
      show();
      page.query = query();
      page.written();
    }

    // --- showing

    function show() {
      const { now, largest } = state.reply.nodes, focus = document.activeElement?.dataset?.focus;
      const patterns = () => state.engine.session.patterns(state.engine.circuit, asked());
      shown.replaceChildren(...CircuitTryView.of(page, state, { patterns, move, change, undo }));
      body.hidden = false;
      if (focus) shown.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
      page.drawing.show(now.map((value, n) => value / (largest[n] || 1)), { scale: 1 });
    }

    function move(place) {
      state.at = place === state.reply.tokens.length - 1 ? null : place;
      answer();
    }

    function change(name, kind, value = FIRST[kind] ?? null) {
      if (kind === "as") state.changes.delete(name);
      else state.changes.set(name, [kind, value]);
      answer();
    }

    function undo() {
      state.changes.clear();
      answer();
    }

    function chosen(name) {
      if (name === state.node) return;
      state.node = name;
      if (state.reply) answer();
    }

    // --- the address

    function query() {
      const written = new URLSearchParams({ text: state.text });
      if (state.other) written.set("other", state.other);
      if (state.inside !== "circuit") written.set("in", state.inside);
      if (state.at !== null) written.set("at", state.at);
      for (const [name, change] of state.changes) {
        written.append("do", [name, ...change.filter(x => x !== null)].join("~"));
      }
      return `?${written}`;
    }

    // What an address says; parts of another circuit, and what is no change, are left out.
    function restore(query) {
      const written = new URLSearchParams(query), at = written.get("at");
      if (!written.get("text")) return;
      const known = ([, kind]) => CircuitTryView.KINDS.has(kind);
      const changes = written.getAll("do").map(each => each.split("~")).filter(known);
      const numbered = ([name, kind, value]) => [name, [kind, kind in FIRST ? Number(value) || 0 : null]];
      Object.assign(state, {
        text: written.get("text"), other: written.get("other") ?? "", at: at === null ? null : Number(at) || 0,
        inside: written.get("in") === "model" ? "model" : "circuit", changes: new Map(changes.map(numbered)),
        answers: answersOf(0),
      });
      sides();
      answer();
    }

    return { element, chosen, restore };
  }

  return { section };
})();
