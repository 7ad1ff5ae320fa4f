"use strict";
// The picture of a circuit, to pan and zoom. Edges are on a canvas (thousands of them move at a usable speed), all
// else is SVG: nodes can be focused, pointed at and read out.
//
// CircuitDrawing.mount(element, drawing, options) → { select, show, light, see, seen, fit, move, destroy }
//   options.onselect(name or null, number or null): a node was chosen; options.onpin(name): one was pinned (Shift+click,
//   or P); options.describe(number) → more for its tip; and what CircuitWords.of says of the circuit, if anything
//   select(name, number or null): chooses a node. show(values or null, { scale, row }): colours nodes by values (−scale …
//   scale) and marks a row. light(names or null): lights nodes and the edges among them, the others are faint.
//   see(look): which edges are drawn by which number (look.js). seen(): all that an export needs. fit(true): all of it.
//   move(dx, dy): by pixels of the screen.
const CircuitDrawing = (() => {
  const { make, number, visible, words, tint, describe } = CircuitElements;
  const { scene, pushed } = CircuitScene;
  const FAINT = 0.13; // of edges that are not asked for
  const NEAR = 6; // pixels from an edge that count as on it
  const MARGIN = 200; // pixels of edges around what is seen
  const HEAVY = 600, SETTLED = 140; // edges from which a zoom first enlarges what is painted; ms until it is painted anew
  const NOTHING = { said: () => null, paths: [], carried: null, pushes: null, order: null };

  function mount(element, drawing, options = {}) {
    const nodes = describe(drawing), { said, paths, carried, pushes, order } = { ...NOTHING, ...options };
    const { x: xs, y: ys } = drawing.nodes, { source, target, weight } = drawing.edges;
    const state = { hovered: null, pinned: null, edge: null, lit: null, values: null, scale: 1, row: null };
    const graph = CircuitGraph.of(drawing, nodes), { touching } = graph;
    let look = {}, edges = [], live = null, kept = null, all = [];

    const canvas = make("canvas", { class: "cd-edges", "aria-hidden": "true" });
    const parts = scene(drawing, nodes, CircuitWords.layer(drawing, nodes, said), paths);
    const tip = make("div", { class: "cd-tip", role: "status", hidden: true });
    const buttons = make("div", { class: "cd-buttons", role: "group", "aria-label": "Zoom" },
      button("+", "zoom in", () => zoom(1.4)), button("−", "zoom out", () => zoom(1 / 1.4)), button("⤢", "fit", () => fit(true)));
    const host = make("div", {
      class: "cd", tabindex: "0", role: "group",
      "aria-label": `Drawing of the circuit, ${nodes.length} nodes and ${weight.length} edges. Arrow keys move it, + and − zoom, Tab goes through the nodes.`,
    }, canvas, parts.svg, parts.labels, tip, buttons);
    element.replaceChildren(host);

    function button(text, label, act) {
      return make("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    }

    // --- what is seen

    let waiting = 0;
    let painted = null; // how the picture lay when its edges were painted; null: they have to be painted again
    const later = () => { waiting ||= requestAnimationFrame(() => { waiting = 0; frame(); }); };
    const again = () => { painted = null; later(); };
    const { view, fitting, fit, zoom: zoomBy, move, reveal } = CircuitView.of(host, drawing, later);
    const zoom = (...how) => { tell(""); zoomBy(...how); };

    let settling = 0;
    function frame() {
      host.style.touchAction = view.k > fitting() * 1.05 ? "none" : "pan-y";
      if (painted && painted.k !== view.k && kept.length > HEAVY) return enlarge();
      parts.place(view, live.nodes);
      const moved = painted && [view.x - painted.x, view.y - painted.y];
      if (!moved || painted.k !== view.k || Math.max(...moved.map(Math.abs)) > MARGIN) return paintEdges();
      canvas.style.transform = `translate(${moved[0]}px, ${moved[1]}px)`;
    }

    // What is painted already, larger or smaller, until the zoom has come to rest.
    function enlarge() {
      const more = view.k / painted.k;
      parts.place(view, live.nodes, true);
      canvas.style.transform = `translate(${view.x - more * painted.x}px, ${view.y - more * painted.y}px) scale(${more})`;
      clearTimeout(settling);
      settling = setTimeout(again, SETTLED);
    }

    // The canvas is larger than what is seen by a margin on every side, so that moving seldom paints.
    function paintEdges() {
      const ratio = devicePixelRatio || 1, width = host.clientWidth + 2 * MARGIN, height = host.clientHeight + 2 * MARGIN;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        Object.assign(canvas.style, { width: `${width}px`, height: `${height}px`, left: `${-MARGIN}px`, top: `${-MARGIN}px`, transformOrigin: `${MARGIN}px ${MARGIN}px` });
      }
      const pen = canvas.getContext("2d"), colours = CircuitEdges.colours(getComputedStyle(host));
      const { paint, together } = CircuitEdges, anyBold = paths.length > 0;
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * (view.x + MARGIN), ratio * (view.y + MARGIN));
      pen.lineCap = "round";
      const asked = askedFor();
      paint(pen, all, colours, asked ? FAINT : 1);
      if (asked) paint(pen, together(kept.filter(({ e }) => asked.has(e)), false), colours, 1);
      if (state.edge !== null) paint(pen, together([edges[state.edge]], false), colours, 2, 1.5);
      canvas.style.transform = "";
      painted = { ...view };
    }

    // The node to stand out: under the pointer, else the chosen one, where no part is lit.
    const foremost = () => state.hovered ?? (state.lit ? null : state.pinned);

    // The edges to stand out: of that node, else those among lit ones, else those into the marked row.
    function askedFor() {
      const node = foremost();
      if (node !== null) return new Set(touching[node]);
      if (state.lit) return new Set(edges.filter(({ e }) => state.lit.has(source[e]) && state.lit.has(target[e])).map(({ e }) => e));
      if (state.row === null) return null;
      const y = drawing.rows[state.row]?.[2];
      return new Set(edges.filter(edge => edge.ty === y).map(({ e }) => e));
    }

    function mark() {
      const node = foremost(), pins = new Set(look.pins);
      const beside = new Set(node === null ? [] : touching[node].flatMap(e => [source[e], target[e]]));
      parts.nodes.forEach((group, n) => {
        const lit = state.lit?.has(n) ?? false;
        group.classList.toggle("faint", node !== null ? n !== node && !beside.has(n) : state.lit !== null && !lit);
        group.classList.toggle("lit", lit);
        group.classList.toggle("pinned", n === state.pinned);
        group.classList.toggle("pin", pins.has(nodes[n].name));
        group.classList.toggle("gone", !live.nodes[n]);
        group.setAttribute("aria-pressed", String(n === state.pinned));
        group.classList.toggle("now", state.row !== null && ys[n] === drawing.rows[state.row]?.[2]);
        const share = state.values === null ? null : (state.values[n] ?? 0) / (state.scale || 1);
        group.querySelector(".dot").style.fill = share === null ? "" : tint(share, "var(--paper)");
      });
      parts.rows.forEach((row, i) => row.classList.toggle("now", i === state.row));
      parts.words.mark(node !== null ? new Set([node, ...beside]) : state.lit);
      again();
    }

    // Draws the edges by what they carry or by their weight, and of all only those that are asked for.
    function see(wanted = {}) {
      look = { by: "carried", least: 0, size: null, only: false, pins: [], groups: [], ...wanted };
      edges = CircuitEdges.of(drawing, nodes, look.by === "weight" || !carried ? weight : carried, paths);
      const pins = look.pins.map(numberOf).filter(n => n >= 0);
      live = graph.shown({ ...look, order, pins, shares: edges.map(({ share }) => share) });
      pushed(parts.svg, drawing, look.by === "weight" ? null : pushes);
      kept = edges.filter(({ e }) => live.edges[e]);
      all = CircuitEdges.together(kept, paths.length > 0);
      parts.keep(live.nodes);
      parts.group(look.groups.map(({ name, nodes: members }) => ({ name, members: members.map(numberOf).filter(n => n >= 0 && live.nodes[n]) })));
      parts.fresh();
      mark();
      return { nodes: live.nodes.reduce((sum, on) => sum + on, 0), edges: kept.length };
    }

    const seen = () => ({
      drawing, carried, host, view, svg: parts.svg, labels: parts.labels, nodes, look, edges: kept, anyBold: paths.length > 0,
      live: nodes.map((_, n) => n).filter(n => live.nodes[n]),
    });

    function tell(text, x, y) {
      tip.hidden = !text;
      if (!text) return;
      tip.replaceChildren(...words(text));
      const room = host.clientWidth - tip.offsetWidth - 8;
      tip.style.transform = `translate(${Math.max(8, Math.min(x + 12, room))}px, ${y > 70 ? y - tip.offsetHeight - 12 : y + 18}px)`;
    }

    function hover(n, quiet = false) {
      if (n === state.hovered) return;
      state.hovered = n;
      state.edge = null;
      const more = n === null ? null : options.describe?.(n);
      if (n !== null && !quiet) tell(nodes[n].spoken + (more ? `\n${more}` : ""), view.x + view.k * xs[n], view.y + view.k * ys[n]);
      else tell("");
      mark();
    }

    function pin(n, announce) {
      state.pinned = n;
      mark();
      if (announce) options.onselect?.(n === null ? null : nodes[n].name, n);
    }

    // Which answer a number pushes, where the answers are two.
    function towards(value) {
      const answers = drawing.outputs.answers;
      return answers && value ? ` towards \`${visible(drawing.tokens[answers[value < 0 ? 1 : 0]])}\`` : "";
    }

    function overEdge(x, y) {
      const e = CircuitEdges.nearest(kept, (x - view.x) / view.k, (y - view.y) / view.k, NEAR / view.k);
      if (e === null && state.edge === null) return;
      state.edge = e;
      const carries = carried && e !== null ? `\ncarries ${number(Math.abs(carried[e]))}${towards(carried[e])}` : "";
      tell(e === null ? "" : `${nodes[source[e]].name} → ${nodes[target[e]].name}${carries}\nweight ${number(weight[e])}`, x, y);
      again();
    }

    // --- moving

    const nodeAt = event => {
      const group = event.target.closest?.(".cd-node");
      return group ? Number(group.dataset.n) : null;
    };
    CircuitView.listen(host, { fit, zoom, move }, {
      at: nodeAt,
      over(n, x, y) {
        hover(n);
        if (n === null) overEdge(x, y);
      },
      tap(n, more) {
        if (n !== null && more && options.onpin) options.onpin(nodes[n].name);
        else pin(n, true);
      },
      left() {
        state.edge = null;
        hover(null);
        tell("");
        again();
      },
    });
    host.addEventListener("focusin", event => {
      const n = nodeAt(event);
      if (n !== null && event.target.matches(":focus-visible")) { reveal(xs[n], ys[n]); hover(n); } else if (n === null) hover(null, true);
    });

    let size = "";
    const resized = new ResizeObserver(() => {
      const now = `${host.clientWidth}×${host.clientHeight}`;
      if (now !== size) { painted = null; fit(false); }
      size = now;
    });
    resized.observe(host);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", again);

    const byName = new Map(nodes.map(({ name }, n) => [name, n]));
    function numberOf(node) {
      return typeof node === "string" ? byName.get(node) ?? -1 : node;
    }
    function select(node) {
      const n = node === null || node === undefined ? null : numberOf(node);
      if (n === -1) return;
      pin(n, false);
      if (n !== null) reveal(xs[n], ys[n]);
    }
    function show(values, { scale = 1, row = null } = {}) {
      Object.assign(state, { values, scale, row });
      mark();
    }
    // Nodes of these names, and the edges among them, stand out; null: none do.
    function light(names) {
      state.lit = names && new Set(names.map(numberOf).filter(n => n >= 0));
      mark();
    }
    function destroy() {
      resized.disconnect();
      dark.removeEventListener("change", again);
      cancelAnimationFrame(waiting);
      clearTimeout(settling);
      element.replaceChildren();
    }
    see();
    fit(false);
    return { select, show, light, see, seen, fit, move, destroy };
  }

  return { mount };
})();
