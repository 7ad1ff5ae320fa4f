"use strict";
// The picture of a circuit, to pan and zoom. Edges are on a canvas (thousands of them move at a usable speed), all
// else is SVG: nodes can be focused, pointed at and read out.
//
// CircuitDrawing.mount(element, drawing, options) → { select, light, show, fit, move, destroy }
//   options.onselect(name or null, number or null): a node was pinned; options.describe(number) → more for its tip
//   select(name, number or null): pins a node. light(names or null): nodes and the edges between them, all else faint.
//   show(values or null, { scale, row }): colours nodes by values (−scale …
//   scale) and marks a row. fit(true): all of it. move(dx, dy): by pixels of the screen.
const CircuitDrawing = (() => {
  const { make, number, tint, describe } = CircuitElements;
  const { scene, LEVELS, WIDTHS, ALPHAS } = CircuitScene;
  const FAINT = 0.13; // of edges that are not asked for
  const MOST_ZOOM = 6, NEAR = 6; // pixels from an edge that count as on it
  const MARGIN = 200; // pixels of edges around what is seen
  const STEP = 60, SAMPLES = 14;

  function mount(element, drawing, options = {}) {
    const nodes = describe(drawing);
    const { x: xs, y: ys } = drawing.nodes;
    const view = { x: 0, y: 0, k: 1 };
    const state = { hovered: null, pinned: null, lit: null, edge: null, values: null, scale: 1, row: null };
    const edges = strengths(drawing, nodes);
    const all = together(edges);
    const touching = nodes.map(() => []);
    drawing.edges.source.forEach((source, e) => { touching[source].push(e); touching[drawing.edges.target[e]].push(e); });

    const canvas = make("canvas", { class: "cd-edges", "aria-hidden": "true" });
    const parts = scene(drawing, nodes);
    const tip = make("div", { class: "cd-tip", role: "status", hidden: true });
    const buttons = make("div", { class: "cd-buttons", role: "group", "aria-label": "Zoom" },
      button("+", "zoom in", () => zoom(1.4)), button("−", "zoom out", () => zoom(1 / 1.4)), button("⤢", "fit", () => fit(true)));
    const host = make("div", {
      class: "cd", tabindex: "0", role: "group",
      "aria-label": `Drawing of the circuit, ${nodes.length} nodes and ${edges.length} edges. Arrow keys move it, + and − zoom, Tab goes through the nodes.`,
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

    function frame() {
      parts.place(view);
      host.style.touchAction = view.k > fitting() * 1.05 ? "none" : "pan-y";
      const moved = painted && [view.x - painted.x, view.y - painted.y];
      if (!moved || painted.k !== view.k || Math.max(...moved.map(Math.abs)) > MARGIN) return paintEdges();
      canvas.style.transform = `translate(${moved[0]}px, ${moved[1]}px)`;
    }

    // The canvas is larger than what is seen by a margin on every side, so that moving seldom paints.
    function paintEdges() {
      const ratio = devicePixelRatio || 1, width = host.clientWidth + 2 * MARGIN, height = host.clientHeight + 2 * MARGIN;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        Object.assign(canvas.style, { width: `${width}px`, height: `${height}px`, left: `${-MARGIN}px`, top: `${-MARGIN}px` });
      }
      const pen = canvas.getContext("2d"), style = getComputedStyle(host);
      const colours = { p: style.getPropertyValue("--positive"), n: style.getPropertyValue("--negative") };
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.setTransform(ratio * view.k, 0, 0, ratio * view.k, ratio * (view.x + MARGIN), ratio * (view.y + MARGIN));
      pen.lineCap = "round";
      const asked = askedFor();
      paint(pen, all, colours, asked ? FAINT : 1);
      if (asked) paint(pen, together([...asked].map(e => edges[e])), colours, 1);
      if (state.edge !== null) paint(pen, together([edges[state.edge]]), colours, 2, 1.5);
      canvas.style.transform = "";
      painted = { ...view };
    }

    function paint(pen, paths, colours, strength, more = 0) {
      for (const { sign, level, path } of paths) {
        pen.strokeStyle = colours[sign];
        pen.globalAlpha = Math.min(ALPHAS[level] * strength, 1);
        pen.lineWidth = WIDTHS[level] + more;
        pen.stroke(path);
      }
    }

    // The node to stand out: under the pointer, else pinned, where no part is lit.
    const foremost = () => state.hovered ?? (state.lit ? null : state.pinned);

    // The edges to stand out: of that node, else between lit ones, else those into the marked row.
    function askedFor() {
      const node = foremost(), { lit } = state, { source, target } = drawing.edges;
      if (node !== null) return new Set(touching[node]);
      if (lit) return new Set(edges.map(({ e }) => e).filter(e => lit.has(source[e]) && lit.has(target[e])));
      if (state.row === null) return null;
      const y = drawing.rows[state.row]?.[2];
      return new Set(edges.filter(edge => edge.ty === y).map(edge => edge.e));
    }

    function mark() {
      const node = foremost(), { lit } = state;
      const beside = new Set(node === null ? [] : touching[node].flatMap(e => [drawing.edges.source[e], drawing.edges.target[e]]));
      parts.nodes.forEach((group, n) => {
        group.classList.toggle("faint", node !== null ? n !== node && !beside.has(n) : lit !== null && !lit.has(n));
        group.classList.toggle("lit", lit?.has(n) ?? false);
        group.classList.toggle("pinned", n === state.pinned);
        group.setAttribute("aria-pressed", String(n === state.pinned));
        group.classList.toggle("now", state.row !== null && ys[n] === drawing.rows[state.row]?.[2]);
        const share = state.values === null ? null : (state.values[n] ?? 0) / (state.scale || 1);
        group.querySelector(".dot").style.fill = share === null ? "" : tint(share, "var(--paper)");
      });
      parts.rows.forEach((row, i) => row.classList.toggle("now", i === state.row));
      again();
    }

    function tell(text, x, y) {
      tip.hidden = !text;
      if (!text) return;
      tip.textContent = text;
      const room = host.clientWidth - tip.offsetWidth - 8;
      tip.style.transform = `translate(${Math.max(8, Math.min(x + 12, room))}px, ${y > 70 ? y - tip.offsetHeight - 12 : y + 18}px)`;
    }

    function hover(n, quiet = false) {
      if (n === state.hovered) return;
      state.hovered = n;
      state.edge = null;
      const more = n === null ? null : options.describe?.(n);
      if (n !== null && !quiet) tell(nodes[n].spoken + (more ? `\n${more}` : ""), screenX(xs[n]), screenY(ys[n]));
      else tell("");
      mark();
    }

    const screenX = x => view.x + view.k * x;
    const screenY = y => view.y + view.k * y;

    function pin(n, announce) {
      state.pinned = n;
      mark();
      if (announce) options.onselect?.(n === null ? null : nodes[n].name, n);
    }

    function overEdge(x, y) {
      const e = nearest(edges, (x - view.x) / view.k, (y - view.y) / view.k, NEAR / view.k);
      if (e === null && state.edge === null) return;
      state.edge = e;
      const { source, target, weight } = drawing.edges;
      tell(e === null ? "" : `${nodes[source[e]].name} → ${nodes[target[e]].name}\nweight ${number(weight[e])}`, x, y);
      again();
    }

    // --- moving

    const fitting = () => Math.min(host.clientWidth / drawing.width, host.clientHeight / drawing.height, 1.6);

    // The whole picture; at first, where that would be too small to read, a readable part of it.
    function fit(whole) {
      const { clientWidth: width, clientHeight: height } = host;
      view.k = whole ? fitting() : Math.max(fitting(), Math.min(width < 600 ? 0.8 : 0.6, height / drawing.height));
      view.x = view.k * drawing.width <= width ? (width - view.k * drawing.width) / 2 : 0;
      view.y = (height - view.k * drawing.height) / 2;
      later();
    }

    function zoom(factor, x = host.clientWidth / 2, y = host.clientHeight / 2) {
      const k = Math.min(Math.max(view.k * factor, fitting() * 0.6), MOST_ZOOM);
      view.x = x - (x - view.x) * k / view.k;
      view.y = y - (y - view.y) * k / view.k;
      view.k = k;
      tell("");
      later();
    }

    // At least a corner of the picture stays in sight.
    function move(dx, dy) {
      const margin = 60;
      view.x = Math.min(Math.max(view.x + dx, margin - view.k * drawing.width), host.clientWidth - margin);
      view.y = Math.min(Math.max(view.y + dy, margin - view.k * drawing.height), host.clientHeight - margin);
      later();
    }

    function reveal(n) {
      const x = screenX(xs[n]), y = screenY(ys[n]), margin = 40;
      const over = (at, size) => (at < margin ? margin - at : at > size - margin ? size - margin - at : 0);
      move(over(x, host.clientWidth), over(y, host.clientHeight));
    }

    const pointers = new Map();
    let dragged = 0;
    const nodeAt = event => {
      const group = event.target.closest?.(".cd-node");
      return group ? Number(group.dataset.n) : null;
    };
    const at = event => {
      const box = host.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    host.addEventListener("pointerdown", event => {
      if (event.target.closest("button") || (event.pointerType === "mouse" && event.button !== 0)) return;
      pointers.set(event.pointerId, at(event));
      if (pointers.size === 1) dragged = 0;
    });
    host.addEventListener("pointermove", event => {
      const [x, y] = at(event), before = pointers.get(event.pointerId);
      if (!before) {
        const n = nodeAt(event);
        hover(n);
        if (n === null) overEdge(x, y);
        return;
      }
      dragged += Math.hypot(x - before[0], y - before[1]);
      if (dragged > 4 && !host.hasPointerCapture(event.pointerId)) host.setPointerCapture(event.pointerId);
      if (pointers.size === 2) pinch(event.pointerId, before, [x, y]);
      else move(x - before[0], y - before[1]);
      pointers.set(event.pointerId, [x, y]);
      host.classList.toggle("dragging", dragged > 4);
    });
    function pinch(id, before, now) {
      const other = [...pointers].find(([each]) => each !== id)[1];
      const apart = p => Math.max(Math.hypot(p[0] - other[0], p[1] - other[1]), 1);
      move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    const release = event => {
      pointers.delete(event.pointerId);
      if (!pointers.size) host.classList.remove("dragging");
    };
    host.addEventListener("pointerup", release);
    host.addEventListener("pointercancel", release);
    host.addEventListener("pointerleave", () => { if (!pointers.size) { state.edge = null; hover(null); tell(""); again(); } });
    host.addEventListener("click", event => {
      if (dragged > 4 || event.target.closest("button")) return;
      pin(nodeAt(event), true);
    });
    // The wheel zooms once the drawing has the focus (or with Ctrl), so that the page can still be scrolled past it.
    host.addEventListener("wheel", event => {
      if (!event.ctrlKey && !event.metaKey && !host.contains(document.activeElement)) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...at(event));
    }, { passive: false });

    const keys = {
      ArrowLeft: () => move(STEP, 0), ArrowRight: () => move(-STEP, 0), ArrowUp: () => move(0, STEP), ArrowDown: () => move(0, -STEP),
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": () => fit(true), Escape: () => pin(null, true),
    };
    host.addEventListener("keydown", event => {
      const n = nodeAt(event);
      if (n !== null && (event.key === "Enter" || event.key === " ")) pin(n, true);
      else if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) keys[event.key]();
      else return;
      event.preventDefault();
    });
    host.addEventListener("focusin", event => {
      const n = nodeAt(event);
      if (n !== null && event.target.matches(":focus-visible")) { reveal(n); hover(n); } else if (n === null) hover(null, true);
    });
    host.addEventListener("focusout", () => { if (!pointers.size) hover(null); });

    let size = "";
    const resized = new ResizeObserver(() => {
      const now = `${host.clientWidth}×${host.clientHeight}`;
      if (now !== size) { painted = null; fit(false); }
      size = now;
    });
    resized.observe(host);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", again);

    const numberOf = node => (typeof node === "string" ? nodes.findIndex(({ name }) => name === node) : node);
    function select(node) {
      const n = node === null || node === undefined ? null : numberOf(node);
      if (n === -1) return;
      pin(n, false);
      if (n !== null) reveal(n);
    }
    function light(names) {
      state.lit = names && new Set(names.map(numberOf));
      mark();
    }
    function show(values, { scale = 1, row = null } = {}) {
      Object.assign(state, { values, scale, row });
      mark();
    }
    function destroy() {
      resized.disconnect();
      dark.removeEventListener("change", again);
      cancelAnimationFrame(waiting);
      element.replaceChildren();
    }
    fit(false);
    mark();
    return { select, light, show, fit, move, destroy };
  }

  // Edges with their places, sign and strength: the share of the largest weight of their kind, whatever the layer.
  function strengths(drawing, nodes) {
    const { source, target, weight } = drawing.edges, { x, y } = drawing.nodes;
    const largest = {};
    target.forEach((t, e) => { largest[nodes[t].place] = Math.max(largest[nodes[t].place] ?? 0, Math.abs(weight[e])); });
    return source.map((s, e) => {
      const t = target[e], most = largest[nodes[t].place];
      const level = most ? Math.min(Math.floor(LEVELS * Math.abs(weight[e]) / most), LEVELS - 1) : 0;
      return { e, sign: weight[e] < 0 ? "n" : "p", level, x: x[s], y: y[s], tx: x[t], ty: y[t], my: (y[s] + y[t]) / 2 };
    });
  }

  // One path for all edges of one sign and strength, which are drawn alike.
  function together(edges) {
    const found = new Map();
    for (const { sign, level, x, y, tx, ty, my } of edges) {
      const key = sign + level;
      if (!found.has(key)) found.set(key, { sign, level, path: new Path2D() });
      const { path } = found.get(key);
      path.moveTo(x, y);
      path.bezierCurveTo(x, my, tx, my, tx, ty);
    }
    return [...found.values()];
  }

  // The edge that passes a point within `reach`, or null.
  function nearest(edges, x, y, reach) {
    let best = null, least = reach;
    for (const edge of edges) {
      if (y > edge.y + reach || y < edge.ty - reach) continue; // upwards: an edge ends above its start
      if (x < Math.min(edge.x, edge.tx) - reach || x > Math.max(edge.x, edge.tx) + reach) continue;
      let from = null;
      for (let i = 0; i <= SAMPLES; i++) {
        const to = along(edge, i / SAMPLES);
        if (from) least = ((d) => { if (d < least) { best = edge.e; return d; } return least; })(distance(x, y, from, to));
        from = to;
      }
    }
    return best;
  }

  function along(edge, t) {
    const u = 1 - t, start = u * u * (u + 3 * t), end = t * t * (t + 3 * u);
    const sway = 3 * u * t;
    return [start * edge.x + end * edge.tx, u * u * u * edge.y + sway * edge.my + t * t * t * edge.ty];
  }

  function distance(x, y, [ax, ay], [bx, by]) {
    const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
    const t = length ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / length, 0), 1) : 0;
    return Math.hypot(x - ax - t * dx, y - ay - t * dy);
  }

  return { mount };
})();
