"use strict";
// A packed model (pipeline/report/packed_model.py) as typed arrays, in which products skip zeros.
//
// EngineWeights.read(bytes) → { shape, eps, sites, edgeKinds, tokenizer, layers, embedding, positions, norm,
//   unembedding, bigram(token) → its row, means: site key → [width], widths: site key → number of nodes }
const EngineWeights = (() => {
  const KINDS = { f4: Float32Array, i4: Int32Array, u4: Uint32Array };
  const MEAN = "mean.";

  function read(bytes) {
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const tensors = new Map();
    let at = 4 + length;
    for (const { name, shape, arrays } of header.tensors) {
      const forms = {};
      for (const [form, kind, n] of arrays) {
        forms[form] = fromPlanes(bytes.subarray(at), kind, n);
        at += n * Number(kind[1]);
      }
      tensors.set(name, { shape, forms });
    }
    return assembled(header, tensors);
  }

  function assembled(header, tensors) {
    const { shape, eps, sites, edge_kinds: edgeKinds, bigram_step: step } = header;
    const tensor = name => tensors.get(name), vector = name => whole(tensor(name));
    const layers = Array.from({ length: shape.n_layer }, (_, l) => {
      const own = `transformer.h.${l}.`, maps = {};
      for (const name of new Set(edgeKinds.map(kind => kind[2]))) {
        maps[name] = { ...grouped(tensor(`${own}${name}.weight`), 1), bias: vector(`${own}${name}.bias`) };
      }
      return { norm1: vector(`${own}ln_1.weight`), norm2: vector(`${own}ln_2.weight`), maps,
        sink: shape.sink ? vector(`${own}attn.sink_logit`) : null };
    });
    const named = [...tensors.keys()].filter(name => name.startsWith(MEAN));
    const means = new Map(named.map(name => [name.slice(MEAN.length), vector(name)]));
    return {
      shape, eps, sites, edgeKinds, layers, means, tokenizer: EngineTokenizer.of(header.tokenizer),
      widths: new Map([...means].map(([key, mean]) => [key, mean.length])),
      embedding: grouped(tensor("transformer.wte.weight"), 0),
      positions: shape.positions ? vector("transformer.wpe.weight") : null,
      norm: vector("transformer.ln_f.weight"), unembedding: grouped(tensor("lm_head.weight"), 1),
      bigram: shape.bigram ? bigramRows(tensor("bigram_table"), step) : null,
    };
  }

  // Numbers whose first bytes come first, then all second ones, …
  function fromPlanes(bytes, kind, n) {
    const size = Number(kind[1]), together = new Uint8Array(n * size);
    for (let plane = 0; plane < size; plane++) {
      for (let i = 0; i < n; i++) together[i * size + plane] = bytes[plane * n + i];
    }
    if (kind === "f2") return Float32Array.from(new Uint16Array(together.buffer), fromHalf);
    return new KINDS[kind](together.buffer);
  }

  function fromHalf(bits) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  }

  // Calls `visit(flat index, value)` for every nonzero, in order.
  function eachNonzero({ forms: { dense, gaps, values } }, visit) {
    if (dense) return dense.forEach((value, i) => { if (value) visit(i, value); });
    for (let i = 0, at = -1; i < gaps.length; i++) visit(at += gaps[i], values[i]);
  }

  function whole(tensor) {
    const all = new Float64Array(tensor.shape.reduce((n, size) => n * size));
    eachNonzero(tensor, (i, value) => { all[i] = value; });
    return all;
  }

  // The nonzeros of a matrix, those of group g at start[g] … start[g + 1]: of a row (axis 0) or of a column (1).
  // `other` is the index on the other axis.
  function grouped(tensor, axis) {
    const [rows, columns] = tensor.shape, start = new Int32Array(tensor.shape[axis] + 1);
    const row = i => Math.floor(i / columns), column = i => i % columns;
    const [group, index] = axis ? [column, row] : [row, column];
    eachNonzero(tensor, i => { start[group(i) + 1]++; });
    for (let g = 0; g + 1 < start.length; g++) start[g + 1] += start[g];
    const n = start[start.length - 1], next = start.slice();
    const Indices = Math.max(rows, columns) > 65536 ? Int32Array : Uint16Array; // smaller ones are faster
    const other = new Indices(n), value = new Float32Array(n);
    eachNonzero(tensor, (i, weight) => {
      const at = next[group(i)]++;
      other[at] = index(i);
      value[at] = weight;
    });
    return { rows, columns, start, other, value };
  }

  function bigramRows({ shape: [, columns], forms: { row, column, steps } }, step) {
    return token => Float64Array.from(column, (offset, j) => {
      const folded = steps[token * columns + j];
      return step * (row[token] + offset + (folded & 1 ? -(folded + 1) / 2 : folded / 2));
    });
  }

  return { read };
})();
