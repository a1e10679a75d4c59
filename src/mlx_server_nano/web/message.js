// How messages look: what the user says, and answers with their thinking, text, tool calls and figures.

import { copyText, h, icon, iconButton, setText } from "./dom.js";
import { Markdown } from "./markdown.js";

/** actions.edit(text): say something else instead. */
export class UserView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.element = h("article", { class: "message user", "aria-label": "You" });
    this.#show();
  }

  #show() {
    const copy = iconButton("copy", "Copy", () => copyText(this.message.content, copy));
    this.element.replaceChildren(
      h("div", { class: "bubble" }, this.message.content),
      h("div", { class: "actions" }, iconButton("edit", "Edit and send again", () => this.edit()), copy),
    );
  }

  edit() {
    const area = h("textarea", { "aria-label": "Edit your message", rows: Math.min(12, this.message.content.split("\n").length + 1) });
    area.value = this.message.content;
    const cancel = () => {
      this.#show();
      this.element.querySelector("button").focus();
    };
    const send = () => area.value.trim() && this.actions.edit(area.value);
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
    });
    const buttons = h(
      "div",
      { class: "row end" },
      h("button", { type: "button", onclick: cancel }, "Cancel"),
      h("button", { type: "button", class: "primary", onclick: send }, "Send"),
    );
    this.element.replaceChildren(h("div", { class: "editor" }, area, buttons));
    area.focus();
  }
}

/**
 * actions.again(): another answer in its place. actions.results(texts): what the tools returned, in the calls' order.
 * `update` may come as often as it likes; `waiting` is a text while nothing has arrived, null from then on.
 */
export class AnswerView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.cards = [];
    this.prose = new Markdown(h("div", { class: "prose" }));
    this.thought = h("div", { class: "thought" });
    this.summary = h("span");
    this.thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, this.summary), this.thought);
    this.thinking.firstChild.addEventListener("click", () => (this.touched = true));
    this.wait = h("p", { class: "wait" }, h("span", { class: "pulse", "aria-hidden": "true" }), (this.waitText = h("span")));
    this.calls = h("div", { class: "calls" });
    this.error = h("div", { class: "failure", role: "alert", hidden: true });
    this.figures = h("span", { class: "figures" });
    const copy = iconButton("copy", "Copy the answer", () => copyText(message.content, copy));
    this.copy = copy;
    this.buttons = h("span", { class: "actions" }, copy, iconButton("again", "Answer again", () => actions.again()));
    this.element = h(
      "article",
      { class: "message answer", "aria-label": `Answer of ${message.model}` },
      this.thinking,
      this.prose.element,
      this.calls,
      this.wait,
      this.error,
      h("footer", {}, this.figures, this.buttons),
    );
  }

  /** last: nothing follows it, so its calls still want results. */
  update({ running = false, waiting = null, last = false, results = [] } = {}) {
    const { message } = this;
    const begun = message.content || message.reasoning || message.calls.length;
    this.wait.hidden = !running || Boolean(begun);
    setText(this.waitText, waiting ?? "");
    this.#showThinking(running);
    this.prose.update(message.content);
    this.element.classList.toggle("running", running);
    this.#showCalls({ running, last, results });
    this.error.hidden = !message.error;
    if (message.error && !this.error.firstChild) {
      const again = h("button", { type: "button", onclick: () => this.actions.again() }, "Try again");
      this.error.append(h("p", {}, message.error), again);
    }
    setText(this.figures, figures(message, running));
    this.buttons.hidden = running || Boolean(message.error);
    this.copy.hidden = !message.content;
  }

  #showThinking(running) {
    const { reasoning, content, calls, stats } = this.message;
    const thinks = running && !content && !calls.length;
    this.thinking.hidden = !reasoning;
    setText(this.thought, reasoning.trim());
    setText(this.summary, thinks ? "Thinking" : stats.thinking >= 0.1 ? `Thought for ${seconds(stats.thinking)}` : "Thoughts");
    this.thinking.classList.toggle("now", thinks);
    // Open while it thinks, folded after, unless the reader has decided otherwise.
    if (!this.touched) this.thinking.open = thinks && Boolean(reasoning);
    if (thinks) this.thought.scrollTop = this.thought.scrollHeight;
  }

  #showCalls({ running, last, results }) {
    const { calls, finish } = this.message;
    for (const [index, call] of calls.entries()) {
      if (!call) continue;
      const card = (this.cards[index] ??= this.#card(index));
      setText(card.name, call.name);
      setText(card.given, pretty(call.arguments));
      const result = results[index];
      const wanted = last && !running && finish === "tool_calls";
      card.field.hidden = !wanted;
      card.result.hidden = result === undefined;
      setText(card.result.lastChild, result ?? "");
    }
    if (!calls.length) return;
    this.proceed ??= h("button", { type: "button", class: "primary", onclick: () => this.#sendResults() }, "Send and go on");
    if (!this.proceed.isConnected) this.calls.append(this.proceed);
    this.proceed.hidden = running || !last || finish !== "tool_calls";
  }

  #card(index) {
    const card = {
      name: h("b"),
      given: h("pre", { tabindex: "0", "aria-label": "Arguments" }),
      input: h("textarea", { rows: 2, class: "mono", spellcheck: "false", placeholder: '{"status": "ok"}' }),
      result: h("div", { class: "returned", hidden: true }, h("span", { class: "label" }, "Returned"), h("pre", { tabindex: "0" })),
    };
    card.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        const next = this.cards[index + 1];
        if (next) next.input.focus();
        else this.#sendResults();
      }
    });
    card.field = h("label", { class: "field", hidden: true }, "What it returns", card.input);
    const head = h("div", { class: "call-head" }, icon("tool"), h("span", { class: "label" }, "Tool call"), card.name);
    this.calls.insertBefore(h("section", { class: "call", "aria-label": "Tool call" }, head, card.given, card.field, card.result), this.proceed ?? null);
    return card;
  }

  #sendResults() {
    this.actions.results(this.cards.map((card) => card.input.value));
  }
}

/** JSON as it is easiest to read; what is not whole yet as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;

function figures({ stats, finish }, running) {
  const parts = [];
  if (stats.tokens && !running) parts.push(stats.tokens === 1 ? "1 token" : `${stats.tokens.toLocaleString("en")} tokens`);
  if (stats.rate) parts.push(`${stats.rate < 10 ? stats.rate.toFixed(1) : Math.round(stats.rate).toLocaleString("en")} tokens/s`);
  if (stats.first !== undefined) parts.push(`first after ${stats.first < 1 ? stats.first.toFixed(2) : stats.first.toFixed(1)} s`);
  if (finish === "length") parts.push("cut off at the token limit");
  if (finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}
