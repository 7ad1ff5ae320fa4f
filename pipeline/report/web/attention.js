"use strict";
// Attention patterns of the heads that a circuit keeps: query against key, in the whole model and in the circuit alone.
const CircuitAttention = (() => {
  const { make, draw, number, visible, sign, choice } = CircuitElements;
  const CELL = 13, FONT = 9.5, GLYPH = 0.62 * FONT, ANSWER = "→ answer";

  function section(bundle) {
    const { heads, prompts } = bundle.explanation;
    if (!heads.length) return null;
    const chosen = { head: 0, prompt: 0 };
    const host = make("div", { class: "ca-maps" });
    const told = make("p", { class: "ca-told", role: "status" }, " ");
    const about = make("p", { class: "dim" });
    const fill = () => {
      const head = heads[chosen.head], sink = sinkOf(bundle, head);
      about.textContent = `Kept channels: query ${list(head.q)}; key ${list(head.k)}; value ${list(head.v)}. ` +
        (sink === null ? "This head has no attention sink." : `Attention sink: logit ${number(sink)}; a row adds up to less than 1 by what the sink takes.`);
      const texts = prompts[chosen.prompt].tokens.map(token => bundle.explanation.tokens[token]);
      const labels = labelsOf(texts);
      host.style.setProperty("--map", `${labels.size + 30}px`); // with the frame
      host.replaceChildren(...["model", "circuit"].map(source => make("figure", {},
        make("figcaption", {}, source === "model" ? "whole model" : "circuit alone"),
        make("div", { class: "ca-scroll" }, map(head.patterns[source][chosen.prompt], texts, labels, told, source)))));
      told.textContent = "Point at a cell to read it.";
    };
    fill();
    const shown = heads[0].patterns.model.length;
    return make("section", { class: "ca" }, make("h2", {}, "Attention of its heads"),
      make("p", {}, "Rows are queries (from where a head looks), columns are keys (at what); the darker, the more weight. The outlined row, that of the last token, gives the answer."),
      make("div", { class: "cc-controls" },
        choice("Head", heads.map(({ layer, head }, i) => [i, `head ${layer}.${head}`]), 0, i => { chosen.head = i; fill(); }),
        choice("Prompt", prompts.slice(0, shown).map((prompt, i) => [i, `prompt ${prompt.side}: ${sign(prompt.answer)}`]), 0, i => { chosen.prompt = i; fill(); })),
      about, told, host);
  }

  const list = indices => (indices.length ? indices.join(", ") : "none");

  function sinkOf({ drawing }, { layer, head }) {
    const found = drawing.heads.find(([l, h]) => l === layer && h === head);
    return found ? found[5] : null;
  }

  // The tokens beside the rows and below the columns, the room that the longest one takes, the map's width with them.
  function labelsOf(texts) {
    const words = texts.map(visible), last = words.length - 1;
    const lengths = words.map((word, q) => word.length + (q === last ? ANSWER.length + 1 : 0));
    const room = Math.ceil(GLYPH * Math.max(...lengths)) + 8;
    return { words, last, room, size: room + words.length * CELL + 4 };
  }

  function map(rows, texts, { words, last, room, size }, told, source) {
    const n = texts.length, height = 4 + n * CELL + room;
    const cells = rows.flatMap((row, q) => row.map((weight, k) => draw("rect", {
      x: room + k * CELL, y: 4 + q * CELL, width: CELL - 1, height: CELL - 1, "data-q": q, "data-k": k,
      style: `fill-opacity:${(0.04 + 0.96 * Math.min(weight, 1)).toFixed(3)}`,
    })));
    const answer = draw("path", { class: "ca-answer", d: `M${room - 1.5} ${2.5 + last * CELL}h${n * CELL + 2}v${CELL + 2}h${-n * CELL - 2}z` });
    const side = words.map((word, q) => draw("text", { "data-row": q, x: room - 5, y: 4 + q * CELL + CELL * 0.76, "text-anchor": "end", class: q === last ? "answer" : "" }, q === last ? `${word} ${ANSWER}` : word));
    const below = words.map((word, k) => draw("text", { "data-column": k, transform: `translate(${room + k * CELL + CELL * 0.76} ${10 + n * CELL})rotate(-90)`, "text-anchor": "end" }, word));
    const svg = draw("svg", { class: "ca-map", width: size, height, viewBox: `0 0 ${size} ${height}`, "font-size": FONT, tabindex: "0", role: "img",
      "aria-label": `Attention of ${n} queries over ${n} keys, ${source === "model" ? "whole model" : "circuit alone"}; the last query gives the answer. Arrow keys read the cells.` }, cells, answer, side, below);
    const place = { q: rows.length - 1, k: 0 };
    const read = () => {
      const left = 1 - rows[place.q].reduce((sum, weight) => sum + weight, 0);
      for (const word of [...side, ...below]) word.classList.toggle("at", word.dataset.row === String(place.q) || word.dataset.column === String(place.k));
      for (const cell of cells) cell.classList.toggle("at", cell.dataset.q === String(place.q) && cell.dataset.k === String(place.k));
      told.textContent = `${visible(texts[place.q])} (token ${place.q}) looks at ${visible(texts[place.k])} (token ${place.k}) with ${number(rows[place.q][place.k])}` +
        `${left > 0.005 ? `; the sink takes ${number(left)}` : ""} – ${source === "model" ? "whole model" : "circuit alone"}`;
    };
    svg.addEventListener("pointermove", event => {
      const { q, k } = event.target.dataset ?? {};
      if (k === undefined || q === undefined) return;
      Object.assign(place, { q: Number(q), k: Number(k) });
      read();
    });
    svg.addEventListener("keydown", event => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      place.q = Math.min(Math.max(place.q + move[0], 0), rows.length - 1);
      place.k = Math.min(Math.max(place.k + move[1], 0), place.q);
      read();
    });
    return svg;
  }

  return { section };
})();
