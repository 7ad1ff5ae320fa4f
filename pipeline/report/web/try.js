"use strict";
// Prompts of one's own on a circuit's page: what comes next by model and circuit, the nodes' values in the drawing, and
// nodes and edges that are off, scaled, set, or swapped with the other prompt's.
//
// CircuitTry.section(page, engine) → { element, chosen(node or null), restore(query), begin() }
//   page: { bundle, nodes (described), edges (names), drawing or null, select(node), written() }; its `query` is the part
//   of the address that is kept here; engine: a function of engines.js
const CircuitTry = (() => {
  const { make, choice } = CircuitElements;
  const PAUSE = 20; // ms without a key before a text is run
  const INSIDE = [["circuit", "in the circuit alone"], ["model", "in the whole model"]];
  const FIRST = { scale: -1, set: 0 }; // numbers to begin with
  const SOME_CODE = "def add(a, b):\n    return a +"; // where the task has no prompts
  function section(page, engine) {
    const { run } = page.bundle;
    const state = {
      text: "", other: "", inside: "circuit", at: null, node: null, changes: new Map(), // name → [kind, number or null]
      answers: run.answers, effects: false, engine: null, reply: null,
    };
    let wanted = 0, running = false; // which answer is asked for; whether one is on its way
    const text = area("A prompt", 3, value => Object.assign(state, { text: value, at: null }));
    const other = area("The other prompt", 2, value => { state.other = value; });
    const said = make("p", { class: "dim", role: "status" });
    const shown = make("div", { class: "ct-shown" }), inside = make("div");
    const swaps = make("details", { class: "ct-other" },
      make("summary", {}, "The other prompt, whose values can be swapped in"), other);
    const body = make("div", { hidden: true }, page.drawing && inside, shown, page.drawing && swaps);
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
      return make("p", { class: "ct-examples dim" }, buttons.length ? ["or take one of the task: ", buttons] : run.why_none);
    }

    function sides() {
      const choose = value => { state.inside = value; answer(); };
      inside.replaceChildren(choice("Values and changes in", INSIDE, state.inside, choose));
    }

    // --- running

    async function start() {
      if (!state.engine) said.textContent = "unpacking the model …";
      state.engine ??= await engine();
    }

    async function begin() {
      await start();
      if (state.text) said.textContent = "";
      else if (run.pairs.length) await take(0, 0);
      else {
        state.text = SOME_CODE;
        await answer();
      }
    }

    async function take(pair, side) {
      await start();
      const written = state.engine.prompts(pair);
      Object.assign(state, { text: written[side], other: written[1 - side], answers: answersOf(pair), at: null });
      await answer();
    }

    const answersOf = pair => (run.answers.length ? run.answers : run.pairs[pair]?.map(([, right]) => right) ?? []);
    const asked = () => ({
      text: state.text, other: state.other, inside: state.inside, at: state.at, node: state.node,
      answers: state.answers, effects: state.effects, head: headOf(state.node),
      changes: [...state.changes].map(([name, change]) => [name, ...change]),
    });

    // One answer is asked for at a time; what was changed meanwhile is asked for next, and only the last is shown.
    async function answer() {
      clearTimeout(timer);
      wanted++;
      if (running) return;
      running = true;
      try {
        for (let asking = 0; asking !== wanted;) {
          asking = wanted;
          await answerOnce(() => asking === wanted);
        }
      } finally {
        running = false;
      }
    }

    async function answerOnce(isLast) {
      try {
        await start();
        if (text.value !== state.text) text.value = state.text;
        if (other.value !== state.other) other.value = state.other;
        const body = asked();
        refuse(body);
        state.effects = false; // asked for anew each time: they take a run a node
        const reply = await state.engine.run(body);
        if (!isLast()) return;
        state.reply = reply;
      } catch (error) {
        if (isLast()) said.textContent = error.message;
        return;
      }
      const cut = state.reply.n_left_out;
      said.textContent = cut ? `too long for this model: the first ${cut} tokens are left out` : "";
      show();
      page.query = query();
      page.written();
    }

    // What need not be asked to be refused.
    function refuse({ text: written, other: there, changes }) {
      if (!written) throw new Error("the text is empty: type some code, or take one of the examples");
      if (!there && changes.some(([, kind]) => kind === "swap")) {
        throw new Error("to swap a value, write the other prompt");
      }
    }

    // Layer and head of a query, key or value channel.
    function headOf(node) {
      const found = page.nodes.find(({ name }) => name === node);
      if (!found || !"qkv".includes(found.kind)) return null;
      return [found.layer, Math.floor(Number(node.split(".")[2]) / page.bundle.drawing.d_head)];
    }

    // --- showing

    function show() {
      const focus = document.activeElement?.dataset?.focus;
      const nodes = state.reply.nodes && CircuitTryNodes.of(page, state, weigh);
      shown.replaceChildren(...[...CircuitTryView.of(page, state, { move, change, undo }), nodes].filter(Boolean));
      body.hidden = false;
      if (focus) shown.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
      if (!page.drawing) return;
      const { now, largest } = state.reply.nodes;
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

    function weigh() {
      state.effects = true;
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

    return { element, chosen, restore, begin };
  }

  return { section };
})();
