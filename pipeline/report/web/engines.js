"use strict";
// Where a circuit page's model runs: in the page, or behind the server that the page came from (`sparse-circuits play`).
//
// CircuitEngines.of(page, { model, served }) → null where it runs nowhere, or a function that gives a promise of
//   { run(asked) → promise of the reply, prompts(pair) → both texts of a pair of the task }
//   model: the element with the packed model; served: the circuit's name on the server, "" for the model without one
//   asked: the body of POST /run but for its circuit; with a `head`, the reply has in `look` where that head looks
// CircuitEngines.served(name) → promise of the bundle that the server has
const CircuitEngines = (() => {
  const models = new Map(); // packed model → promise of it

  function of(page, { model, served }) {
    if (served !== undefined) return async () => onServer(page.bundle.run, served);
    if (page.bundle.run && Packed.has(model)) return () => inPage(page, model);
    return null;
  }

  // --- in the page

  async function inPage(page, id) {
    if (!models.has(id)) {
      const ready = model => ({ model, session: EngineSession.of(model) });
      models.set(id, Packed.bytes(id).then(EngineWeights.read).then(ready));
    }
    const { model, session } = await models.get(id), circuit = circuitOf(page, model.means);
    return {
      prompts: pair => page.bundle.run.pairs[pair].map(([ids]) => ids.map(model.tokenizer.text).join("")),
      run: async asked => session.run(circuit, asked),
    };
  }

  // The page's circuit as the engine wants it.
  function circuitOf({ bundle: { task, run }, nodes, edges }, means) {
    const values = Object.entries(run.ablated_to ?? {}).map(([key, row]) => [key, Float64Array.from(row)]);
    return {
      name: task, nodes: nodes.map(({ name }) => name), edges, calibration: run.calibration,
      ablatedTo: run.ablated_to ? new Map(values) : means,
    };
  }

  // --- on the server

  function onServer(run, circuit) {
    const asking = body => ({
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    return {
      prompts: pair => run.prompts[pair],
      run: asked => fetched("run", asking({ ...asked, circuit: circuit || null })),
    };
  }

  const served = name => fetched(`circuit/${encodeURIComponent(name)}`);

  async function fetched(url, options) {
    const response = await fetch(url, options).catch(() => {
      throw new Error("the server does not answer: is `sparse-circuits play` still running?");
    });
    const value = await response.json().catch(() => ({ error: `the server says ${response.status}` }));
    if (!response.ok) throw new Error(value.error);
    return value;
  }

  return { of, served };
})();
