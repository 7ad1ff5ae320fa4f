"use strict";
// The edges of a drawing: how strong each is drawn, on a canvas or as the path of an SVG, and which one is pointed at.
//
// An edge is as strong as the share of its number in the largest of its kind (the site of its target, whatever the
// layer); the number is what it carries on a pair, or its weight. Edges on a path that decides are bold, and the others
// then fainter.
const CircuitEdges = (() => {
  const { WIDTHS, ALPHAS, levelOf, stepsOf } = CircuitScene;
  const BOLD = 1.9, BESIDE_BOLD = 0.5; // more width of the bold ones, strength of the others
  const SAMPLES = 14;

  // Each edge's { e, number, share, sign, level, bold } and its curve's ends.
  function of(drawing, nodes, numbers, paths = []) {
    const { source, target } = drawing.edges, { x, y } = drawing.nodes, largest = {};
    const steps = new Set(stepsOf(paths).map(step => step.join(" ")));
    target.forEach((t, e) => { largest[nodes[t].place] = Math.max(largest[nodes[t].place] ?? 0, Math.abs(numbers[e])); });
    return source.map((s, e) => {
      const t = target[e], most = largest[nodes[t].place], number = numbers[e], share = most ? Math.abs(number) / most : 0;
      return {
        e, number, share, sign: number < 0 ? "n" : number > 0 ? "p" : "z", level: levelOf(share),
        bold: steps.has(`${s} ${t}`), x: x[s], y: y[s], tx: x[t], ty: y[t], my: (y[s] + y[t]) / 2,
      };
    });
  }

  // How an edge is drawn: colour (a key of `colours`), width, opacity.
  const stroke = ({ sign, level, bold }, anyBold) => ({
    sign, width: WIDTHS[level] + (bold ? BOLD : 0), alpha: bold ? 1 : ALPHAS[level] * (anyBold ? BESIDE_BOLD : 1),
  });

  // One path for all edges that are drawn alike, the bold ones last, above the others.
  function together(edges, anyBold) {
    const found = new Map();
    for (const edge of edges) {
      const key = `${edge.bold ? 1 : 0}${edge.level}${edge.sign}`;
      if (!found.has(key)) found.set(key, { key, ...stroke(edge, anyBold), path: new Path2D() });
      const { path } = found.get(key);
      path.moveTo(edge.x, edge.y);
      path.bezierCurveTo(edge.x, edge.my, edge.tx, edge.my, edge.tx, edge.ty);
    }
    return [...found.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  function paint(pen, paths, colours, strength, more = 0) {
    for (const { sign, width, alpha, path } of paths) {
      pen.strokeStyle = colours[sign];
      pen.globalAlpha = Math.min(alpha * strength, 1);
      pen.lineWidth = width + more;
      pen.stroke(path);
    }
  }

  const colours = style => ({
    p: style.getPropertyValue("--positive"), n: style.getPropertyValue("--negative"), z: style.getPropertyValue("--line"),
  });
  const d = ({ x, y, tx, ty, my }) => `M${x} ${y}C${x} ${my} ${tx} ${my} ${tx} ${ty}`;

  // The edge that passes a point within `reach`, or null.
  function nearest(edges, x, y, reach) {
    let best = null, least = reach;
    for (const edge of edges) {
      if (y > edge.y + reach || y < edge.ty - reach) continue; // upwards: an edge ends above its start
      if (x < Math.min(edge.x, edge.tx) - reach || x > Math.max(edge.x, edge.tx) + reach) continue;
      let from = along(edge, 0);
      for (let i = 1; i <= SAMPLES; i++) {
        const to = along(edge, i / SAMPLES), apart = distance(x, y, from, to);
        if (apart < least) [best, least] = [edge.e, apart];
        from = to;
      }
    }
    return best;
  }

  function along(edge, t) {
    const u = 1 - t, start = u * u * (u + 3 * t), end = t * t * (t + 3 * u);
    return [start * edge.x + end * edge.tx, u * u * u * edge.y + 3 * u * t * edge.my + t * t * t * edge.ty];
  }

  function distance(x, y, [ax, ay], [bx, by]) {
    const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
    const t = length ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / length, 0), 1) : 0;
    return Math.hypot(x - ax - t * dx, y - ay - t * dy);
  }

  return { of, stroke, together, paint, colours, d, nearest };
})();
