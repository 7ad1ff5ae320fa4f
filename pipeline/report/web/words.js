"use strict";
// Words beside the nodes of a drawing, as many as have room: the nearer the picture, the more. Two or three words first,
// slanted where nodes stand close; then the label with its values; then the node's name too.
//
// CircuitWords.layer(drawing, nodes, said) → { element, place(k, live), mark(nodes that are asked for, or null) }; `said(n)`: { short, text, weak, first } or null,
// `first`: before others where there is room for some only. CircuitWords.of(bundle) → what a drawing says of a circuit.
const CircuitWords = (() => {
  const { draw } = CircuitElements;
  const CHAR = 6.35, LINE = 14, BESIDE = 8; // pixels on the screen: a character, a line, from a node to its words
  const LABELLED = 2, NAMED = 3; // zooms from which the whole label has room, and the node's name
  const SLANT = 35, RISE = Math.sin(SLANT * Math.PI / 180), LEAST = 4, ENOUGH = 9; // degrees; characters that
  // are worth showing of what comes first, and of all else
  const FILLED = 0.8; // of the way to the row above that slanted words may take
  const ROW = 68; // height of the only row

  function layer(drawing, nodes, said) {
    const texts = new Map(), element = draw("g", { class: "cd-words", "aria-hidden": "true" });
    const rows = rowsOf(drawing), heights = drawing.rows.map(([, , y]) => y);
    const high = Math.min(ROW, ...heights.slice(1).map((y, i) => Math.abs(y - heights[i])));

    let asked = null;
    function mark(wanted) {
      asked = wanted;
      for (const [n, made] of texts) made.classList.toggle("quiet", asked !== null && !asked.has(n));
    }

    function text(n) {
      if (!texts.has(n)) {
        const made = draw("text", { class: `cd-word${said(n).weak ? " weak" : ""}${said(n).first ? " first" : ""}`, "data-n": n });
        made.classList.toggle("quiet", asked !== null && !asked.has(n));
        texts.set(n, made);
        element.append(made);
      }
      return texts.get(n);
    }

    function place(k, live) {
      const found = new Map(rows.flatMap(row => placed(row.filter(n => live[n]), drawing, nodes, said, k, high)).map(each => [each.n, each]));
      for (const [n, made] of texts) if (!found.has(n)) made.style.display = "none";
      for (const [n, { words, slanted }] of found) {
        const made = text(n), x = drawing.nodes.x[n] * k, y = drawing.nodes.y[n] * k;
        made.style.display = "";
        if (made.textContent !== words) made.textContent = words;
        made.setAttribute("transform", slanted ? `translate(${x + 5} ${y - 6})rotate(${-SLANT})` : `translate(${x + BESIDE} ${y - 4})`);
      }
    }

    return { element, place, mark };
  }

  function rowsOf({ nodes: { x, y } }) {
    const rows = new Map();
    x.forEach((_, n) => rows.set(y[n], [...(rows.get(y[n]) ?? []), n]));
    return [...rows.values()].map(row => row.sort((a, b) => x[a] - x[b]));
  }

  // [{ n, words, slanted }] of one row (numbers from left to right) at the zoom k; `high`: from row to row.
  function placed(row, drawing, nodes, said, k, high) {
    const { x } = drawing.nodes, found = [], close = [], most = Math.floor(FILLED * high * k / (CHAR * RISE));
    row.forEach((n, i) => {
      const own = said(n);
      if (!own) return;
      const room = Math.floor(((x[row[i + 1]] ?? drawing.width) - x[n]) * k / CHAR - 2 * BESIDE / CHAR);
      const all = [k >= NAMED && own.text && `${nodes[n].name}  ${own.text}`, k >= LABELLED && own.text, own.short];
      const words = all.find(each => each && each.length <= room);
      if (words) found.push({ n, words, slanted: false });
      else if (own.short && (own.first || most >= ENOUGH)) close.push(n);
    });
    const taken = [];
    if (most < LEAST) return found;
    for (const n of close.sort((a, b) => (said(b).first ? 1 : 0) - (said(a).first ? 1 : 0) || a - b)) {
      if (taken.some(other => Math.abs(x[other] - x[n]) * k < LINE)) continue;
      taken.push(n);
      found.push({ n, words: clipped(said(n).short, most), slanted: true });
    }
    return found;
  }

  // Within so many characters; of a token that is too long the beginning, between its back quotes.
  function clipped(words, most) {
    if (words.length <= most) return words;
    const begun = words.slice(0, most - 1);
    return begun.split("`").length % 2 ? `${begun}…` : `${begun.slice(0, -1)}…\``;
  }

  // What a bundle's explanation gives a drawing: options of CircuitDrawing.mount.
  function of(bundle) {
    const { nodes = [], carried, paths = [], order } = bundle.explanation ?? {};
    const first = new Set(paths.flat()), edges = bundle.drawing.edges.weight.length;
    const said = nodes.map((node, n) => {
      const label = node?.task_label ?? node?.label;
      return label ? { short: label.short ?? "", text: label.text, weak: Boolean(label.weak), first: first.has(n) } : null;
    });
    return {
      said: n => said[n] ?? null, paths, order: order?.length === edges ? order : null,
      carried: carried?.length === edges ? carried : null,
    };
  }

  return { layer, of, placed, clipped };
})();
