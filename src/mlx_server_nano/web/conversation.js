// The open conversation: its messages on the page, sending, stopping, going back.

import { $, h } from "./dom.js";
import { generate, newAnswer, toWire } from "./generate.js";
import { AnswerView, UserView } from "./message.js";
import { newConversation, saveConversation } from "./store.js";

const NEAR = 48; // pixels from the end that still count as being there

/**
 * options.request(): the fields of a request beside its messages; throws an Error for what can't be sent. options.system(): the system
 * prompt. options.waiting(model): what an answer waits for, in words. options.failed(error): told of what does not belong to an
 * answer. options.changed(): the list of conversations is to be drawn anew. options.announce(text): for screen readers.
 */
export class ConversationView {
  #views = [];
  #abort = null;
  #stick = true;
  #frame = 0;

  constructor(options) {
    this.options = options;
    this.scroll = $("scroll");
    this.scroll.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => this.#follow()).observe($("messages"));
    new ResizeObserver(() => this.#follow()).observe(this.scroll);
    addEventListener("pagehide", () => this.busy && saveConversation(this.conversation));
    this.show(newConversation());
  }

  get busy() {
    return this.#abort !== null;
  }

  show(conversation) {
    this.stop();
    this.conversation = conversation;
    this.#stick = true;
    this.#draw();
  }

  send(text) {
    this.#say([{ role: "user", content: text }]);
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
    this.#busyChanged();
  }

  editLast() {
    this.#views.findLast((view) => view instanceof UserView)?.edit();
  }

  /** Messages from the `index`th on make way for these, and an answer follows. */
  #say(messages, index = this.conversation.messages.length) {
    this.stop();
    this.conversation.messages.splice(index, Infinity, ...messages);
    this.#stick = true;
    this.#draw();
    this.#answer();
  }

  async #answer() {
    const { conversation, options } = this;
    let body;
    try {
      body = options.request();
    } catch (problem) {
      options.failed(problem);
      return;
    }
    const answer = newAnswer(body.model);
    body = { ...body, messages: toWire(conversation.messages, options.system()), stream: true, stream_options: { include_usage: true } };
    this.#save(conversation);
    conversation.messages.push(answer);
    const abort = (this.#abort = new AbortController());
    this.#draw();
    this.#busyChanged();
    options.announce("Answering");
    let waiting = "";
    const timer = setInterval(async () => {
      if (answer.stats.first !== undefined) clearInterval(timer);
      else waiting = await options.waiting(body.model);
      this.#refresh(answer, waiting);
    }, 700);
    try {
      await generate(body, answer, abort.signal, () => this.#refresh(answer, waiting));
    } catch (error) {
      if (error.name === "AbortError") answer.finish = "stopped";
      else {
        answer.error = error.message;
        if (error.status === 401) options.failed(error);
      }
    } finally {
      clearInterval(timer);
      if (this.#abort === abort) this.#abort = null;
      this.#save(conversation);
      if (this.conversation === conversation) this.#updateAll();
      this.#busyChanged();
      options.announce(answer.error ?? (answer.calls.length ? "The model calls a tool." : answer.content));
    }
  }

  #save(conversation) {
    if (!saveConversation(conversation)) this.options.failed(new Error("The browser has no room left: delete some conversations."));
    this.options.changed();
  }

  #draw() {
    const { messages } = this.conversation;
    this.#views = messages.map((message, index) => {
      if (message.role === "user") return new UserView(message, { edit: (text) => this.#say([{ role: "user", content: text }], index) });
      if (message.role === "tool") return null;
      return new AnswerView(message, {
        again: () => this.#say([], index),
        results: (texts) =>
          this.#say(message.calls.map((call, at) => ({ role: "tool", tool_call_id: call.id, content: texts[at] ?? "" })), index + 1),
      });
    });
    $("messages").replaceChildren(...this.#views.filter(Boolean).map((view) => view.element));
    $("empty").hidden = messages.length > 0;
    document.body.classList.toggle("is-empty", messages.length === 0);
    this.#updateAll();
  }

  #updateAll() {
    for (const view of this.#views) if (view instanceof AnswerView) this.#update(view, "");
    this.#follow();
  }

  #update(view, waiting) {
    const { messages } = this.conversation;
    const index = messages.indexOf(view.message);
    const results = [];
    for (let at = index + 1; messages[at]?.role === "tool"; at += 1) results.push(messages[at].content);
    const last = index === messages.length - 1;
    view.update({ running: last && this.busy, waiting, last, results });
  }

  /** At most once for each frame that is drawn. */
  #refresh(answer, waiting) {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      const view = this.#views.at(-1);
      if (view?.message === answer && this.busy) this.#update(view, waiting);
    });
  }

  #busyChanged() {
    $("stop").hidden = !this.busy;
    $("send").hidden = this.busy;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    this.#stick = scrollHeight - clientHeight - scrollTop < NEAR;
    $("latest").hidden = this.#stick;
  }

  #follow() {
    if (this.#stick) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** To the end, and on with what is written there. */
  toLatest() {
    this.#stick = true;
    this.#follow();
  }
}

/** One line of the list of conversations. actions.open(conversation); actions.removeButton(conversation, title) makes a button. */
export function conversationItem(conversation, current, actions) {
  const title = conversation.title || "New chat";
  return h(
    "li",
    { class: current ? "current" : null },
    h("button", { type: "button", class: "open", "aria-current": current ? "true" : null, title, onclick: () => actions.open(conversation) }, title),
    actions.removeButton(conversation, title),
  );
}
