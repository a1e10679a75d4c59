// The model picker: what the server has, any other name, and loading with progress.

import { getJson, postJson, postStream } from "./api.js";
import { $, h, icon, setText } from "./dom.js";

export const STATES = { downloading: "Downloading", loading: "Loading", ready: "Loaded", unloading: "Unloading" };

export const percent = (progress) => `${Math.floor(progress * 100)} %`;

/** A model's state in words, "Loading 40 %"; empty if it is not there. */
export function stateText(model) {
  if (!model) return "";
  const moving = model.state === "downloading" || model.state === "loading";
  return moving ? `${STATES[model.state]} ${percent(model.progress)}` : STATES[model.state];
}

/** options.settings; options.failed(error); options.loaded(): told when a model has been loaded. */
export class ModelPicker {
  #models = []; // as GET /v1/models lists them
  #status = new Map(); // id -> as GET /admin/status tells
  #shown = [];
  #active = 0;
  #load = null;

  constructor(options) {
    this.options = options;
    this.list = $("model-list");
    this.search = $("model-search");
    this.search.addEventListener("input", () => this.#draw());
    this.search.addEventListener("keydown", (event) => this.#key(event));
    $("models").addEventListener("beforetoggle", (event) => {
      $("model").setAttribute("aria-expanded", String(event.newState === "open"));
      if (event.newState !== "open") return;
      this.search.value = "";
      this.#draw();
      this.refresh();
    });
    this.#showName();
  }

  open() {
    $("models").showPopover();
  }

  /** Asks the server anew. Without a choice yet, what is loaded or comes first is chosen. */
  async refresh() {
    try {
      const [models, status] = await Promise.all([getJson("v1/models"), getJson("admin/status")]);
      this.#models = models.data;
      this.take(status);
    } catch (error) {
      this.options.failed(error);
      return;
    }
    if (!this.options.settings.model) {
      const ready = [...this.#status.values()].find((model) => model.state === "ready");
      this.options.settings.model = ready?.id ?? this.#models[0]?.id ?? "";
    }
    this.#showName();
    this.#draw(this.#shown[this.#active]?.name);
  }

  /** A new answer of GET /admin/status. */
  take(status) {
    this.#status = new Map(status.models.map((model) => [model.id, model]));
    this.#showName();
  }

  /** The status of a model by any name that the list tells of. */
  status(name) {
    const listed = this.#models.find((model) => model.id === name);
    return this.#status.get(listed?.alias_of ?? name);
  }

  /** What an answer of the model waits for. */
  async waiting(name) {
    try {
      this.take(await getJson("admin/status"));
    } catch {
      return "";
    }
    const model = this.status(name);
    if (model?.waiting) return `Waiting in the queue, ${model.running} running`;
    return model && model.state !== "ready" ? stateText(model) : "";
  }

  async choose(name) {
    $("models").hidePopover();
    this.options.settings.model = name;
    this.#showName();
    await this.load(name);
  }

  async load(name) {
    this.#load?.abort();
    const abort = (this.#load = new AbortController());
    const label = h("span");
    const bar = h("progress", { max: "1", "aria-label": `Loading ${name}` });
    const cancel = h("button", { type: "button", onclick: () => this.#cancel(name) }, "Cancel");
    const show = setTimeout(() => this.#notice(label, bar, cancel), 150);
    setText(label, `Loading ${name}`);
    try {
      for await (const step of postStream("admin/load", { model: name }, abort.signal)) {
        if (step === null) continue;
        setText(label, `${STATES[step.state]} ${step.model}`);
        bar.value = step.progress;
        this.#status.set(step.model, { ...this.#status.get(step.model), id: step.model, ...step });
        this.#showName();
      }
      clearTimeout(show);
      this.#notice();
    } catch (error) {
      clearTimeout(show);
      if (error.name === "AbortError") return;
      if (error.status === 401) this.options.failed(error);
      const close = h("button", { type: "button", onclick: () => this.#notice() }, "Dismiss");
      this.#notice(h("span", { class: "problem" }, error.message), close);
      // The server may still be about to forget it.
      this.#status.delete(name);
      return this.#showName();
    }
    await this.refresh();
    return this.options.loaded();
  }

  /** Ends a load that is under way; its stream then tells of an error, which is no news. */
  async #cancel(name) {
    this.#load?.abort();
    this.#notice();
    await postJson("admin/unload", { model: name, force: true }).catch(this.options.failed);
    await this.refresh();
  }

  #notice(...nodes) {
    $("loading").replaceChildren(...nodes);
    $("loading").hidden = !nodes.length;
  }

  #showName() {
    const name = this.options.settings.model;
    const state = this.status(name);
    setText($("model-name"), name || "Choose a model");
    $("model").title = name;
    $("model-dot").dataset.state = state?.state ?? "";
    setText($("model-state"), state ? `, ${stateText(state)}` : "");
  }

  #draw(held = null) {
    const typed = this.search.value.trim();
    const wanted = typed.toLowerCase();
    const names = new Set([...this.#models.map((model) => model.id), ...this.#status.keys()]);
    const found = [...names].filter((name) => name.toLowerCase().includes(wanted));
    this.#shown = found.map((name) => ({ name, note: this.#note(name) }));
    if (typed && !names.has(typed)) this.#shown.push({ name: typed, note: "Find it by this name", other: true });
    const place = (name) => this.#shown.findIndex((option) => option.name === name);
    // The list may be drawn anew while somebody moves in it.
    this.#active = Math.max(0, place(held) >= 0 ? place(held) : typed ? 0 : place(this.options.settings.model));
    this.list.replaceChildren(
      ...this.#shown.map((option, index) =>
        h(
          "li",
          { role: "option", id: `model-${index}`, "aria-selected": String(index === this.#active), onclick: () => this.choose(option.name) },
          option.other ? icon("plus") : h("span", { class: "dot", "data-state": this.status(option.name)?.state ?? "", "aria-hidden": "true" }),
          h("span", { class: "option-name" }, option.name),
          h("span", { class: "option-note" }, option.note),
        ),
      ),
    );
    this.#mark();
  }

  #note(name) {
    const alias = this.#models.find((model) => model.id === name)?.alias_of;
    return [alias && `is ${alias}`, stateText(this.status(name))].filter(Boolean).join(" · ");
  }

  #mark() {
    for (const [index, item] of [...this.list.children].entries()) item.setAttribute("aria-selected", String(index === this.#active));
    const active = this.list.children[this.#active];
    this.search.setAttribute("aria-activedescendant", active?.id ?? "");
    active?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.#shown.length) {
      event.preventDefault();
      this.#active = (this.#active + step + this.#shown.length) % this.#shown.length;
      this.#mark();
    } else if (event.key === "Enter" && this.#shown[this.#active]) {
      event.preventDefault();
      this.choose(this.#shown[this.#active].name);
    }
  }
}
