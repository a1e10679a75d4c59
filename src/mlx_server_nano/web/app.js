// The page: what belongs to no single part of it, and how the parts hear of each other.

import { key } from "./api.js";
import { ConversationView, conversationItem } from "./conversation.js";
import { $, h, iconButton, setText } from "./dom.js";
import { ModelPicker } from "./models.js";
import { Settings } from "./settings.js";
import { StatusView } from "./status.js";
import { conversations, deleteConversation, newConversation, restoreConversation } from "./store.js";

const THEME = "mlx-server-nano:theme";
const THEMES = ["system", "light", "dark"];
const TABS = ["settings", "tools", "status"];
const SUGGESTIONS = ["Hello, what can you do?", "What is 456 + 789?", "Count from 1 to 10."];
const narrow = matchMedia("(max-width: 60rem)");
const touch = matchMedia("(pointer: coarse)");
const isMac = /Mac|iPhone|iPad/.test(navigator.platform);

const settings = new Settings();
const picker = new ModelPicker({ settings, failed, loaded: () => $("prompt").focus() });
const chat = new ConversationView({
  request: () => settings.toRequest(),
  system: () => settings.system,
  waiting: (model) => picker.waiting(model),
  failed,
  changed: drawConversations,
  announce: (text) => setText($("announce"), text),
});
const status = new StatusView({ took: (told) => picker.take(told), failed });

function failed(error) {
  if (error.status === 401) askForKey(error.message);
  else toast(error.message);
}

// Toasts

let toastTimer = 0;

function toast(text, action = null) {
  clearTimeout(toastTimer);
  const close = () => ($("toast").hidden = true);
  const button = action && h("button", { type: "button", onclick: () => (close(), action.run()) }, action.label);
  $("toast").replaceChildren(h("span", {}, text), button ?? "");
  $("toast").hidden = false;
  toastTimer = setTimeout(close, 6000);
}

// The key

function askForKey(problem = "") {
  if ($("key-dialog").open) return;
  setText($("key-problem"), problem && key.get() ? problem : "This server wants a key. It is sent to this server only.");
  $("key-input").value = key.get();
  $("key-remember").checked = key.isRemembered();
  $("key-dialog").showModal();
  $("key-input").focus();
}

$("key-open").addEventListener("click", () => askForKey());
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-form").addEventListener("submit", () => {
  key.set($("key-input").value.trim(), $("key-remember").checked);
  picker.refresh();
  status.show(status.visible);
});

// Conversations

function drawConversations() {
  const removeButton = (conversation, title) => iconButton("trash", `Delete ${title}`, () => remove(conversation));
  const items = conversations().map((found) => conversationItem(found, found.id === chat.conversation.id, { open, removeButton }));
  $("conversations").replaceChildren(...items);
}

function open(conversation) {
  chat.show(conversation);
  drawConversations();
  closeSide();
  $("prompt").focus();
}

function remove(conversation) {
  deleteConversation(conversation.id);
  if (conversation.id === chat.conversation.id) chat.show(newConversation());
  drawConversations();
  const undo = () => {
    restoreConversation(conversation);
    open(conversation);
  };
  toast("The conversation was deleted.", { label: "Undo", run: undo });
}

// The message box

function grow() {
  const prompt = $("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch.matches) {
    event.preventDefault();
    if (!chat.busy) $("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !$("prompt").value && !chat.busy) {
    event.preventDefault();
    chat.editLast();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value;
  if (!text.trim() || chat.busy) return;
  $("prompt").value = "";
  grow();
  chat.send(text);
});
$("stop").addEventListener("click", () => {
  chat.stop();
  $("prompt").focus();
});
$("latest").addEventListener("click", () => chat.toLatest());
$("suggestions").append(...SUGGESTIONS.map((text) => h("button", { type: "button", onclick: () => chat.send(text) }, text)));

// The sides: beside the conversation where there is room, else above it

function closeSide() {
  document.body.classList.remove("side-open");
}

function showPanel(visible) {
  $("panel").hidden = !visible;
  document.body.classList.toggle("panel-open", visible);
  $("panel-toggle").setAttribute("aria-expanded", String(visible));
  status.show(visible && !$("status").hidden);
  if (visible) $("panel").querySelector('[aria-selected="true"]').focus();
}

function showTab(name) {
  for (const other of TABS) {
    const tab = $(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    $(other).hidden = other !== name;
  }
  status.show(name === "status" && !$("panel").hidden);
}

for (const [index, name] of TABS.entries()) {
  const tab = $(`tab-${name}`);
  tab.addEventListener("click", () => showTab(name));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS[(index + step + TABS.length) % TABS.length];
    showTab(next);
    $(`tab-${next}`).focus();
  });
}
$("panel-toggle").addEventListener("click", () => showPanel($("panel").hidden));
$("panel-close").addEventListener("click", () => {
  showPanel(false);
  $("panel-toggle").focus();
});
$("side-toggle").addEventListener("click", () => {
  document.body.classList.toggle(narrow.matches ? "side-open" : "side-hidden");
  if (narrow.matches) $("side-close").focus();
});
$("side-close").addEventListener("click", () => {
  closeSide();
  $("side-toggle").focus();
});
$("shade").addEventListener("click", () => {
  closeSide();
  showPanel(false);
});

// The theme

function nextTheme() {
  const now = localStorage.getItem(THEME) ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "system") {
    localStorage.removeItem(THEME);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(THEME, next);
    document.documentElement.dataset.theme = next;
  }
  showTheme(next);
}

function showTheme(name) {
  const label = `Theme: ${name}`;
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
  setText($("theme-phone"), label);
}

showTheme(localStorage.getItem(THEME) ?? "system");
for (const id of ["theme", "theme-phone"]) $(id).addEventListener("click", nextTheme);

// The keyboard

const help = () => $("help-dialog").showModal();
for (const id of ["help-open", "help-phone"]) $(id).addEventListener("click", help);
if (isMac) for (const mod of document.querySelectorAll(".mod")) mod.textContent = "⌘";

const startNew = () => open(newConversation());
$("new").addEventListener("click", startNew);

const SHORTCUTS = { k: startNew, j: () => picker.open(), ".": () => showPanel($("panel").hidden), "/": help };

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open], [popover]:popover-open")) {
    if (chat.busy) chat.stop();
    else if (document.body.classList.contains("side-open")) closeSide();
    else if (!$("panel").hidden) showPanel(false);
    else return;
    $("prompt").focus();
  } else if ((isMac ? event.metaKey : event.ctrlKey) && !event.altKey && !event.shiftKey && !document.querySelector("dialog[open]")) {
    const run = SHORTCUTS[event.key.toLowerCase()];
    if (!run) return;
    event.preventDefault();
    run();
  }
});

drawConversations();
picker.refresh();
if (!touch.matches) $("prompt").focus();
