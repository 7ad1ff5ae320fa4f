"use strict";
// What is seen of a circuit's drawing, as a file: SVG, PNG or JSON.
//
// CircuitExport.save(page, kind): downloads it. CircuitExport.svg(seen), .json(page): its text; `seen`: what the
// drawing's seen() gives.
const CircuitExport = (() => {
  const { draw } = CircuitElements;
  const SHARP = 2; // pixels of a PNG a pixel of the screen
  const SOON = 10_000; // ms after which a saved file's address is given back

  // The window of the drawing, with all its edges as paths, in the colours that are seen now.
  function svg({ host, view, svg: own, labels, edges, anyBold }) {
    const style = getComputedStyle(host), { clientWidth: width, clientHeight: height } = host, colours = CircuitEdges.colours(style);
    const lines = edges.map(edge => {
      const { sign, width: wide, alpha } = CircuitEdges.stroke(edge, anyBold);
      return draw("path", { d: CircuitEdges.d(edge), fill: "none", stroke: colours[sign].trim(), "stroke-width": wide, opacity: alpha, "stroke-linecap": "round" });
    });
    const copy = own.cloneNode(true), rows = labels.cloneNode(true);
    for (const each of copy.querySelectorAll(".gone, .reach, [style*='display: none']")) each.remove();
    for (const each of copy.querySelectorAll("[tabindex]")) for (const name of ["tabindex", "role", "aria-pressed"]) each.removeAttribute(name);
    const root = draw("svg", { class: `cd ${own.getAttribute("class")}`, width, height, viewBox: `0 0 ${width} ${height}` },
      draw("style", {}, rules()), draw("rect", { width, height, fill: "var(--paper)" }),
      draw("g", { transform: `translate(${view.x} ${view.y})scale(${view.k})` }, lines),
      draw("g", { transform: `translate(${view.x} ${view.y})` }, [...copy.childNodes]), draw("g", {}, [...rows.childNodes]));
    const written = new XMLSerializer().serializeToString(root);
    return written.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  }

  // The style sheets' rules for what is inside of a drawing.
  function rules() {
    const all = [...document.styleSheets].flatMap(sheet => [...sheet.cssRules]);
    const inside = all.filter(rule => /\.cd[ -]/.test(rule.selectorText ?? "") && !rule.style.position && !/cd-(rows|edges|tip|buttons)/.test(rule.selectorText));
    return inside.map(rule => rule.cssText).join("\n");
  }

  function json({ bundle, nodes: whole, drawing: shown }) {
    const { drawing, carried, look, nodes, live, edges } = shown.seen(), { source, target, weight } = drawing.edges, { x, y } = drawing.nodes;
    const labels = new Map(whole.map(({ name }, n) => [name, bundle.explanation?.nodes[n]?.task_label ?? null]));
    return JSON.stringify({
      model: bundle.model, task: bundle.task, drawn_by: look.by, pins: look.pins, groups: look.groups,
      nodes: live.map(n => ({ name: nodes[n].name, x: x[n], y: y[n], label: labels.get(nodes[n].name) })),
      edges: edges.map(({ e, bold }) => ({
        source: nodes[source[e]].name, target: nodes[target[e]].name, weight: weight[e], carried: carried ? carried[e] : null, on_a_deciding_path: bold,
      })),
    }, null, 1);
  }

  async function png(text, { clientWidth, clientHeight }) {
    const image = new Image(), address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    image.src = address;
    await image.decode();
    URL.revokeObjectURL(address);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [SHARP * clientWidth, SHARP * clientHeight];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise(done => { canvas.toBlob(done, "image/png"); });
  }

  async function save(page, kind) {
    const seen = page.drawing.seen();
    const made = {
      svg: () => new Blob([svg(seen)], { type: "image/svg+xml" }), json: () => new Blob([json(page)], { type: "application/json" }),
      png: () => png(svg(seen), seen.host),
    };
    const address = URL.createObjectURL(await made[kind]()), { model, task } = page.bundle;
    CircuitElements.make("a", { href: address, download: `${task}-${model}.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), SOON);
  }

  return { save, svg, json };
})();
