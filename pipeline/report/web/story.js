"use strict";
// The circuit told in sentences: what swapping each one's nodes did to the answer, and a button that lights them in the
// drawing.
const CircuitStory = (() => {
  const { make } = CircuitElements;
  const MIN_MOVED = 0.8; // as in pipeline/explain/story.py
  const percent = share => `${Math.round(100 * share)} %`;

  // Text with what stands between back quotes as code.
  const told = text => text.split(/`([^`]+|`)`/).map((part, i) => (i % 2 ? make("code", {}, part) : part));

  // page: { bundle, drawing (mounted) }; stage: the drawing's element → [section], or [] without a story
  function section(page, stage) {
    const story = page.bundle.explanation?.story;
    if (!story) return [];
    const sentences = story.sentences.map(sentence => make("button", {
      type: "button", class: "st-text", "aria-pressed": "false", onclick: event => light(event.currentTarget, sentence),
    }, told(sentence.text)));

    // Lights a sentence's part of the drawing, or puts it out again.
    function light(button, { nodes, carriers }) {
      const on = button.getAttribute("aria-pressed") !== "true";
      for (const each of sentences) each.setAttribute("aria-pressed", String(on && each === button));
      page.drawing.light(on ? [...nodes, ...carriers] : null);
      const { top, bottom } = stage.getBoundingClientRect();
      if (on && (top > innerHeight - 80 || bottom < 80)) stage.scrollIntoView({ block: "nearest" });
    }

    return [make("section", { class: "st", "aria-label": "The circuit in sentences" },
      make("p", { class: "st-gist" }, told(story.gist)),
      sentences.length ? make("ol", {}, story.sentences.map((sentence, i) => make("li", { class: sentence.weak ? "weak" : null }, sentences[i], chip(sentence)))) : null,
      story.all.text ? make("p", { class: "dim" }, story.all.text) : null,
      sentences.length ? checked() : null)];
  }

  function checked() {
    return make("details", { class: "cn-others" }, make("summary", {}, "Choose a sentence to light its part. How each was checked"),
      make("p", { class: "dim" }, "The sentences are made by rule. To check one, its nodes get the values that they have on the pair’s other prompt, position by position: “moves” says in how many prompts the answer then moves towards the other one, by a twentieth of the way at least. These are prompts that the sentences were not made from."));
  }

  function chip({ moved, flips, share, n_prompts: n, weak }) {
    if (moved === null) return make("span", { class: "chip dim" }, "not checked");
    const more = `of ${n} prompts; the answer goes ${percent(share ?? 0)} of the way to the other one, and ${percent(flips ?? 0)} of the right answers flip`;
    return make("span", { class: `chip${moved < MIN_MOVED ? " dim" : ""}`, title: more }, `moves ${percent(moved)}${weak ? " only" : ""}`);
  }

  return { section };
})();
