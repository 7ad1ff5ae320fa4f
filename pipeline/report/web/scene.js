"use strict";
// The SVG of a circuit's drawing: nodes, heads, the residual stream, tokens at both ends. Edges are on a canvas (drawing.js).
const CircuitScene = (() => {
  const { draw, number, visible, sign } = CircuitElements;
  const LEVELS = 4, WIDTHS = [0.7, 1.1, 1.7, 2.5], ALPHAS = [0.4, 0.55, 0.75, 0.95]; // of an edge's strength
  const LABEL_PITCH = 19, TOKEN_PITCH = 8; // pixels on the screen from which labels have room
  const TOKEN_ZOOM = 0.6; // below which tokens are too small to be read
  const END_CHARS = 18;
  const GROUPS = ["--dense-2", "--sparse-1", "--dense-1", "--sparse-3", "--sparse-4", "--dense-0"]; // colours
  const HALO = 9; // radius of a group's ring

  // All that is SVG; `place(view, live, sketch)` moves it (`sketch`: enlarged as it is), `fresh()` has it laid out again then. Labels of rows stay at the left
  // edge; they and the words beside nodes (words.js) keep their size. `group([{ name, members }])` rings nodes; `keep(live)` hides
  // what belongs to nodes that are not shown.
  function scene(drawing, nodes, words, paths) {
    const radius = Math.min(4.2, drawing.pitch * 0.36);
    const rows = drawing.rows.map(([layer, label], i) => {
      const first = i === 0 || drawing.rows[i - 1][0] !== layer;
      return draw("g", { class: "cd-row" }, draw("text", { x: 8, y: -5 }, label), first ? draw("text", { x: 8, y: 15, class: "layer" }, `layer ${layer}`) : null);
    });
    const dots = nodes.map((node, n) => dot(drawing, node, n, radius));
    const rings = draw("g", { class: "cd-groups" });
    const scaled = draw("g", {}, background(drawing), ways(drawing, paths), ends(drawing), rings, draw("g", { class: "cd-nodes" }, dots));
    const svg = draw("svg", { class: "cd-svg" }, scaled, words.element), labels = draw("svg", { class: "cd-rows", "aria-hidden": "true" }, rows);
    let zoomed = null;
    // A new zoom is painted; a new place only moves the layer that was painted, which is much faster.
    function place({ x, y, k }, live, sketch = false) {
      if (k !== zoomed && !sketch) {
        words.place(k, live);
        svg.setAttribute("width", drawing.width * k);
        svg.setAttribute("height", drawing.height * k);
        scaled.setAttribute("transform", `scale(${k})`);
        svg.classList.toggle("unlabelled", drawing.pitch * k < LABEL_PITCH);
        svg.classList.toggle("untokened", drawing.pitch * k < TOKEN_PITCH || k < TOKEN_ZOOM);
      }
      if (!sketch) zoomed = k;
      svg.style.transform = `translate(${x}px, ${y}px)${sketch ? ` scale(${k / zoomed})` : ""}`;
      rows.forEach((row, i) => row.setAttribute("transform", `translate(0 ${y + k * drawing.rows[i][2]})`));
    }
    // Heads and ends stand with any of their nodes, arcs and steps with both.
    const owned = (name, how) => [...scaled.querySelectorAll(`[${name}]`)].map(element => [element, element.getAttribute(name).split(" ").map(Number), how]);
    const belonging = [...owned("data-any", "some"), ...owned("data-all", "every")];
    const keep = live => belonging.forEach(([element, own, how]) => element.classList.toggle("gone", !own[how](n => live[n])));
    const group = groups => rings.replaceChildren(...groups.flatMap(({ name, members }, i) => ringed(drawing, name, members, GROUPS[i % GROUPS.length])));
    return { svg, labels, nodes: dots, rows, words, place, group, keep, fresh: () => { zoomed = null; } };
  }

  // A coloured ring around each member, and the group's name above the first of the upmost.
  function ringed({ nodes: { x, y } }, name, members, colour) {
    if (!members.length) return [];
    const top = members.reduce((a, b) => (y[b] < y[a] || (y[b] === y[a] && x[b] < x[a]) ? b : a));
    return [members.map(n => draw("circle", { class: "cd-group", cx: x[n], cy: y[n], r: HALO, style: `stroke:var(${colour})` })),
      draw("text", { class: "cd-groupname", x: x[top] - HALO, y: y[top] - HALO - 3, style: `fill:var(${colour})` }, name)].flat();
  }

  function dot(drawing, node, n, radius) {
    const x = drawing.nodes.x[n], y = drawing.nodes.y[n], bias = drawing.nodes.bias[n];
    const side = radius + 3.6;
    return draw("g", {
      class: `cd-node ${node.kind}`, "data-n": n, "data-name": node.name, transform: `translate(${x} ${y})`, tabindex: "0",
      role: "button", "aria-pressed": "false", "aria-label": `${node.spoken}${bias ? `, bias ${number(bias)}` : ""}`,
    },
    draw("circle", { class: "reach", r: Math.min(11, drawing.pitch / 2) }), draw("circle", { class: "ring", r: radius + 3 }),
    bias ? draw("path", { class: `bias ${bias < 0 ? "n" : "p"}`, d: `M${-side} -3v6` }) : null,
    draw("circle", { class: "dot", r: radius }), draw("text", { y: radius + 9.5 }, node.short));
  }

  function background(drawing) {
    const { x, y } = drawing.nodes;
    const lines = drawing.rows.map(([, , at]) => `M0 ${at}H${drawing.width}`).join("");
    const streams = drawing.streams.filter(([, , top, bottom]) => bottom > top).map(([channel, at, top, bottom]) =>
      draw("path", { class: "cd-stream", "data-any": onChannel(drawing, channel, "_in", "_out"), d: `M${at} ${top}V${bottom}` }));
    const arcs = drawing.links.map(([q, k]) => draw("path", {
      class: "cd-link", "data-all": `${q} ${k}`, d: `M${x[q]} ${y[q]}q${(x[k] - x[q]) / 2} ${Math.min(12 + Math.abs(x[k] - x[q]) / 4, 24)} ${x[k] - x[q]} 0`,
    }));
    const inside = (left, right, at) => x.flatMap((each, n) => (y[n] === at && each >= left && each <= right ? [n] : [])).join(" ");
    const boxes = drawing.heads.map(([layer, head, left, right, at, sink]) => draw("g", { "data-any": inside(left, right, at) },
      draw("rect", { class: "cd-head", x: left, y: at - 17, width: right - left, height: 36, rx: 8 }),
      draw("text", { class: "cd-headname", x: (left + right) / 2, y: at + 29 }, `${right - left < 52 ? "" : "head "}${layer}.${head}`,
        draw("title", {}, `head ${layer}.${head}, ${sink === null ? "no attention sink" : `attention sink: logit ${number(sink)}`}`))));
    return draw("g", { "aria-hidden": "true" }, draw("path", { class: "cd-line", d: lines }), boxes,
      streams, arcs);
  }

  // Paths as their steps, each two numbers of nodes.
  const stepsOf = paths => paths.flatMap(path => path.slice(1).map((to, i) => [path[i], to]));

  // Which of the strengths that are told apart a share (0 to 1) of the largest is.
  const levelOf = share => Math.min(Math.floor(LEVELS * share), LEVELS - 1);

  // The steps of paths that decide which are no edges: along a residual channel, or from a query or key to a write.
  function ways({ nodes: { x, y }, edges: { source, target } }, paths) {
    const edges = new Set(source.map((s, e) => `${s} ${target[e]}`));
    const steps = stepsOf(paths).filter(([a, b]) => !edges.has(`${a} ${b}`));
    const d = ([a, b]) => (x[a] === x[b] ? `M${x[a]} ${y[a]}V${y[b]}` : `M${x[a]} ${y[a]}C${x[a]} ${(y[a] + y[b]) / 2} ${x[b]} ${(y[a] + y[b]) / 2} ${x[b]} ${y[b]}`);
    const once = [...new Map(steps.map(step => [step.join(" "), step])).entries()];
    return draw("g", { "aria-hidden": "true" }, once.map(([of, step]) => draw("path", { class: "cd-way", "data-all": of, d: d(step) })));
  }

  // Tokens at the embedding end below and the unembedding end above.
  function ends(drawing) {
    if (!drawing.rows.length) return draw("g");
    const bottom = drawing.rows[0][2] + 34, top = drawing.rows.at(-1)[2] - 34;
    const write = tokens => {
      const texts = tokens.map(([token]) => visible(drawing.tokens[token]));
      while (texts.length > 1 && texts.join(" · ").length > END_CHARS) texts.pop();
      return texts.join(" · ");
    };
    const listed = (kind, channel, tokens) => `${kind} of residual channel ${channel}\n` +
      tokens.map(([token, value]) => `${visible(drawing.tokens[token])}  ${number(value)}`).join("\n");
    const end = (kind, x, from, to, channel, tokens, below) => tokens.length ? draw("g", { "data-any": onChannel(drawing, channel, below ? "_in" : "_out") },
      draw("path", { class: "cd-end", d: `M${x} ${from}V${below ? to - 6 : to + 6}` }),
      draw("text", { class: `cd-token${below ? " in" : ""}`, transform: `translate(${x + 3} ${to})rotate(-90)` }, write(tokens),
        draw("title", {}, listed(kind, channel, tokens)))) : null;
    const inputs = drawing.inputs.map(([channel, x, y, tokens]) => end("Embedding", x, y, bottom, channel, tokens, true));
    if (!drawing.outputs.answers) {
      const outputs = drawing.outputs.ends.map(([channel, x, y, tokens]) => end("Unembedding", x, y, top, channel, tokens, false));
      return draw("g", { class: "cd-ends" }, inputs, outputs);
    }
    return draw("g", { class: "cd-ends" }, inputs, answers(drawing, top));
  }

  // Numbers of the nodes that read ("_in") or write ("_out") a residual channel.
  const onChannel = ({ sites, nodes: { site, index } }, channel, ...endings) =>
    site.flatMap((key, n) => (index[n] === channel && endings.some(ending => sites[key].endsWith(ending)) ? [n] : [])).join(" ");

  function answers(drawing, top) {
    const middle = drawing.width / 2;
    const lines = drawing.outputs.ends.map(([channel, x, y]) =>
      draw("path", { class: "cd-out", "data-any": onChannel(drawing, channel, "_out"), d: `M${x} ${y}V${top}L${middle} 32` }, draw("title")));
    const [first, second] = drawing.outputs.answers.map(token => visible(drawing.tokens[token]));
    return [lines, draw("text", { class: "cd-answers", x: middle, y: 22 },
      draw("tspan", { class: "p" }, first), " against ", draw("tspan", { class: "n" }, second))];
  }

  // Draws the lines into the answers by what is written along them on a pair (`pushes`, of each node), or by weight.
  function pushed(svg, { nodes: { index }, outputs, tokens }, pushes) {
    if (!outputs.answers) return;
    const own = new Map();
    pushes?.forEach((each, n) => own.set(index[n], (own.get(index[n]) ?? 0) + each));
    const numbers = outputs.ends.map(([channel, , , weight]) => (pushes ? own.get(channel) ?? 0 : weight));
    const largest = Math.max(...numbers.map(Math.abs), 1e-12), named = outputs.answers.map(token => visible(tokens[token]));
    svg.querySelectorAll(".cd-out").forEach((line, i) => {
      const level = levelOf(Math.abs(numbers[i]) / largest), channel = outputs.ends[i][0];
      line.classList.toggle("n", numbers[i] < 0);
      line.classList.toggle("p", numbers[i] >= 0);
      line.setAttribute("stroke-width", WIDTHS[level]);
      line.setAttribute("opacity", ALPHAS[level]);
      line.querySelector("title").textContent = `Residual channel ${channel}: ${pushes ? `pushes ${named[numbers[i] < 0 ? 1 : 0]}, ${number(Math.abs(numbers[i]))} logits` : `weight ${number(numbers[i])} towards ${named[0]}`}`;
    });
  }

  return { scene, pushed, stepsOf, levelOf, WIDTHS, ALPHAS };
})();
