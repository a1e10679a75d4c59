// What is sent beside the messages: sampling, thinking, the system prompt, tools. Kept in the browser, for all conversations.

import { $, setText } from "./dom.js";
import { loadSettings, saveSettings } from "./store.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];
const FORMS = ["settings", "tools"];

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
  {
    type: "function",
    function: {
      name: "set_timer",
      description: "Start a timer.",
      parameters: { type: "object", properties: { minutes: { type: "integer" } }, required: ["minutes"] },
    },
  },
];

export class Settings {
  constructor() {
    this.values = loadSettings();
    this.#fill();
    for (const form of FORMS) {
      $(form).addEventListener("input", () => this.#read());
      $(form).addEventListener("submit", (event) => event.preventDefault());
    }
    $("settings-reset").addEventListener("click", () => {
      const { model, tools, tools_on } = this.values;
      this.values = { model, tools, tools_on };
      this.#fill();
      saveSettings(this.values);
    });
    $("tools-example").addEventListener("click", () => {
      $("tools").elements.tools.value = JSON.stringify(EXAMPLE, null, 2);
      $("tools").elements.tools_on.checked = true;
      this.#read();
    });
  }

  get model() {
    return this.values.model ?? "";
  }

  set model(name) {
    this.values.model = name;
    saveSettings(this.values);
  }

  get system() {
    return this.values.system ?? "";
  }

  /** The fields of a chat completion, without the messages. Throws an Error for what can't be sent. */
  toRequest() {
    const { values } = this;
    if (!this.model) throw new Error("Choose a model first.");
    const body = { model: this.model };
    for (const name of NUMBERS) {
      if (!$("settings").elements[name].checkValidity()) throw new Error(`${name} is out of range: see Settings.`);
      if (values[name]) body[name] = Number(values[name]);
    }
    if (values.thinking === "off") body.reasoning_effort = "none";
    else if (values.reasoning_effort) body.reasoning_effort = values.reasoning_effort;
    if (values.thinking === "on") body.chat_template_kwargs = { enable_thinking: true };
    if (values.tools_on) {
      const tools = parseTools(values.tools ?? "");
      if (tools.length) body.tools = tools;
    }
    return body;
  }

  #fields() {
    return FORMS.flatMap((form) => [...$(form).elements]).filter((field) => field.name);
  }

  #fill() {
    for (const field of this.#fields()) {
      if (field.type === "checkbox") field.checked = Boolean(this.values[field.name]);
      else field.value = this.values[field.name] ?? "";
    }
    this.#check();
  }

  #read() {
    for (const field of this.#fields()) this.values[field.name] = field.type === "checkbox" ? field.checked : field.value;
    saveSettings(this.values);
    this.#check();
  }

  #check() {
    let problem = "";
    try {
      if (this.values.tools) parseTools(this.values.tools);
    } catch (error) {
      problem = error.message;
    }
    setText($("tools-error"), problem);
    $("tools").elements.tools.setAttribute("aria-invalid", String(Boolean(problem)));
    $("settings").elements.reasoning_effort.disabled = this.values.thinking === "off";
  }
}

function parseTools(text) {
  if (!text.trim()) return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`The tools are not JSON: ${error.message}`, { cause: error });
  }
  if (!Array.isArray(tools)) throw new Error("The tools must be a list: [ … ].");
  return tools;
}
