"use strict";
// The forward pass of a packed model on one text (pipeline/model/transformer.py), in float64. Values are flat arrays, a
// row of `width` numbers a token.
//
// EngineForward.run(model, tokens, changes or null, past or null) → { n, values: site key → [token · width],
//   attention: a layer each, stream: the residual stream at its end, logits(token place) → [vocab] }
// `changes` (changes.js): site(key, values) changes what the rest of the model sees of a site; map(name, map, x,
// attended) gives a linear map's output, or null for its own.
// `past`: { run, n }, a run with the same first n tokens and changes that are the same at all tokens: only later tokens
// are computed, and `attention` is of these alone.
const EngineForward = (() => {
  function run(model, tokens, changes = null, past = null) {
    const before = past?.n ?? 0, n = tokens.length - before, { afrac, n_head: nHead, d_model: width } = model.shape;
    const x = embedded(model, tokens.slice(before), before), values = new Map(), attention = [];
    const site = (key, rows) => {
      const size = rows.length / n;
      for (let p = 0; p < n; p++) absTopK(rows, p * size, size, Math.floor(afrac * size));
      changes?.site(key, rows);
      values.set(key, past ? joined(past.run.values.get(key), rows, before, tokens.length) : rows);
      return rows;
    };
    const mapped = (l, name, rows, attended) => {
      const map = model.layers[l].maps[name];
      return changes?.map(`${l}.${name}`, map, rows, attended) ?? product(map, rows, n);
    };
    model.layers.forEach((layer, l) => {
      const read = site(`${l}.attn_in`, normed(x, layer.norm1, model.eps));
      const [q, k, v] = thirds(mapped(l, "attn.c_attn", read, null), n);
      site(`${l}.attn_q`, q);
      site(`${l}.attn_k`, k);
      site(`${l}.attn_v`, v);
      const [keys, averaged] = ["attn_k", "attn_v"].map(name => values.get(`${l}.${name}`));
      const attended = EngineAttention.attend(q, keys, averaged, layer.sink, nHead, n);
      attention.push(attended);
      add(x, site(`${l}.attn_out`, mapped(l, "attn.c_proj", attended.mixed, attended)));
      const neurons = mapped(l, "mlp.c_fc", site(`${l}.mlp_in`, normed(x, layer.norm2, model.eps)), null);
      for (let i = 0; i < neurons.length; i++) neurons[i] = engineGelu(neurons[i]);
      add(x, site(`${l}.mlp_out`, mapped(l, "mlp.c_proj", site(`${l}.mlp_neuron`, neurons), null)));
    });
    const stream = past ? joined(past.run.stream, x, before, tokens.length) : x;
    const row = place => stream.subarray(place * width, (place + 1) * width);
    return { n: tokens.length, values, attention, stream, logits: place => logits(model, tokens[place], row(place)) };
  }

  // The first rows of an earlier run, then later ones.
  function joined(first, later, before, n) {
    const rows = new Float64Array(later.length / (n - before) * n), from = rows.length - later.length;
    rows.set(first.subarray(0, from));
    rows.set(later, from);
    return rows;
  }

  // `before`: the place of the first token.
  function embedded({ embedding: { start, other, value }, positions, shape: { d_model: width } }, tokens, before) {
    const x = new Float64Array(tokens.length * width);
    if (positions) x.set(positions.subarray(before * width, before * width + x.length));
    tokens.forEach((token, p) => {
      for (let i = start[token]; i < start[token + 1]; i++) x[p * width + other[i]] += value[i];
    });
    return x;
  }

  function logits(model, token, x) {
    const found = product(model.unembedding, normed(x, model.norm, model.eps), 1);
    if (model.bigram) add(found, model.bigram(token));
    return found;
  }

  function add(x, more) {
    for (let i = 0; i < x.length; i++) x[i] += more[i];
  }

  // RMSNorm of every row.
  function normed(x, gain, eps) {
    const y = new Float64Array(x.length), width = gain.length;
    for (let from = 0; from < x.length; from += width) {
      let total = 0;
      for (let i = 0; i < width; i++) total += x[from + i] * x[from + i];
      const scale = 1 / Math.sqrt(total / width + eps);
      for (let i = 0; i < width; i++) y[from + i] = x[from + i] * scale * gain[i];
    }
    return y;
  }

  // W x + b of n rows, skipping zeros of both.
  function product({ rows, columns, start, other, value, bias }, x, n) {
    const y = new Float64Array(n * rows);
    for (let p = 0; p < n; p++) {
      const into = p * rows;
      if (bias) y.set(bias, into);
      for (let c = 0; c < columns; c++) {
        const source = x[p * columns + c];
        if (source === 0) continue;
        for (let i = start[c]; i < start[c + 1]; i++) y[into + other[i]] += value[i] * source;
      }
    }
    return y;
  }

  // Queries, keys and values, which lie side by side in each row.
  function thirds(rows, n) {
    const width = rows.length / n / 3;
    return [0, 1, 2].map(part => {
      const y = new Float64Array(n * width);
      for (let p = 0; p < n; p++) y.set(rows.subarray((3 * p + part) * width, (3 * p + part + 1) * width), p * width);
      return y;
    });
  }

  // Zeroes all but the k largest magnitudes of a row; of equal ones, the later go first.
  function absTopK(x, from, width, k) {
    if (k >= width) return;
    const least = smallestKept(x, from, width, k);
    let equal = k; // how many of exactly the least size stay
    for (let i = from; i < from + width; i++) if (Math.abs(x[i]) > least) equal--;
    for (let i = from; i < from + width; i++) {
      const size = Math.abs(x[i]);
      if (size < least || (size === least && equal-- <= 0)) x[i] = 0;
    }
  }

  // The k-th largest magnitude of a row: sizes are counted by their first bits, and those with the bits of the one that
  // is sought are compared.
  const SHIFT = 20; // leaves the exponent of a float32 and three bits more
  const counts = new Int32Array(2 ** (31 - SHIFT));
  let singles = new Float32Array(0), bits = new Uint32Array(0), near = new Float64Array(0);
  function smallestKept(x, from, width, k) {
    if (singles.length < width) {
      singles = new Float32Array(width);
      bits = new Uint32Array(singles.buffer);
      near = new Float64Array(width);
    }
    counts.fill(0);
    for (let i = 0; i < width; i++) singles[i] = Math.abs(x[from + i]);
    for (let i = 0; i < width; i++) counts[bits[i] >> SHIFT]++;
    let bucket = counts.length - 1, above = 0;
    while (above + counts[bucket] < k) above += counts[bucket--];
    let n = 0;
    for (let i = 0; i < width; i++) if (bits[i] >> SHIFT === bucket) near[n++] = Math.abs(x[from + i]);
    return largest(near, n, k - above);
  }

  // The k-th largest of the first n numbers, by quickselect.
  function largest(a, n, k) {
    let low = 0, high = n - 1;
    while (low < high) {
      const pivot = a[(low + high) >> 1];
      let i = low, j = high;
      while (i <= j) {
        while (a[i] > pivot) i++;
        while (a[j] < pivot) j--;
        if (i <= j) { const swapped = a[i]; a[i++] = a[j]; a[j--] = swapped; }
      }
      if (k - 1 <= j) high = j;
      else if (k - 1 >= i) low = i;
      else break;
    }
    return a[k - 1];
  }

  return { run, product };
})();
