// The page of `sparse-circuits play`: asks the server what model and circuit make of the text, and shows it.
(() => {
  "use strict";

  const PAUSE = 160; // ms without a key before the text is asked about
  const READABLE = 0.85, LOW = 300, HIGH = 520; // of the picture's own size; its least and largest height in pixels
  const { make, number, signed, percent, sign, fetched, diverging } = PlayPieces;
  const { sign: visible, visible: spaced } = CircuitElements;
  const by = (id) => document.getElementById(id);
  const session = JSON.parse(by("session").textContent);
  const state = {
    circuit: null, // what the server says of the chosen circuit, once
    off: { nodes: new Set(), edges: new Set() },
    at: null, // token after which is chosen; null: the last
    node: null, // whose values colour the tokens
    answers: [], // the task's two tokens, side a's first
    example: null, // {pair, side} while the text is that prompt
    reply: null,
    order: null, // of the nodes, by index; null: anew
  };
  let timer = 0;
  let asking = null;

  const inside = () => document.querySelector("input[name=inside]:checked").value;
  const nOff = () => state.off.nodes.size + state.off.edges.size;

  // --- asking

  function say(text, wrong = false) {
    by("said").textContent = text;
    by("said").classList.toggle("wrong", wrong);
    document.querySelector("main").classList.toggle("stale", wrong); // what is shown is of another text
  }

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(() => ask(), PAUSE);
  }

  // Rows keep their places while switches are tried.
  async function ask(places = "anew") {
    clearTimeout(timer);
    if (places === "anew") state.order = null;
    asking?.abort();
    const mine = (asking = new AbortController());
    const body = {
      text: by("text").value, circuit: state.circuit?.name ?? null, inside: inside(), at: state.at, node: state.node,
      effects: by("order").value === "effect", off_nodes: [...state.off.nodes], off_edges: [...state.off.edges], answers: state.answers,
    };
    if (!body.text) return say("the text is empty: type some code, or take one of the examples", true);
    try {
      state.reply = await fetched("run", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: mine.signal,
      });
      show();
    } catch (error) {
      if (mine !== asking || error.name === "AbortError") return;
      const lost = error instanceof TypeError;
      say(lost ? "the server does not answer: is `sparse-circuits play` still running?" : error.message, true);
    }
  }

  // --- showing

  function show() {
    const { reply, circuit } = state;
    const cut = reply.n_left_out;
    say(cut ? `too long for this model, which reads ${session.n_ctx} tokens: the first ${cut} are left out` : "");
    showTokens(reply);
    showChoice(by("model"), reply.model, false);
    by("circuit").hidden = !circuit;
    if (!circuit) return;
    showChoice(by("circuit"), reply.circuit, true);
    showOff();
    showNodes();
    showEdges();
    drawing.update();
  }

  function showTokens(reply) {
    const { series } = reply;
    const largest = series ? Math.max(...series.now.map(Math.abs), 1e-12) : 1;
    by("tokens").replaceChildren(
      ...reply.tokens.map((text, i) => {
        const value = series ? series.now[i] : 0;
        const title = series ? `${series.node} ${number(value)}${changed(series.before[i], value)}` : visible(text);
        const [shown, ...marks] = i ? [text] : ["", make("i", {}, "▸")];
        const token = make("span", {
          className: series ? `tok ${sign(value)}` : "tok", role: "option", title, tabIndex: i === reply.at ? 0 : -1,
          "aria-selected": String(i === reply.at), "data-at": i, style: `--h:${Math.abs(value) / largest}`,
          "aria-label": `${i ? visible(text) : "start of text"}${series ? `, ${number(value)}` : ""}`,
        }, ...marks);
        for (const part of shown.split(/(\n)/)) token.append(...(part === "\n" ? [make("i", {}, "⏎"), "\n"] : [part]));
        return token;
      }),
    );
    by("seriestitle").textContent = series ? `Values of ${series.node}, token by token` : "Tokens";
    by("legend").hidden = !series;
    by("tolast").hidden = state.at === null;
  }

  const changed = (before, now) => (before === now ? "" : ` (with all on ${number(before)})`);

  function showChoice(section, choice, calibrated) {
    section.querySelector(".bars").replaceChildren(
      ...choice.tokens.map(([id, text, before, now]) => {
        const two = now !== undefined;
        const bars = two ? [bar("before", before), bar("now", now)] : [bar("", before)];
        const label = (rightAnswer() === id ? "✓ " : "") + spaced(text);
        const p = two ? [make("s", {}, `${percent(before)} → `), percent(now)] : [percent(before)];
        return make("div", { className: `bar${state.answers.includes(id) ? " answer" : ""}${two ? " two-bars" : ""}` },
          make("code", { title: visible(text) }, label), make("span", { className: "track" }, ...bars),
          make("span", { className: "p" }, ...p));
      }),
      ...(choice.first ? [between(choice, calibrated)] : []),
    );
  }

  const bar = (kind, p) => make("b", { className: kind, style: `width:${100 * p}%` });

  function rightAnswer() {
    return state.example && state.at === null ? state.answers[state.example.side] : null;
  }

  function between(choice, calibrated) {
    const text = (id) => spaced(choice.tokens.find((row) => row[0] === id)[1]);
    const [first, second] = state.answers.map(text);
    const [before, now = before] = choice.first;
    const split = (p, kind) => make("span", { className: `split${kind}` }, make("b", { style: `width:${100 * p}%` }));
    const off = now !== before;
    const was = (p) => (off ? [make("s", {}, `${percent(p)} → `)] : []);
    return make("div", { className: "two" },
      calibrated ? "Between the two, calibrated: " : "Between the two: ",
      make("code", {}, first), " ", ...was(before), percent(now), ", ", make("code", {}, second), " ", ...was(1 - before), percent(1 - now),
      split(before, off ? " was" : ""), ...(off ? [split(now, " now")] : []));
  }

  function showOff() {
    const parts = [[state.off.nodes.size, "node"], [state.off.edges.size, "edge"]].filter(([n]) => n);
    by("offline").hidden = !parts.length;
    const what = parts.map(([n, name]) => `${n} ${name}${n > 1 ? "s" : ""}`).join(" and ");
    by("offline").querySelector("span").textContent =
      `${what} off in ${inside() === "circuit" ? "the circuit" : "the whole model"}; pale: with all on.`;
  }

  function nodeRows() {
    const { now, before, largest } = state.reply.nodes;
    const effects = state.reply.effects;
    const rows = state.circuit.nodes.map((name, i) => {
      const ablated = state.circuit.ablated_to[i];
      const scale = Math.max(largest[i], Math.abs(ablated), 1e-12);
      return { name, i, ablated, now: now[i], before: before[i], scale, effect: effects && effects.of[i] };
    });
    const strength = (row) => (effects ? Math.abs(row.effect) : Math.abs(row.before) / row.scale);
    if (by("order").value === "forward") return rows;
    state.order ??= rows.map((row) => row.i).sort((a, b) => strength(rows[b]) - strength(rows[a]) || a - b);
    return state.order.map((i) => rows[i]);
  }

  function showNodes() {
    const rows = nodeRows();
    const firing = rows.filter((row) => row.now !== 0).length;
    const token = state.reply.tokens[state.reply.at];
    by("nodestitle").textContent = `Nodes: ${firing} of ${rows.length} fire at “${state.reply.at ? visible(token) : "start"}”`;
    by("nodes").classList.toggle("weighed", Boolean(state.reply.effects));
    by("effectnote").hidden = !state.reply.effects;
    by("effectnote").textContent = state.reply.effects ? `Last column: ${effectOf(state.reply.effects)}.` : "";
    keepFocus(by("nodes"), rows.map(nodeRow));
  }

  function effectOf({ tokens: [first, second] }) {
    const where = inside() === "circuit" ? "the circuit" : "the whole model";
    const what = second === undefined
      ? `the log probability of ${spaced(first)}`
      : `the logit of ${spaced(first)} less that of ${spaced(second)}`;
    return `by how much ${what} in ${where} changes when this node alone goes off`;
  }

  function nodeRow(row) {
    const off = state.off.nodes.has(row.name);
    const kinds = [off && "off", row.name === state.node && "chosen", row.now === 0 && "silent"].filter(Boolean);
    const was = number(row.now) === number(row.before) ? [] : [make("s", {}, number(row.before))];
    return make("li", { className: kinds.join(" "), title: `ablated to ${number(row.ablated)}` },
      make("input", { type: "checkbox", checked: !off, "data-switch": row.name, "aria-label": `${row.name} on` }),
      make("button", { type: "button", className: "name", "data-node": row.name, "aria-pressed": String(row.name === state.node) }, row.name),
      diverging(row), make("span", { className: "num" }, ...was, number(row.now)),
      ...(row.effect === undefined || row.effect === null ? [] : [make("span", { className: "num effect" }, signed(row.effect))]), ...label(row.name));
  }

  function label(name) {
    const text = state.circuit.labels[name];
    return text ? [make("span", { className: "label", title: "found by rule" }, text)] : [];
  }

  // Rows are made anew after each answer: what had the focus has it again.
  function keepFocus(list, rows) {
    const active = list.contains(document.activeElement) ? document.activeElement : null;
    const key = active && ["data-switch", "data-node"].find((name) => active.hasAttribute(name));
    const value = key && active.getAttribute(key);
    list.replaceChildren(...rows);
    if (key) list.querySelector(`[${key}="${CSS.escape(value)}"]`)?.focus({ preventScroll: true });
  }

  function showEdges() {
    const { node, circuit } = state;
    by("edges").hidden = !node;
    if (!node) return;
    const into = [], out = [];
    circuit.edges.forEach((name, i) => {
      const [source, target] = name.split("->");
      if (target === node) into.push({ name, end: source, weight: circuit.weights[i] });
      if (source === node) out.push({ name, end: target, weight: circuit.weights[i] });
    });
    const heaviest = Math.max(...[...into, ...out].map((edge) => Math.abs(edge.weight)), 1e-12);
    const list = (title, edges) => (edges.length ? [make("h3", {}, title), make("ol", { className: "parts" },
      ...edges.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).map((edge) => edgeRow(edge, heaviest)))] : []);
    const none = into.length || out.length ? [] : [make("p", { className: "note" }, `${node} has no edges in this circuit.`)];
    keepFocus(by("edges"), [...list(`Edges into ${node}`, into), ...list(`Edges out of ${node}`, out), ...none]);
  }

  function edgeRow({ name, end, weight }, heaviest) {
    const off = state.off.edges.has(name);
    return make("li", { className: off ? "off" : "" },
      make("input", { type: "checkbox", checked: !off, "data-switch": name, "aria-label": `edge ${name} on` }),
      make("button", { type: "button", className: "name", "data-node": end }, end),
      diverging({ now: weight, before: weight, ablated: null, scale: heaviest }), make("span", { className: "num" }, number(weight)));
  }

  // --- the circuit's picture

  const drawing = {
    picture: null,
    pinned: null,
    names: [], // of its nodes, in its order
    mount() {
      this.picture?.destroy();
      this.picture = this.pinned = null;
      const { drawing: known, nodes } = state.circuit ?? {};
      by("drawing").hidden = !known || !nodes.length;
      if (by("drawing").hidden) return;
      by("drawing").style.height = `${Math.min(Math.max(READABLE * known.height, LOW), HIGH)}px`;
      this.names = CircuitElements.describe(known).map(({ name }) => name);
      this.picture = CircuitDrawing.mount(by("drawing"), known, { onselect: (name) => choose(name, true), describe: (n) => this.told(n) });
    },
    // Nodes in the colours of their values, the strongest in this text full; what is off is faint.
    update() {
      if (!this.picture) return;
      const rows = new Map(nodeRows().map((row) => [row.name, row]));
      this.picture.show(this.names.map((name) => rows.get(name).now / rows.get(name).scale), { scale: 1 });
      if (state.node !== this.pinned) this.picture.select((this.pinned = state.node)); // else it would undo a move
      by("drawing").querySelectorAll(".cd-node").forEach((group) => {
        group.classList.toggle("off", state.off.nodes.has(this.names[Number(group.dataset.n)]));
      });
    },
    told(n) {
      const row = state.reply?.nodes && nodeRows().find(({ name }) => name === this.names[n]);
      const off = state.off.nodes.has(this.names[n]) ? ", off" : "";
      return [row && `value here ${number(row.now)}${off}`, state.circuit.labels[this.names[n]]].filter(Boolean).join("\n");
    },
  };

  // --- choosing

  async function chooseCircuit(name) {
    state.off.nodes.clear();
    state.off.edges.clear();
    Object.assign(state, { circuit: null, order: null, node: null, answers: [], example: null });
    by("parts").hidden = !name;
    if (name) {
      try {
        state.circuit = await fetched(`circuit/${name.split("/").map(encodeURIComponent).join("/")}`);
      } catch (error) {
        return say(error.message, true);
      }
      state.answers = state.circuit.answers;
    }
    showExamples();
    showNotes();
    drawing.mount();
    if (state.circuit?.pairs.length) load(0, 0);
    else ask();
  }

  function showNotes() {
    const { circuit } = state;
    by("calibrated").hidden = !state.circuit?.pairs.length;
    if (!circuit) return;
    const [scale, shift] = circuit.calibration;
    by("calibrated").textContent =
      `The circuit's calibration (scale ${number(scale)}, shift ${number(shift)}) is about the task's two answers against each other only: ` +
      "it is in the bar between them, in no other number here.";
    by("ablatednote").textContent =
      `Off: ablated to ${circuit.ablation} (the dark tick). An edge that is off carries that value of its source, for its target alone. Click a node for its values and its edges.`;
  }

  function showExamples() {
    const pairs = state.circuit?.pairs ?? [];
    const chips = pairs.flatMap((pair, i) => pair.prompts.map((prompt, side) => make("button", {
      type: "button", title: prompt, "data-pair": i, "data-side": side, "aria-pressed": "false",
      "aria-label": `example ${i + 1}${"ab"[side]}, right answer ${visible(pair.texts[side])}`,
    }, `${i + 1}${"ab"[side]} → ${spaced(pair.texts[side])}`)));
    const why = state.circuit?.why_none ? [`No examples: ${state.circuit.why_none}`] : [];
    by("examples").replaceChildren(...(chips.length ? ["Prompts of the task and their right answers:", ...chips] : why));
  }

  function load(pair, side) {
    const { prompts, answers } = state.circuit.pairs[pair];
    by("text").value = prompts[side];
    Object.assign(state, { example: { pair, side }, answers, at: null });
    pressExample();
    ask();
  }

  function pressExample() {
    for (const chip of by("examples").querySelectorAll("button")) {
      const { pair, side } = state.example ?? {};
      chip.setAttribute("aria-pressed", String(+chip.dataset.pair === pair && +chip.dataset.side === side));
    }
  }

  function choose(node, picked = false) {
    const again = node === state.node && !picked;
    state.node = again || !state.circuit.nodes.includes(node) ? null : node;
    ask("kept");
  }

  function flip(name, on) {
    const off = name.includes("->") ? state.off.edges : state.off.nodes;
    if (on) off.delete(name);
    else off.add(name);
    ask("kept");
  }

  function moveTo(at) {
    const last = state.reply.tokens.length - 1;
    const place = Math.max(0, Math.min(at, last));
    state.at = place === last ? null : place;
    ask().then(() => by("tokens").querySelector('[tabindex="0"]')?.focus({ preventScroll: false }));
  }

  // --- events

  by("text").addEventListener("input", () => {
    Object.assign(state, { at: null, example: null });
    pressExample();
    soon();
  });
  by("examples").addEventListener("click", ({ target }) => {
    const chip = target.closest("button");
    if (chip) load(+chip.dataset.pair, +chip.dataset.side);
  });
  by("tokens").addEventListener("click", ({ target }) => {
    const token = target.closest(".tok");
    if (token) moveTo(+token.dataset.at);
  });
  by("tokens").addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: state.reply.at - 1, ArrowRight: state.reply.at + 1, Home: 0, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moveTo(moves[event.key]);
  });
  by("tolast").addEventListener("click", () => moveTo(Infinity));
  by("parts").addEventListener("click", ({ target }) => {
    const name = target.closest("[data-node]")?.dataset.node;
    if (name) choose(name);
  });
  by("parts").addEventListener("change", ({ target }) => {
    if (target.dataset.switch) flip(target.dataset.switch, target.checked);
    else if (target.name === "inside") ask();
    else if (target.id === "order") ask();
  });
  by("allon").addEventListener("click", () => {
    state.off.nodes.clear();
    state.off.edges.clear();
    ask("kept");
  });
  by("which").addEventListener("change", ({ target }) => chooseCircuit(target.value));

  // --- the beginning

  const names = Object.keys(session.circuits);
  by("which").append(
    ...names.map((name) => {
      const { nodes, edges } = session.circuits[name];
      return make("option", { value: name }, `${name}: ${nodes.toLocaleString("en")} nodes, ${edges.toLocaleString("en")} edges`);
    }),
    make("option", { value: "" }, "none: the model only"),
  );
  by("nocircuit").hidden = names.length > 0;
  by("text").value = "def add(a, b):\n    return a +";
  chooseCircuit(names[0] ?? "");
})();
