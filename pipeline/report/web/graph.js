"use strict";
// A circuit as a graph: what leads where, and which part of it is shown. Nothing here draws.
//
// CircuitGraph.of(drawing, nodes (described)) → { shown(look), touching }
//   shown({ order, size, shares, least, pins, only }) → { nodes, edges }, 1 for what is shown, else 0:
//     the first `size` edges of `order` (null: all), of those the ones with a share of at least `least`, and with `only`
//     what is on a path through every pin (numbers of nodes). A node is shown with an edge, or where it never has one.
//   touching: edges of each node
const CircuitGraph = (() => {
  function of(drawing, nodes) {
    const { source, target } = drawing.edges;
    const touching = nodes.map(() => []);
    source.forEach((s, e) => { touching[s].push(e); touching[target[e]].push(e); });
    const links = [...inHeads(drawing, nodes), ...alongChannels(drawing, nodes)];

    function shown({ order = null, size = null, shares = [], least = 0, pins = [], only = false }) {
      const edges = new Uint8Array(source.length).fill(order && size !== null ? 0 : 1);
      if (order && size !== null) for (const e of order.slice(0, size)) edges[e] = 1;
      if (least > 0) edges.forEach((on, e) => { if (on && shares[e] < least) edges[e] = 0; });
      const live = Uint8Array.from(touching, own => (!own.length || own.some(e => edges[e]) ? 1 : 0));
      if (only) for (const pin of pins) narrow(pin, edges, live);
      return { nodes: live, edges };
    }

    // Keeps what is on a path through one node.
    function narrow(pin, edges, live) {
      const steps = [...source.map((s, e) => [s, target[e], e]).filter(([, , e]) => edges[e]), ...links.filter(([a, b]) => live[a] && live[b])];
      const after = reached(pin, steps.map(([a, b]) => [a, b])), before = reached(pin, steps.map(([a, b]) => [b, a]));
      edges.forEach((on, e) => { if (on && !after.has(source[e]) && !before.has(target[e])) edges[e] = 0; });
      live.forEach((on, n) => { if (on && !after.has(n) && !before.has(n)) live[n] = 0; });
    }

    return { shown, touching };
  }

  // The node and all to which steps [from, to] lead from it.
  function reached(start, steps) {
    const next = new Map();
    for (const [from, to] of steps) next.set(from, [...(next.get(from) ?? []), to]);
    const found = new Set([start]), waiting = [start];
    while (waiting.length) {
      for (const to of next.get(waiting.pop()) ?? []) {
        if (!found.has(to)) waiting.push(to);
        found.add(to);
      }
    }
    return found;
  }

  const headOf = (drawing, nodes, n) => `${nodes[n].layer}.${Math.floor(drawing.nodes.index[n] / drawing.d_head)}`;

  // From each query and key to what the values of its head write.
  function inHeads(drawing, nodes) {
    const writes = new Map();
    drawing.edges.source.forEach((s, e) => {
      if (nodes[s].kind !== "v") return;
      const head = headOf(drawing, nodes, s);
      writes.set(head, (writes.get(head) ?? new Set()).add(drawing.edges.target[e]));
    });
    return nodes.flatMap(({ kind }, n) => (kind === "q" || kind === "k"
      ? [...(writes.get(headOf(drawing, nodes, n)) ?? [])].map(to => [n, to]) : []));
  }

  // From each write to the later reads of its residual channel.
  function alongChannels(drawing, nodes) {
    const half = ({ layer, place }) => 2 * layer + (place.startsWith("mlp") ? 1 : 0), reads = new Map();
    nodes.forEach(({ place }, n) => {
      const channel = drawing.nodes.index[n];
      if (place.endsWith("_in")) reads.set(channel, [...(reads.get(channel) ?? []), n]);
    });
    return nodes.flatMap((node, n) => (node.place.endsWith("_out")
      ? (reads.get(drawing.nodes.index[n]) ?? []).filter(read => half(nodes[read]) > half(node)).map(read => [n, read]) : []));
  }

  return { of };
})();
