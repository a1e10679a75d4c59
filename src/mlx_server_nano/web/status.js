// The status view: models, memory and rates, asked for every two seconds while somebody looks.

import { getJson, postJson } from "./api.js";
import { $, h, setText } from "./dom.js";
import { stateText } from "./models.js";

const INTERVAL = 2000;

export function bytes(count) {
  if (count < 1e6) return count ? `${Math.ceil(count / 1e3)} KB` : "none";
  return count < 1e9 ? `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB` : `${(count / 1e9).toFixed(count < 1e10 ? 2 : 1)} GB`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return seconds < 86400 ? `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min` : `${Math.floor(seconds / 86400)} d`;
}

const perSecond = (rate) => `${rate > 0 && rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en")} tokens/s`;

/** options.took(status): told of each answer. options.failed(error). */
export class StatusView {
  #timer = 0;
  #last = null;
  #cards = new Map();

  constructor(options) {
    this.options = options;
    this.server = h("p", { class: "hint" });
    this.memory = h("span");
    this.bar = h("progress", { "aria-label": "Memory of all models", max: "1", value: "0" });
    this.problem = h("p", { class: "problem", role: "alert" });
    this.models = h("div");
    this.none = h("p", { class: "hint" }, "No model is loaded.");
    const head = h("h2", {}, "Memory", this.memory);
    $("status").append(this.problem, head, this.bar, h("h2", {}, "Models"), this.none, this.models, this.server);
    document.addEventListener("visibilitychange", () => this.#again());
  }

  /** Polls from now on, or no more. */
  show(visible) {
    this.visible = visible;
    this.#last = visible ? this.#last : null;
    this.#again();
  }

  #again() {
    clearTimeout(this.#timer);
    if (this.visible && document.visibilityState === "visible") this.#poll();
  }

  async #poll() {
    clearTimeout(this.#timer);
    try {
      const status = await getJson("admin/status");
      setText(this.problem, status.reason ?? "");
      this.#draw(status);
      this.#last = status;
      this.options.took(status);
    } catch (error) {
      setText(this.problem, error.message);
      if (error.status === 401) return this.options.failed(error);
    }
    clearTimeout(this.#timer);
    if (this.visible) this.#timer = setTimeout(() => this.#again(), INTERVAL);
  }

  #draw(status) {
    const { limit_bytes: limit, used_bytes: used } = status.memory;
    setText(this.memory, `${bytes(used)} of ${bytes(limit)}`);
    this.bar.value = limit ? used / limit : 0;
    setText(this.server, [`Version ${status.version}`, status.device, `up ${duration(status.uptime_seconds)}`].filter(Boolean).join(" · "));
    this.none.hidden = status.models.length > 0;
    for (const [id, card] of this.#cards) {
      if (status.models.every((model) => model.id !== id)) {
        card.element.remove();
        this.#cards.delete(id);
      }
    }
    for (const model of status.models) {
      const card = this.#cards.get(model.id) ?? this.#card(model.id);
      this.#fill(card, model, this.#rates(status, model));
    }
  }

  /** Tokens a second between this answer and the last; null before there are two. */
  #rates(status, model) {
    const before = this.#last?.models.find((old) => old.id === model.id);
    const seconds = status.uptime_seconds - (this.#last?.uptime_seconds ?? 0);
    if (!before || seconds <= 0) return null;
    const rate = (name) => Math.max(0, model[name] - before[name]) / seconds;
    return { prompt: rate("prompt_tokens") - rate("cached_tokens"), generated: rate("generated_tokens") };
  }

  #card(id) {
    const card = {
      dot: h("span", { class: "dot", "aria-hidden": "true" }),
      state: h("span", { class: "label" }),
      bar: h("progress", { max: "1", "aria-label": `Progress of ${id}` }),
      list: h("dl"),
      rows: new Map(),
      unload: h("button", { type: "button", onclick: () => this.#unload(id, card) }, "Unload"),
    };
    const head = h("div", { class: "card-head" }, card.dot, h("h3", {}, id), card.state);
    card.element = h("section", { class: "card", "aria-label": id }, head, card.bar, card.list, h("div", { class: "row" }, card.unload));
    this.models.append(card.element);
    this.#cards.set(id, card);
    return card;
  }

  #fill(card, model, rates) {
    const moving = model.state === "downloading" || model.state === "loading";
    const { prompt_tokens: prompt, cached_tokens: cached } = model;
    card.model = model;
    card.dot.dataset.state = model.state;
    setText(card.state, model.pinned ? `${stateText(model)}, pinned` : stateText(model));
    card.bar.hidden = !moving;
    card.bar.value = model.progress;
    setText(card.unload, moving ? "Cancel" : card.sure ? "Unload, and end its requests" : "Unload");
    card.unload.disabled = model.state === "unloading";
    const rows = {
      Requests: `${model.running} running, ${model.waiting} waiting`,
      Memory: bytes(model.memory_bytes),
      "KV caches": `${bytes(model.kv_bytes)} in use, ${bytes(model.prefix_cache_bytes)} kept`,
      Context: model.context_length ? `${model.context_length.toLocaleString("en")} tokens` : "",
      Writes: rates && model.state === "ready" ? perSecond(rates.generated) : "",
      Reads: rates && model.state === "ready" ? perSecond(rates.prompt) : "",
      "From cache": prompt ? `${Math.round((100 * cached) / prompt)} % of prompts` : "",
      "Unloads in": model.idle_seconds_left === null ? "" : duration(model.idle_seconds_left),
    };
    for (const [name, text] of Object.entries(rows)) {
      let row = card.rows.get(name);
      if (!row) {
        row = h("div", {}, h("dt", {}, name), h("dd"));
        card.rows.set(name, row);
        card.list.append(row);
      }
      row.hidden = !text;
      setText(row.lastChild, text);
    }
  }

  /** One that is in use is asked about once more. */
  async #unload(id, card) {
    const force = Boolean(card.sure) || card.model.state !== "ready";
    card.unload.disabled = true;
    try {
      await postJson("admin/unload", { model: id, force });
    } catch (error) {
      if (error.status === 409) card.sure = true;
      else this.options.failed(error);
    }
    await this.#poll();
  }
}
