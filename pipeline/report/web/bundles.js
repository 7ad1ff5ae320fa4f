"use strict";
// The bundles of circuits that lie packed in the page.
//
// CircuitBundles.id(model, task); CircuitBundles.of(id) → promise of the bundle; CircuitBundles.models(task) → names of
// the models whose circuit of the task is in the page
const CircuitBundles = (() => {
  const id = (model, task) => `bundle-${model}-${task}`;

  // What the explanations of a model's circuits have in common is packed once for all of them.
  async function of(id) {
    const bundle = await Packed.json(id);
    const common = `explained-${bundle.model}`;
    if (!bundle.explanation || !Packed.has(common)) return bundle;
    const { tokens, nodes } = await Packed.json(common);
    const { sites, nodes: { site, index } } = bundle.drawing;
    const whole = bundle.explanation.nodes.map((own, i) => own && { ...nodes[`${sites[site[i]]}.${index[i]}`], ...own });
    return { ...bundle, explanation: { ...bundle.explanation, nodes: whole, tokens } };
  }

  function models(task) {
    const [before, behind] = [id("", "").slice(0, -1), `-${task}`];
    const ids = [...document.querySelectorAll(`script[id^="${before}"]`)].map(element => element.id);
    return ids.filter(each => each.endsWith(behind)).map(each => each.slice(before.length, -behind.length));
  }

  return { id, of, models };
})();
