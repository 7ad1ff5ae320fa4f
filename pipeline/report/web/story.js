"use strict";
// The circuit told: a real pair of prompts, then sentences with what swapping each one's nodes did to the answer, and a
// button that lights them in the drawing.
const CircuitStory = (() => {
  const { make, visible, inCode, words } = CircuitElements;
  const BEFORE = 24; // tokens that are shown before the first one in which two prompts differ
  const percent = share => `${Math.round(100 * share)} %`;

  // page: { bundle, drawing (mounted) }; stage: the drawing's element → [section], or [] without a story
  function section(page, stage) {
    const story = page.bundle.explanation?.story;
    if (!story) return [];
    const sentences = story.sentences.map(sentence => make("button", {
      type: "button", class: "st-text", "aria-pressed": "false", onclick: event => light(event.currentTarget, sentence),
    }, words(sentence.text)));

    // Lights a sentence's part of the drawing, or puts it out again.
    function light(button, { nodes, carriers }) {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const each of sentences) each.setAttribute("aria-pressed", String(on && each === button));
      page.drawing.light(on ? [...nodes, ...carriers] : null);
      const { top, bottom } = stage.getBoundingClientRect();
      if (on && (top > innerHeight - 80 || bottom < 80)) stage.scrollIntoView({ block: "nearest" });
    }

    const rest = [story.limit && `* ${story.limit}`, story.all.text].filter(Boolean);
    return [make("section", { class: "st", "aria-label": "The circuit in sentences" },
      pair(page.bundle), sentences.length ? make("p", { class: "dim" }, "In the circuit alone, all else at its mean:") : null, make("p", { class: "st-gist" }, words(story.gist)),
      sentences.length ? make("ol", {}, story.sentences.map((sentence, i) => make("li", { class: sentence.weak ? "weak" : null }, sentences[i], chip(sentence)))) : null,
      sentences.length ? make("p", { class: "dim" }, MOVES) : null,
      rest.map(text => make("p", { class: "dim" }, words(text))),
      sentences.length ? legend() : null)];
  }

  // The first pair of prompts: where they differ is shaded, the last token is underlined, and each one's answer follows.
  function pair({ explanation, drawing }) {
    const sides = (explanation.prompts ?? []).filter(({ pair }, _, all) => pair === all[0].pair);
    if (sides.length !== 2) return null;
    const texts = sides.map(({ tokens }) => tokens.map(token => explanation.tokens[token]));
    const [begin, end] = alike(...texts), from = Math.max(begin - BEFORE, 0);
    const first = drawing.outputs.answers && drawing.tokens[drawing.outputs.answers[0]];
    return make("div", { class: "st-pair" }, sides.map(({ answer }, side) => make("pre", { class: "st-prompt" }, from ? "… " : "",
      texts[side].slice(from).map((text, i) => {
        const at = from + i, last = at === texts[side].length - 1;
        const kinds = [at >= begin && at < texts[side].length - end && "differs", last && "last"].filter(Boolean);
        return make("span", kinds.length ? { class: kinds.join(" ") } : {}, last ? inCode(text).replace(/\n$/, "") : inCode(text));
      }), " → ", make("code", { class: `tok ${first === null ? "" : answer === first ? "p" : "n"}` }, visible(answer)))),
    make("p", { class: "dim" }, "A pair of prompts of the task: shaded, where they differ; underlined, the last token, after which the model answers."));
  }

  // How many tokens two prompts have in common at the beginning, and of the rest at the end.
  function alike(a, b) {
    const most = Math.min(a.length, b.length);
    let begin = 0, end = 0;
    while (begin < most && a[begin] === b[begin]) begin += 1;
    while (end < most - begin && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
    return [begin, end];
  }

  const MOVES = "Moves N % · M %: given the values that they have on the pair’s other prompt, the nodes of the sentence move the answer towards the other one in N % of prompts (by a twentieth of the way at least), on average M % of the way. This is the circuit alone, all else at its mean; whether the model works so, too, is what its claims are about.";
  const TERMS = [
    ["head 0.45", "Head 45 of layer 0. It copies where most of its attention is on one place, and averages where no place has half of it. In the drawing its queries ask and its keys find: at what they are far from 0."],
    ["channel 139", "One number of the residual stream, which nodes write and later ones read."],
    ["pushes, →", "Which answer a write makes likelier, and on which prompt. The colours of edges say the same: on the prompt on which the edge is strong, the answer is pushed that way. In sentences by how many logits, the mean over the prompts, to first order, with the circuit’s calibration. In all: by how much the right answer leads in the circuit, whatever it comes from."],
    ["that no step here fills, reads", "Channels that a step reads or fills, but that no other step of the story does: they matter too little to be told."],
    ["wins by default", "Where nothing in the circuit speaks for either answer, the rest of the model at its mean, and the bigram table, do."],
    ["draws, repels attention", "Whether a key makes its head look where the key is far from 0, or look away: the sign of its product with the query, which is constant where the circuit has none."],
    ["thresholds, > 3.0", "A neuron that is off on one side; in the drawing, the value that its only source has to exceed (<: stay below) for it to fire. Inverts: it is high where its source is low."],
    ["(1 more elsewhere)", "One more node of this step, small beside the others, that is far from 0 at other tokens."],
    ["later on", "Everywhere after the first difference of the two prompts."],
    ["weak, grey", "The label tells hardly anything apart, or the step moves few answers."],
  ];

  function legend() {
    return make("details", { class: "cn-others st-legend" }, make("summary", {}, "Choose a sentence to light its part. How to read this"),
      make("dl", {}, TERMS.map(([term, meaning]) => [make("dt", {}, term), make("dd", {}, meaning)])));
  }

  function chip({ moved, flips, share, n_prompts: n, weak, apart }) {
    if (moved === null) return make("span", { class: "chip dim" }, "not checked");
    const more = `of ${n} prompts; the answer goes ${percent(share ?? 0)} of the way to the other one, and ${percent(flips ?? 0)} of the right answers flip`;
    return make("span", { class: `chip${weak ? " dim" : ""}`, title: more }, `moves ${percent(moved)}${weak ? " only" : apart ? " *" : ""}${share === null ? "" : ` · ${percent(share)}`}`);
  }

  return { section, alike };
})();
