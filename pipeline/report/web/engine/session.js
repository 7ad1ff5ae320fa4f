"use strict";
// One model in the page and its circuits: the answers that pipeline/play/session.py gives, in the same JSON.
//
// EngineSession.of(model) → { run(circuit or null, asked) → reply, patterns(circuit, asked) → attention of its run }
//   circuit: { nodes, edges: names, ablatedTo: site key → [width], calibration: [scale, shift] }
//   asked: the body of the server's POST /run. Throws an Error with words for the person who asked.
const EngineSession = (() => {
  const N_TOP = 8, DIGITS = 4, KEPT = 6; // tokens of a choice; significant digits; runs that are remembered
  const rounded = x => Number(x.toPrecision(DIGITS));

  function of(model) {
    const { tokenizer, shape } = model;
    const runs = new Map(); // what was run lately, the oldest first
    const latest = new Map(); // circuit, or "" for the model → its last run without changes, and of which tokens

    function encode(text) {
      if (!text) throw new Error("the text is empty: type some code, or take one of the examples");
      const ids = tokenizer.encode(text), room = shape.n_ctx - 1;
      return { tokens: [tokenizer.endOfText, ...ids.slice(-room)], nLeftOut: Math.max(0, ids.length - room) };
    }

    function remembered(key, make) {
      const found = runs.get(key) ?? make();
      runs.delete(key);
      runs.set(key, found);
      if (runs.size > KEPT) runs.delete(runs.keys().next().value);
      return found;
    }

    // A run of the whole model, or of a circuit alone, with parts of it changed.
    function ran(tokens, circuit, alone, acts = [], otherText = null) {
      if (!acts.length) return unchanged(tokens, alone ? circuit : null);
      const key = JSON.stringify([tokens, circuit.name, alone, acts, acts.length ? otherText : null]);
      return remembered(key, () => {
        const other = acts.some(({ kind }) => kind === "swap") ? onOther(tokens, circuit, alone, otherText) : null;
        const changes = { circuit: alone ? circuit : null, ablatedTo: circuit.ablatedTo, acts, other };
        return EngineForward.run(model, tokens, EngineChanges.of(model, tokens.length, changes));
      });
    }

    // A run without changes; tokens that its last run began with are not computed again.
    function unchanged(tokens, circuit) {
      const name = circuit?.name ?? "";
      return remembered(JSON.stringify([tokens, name]), () => {
        const last = latest.get(name), n = last ? Math.min(shared(last.tokens, tokens), tokens.length - 1) : 0;
        const only = circuit && { circuit, ablatedTo: circuit.ablatedTo };
        const changes = only && EngineChanges.of(model, tokens.length - n, only);
        const run = EngineForward.run(model, tokens, changes, n ? { run: last.run, n } : null);
        for (const other of latest.keys()) if (other && name) latest.delete(other); // one circuit's is enough
        latest.set(name, { tokens, run });
        return run;
      });
    }

    // The same run, unchanged, on the other text, and where each token's counterpart is in it.
    function onOther(tokens, circuit, alone, text) {
      if (!text) throw new Error("to swap a value, write the other prompt");
      const there = encode(text).tokens;
      return { values: ran(there, circuit, alone).values, counterpart: counterparts(tokens, there) };
    }

    function run(circuit, asked) {
      const { text, at = null, answers = [], node = null, inside = "circuit", head = null } = asked;
      const { tokens, nLeftOut } = encode(text), acts = actsOf(circuit, asked), alone = inside === "circuit";
      const known = answers.every(token => token >= 0 && token < shape.vocab_size);
      if (answers.length && (answers.length !== 2 || !known)) {
        throw new Error(`answers [${answers.join(", ")}]; allowed: two tokens from 0 to ${shape.vocab_size - 1}`);
      }
      const place = at === null ? tokens.length - 1 : Math.min(at, tokens.length - 1);
      const whole = ran(tokens, null, false);
      const reply = { tokens: tokens.map(tokenizer.text), n_left_out: nLeftOut, at: place, circuit: null };
      if (!circuit) return { ...reply, model: choice(whole.logits(place), null, answers) };
      const byItself = ran(tokens, circuit, true), before = alone ? byItself : whole;
      const upTo = tokens.slice(0, place + 1);
      const now = acts.length ? ran(tokens, circuit, alone, acts, asked.other) : before;
      const changed = acts.length ? now.logits(place) : null;
      return {
        ...reply,
        model: choice(whole.logits(place), alone ? null : changed, answers),
        circuit: choice(byItself.logits(place), alone ? changed : null, answers, circuit.calibration),
        nodes: atToken(circuit, now, before, place),
        series: node === null ? null : series(circuit, now, before, node),
        look: head === null ? null : look(circuit, asked, head, place),
        ...(asked.effects ? { effects: effectsOf(circuit, asked, alone, acts, upTo, now.logits(place)) } : {}),
      };
    }

    // A head's weights, from one token, on that and all before it.
    function look(circuit, asked, [layer, head], at) {
      if (!(layer >= 0 && layer < shape.n_layer && head >= 0 && head < shape.n_head)) {
        throw new Error(`head ${layer}.${head}; allowed: ${shape.n_layer} layers of ${shape.n_head} heads`);
      }
      const weights = patterns(circuit, asked)[layer];
      return Array.from({ length: at + 1 }, (_, key) => rounded(weights.weight(head, at, key)));
    }

    // The weights of all heads in the run that `asked` looks at.
    function patterns(circuit, asked) {
      const { tokens } = encode(asked.text), alone = circuit !== null && (asked.inside ?? "circuit") === "circuit";
      const acts = actsOf(circuit, asked);
      if (acts.length) return ran(tokens, circuit, alone, acts, asked.other).attention;
      const changes = alone ? { circuit, ablatedTo: circuit.ablatedTo } : null;
      return remembered(JSON.stringify([tokens, alone && circuit.name, "whole"]), () =>
        EngineForward.run(model, tokens, changes && EngineChanges.of(model, tokens.length, changes))).attention;
    }

    // By how much what is answered changes when one more node goes off, of every node in turn.
    function effectsOf(circuit, asked, alone, acts, tokens, now) {
      const pair = asked.answers?.length ? asked.answers : [best(now)];
      const apart = logits => logits[pair[0]] - logits[pair[1]], likely = logits => Math.log(softmax(logits)[pair[0]]);
      const score = pair.length === 2 ? apart : likely;
      const changes = circuit.nodes.map(name => {
        const without = [...acts.filter(act => act.name !== name), { name, kind: "off", value: null }];
        return score(ran(tokens, circuit, alone, without, asked.other).logits(tokens.length - 1)) - score(now);
      });
      return { of: changes.map(rounded), tokens: pair.map(tokenizer.text) };
    }

    // The next token before and after a change: the likeliest of either, and the two answers.
    function choice(before, now, answers, [scale, shift] = [1, 0]) {
      const both = now ? [before, now] : [before], p = both.map(softmax), last = p.at(-1);
      const listed = new Set([...p.flatMap(top), ...answers]);
      const order = [...listed].sort((a, b) => last[b] - last[a] || a - b);
      const kept = order.filter((token, rank) => rank < N_TOP || answers.includes(token));
      const first = logits => 1 / (1 + Math.exp(-(scale * (logits[answers[0]] - logits[answers[1]]) + shift)));
      return {
        tokens: kept.map(token => [token, tokenizer.text(token), ...p.map(each => rounded(each[token]))]),
        first: answers.length ? both.map(logits => rounded(first(logits))) : null,
      };
    }

    function column(run, name) {
      const { key, index } = EngineChanges.nodeOf(name), width = model.widths.get(key), rows = run.values.get(key);
      return Array.from({ length: run.n }, (_, p) => rows[p * width + index]);
    }

    function atToken(circuit, now, before, place) {
      const [values, old] = [now, before].map(run => circuit.nodes.map(name => column(run, name)));
      const largest = values.map((row, i) => Math.max(...row.map(Math.abs), ...old[i].map(Math.abs)));
      const here = rows => rows.map(row => rounded(row[place]));
      return { now: here(values), before: here(old), largest: largest.map(rounded) };
    }

    function series(circuit, now, before, node) {
      if (!circuit.nodes.includes(node)) throw new Error(`the circuit has no node ${node}`);
      return { node, now: column(now, node).map(rounded), before: column(before, node).map(rounded) };
    }

    return { run, patterns };
  }

  // All that is asked to change, by name: what is off, and `changes`, [name, kind, value].
  function actsOf(circuit, { off_nodes: nodes = [], off_edges: edges = [], changes = [] }) {
    const acts = new Map([...nodes, ...edges].map(name => [name, { name, kind: "off", value: null }]));
    for (const [name, kind, value = null] of changes) acts.set(name, { name, kind, value });
    if (acts.size && !circuit) {
      throw new Error("choose a circuit first: its nodes and edges are what can be looked at and switched off");
    }
    const known = new Set(circuit ? [...circuit.nodes, ...circuit.edges] : []);
    const unknown = [...acts.keys()].find(name => !known.has(name));
    if (unknown) throw new Error(`the circuit has no ${unknown.includes("->") ? "edge" : "node"} ${unknown}`);
    return [...acts.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  // Of every token its place in the other text (pipeline/data/pairs.py): the same up to where the two part; after that,
  // counted backwards from the end; −1: none.
  function counterparts(tokens, there) {
    const parted = Math.min(shared(tokens, there), tokens.length - 1, there.length - 1);
    return tokens.map((_, p) => {
      const aligned = there.length - tokens.length + p;
      return p < parted ? p : aligned >= parted ? aligned : -1;
    });
  }

  // How many tokens two texts begin with alike.
  function shared(one, other) {
    let n = 0;
    while (n < one.length && one[n] === other[n]) n++;
    return n;
  }

  function softmax(logits) {
    const most = logits.reduce((a, b) => Math.max(a, b)), powers = logits.map(x => Math.exp(x - most));
    const total = powers.reduce((a, b) => a + b);
    return powers.map(x => x / total);
  }

  const top = p => [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, N_TOP);
  const best = logits => logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));

  return { of, counterparts };
})();
