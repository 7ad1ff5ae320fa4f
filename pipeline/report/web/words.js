"use strict";
// Words beside the nodes of a drawing, as many as have room: the nearer the picture, the more. Two or three words first,
// slanted where nodes stand close, and left out where they would lie over others; then the label with its values; then the node's name too.
//
// CircuitWords.layer(drawing, nodes, said) → { element, place(k, live), mark(nodes that are asked for, or null) }; `said(n)`: { short, text, weak, first } or null,
// `first`: before others where there is room for some only. CircuitWords.of(bundle) → what a drawing says of a circuit.
const CircuitWords = (() => {
  const { draw, parted, bare } = CircuitElements;
  const CHAR = 6.35, LINE = 14, BESIDE = 8; // pixels on the screen: a character, a line, from a node to its words
  const LABELLED = 2, NAMED = 3; // zooms from which the whole label has room, and the node's name
  const SLANT = 35, RISE = Math.sin(SLANT * Math.PI / 180), LEAST = 4, ENOUGH = 9; // degrees; characters that
  // are worth showing of what comes first, and of all else
  const APART = LINE / RISE; // pixels between slanted words that stay clear of each other
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
        if (made.dataset.words !== words) {
          made.dataset.words = words;
          made.replaceChildren(...parted(words).map((part, i) => draw("tspan", i % 2 ? { class: "cd-code" } : {}, part)));
        }
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
      const words = all.find(each => each && bare(each).length <= room);
      if (words) found.push({ n, words, slanted: false });
      else if (own.short && (own.first || most >= ENOUGH)) close.push(n);
    });
    const taken = [];
    if (most < LEAST) return found;
    for (const n of close.sort((a, b) => (said(b).first ? 1 : 0) - (said(a).first ? 1 : 0) || a - b)) {
      const words = clipped(said(n).short, most);
      if (!words || taken.some(other => Math.abs(x[other] - x[n]) * k < APART)) continue;
      taken.push(n);
      found.push({ n, words, slanted: true });
    }
    return found;
  }

  // As many whole words as have room in so many characters; of a token after an arrow, which says nothing alone, the
  // beginning. A token between back quotes is one word.
  function clipped(words, most) {
    const all = words.match(/[^`\s]*`(?:[^`]+|`)`\S*|\S+/g) ?? [];
    let shown = all.length;
    while (shown && bare(all.slice(0, shown).join(" ")).length > most) shown -= 1;
    if (all[0] !== "→" || shown > 1) return all.slice(0, shown).join(" ");
    const token = bare(all[1] ?? "").slice(0, most - 3);
    return token ? `→ \`${token}…\`` : "";
  }

  // What a bundle's explanation gives a drawing: options of CircuitDrawing.mount.
  function of(bundle) {
    const { nodes = [], carried, pushes = null, paths = [], order } = bundle.explanation ?? {};
    const first = new Set(paths.flat()), edges = bundle.drawing.edges.weight.length;
    const said = nodes.map((node, n) => {
      const label = node?.task_label ?? node?.label;
      return label ? { short: label.short ?? "", text: label.text, weak: Boolean(label.weak), first: first.has(n) } : null;
    });
    return {
      said: n => said[n] ?? null, paths, pushes, order: order?.length === edges ? order : null,
      carried: carried?.length === edges ? carried : null,
    };
  }

  return { layer, of, placed, clipped };
})();
