"use strict";
// What a run changes: the complement of a circuit is ablated, and single nodes and edges are off, scaled, set, or have
// their values on another text (pipeline/circuit/masked.py, pipeline/play/changes.py).
//
// EngineChanges.of(model, n, { circuit, ablatedTo, acts, other }) → { site, map } for EngineForward.run on n tokens
//   circuit: null (the whole model) or { nodes, edges } by name: all else is ablated
//   ablatedTo: site key → [width], or [token · width] where values differ by token
//   acts: [{ name: a node's or an edge's, kind: "off", "scale", "set" or "swap", value: a number or null }]
//   other: null or { values: site key → [token · width], counterpart: of every token its place in that text, −1: none }
const EngineChanges = (() => {
  function of(model, n, { circuit = null, ablatedTo, acts = [], other = null }) {
    const maps = namesOfMaps(model);
    const kept = circuit && { nodes: bySite(circuit.nodes), edges: byMap(maps, circuit.edges) };
    const edgeActs = new Map(acts.filter(({ name }) => name.includes("->")).map(act => [act.name, act]));
    const acted = byMap(maps, [...edgeActs.keys()]);
    const nodeActs = new Map();
    for (const act of acts) if (!edgeActs.has(act.name)) push(nodeActs, nodeOf(act.name), act);

    const varies = key => ablatedTo.get(key).length !== model.widths.get(key);
    const ablated = (key, index, p) => ablatedTo.get(key)[varies(key) ? p * model.widths.get(key) + index : index];
    const ablatedRow = (key, p) => {
      const values = ablatedTo.get(key), width = model.widths.get(key);
      return varies(key) ? values.subarray(p * width, (p + 1) * width) : values;
    };

    // The value of a node at a token under an act, given its own.
    function acting({ kind, value }, key, index, p, own) {
      if (kind === "scale") return value * own;
      if (kind === "set") return value;
      const there = kind === "swap" ? other.counterpart[p] : -1;
      return there < 0 ? ablated(key, index, p) : other.values.get(key)[there * model.widths.get(key) + index];
    }

    function site(key, rows) {
      const width = model.widths.get(key);
      if (kept) ablateAllBut(kept.nodes.get(key) ?? [], key, rows, width);
      for (const { index, item } of nodeActs.get(key) ?? []) {
        for (let p = 0; p < n; p++) rows[p * width + index] = acting(item, key, index, p, rows[p * width + index]);
      }
    }

    function ablateAllBut(nodes, key, rows, width) {
      for (let p = 0; p < n; p++) {
        const live = nodes.map(({ index }) => rows[p * width + index]);
        rows.set(ablatedRow(key, p), p * width);
        nodes.forEach(({ index }, i) => { rows[p * width + index] = live[i]; });
      }
    }

    // A linear map's output: of the sources as they are, or ablated where only a circuit's edges are live, and then
    // edge by edge the difference of what it carries.
    function map(name, matrix, x, attended) {
      const edges = (kept ? kept.edges : acted).get(name) ?? [];
      if (!kept && !edges.length) return null;
      const key = maps.get(name).source, base = kept ? ablatedSources(key, attended) : x;
      const y = outputs(matrix, base), still = base.length === matrix.columns ? 0 : matrix.columns;
      for (const edge of edges) {
        const weight = weightOf(matrix, edge.target, edge.source), carried = carriedBy(edge, key, x, attended);
        for (let p = 0; p < n; p++) {
          y[p * matrix.rows + edge.target] += weight * (carried[p] - base[p * still + edge.source]);
        }
      }
      return y;
    }

    // One row where sources have the same values at all tokens, else a row a token.
    function ablatedSources(key, attended) {
      const values = ablatedTo.get(key);
      return attended ? (varies(key) ? attended.average(values) : attended.constant(values)) : values;
    }

    function outputs(matrix, base) {
      const row = base.length === matrix.columns ? EngineForward.product(matrix, base, 1) : null;
      if (!row) return EngineForward.product(matrix, base, n);
      const y = new Float64Array(n * matrix.rows);
      for (let p = 0; p < n; p++) y.set(row, p * matrix.rows);
      return y;
    }

    // What an edge carries at every token; behind attention, the average of its source's values.
    function carriedBy({ name, source }, key, x, attended) {
      const act = edgeActs.get(name), width = model.widths.get(key);
      const own = Float64Array.from({ length: n }, (_, p) => x[p * width + source]);
      if (!act) return own;
      if (act.kind === "scale") return own.map(each => act.value * each);
      const values = own.map((each, p) => acting(act, key, source, p, each));
      return attended ? attended.averageOf(source, values) : values;
    }

    return { site, map };
  }

  const push = (map, { key, index }, item) => map.set(key, [...(map.get(key) ?? []), { index, item }]);

  function nodeOf(name) {
    const at = name.lastIndexOf(".");
    return { key: name.slice(0, at), index: Number(name.slice(at + 1)) };
  }

  function bySite(names) {
    const found = new Map();
    for (const name of names) push(found, nodeOf(name));
    return found;
  }

  // "0.attn.c_attn" → the site that it reads, and where each site that it writes begins in its rows.
  function namesOfMaps(model) {
    const maps = new Map();
    model.layers.forEach((_, l) => model.edgeKinds.forEach(([source, target, name, part]) => {
      const known = maps.get(`${l}.${name}`) ?? { source: `${l}.${source}`, from: {} };
      known.from[`${l}.${target}`] = part * model.widths.get(`${l}.${target}`);
      maps.set(`${l}.${name}`, known);
    }));
    return maps;
  }

  // Edges by the linear map that they are weights of; `target`: a row of it.
  function byMap(maps, names) {
    const found = new Map();
    for (const name of names) {
      const [source, target] = name.split("->").map(nodeOf);
      const [key, { from }] = [...maps].find(([, map]) => map.source === source.key && target.key in map.from);
      const edge = { name, source: source.index, target: from[target.key] + target.index };
      found.set(key, [...(found.get(key) ?? []), edge]);
    }
    return found;
  }

  function weightOf({ start, other, value }, target, source) {
    for (let i = start[source]; i < start[source + 1]; i++) if (other[i] === target) return value[i];
    return 0;
  }

  return { of, nodeOf };
})();
