"use strict";
// Causal attention with a sink (pipeline/model/attention.py): every head's average of the values up to each token.
//
// EngineAttention.attend(q, k, v, sink logits or null, heads, queries) → { mixed, weight(head, query, key),
//   average(rows), averageOf(channel, column), constant(row) }: the averages with these weights, also of other values
//   in the place of v, of one channel's values, a number a token, and of values that are the same at all tokens.
// Queries are those of the last tokens, keys and values of all; `query` counts from the first of the queries.
// Weights lie key by key, the queries of a key side by side: keys and values are mostly zero, and zeros are skipped.
const EngineAttention = (() => {
  function attend(q, k, v, sink, nHead, n) {
    const width = q.length / n, size = width / nHead, nKeys = k.length / width, before = nKeys - n;
    const weights = new Float64Array(nHead * nKeys * n), own = new Float64Array(size * n);
    for (let head = 0; head < nHead; head++) {
      turned(q, own, n, width, head * size, 1 / Math.sqrt(size));
      const scores = weights.subarray(head * nKeys * n, (head + 1) * nKeys * n);
      eachNonzero(k, nKeys, width, head * size, size, (key, c, value) => {
        for (let query = first(key, before); query < n; query++) scores[key * n + query] += value * own[c * n + query];
      });
      for (let query = 0; query < n; query++) softmax(scores, query, n, before, sink ? sink[head] : -Infinity);
    }
    const average = rows => averaged(weights, rows, nHead, n, size);
    return {
      mixed: average(v), average,
      weight: (head, query, key) => (key > before + query ? 0 : weights[(head * nKeys + key) * n + query]),
      averageOf: (channel, column) => averagedColumn(weights, column, Math.floor(channel / size), n),
      constant: row => constantly(weights, row, n, nKeys, size),
    };
  }

  // The first query that sees a key.
  const first = (key, before) => Math.max(0, key - before);

  // Some channels of all rows times a scale, a channel's numbers side by side.
  function turned(rows, into, n, width, from, scale) {
    for (let c = 0; c * n < into.length; c++) {
      for (let p = 0; p < n; p++) into[c * n + p] = scale * rows[p * width + from + c];
    }
  }

  function eachNonzero(rows, n, width, from, size, visit) {
    for (let p = 0; p < n; p++) {
      for (let c = 0; c < size; c++) if (rows[p * width + from + c] !== 0) visit(p, c, rows[p * width + from + c]);
    }
  }

  // The sink is a key before the first, with its logit as its score and no value.
  function softmax(scores, query, n, before, sink) {
    const end = (before + query) * n + query;
    let most = sink, total = 0;
    for (let i = query; i <= end; i += n) if (scores[i] > most) most = scores[i];
    for (let i = query; i <= end; i += n) total += scores[i] = Math.exp(scores[i] - most);
    total += Math.exp(sink - most);
    for (let i = query; i <= end; i += n) scores[i] /= total;
  }

  function averaged(weights, v, nHead, n, size) {
    const width = nHead * size, mixed = new Float64Array(n * width), own = new Float64Array(size * n);
    const nKeys = v.length / width;
    for (let head = 0; head < nHead; head++) {
      own.fill(0);
      eachNonzero(v, nKeys, width, head * size, size, (key, c, value) => {
        const from = (head * nKeys + key) * n;
        for (let query = first(key, nKeys - n); query < n; query++) own[c * n + query] += value * weights[from + query];
      });
      for (let c = 0; c < size; c++) for (let p = 0; p < n; p++) mixed[p * width + head * size + c] = own[c * n + p];
    }
    return mixed;
  }

  function averagedColumn(weights, column, head, n) {
    const average = new Float64Array(n), nKeys = column.length;
    for (let key = 0; key < nKeys; key++) {
      const from = (head * nKeys + key) * n;
      for (let query = first(key, nKeys - n); query < n; query++) average[query] += weights[from + query] * column[key];
    }
    return average;
  }

  // A head's weights on tokens add up to less than 1 where there is a sink.
  function constantly(weights, row, n, nKeys, size) {
    const width = row.length, mixed = new Float64Array(n * width);
    for (let head = 0; head * size < width; head++) {
      const sums = averagedColumn(weights, new Float64Array(nKeys).fill(1), head, n);
      for (let query = 0; query < n; query++) {
        for (let c = head * size; c < (head + 1) * size; c++) mixed[query * width + c] = sums[query] * row[c];
      }
    }
    return mixed;
  }

  return { attend };
})();
