"use strict";
// The controls of a circuit's drawing: search, what edges are drawn by, how many, pins, groups, the model beside, export.
//
// CircuitToolbar.section(page) → { element, told({ nodes, edges }), chosen() }; page: { bundle, nodes, options (words.js),
// drawing, look, node, see(changes of the look), pin(name), select(name) }; `told` says how much of
// the circuit is shown, `chosen` that another node is chosen
const CircuitToolbar = (() => {
  const { make, number, visible, choice } = CircuitElements;
  const STEPS = 40; // of the slider of shares

  function section(page) {
    const { bundle, options } = page, sized = sizes(page), parts = part(page), told = make("p", { class: "ck-told dim", role: "status" });
    const pinned = make("span", { class: "ck-pins" }), whole = full(page);
    const element = make("section", { class: "ck", "aria-label": "What the drawing shows" },
      make("div", { class: "ck-line" }, parts, search(page), options.carried ? by(page) : null, threshold(page), sized?.element),
      make("div", { class: "ck-line" }, pinned, beside(page), saving(page), whole), told);

    function fresh({ nodes, edges }) {
      const { nodes: { x }, edges: { weight } } = bundle.drawing;
      const part = nodes > x.length || edges > weight.length ? `A larger circuit: ${nodes} nodes, ${edges} edges; this one has ${x.length} and ${weight.length}. Edges by their weight. ` : edges < weight.length || nodes < x.length ? `Shown: ${nodes} of ${x.length} nodes, ${edges} of ${weight.length} edges. ` : "";
      const n = options.paths.length;
      told.textContent = part + (n ? `Bold: the ${n === 1 ? "main path" : `${n} main paths`}.` : "");
      sized?.fresh();
      parts?.querySelectorAll("button").forEach((button, whole) => button.setAttribute("aria-pressed", String(Boolean(whole) === page.look.whole)));
      whole.setAttribute("aria-pressed", String(page.look.full));
      whole.textContent = page.look.full ? "leave full height" : "full height";
      chosen();
    }

    // Buttons are made anew, without the keyboard losing its place.
    function chosen() {
      const at = [...pinned.querySelectorAll("button, input")].indexOf(document.activeElement);
      pinned.replaceChildren(...pins(page), ...groups(page));
      if (at >= 0) [...pinned.querySelectorAll("button, input")][at]?.focus();
    }

    return { element, told: fresh, chosen };
  }

  // --- search

  // What of a node is searched: its name, its place, its words, the tokens at its channel's ends.
  function texts({ bundle: { drawing, explanation }, nodes }) {
    const ends = new Map();
    const note = (kind, [channel, , , tokens]) => {
      if (Array.isArray(tokens)) ends.set(`${kind} ${channel}`, tokens.map(([token]) => visible(drawing.tokens[token])).join(" "));
    };
    for (const end of drawing.inputs) note("in", end);
    for (const end of drawing.outputs.ends) note("out", end);
    return nodes.map(({ name, spoken, place }, n) => {
      const { task_label: label } = explanation?.nodes[n] ?? {};
      const kind = place.endsWith("_in") ? "in" : place.endsWith("_out") ? "out" : "";
      return [name, spoken, label?.short, label?.text, label?.role, ends.get(`${kind} ${drawing.nodes.index[n]}`)].filter(Boolean).join("\n").toLowerCase();
    });
  }

  function search(page) {
    const known = texts(page), said = make("span", { class: "dim", role: "status" });
    let last = -1;
    const hits = () => {
      const wanted = field.value.toLowerCase().trim(), seen = visible(wanted);
      return wanted ? known.flatMap((text, n) => (text.includes(wanted) || text.includes(seen) ? [n] : [])) : [];
    };
    const count = found => { said.textContent = field.value.trim() ? `${found.length} hit${found.length === 1 ? "" : "s"}` : ""; };
    const field = make("input", {
      type: "search", placeholder: "node, token or word", "aria-label": "Search; Enter pins the next hit",
      oninput: () => { last = -1; count(hits()); page.drawing.light(hits().length ? hits().map(n => page.nodes[n].name) : null); },
      onkeydown: event => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        const found = hits();
        if (!found.length) return;
        last = found.find(n => n > last) ?? found[0];
        const { name } = page.nodes[last];
        page.drawing.light(null);
        page.see({ pins: [...new Set([...page.look.pins, name])] });
        page.select(name);
      },
    });
    return make("label", { class: "ck-search" }, field, said);
  }

  // --- edges

  const part = page => (page.core ? choice("Part of the circuit", [[false, "main paths"], [true, "whole circuit"]], page.look.whole, value => page.see({ whole: value, size: null })) : null);
  const by = page => choice("Edges drawn by", [["carried", "what they carry"], ["weight", "their weight"]], page.look.by, value => page.see({ by: value }));

  function slider(label, value, most, say, chosen) {
    const said = make("output", {}, say(value));
    const input = make("input", {
      type: "range", min: 0, max: most, value, "aria-label": label,
      oninput: () => {
        said.textContent = say(Number(input.value));
        input.setAttribute("aria-valuetext", said.textContent);
        chosen(Number(input.value));
      },
    });
    input.setAttribute("aria-valuetext", say(value));
    return [input, said];
  }

  function threshold(page) {
    const share = step => (step / STEPS) ** 2; // finer where most edges are
    const say = step => (step ? `from ${number(100 * share(step))} % of the largest` : "all edges");
    const [input, said] = slider("Least strength of an edge", Math.round(Math.sqrt(page.look.least) * STEPS), STEPS, say,
      step => page.see({ least: Number(share(step).toFixed(4)) }));
    return make("label", { class: "ck-least", title: "Share of the largest number of its kind that an edge has to have" }, "strength ", input, said);
  }

  // The slider over the smaller circuits inside of this one, and over the larger ones around it.
  function sizes(page) {
    const { bundle, options, see, larger } = page;
    const inside = options.order ? [...(bundle.explanation?.sizes ?? [])].reverse() : [], own = inside.length - 1;
    const around = larger.map(({ picture, loss, target_loss: target }) => [picture.edges.source.length, loss, target]);
    const all = [...inside, ...around], on = bundle.explanation?.size_pairs ?? "a few";
    if (!inside.length || all.length < 2) return null;
    const say = i => `${all[i][0]} edges: ${number(all[i][1])} nats on ${on} test pairs${i > own ? `; as many nodes as pruning took for ${all[i][2]} nats` : ""}`;
    const [input, said] = slider("Size of the circuit", own, all.length - 1, say, i => see({ size: i === own ? null : all[i][0], whole: page.look.whole || (Boolean(page.core) && i !== own) }));
    const element = make("label", { class: "ck-size", title: sizesSaid(bundle) }, "size ", input, said);
    function fresh() {
      const { size } = page.look;
      input.value = size === null ? own : Math.max(all.findLastIndex(([n]) => n <= size), 0);
      said.textContent = say(Number(input.value));
    }
    return { element, fresh };
  }

  function sizesSaid({ row, larger }) {
    const kept = (row.curve ?? []).filter(point => point.n_edges !== null).map(point => `${point.target_loss} nats: ${point.n_edges}`).join("; ");
    return "Smaller: edges were taken away one after the other, each time one that cost little; the task loss of the circuit that is left is measured on these few test pairs, and so it differs from the circuit’s loss on its validation pairs." +
      (larger?.length ? " Larger: the next nodes by their score in the search, as many as pruning took for a stricter loss, with all edges between them, calibrated anew." : "") +
      (kept ? ` Pruning found circuits of these sizes, but keeps only its main one: ${kept}.` : "");
  }

  // --- pins and groups

  function pins(page) {
    const { look, node } = page, pinned = look.pins.includes(node);
    const chips = look.pins.map(name => make("span", { class: "ck-chip" },
      make("button", { type: "button", class: "cc-link", onclick: () => page.select(name) }, name), remove(`unpin ${name}`, () => page.pin(name))));
    const only = make("input", { type: "checkbox", checked: look.only, onchange: () => page.see({ only: only.checked }) });
    return [
      make("button", { type: "button", class: "ck-pin", disabled: !node, "aria-pressed": String(pinned), title: "Pin the chosen node (P, or Shift+click)", onclick: () => page.pin(node) }, pinned ? "unpin" : "pin"),
      ...chips,
      look.pins.length ? make("label", { title: "Only what is on a path through every pinned node" }, only, " only paths through pins") : "",
    ];
  }

  const remove = (label, act) => make("button", { type: "button", class: "ck-remove", "aria-label": label, title: label, onclick: act }, "×");

  function groups(page) {
    const { look } = page;
    const chips = look.groups.map((group, i) => make("span", { class: "ck-chip group" },
      make("button", { type: "button", class: "cc-link", title: group.nodes.join(", "), onclick: () => page.see({ pins: group.nodes }) }, group.name),
      remove(`dissolve group ${group.name}`, () => page.see({ groups: look.groups.filter((_, j) => j !== i) }))));
    if (look.pins.length < 2) return chips;
    const name = make("input", { type: "text", class: "ck-name", placeholder: "name", maxlength: 40, "aria-label": "Name for a group of the pinned nodes" });
    const form = make("form", {
      class: "ck-group", onsubmit: event => {
        event.preventDefault();
        if (name.value.trim()) page.see({ groups: [...look.groups, { name: name.value.trim(), nodes: look.pins }], pins: [] });
      },
    }, name, make("button", { type: "submit" }, "group pins"));
    return [...chips, form];
  }

  // --- the rest

  function beside({ bundle: { model, task }, look, see }) {
    const others = CircuitBundles.models(task).filter(name => name !== model);
    if (!others.length) return null;
    const option = (value, text) => make("option", { value, selected: value === (look.beside ?? "") }, text);
    const select = make("select", { "aria-label": "Compare with the same task in another model", onchange: () => see({ beside: select.value || null }) },
      option("", "compare with …"), others.map(name => option(name, name)));
    return select;
  }

  const saving = page => make("span", { class: "ck-save", role: "group", "aria-label": "Save what is seen" },
    [["svg", "SVG"], ["png", "PNG"], ["json", "JSON"]].map(([kind, text]) => make("button", {
      type: "button", title: `Save what is seen as ${text}`, onclick: () => CircuitExport.save(page, kind),
    }, text)));

  const full = page => make("button", {
    type: "button", class: "ck-full", title: "As high as the window; Escape leaves", "aria-pressed": String(page.look.full), onclick: () => page.see({ full: !page.look.full }),
  }, "full height");

  return { section };
})();
